package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/engine/internal/sim"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// crowd is a server on a simulated machine with many peers that answer pings,
// for what only shows with many, and in exact time.
type crowd struct {
	t     *testing.T
	w     *sim.World
	k     *sim.Kernel
	srv   *engine.Server
	peers []*crowdPeer

	pings  []int64 // when each reached its peer
	closes []crowdClose
	codec  codec.Codec
}

type crowdPeer struct {
	*sim.Peer
	in    []byte
	reply func() // to data
}

type crowdClose struct {
	at  int64
	err *engine.CloseError
}

// inCrowd runs f with n peers connected, a few milliseconds away. The
// handler's Close is the crowd's.
func inCrowd(t *testing.T, n int, cfg engine.Config, f func(*crowd)) {
	inCrowdFrom(t, n, sim.Between(time.Millisecond, 5*time.Millisecond), cfg, f)
}

func inCrowdFrom(t *testing.T, n int, latency sim.Range, cfg engine.Config, f func(*crowd)) {
	synctest.Test(t, func(t *testing.T) {
		began, start := time.Now(), int64(0)
		x := &crowd{t: t}
		x.codec, _ = codec.Native{}.Codec()
		x.w = sim.New(sim.Config{Seed: 7, Latency: latency, Settle: func() {
			synctest.Wait()
			if d := time.Duration(x.w.Now()-start) - time.Since(began); d > 0 {
				time.Sleep(d)
				synctest.Wait()
			}
		}})
		start = x.w.Now()
		x.k = x.w.Machine(sim.Machine{Name: "server", MaxFiles: n + 100, Backlog: n})
		cfg.Handler.Close = func(c *engine.Conn, err error) {
			x.closes = append(x.closes, crowdClose{x.w.Now(), closeError(t, err)})
		}
		cfg.BlockedAfter = -1
		if cfg.Logger == nil {
			cfg.Logger = slog.New(slog.DiscardHandler)
		}
		srv, err := engine.ListenOn(x.k, cfg)
		if err != nil {
			t.Fatal(err)
		}
		x.srv = srv
		ctx, cancel := context.WithCancel(t.Context())
		defer func() {
			x.w.After(0, cancel)
			x.w.RunFor(30 * time.Second)
			if leaks := x.w.Leaks(); len(leaks) > 0 {
				t.Errorf("left behind: %q", leaks)
			}
			if v := x.w.Violations(); len(v) > 0 {
				t.Errorf("misuse of the kernel: %s", strings.Join(v, "\n"))
			}
		}()
		x.w.Start(func() { _ = srv.Serve(ctx) })
		for range n {
			x.join()
		}
		x.w.RunFor(time.Second)
		if open := srv.Stats().Total.Open; open != int64(n) {
			t.Fatalf("%d of %d are connected", open, n)
		}
		f(x)
	})
}

// join lets one more peer connect.
func (x *crowd) join() *crowdPeer {
	p := &crowdPeer{Peer: x.w.Dial(fmt.Sprintf("tcp://%v:7000", x.k.Addr()))}
	p.OnData = func(b []byte) {
		p.in = append(p.in, b...)
		for {
			f, n, _, err := x.codec.Decode(p.in)
			if err != nil {
				x.t.Errorf("a peer cannot decode: %v", err)
				return
			}
			if n == 0 {
				return
			}
			switch f.Kind {
			case codec.Ping:
				x.pings = append(x.pings, x.w.Now())
				p.Send(frame(x.t, codec.Pong, slices.Clone(f.Payload)))
			case codec.Data:
				if p.reply != nil {
					p.reply()
				}
			}
			p.in = p.in[n:]
		}
	}
	x.peers = append(x.peers, p)
	return p
}

