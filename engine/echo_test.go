package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// serve runs a server until the test ends, and checks that it ends cleanly.
func serve(t testing.TB, cfg engine.Config) *engine.Server {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	srv, err := engine.Listen(cfg)
	return serving(t, srv, err)
}

// serveOn is serve on a kernel that counts.
func serveOn(t testing.TB, k *engine.CountingKernel, cfg engine.Config) *engine.Server {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	srv, err := engine.ListenOn(k, cfg)
	return serving(t, srv, err)
}

func serving(t testing.TB, srv *engine.Server, err error) *engine.Server {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil && err != engine.ErrClosed {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Serve did not return after its context ended")
		}
	})
	return srv
}

// client makes a client that is shut down when the test ends.
func client(t testing.TB, cfg engine.ClientConfig) *engine.Client {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cl, err := engine.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := cl.Shutdown(ctx); err != nil {
			t.Errorf("client shutdown: %v", err)
		}
	})
	return cl
}

func dial(t testing.TB, cl *engine.Client, addr string) *engine.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := cl.Dial(ctx, addr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func listenOne(h engine.Handler, liveness heartbeat.Config) engine.Config {
	return engine.Config{
		Listeners: []engine.Listener{{Addr: "tcp://127.0.0.1:0", Codec: codec.Native{}, Liveness: liveness}},
		Handler:   h,
	}
}

func echo(c *engine.Conn, p []byte) { _ = c.Send(p) }

func TestEcho(t *testing.T) {
	for _, size := range []int{0, 1, 100, 60_000, 70_000, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			srv := serve(t, listenOne(engine.Handler{Message: echo}, heartbeat.Relaxed()))
			got := make(chan []byte, 10)
			cl := client(t, engine.ClientConfig{
				Codec: codec.Native{}, Liveness: heartbeat.Relaxed(),
				Handler: engine.Handler{Message: func(_ *engine.Conn, p []byte) { got <- bytes.Clone(p) }},
			})
			c := dial(t, cl, srv.Addrs()[0])
			want := bytes.Repeat([]byte("pulse"), size/5+1)[:size]
			for range 5 {
				if err := c.Send(want); err != nil {
					t.Fatal(err)
				}
				select {
				case p := <-got:
					if !bytes.Equal(p, want) {
						t.Fatalf("echo of %d bytes differs", size)
					}
				case <-time.After(5 * time.Second):
					t.Fatal("no echo")
				}
			}
		})
	}
}
