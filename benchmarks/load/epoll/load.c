/*
 * The load for echo and idle measurements: one epoll loop, N connections to
 * 127.0.0.1, on the wire of peers/cfloor/floor.c.
 *
 * echo: every connection keeps DEPTH frames under way. What comes back is
 * compared byte for byte with what was sent: a frame's content follows from
 * its connection and its number, so a lost, doubled, reordered or damaged
 * frame is an error, and so is a frame that reached another connection.
 * Counting starts after the warm-up; the frames still under way at the end are
 * awaited and compared too.
 *
 * idle: every connection sends one empty frame per interval, the connections'
 * beats spread evenly over it, and must have its answer before its next beat.
 *
 * The CPU clock of the server process (-P) is read here, at the very instants
 * at which the counters are, so that the window of both is the same.
 *
 * Connections are opened in batches, each of which must have a heartbeat
 * answered before the next batch starts: no accept queue overflows, and every
 * connection is known to be served before anything is measured.
 *
 * Prints one line of JSON when the window has ended. In idle mode the
 * connections and their beats then go on until standard input ends, so that
 * the server's memory can be looked at; the exit status says whether all went
 * well until then. Everything has a limit in time: an alarm ends the process.
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

enum {
	HEADER = 4,
	STAMP = 8, /* the first bytes of a payload name connection and frame */
	HEAD = HEADER + STAMP,
	MAX_PAYLOAD = 1 << 20,
	PHASES = 4096, /* how far frames' contents are shifted against each other */
	READ_SIZE = 64 << 10,
	WRITE_SIZE = 256 << 10,
	EVENTS = 1024,
	BATCH = 128,
	CONNECT_LIMIT = 30, /* seconds */
	DRAIN_LIMIT = 5,    /* seconds */
};

struct conn {
	int fd;
	uint32_t id;
	uint32_t beat;    /* bytes of a heartbeat's answer still to come */
	uint32_t credit;  /* frames to be written, the one begun included */
	uint32_t rseq, rpos; /* the frame being received, and how much of it is in */
	uint32_t wseq, wpos; /* the frame being written, and how much of it is out */
	uint32_t want_write;
};

static struct {
	int idle, port, conns, depth;
	uint32_t payload;
	double warmup, seconds, interval, hold;
	unsigned long long messages; /* end of the window by count instead of time */
	pid_t server;
} opt = {.conns = 1000, .depth = 4, .payload = 64, .warmup = 0.5, .seconds = 2, .interval = 10, .hold = 60};

static int ep;
static struct conn *conns;
static uint32_t frame; /* bytes of one frame */
static unsigned char *content;
static unsigned char in[READ_SIZE], out[WRITE_SIZE];
static unsigned long long granted, received, reads, writes, answers;
static uint32_t beating; /* heartbeats not answered yet */
static int granting = 1;

static void fail(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fputs("load: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static long long cpu_ns(clockid_t clock)
{
	struct timespec t;
	if (clock_gettime(clock, &t) < 0)
		fail("CPU clock of process %d: %s", (int)opt.server, strerror(errno));
	return (long long)t.tv_sec * 1000000000LL + t.tv_nsec;
}

static long long server_cpu_ns(void)
{
	clockid_t clock;
	if (opt.server == 0)
		return 0;
	int err = clock_getcpuclockid(opt.server, &clock);
	if (err != 0)
		fail("CPU clock of process %d: %s", (int)opt.server, strerror(err));
	return cpu_ns(clock);
}

/* What all processors were busy with, by the kernel's ticks. What is left of it
 * without server and load tells whether a measurement was disturbed. */
static long long machine_ns(void)
{
	long long user = 0, nice = 0, system = 0, idle, iowait, irq = 0, softirq = 0, steal = 0;
	FILE *f = fopen("/proc/stat", "r");
	if (f == NULL || fscanf(f, "cpu %lld %lld %lld %lld %lld %lld %lld %lld", &user, &nice, &system,
	                        &idle, &iowait, &irq, &softirq, &steal) != 8)
		fail("/proc/stat: %s", strerror(errno));
	fclose(f);
	return (user + nice + system + irq + softirq + steal) * (1000000000LL / sysconf(_SC_CLK_TCK));
}

static void watch(struct conn *c, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = c};
	if (epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev) < 0)
		fail("epoll_ctl: %s", strerror(errno));
}

