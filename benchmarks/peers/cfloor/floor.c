/*
 * The floor: the least a correct single-threaded server can spend on this wire.
 *
 * Wire: a 4-byte big-endian payload length, then the payload. A frame with a
 * payload is echoed; an empty frame is a heartbeat and is answered by an empty
 * frame. A frame above 1 MiB ends its connection. Frames may arrive split at
 * any byte, and writes may be taken in part.
 *
 * One level-triggered epoll loop, one read and one write per event. The answer
 * to a complete frame is byte for byte that frame, so complete frames are
 * written back from where they were read: nothing can be left out of this
 * program without breaking one of the duties above, which is what makes it
 * the unit that the other servers are measured in.
 *
 * Room and broadcast (package peers says what they mean) are a loop of writes:
 * one write for each member and event, of all messages that came together. What
 * a member's kernel does not take waits for it, at most 64 MiB.
 *
 * An idle timeout is one list of all connections in the order in which they
 * were heard of. A read moves a connection to its end, and epoll_wait sleeps no
 * longer than until the first one is due. A connection owns what the list or
 * the rooms need only if it was asked for.
 *
 * Usage: floor [-work echo|room|broadcast] [-idle MILLISECONDS] PORT (0 picks
 * one). Prints "listening PORT". SIGUSR1 returns free memory to the system and
 * prints a JSON line; SIGTERM ends the program.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
	HEADER = 4,
	MAX_PAYLOAD = 1 << 20,
	READ_SIZE = 64 << 10,
	EVENTS = 1024,
	BACKLOG = 64 << 20, /* above what any load keeps under way */
	BUCKETS = 4096,     /* of rooms */
};

enum work { ECHO, ROOM, BROADCAST };

static enum work work;
static int64_t idle_ns; /* 0: connections may be silent for ever */

/* What a connection owns between events. An idle one owns no buffer. */
struct conn {
	int fd;
	uint32_t have;    /* bytes of a split frame: in `in`, or in `header` while `in` is NULL */
	uint32_t need;    /* size of `in`: the whole frame, header included */
	uint32_t out_pos; /* bytes of `out` already written */
	uint32_t out_len;
	unsigned char header[HEADER];
	unsigned char *in;  /* a split frame whose length is known */
	unsigned char *out; /* what the kernel did not take; nothing is read meanwhile */
};

struct room {
	uint32_t number, count, space;
	struct guest **members;
	struct room *next; /* in its bucket */
};

/* A connection that is more than an echo. */
struct guest {
	struct conn c; /* first, so that one pointer is both */

	struct guest *older, *newer; /* by when they were heard of */
	int64_t heard;

	struct room *room;
	uint32_t at;        /* in room->members */
	uint32_t out_space; /* of c.out */
};

static int ep;
static unsigned long open_conns, closed_conns, verdicts;
static int64_t now; /* of the batch of events */
static struct guest heard = {.older = &heard, .newer = &heard}; /* newer: the oldest */
static struct room everybody, *rooms[BUCKETS];

/* Whether connections are guests. */
static int hosting(void) { return work != ECHO || idle_ns > 0; }
static struct guest *guest(struct conn *c) { return (struct guest *)c; }

/* One read buffer for all, with room in front for the bytes of a split header. */
static unsigned char space[HEADER + READ_SIZE];
static unsigned char *const buffer = space + HEADER;

static void die(const char *step)
{
	fprintf(stderr, "floor: %s: %s\n", step, strerror(errno));
	exit(1);
}

static void *allocate(size_t n)
{
	void *p = malloc(n);
	if (p == NULL)
		die("malloc");
	return p;
}

