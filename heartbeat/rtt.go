package heartbeat

import "time"

// rtt is a round-trip time, smoothed as RFC 6298 section 2 does it.
type rtt struct {
	smoothed  int64 // SRTT, ns; 0: nothing was measured yet
	variation int64 // RTTVAR, ns
}

// measured enters one measurement r, in ns.
func (e *rtt) measured(r int64) {
	r = max(r, 1) // 0 stands for unknown; a clock may be coarser than the link
	if e.smoothed == 0 {
		e.smoothed, e.variation = r, r/2 // (2.2)
		return
	}
	// (2.3), variation first; as differences, so that nothing overflows.
	off := e.smoothed - r
	if off < 0 {
		off = -off
	}
	e.variation += (off - e.variation) / 4
	e.smoothed += (r - e.smoothed) / 8
}

// RTT returns the smoothed round-trip time of pings, the peer's time to answer
// and both sides' queues included. 0: unknown.
func (s *State) RTT() time.Duration { return time.Duration(s.rtt.smoothed) }

// RTTVar returns the mean variation of the round-trip time.
func (s *State) RTTVar() time.Duration { return time.Duration(s.rtt.variation) }