/* The header and stamp of a frame, and where the rest of its content begins. */
static const unsigned char *head(const struct conn *c, uint32_t seq, unsigned char h[HEAD])
{
	uint32_t n = htonl(opt.payload), id = htonl(c->id), s = htonl(seq);
	memcpy(h, &n, 4);
	memcpy(h + 4, &id, 4);
	memcpy(h + 8, &s, 4);
	return content + (c->id * 31 + seq) % PHASES;
}

/* A payload shorter than a stamp carries the end of it, the number's low bytes. */
static uint32_t head_len(unsigned char h[HEAD])
{
	if (opt.payload >= STAMP)
		return HEAD;
	memmove(h + HEADER, h + HEAD - opt.payload, opt.payload);
	return HEADER + opt.payload;
}

/* Bytes pos to pos+n of a frame are written to `to`, or compared with it. */
static int piece(const struct conn *c, uint32_t seq, uint32_t pos, unsigned char *to, uint32_t n, int compare)
{
	unsigned char h[HEAD];
	const unsigned char *body = head(c, seq, h);
	uint32_t hl = head_len(h);
	if (pos < hl) {
		uint32_t m = hl - pos < n ? hl - pos : n;
		if (!compare)
			memcpy(to, h + pos, m);
		else if (memcmp(to, h + pos, m) != 0)
			return 0;
		pos += m;
		to += m;
		n -= m;
	}
	if (compare)
		return memcmp(to, body + pos, n) == 0;
	memcpy(to, body + pos, n);
	return 1;
}

static void send_frames(struct conn *c)
{
	while (c->credit > 0) {
		uint32_t n = 0, pos = c->wpos, seq = c->wseq;
		for (uint32_t k = c->credit; k > 0 && n < WRITE_SIZE; k--) {
			uint32_t m = frame - pos < WRITE_SIZE - n ? frame - pos : WRITE_SIZE - n;
			piece(c, seq, pos, out + n, m, 0);
			n += m;
			pos = 0;
			seq++;
		}
		ssize_t w = write(c->fd, out, n);
		writes++;
		if (w < 0) {
			if (errno != EAGAIN)
				fail("write on connection %u: %s", c->id, strerror(errno));
			w = 0;
		}
		uint64_t at = (uint64_t)c->wpos + (uint64_t)w;
		c->wseq += (uint32_t)(at / frame);
		c->credit -= (uint32_t)(at / frame);
		c->wpos = (uint32_t)(at % frame);
		if ((uint32_t)w < n) {
			if (!c->want_write) {
				c->want_write = 1;
				watch(c, EPOLLIN | EPOLLOUT);
			}
			return;
		}
	}
	if (c->want_write) {
		c->want_write = 0;
		watch(c, EPOLLIN);
	}
}

static ssize_t receive(struct conn *c)
{
	ssize_t n = read(c->fd, in, READ_SIZE);
	reads++;
	if (n == 0)
		fail("connection %u was closed by the server", c->id);
	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			fail("read on connection %u: %s", c->id, strerror(errno));
		return 0;
	}
	return n;
}

static void echo_event(struct conn *c, uint32_t events)
{
	uint32_t done = 0;
	ssize_t n = 0;
	if (events & ~(uint32_t)EPOLLOUT)
		n = receive(c);
	for (unsigned char *p = in; n > 0;) {
		if (c->rseq == c->wseq && c->rpos >= c->wpos)
			fail("connection %u received more than was sent", c->id);
		uint32_t m = frame - c->rpos < (uint32_t)n ? frame - c->rpos : (uint32_t)n;
		if (!piece(c, c->rseq, c->rpos, p, m, 1))
			fail("frame %u of connection %u came back altered", c->rseq, c->id);
		c->rpos += m;
		p += m;
		n -= m;
		if (c->rpos == frame) {
			c->rpos = 0;
			c->rseq++;
			done++;
		}
	}
	received += done;
	if (granting) {
		c->credit += done;
		granted += done;
	}
	send_frames(c);
}

