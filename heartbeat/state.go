package heartbeat

import (
	"math"
	"time"
)

// State is the liveness of one connection. It belongs to one goroutine and is
// made ready by Start; before that, and after a verdict that was acted upon, it
// must not be polled.
//
// Times are nanoseconds on the caller's monotonic clock. The Plan is handed to
// each call, so that a connection can be given another one between two calls; a
// series of queries that is running then goes on by the new plan's numbers.
type State struct {
	lastAnswer int64

	// start is, while a series is running (asked > 0), its nominal beginning.
	// While none is, it is by when a ping is due whatever else happens, the first
	// of all or one that was hastened; never once that was sent.
	start  int64
	pinged int64 // time of the latest ping, which is also its stamp

	rtt rtt

	asked     uint32 // queries of the running series that were sent
	unmatched uint8  // pings without an answer, for Karn's rule; saturates
	waiting   bool   // nothing was answered since the latest ping
	timing    bool   // the latest ping's round trip was not measured yet
	condemned bool   // the running series has led to a verdict

	// What every read and write touches stands at the end, 16 of 64 bytes, so
	// that it can share a cache line with what follows in the connection.
	lastRead  int64
	lastWrite int64
}

// Start makes s ready for a connection that was opened at now: that counts as
// reading, writing and an answer. phase is a random number. It spreads the first
// pings of connections that were opened together evenly over an interval: the
// first is sent up to an interval early, whatever is read or written until then.
func (s *State) Start(p *Plan, now int64, phase uint32) {
	*s = State{lastRead: now, lastWrite: now, lastAnswer: now, pinged: now, start: never}
	spread := p.speak
	if p.queries && (spread == 0 || p.interval < spread) {
		spread = p.interval
	}
	if spread > 0 {
		s.start = add(now, fraction(spread, phase))
	}
}

// Read notes that something was read. It is one store.
func (s *State) Read(now int64) { s.lastRead = now }

// Wrote notes that something was handed to the kernel. It is one store.
func (s *State) Wrote(now int64) { s.lastWrite = now }

// Answer notes that an answer to a ping was read; Read need not be called for
// it. Any answer ends the running series of queries, one with a stamp that was
// never sent too. A round trip is measured from the answer to the latest ping
// only: where answers bring back stamps, by the stamp; otherwise while there is
// only one ping that it can belong to (Karn's rule, RFC 6298 section 3).
//
// It returns that round trip, 0 if none was measured.
func (s *State) Answer(p *Plan, now int64, stamp uint64, hasStamp bool) (measured time.Duration) {
	s.lastRead = now
	s.lastAnswer = now
	s.endSeries()

	mine := s.unmatched == 1
	if hasStamp {
		mine = stamp == s.Stamp()
	}
	if mine && s.timing {
		measured = time.Duration(max(sub(now, s.pinged), 1))
		s.rtt.measured(int64(measured))
		s.timing = false
	}
	s.waiting = false
	if s.unmatched > 0 {
		s.unmatched--
	}
	return measured
}

// Excuse takes d nanoseconds out of the time for which the peer was silent: it
// was not listened to. The running series of queries goes on where it stood, and
// the round trip under way is not measured.
func (s *State) Excuse(d int64) {
	if d <= 0 {
		return
	}
	s.lastRead = add(s.lastRead, d)
	s.lastAnswer = add(s.lastAnswer, d)
	if s.start != never {
		s.start = add(s.start, d)
	}
	s.timing = false
}

// PingAt returns when the next ping is due if nothing is read, written or
// answered until then; math.MaxInt64 if none is to come. It is never later than
// what Poll returned, unless something else comes first: a verdict, or a limit.
func (s *State) PingAt(p *Plan) int64 { return min(s.askAt(p), s.sayAt(p)) }

// Hasten makes the next ping due at the time at, if it was due later: to spread
// the pings of many connections that would otherwise fall together. A verdict
// then comes that much earlier after a sign of life, but as long after the first
// query as ever, so neither WorstCase nor Tolerance changes. In a series of
// queries that is running, nothing is hastened.
func (s *State) Hasten(at int64) {
	if s.asked == 0 {
		s.start = min(s.start, at)
	}
}

