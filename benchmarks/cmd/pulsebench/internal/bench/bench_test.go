//go:build linux

package bench_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/bench"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/fleet"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/generator"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/hist"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/result"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/wire"
	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

func TestMain(m *testing.M) {
	if fleet.IsWorker() {
		generator.Main()
		return
	}
	leak.Main(m)
}

// serve starts a server that ends with the test. Those that want to know it are
// told before it has a connection.
func serve(t *testing.T, c engine.Config, tell ...func(*engine.Server)) *engine.Server {
	t.Helper()
	for i := range c.Listeners {
		c.Listeners[i].Addr = "tcp://127.0.0.1:0"
	}
	c.Limits.Loops, c.Limits.DrainTimeout = 1, -1
	srv, err := engine.Listen(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tell {
		f(srv)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return srv
}

func target(srv *engine.Server) string { return fmt.Sprintf("127.0.0.1:%d", srv.Port(0)) }

// echo is the handler of an echo server.
func echo() engine.Handler {
	return engine.Handler{Message: func(c *engine.Conn, payload []byte) {
		if c.Send(payload) != nil {
			c.Abort()
		}
	}}
}

func echoServer(t *testing.T, factory codec.Factory) *engine.Server {
	return serve(t, engine.Config{
		Listeners: []engine.Listener{{Codec: factory, Liveness: heartbeat.Relaxed()}}, Handler: echo(),
	})
}

// plan is a short run with what the command line fills in.
func plan(srv *engine.Server, w spec.Workload, protocol string) spec.Spec {
	return spec.Spec{
		Target: target(srv), Workload: w, Protocol: wire.Options{Name: protocol, Run: "test"},
		Conns: 20, Payload: "uniform:1-2000", Seed: 1, Depth: 3, Rate: 500, Arrivals: spec.Uniform,
		Connecting: 8, ConnectLimit: 20 * time.Second, PerConn: 2, End: spec.EndFin, Senders: 2,
		Share: 0.5, Ways: []spec.Way{spec.Silent}, DetectLimit: 20 * time.Second,
		Warmup: 50 * time.Millisecond, Duration: 500 * time.Millisecond, Drain: 10 * time.Second,
		Step: 100 * time.Millisecond, MaxOutstanding: 100_000, Workers: 1, SaturatedAt: 1,
	}
}

// run carries a plan out that must go well.
func run(t *testing.T, b bench.Bench) result.Run {
	t.Helper()
	r, err := b.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Problems) > 0 {
		t.Fatalf("problems: %q, lost: %v", r.Problems, r.Lost)
	}
	return r
}

// checkSeries wants a step for each part of the window, which add up to the whole.
func checkSeries(t *testing.T, r result.Run, p spec.Spec) {
	t.Helper()
	if want := int(p.Duration / p.Step); len(r.Series) != want {
		t.Errorf("a series of %d steps, want %d", len(r.Series), want)
	}
	sum := 0.0
	for _, step := range r.Series {
		sum += step.MessagesPerSecond * p.Step.Seconds()
	}
	if whole := float64(r.Counters.Messages); math.Abs(sum-whole) > 0.5 {
		t.Errorf("the steps have %.1f messages, the whole %.0f", sum, whole)
	}
}

// Workloads that echo run over the presets, from two processes, and what they
// report is of a piece.
func TestEcho(t *testing.T) {
	formats := map[string]codec.Factory{
		"length4": codec.Length4(), "native": codec.Native{},
		"length2": codec.LengthField{Size: 2, Strip: codec.StripHeader},
		"varint":  codec.LengthField{Size: codec.Base128, Strip: codec.StripHeader},
	}
	for name, factory := range formats {
		var liveness heartbeat.Config
		if name == "length4" || name == "native" {
			liveness = heartbeat.Relaxed()
		}
		srv := serve(t, engine.Config{Listeners: []engine.Listener{{Codec: factory, Liveness: liveness}}, Handler: echo()})
		workloads := []spec.Workload{spec.Closed}
		if name == "length4" {
			workloads = append(workloads, spec.Open, spec.Churn)
		}
		for _, w := range workloads {
			t.Run(name+"/"+string(w), func(t *testing.T) {
				p := plan(srv, w, name)
				p.Workers = 2
				if w == spec.Churn {
					p.Rate = 0
				}
				r := run(t, bench.Bench{Plan: p, PIDs: []int{os.Getpid()}})
				checkSeries(t, r, p)
				if r.Counters.Messages == 0 || r.MessagesPerSecond <= 0 || r.Seconds <= 0 {
					t.Errorf("%d messages, %.0f/s in %.3f s", r.Counters.Messages, r.MessagesPerSecond, r.Seconds)
				}
				if r.Server == nil || r.Server.CPUPerMessage <= 0 || r.Server.RSSOpen <= 0 || len(r.Client.Shares) != 2 {
					t.Errorf("server %+v, client %+v", r.Server, r.Client)
				}
				// An open loop has the answers of what was due in the window; the
				// others have what came in it, give or take the batch at its edges.
				want := r.Counters.Messages
				if w == spec.Open {
					want = int64(p.Rate * p.Duration.Seconds())
				}
				if got := r.Latency.Count; got < want-want/5-5 || got > want+want/5+5 {
					t.Errorf("%d latencies of about %d messages", got, want)
				}
				h, err := hist.Parse(r.Latency.HDR)
				if err != nil || h.Count() != r.Latency.Count {
					t.Errorf("the histogram of %d latencies: %v", r.Latency.Count, err)
				}
			})
		}
	}
}

// More than the kernel's buffers hold, for a server that does not read at first,
// comes back whole.
func TestLargeMessages(t *testing.T) {
	srv := serve(t, engine.Config{
		Listeners: []engine.Listener{{Codec: codec.Length4(), Liveness: heartbeat.Relaxed()}},
		// A small buffer, so that answers come in pieces.
		Limits: engine.Limits{SendBuffer: 64 << 10, Backlog: engine.Backlog{High: 64 << 20}},
		Handler: engine.Handler{Message: func(c *engine.Conn, payload []byte) {
			if c.Get() == nil {
				c.Set(true)
				_ = c.Pause()
				c.Loop().AfterFunc(200*time.Millisecond, func() { _ = c.Resume() })
			}
			if c.Send(payload) != nil {
				c.Abort()
			}
		}},
	})
	p := plan(srv, spec.Closed, "length4")
	p.Conns, p.Depth, p.Payload, p.Warmup = 2, 30, "list:70000,300000,700000", 0
	r := run(t, bench.Bench{Plan: p})
	if r.Counters.Reads <= r.Counters.Messages {
		t.Errorf("%d reads of %d messages: none was split", r.Counters.Reads, r.Counters.Messages)
	}
}

// A closed loop keeps exactly Depth messages under way, no more and no less.
func TestDepth(t *testing.T) {
	var most atomic.Int64
	srv := serve(t, engine.Config{
		Listeners: []engine.Listener{{Codec: codec.Length4(), Liveness: heartbeat.Relaxed()}},
		Handler: engine.Handler{
			Open: func(c *engine.Conn) error { c.Set(new([][]byte)); return nil },
			// Answers are held back until Depth messages are there.
			Message: func(c *engine.Conn, payload []byte) {
				held := c.Get().(*[][]byte)
				*held = append(*held, append([]byte(nil), payload...))
				most.Store(max(most.Load(), int64(len(*held))))
				if len(*held) < 5 {
					return
				}
				for _, p := range *held {
					_ = c.Send(p)
				}
				*held = nil
			},
		},
	})
	p := plan(srv, spec.Closed, "length4")
	p.Depth = 5
	run(t, bench.Bench{Plan: p})
	if most.Load() != 5 {
		t.Errorf("%d messages were under way, want 5", most.Load())
	}
}

// A server that stalls once for a fifth of the window is slow to a fifth of the
// messages that were due: an open loop does not wait for answers before it
// sends what is due.
func TestCoordinatedOmission(t *testing.T) {
	const stall = 200 * time.Millisecond
	var messages atomic.Int64
	srv := serve(t, engine.Config{
		Listeners: []engine.Listener{{Codec: codec.Length4(), Liveness: heartbeat.Relaxed()}},
		Handler: engine.Handler{Message: func(c *engine.Conn, payload []byte) {
			if messages.Add(1) == 500 {
				time.Sleep(stall)
			}
			_ = c.Send(payload)
		}},
	})
	p := plan(srv, spec.Open, "length4")
	p.Conns, p.Rate, p.Warmup, p.Duration = 10, 1000, 0, time.Second
	r := run(t, bench.Bench{Plan: p})
	// Of 1,000 messages 200 were due during the stall, evenly: 195 of them waited
	// for more than 5 ms, 10 for more than 190 ms.
	if p99 := r.Latency.P99; p99 < 180e3 {
		t.Errorf("p99 is %s beside a stall of %v", result.Duration(p99), stall)
	}
	if p90 := r.Latency.P90; p90 < 90e3 {
		t.Errorf("p90 is %s: a tenth of the messages was due in the first half of the stall", result.Duration(p90))
	}
	if r.Latency.Count != 1000 {
		t.Errorf("%d latencies of 1000 messages", r.Latency.Count)
	}
}

// What is never answered is not left out: it counts as late as it is.
func TestUnanswered(t *testing.T) {
	var messages atomic.Int64
	srv := serve(t, engine.Config{
		Listeners: []engine.Listener{{Codec: codec.Length4(), Liveness: heartbeat.Relaxed()}},
		Handler: engine.Handler{Message: func(c *engine.Conn, payload []byte) {
			if messages.Add(1) <= 400 {
				_ = c.Send(payload)
			}
		}},
	})
	p := plan(srv, spec.Open, "length4")
	p.Rate, p.Warmup, p.Duration, p.Drain = 1000, 0, 500*time.Millisecond, 2*time.Second
	r, err := bench.Bench{Plan: p}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Counters.Unanswered != 100 || r.Latency.Count != 500 {
		t.Errorf("%d unanswered, %d latencies, want 100 of 500", r.Counters.Unanswered, r.Latency.Count)
	}
	if r.Latency.P90 < 2e6 {
		t.Errorf("p90 is %s although a fifth was not answered within 2 s", result.Duration(r.Latency.P90))
	}
	if !strings.Contains(strings.Join(r.Problems, " "), "100 were not answered") {
		t.Errorf("problems: %q", r.Problems)
	}
}

// A server that changes, swaps, doubles or drops a message yields no figures.
func TestDamage(t *testing.T) {
	for name, damage := range map[string]func(c *engine.Conn, payload []byte){
		"altered": func(c *engine.Conn, payload []byte) {
			payload[len(payload)-1] ^= 1
			_ = c.Send(payload)
		},
		"doubled": func(c *engine.Conn, payload []byte) {
			_ = c.Send(payload)
			_ = c.Send(payload)
		},
		"dropped": func(*engine.Conn, []byte) {},
		"shortened": func(c *engine.Conn, payload []byte) {
			_ = c.Send(payload[:len(payload)-1])
		},
	} {
		t.Run(name, func(t *testing.T) {
			var messages atomic.Int64
			srv := serve(t, engine.Config{
				Listeners: []engine.Listener{{Codec: codec.Length4(), Liveness: heartbeat.Relaxed()}},
				Handler: engine.Handler{Message: func(c *engine.Conn, payload []byte) {
					if messages.Add(1) == 200 {
						damage(c, payload)
						return
					}
					_ = c.Send(payload)
				}},
			})
			p := plan(srv, spec.Closed, "length4")
			p.Payload = "100"
			r, err := bench.Bench{Plan: p}.Run(t.Context())
			if err == nil {
				t.Fatalf("%s message went unnoticed: %q", name, r.Problems)
			}
			if !strings.Contains(err.Error(), "message") {
				t.Errorf("the error does not say what was wrong: %v", err)
			}
		})
	}
}

// Two messages of one number and length that reach each other's connections are
// noticed.
func TestMixedUp(t *testing.T) {
	var held *engine.Conn // these are the one loop's
	var message []byte
	srv := serve(t, engine.Config{
		Listeners: []engine.Listener{{Codec: codec.Length4(), Liveness: heartbeat.Relaxed()}},
		Handler: engine.Handler{Message: func(c *engine.Conn, payload []byte) {
			if held == nil {
				held, message = c, append([]byte(nil), payload...)
				return
			}
			_ = held.Send(payload)
			_ = c.Send(message)
			held = nil
		}},
	})
	p := plan(srv, spec.Closed, "length4")
	p.Conns, p.Senders, p.Payload, p.Depth = 2, 1, "64", 1
	if _, err := (bench.Bench{Plan: p}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another in its place") {
		t.Errorf("messages reached other connections: %v", err)
	}
}

// Connections that the server closes are counted and spoil the result.
func TestLost(t *testing.T) {
	var messages atomic.Int64
	srv := serve(t, engine.Config{
		Listeners: []engine.Listener{{Codec: codec.Length4(), Liveness: heartbeat.Relaxed()}},
		Handler: engine.Handler{Message: func(c *engine.Conn, payload []byte) {
			_ = c.Send(payload)
			switch messages.Add(1) {
			case 100:
				_ = c.Abort()
			case 200:
				_ = c.Close()
			}
		}},
	})
	r, err := bench.Bench{Plan: plan(srv, spec.Closed, "length4")}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Lost["reset by the server"] != 1 || r.Lost["closed by the server"]+r.Lost["reset by the server"] != 2 || len(r.Problems) == 0 {
		t.Errorf("lost %v, problems %q", r.Lost, r.Problems)
	}
}

// Idle connections beat at their interval, and each beat is answered.
func TestIdle(t *testing.T) {
	srv := echoServer(t, codec.Native{})
	p := plan(srv, spec.Idle, "native")
	p.Heartbeat, p.Duration = time.Second, 4*time.Second
	r := run(t, bench.Bench{Plan: p})
	checkSeries(t, r, p)
	if want := int64(p.Conns) * 4; r.Counters.Answers < want/2 || r.Counters.Answers > want*3/2 {
		t.Errorf("%d answers, want about %d", r.Counters.Answers, want)
	}
	if r.Unit != result.Heartbeats || r.Latency.Count == 0 {
		t.Errorf("unit %s, %+v", r.Unit, r.Latency)
	}
}

// A ramp opens as many connections as it is due to, and says how long each took.
func TestRamp(t *testing.T) {
	srv := echoServer(t, codec.Length4())
	p := plan(srv, spec.Ramp, "length4")
	p.Conns, p.ConnectRate, p.Warmup = 200, 400, 0
	r := run(t, bench.Bench{Plan: p})
	if r.Counters.Connects < 100 || r.Latency.Count != 200 {
		t.Errorf("%d of 200 connections within the window, %d latencies", r.Counters.Connects, r.Latency.Count)
	}
	if last := r.Series[len(r.Series)-1]; last.Open < 100 {
		t.Errorf("%d connections were open at the end", last.Open)
	}
}

// Connections that come and go do so at their rate, and end as they are told to.
func TestChurnRate(t *testing.T) {
	srv := echoServer(t, codec.Length4())
	for _, end := range []string{spec.EndFin, spec.EndReset} {
		before := srv.Stats().Total
		p := plan(srv, spec.Churn, "length4")
		p.Rate, p.End = 200, end
		r := run(t, bench.Bench{Plan: p})
		if r.Latency.Count < 90 || r.Latency.Count > 110 {
			t.Errorf("%s: %d cycles were due at 200 a second", end, r.Latency.Count)
		}
		eventually(t, "all are closed", func() bool { return srv.Stats().Total.Open == 0 })
		after := srv.Stats().Total
		reason := engine.PeerClosed
		if end == spec.EndReset {
			reason = engine.PeerReset
		}
		closed := after.Closed - before.Closed
		if n := after.Reasons[reason] - before.Reasons[reason]; n != closed || n < 100 {
			t.Errorf("%s: %d of %d connections ended as %v: %v", end, n, closed, reason, after.Reasons)
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: ", what)
		}
	}
}

// room is a server that passes every message on to all connections; lossy
// leaves one out now and then.
func room(t *testing.T, lossy bool) *engine.Server {
	var srv *engine.Server
	n := 0
	return serve(t, engine.Config{
		Listeners: []engine.Listener{{Codec: codec.Native{}, Liveness: heartbeat.Relaxed()}},
		Handler: engine.Handler{
			Open: func(c *engine.Conn) error { return srv.Group("all").Add(c) },
			Message: func(c *engine.Conn, payload []byte) {
				if n++; lossy && n == 50 {
					return
				}
				_ = srv.Group("all").Broadcast(payload)
			},
		},
	}, func(s *engine.Server) { srv = s })
}

// Every message of a broadcast reaches every connection, and that is counted.
func TestBroadcast(t *testing.T) {
	srv := room(t, false)
	p := plan(srv, spec.Broadcast, "native")
	p.Payload, p.FanOut, p.Rate, p.Workers = "uniform:16-300", p.Conns, 200, 2
	r := run(t, bench.Bench{Plan: p})
	b := r.Broadcast
	if b.FanOut != float64(p.Conns) || b.Gaps != 0 || b.Delivered != b.Sent*int64(p.Conns) || b.Sent < 100 {
		t.Errorf("%+v", b)
	}
	if want := 200 * 0.5 * float64(p.Conns); float64(r.Latency.Count) < want*0.9 || float64(r.Latency.Count) > want*1.1 {
		t.Errorf("%d latencies, want about %.0f", r.Latency.Count, want)
	}
}

// Connections join the room that their greeting names, and hear its messages
// only.
func TestRooms(t *testing.T) {
	var srv *engine.Server
	serve(t, engine.Config{
		Listeners: []engine.Listener{{Codec: codec.Length4(), Liveness: heartbeat.Relaxed()}},
		Handler: engine.Handler{Message: func(c *engine.Conn, payload []byte) {
			if c.Get() == nil {
				c.Set(string(payload))
				_ = srv.Group(string(payload)).Add(c)
				_ = c.Send(payload)
				return
			}
			_ = srv.Group(c.Get().(string)).Broadcast(payload)
		}},
	}, func(s *engine.Server) { srv = s })
	p := plan(srv, spec.Broadcast, wire.Custom)
	p.Protocol.Format = &wire.Format{Size: 4, Heartbeat: "00000000", Answer: "00000000", Greeting: "00000004 {room}", GreetingFrames: 1}
	p.Protocol.Room, p.FanOut, p.Senders, p.Payload, p.Rate, p.Workers = 4, 4, 10, "64", 200, 2
	if r := run(t, bench.Bench{Plan: p}); r.Broadcast.FanOut != 4 || r.Broadcast.Sent < 100 {
		t.Errorf("%+v", r.Broadcast)
	}
}

// A message that receivers miss is noticed.
func TestBroadcastGap(t *testing.T) {
	srv := room(t, true)
	p := plan(srv, spec.Broadcast, "native")
	p.Payload, p.Rate = "64", 200
	r, err := bench.Bench{Plan: p}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Broadcast.Gaps != int64(p.Conns) || len(r.Problems) == 0 {
		t.Errorf("%d gaps of %d, problems %q", r.Broadcast.Gaps, p.Conns, r.Problems)
	}
}

// An interrupt ends the run soon, with the result of what was measured.
func TestInterrupt(t *testing.T) {
	srv := echoServer(t, codec.Length4())
	p := plan(srv, spec.Closed, "length4")
	p.Duration = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b := bench.Bench{Plan: p, Progress: func(now bench.Progress) {
		if now.Elapsed >= 200*time.Millisecond {
			cancel()
		}
	}}
	began := time.Now()
	r, err := b.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Interrupted || r.Counters.Messages == 0 || r.Seconds < 0.2 || time.Since(began) > 30*time.Second {
		t.Errorf("interrupted %v, %d messages in %.2f s", r.Interrupted, r.Counters.Messages, r.Seconds)
	}
}

// The death of a worker ends the run with an error that says so.
func TestWorkerDies(t *testing.T) {
	srv := echoServer(t, codec.Length4())
	p := plan(srv, spec.Closed, "length4")
	p.Duration, p.Workers = time.Hour, 2
	killed := false
	b := bench.Bench{Plan: p, Progress: func(now bench.Progress) {
		if now.Elapsed > 0 && !killed {
			killed = true
			workers := children(t)
			if len(workers) == 0 {
				t.Error("no worker is running")
				return
			}
			_ = syscall.Kill(workers[0], syscall.SIGKILL)
		}
	}}
	if _, err := b.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "killed") || !strings.Contains(err.Error(), "worker") {
		t.Errorf("a worker was killed: %v", err)
	}
}