// busiest returns how many pings there were in the busiest span of d since then.
func (x *crowd) busiest(since int64, d time.Duration) (most int) {
	first := 0
	for i, at := range x.pings {
		if at < since {
			first = i + 1
			continue
		}
		for at-x.pings[first] >= int64(d) {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

func crowdConfig(liveness heartbeat.Config) engine.Config {
	return engine.Config{
		Listeners: []engine.Listener{{Addr: "tcp://:7000", Codec: codec.Native{}, Liveness: liveness}},
		Limits:    engine.Limits{Loops: 1},
	}
}

// Peers that all answered a broadcast in the same moment are pinged an interval
// later within the rate, none later than it would have been without, and apart
// from then on.
func TestPingRate(t *testing.T) {
	const n = 1000
	interval := 2 * time.Second
	for _, rate := range []int{0, 625, 1000} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			cfg := crowdConfig(heartbeat.Config{Interval: interval, Misses: 3, Speak: -1, Confirm: -1})
			cfg.MaxConns = n
			cfg.PingRate = rate
			inCrowd(t, n, cfg, func(x *crowd) {
				for _, p := range x.peers {
					p.reply = func() { p.Send(frame(t, codec.Data, []byte("here"))) }
				}
				for range 3 {
					at := x.w.Now()
					x.w.After(0, func() { _ = x.srv.Broadcast([]byte("who is here?")) })
					x.w.RunFor(interval + 100*time.Millisecond)
					// All were heard after the broadcast, so all are asked within an
					// interval of that, or sooner.
					asked := 0
					for _, ping := range x.pings {
						if ping >= at {
							asked++
						}
					}
					if asked < n {
						t.Errorf("%d of %d were asked within an interval of their answer", asked, n)
					}
					x.w.RunFor(time.Duration(x.w.Int(int(interval))))
				}
				const span = 250 * time.Millisecond
				most := x.busiest(0, span)
				if rate == 0 {
					if most < n/2 {
						t.Errorf("without a rate at most %d pings came in %v: the test proves nothing", most, span)
					}
					return
				}
				// A slot's worth at either end of a span may belong to others, and
				// packets take a few milliseconds more or less.
				limit := rate/4 + 2*16 + rate/100
				if most > limit {
					t.Errorf("%d pings in %v, want at most %d", most, span, limit)
				}
				// They stay apart: without further broadcasts the rate is what it must be.
				since := x.w.Now()
				x.w.RunFor(5 * interval)
				if steady := x.busiest(since, span); steady > limit {
					t.Errorf("later, %d pings in %v, want at most %d", steady, span, limit)
				}
				if len(x.closes) > 0 {
					t.Errorf("a live peer ended: %v", x.closes[0].err)
				}
			})
		})
	}
}

