package engine

import (
	"sync/atomic"
	"time"
)

// Stats is what an engine has counted since it began.
type Stats struct {
	// Total sums the loops; of Lag it is the largest.
	Total LoopStats
	// Loops holds the counts of each loop.
	Loops []LoopStats
	// Work is what Conn.Do and Ordered had done.
	Work WorkStats
	// Held is about how much memory the output takes that the kernel has not
	// taken (Limits.Budget).
	Held int64
}

// LoopStats is what one loop has counted. Opened = Closed + Open holds for
// connections at rest.
type LoopStats struct {
	Open   int64  // connections now, those being established included
	Opened uint64 // connections whose Open was called
	Closed uint64 // connections whose end was reported
	// Reasons counts the closed connections by reason.
	Reasons map[Reason]uint64

	FramesIn   uint64 // frames of any kind received
	MessagesIn uint64 // data frames received
	FramesOut  uint64 // frames of any kind handed to the kernel whole
	BytesIn    uint64
	BytesOut   uint64
	Pings      uint64 // heartbeats sent unasked
	Queries    uint64 // of them, those that ask a peer that has been silent
	PingsIn    uint64 // heartbeats received, other than answers
	PongsIn    uint64 // answers received
	// PingsIgnored counts the pings that were not answered because a peer sent
	// more than 100 a second.
	PingsIgnored uint64

	// Outages counts how often an outage on our side was presumed
	// (Limits.Outage).
	Outages uint64

	Broadcasts uint64 // deliveries of broadcasts, one for each connection
	Pauses     uint64 // how often reading a connection was stopped

	AcceptErrors uint64 // failed accepts
	Parks        uint64 // how often a listener waited for room, resources or its rate
	Refused      uint64 // connections that Admission did not let in
	Evicted      uint64 // connections that made room (Admission.EvictIdle)
	Panics       uint64 // callbacks and tasks that panicked or called Goexit
	Blocked      uint64 // callbacks that held the loop up for BlockedAfter

	// RTT counts the round trips of our queries, Detection for how long the peers
	// had been silent, or unresponsive, on which there was a verdict.
	RTT, Detection Histogram

	Lag         time.Duration // the latest that the loop was ever done with what was due, callbacks included
	Stalled     time.Duration // time that did not count against peers, because the loop did not run
	StallExcess time.Duration // the like, which did count: it was more than StallCap
}

// loopStats is written by one loop and read by anyone.
type loopStats struct {
	// Of every event.
	messagesIn counter
	framesOut  counter
	bytesIn    counter
	bytesOut   counter
	pingsIn    counter

	opened   atomic.Uint64
	closed   [numReasons]atomic.Uint64
	othersIn atomic.Uint64 // frames that are neither data nor heartbeats
	pings    atomic.Uint64
	queries  atomic.Uint64
	pongsIn  atomic.Uint64

	pingsIgnored atomic.Uint64
	outages      atomic.Uint64

	calls      atomic.Uint64 // of callbacks other than Message and Frame, begun
	broadcasts atomic.Uint64
	pauses     atomic.Uint64

	acceptErrors atomic.Uint64
	parks        atomic.Uint64
	refused      atomic.Uint64
	evicted      atomic.Uint64
	panics       atomic.Uint64
	blocked      atomic.Uint64

	rtt, detection histogram

	lagMax      atomic.Int64
	stalled     atomic.Int64
	stallExcess atomic.Int64
}

// progress changes while the loop gets on from callback to callback.
func (s *loopStats) progress() uint64 {
	return s.bytesIn.Load() + s.bytesOut.Load() + s.calls.Load() + s.acceptErrors.Load()
}

func (l *Loop) snapshot() LoopStats {
	s := &l.stats
	out := LoopStats{
		Open:         l.load.Load(),
		Reasons:      make(map[Reason]uint64),
		MessagesIn:   s.messagesIn.Load(),
		FramesOut:    s.framesOut.Load(),
		BytesIn:      s.bytesIn.Load(),
		BytesOut:     s.bytesOut.Load(),
		Pings:        s.pings.Load(),
		Queries:      s.queries.Load(),
		PingsIn:      s.pingsIn.Load(),
		PongsIn:      s.pongsIn.Load(),
		PingsIgnored: s.pingsIgnored.Load(),
		Outages:      s.outages.Load(),
		AcceptErrors: s.acceptErrors.Load(),
		Parks:        s.parks.Load(),
		Panics:       s.panics.Load(),
		Broadcasts:   s.broadcasts.Load(),
		Pauses:       s.pauses.Load(),
		Refused:      s.refused.Load(),
		Evicted:      s.evicted.Load(),
		Blocked:      s.blocked.Load(),
		RTT:          s.rtt.snapshot(),
		Detection:    s.detection.snapshot(),
		Lag:          time.Duration(s.lagMax.Load()),
		Stalled:      time.Duration(s.stalled.Load()),
		StallExcess:  time.Duration(s.stallExcess.Load()),
	}
	for r := range s.closed {
		if n := s.closed[r].Load(); n > 0 {
			out.Reasons[Reason(r)] = n
			out.Closed += n
		}
	}
	out.FramesIn = out.MessagesIn + out.PingsIn + out.PongsIn + s.othersIn.Load()
	out.Opened = s.opened.Load()
	return out
}

func (co *core) stats() Stats {
	st := Stats{
		Total: LoopStats{Reasons: make(map[Reason]uint64)},
		Work:  co.workers.stats(), Held: co.held.Load(),
	}
	t := &st.Total
	for _, l := range co.loops {
		s := l.snapshot()
		st.Loops = append(st.Loops, s)
		t.Open += s.Open
		t.Opened += s.Opened
		t.Closed += s.Closed
		for r, n := range s.Reasons {
			t.Reasons[r] += n
		}
		t.FramesIn += s.FramesIn
		t.MessagesIn += s.MessagesIn
		t.FramesOut += s.FramesOut
		t.BytesIn += s.BytesIn
		t.BytesOut += s.BytesOut
		t.Pings += s.Pings
		t.Queries += s.Queries
		t.PingsIn += s.PingsIn
		t.PongsIn += s.PongsIn
		t.PingsIgnored += s.PingsIgnored
		t.Outages += s.Outages
		t.AcceptErrors += s.AcceptErrors
		t.Parks += s.Parks
		t.Panics += s.Panics
		t.Broadcasts += s.Broadcasts
		t.Pauses += s.Pauses
		t.Refused += s.Refused
		t.Evicted += s.Evicted
		t.Blocked += s.Blocked
		t.RTT.add(&s.RTT)
		t.Detection.add(&s.Detection)
		t.Lag = max(t.Lag, s.Lag)
		t.Stalled += s.Stalled
		t.StallExcess += s.StallExcess
	}
	return st
}
