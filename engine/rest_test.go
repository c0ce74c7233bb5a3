package engine_test

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// interrupting is a codec in whose Decode, on the loop and outside of any callback,
// something else happens. It is its own factory.
type interrupting struct {
	inner
	by func()
}

type inner = codec.Codec

func (i *interrupting) Codec() (codec.Codec, error) { return i, nil }
func (i *interrupting) PerConn() codec.Codec        { return i }

func (i *interrupting) Decode(b []byte) (codec.Frame, int, int, error) {
	i.by()
	return i.inner.Decode(b)
}

// What another goroutine asks of a connection while the loop reads a heartbeat of
// its peer's, after which there is otherwise nothing to settle, is done without
// another event.
func TestAskedDuringHeartbeat(t *testing.T) {
	ping := frame(t, codec.Ping, make([]byte, 12))
	message := string(frame(t, codec.Data, []byte("meanwhile")))
	pong := string(frame(t, codec.Pong, make([]byte, 12)))
	for name, x := range map[string]struct {
		ask  func(*engine.Conn) error
		want string // what the peer reads
		ends bool   // after that
		err  error  // and how: nil for an end of stream
	}{
		"send":  {ask: func(c *engine.Conn) error { return c.Send([]byte("meanwhile")) }, want: message + pong},
		"close": {ask: (*engine.Conn).Close, ends: true},
		"abort": {ask: (*engine.Conn).Abort, ends: true, err: syscall.ECONNRESET},
		"pause": {ask: (*engine.Conn).Pause, want: pong},
	} {
		t.Run(name, func(t *testing.T) {
			native, err := codec.Native{}.Codec()
			if err != nil {
				t.Fatal(err)
			}
			conns := make(chan *engine.Conn, 1)
			asked := make(chan error, 1)
			i := &interrupting{inner: native}
			cfg := listenOne(engine.Handler{Open: func(c *engine.Conn) error { conns <- c; return nil }}, heartbeat.Config{}) // no timer comes to its help
			cfg.Listeners[0].Codec = i
			i.by = func() {
				c := <-conns
				done := make(chan struct{})
				go func() {
					asked <- x.ask(c)
					close(done)
				}()
				<-done
			}
			srv := serve(t, cfg)
			peer := rawDial(t, srv)
			if err := peer.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			write(t, peer, ping)
			if err := <-asked; err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(x.want))
			if _, err := io.ReadFull(peer, got); err != nil || string(got) != x.want {
				t.Errorf("the peer reads %q, %v, want %q", got, err, x.want)
			}
			if x.ends {
				if rest, err := io.ReadAll(peer); len(rest) > 0 || !errors.Is(err, x.err) {
					t.Errorf("then it reads %q, %v, want %v", rest, err, x.err)
				}
			}
			if name == "pause" {
				eventually(t, "the pause begins", func() bool { return srv.Stats().Total.Pauses == 1 })
			}
		})
	}
}