static void send_beat(struct conn *c)
{
	static const unsigned char empty[HEADER];
	if (c->beat > 0)
		fail("connection %u: a heartbeat was not answered within an interval", c->id);
	if (write(c->fd, empty, HEADER) != HEADER)
		fail("heartbeat on connection %u: %s", c->id, strerror(errno));
	c->beat = HEADER;
	beating++;
	writes++;
}

static void beat_event(struct conn *c)
{
	ssize_t n = receive(c);
	for (ssize_t i = 0; i < n; i++) {
		if (in[i] != 0)
			fail("connection %u: a heartbeat was answered by a frame with content", c->id);
		if (c->beat == 0)
			fail("connection %u: an empty frame that nobody asked for", c->id);
		if (--c->beat == 0) {
			beating--;
			answers++;
		}
	}
}

/* Events of standard input carry a NULL; that it ended is all it can say. */
static int ended;

static void turn(int timeout_ms)
{
	static struct epoll_event events[EVENTS];
	int n = epoll_wait(ep, events, EVENTS, timeout_ms);
	if (n < 0 && errno != EINTR)
		fail("epoll_wait: %s", strerror(errno));
	for (int i = 0; i < n; i++) {
		struct conn *c = events[i].data.ptr;
		if (c == NULL)
			ended = 1;
		else if (c->beat > 0 || opt.idle)
			beat_event(c);
		else
			echo_event(c, events[i].events);
	}
}

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
		if (connect(c->fd, (struct sockaddr *)&addr, sizeof addr) < 0)
			fail("connect %d of %d: %s", i, opt.conns, strerror(errno));
		int one = 1;
		if (setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0)
			fail("TCP_NODELAY: %s", strerror(errno));
		if (fcntl(c->fd, F_SETFL, O_NONBLOCK) < 0)
			fail("O_NONBLOCK: %s", strerror(errno));
		struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
		if (epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev) < 0)
			fail("epoll_ctl: %s", strerror(errno));
		send_beat(c);
		if ((i + 1) % BATCH == 0 || i + 1 == opt.conns)
			while (beating > 0) {
				if (now() > limit)
					fail("%u of %d connections had no answer within %d s", beating, i + 1, CONNECT_LIMIT);
				turn(100);
			}
	}
}

/* Counters and clocks, all read at one instant. */
struct mark {
	double at;
	unsigned long long received, answers, reads, writes;
	long long server, own, machine;
};

static struct mark mark(void)
{
	return (struct mark){now(), received, answers, reads, writes, server_cpu_ns(), cpu_ns(CLOCK_PROCESS_CPUTIME_ID),
	                     machine_ns()};
}

static void report(struct mark a, struct mark b)
{
	unsigned long long messages = opt.idle ? b.answers - a.answers : b.received - a.received;
	printf("{\"mode\":\"%s\",\"conns\":%d,\"depth\":%d,\"payload\":%u,\"interval_s\":%g,\"warmup_s\":%g,"
	       "\"seconds\":%.6f,\"messages\":%llu,\"reads\":%llu,\"writes\":%llu,"
	       "\"server_cpu_ns\":%lld,\"load_cpu_ns\":%lld,\"machine_cpu_ns\":%lld}\n",
	       opt.idle ? "idle" : "echo", opt.conns, opt.idle ? 0 : opt.depth, opt.idle ? 0 : opt.payload,
	       opt.idle ? opt.interval : 0, opt.warmup, b.at - a.at, messages, b.reads - a.reads,
	       b.writes - a.writes, b.server - a.server, b.own - a.own,
	       b.machine - a.machine);
	fflush(stdout);
}

static void run_echo(void)
{
	for (int i = 0; i < opt.conns; i++) {
		conns[i].credit = (uint32_t)opt.depth;
		granted += (unsigned long long)opt.depth;
		send_frames(&conns[i]);
	}
	double limit = now() + opt.warmup;
	while (now() < limit)
		turn(100);

	struct mark a = mark();
	limit = a.at + opt.seconds;
	if (opt.messages > 0)
		while (received - a.received < opt.messages) {
			if (now() > limit)
				fail("%llu of %llu messages within %g s", received - a.received, opt.messages, opt.seconds);
			turn(100);
		}
	else
		while (now() < limit)
			turn(100);
	struct mark b = mark();

	granting = 0;
	limit = b.at + DRAIN_LIMIT;
	while (received < granted) {
		if (now() > limit)
			fail("%llu frames did not come back within %d s", granted - received, DRAIN_LIMIT);
		turn(100);
	}
	report(a, b);
}

