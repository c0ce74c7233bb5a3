package engine_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A loop that was never run takes no posts after its shutdown: the descriptor
// of its wake-up is somebody else's by then.
func TestPostAfterShutdown(t *testing.T) {
	srv, err := engine.Listen(listenOne(engine.Handler{}, heartbeat.Config{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Loops()[0].Post(func() {}); err != nil {
		t.Errorf("Post before Serve: %v", err)
	}
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := srv.Loops()[0].Post(func() {}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Post after Shutdown: %v", err)
	}
	if srv.Loops()[0].AfterFunc(0, func() {}).Stop() {
		t.Error("a timer was accepted after Shutdown")
	}
}

// A function that posts itself until it is refused does not keep Shutdown.
func TestShutdownWhilePosting(t *testing.T) {
	srv, err := engine.Listen(listenOne(engine.Handler{}, heartbeat.Config{}))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(context.Background()) }()
	var runs, refused atomic.Int64
	for _, l := range srv.Loops() {
		var again func()
		again = func() {
			runs.Add(1)
			if l.Post(again) != nil {
				refused.Add(1)
			}
		}
		_ = l.Post(again)
	}
	eventually(t, "the functions run", func() bool { return runs.Load() > 1000 })
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
	if n := refused.Load(); n != int64(len(srv.Loops())) {
		t.Errorf("%d of %d functions were refused", n, len(srv.Loops()))
	}
}

// Shutdown gives connections as long as its context, not only Linger.
func TestShutdownDelivers(t *testing.T) {
	opened, cs := new(conns), newCloses()
	cfg := listenOne(engine.Handler{Open: opened.open, Close: cs.note}, heartbeat.Config{})
	cfg.Linger = 100 * time.Millisecond
	cfg.Backlog.High = 16 << 20
	srv := serve(t, cfg)
	c, peer, sent := blocked(t, srv, opened)
	_ = c
	got := make(chan int64, 1)
	go func() {
		time.Sleep(500 * time.Millisecond) // a slow reader
		n, _ := io.Copy(io.Discard, peer)
		got <- n
		_ = peer.Close()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if ce := cs.reason(t, engine.Shutdown); ce.Evidence.Unsent > 0 {
		t.Errorf("%d messages were lost", ce.Evidence.Unsent)
	}
	// A GoAway follows the messages.
	if n := <-got; n < int64(sent)*50_004 {
		t.Errorf("%d bytes arrived of %d messages", n, sent)
	}
}

// Dial returns when its context ends, even if its loop does not answer.
func TestDialOnBlockedLoop(t *testing.T) {
	srv := serve(t, listenOne(engine.Handler{}, heartbeat.Config{}))
	cl := client(t, engine.ClientConfig{Codec: codec.Native{}, Limits: engine.Limits{Loops: 1}})
	hold := make(chan struct{})
	_ = cl.Loops()[0].Post(func() { <-hold })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := cl.Dial(ctx, srv.Addrs()[0]); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial: %v", err)
	}
	close(hold)
	eventually(t, "nothing is left of the dial", func() bool { return cl.Stats().Total.Open == 0 })
}

// failingCodec panics when it is asked for a connection's codec.
type failingCodec struct{ codec.Codec }

func (failingCodec) PerConn() codec.Codec { panic("no codec today") }

type failingFactory struct{}

func (failingFactory) Codec() (codec.Codec, error) {
	c, err := codec.Native{}.Codec()
	return failingCodec{c}, err
}

// failingLog panics at every record.
type failingLog struct{ slog.Handler }

func (failingLog) Enabled(context.Context, slog.Level) bool { return true }

func (failingLog) Handle(context.Context, slog.Record) error { panic("no log today") }

// An application's codec and logger that panic cost their connection, and
// neither the process nor a place.
func TestFailingCodecAndLogger(t *testing.T) {
	cfg := listenOne(engine.Handler{}, heartbeat.Config{})
	cfg.Listeners[0].Codec = failingFactory{}
	cfg.Logger = slog.New(failingLog{slog.DiscardHandler})
	cfg.MaxConns = 3
	srv := serve(t, cfg)
	for range 10 {
		c := rawDial(t, srv)
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a connection without a codec was served")
		}
	}
	eventually(t, "no place is taken", func() bool { return srv.Stats().Total.Open == 0 })
	if n := srv.Stats().Total.Panics; n != 10 {
		t.Errorf("%d panics counted, want 10", n)
	}
}

// What Open sends before it refuses a connection arrives.
func TestRefusalIsDelivered(t *testing.T) {
	cs := newCloses()
	srv := serve(t, listenOne(engine.Handler{
		Open: func(c *engine.Conn) error {
			_ = c.Send([]byte("full"))
			return errors.New("no room")
		},
		Close: cs.note,
	}, heartbeat.Config{}))
	c := rawDial(t, srv)
	expect(t, c, frame(t, codec.Data, []byte("full")))
	if ce := cs.reason(t, engine.Local); ce.Err == nil || ce.Err.Error() != "no room" {
		t.Errorf("cause %v", ce.Err)
	}
}