// A rate that cannot be kept is an error.
func TestPingRateConfig(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*engine.Config)
		want   string // of the error; empty: none
	}{
		"negative":          {func(c *engine.Config) { c.PingRate = -1 }, "PingRate"},
		"too many":          {func(c *engine.Config) { c.PingRate, c.MaxConns = 99, 1001 }, "PingRate is 99 a second, but MaxConns (1001)"},
		"just enough":       {func(c *engine.Config) { c.PingRate, c.MaxConns = 100, 1000 }, ""},
		"no limit of conns": {func(c *engine.Config) { c.PingRate, c.MaxConns = 100, -1 }, "MaxConns"},
		"speaks more often": {func(c *engine.Config) {
			c.PingRate, c.MaxConns = 100, 1000
			c.Listeners[0].Liveness.Speak = time.Second
		}, "every 1s"},
		"is told to be swift": {func(c *engine.Config) {
			c.PingRate, c.MaxConns = 100, 1000
			c.Listeners[0].Follow = engine.Follow{Min: time.Second, Max: time.Minute}
		}, "every 1s"},
		"does not ping": {func(c *engine.Config) {
			c.PingRate, c.MaxConns = 1, 1000
			c.Listeners[0].Liveness = heartbeat.Config{Interval: 10 * time.Second, Misses: 1, Role: heartbeat.Answer}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := listenOne(engine.Handler{}, heartbeat.Config{Interval: 10 * time.Second, Misses: 3, Speak: -1})
			c.change(&cfg)
			srv, err := engine.Listen(cfg)
			if err == nil {
				_ = srv.Shutdown(t.Context())
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// When the server's own network fails, verdicts wait for the grace, and those
// whose answers come within it stay; one event says so. Without the guard they
// all end. When nothing comes, all end a grace later than they would have.
func TestOutage(t *testing.T) {
	const n = 100
	liveness := heartbeat.Config{Interval: time.Second, Misses: 3, Retry: 500 * time.Millisecond}
	const grace = 10 * time.Second
	worst := liveness.WorstCase()
	for _, c := range []struct {
		name    string
		guard   bool
		cut     time.Duration
		dead    int // of them, who die for good meanwhile
		survive int
	}{
		{"as ever", false, 6 * time.Second, 0, 0},
		{"all come back", true, 6 * time.Second, 0, n},
		{"some die", true, 6 * time.Second, 7, n - 7},
		{"none comes back", true, time.Hour, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var events []engine.OutageEvent
			cfg := crowdConfig(liveness)
			if c.guard {
				cfg.Outage = engine.Outage{Share: 0.5, Grace: grace}
				cfg.Handler.Outage = func(e engine.OutageEvent) { events = append(events, e) }
			}
			inCrowd(t, n, cfg, func(x *crowd) {
				x.w.RunFor(5 * time.Second)
				cut := x.w.Now()
				x.k.Outage(c.cut)
				for _, p := range x.peers[:c.dead] {
					p.Vanish()
				}
				x.w.RunFor(worst + grace + 2*time.Second)
				if open := int(x.srv.Stats().Total.Open); open != c.survive {
					t.Errorf("%d are left, want %d", open, c.survive)
				}
				for _, end := range x.closes {
					took := time.Duration(end.at - cut)
					if end.err.Reason != engine.HeartbeatLost {
						t.Errorf("ended with %v", end.err)
					}
					promised := x.srv.Promises()[0].WorstCase
					if c.guard && promised != worst+grace || !c.guard && promised != worst {
						t.Fatalf("promised %v, want %v, plus the grace of %v if guarded", promised, worst, grace)
					}
					if took > promised+20*time.Millisecond {
						t.Errorf("ended %v after the cut, promised %v", took, promised)
					}
					if c.guard && took < grace {
						t.Errorf("ended %v after the cut, within the grace of %v", took, grace)
					}
				}
				st := x.srv.Stats().Total
				switch {
				case !c.guard && (len(events) > 0 || st.Outages > 0):
					t.Errorf("an outage is presumed although that is off")
				case c.guard && (len(events) != 1 || st.Outages != 1):
					t.Errorf("%d events and %d counted, want one", len(events), st.Outages)
				case c.guard:
					// In the grace they are asked on, every Retry.
					if least := uint64(n) * uint64(min(c.cut, grace)/liveness.Retry); st.Queries < least {
						t.Errorf("%d queries, want at least %d", st.Queries, least)
					}
					e := events[0]
					if e.Watched != n || e.Silent <= n/2 || e.Grace != grace || e.For < liveness.Retry {
						t.Errorf("event %+v", e)
					}
				}
			})
		})
	}
}

// Peers that die while others are heard, and few peers, end as ever.
func TestOutageOfOthersOnly(t *testing.T) {
	liveness := heartbeat.Config{Interval: time.Second, Misses: 3, Retry: 500 * time.Millisecond}
	for _, c := range []struct {
		name    string
		n, dead int
		come    bool // newcomers
	}{
		{"one is heard", 100, 99, false},
		{"newcomers are", 100, 100, true},
		{"a handful", 7, 7, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := crowdConfig(liveness)
			cfg.Outage = engine.Outage{Share: 0.5, Grace: time.Minute}
			inCrowd(t, c.n, cfg, func(x *crowd) {
				x.w.RunFor(3 * time.Second)
				for _, p := range x.peers[:c.dead] {
					p.Vanish()
				}
				if c.dead < c.n {
					talker := x.peers[c.dead]
					talker.Every(200*time.Millisecond, func() { talker.Send(frame(t, codec.Data, []byte("I am here"))) })
				}
				if c.come {
					for i := range 20 {
						x.w.After(time.Duration(i)*200*time.Millisecond, func() { x.join().Pause() })
					}
				}
				x.w.RunFor(liveness.WorstCase() + 50*time.Millisecond)
				found := 0
				for _, end := range x.closes {
					if end.err.Evidence.Age > 3*time.Second { // no newcomer
						found++
					}
				}
				if found != c.dead {
					t.Errorf("%d of %d dead were found in time", found, c.dead)
				}
			})
		})
	}
}

// It takes more than the share. Here a few peers are silent while the others,
// who all spoke at once, are not asked yet, so that nothing is heard.
func TestOutageShare(t *testing.T) {
	const n, dead = 100, 12
	liveness := heartbeat.Config{Interval: 10 * time.Second, Misses: 3, Retry: 500 * time.Millisecond, Confirm: -1, Speak: -1}
	for share, waits := range map[float64]bool{0.11: true, 0.12: false} {
		t.Run(fmt.Sprint(share), func(t *testing.T) {
			cfg := crowdConfig(liveness)
			cfg.Outage = engine.Outage{Share: share, Grace: time.Minute}
			inCrowd(t, n, cfg, func(x *crowd) {
				x.w.RunFor(12 * time.Second) // so that the first pings are out
				say := func(p *crowdPeer) { p.Send(frame(t, codec.Data, []byte("I am here"))) }
				for _, p := range x.peers {
					p.After(0, func() { say(p) })
				}
				x.w.RunFor(5 * time.Second)
				for i, p := range x.peers {
					if i < dead {
						p.Vanish()
					} else {
						p.After(0, func() { say(p) })
					}
				}
				x.w.RunFor(7 * time.Second)
				want := dead
				if waits {
					want = 0
				}
				if len(x.closes) != want {
					t.Errorf("%d ended, want %d", len(x.closes), want)
				}
			})
		})
	}
}

func TestOutageConfig(t *testing.T) {
	for name, c := range map[string]struct {
		o    engine.Outage
		l    heartbeat.Config
		want string
	}{
		"no grace":          {engine.Outage{Share: 0.5}, heartbeat.Strict(), "Grace"},
		"no share":          {engine.Outage{Grace: time.Second}, heartbeat.Strict(), "Share"},
		"too much":          {engine.Outage{Share: 1, Grace: time.Second}, heartbeat.Strict(), "Share"},
		"not a number":      {engine.Outage{Share: math.NaN(), Grace: time.Second}, heartbeat.Strict(), "Share"},
		"no interval":       {engine.Outage{Share: 0.5, Grace: time.Second}, heartbeat.Config{IdleRead: time.Second}, "Interval"},
		"cannot be told":    {engine.Outage{Share: 0.5, Grace: time.Second}, heartbeat.Config{Interval: time.Minute, Misses: 1, Retry: 10 * time.Second}, "0.08"},
		"relaxed is fine":   {engine.Outage{Share: 0.9, Grace: time.Second}, heartbeat.Relaxed(), ""},
		"strict is fine":    {engine.Outage{Share: 0.9, Grace: time.Second}, heartbeat.Strict(), ""},
		"realtime is fine":  {engine.Outage{Share: 0.9, Grace: time.Second}, heartbeat.Realtime(), ""},
		"off with anything": {engine.Outage{}, heartbeat.Config{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := listenOne(engine.Handler{}, c.l)
			cfg.Outage = c.o
			srv, err := engine.Listen(cfg)
			if err == nil {
				_ = srv.Shutdown(t.Context())
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func closeError(t *testing.T, err error) *engine.CloseError {
	var ce *engine.CloseError
	if !errors.As(err, &ce) {
		t.Errorf("closed with %v, which is no CloseError", err)
		ce = &engine.CloseError{}
	}
	return ce
}
