/* Frames whose content follows from their connection and number, so that each
 * can be made, and compared, wherever it was cut. */

static unsigned char *content;

static void make_content(void)
{
	content = malloc(HEADER + MAX_PAYLOAD + PHASES);
	if (content == NULL)
		fail("start: %s", strerror(errno));
	uint32_t x = 2463534242;
	for (size_t i = 0; i < HEADER + MAX_PAYLOAD + PHASES; i++) {
		x ^= x << 13, x ^= x >> 17, x ^= x << 5;
		content[i] = (unsigned char)x;
	}
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

/* Writes the frames that a connection has credit for. */
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

/* Reads what came back of what this connection sent. Returns how many frames
 * have become complete. */
static uint32_t take_back(struct conn *c)
{
	uint32_t done = 0;
	ssize_t n = receive(c);
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
	return done;
}
