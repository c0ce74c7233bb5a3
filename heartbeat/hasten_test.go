package heartbeat_test

import (
	"math"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A ping that is hastened is sent then, and the verdict still comes Misses
// Retries after the first query.
func TestHasten(t *testing.T) {
	plan := planFor(t, heartbeat.Config{Interval: 10 * sec, Misses: 3, Retry: 2 * sec}, directed)
	var s heartbeat.State
	s.Start(plan, 0, half)
	poll := func(at time.Duration, act heartbeat.Action, next time.Duration) {
		t.Helper()
		a, n := s.Poll(plan, int64(at))
		if a != act || time.Duration(n) != next {
			t.Fatalf("at %v: %v, next at %v, want %v at %v", at, a, time.Duration(n), act, next)
		}
	}
	if due := s.PingAt(plan); due != int64(5*sec) {
		t.Fatalf("the first ping is due at %v", time.Duration(due))
	}
	s.Hasten(int64(8 * sec)) // it is due before
	poll(3*sec, heartbeat.None, 5*sec)
	s.Hasten(int64(4 * sec))
	if due := s.PingAt(plan); due != int64(4*sec) {
		t.Fatalf("the hastened ping is due at %v", time.Duration(due))
	}
	poll(4*sec, heartbeat.Ping, 6*sec)
	s.Wrote(int64(4 * sec))
	s.Hasten(int64(3 * sec)) // a series is running
	poll(5*sec, heartbeat.None, 6*sec)
	poll(6*sec, heartbeat.Ping, 8*sec)
	poll(8*sec, heartbeat.Ping, 10*sec)
	poll(10*sec, heartbeat.Lost, math.MaxInt64)

	// The answer ends it. We have to speak an interval after we last did.
	s.Answer(plan, int64(10*sec), s.Stamp(), true)
	poll(10*sec, heartbeat.None, 18*sec)
}

// On a side that only speaks it is speech that is hastened, and where nothing is
// ever sent there is nothing to hasten.
func TestHastenSpeech(t *testing.T) {
	speaks := planFor(t, heartbeat.Config{Speak: 5 * sec, Role: heartbeat.Beacon}, directed)
	var s heartbeat.State
	s.Start(speaks, 0, full)
	s.Hasten(int64(sec))
	if a, next := s.Poll(speaks, int64(sec)); a != heartbeat.Ping || next != int64(6*sec) {
		t.Errorf("%v, next at %v", a, time.Duration(next))
	}
	silent := planFor(t, heartbeat.Config{IdleRead: 5 * sec}, directed)
	s.Start(silent, 0, full)
	s.Hasten(int64(sec))
	if a, next := s.Poll(silent, int64(sec)); a != heartbeat.None || next != int64(5*sec) || s.PingAt(silent) != math.MaxInt64 {
		t.Errorf("%v, next at %v, ping at %v", a, time.Duration(next), s.PingAt(silent))
	}
}

// The bounds of the detectors agree with those of the plan: the slowest of those
// that a dead peer cannot escape, and the least forgiving of all.
func TestBoundsOfDetectors(t *testing.T) {
	for name, c := range map[string]struct {
		config heartbeat.Config
		traits heartbeat.Traits
		want   []heartbeat.Action
	}{
		"strict":         {heartbeat.Strict(), directed, []heartbeat.Action{heartbeat.Lost, heartbeat.Deaf}},
		"never deaf":     {heartbeat.Config{Interval: sec, Misses: 2, Confirm: -1}, directed, []heartbeat.Action{heartbeat.Lost}},
		"cannot ask":     {heartbeat.Config{Interval: sec, Misses: 2}, pongOnly, []heartbeat.Action{heartbeat.Lost}},
		"idle as well":   {heartbeat.Config{Interval: 10 * sec, Misses: 2, IdleRead: 25 * sec, IdleAll: 30 * sec}, directed, []heartbeat.Action{heartbeat.Lost, heartbeat.Deaf, heartbeat.Idle, heartbeat.Idle}},
		"only idle":      {heartbeat.Config{IdleWrite: sec}, directed, []heartbeat.Action{heartbeat.Idle}},
		"nothing at all": {heartbeat.Config{}, directed, nil},
	} {
		t.Run(name, func(t *testing.T) {
			plan := planFor(t, c.config, c.traits)
			var got []heartbeat.Action
			worst, tolerance := time.Duration(0), time.Duration(math.MaxInt64)
			for _, b := range plan.Bounds() {
				got = append(got, b.Verdict)
				tolerance = min(tolerance, b.Tolerance)
				if b.Verdict != heartbeat.Idle {
					worst = max(worst, b.WorstCase)
				}
				if (b.Verdict == heartbeat.Idle) != (b.Limit != "") {
					t.Errorf("%+v", b)
				}
			}
			if len(got) != len(c.want) {
				t.Fatalf("detectors %v, want %v", got, c.want)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Errorf("detectors %v, want %v", got, c.want)
				}
			}
			if tolerance != plan.Tolerance() {
				t.Errorf("tolerance %v, the plan's is %v", tolerance, plan.Tolerance())
			}
			if worst != 0 && worst != plan.WorstCase() {
				t.Errorf("worst case %v, the plan's is %v", worst, plan.WorstCase())
			}
		})
	}
}
