/* open: messages at a fixed rate over all connections, which take turns, whatever
 * the answers do. A latency is from when a message was due to its answer, whoever
 * was late: so that a server which stands still for a while does not get fewer
 * messages for it (coordinated omission). Counted are the messages that were due
 * within the window, also those whose answers came after it. */

enum {
	/* A histogram in the manner of HDR: between one power of two and the next, in
	 * ns, as many equal parts. */
	PARTS = 128,
	POWERS = 40,
};

struct histogram {
	unsigned long long count[POWERS * PARTS], total;
};

static struct histogram latency, lateness;

static double open_start, counted_from, counted_to;
static unsigned long long sent, sent_before; /* messages, in all and before this window */

static void note(struct histogram *h, double seconds)
{
	uint64_t ns = seconds > 0 ? (uint64_t)(seconds * 1e9) : 0;
	unsigned power = 0;
	while (ns >> power >= 2 * PARTS)
		power++;
	size_t at = power * PARTS + (size_t)(ns >> power);
	h->count[at < POWERS * PARTS ? at : POWERS * PARTS - 1]++;
	h->total++;
}

/* In µs; 0 if there is nothing. */
static double quantile(const struct histogram *h, double q)
{
	unsigned long long below = 0, want = (unsigned long long)(q * (double)h->total);
	for (size_t at = 0; at < POWERS * PARTS && h->total > 0; at++) {
		below += h->count[at];
		if (below > want) {
			size_t power = at < PARTS ? 0 : at / PARTS - 1;
			return (double)((uint64_t)(at - power * PARTS) << power) / 1e3;
		}
	}
	return 0;
}

static double due_at(unsigned long long k)
{
	return open_start + (double)(k - sent_before) / opt.rate;
}

static int is_counted(double due) { return due >= counted_from && due < counted_to; }

static void open_event(struct conn *c, uint32_t events)
{
	uint32_t before = c->rseq;
	if (events & ~(uint32_t)EPOLLOUT)
		take_back(c);
	double t = now();
	for (; before != c->rseq; before++) {
		double due = due_at((unsigned long long)before * (unsigned)opt.conns + c->id);
		under_way--;
		if (is_counted(due)) {
			counted++;
			note(&latency, t - due);
		}
	}
	send_frames(c);
}

/* Message k goes over connection k modulo their number. */
static double open_due(double t)
{
	while (granting && due_at(sent) <= t) {
		struct conn *c = &conns[sent % (unsigned)opt.conns];
		if (is_counted(due_at(sent)))
			note(&lateness, now() - due_at(sent));
		c->credit++;
		under_way++;
		sent++;
		send_frames(c);
	}
	return granting ? due_at(sent) - t : 1;
}

static void open_grant(void)
{
	sent_before = sent;
	open_start = now();
	counted_to = 0; /* nothing, until a window says */
}

static void open_span(double from, double to)
{
	memset(&latency, 0, sizeof latency);
	memset(&lateness, 0, sizeof lateness);
	counted_from = from;
	counted_to = to;
}

static void open_figures(void)
{
	printf("\"rate\":%g,\"p50_us\":%.1f,\"p99_us\":%.1f,\"sent_late_p99_us\":%.1f,", opt.rate, quantile(&latency, 0.5),
	       quantile(&latency, 0.99), quantile(&lateness, 0.99));
}

static const struct mode open_loop = {.name = "open", .grant = open_grant, .event = open_event, .due = open_due,
                                      .span = open_span, .figures = open_figures, .awake = 1};
