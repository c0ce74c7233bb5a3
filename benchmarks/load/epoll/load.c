/*
 * The load of the benchmarks: one epoll loop, N connections to 127.0.0.1, on the
 * wire of package peers. What each mode sends is said in its file:
 *
 *	core.c    options, connections, clocks, the loop
 *	frames.c  content, and how it is compared
 *	idle.c    heartbeats
 *	echo.c    frames that come back
 *	open.c    the same at a fixed rate, and how long they take
 *	group.c   messages that go to many: room and broadcast
 *	churn.c   connections that come and go
 *
 * Every byte that comes back is compared with what was sent: a frame's content
 * follows from its connection and its number, so a lost, doubled, reordered or
 * damaged frame is an error, and so is a frame that reached another connection.
 *
 * Connections are opened in batches, each of which must have a heartbeat
 * answered before the next batch starts: no accept queue overflows, and every
 * connection is known to be served before anything is measured.
 *
 * It works in windows, so that several servers can be loaded in turn while all of
 * them, and their loads, stay as they are. After the warm-up, which is a window
 * that nobody hears of, it prints "ready". Then each line on standard input is the
 * length of a window in seconds, and is answered by one line of JSON. A window
 * begins by sending as much as may be under way, which is kept up for a fifth of
 * the window's length before counters and clocks are read, and until they are read
 * again at its end. Then nothing more is sent, and what is under way is awaited
 * and compared: between windows the server has nothing to do. Heartbeats alone,
 * which are nothing but a pace, go on between windows if that is wanted.
 *
 * The CPU clock of the server process (-P) is read here, at the very instants
 * at which the counters are, so that the window of both is the same.
 *
 * The end of standard input ends it. The exit status says whether all went well
 * until then. Everything has a limit in time: an alarm ends the process.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core.c"
#include "frames.c"
#include "idle.c"
#include "echo.c"
#include "open.c"
#include "group.c"
#include "churn.c"

/* With more connections than this from one address the kernel's search for a free
 * port becomes long. */
enum { PER_SOURCE = 5000 };

static void open_all(void)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	double limit = now() + CONNECT_LIMIT;
	for (int i = 0; i < opt.conns; i++) {
		struct conn *c = &conns[i];
		c->id = (uint32_t)i;
		/* connect blocks, so that its error is known here; the rest does not. */
		c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (c->fd < 0)
			fail("socket %d of %d: %s", i, opt.conns, strerror(errno));
		come_from(c, (uint32_t)i / PER_SOURCE);
		if (connect(c->fd, (struct sockaddr *)&addr, sizeof addr) < 0)
			fail("connect %d of %d: %s", i, opt.conns, strerror(errno));
		no_delay(c);
		if (fcntl(c->fd, F_SETFL, O_NONBLOCK) < 0)
			fail("O_NONBLOCK: %s", strerror(errno));
		listen_to(c, EPOLLIN);
		send_beat(c);
		if ((i + 1) % BATCH == 0 || i + 1 == opt.conns)
			while (beating > 0) {
				if (now() > limit)
					fail("%u of %d connections had no answer within %d s", beating, i + 1, CONNECT_LIMIT);
				turn(100);
			}
	}
}

static double spun; /* seconds of turns in which nothing happened */

/* One turn, which ends at that time at the latest. */
static void turn_until(double limit)
{
	double t = now(), wait = limit - t;
	if (mode->due != NULL && !ended) {
		double next = mode->due(t);
		if (next < wait)
			wait = next;
	}
	if (!mode->awake || !granting)
		turn(wait <= 0 ? 0 : wait < 0.1 ? (int)(wait * 1000) + 1 : 100);
	else if (turn(0) == 0 && wait > 0)
		spun += now() - t;
}

static void go_on_until(double limit)
{
	while (now() < limit)
		turn_until(limit);
}

static void go_on(double seconds) { go_on_until(now() + seconds); }

static void grant(void)
{
	granting = 1;
	if (mode->grant != NULL)
		mode->grant();
}

static void drain(void)
{
	double limit = now() + DRAIN_LIMIT;
	granting = 0;
	while (under_way > 0 || (opt.quiet && beating > 0)) {
		if (now() > limit)
			fail("%llu of what was under way did not come within %d s", under_way + beating, DRAIN_LIMIT);
		turn_until(limit);
	}
}

/* Counters and clocks, all read at one instant. */
struct mark {
	double at;
	unsigned long long counted, reads, writes;
	long long server, own, machine;
	double spun;
};

static struct mark mark(void)
{
	return (struct mark){now(), counted, reads, writes, server_cpu_ns(), cpu_ns(CLOCK_PROCESS_CPUTIME_ID), machine_ns(), spun};
}

static void report(struct mark a, struct mark b)
{
	printf("{\"mode\":\"%s\",\"conns\":%d,", mode->name, opt.conns);
	if (mode == &idle)
		printf("\"interval_s\":%g,", opt.interval);
	else
		printf("\"depth\":%d,\"payload\":%u,", opt.depth, opt.payload);
	if (mode->figures != NULL)
		mode->figures();
	long long idle_ns = (long long)((b.spun - a.spun) * 1e9);
	printf("\"warmup_s\":%g,\"seconds\":%.6f,\"messages\":%llu,\"reads\":%llu,\"writes\":%llu,"
	       "\"server_cpu_ns\":%lld,\"load_cpu_ns\":%lld,\"machine_cpu_ns\":%lld}\n",
	       opt.warmup, b.at - a.at, b.counted - a.counted, b.reads - a.reads, b.writes - a.writes,
	       b.server - a.server, b.own - a.own - idle_ns, b.machine - a.machine - idle_ns);
	fflush(stdout);
}

