/* What all modes share: options, connections, clocks, the epoll loop. */

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
	uint32_t beat;       /* bytes of a heartbeat's answer still to come */
	uint32_t credit;     /* frames to be written, the one begun included */
	uint32_t rseq, rpos; /* the frame being received, and how much of it is in */
	uint32_t wseq, wpos; /* the frame being written, and how much of it is out */
	uint32_t want_write;
	/* room and broadcast */
	uint32_t from;             /* who sent the frame being received */
	uint32_t join;             /* bytes still to come of the answer to the room's number */
	unsigned char stamp[HEAD]; /* of the frame being received, as far as it is in */
};

struct mode {
	const char *name;
	/* once every connection is open; or NULL */
	void (*start)(void);
	/* a window begins: send as much as may be under way; or NULL */
	void (*grant)(void);
	void (*event)(struct conn *, uint32_t events);
	/* sends what is due at t, returns the seconds until the next is; or NULL */
	double (*due)(double t);
	/* opens its connections itself */
	int opens;
	/* windows begin and end when nothing is under way */
	int whole;
	/* it counts what was due between two times, and prints what it has learnt; or
	 * NULL */
	void (*span)(double from, double to);
	void (*figures)(void);
	/* it stays awake, because what is due must not be late; its CPU time is then
	 * without the turns in which nothing happened */
	int awake;
};

static struct {
	int port, conns, depth, room, quiet;
	uint32_t payload;
	double warmup, interval, hold, rate;
	pid_t server;
} opt = {.conns = 1000, .depth = 1, .room = 21, .payload = 64, .warmup = 0.5, .interval = 10, .hold = 300, .rate = 1000};

static const struct mode *mode;
static int ep;
static struct conn *conns;
static uint32_t frame; /* bytes of one frame */
static unsigned char in[READ_SIZE], out[WRITE_SIZE];
static unsigned long long counted, reads, writes;
static unsigned long long under_way; /* messages, deliveries or cycles that were begun */
static uint32_t beating;             /* heartbeats not answered yet */
static int granting;

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
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

static void listen_to(struct conn *c, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = c};
	if (epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev) < 0)
		fail("epoll_ctl: %s", strerror(errno));
}

static void watch(struct conn *c, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = c};
	if (epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev) < 0)
		fail("epoll_ctl: %s", strerror(errno));
}

static void no_delay(struct conn *c)
{
	int one = 1;
	if (setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0)
		fail("TCP_NODELAY: %s", strerror(errno));
}

/* Has a connection come from 127.0.0.(1+source), from any port; of source 0 the
 * kernel's choice is this, too. */
static void come_from(struct conn *c, uint32_t source)
{
	struct sockaddr_in from = {.sin_family = AF_INET};
	int one = 1;
	if (source == 0)
		return;
	from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + source);
	if (setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one) < 0 ||
	    bind(c->fd, (struct sockaddr *)&from, sizeof from) < 0)
		fail("bind to 127.0.0.%u: %s", 1 + source, strerror(errno));
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

static double asked; /* the window asked for, in seconds; 0: none */
static int ended;    /* standard input */

/* Standard input may have a line with a window's length, or its end. */
static void hear(void)
{
	static char line[64];
	static size_t have;
	ssize_t n = read(STDIN_FILENO, line + have, sizeof line - 1 - have);
	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			fail("standard input: %s", strerror(errno));
		return;
	}
	have += (size_t)n;
	if (n == 0) {
		ended = 1;
		epoll_ctl(ep, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
		if (have > 0)
			fail("half a line on standard input");
		return;
	}
	char *end = memchr(line, '\n', have), *rest;
	if (end == NULL && have < sizeof line - 1)
		return; /* the rest is on its way */
	*(end == NULL ? line + have : end) = 0;
	double window = strtod(line, &rest);
	if (asked > 0 || end != line + have - 1 || rest != end || !(window > 0) || window > 3600)
		fail("standard input has \"%s\": one window at a time, in seconds", line);
	asked = window;
	have = 0;
}

static void beat_event(struct conn *c);

/* Standard input's events carry a NULL. */
static int turn(int timeout_ms)
{
	static struct epoll_event events[EVENTS];
	int n = epoll_wait(ep, events, EVENTS, timeout_ms);
	if (n < 0 && errno != EINTR)
		fail("epoll_wait: %s", strerror(errno));
	for (int i = 0; i < n; i++) {
		struct conn *c = events[i].data.ptr;
		if (c == NULL)
			hear();
		else if (c->beat > 0)
			beat_event(c);
		else
			mode->event(c, events[i].events);
	}
	return n;
}