static uint32_t length_at(const unsigned char *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void enter(struct room *r, struct guest *g)
{
	if (r->count == r->space) {
		r->space = r->space ? 2 * r->space : 4;
		r->members = realloc(r->members, r->space * sizeof *r->members);
		if (r->members == NULL)
			die("realloc");
	}
	g->room = r;
	g->at = r->count;
	r->members[r->count++] = g;
}

static void leave(struct guest *g)
{
	struct room *r = g->room;
	if (r == NULL)
		return;
	struct guest *last = r->members[--r->count];
	r->members[g->at] = last;
	last->at = g->at;
}

static struct room *room_of(uint32_t number)
{
	struct room **bucket = &rooms[number % BUCKETS], *r;
	for (r = *bucket; r != NULL; r = r->next)
		if (r->number == number)
			return r;
	r = allocate(sizeof *r);
	*r = (struct room){.number = number, .next = *bucket};
	return *bucket = r;
}

static void forget(struct guest *g)
{
	g->older->newer = g->newer;
	g->newer->older = g->older;
}

static void hear(struct guest *g)
{
	g->heard = now;
	g->older = heard.older;
	g->newer = &heard;
	g->older->newer = g;
	heard.older = g;
}

static int64_t clock_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* A descriptor is in one epoll batch at most once, and only its own event, or
 * silence after the batch, closes it, so no later event of the batch can hold
 * the freed pointer. */
static void drop(struct conn *c)
{
	if (idle_ns > 0)
		forget(guest(c));
	if (work != ECHO)
		leave(guest(c));
	close(c->fd);
	free(c->in);
	free(c->out);
	free(c);
	open_conns--;
	closed_conns++;
}

static void watch(struct conn *c, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = c};
	if (epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev) < 0)
		die("epoll_ctl mod");
}

/* Writes both parts at once; what is not taken is kept and reading stops until
 * it is gone, so memory stays bounded. Returns -1 when the connection is dead. */
static int put(struct conn *c, unsigned char *a, size_t alen, unsigned char *b, size_t blen)
{
	ssize_t n;
	if (alen == 0) {
		n = write(c->fd, b, blen);
	} else {
		struct iovec iov[2] = {{a, alen}, {b, blen}};
		n = writev(c->fd, iov, blen ? 2 : 1);
	}
	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			return -1;
		n = 0;
	}
	size_t left = alen + blen - (size_t)n;
	if (left == 0)
		return 0;
	c->out = allocate(left);
	c->out_pos = 0;
	c->out_len = (uint32_t)left;
	unsigned char *to = c->out;
	if ((size_t)n < alen) {
		memcpy(to, a + n, alen - (size_t)n);
		to += alen - (size_t)n;
		n = 0;
	} else {
		n -= (ssize_t)alen;
	}
	memcpy(to, b + n, blen - (size_t)n);
	watch(c, EPOLLOUT);
	return 0;
}

/* Writes to any connection, or lets it wait behind what waits already. A dead
 * or hopeless one is shut down, so that its own event drops it. */
static void offer(struct guest *g, const unsigned char *b, size_t n)
{
	struct conn *c = &g->c;
	if (c->out == NULL) {
		ssize_t taken = write(c->fd, b, n);
		if (taken == (ssize_t)n)
			return;
		if (taken < 0) {
			if (errno != EAGAIN && errno != EINTR) {
				shutdown(c->fd, SHUT_RDWR);
				return;
			}
			taken = 0;
		}
		b += taken;
		n -= (size_t)taken;
		c->out_pos = c->out_len = 0;
		g->out_space = (uint32_t)n;
		c->out = allocate(n);
		watch(c, EPOLLOUT);
	} else if (c->out_len + n > g->out_space) {
		c->out_len -= c->out_pos;
		memmove(c->out, c->out + c->out_pos, c->out_len);
		c->out_pos = 0;
		if (c->out_len + n > BACKLOG) {
			shutdown(c->fd, SHUT_RDWR);
			return;
		}
		if (c->out_len + n > g->out_space / 2) {
			g->out_space = 2 * (c->out_len + (uint32_t)n);
			c->out = realloc(c->out, g->out_space);
			if (c->out == NULL)
				die("realloc");
		}
	}
	memcpy(c->out + c->out_len, b, n);
	c->out_len += (uint32_t)n;
}