// children lists the processes that this one has started.
func children(t *testing.T) (pids []int) {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		text, _ := os.ReadFile(list) // the thread may have ended
		for field := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// What makes a run impossible is said in its first error, and no process stays.
func TestSetupFails(t *testing.T) {
	srv := echoServer(t, codec.Length4())
	for want, change := range map[string]func(*bench.Bench){
		"refused":   func(b *bench.Bench) { b.Plan.Target = "127.0.0.1:1" },
		"-pid":      func(b *bench.Bench) { b.PIDs = []int{1 << 22} },
		"-stats":    func(b *bench.Bench) { b.StatsURL = "http://127.0.0.1:1/" },
		"-rate":     func(b *bench.Bench) { b.Plan.Workload, b.Plan.Rate = spec.Open, 0 },
		"source":    func(b *bench.Bench) { b.Plan.Sources = []string{"192.0.2.1"} },
		"-cpus":     func(b *bench.Bench) { b.CPUs = []int{1000} },
		"heartbeat": func(b *bench.Bench) { b.Plan.Protocol.Name, b.Plan.Heartbeat = "length2", time.Second },
	} {
		b := bench.Bench{Plan: plan(srv, spec.Closed, "length4")}
		change(&b)
		if _, err := b.Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %s, got %v", want, err)
		} else if want == "-pid" && !errors.Is(err, bench.ErrSetup) {
			t.Errorf("%v is not of the setup", err)
		}
	}
}
