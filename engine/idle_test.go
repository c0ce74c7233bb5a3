package engine_test

import (
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// The handler is told of every idle period, how long it has been and for which
// time, and decides when it is enough. What the peer sends starts the count anew.
func TestIdleEvents(t *testing.T) {
	const limit = 100 * time.Millisecond
	cs := newCloses()
	events := make(chan engine.IdleEvent, 100)
	spoken, said := false, make(chan struct{})
	srv := serve(t, listenOne(engine.Handler{
		Idle: func(c *engine.Conn, e engine.IdleEvent) bool {
			events <- e
			if e.Count == 2 {
				<-said // this test may be late, too
			}
			return e.Count < 3
		},
		Message: func(*engine.Conn, []byte) { spoken = true },
		Close: func(c *engine.Conn, err error) {
			if !spoken {
				t.Error("closed before the peer spoke")
			}
			cs.note(c, err)
		},
	}, heartbeat.Config{IdleRead: limit}))
	c := rawDial(t, srv)
	next := func(count int) {
		t.Helper()
		select {
		case e := <-events:
			if e.Limit != engine.IdleRead || e.Count != count || e.For < time.Duration(count)*limit {
				t.Errorf("event %v of %+v", count, e)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("no event")
		}
	}
	next(1)
	next(2)
	write(t, c, frame(t, codec.Data, []byte("here")))
	close(said)
	next(1)
	next(2)
	next(3)
	cs.reason(t, engine.Idle)
	if len(events) > 0 {
		t.Errorf("%d events after the last", len(events))
	}
}

// An idle period that the handler lets pass leaves other deadlines where they are.
func TestIdleKeepsDeadlines(t *testing.T) {
	const limit = 800 * time.Millisecond
	cs := newCloses()
	cfg := listenOne(engine.Handler{
		Idle:  func(*engine.Conn, engine.IdleEvent) bool { return true },
		Close: cs.note,
	}, heartbeat.Config{IdleRead: 3 * limit / 8}) // for the third time behind it
	cfg.FrameTimeout = limit
	srv := serve(t, cfg)
	write(t, rawDial(t, srv), frame(t, codec.Data, []byte("begun, and not finished"))[:7])
	ce := cs.reason(t, engine.FrameTimeout)
	inTime(t, srv, ce.Evidence.LastRead, limit-time.Millisecond, limit)
}

// What is only written, or only read, is idle in the other sense, and a dead
// peer is still found while the handler lets it be idle.
func TestIdleWithHeartbeat(t *testing.T) {
	cs := newCloses()
	events := make(chan engine.IdleEvent, 1000)
	live := quick
	live.IdleRead = 200 * time.Millisecond
	live.Misses = 5
	srv := serve(t, listenOne(engine.Handler{
		Idle:  func(_ *engine.Conn, e engine.IdleEvent) bool { events <- e; return true },
		Close: cs.note,
	}, live))
	rawDial(t, srv)
	ce := cs.reason(t, engine.HeartbeatLost)
	if len(events) == 0 {
		t.Error("the peer was silent and no event told of it")
	}
	st := srv.Stats().Total
	if most := live.Interval + time.Duration(live.Misses)*live.Retry + 20*time.Millisecond + st.Lag + st.Stalled; ce.Evidence.LastRead > most {
		t.Errorf("silent for %v before the verdict, want at most %v", ce.Evidence.LastRead, most)
	}
}