/* Hands complete frames to whom they are for, those together that go the same
 * way. Returns -1 if the connection has to go. */
static int serve(struct guest *g, const unsigned char *b, size_t n)
{
	while (n > 0) {
		int beats = length_at(b) == 0;
		size_t run = HEADER + (size_t)length_at(b);
		if (!beats && g->room == NULL) { /* its first message names its room */
			if (run != HEADER + 4)
				return -1;
			enter(room_of(length_at(b + HEADER)), g);
			offer(g, b, run);
		} else {
			while (run < n && (length_at(b + run) == 0) == beats)
				run += HEADER + (size_t)length_at(b + run);
			if (beats)
				offer(g, b, run);
			else
				for (uint32_t i = 0; i < g->room->count; i++)
					if (g->room->members[i] != g || work == BROADCAST)
						offer(g->room->members[i], b, run);
		}
		b += run;
		n -= run;
	}
	return 0;
}

static void writable(struct conn *c)
{
	ssize_t n = write(c->fd, c->out + c->out_pos, c->out_len - c->out_pos);
	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			drop(c);
		return;
	}
	c->out_pos += (uint32_t)n;
	if (c->out_pos < c->out_len)
		return;
	free(c->out);
	c->out = NULL;
	watch(c, EPOLLIN);
}

/* Ends who was silent for too long. Returns how long to sleep for the next. */
static int expire(void)
{
	struct guest *oldest;
	now = clock_ns();
	while ((oldest = heard.newer) != &heard && oldest->heard + idle_ns <= now) {
		verdicts++;
		drop(&oldest->c);
	}
	return oldest == &heard ? -1 : (int)((oldest->heard + idle_ns - now) / 1000000 + 1);
}

static void readable(struct conn *c)
{
	unsigned char *p, *end; /* the unparsed bytes */
	unsigned char *whole = NULL;
	size_t whole_len = 0;
	ssize_t n;

	if (c->in == NULL) {
		n = read(c->fd, buffer, READ_SIZE);
	} else { /* straight into the split frame, and what follows it into the buffer */
		struct iovec iov[2] = {{c->in + c->have, c->need - c->have}, {buffer, READ_SIZE}};
		n = readv(c->fd, iov, 2);
	}
	if (n <= 0) {
		if (n == 0 || (errno != EAGAIN && errno != EINTR))
			drop(c);
		return;
	}
	if (idle_ns > 0) {
		forget(guest(c));
		hear(guest(c));
	}
	if (c->in == NULL) {
		p = buffer - c->have;
		memcpy(p, c->header, c->have);
		end = buffer + n;
	} else {
		size_t missing = c->need - c->have;
		if ((size_t)n < missing) {
			c->have += (uint32_t)n;
			return;
		}
		whole = c->in;
		whole_len = c->need;
		c->in = NULL;
		p = buffer;
		end = buffer + ((size_t)n - missing);
	}
	c->have = 0;

	unsigned char *q = p; /* end of the complete frames */
	uint32_t len = 0;
	while (end - q >= HEADER) {
		len = length_at(q);
		if (len > MAX_PAYLOAD) {
			free(whole);
			drop(c);
			return;
		}
		if ((size_t)(end - q) < HEADER + (size_t)len)
			break;
		q += HEADER + len;
	}

	int dead = 0;
	if (work != ECHO)
		dead = serve(guest(c), whole, whole_len) || serve(guest(c), p, (size_t)(q - p));
	else if (whole_len + (size_t)(q - p) > 0)
		dead = put(c, whole, whole_len, p, (size_t)(q - p));
	free(whole);
	if (dead) {
		drop(c);
		return;
	}

	c->have = (uint32_t)(end - q);
	if (c->have >= HEADER) {
		c->need = HEADER + len;
		c->in = allocate(c->need);
		memcpy(c->in, q, c->have);
	} else {
		memcpy(c->header, q, c->have);
	}
}

