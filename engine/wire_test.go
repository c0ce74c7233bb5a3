package engine_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
)

// rawDial opens a plain connection to a server under test.
func rawDial(t testing.TB, srv *engine.Server) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", srv.Port(0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// frame encodes one Native frame.
func frame(t testing.TB, kind codec.Kind, payload []byte) []byte {
	t.Helper()
	native, err := codec.Native{}.Codec()
	if err != nil {
		t.Fatal(err)
	}
	b, err := native.Append(nil, kind, payload)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// expect reads exactly what is wanted.
func expect(t testing.TB, c net.Conn, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("reading %d bytes: %v", len(want), err)
	}
	if string(got) != string(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

// closes collects what Handler.Close receives.
type closes struct {
	ch chan closed
}

type closed struct {
	c   *engine.Conn
	err error
	at  time.Time
}

func newCloses() *closes { return &closes{ch: make(chan closed, 1000)} }

func (cs *closes) note(c *engine.Conn, err error) { cs.ch <- closed{c, err, time.Now()} }

// next waits for one close.
func (cs *closes) next(t testing.TB) closed {
	t.Helper()
	select {
	case x := <-cs.ch:
		return x
	case <-time.After(15 * time.Second):
		t.Fatal("no connection was closed")
		panic("unreachable")
	}
}

// reason waits for one close and checks why.
func (cs *closes) reason(t testing.TB, want engine.Reason) *engine.CloseError {
	t.Helper()
	x := cs.next(t)
	if got := engine.ReasonOf(x.err); got != want {
		t.Fatalf("closed with %v (%v), want %v", got, x.err, want)
	}
	ce, ok := errors.AsType[*engine.CloseError](x.err)
	if !ok {
		t.Fatalf("%T is no CloseError", x.err)
	}
	return ce
}

// none checks that nothing is closed for a moment.
func (cs *closes) none(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case x := <-cs.ch:
		t.Fatalf("connection closed: %v", x.err)
	case <-time.After(d):
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("in vain: %s", what)
}

// conns collects connections as they open.
type conns struct {
	mu  sync.Mutex
	all []*engine.Conn
}

func (cs *conns) open(c *engine.Conn) error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.all = append(cs.all, c)
	return nil
}

// wait returns the connections once there are n.
func (cs *conns) wait(t testing.TB, n int) []*engine.Conn {
	t.Helper()
	var all []*engine.Conn
	eventually(t, fmt.Sprintf("%d connections open", n), func() bool {
		cs.mu.Lock()
		defer cs.mu.Unlock()
		all = append(all[:0], cs.all...)
		return len(all) >= n
	})
	return all
}

// passLoops waits until each loop has done what it had to do by now.
func passLoops(t testing.TB, srv *engine.Server) {
	t.Helper()
	for _, l := range srv.Loops() {
		passed := make(chan struct{})
		if err := l.Post(func() { close(passed) }); err != nil {
			t.Fatal(err)
		}
		within(t, "the loop", passed)
	}
}

// holdLoop keeps a connection's loop from everything, from when it returns until it
// is released.
func holdLoop(t testing.TB, c *engine.Conn) (release func()) {
	t.Helper()
	held, released := make(chan struct{}), make(chan struct{})
	if err := c.Loop().Post(func() { close(held); <-released }); err != nil {
		t.Fatal(err)
	}
	<-held
	return func() { close(released) }
}