// endSeries ends the running series of queries, if any.
func (s *State) endSeries() {
	if s.asked > 0 {
		s.asked = 0
		s.start = never
		s.condemned = false
	}
}

// Poll returns what to do now, and when to poll again: a nominal deadline that
// the caller's timer may miss by up to a [Tick], math.MaxInt64 for never. Reads and
// writes until then only postpone it, so they need not touch the timer; a poll
// that comes too soon returns None and the later deadline.
//
// With None and Ping, the deadline lies after now. With a verdict it is never,
// and the verdict stands for as long as nothing but time is added: the caller may
// look once more whether something has arrived, report it by Read or Answer, and
// Poll again. A clock that turns back makes nothing due twice.
//
// A series that begins late by a [Tick] or more, after a stall or by a stricter
// plan, begins then: its first query is not older than it is. A poll that is late
// by a Retry or more has not been watching: the running series is put off by as
// much, so that no peer is condemned for a query it was not sent.
func (s *State) Poll(p *Plan, now int64) (a Action, next int64) {
	if p.anyData && s.asked > 0 && s.lastRead >= s.start {
		s.endSeries()
	}

	// Of the verdicts, the one due first counts, however late this poll is. A
	// ping averts the limits on writing, if it was due before they were.
	ask, say, unused := s.askAt(p), s.sayAt(p), s.unusedAt(p)
	lost, idle := s.lostAt(p), after(s.lastRead, p.idleRead)
	if unused <= min(ask, say) {
		idle = min(idle, unused)
	}
	if due(lost, now) && lost <= idle {
		s.condemned = s.asked > 0
		return s.reason(p, lost), never
	}
	if due(idle, now) {
		return Idle, never
	}

	send := due(say, now)
	if due(ask, now) && s.ask(p, ask, now) {
		send = true
	}
	if send {
		a = Ping
		s.ping(p, now)
	}

	next = min(s.lostAt(p), s.askAt(p), s.sayAt(p), idle, unused)
	if s.asked > 0 {
		// A sign of life ends the series, and the next one may then be due
		// before this one would have gone on: Retry can exceed Interval.
		next = min(next, add(now, p.interval))
	}
	return a, max(next, add(now, 1))
}

// lostAt returns when the peer is lost or deaf if nothing more comes.
func (s *State) lostAt(p *Plan) int64 {
	switch {
	case !p.queries:
		return after(s.lastRead, p.silence)
	case int64(s.asked) < p.misses:
		return never
	}
	// By another plan, more queries than this one wants may have been sent.
	return add(s.start, mul(p.misses, p.retry))
}

// askAt returns when the next query is due. Within a series that is counted
// from its nominal beginning, so that the lateness of timers does not add up.
func (s *State) askAt(p *Plan) int64 {
	switch {
	case !p.queries || int64(s.asked) >= p.misses && s.asked > 0:
		return never
	case s.asked > 0:
		return add(s.start, mul(int64(s.asked), p.retry))
	}
	return min(s.start, add(s.lastRead, p.interval), after(s.lastAnswer, p.confirm))
}

// sayAt returns when the next ping is due as speech. It counts from the latest
// ping too, because the kernel may not have taken that one.
func (s *State) sayAt(p *Plan) int64 {
	at := after(max(s.lastWrite, s.pinged), p.speak)
	if p.speak > 0 && !p.queries && s.asked == 0 {
		at = min(at, s.start)
	}
	return at
}

// unusedAt returns when one of the limits is reached that a write postpones.
func (s *State) unusedAt(p *Plan) int64 {
	return min(after(s.lastWrite, p.idleWrite), after(max(s.lastRead, s.lastWrite), p.idleAll))
}

