package engine_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A read ends at urgent data (tcp(7)), and so comes short although there is more. It
// is read all the same, be it on an event or after a pause.
func TestUrgentData(t *testing.T) {
	for name, hold := range map[string]func(c *engine.Conn) (release func()){
		"event": func(c *engine.Conn) func() {
			released := make(chan struct{})
			if err := c.Loop().Post(func() { <-released }); err != nil {
				t.Error(err)
			}
			return func() { close(released) }
		},
		"pause": func(c *engine.Conn) func() {
			if err := c.Pause(); err != nil {
				t.Error(err)
			}
			return func() { _ = c.Resume() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			var opened conns
			got := make(chan string, 2)
			srv := serve(t, listenOne(engine.Handler{
				Open:    opened.open,
				Message: func(_ *engine.Conn, p []byte) { got <- string(p) },
			}, heartbeat.Config{}))
			peer := rawDial(t, srv)
			release := hold(opened.wait(t, 1)[0])
			write(t, peer, frame(t, codec.Data, []byte("before")))
			raw, err := peer.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if e := raw.Control(func(fd uintptr) { err = unix.Send(int(fd), []byte("!"), unix.MSG_OOB) }); e != nil || err != nil {
				t.Fatal(e, err)
			}
			write(t, peer, frame(t, codec.Data, []byte("after")))
			time.Sleep(20 * time.Millisecond) // so that one read finds all of it
			release()
			for _, want := range []string{"before", "after"} {
				select {
				case p := <-got:
					if p != want {
						t.Errorf("got %q, want %q", p, want)
					}
				case <-time.After(10 * time.Second):
					t.Fatalf("%q did not come", want)
				}
			}
		})
	}
}
