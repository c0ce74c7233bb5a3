package heartbeat_test

import (
	"math"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// TestSmoothing follows RFC 6298 section 2 by hand.
func TestSmoothing(t *testing.T) {
	var s heartbeat.State
	for i, step := range []struct{ r, smoothed, variation time.Duration }{
		{800, 800, 400},    // (2.2)
		{1600, 900, 500},   // 400 + (800-400)/4; 800 + 800/8
		{100, 800, 575},    // 500 + (800-500)/4; 900 - 800/8
		{800, 800, 432},    // 575 - 575/4, cut towards zero
		{0, 701, 432 + 91}, // zero counts as 1 ns: off by 799
		{701, 701, 523 - 130},
	} {
		s.Measured(int64(step.r))
		if s.RTT() != step.smoothed || s.RTTVar() != step.variation {
			t.Fatalf("step %d: RTT %d, variation %d; want %d, %d", i, s.RTT(), s.RTTVar(), step.smoothed, step.variation)
		}
	}
	for range 200 {
		s.Measured(math.MaxInt64)
	}
	if s.RTT() < 0 || s.RTTVar() < 0 || s.RTT() < math.MaxInt64/8*7 {
		t.Errorf("huge round trips: RTT %d, variation %d", s.RTT(), s.RTTVar())
	}
	for range 2000 {
		s.Measured(1)
	}
	if s.RTT() < 1 || s.RTT() > 8 || s.RTTVar() < 0 {
		t.Errorf("tiny round trips: RTT %d, variation %d", s.RTT(), s.RTTVar())
	}
}

// asked returns a State whose first ping goes out at 1 s, then at 11 s and
// every 10 s if unanswered.
func asked(t *testing.T, tr heartbeat.Traits) (*heartbeat.State, *heartbeat.Plan) {
	p := planFor(t, heartbeat.Config{Interval: 10 * sec, Misses: 9}, tr)
	s := new(heartbeat.State)
	s.Start(p, 0, math.MaxUint32/10)
	ping(t, s, p, sec)
	return s, p
}

func ping(t *testing.T, s *heartbeat.State, p *heartbeat.Plan, at time.Duration) (stamp uint64) {
	t.Helper()
	if a, _ := s.Poll(p, int64(at)); a != heartbeat.Ping {
		t.Fatalf("at %v: %v, want Ping", at, a)
	}
	s.Wrote(int64(at))
	return s.Stamp()
}

func TestStamps(t *testing.T) {
	s, p := asked(t, directed)
	first := s.Stamp()
	second := ping(t, s, p, 11*sec)
	if first == second {
		t.Fatal("two pings bear one stamp")
	}
	s.Answer(p, int64(11*sec+ms), first, true) // late
	if s.RTT() != 0 {
		t.Errorf("RTT %v from the stamp of an older ping", s.RTT())
	}
	if s.LastAnswer() != int64(11*sec+ms) || s.LastRead() != int64(11*sec+ms) || s.Missed() != 0 {
		t.Error("an answer with an older stamp did not count as an answer")
	}
	s.Answer(p, int64(11*sec+2*ms), second^0xdead, true)
	if s.RTT() != 0 {
		t.Errorf("RTT %v from a stamp never sent", s.RTT())
	}
	s.Answer(p, int64(11*sec+40*ms), second, true)
	if s.RTT() != 40*ms {
		t.Errorf("RTT %v, want 40ms", s.RTT())
	}
	s.Answer(p, int64(15*sec), second, true)
	if s.RTT() != 40*ms {
		t.Errorf("RTT %v after the same answer came twice", s.RTT())
	}
}

func TestStampNeverSent(t *testing.T) {
	p := planFor(t, heartbeat.Strict(), directed)
	var s heartbeat.State
	s.Start(p, 77, 0)
	s.Answer(p, int64(sec), s.Stamp(), true) // no ping is out
	if s.RTT() != 0 {
		t.Errorf("RTT %v without a ping", s.RTT())
	}
	s.Answer(p, int64(sec), 0, false)
	if s.RTT() != 0 {
		t.Errorf("RTT %v without a ping", s.RTT())
	}
}

// TestKarn measures answers without stamps only while one ping is out.
func TestKarn(t *testing.T) {
	s, p := asked(t, pingOnly)
	s.Answer(p, int64(sec+30*ms), 0, false)
	if s.RTT() != 30*ms {
		t.Fatalf("RTT %v, want 30ms", s.RTT())
	}
	s.Answer(p, int64(2*sec), 0, false) // nobody asked
	if s.RTT() != 30*ms {
		t.Fatalf("RTT %v from an answer to nothing", s.RTT())
	}

	// Two pings, whose answers come late, in order: the first is ambiguous.
	at := 12 * sec
	ping(t, s, p, at)
	ping(t, s, p, at+10*sec)
	s.Answer(p, int64(at+10*sec+ms), 0, false)
	if s.RTT() != 30*ms {
		t.Fatalf("RTT %v from an ambiguous answer", s.RTT())
	}
	// Then only the second is out.
	s.Answer(p, int64(at+10*sec+30*ms), 0, false)
	if s.RTT() != 30*ms || s.RTTVar() != 30*ms/2*3/4 {
		t.Fatalf("RTT %v, variation %v from the answer that is left", s.RTT(), s.RTTVar())
	}

	// A ping that got lost does not end measuring for good.
	at = 40 * sec
	ping(t, s, p, at)
	ping(t, s, p, at+10*sec)
	s.Answer(p, int64(at+10*sec+30*ms), 0, false) // ambiguous; nothing else comes
	v := s.RTTVar()
	ping(t, s, p, at+21*sec)
	s.Answer(p, int64(at+21*sec+30*ms), 0, false)
	if s.RTT() != 30*ms || s.RTTVar() >= v {
		t.Fatalf("RTT %v, variation %v after a ping was lost", s.RTT(), s.RTTVar())
	}
}

func TestRTTWhenTheClockTurnsBack(t *testing.T) {
	s, p := asked(t, directed)
	s.Answer(p, 0, s.Stamp(), true)
	if s.RTT() != 1 {
		t.Errorf("RTT %v, want the least there is", s.RTT())
	}
}
