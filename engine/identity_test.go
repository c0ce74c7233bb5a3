package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A connection that introduces itself with an identity in use takes it over: the
// older one ends with Replaced, gets what was sent to it before, and its end does
// not touch the newer.
func TestIdentifyReplaces(t *testing.T) {
	cs := newCloses()
	conns := make(chan *engine.Conn, 2)
	var shared atomic.Pointer[engine.Server]
	srv := serve(t, listenOne(engine.Handler{
		Message: func(c *engine.Conn, payload []byte) {
			old := shared.Load().Identified(string(payload))
			if old != nil {
				if err := old.Send([]byte("you came back")); err != nil {
					t.Error(err)
				}
			}
			if replaced, err := c.Identify(string(payload)); err != nil || replaced != old {
				t.Errorf("Identify: %v, %v", replaced, err)
			}
			conns <- c
		},
		Close: cs.note,
	}, heartbeat.Config{}))
	shared.Store(srv)
	if srv.Identified("me") != nil {
		t.Error("somebody has an identity that nobody took")
	}
	introduction := frame(t, codec.Data, []byte("me"))
	first := rawDial(t, srv)
	write(t, first, introduction)
	older := <-conns
	if srv.Identified("me") != older {
		t.Error("the first is not known by its identity")
	}
	second := rawDial(t, srv)
	write(t, second, introduction)
	newer := <-conns
	farewell := frame(t, codec.Data, []byte("you came back"))
	got := make([]byte, len(farewell))
	if _, err := io.ReadFull(first, got); err != nil || !bytes.Equal(got, farewell) {
		t.Errorf("the first got %q, %v", got, err)
	}
	_ = first.Close()
	cs.reason(t, engine.Replaced)
	if got := srv.Identified("me"); got != newer {
		t.Errorf("after the end of the first, the identity is with %v", got)
	}
	_ = second.Close()
	cs.reason(t, engine.PeerClosed)
	if srv.Identified("me") != nil {
		t.Error("a closed connection keeps its identity")
	}
	if _, err := newer.Identify("you"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Identify of a closed connection: %v", err)
	}
	if srv.Identified("you") != nil {
		t.Error("a closed connection got an identity")
	}
}

// However many connections fight for an identity from whichever goroutine, one
// has it, and nothing of those that ended is left.
func TestIdentifyConcurrently(t *testing.T) {
	cs := newCloses()
	opened := make(chan *engine.Conn, 100)
	srv := serve(t, listenOne(engine.Handler{
		Open:  func(c *engine.Conn) error { opened <- c; return nil },
		Close: cs.note,
	}, heartbeat.Config{}))
	const n = 40
	var all []*engine.Conn
	var dialled []net.Conn
	for range n {
		dialled = append(dialled, rawDial(t, srv))
		all = append(all, <-opened)
	}
	var started sync.WaitGroup
	for i, c := range all {
		started.Add(1)
		go func() {
			defer started.Done()
			for j := range 20 {
				_, _ = c.Identify(fmt.Sprint("key ", (i+j)%3))
				if i%2 == 0 && j == 10 {
					_ = dialled[i].Close()
				}
			}
		}()
	}
	started.Wait()
	for _, d := range dialled {
		_ = d.Close()
	}
	for range n {
		cs.next(t)
	}
	for i := range 3 {
		if c := srv.Identified(fmt.Sprint("key ", i)); c != nil {
			t.Errorf("key %d is still with connection %d", i, c.ID())
		}
	}
}
