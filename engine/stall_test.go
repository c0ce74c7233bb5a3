package engine_test

import (
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/engine/internal/sim"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A server that stood still for a while, and then for every other second, gives
// up on no peer that answers, and finds those that died meanwhile within the
// bound and the stalls.
//
// Where only its process was stopped, its kernel has taken the answers meanwhile,
// and they are read before a timer is looked at, so that no live peer is given up
// even if the stall counts. Where the whole machine stood still, a virtual one
// that was moved, say, they are sent again later, by TCP up to as long after the
// stall as it lasted, and what helps is that the stall does not count. Without
// that live peers are given up.
func TestStalledServer(t *testing.T) {
	const n, dead = 300, 30
	strict := heartbeat.Strict()
	// One query, and none after it that a stall would put off: those that are
	// under way when it begins are all there is.
	oneMiss := heartbeat.Config{Interval: strict.Interval, Misses: 1, Retry: 3 * strict.Retry, Speak: -1}
	for _, c := range []struct {
		name    string
		watched heartbeat.Config
		first   time.Duration // how long it stands still at first
		machine bool
		cap     time.Duration
		live    bool // all live peers stay
	}{
		{"its process", strict, 30 * time.Second, false, 0, true},
		{"its process, unguarded", strict, 30 * time.Second, false, -1, true},
		{"its machine", oneMiss, 8 * time.Second, true, 0, true},
		{"its machine, unguarded", oneMiss, 8 * time.Second, true, -1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := crowdConfig(c.watched)
			cfg.StallCap = c.cap
			// Far away, so that much is under way when it stops.
			inCrowdFrom(t, n, sim.Between(80*time.Millisecond, 90*time.Millisecond), cfg, func(x *crowd) {
				var stalled time.Duration
				stall := func(d time.Duration) {
					x.k.Stall(d)
					if c.machine {
						x.k.Outage(d)
					}
					stalled += d
				}
				x.w.RunFor(5 * time.Second)
				stall(c.first)
				x.w.RunFor(c.first / 2)
				died := x.w.Now()
				for _, p := range x.peers[:dead] {
					p.Vanish()
				}
				x.w.RunFor(c.first / 2)
				for range 20 {
					x.w.RunFor(time.Second)
					stall(time.Second)
					x.w.RunFor(time.Second)
				}
				x.w.RunFor(c.watched.WorstCase())
				ended := make(map[time.Duration]int)
				for _, end := range x.closes {
					took := time.Duration(end.at - died)
					ended[took.Round(time.Second)]++
					if end.err.Reason != engine.HeartbeatLost {
						t.Errorf("ended with %v", end.err)
					}
					if most := c.watched.WorstCase() + stalled + 100*time.Millisecond; took > most {
						t.Errorf("found after %v, want at most %v", took, most)
					}
				}
				switch st := x.srv.Stats().Total; {
				case c.live && len(x.closes) != dead:
					t.Errorf("%d ended, want the %d that died; by seconds after their death: %v", len(x.closes), dead, ended)
				case c.cap == 0 && (st.Stalled < stalled*9/10 || st.StallExcess > 0):
					t.Errorf("stood still for %v, of which %v were excused and %v were not", stalled, st.Stalled, st.StallExcess)
				case !c.live && len(x.closes) <= dead:
					t.Error("nobody was given up wrongly: the test proves nothing")
				}
			})
		})
	}
}

// Under a stream from the server a peer that only receives, and answers, is not
// given up; one that sends, but does not read, is found in time.
func TestStreamToPeersThatOnlyReceive(t *testing.T) {
	const n, deaf = 50, 5
	watched := heartbeat.Realtime()
	cfg := crowdConfig(watched)
	cfg.Backlog.Hard = 512 << 20 // who does not read is to be found by its silence
	inCrowd(t, n, cfg, func(x *crowd) {
		stopReading := func(p *crowdPeer) {
			p.Pause()
			p.Every(100*time.Millisecond, func() { p.Send(frame(t, codec.Data, []byte("I am here"))) })
		}
		message := make([]byte, 8<<10)
		for i := range 1000 {
			x.w.After(time.Duration(i)*20*time.Millisecond, func() { _ = x.srv.Broadcast(message) })
		}
		x.w.RunFor(10 * time.Second)
		if len(x.closes) > 0 {
			t.Fatalf("a peer that only receives ended: %v", x.closes[0].err)
		}
		stopped := x.w.Now()
		for _, p := range x.peers[:deaf] {
			stopReading(p)
		}
		x.w.RunFor(10 * time.Second)
		if len(x.closes) != deaf {
			t.Errorf("%d ended, want the %d that do not read", len(x.closes), deaf)
		}
		for _, end := range x.closes {
			if end.err.Reason != engine.Deaf {
				t.Errorf("ended with %v", end.err)
			}
			if took, most := time.Duration(end.at-stopped), watched.WorstCase()+20*time.Millisecond; took > most {
				t.Errorf("found after %v, want at most %v", took, most)
			}
		}
		if got := x.srv.Stats().Total.Broadcasts; got < 1000*(n-deaf) {
			t.Errorf("%d deliveries: the stream stopped", got)
		}
	})
}