/* Beat k of all falls at k times the interval over the number of connections,
 * and the connections take turns. */
static unsigned long long beats;

static void beat_until(double start, double end)
{
	double step = opt.interval / opt.conns;
	for (;;) {
		double t = now();
		if (t >= end || ended)
			return;
		while (start + step * (double)beats <= t)
			send_beat(&conns[beats++ % (unsigned)opt.conns]);
		double wait = start + step * (double)beats - t;
		if (wait > end - t)
			wait = end - t;
		turn(wait > 0 ? (int)(wait * 1000) + 1 : 0);
	}
}

static void run_idle(void)
{
	double start = now();
	beat_until(start, start + opt.warmup);
	struct mark a = mark();
	beat_until(start, a.at + opt.seconds);
	struct mark b = mark();
	report(a, b);

	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
	if (epoll_ctl(ep, EPOLL_CTL_ADD, STDIN_FILENO, &ev) == 0) {
		beat_until(start, b.at + opt.hold);
		if (!ended)
			fail("standard input did not end within %g s", opt.hold);
	}
	double limit = now() + DRAIN_LIMIT;
	while (beating > 0) {
		if (now() > limit)
			fail("%u heartbeats were not answered within %d s", beating, DRAIN_LIMIT);
		turn(100);
	}
}

static void usage(void)
{
	fputs("usage: load echo|idle -p PORT [-P server pid] [-c connections] [-w warm-up s] [-t window s]\n"
	      "  echo: [-d depth] [-s payload bytes] [-m messages, -t is then the limit]\n"
	      "  idle: [-i interval s] [-H longest hold after the window, s]\n",
	      stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	if (argc < 2 || (strcmp(argv[1], "echo") != 0 && strcmp(argv[1], "idle") != 0))
		usage();
	opt.idle = strcmp(argv[1], "idle") == 0;
	argc--, argv++;
	for (int o; (o = getopt(argc, argv, "p:P:c:w:t:d:s:m:i:H:")) != -1;)
		switch (o) {
		case 'p': opt.port = atoi(optarg); break;
		case 'P': opt.server = (pid_t)atoi(optarg); break;
		case 'c': opt.conns = atoi(optarg); break;
		case 'w': opt.warmup = atof(optarg); break;
		case 't': opt.seconds = atof(optarg); break;
		case 'd': opt.depth = atoi(optarg); break;
		case 's': opt.payload = (uint32_t)strtoul(optarg, NULL, 10); break;
		case 'm': opt.messages = strtoull(optarg, NULL, 10); break;
		case 'i': opt.interval = atof(optarg); break;
		case 'H': opt.hold = atof(optarg); break;
		default: usage();
		}
	if (optind != argc || opt.port <= 0 || opt.port > 65535 || opt.conns <= 0 || opt.depth <= 0 ||
	    opt.payload < 1 || opt.payload > MAX_PAYLOAD || !(opt.warmup >= 0) || !(opt.seconds > 0) ||
	    !(opt.interval > 0) || !(opt.hold >= 0) || opt.warmup + opt.seconds + opt.hold > 3600)
		usage();

	signal(SIGPIPE, SIG_IGN);
	alarm((unsigned)(CONNECT_LIMIT + opt.warmup + opt.seconds + opt.hold + DRAIN_LIMIT + 5));
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}

	frame = HEADER + opt.payload;
	conns = calloc((size_t)opt.conns, sizeof *conns);
	content = malloc(HEADER + MAX_PAYLOAD + PHASES);
	ep = epoll_create1(EPOLL_CLOEXEC);
	if (conns == NULL || content == NULL || ep < 0)
		fail("start: %s", strerror(errno));
	uint32_t x = 2463534242;
	for (size_t i = 0; i < HEADER + MAX_PAYLOAD + PHASES; i++) {
		x ^= x << 13, x ^= x >> 17, x ^= x << 5;
		content[i] = (unsigned char)x;
	}

	open_all();
	if (opt.idle)
		run_idle();
	else
		run_echo();
	return 0;
}