static void welcome(int listener)
{
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0) {
			if (errno == EAGAIN)
				return;
			if (errno == EINTR || errno == ECONNABORTED)
				continue;
			/* EMFILE and the like: the measurement is void, so say so and stop. */
			die("accept");
		}
		int one = 1;
		if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0)
			die("TCP_NODELAY");
		struct conn *c = allocate(hosting() ? sizeof(struct guest) : sizeof *c);
		if (hosting())
			*guest(c) = (struct guest){0};
		*c = (struct conn){.fd = fd};
		if (idle_ns > 0)
			hear(guest(c));
		if (work == BROADCAST)
			enter(&everybody, guest(c));
		struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
		if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
			die("epoll_ctl add");
		open_conns++;
	}
}

static void signalled(int fd)
{
	struct signalfd_siginfo info;
	if (read(fd, &info, sizeof info) != sizeof info)
		return;
	if (info.ssi_signo != SIGUSR1)
		exit(0);
	malloc_trim(0);
	printf("{\"goroutines\":0,\"open\":%lu,\"closed\":%lu,\"verdicts\":%lu}\n", open_conns, closed_conns, verdicts);
	fflush(stdout);
}

/* Reads the options and returns the port, or ends the program. */
static uint16_t options(int argc, char **argv)
{
	static const char *const names[] = {[ECHO] = "echo", [ROOM] = "room", [BROADCAST] = "broadcast"};
	int i = 1;
	for (; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "-idle") == 0 && atol(argv[i + 1]) >= 0) {
			idle_ns = atol(argv[i + 1]) * 1000000;
			continue;
		}
		int known = 0;
		for (enum work w = ECHO; w <= BROADCAST; w++)
			if (strcmp(argv[i], "-work") == 0 && strcmp(argv[i + 1], names[w]) == 0) {
				work = w;
				known = 1;
			}
		if (!known)
			break;
	}
	if (i + 1 != argc) {
		fprintf(stderr, "usage: floor [-work echo|room|broadcast] [-idle MILLISECONDS] PORT\n");
		exit(2);
	}
	return (uint16_t)atoi(argv[i]);
}

int main(int argc, char **argv)
{
	uint16_t port = options(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	int sig = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);

	int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (sig < 0 || listener < 0)
		die("socket");
	int one = 1;
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	socklen_t len = sizeof addr;
	if (bind(listener, (struct sockaddr *)&addr, sizeof addr) < 0)
		die("bind");
	if (listen(listener, SOMAXCONN) < 0)
		die("listen");
	if (getsockname(listener, (struct sockaddr *)&addr, &len) < 0)
		die("getsockname");

	ep = epoll_create1(EPOLL_CLOEXEC);
	if (ep < 0)
		die("epoll_create1");
	/* The two descriptors that are no connection are told apart by address. */
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &listener};
	if (epoll_ctl(ep, EPOLL_CTL_ADD, listener, &ev) < 0)
		die("epoll_ctl add");
	ev.data.ptr = &sig;
	if (epoll_ctl(ep, EPOLL_CTL_ADD, sig, &ev) < 0)
		die("epoll_ctl add");
	printf("listening %d\n", ntohs(addr.sin_port));
	fflush(stdout);

	static struct epoll_event events[EVENTS];
	for (;;) {
		int n = epoll_wait(ep, events, EVENTS, idle_ns > 0 ? expire() : -1);
		if (n < 0 && errno != EINTR)
			die("epoll_wait");
		if (idle_ns > 0)
			now = clock_ns();
		for (int i = 0; i < n; i++) {
			void *p = events[i].data.ptr;
			if (p == &listener)
				welcome(listener);
			else if (p == &sig)
				signalled(sig);
			else if (((struct conn *)p)->out != NULL)
				writable(p);
			else
				readable(p);
		}
	}
}
