/* Heartbeats, with which every connection begins; and idle, which has nothing
 * else: one empty frame per interval on each connection, the next not before its
 * answer, for which all wait. Beats go on between windows, unless they are to be
 * quiet (-q): then connections take up their turns where the last window has left
 * them. */

static void send_beat(struct conn *c)
{
	static const unsigned char empty[HEADER];
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
			counted++;
		}
	}
}

/* An event without a heartbeat under way can only be bad news. */
static void idle_event(struct conn *c, uint32_t events)
{
	(void)events;
	beat_event(c);
}

static double beat_start;
static unsigned long long beats, beats_before; /* in all, and before beat_start */

static void beat_from_now(void)
{
	beat_start = now();
	beats_before = beats;
}

/* Beat k of all falls at k times the interval over the number of connections,
 * and the connections take turns. */
static double idle_due(double t)
{
	if (opt.quiet && !granting)
		return opt.interval;
	double step = opt.interval / opt.conns, due;
	while ((due = beat_start + step * (double)(beats - beats_before)) <= t) {
		struct conn *c = &conns[beats % (unsigned)opt.conns];
		if (c->beat > 0) { /* the server, or this load, has stood still */
			if (t - due > DRAIN_LIMIT)
				fail("connection %u: a heartbeat was not answered within %g s", c->id, opt.interval + DRAIN_LIMIT);
			return 1e-3;
		}
		send_beat(c);
		beats++;
	}
	return due - t;
}

static void idle_grant(void)
{
	if (opt.quiet)
		beat_from_now();
}

static const struct mode idle = {.name = "idle", .start = beat_from_now, .grant = idle_grant, .event = idle_event,
                                 .due = idle_due};
