package heartbeat

import "time"

// What Tolerance takes for granted about the network.
const (
	// minRTO is the least retransmission timeout of common TCP stacks, on top
	// of the round trip: Linux waits SRTT + max(200 ms, 4 RTTVAR). RFC 6298
	// section 2.4 asks for 1 s, which hardly any stack follows.
	minRTO = 200 * time.Millisecond
	// maxRTT is the longest round trip, the peer's time to answer included.
	maxRTT = 200 * time.Millisecond
)

// bounds are the inputs of WorstCase and Tolerance. What follows from them is
// worked out at Config.WorstCase and Config.Tolerance.
type bounds struct {
	interval, retry   time.Duration
	tries             time.Duration // Misses × Retry
	pause             time.Duration // longest time without a query on a side that queries
	idleRead, idleOut time.Duration // IdleRead; the shorter of IdleWrite and IdleAll; 0: off
}

func (c Config) bounds() bounds {
	b := bounds{
		interval: c.Interval,
		retry:    c.retry(),
		tries:    time.Duration(mul(int64(max(0, c.Misses)), int64(max(0, c.retry())))),
		pause:    time.Duration(mul(int64(max(1, c.Confirm)), int64(max(0, c.Interval)))),
		idleRead: c.IdleRead,
		idleOut:  c.IdleWrite,
	}
	if b.idleOut == 0 || c.IdleAll > 0 && c.IdleAll < b.idleOut {
		b.idleOut = c.IdleAll
	}
	return b
}

// WorstCase returns the longest time from the last sign of life of a peer to
// the verdict on it, given timers that are late by at most [Tick]:
//
//	max(1, Confirm) × Interval + Misses × Retry + Tick
//
// The last sign of life is, of a peer that vanished, the arrival of the last
// thing it sent; of one that went deaf, the arrival of its last answer. In
// detail:
//   - A vanished peer is queried Interval after that, or sooner, and the
//     verdict comes Misses × Retry later: Interval + Misses × Retry.
//   - A side that cannot query waits as long for anything to read.
//   - A deaf peer is queried Confirm intervals after its last answer, or
//     sooner: Confirm × Interval + Misses × Retry.
//   - IdleRead ends the silence of a vanished peer sooner, if it is shorter.
//
// Queries are due at nominal times, a Retry apart, however late the timer
// before was, so only the last timer's lateness, less than a Tick, is added.
//
// Without an Interval, IdleRead + Tick. IdleWrite and IdleAll do not enter: what
// this side writes can postpone them for as long as the kernel buffers it.
// 0 means that there is no bound, because nothing must ever detect a dead peer.
// [Plan.WorstCase] can be shorter, as it knows the role.
func (c Config) WorstCase() time.Duration { return c.bounds().worstCase(c.Confirm >= 0) }

func (b bounds) worstCase(deaf bool) time.Duration {
	var worst int64
	if b.interval > 0 {
		worst = add(int64(b.interval), int64(b.tries))
	}
	if b.idleRead > 0 && (worst == 0 || int64(b.idleRead) < worst) {
		worst = int64(b.idleRead)
	}
	if b.interval > 0 && deaf {
		worst = add(int64(b.pause), int64(b.tries))
	}
	if worst <= 0 {
		return 0
	}
	return time.Duration(add(worst, int64(Tick)))
}

// Tolerance returns the longest outage that can never cause a verdict, on a
// link that was well before it and is well after it. During an outage nothing
// passes one point of the path, in one direction or both. Taken for granted: a
// round trip, the peer's time to answer included, takes at most 200 ms, or half
// a Retry if that is less; no message is lost but to the outage; what queued up
// meanwhile passes within a round trip; and a peer that is waited for and not
// queried writes at least every Interval.
//
// It is the least of these bounds, in which W is Misses × Retry, the time from
// the first query to the verdict, or IdleRead - Interval if that is less.
//
//   - Datagrams, querying: what crosses during the outage is gone. It starts,
//     at worst, as the answer to the first query is about to arrive, one round
//     trip after that query. The next query follows within a Retry of its end
//     and needs a round trip: W - Retry - 2 RTT.
//   - Datagrams, waiting: the first message lost was due an Interval after the
//     last that was read, and the next follows within an Interval of the end:
//     W - Interval - 2 RTT.
//   - TCP: a segment is sent again RTO, 3 RTO, 7 RTO and so on after the first
//     time (RFC 6298 section 5.5), so that the first copy to pass after an outage
//     of length D does so at most 2 D + RTO after the original was lost. Three
//     round trips may come on top: the original passed, and the outage took its
//     acknowledgement; query or answer waits behind it until the copy is
//     acknowledged; and then travels itself. With RTO = 200 ms + RTT the answer
//     is there 2 D + 200 ms + 4 RTT after the query: (W - 200 ms - 4 RTT) / 2.
//
// A Tick is taken off for late timers. On a side that cannot query, whose
// writing is mostly answers, IdleWrite and IdleAll limit W as IdleRead does; on
// one that can, only if they are not longer than a Retry. 0 means that any lost
// message may cause a verdict: with a single miss, and with idle limits alone,
// because then nothing is known of how often the peer speaks. With no detector
// at all no outage matters: math.MaxInt64.
//
// [Plan.Tolerance] can be longer, as it knows the role.
func (c Config) Tolerance() time.Duration {
	b := c.bounds()
	return min(b.tolerance(true), b.tolerance(false))
}

func (b bounds) tolerance(queries bool) time.Duration {
	if b.interval <= 0 {
		if b.idleRead > 0 || b.idleOut > 0 {
			return 0
		}
		return never
	}
	rtt := min(maxRTT, b.retry/2)
	if b.retry < rtt+Tick {
		return 0 // a query sent a tick late is not answered in time
	}

	wait := b.tries
	if b.idleRead > 0 {
		wait = min(wait, b.idleRead-b.interval)
	}
	if b.idleOut > 0 {
		if !queries {
			wait = min(wait, b.idleOut-b.interval)
		} else if b.idleOut <= b.retry {
			wait = min(wait, b.idleOut)
		}
	}

	again := b.interval // how soon after an outage something is sent again
	if queries {
		again = b.retry
	}
	datagram := wait - again - 2*rtt
	stream := (wait - minRTO - 4*rtt) / 2
	return max(0, min(datagram, stream)-Tick)
}
