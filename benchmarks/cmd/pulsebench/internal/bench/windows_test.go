//go:build linux

package bench_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/bench"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

const slice = 50 * time.Millisecond

// served is a server with this handler, and the load that is to have windows on it.
func served(t *testing.T, h engine.Handler) (*engine.Server, bench.Bench) {
	srv := serve(t, engine.Config{Listeners: []engine.Listener{{Codec: codec.Length4(), Liveness: heartbeat.Relaxed()}}, Handler: h})
	return srv, bench.Bench{Plan: plan(srv, spec.Closed, "length4"), PIDs: []int{os.Getpid()}}
}

// Window follows window over the same connections, each with what came in it, and
// between them the server hears nothing.
func TestWindows(t *testing.T) {
	t.Run("closed", func(t *testing.T) { testWindows(t, spec.Closed) })
	t.Run("open", func(t *testing.T) { testWindows(t, spec.Open) })
}

func testWindows(t *testing.T, workload spec.Workload) {
	var heard atomic.Int64
	srv, b := served(t, engine.Handler{Message: func(c *engine.Conn, payload []byte) {
		heard.Add(1)
		_ = c.Send(payload)
	}})
	b.Plan = plan(srv, workload, "length4")
	w, err := b.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if heard.Load() == 0 {
		t.Error("no warm-up")
	}
	for range 3 {
		before := heard.Load()
		share, err := w.Window(slice)
		if err != nil {
			t.Fatal(err)
		}
		after := heard.Load()
		c := share.Counters
		uncounted := after - before - c.Messages // of an open loop that began late: none
		if c.Messages == 0 || uncounted < 0 || uncounted == 0 && workload != spec.Open || c.Sent == 0 || c.Reads == 0 || c.Writes == 0 ||
			share.ServerCPU <= 0 || share.OwnCPU <= 0 || time.Duration(share.To-share.From) < slice {
			t.Errorf("the server heard %d messages in %+v", after-before, share)
		}
		time.Sleep(slice) // it is what does not happen meanwhile that is of interest
		if late := heard.Load() - after; late != 0 {
			t.Errorf("%d messages after the window", late)
		}
	}
	if s := srv.Stats().Total; s.Open != 20 {
		t.Errorf("%d connections open, want 20", s.Open)
	}
	if err := w.End(); err != nil {
		t.Error(err)
	}
	eventually(t, "all are closed", func() bool { return srv.Stats().Total.Open == 0 })
}

// What goes wrong in a window, or between two, is found.
func TestWindowSpoilt(t *testing.T) {
	for name, want := range map[string]string{"altered": "altered", "closed": "lost", "between": "lost"} {
		t.Run(name, func(t *testing.T) {
			var spoil atomic.Bool
			var one atomic.Pointer[engine.Conn]
			srv, b := served(t, engine.Handler{Message: func(c *engine.Conn, payload []byte) {
				one.CompareAndSwap(nil, c)
				if spoil.Load() && one.Load() == c {
					switch name {
					case "altered":
						payload[0]++
					case "closed":
						_ = c.Abort()
						return
					}
				}
				_ = c.Send(payload)
			}})
			w, err := b.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			spoil.Store(true)
			if name == "between" {
				if err := one.Load().Abort(); err != nil {
					t.Fatal(err)
				}
				eventually(t, "it is gone", func() bool { return srv.Stats().Total.Open == 19 })
				err = w.End()
			} else {
				_, err = w.Window(slice)
				if end := w.End(); end != nil {
					t.Errorf("what Window has said, End says again: %v", end)
				}
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want something about %q", err, want)
			}
		})
	}
}

// The end of its context ends a window, and no process stays.
func TestWindowInterrupted(t *testing.T) {
	_, b := served(t, echo())
	ctx, cancel := context.WithCancel(t.Context())
	w, err := b.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(slice, cancel)
	if _, err := w.Window(time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("Window = %v", err)
	}
	if err := w.End(); err != nil {
		t.Error(err)
	}
	if left := children(t); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

// What has no windows is refused, and what cannot be opened says why.
func TestWindowsRefused(t *testing.T) {
	srv, good := served(t, echo())
	for want, change := range map[string]func(*bench.Bench){
		"windows": func(b *bench.Bench) { b.Plan = plan(srv, spec.Churn, "length4") },
		"worker":  func(b *bench.Bench) { b.Plan.Workers = 2 },
		"refused": func(b *bench.Bench) { b.Plan.Target = "127.0.0.1:1" },
		"-pid":    func(b *bench.Bench) { b.PIDs = []int{1 << 22} },
		"-cpus":   func(b *bench.Bench) { b.CPUs = []int{1000} },
	} {
		b := good
		change(&b)
		if w, err := b.Open(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want something about %q", err, want)
			if err == nil {
				_ = w.End()
			}
		}
	}
	if left := children(t); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}