// ask enters a query that was due at the time at, and reports whether a ping
// must be sent for it. The first of a series need not be sent if a ping is
// still waiting for its answer, sent as speech less than a Retry before: one
// ping serves both duties.
func (s *State) ask(p *Plan, at, now int64) (send bool) {
	late, bearable := sub(now, at), p.retry
	if s.asked == 0 {
		bearable = int64(Tick)
	}
	if late < bearable {
		late = 0
	}
	if s.asked > 0 {
		s.start = add(s.start, late)
		send = true
	} else {
		s.start = max(at+late, s.lastAnswer) // the very first may precede an answer
		if p.anyData {
			s.start = max(s.start, add(s.lastRead, 1)) // or data, which must not end it
		}
		send = !s.waiting || s.pinged <= sub(s.start, p.retry)
	}
	s.asked++
	s.condemned = false
	return send
}

// ping enters a ping sent now.
func (s *State) ping(p *Plan, now int64) {
	// Of pings that precede an answer and are older than a Retry, none is
	// answered any more: datagrams get lost.
	if !s.waiting && sub(now, s.pinged) >= p.retry {
		s.unmatched = 0
	}
	if s.unmatched < math.MaxUint8 {
		s.unmatched++
	}
	s.pinged = max(s.pinged, now)
	s.waiting = true
	s.timing = true
	if s.asked == 0 {
		s.start = never // the first ping is out
	}
}

// reason tells Deaf from Lost when a series ends unanswered at the time at.
//
// Deaf means that the peer was heard when its answer was overdue. Data that was
// under way when the peer vanished proves nothing, and arrives within a round
// trip of the first query, because a peer that lived to read that query has
// answered it; so data counts from a grace of half a Retry and a Tick after the
// first query was due. And the peer must have been heard within the last
// Interval, and that grace again for jitter, so that one which read no query
// because some were lost, and vanished later, is not called deaf either.
//
// Hence a vanished peer is Lost if the round trip is at most half a Retry, and
// a peer that talks but does not read is Deaf if it is heard at least every
// Interval and every Misses × Retry - grace. Where Misses × Retry is short and
// the peer talks less often than that, the two look the same: Lost.
func (s *State) reason(p *Plan, at int64) Action {
	if !p.queries || p.anyData {
		return Lost
	}
	grace := p.retry/2 + int64(Tick)
	if s.lastRead > max(add(s.start, grace), sub(sub(at, p.interval), grace)) {
		return Deaf
	}
	return Lost
}

// VerdictAt returns when a verdict is due if nothing more is heard of the peer,
// and which: math.MaxInt64 and None if never. What this side writes can postpone
// a verdict of Idle.
func (s *State) VerdictAt(p *Plan) (at int64, a Action) {
	if p.anyData && s.asked > 0 && s.lastRead >= s.start {
		ended := *s // as the next Poll will find
		ended.endSeries()
		s = &ended
	}
	at, a = s.lostAt(p), Lost
	if p.queries && int64(s.asked) < p.misses {
		// The queries that are yet to be sent go out first, a Retry apart.
		first := s.askAt(p)
		at = add(first, mul(p.misses-int64(s.asked), p.retry))
		if s.asked > 0 {
			at = add(s.start, mul(p.misses, p.retry))
		}
	}
	if idle := min(after(s.lastRead, p.idleRead), s.unusedAt(p)); idle < at {
		at, a = idle, Idle
	}
	if at == never {
		a = None
	}
	return at, a
}

// Stamp returns the stamp to put into the ping that Poll has just asked for.
func (s *State) Stamp() uint64 { return uint64(s.pinged) }

// LastRead returns when something was last read.
func (s *State) LastRead() int64 { return s.lastRead }

// LastWrite returns when something was last handed to the kernel.
func (s *State) LastWrite() int64 { return s.lastWrite }

// LastAnswer returns when an answer was last read.
func (s *State) LastAnswer() int64 { return s.lastAnswer }

// Asking reports whether a series of queries is running: the ping that Poll has
// just asked for is a query, and not only a sign of life.
func (s *State) Asking() bool { return s.asked > 0 }

// Missed returns how many queries in a row the peer has not answered in time:
// after Lost or Deaf that is Misses on a side that queries. It is 0 on one that
// does not.
func (s *State) Missed() int {
	if s.asked > 0 && !s.condemned {
		return int(s.asked) - 1
	}
	return int(s.asked)
}
