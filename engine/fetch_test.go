package engine_test

import (
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// Hundreds of connections that are due in one tick, so that the wheel fetches them
// ahead, while others of both loops come and go: each silent one ends, once.
func TestManyDueInOneTick(t *testing.T) {
	const peers = 600
	cs := newCloses()
	cfg := listenOne(engine.Handler{Close: cs.note}, heartbeat.Config{IdleRead: time.Second})
	cfg.Loops, cfg.Tick = 2, 500*time.Millisecond
	srv := serve(t, cfg)
	for i := range peers {
		c := rawDial(t, srv)
		if i%4 == 0 {
			_ = c.Close() // its number goes to another one, on either loop
		}
	}
	reasons := make(map[engine.Reason]int)
	seen := make(map[engine.ID]bool)
	for range peers {
		x := cs.next(t)
		reasons[engine.ReasonOf(x.err)]++
		seen[x.c.ID()] = true
	}
	if len(seen) != peers || reasons[engine.Idle] != peers-peers/4 || reasons[engine.PeerClosed] != peers/4 {
		t.Errorf("%d connections ended: %v", len(seen), reasons)
	}
}
