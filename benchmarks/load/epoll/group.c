/*
 * room and broadcast: each message goes to many, and the next one is sent when
 * all of them have it.
 *
 * A group is a room of ROOM connections, or everybody. Its messages are numbered,
 * and its members take turns in sending: message n is of member n modulo their
 * number. Message n+DEPTH is sent once message n and all before it have reached
 * everyone, so that DEPTH at most are under way, never two of the same sender.
 *
 * A receiver learns from a frame's stamp who sent it, and which number it is, and
 * compares the whole frame with what that sender sends under that number. It must
 * be a message under way in the receiver's own group that it does not have yet.
 * For each of the DEPTH places it expects exactly one number, so a message that is
 * doubled, old or not sent yet is found when it comes, those of one sender cannot
 * change places, and one that is lost is missed in the end.
 */

enum { MAX_DEPTH = 64 };

struct group {
	struct conn *first;
	uint32_t sent;               /* messages so far */
	uint32_t complete;           /* all before this one */
	uint32_t missing[MAX_DEPTH]; /* deliveries, by number modulo depth */
};

static struct group *groups;
static uint32_t members;   /* of each group */
static uint32_t receivers; /* of each message */
static uint32_t *expected; /* number, by connection and number modulo depth */
static uint32_t joining;

static const struct mode room, broadcast;

static void feed(struct group *g)
{
	while (granting && g->sent - g->complete < (uint32_t)opt.depth) {
		struct conn *c = &g->first[g->sent % members];
		g->missing[g->sent % (uint32_t)opt.depth] = receivers;
		under_way += receivers;
		c->wseq = g->sent++;
		c->credit = 1;
		send_frames(c);
	}
}

static uint32_t word(const unsigned char *p)
{
	uint32_t w;
	memcpy(&w, p, 4);
	return ntohl(w);
}

/* Looks at a stamp that is in, and at what it may be. */
static void identify(struct conn *c)
{
	const struct group *g = &groups[c->id / members];
	uint32_t n = word(c->stamp + 8);
	c->from = word(c->stamp + 4);
	c->rseq = n;
	if (word(c->stamp) != opt.payload)
		fail("connection %u received a frame of %u bytes", c->id, word(c->stamp));
	if (n >= g->sent || c->from != g->first[n % members].id || (mode == &room && c->from == c->id))
		fail("connection %u received message %u of connection %u, which is not for it", c->id, n, c->from);
	if (expected[c->id * (uint32_t)opt.depth + n % (uint32_t)opt.depth] != n)
		fail("connection %u received message %u of connection %u twice or out of order", c->id, n, c->from);
}

/* Expects number n, or, as in a room nobody hears itself, the next of its place
 * that is not its own. Where DEPTH is the number of members, all are: nothing comes. */
static void expect(struct conn *c, uint32_t n)
{
	if (mode == &room && n % members == c->id % members)
		n += (uint32_t)opt.depth;
	expected[c->id * (uint32_t)opt.depth + n % (uint32_t)opt.depth] = n;
}

static void delivered(struct conn *c)
{
	struct group *g = &groups[c->id / members];
	uint32_t n = c->rseq;
	expect(c, n + (uint32_t)opt.depth);
	counted++;
	under_way--;
	g->missing[n % (uint32_t)opt.depth]--;
	while (g->complete < g->sent && g->missing[g->complete % (uint32_t)opt.depth] == 0)
		g->complete++;
	feed(g);
}

static void group_event(struct conn *c, uint32_t events)
{
	ssize_t n = 0;
	if (events & ~(uint32_t)EPOLLOUT)
		n = receive(c);
	for (unsigned char *p = in; n > 0;) {
		if (c->join > 0) {
			const uint32_t hello[2] = {htonl(4), htonl(c->id / members)};
			if (*p != ((const unsigned char *)hello)[sizeof hello - c->join])
				fail("connection %u: its room's number came back altered", c->id);
			p++, n--;
			if (--c->join == 0)
				joining--;
			continue;
		}
		uint32_t m;
		if (c->rpos < HEAD) {
			m = HEAD - c->rpos < (uint32_t)n ? HEAD - c->rpos : (uint32_t)n;
			memcpy(c->stamp + c->rpos, p, m);
			if (c->rpos + m == HEAD)
				identify(c);
		} else {
			m = frame - c->rpos < (uint32_t)n ? frame - c->rpos : (uint32_t)n;
			if (!piece(&conns[c->from], c->rseq, c->rpos, p, m, 1))
				fail("message %u of connection %u reached connection %u altered", c->rseq, c->from, c->id);
		}
		c->rpos += m;
		p += m;
		n -= m;
		if (c->rpos == frame) {
			c->rpos = 0;
			delivered(c);
		}
	}
	if (events & EPOLLOUT)
		send_frames(c);
}

static void group_start(void)
{
	members = mode == &room ? (uint32_t)opt.room : (uint32_t)opt.conns;
	receivers = mode == &room ? members - 1 : members;
	groups = calloc((size_t)opt.conns / members, sizeof *groups);
	expected = calloc((size_t)opt.conns * (size_t)opt.depth, sizeof *expected);
	if (groups == NULL || expected == NULL)
		fail("start: %s", strerror(errno));
	for (uint32_t i = 0; i < (uint32_t)opt.conns / members; i++)
		groups[i].first = &conns[i * members];
	for (uint32_t i = 0; i < (uint32_t)opt.conns; i++)
		for (uint32_t n = 0; n < (uint32_t)opt.depth; n++)
			expect(&conns[i], n);
	if (mode != &room)
		return;
	double limit = now() + CONNECT_LIMIT;
	for (int i = 0; i < opt.conns; i++) {
		const uint32_t hello[2] = {htonl(4), htonl((uint32_t)i / members)};
		if (write(conns[i].fd, hello, sizeof hello) != sizeof hello)
			fail("join on connection %d: %s", i, strerror(errno));
		conns[i].join = sizeof hello;
		joining++;
		if ((i + 1) % BATCH == 0 || i + 1 == opt.conns)
			while (joining > 0) {
				if (now() > limit)
					fail("%u connections had no answer to their room's number within %d s", joining, CONNECT_LIMIT);
				turn(100);
			}
	}
}

static void group_grant(void)
{
	for (uint32_t i = 0; i < (uint32_t)opt.conns / members; i++)
		feed(&groups[i]);
}

static const struct mode room = {.name = "room", .start = group_start, .grant = group_grant, .event = group_event};

/* One broadcast is a large part of a window, so windows hold whole ones. */
static const struct mode broadcast = {
	.name = "broadcast", .start = group_start, .grant = group_grant, .event = group_event, .whole = 1};
