package heartbeat_test

import (
	"math"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

func TestPresets(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config heartbeat.Config
		worst  time.Duration
		useful time.Duration
	}{
		{"Relaxed", heartbeat.Relaxed(), 40 * sec, 12900 * ms},
		{"Strict", heartbeat.Strict(), 9 * sec, 2400 * ms},
		{"Realtime", heartbeat.Realtime(), 2 * sec, 300 * ms},
	} {
		c := tt.config
		if c.WorstCase() > tt.worst {
			t.Errorf("%s: WorstCase %v, want at most %v", tt.name, c.WorstCase(), tt.worst)
		}
		if c.Tolerance() < tt.useful {
			t.Errorf("%s: Tolerance %v, want at least %v", tt.name, c.Tolerance(), tt.useful)
		}
		// So that Deaf is told from Lost at any rate of talking.
		if tries := time.Duration(c.Misses) * c.Retry; tries-c.Retry/2 <= c.Interval {
			t.Errorf("%s: %v of trying is too short to tell Deaf from Lost", tt.name, tries)
		}
		for _, tr := range []heartbeat.Traits{directed, pingOnly, pongOnly, echoAsker, echoAnswerer, beacons, listenOnly} {
			p := planFor(t, c, tr)
			if p.WorstCase() > c.WorstCase() || p.Tolerance() < c.Tolerance() {
				t.Errorf("%s for %+v: %v, %v are worse than the config's %v, %v",
					tt.name, tr, p.WorstCase(), p.Tolerance(), c.WorstCase(), c.Tolerance())
			}
		}
	}
}

func TestWorstCase(t *testing.T) {
	for _, tt := range []struct {
		name          string
		config        heartbeat.Config
		want          time.Duration // of the Config
		query, answer time.Duration // of the Plan in that role; -1: not applicable
	}{
		{"nothing", heartbeat.Config{}, 0, 0, 0},
		{"heartbeat", heartbeat.Config{Interval: 5 * sec, Misses: 2, Retry: sec}, 7010 * ms, 7010 * ms, 7010 * ms},
		{"retry by default", heartbeat.Config{Interval: 5 * sec, Misses: 2}, 15010 * ms, 15010 * ms, 15010 * ms},
		{"confirm", heartbeat.Config{Interval: 5 * sec, Misses: 2, Retry: sec, Confirm: 4}, 22010 * ms, 22010 * ms, 7010 * ms},
		{"no confirm", heartbeat.Config{Interval: 5 * sec, Misses: 2, Retry: sec, Confirm: -4}, 7010 * ms, 7010 * ms, 7010 * ms},
		{"idle read is sooner, but not for the deaf", heartbeat.Config{Interval: 5 * sec, Misses: 2, IdleRead: 11 * sec}, 15010 * ms, 15010 * ms, 11010 * ms},
		{"idle read is sooner", heartbeat.Config{Interval: 5 * sec, Misses: 2, IdleRead: 11 * sec, Confirm: -1}, 11010 * ms, 11010 * ms, 11010 * ms},
		{"idle read is later", heartbeat.Config{Interval: 5 * sec, Misses: 2, IdleRead: 20 * sec, Confirm: -1}, 15010 * ms, 15010 * ms, 15010 * ms},
		{"idle read alone", heartbeat.Config{IdleRead: 5 * sec}, 5010 * ms, 5010 * ms, 5010 * ms},
		{"idle write and all bound nothing", heartbeat.Config{IdleWrite: 5 * sec, IdleAll: sec}, 0, 0, 0},
		{"longest", heartbeat.Config{IdleRead: long}, long, long, long},
		{"invalid", heartbeat.Config{Interval: long, Misses: math.MaxInt, Confirm: math.MaxInt}, long, -1, -1},
		{"negative", heartbeat.Config{Interval: -5, Misses: -5, Retry: -5, IdleRead: -5}, 0, -1, -1},
	} {
		if got := tt.config.WorstCase(); got != tt.want {
			t.Errorf("%s: Config says %v, want %v", tt.name, got, tt.want)
		}
		if tt.query < 0 {
			continue
		}
		if got := planFor(t, tt.config, directed).WorstCase(); got != tt.query {
			t.Errorf("%s: Plan that queries says %v, want %v", tt.name, got, tt.query)
		}
		if got := planFor(t, tt.config, pongOnly).WorstCase(); got != tt.answer {
			t.Errorf("%s: Plan that answers says %v, want %v", tt.name, got, tt.answer)
		}
	}
}

func TestTolerance(t *testing.T) {
	for _, tt := range []struct {
		name          string
		config        heartbeat.Config
		query, answer time.Duration
	}{
		{"nothing detects", heartbeat.Config{}, long, long},
		{"idle limits alone", heartbeat.Config{IdleRead: sec}, 0, 0},
		{"idle write alone", heartbeat.Config{IdleWrite: sec}, 0, 0},
		{"idle all alone", heartbeat.Config{IdleAll: sec}, 0, 0},
		// (40 s - 200 ms - 4×200 ms)/2 - 10 ms; 30 s - 400 ms - 10 ms is longer.
		{"stream decides", heartbeat.Config{Interval: 10 * sec, Misses: 4}, 19490 * ms, 19490 * ms},
		// Querying (20 s - 1 s)/2 - 10 ms; waiting 20 s - 14 s - 400 ms - 10 ms.
		{"datagrams decide when waiting", heartbeat.Config{Interval: 14 * sec, Misses: 2, Retry: 10 * sec}, 9490 * ms, 5590 * ms},
		{"single miss", heartbeat.Config{Interval: 10 * sec, Misses: 1}, 0, 0},
		{"single long miss", heartbeat.Config{Interval: sec, Misses: 1, Retry: 10 * sec}, 0, 4490 * ms},
		// W = IdleRead - Interval = 15 s: 15 s - 10 s - 410 ms.
		{"idle read", heartbeat.Config{Interval: 10 * sec, Misses: 4, IdleRead: 25 * sec}, 4590 * ms, 4590 * ms},
		{"idle read too short", heartbeat.Config{Interval: 10 * sec, Misses: 4, IdleRead: 20 * sec}, 0, 0},
		{"idle write", heartbeat.Config{Interval: 10 * sec, Misses: 4, IdleWrite: 25 * sec}, 19490 * ms, 4590 * ms},
		{"idle all", heartbeat.Config{Interval: 10 * sec, Misses: 4, IdleWrite: 30 * sec, IdleAll: 25 * sec}, 19490 * ms, 4590 * ms},
		{"idle all within a retry", heartbeat.Config{Interval: sec, Misses: 4, Retry: 10 * sec, IdleAll: 5 * sec}, 0, 1490 * ms},
		// RTT = 100 ms: (800 ms - 200 ms - 400 ms)/2 - 10 ms.
		{"short retry", heartbeat.Config{Interval: 200 * ms, Misses: 4}, 90 * ms, 90 * ms},
		{"retry of a tick", heartbeat.Config{Interval: 10 * ms, Misses: 400}, 0, 0},
		{"longest", heartbeat.Config{Interval: sec, Misses: 1, Retry: long - 2*sec}, 0, (long-2*sec-sec)/2 - 10*ms},
	} {
		q, a := planFor(t, tt.config, directed).Tolerance(), planFor(t, tt.config, pongOnly).Tolerance()
		if q != tt.query || a != tt.answer {
			t.Errorf("%s: querying %v, answering %v; want %v, %v", tt.name, q, a, tt.query, tt.answer)
		}
		if got, want := tt.config.Tolerance(), min(q, a); got != want {
			t.Errorf("%s: Config says %v, want %v", tt.name, got, want)
		}
	}
}
