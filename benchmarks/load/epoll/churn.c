/*
 * churn: -c cycles are under way at once. A cycle is a connection that is made,
 * sends one frame, has it echoed, and ends.
 *
 * It ends by a reset (SO_LINGER 0): an end in order would leave the port in
 * TIME_WAIT for a minute, and some seconds of this would use up all there are.
 * Should they run out all the same, connections come from the next of 127.0.0.x.
 */

enum { MAX_SOURCES = 200 };

static uint32_t source; /* 0: the kernel's choice */

static void begin_cycle(struct conn *c)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (;;) {
		c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (c->fd < 0)
			fail("socket: %s", strerror(errno));
		struct linger reset = {.l_onoff = 1};
		if (setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) < 0)
			fail("SO_LINGER: %s", strerror(errno));
		no_delay(c);
		come_from(c, source);
		if (connect(c->fd, (struct sockaddr *)&addr, sizeof addr) == 0 || errno == EINPROGRESS)
			break;
		if (errno != EADDRNOTAVAIL || ++source > MAX_SOURCES)
			fail("connect: %s", strerror(errno));
		close(c->fd);
	}
	/* Over loopback it is mostly established already. */
	listen_to(c, EPOLLIN);
	c->want_write = 0;
	c->credit = 1;
	send_frames(c);
}

static void churn_event(struct conn *c, uint32_t events)
{
	if (events & EPOLLOUT)
		send_frames(c);
	if (!(events & ~(uint32_t)EPOLLOUT) || take_back(c) == 0)
		return;
	close(c->fd);
	counted++;
	if (granting)
		begin_cycle(c);
	else
		under_way--;
}

static void churn_start(void)
{
	for (int i = 0; i < opt.conns; i++)
		conns[i].id = (uint32_t)i;
}

static void churn_grant(void)
{
	for (int i = 0; i < opt.conns; i++) {
		under_way++;
		begin_cycle(&conns[i]);
	}
}

static const struct mode churn = {
	.name = "churn", .start = churn_start, .grant = churn_grant, .event = churn_event, .opens = 1};
