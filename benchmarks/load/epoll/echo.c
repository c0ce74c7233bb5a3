/* echo: every connection keeps DEPTH frames under way. */

static void echo_event(struct conn *c, uint32_t events)
{
	uint32_t done = 0;
	if (events & ~(uint32_t)EPOLLOUT)
		done = take_back(c);
	counted += done;
	if (granting)
		c->credit += done;
	else
		under_way -= done;
	send_frames(c);
}

static void echo_grant(void)
{
	for (int i = 0; i < opt.conns; i++) {
		conns[i].credit += (uint32_t)opt.depth;
		under_way += (unsigned)opt.depth;
		send_frames(&conns[i]);
	}
}

static const struct mode echo = {.name = "echo", .grant = echo_grant, .event = echo_event};