/* A busy machine may give the server nothing for a whole window, which is then
 * longer. */
static void await_first(unsigned long long before)
{
	double limit = now() + DRAIN_LIMIT;
	while (counted == before) {
		if (now() > limit)
			fail("nothing came back within %d s and a window", DRAIN_LIMIT);
		turn_until(limit);
	}
}

static void window(double seconds)
{
	double settled = mode->due == NULL || mode->span != NULL ? now() + seconds / 5 : 0;
	grant();
	go_on_until(settled);
	if (mode->whole) {
		drain();
		struct mark a = mark();
		grant();
		go_on(seconds);
		drain();
		report(a, mark());
		return;
	}
	struct mark a = mark();
	if (mode->span != NULL)
		mode->span(a.at, a.at + seconds);
	go_on(seconds);
	if (mode->span != NULL)
		mode->due(a.at + seconds); /* the load may have lost its processor at the end */
	await_first(a.counted);
	struct mark b = mark();
	drain();
	if (mode->span != NULL)
		b.counted = counted; /* with answers that came after the window */
	report(a, b);
}

static void serve_windows(void)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
	if (fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK) < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, STDIN_FILENO, &ev) < 0)
		fail("standard input: %s", strerror(errno));
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		alarm((unsigned)opt.hold + 5);
		for (double limit = now() + opt.hold; asked == 0 && !ended;) {
			if (now() > limit)
				fail("nothing on standard input within %g s", opt.hold);
			turn_until(limit);
		}
		if (asked == 0)
			break;
		alarm((unsigned)(2 * asked) + 3 * DRAIN_LIMIT + 5);
		window(asked);
		asked = 0;
	}
	turn(0); /* bad news that came with the end */
	for (double limit = now() + DRAIN_LIMIT; beating > 0; turn(100))
		if (now() > limit)
			fail("%u heartbeats were not answered within %d s", beating, DRAIN_LIMIT);
}

static const struct mode *const modes[] = {&echo, &idle, &room, &broadcast, &churn, &open_loop};

static void usage(void)
{
	fputs("usage: load MODE -p PORT [-P server pid] [-c connections] [-w warm-up s] [-H longest wait for a window s]\n"
	      "  echo:            [-d depth] [-s payload bytes]\n"
	      "  idle:            [-i interval s] [-q: quiet between windows]\n"
	      "  room, broadcast: [-d messages under way in each room, or of all] [-s payload bytes] [-r members of a room]\n"
	      "  churn:           [-s payload bytes]; -c cycles are under way\n"
	      "  open:            [-R messages a second] [-s payload bytes]\n"
	      "Each line on standard input is the length of a window in seconds.\n",
	      stderr);
	exit(2);
}

static int plausible(void)
{
	int grouped = mode == &room || mode == &broadcast;
	int most = mode == &room ? opt.room : opt.conns;
	if (opt.port <= 0 || opt.port > 65535 || opt.conns <= 0 || opt.depth <= 0 || opt.payload < 1 ||
	    opt.payload > MAX_PAYLOAD || !(opt.warmup >= 0) || opt.warmup > 3600 || !(opt.interval > 0) ||
	    !(opt.hold > 0) || opt.hold > 3600 || !(opt.rate >= 1) || opt.rate > 1e7)
		return 0;
	if (mode == &room && (opt.room < 2 || opt.conns % opt.room != 0))
		return 0;
	return !grouped || (opt.payload >= STAMP && opt.depth <= most && opt.depth <= MAX_DEPTH);
}

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
		if (argc > 1 && strcmp(argv[1], modes[i]->name) == 0)
			mode = modes[i];
	if (mode == NULL)
		usage();
	argc--, argv++;
	for (int o; (o = getopt(argc, argv, "p:P:c:w:d:s:r:i:H:R:q")) != -1;)
		switch (o) {
		case 'p': opt.port = atoi(optarg); break;
		case 'P': opt.server = (pid_t)atoi(optarg); break;
		case 'c': opt.conns = atoi(optarg); break;
		case 'w': opt.warmup = atof(optarg); break;
		case 'd': opt.depth = atoi(optarg); break;
		case 's': opt.payload = (uint32_t)strtoul(optarg, NULL, 10); break;
		case 'r': opt.room = atoi(optarg); break;
		case 'i': opt.interval = atof(optarg); break;
		case 'q': opt.quiet = 1; break;
		case 'R': opt.rate = atof(optarg); break;
		case 'H': opt.hold = atof(optarg); break;
		default: usage();
		}
	if (optind != argc || !plausible())
		usage();

	signal(SIGPIPE, SIG_IGN);
	alarm((unsigned)(2 * CONNECT_LIMIT + opt.warmup) + DRAIN_LIMIT + 5);
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}

	frame = HEADER + opt.payload;
	conns = calloc((size_t)opt.conns, sizeof *conns);
	ep = epoll_create1(EPOLL_CLOEXEC);
	if (conns == NULL || ep < 0)
		fail("start: %s", strerror(errno));
	make_content();

	if (!mode->opens)
		open_all();
	if (mode->start != NULL)
		mode->start();
	grant();
	go_on(opt.warmup);
	drain();
	serve_windows();
	return 0;
}
