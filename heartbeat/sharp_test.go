package heartbeat_test

import (
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// connect opens a link of format f, both of whose ends are configured with c, and
// whose round trip is within what Tolerance takes for granted.
func (l *link) connect(t *testing.T, seed, stream uint64, f format, c heartbeat.Config) {
	t.Helper()
	l.reset(seed, stream)
	r := l.rand
	trip := min(int64(200*ms), retryOf(c)/2)
	l.stream = r.IntN(2) == 0
	l.flight = r.Int64N(trip / 2)
	if r.IntN(2) == 0 {
		l.jitter = r.Int64N(trip/2 - l.flight)
	}
	where := r.Int64N(l.flight + 1)
	l.point = [2]int64{where, l.flight - where}
	for i := range l.ends {
		l.open(i, planFor(t, c, f.side[i]))
		if r.IntN(3) == 0 {
			l.talks(i, 1+int64(c.Interval)/(1+r.Int64N(8)))
		}
	}
}

// TestWorstCaseIsReached shows that WorstCase is no looser than the round trip:
// some peer that vanishes, or goes deaf, is found that late.
func TestWorstCaseIsReached(t *testing.T) {
	l := emptyLink()
	for _, c := range []heartbeat.Config{
		heartbeat.Relaxed(), heartbeat.Strict(), heartbeat.Realtime(),
		{Interval: sec, Misses: 2, Retry: sec, Confirm: 5},
	} {
		var worst int64
		for k := range uint64(2000) {
			l.connect(t, k, 7, formats[1], c) // MQTT-like, so that end 1 only answers
			watched, peer := &l.ends[0], &l.ends[1]
			interval := int64(c.Interval)
			l.talks(1, interval/2)
			pause := interval * int64(1+c.Confirm)
			l.run(l.now + pause + l.rand.Int64N(pause))
			peer.alone, peer.deaf = true, true
			l.tidy = false
			since := &watched.oracle.answered
			if c.Confirm == 0 && l.rand.IntN(2) == 0 {
				peer.gone = true
				since = &watched.oracle.heard
			}
			l.watch = 0
			l.run(l.now + int64(c.WorstCase())*2)
			if l.problem != "" {
				t.Fatalf("%v: link %d: %s", c, k, l.dump(0))
			}
			worst = max(worst, watched.at-*since)
		}
		if bound := int64(c.WorstCase()); worst > bound || worst < bound-2*tick {
			t.Errorf("%v: the latest of 2,000 verdicts came after %v", c, time.Duration(worst))
		}
	}
}

// TestToleranceIsSharp shows that Tolerance is no tighter than it must be: an
// outage not much longer ends some healthy connections.
func TestToleranceIsSharp(t *testing.T) {
	l := emptyLink()
	for _, tt := range []struct {
		name   string
		config heartbeat.Config
		format format
		stream bool
		over   float64
	}{
		{"Relaxed", heartbeat.Relaxed(), formats[1], true, 1.2},
		{"Strict", heartbeat.Strict(), formats[1], true, 1.2},
		{"Realtime", heartbeat.Realtime(), formats[1], true, 3}, // its length falls between two copies
		{"querying datagrams", heartbeat.Config{Interval: sec, Misses: 2, Retry: 10 * sec}, formats[1], false, 1.1},
		{"waiting datagrams", heartbeat.Config{Interval: 10 * sec, Misses: 8, Retry: 2 * sec}, formats[3], false, 2},
		{"idle read", heartbeat.Config{Interval: sec, Misses: 9, Retry: 2 * sec, IdleRead: 5 * sec}, formats[1], false, 1.4},
	} {
		// ends reports whether any of some links ends after such an outage.
		ends := func(over float64, links uint64) bool {
			for k := range links {
				l.connect(t, k, 13, tt.format, tt.config)
				l.stream = tt.stream
				interval := int64(tt.config.Interval)
				l.run(l.now + 2*interval)
				d := min(l.ends[0].plan.Tolerance(), l.ends[1].plan.Tolerance())
				from := l.now + l.rand.Int64N(interval)
				to := from + int64(float64(d)*over)
				l.tidy = false
				for i := range l.cuts {
					l.cuts[i] = append(l.cuts[i], span{from, to})
				}
				l.run(to + int64(tt.config.WorstCase()) + interval)
				if l.problem != "" {
					t.Fatalf("%s: link %d: %s", tt.name, k, l.dump(0))
				}
				if l.ends[0].verdict != heartbeat.None || l.ends[1].verdict != heartbeat.None {
					return true
				}
			}
			return false
		}
		if ends(1, 2000/raceSlowdown) {
			t.Errorf("%s: a verdict after an outage as long as Tolerance", tt.name)
		}
		if !ends(tt.over, 2000) {
			t.Errorf("%s: no verdict after an outage %v times as long as Tolerance", tt.name, tt.over)
		}
	}
}

// TestNothingIsAllocated lets links be well for a while, and then be cut off: their
// ends ping, answer, ask in vain and give up, and nothing is allocated.
func TestNothingIsAllocated(t *testing.T) {
	if raceSlowdown > 1 {
		t.Skip("the race detector allocates")
	}
	l := emptyLink()
	for _, f := range formats[:4] {
		for _, c := range []heartbeat.Config{
			heartbeat.Relaxed(),
			{Interval: sec, Misses: 4, Retry: 500 * ms, Confirm: 3},
			{Interval: sec, Misses: 2, Confirm: -1, IdleRead: 3 * sec},
		} {
			plans := [2]*heartbeat.Plan{planFor(t, c, f.side[0]), planFor(t, c, f.side[1])}
			live := func() {
				l.reset(7, 7)
				l.stream = c.Confirm > 0
				l.flight, l.jitter = int64(5*ms), int64(ms)
				for i := range l.ends {
					l.open(i, plans[i])
				}
				l.talks(0, int64(c.Interval))
				l.run(l.now + 20*int64(c.Interval))
				l.tidy = false
				for i := range l.cuts {
					l.cuts[i] = append(l.cuts[i], span{l.now, forever})
				}
				l.run(l.now + 2*int64(c.WorstCase()))
			}
			if n := testing.AllocsPerRun(10, live); n != 0 {
				t.Errorf("%s, %v: %v allocations", f.name, c, n)
			}
			if l.problem != "" || l.ends[0].verdict == heartbeat.None || l.ends[1].verdict == heartbeat.None {
				t.Errorf("%s, %v: %s", f.name, c, l.dump(0))
			}
		}
	}
}
