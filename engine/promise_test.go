package engine_test

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// What a listener promises is what its configuration adds up to.
func TestPromises(t *testing.T) {
	strict := heartbeat.Strict()
	const tick = heartbeat.Tick
	for name, c := range map[string]struct {
		change               func(*engine.Config)
		worst, tolerance     time.Duration
		paused               time.Duration
		by                   string // one of the detectors …
		within, forgives     time.Duration
		reason               engine.Reason
		kernel, withoutBound bool
	}{
		"strict": {func(*engine.Config) {}, strict.WorstCase(), strict.Tolerance(), time.Minute,
			"Interval, Misses, Retry", strict.Interval + 3*strict.Retry + tick, strict.Tolerance(), engine.HeartbeatLost, false, false},
		"deaf": {func(c *engine.Config) { c.Listeners[0].Liveness.Confirm = 2 },
			2*strict.Interval + 3*strict.Retry + tick, strict.Tolerance(), time.Minute,
			"Confirm, Misses, Retry", 2*strict.Interval + 3*strict.Retry + tick, strict.Tolerance(), engine.Deaf, false, false},
		"a coarse tick": {func(c *engine.Config) { c.Tick = 100 * time.Millisecond },
			strict.WorstCase() + 90*time.Millisecond, strict.Tolerance() - 90*time.Millisecond, time.Minute,
			"Interval, Misses, Retry", strict.WorstCase() + 90*time.Millisecond, strict.Tolerance() - 90*time.Millisecond, engine.HeartbeatLost, false, false},
		"outage": {func(c *engine.Config) { c.Outage = engine.Outage{Share: 0.5, Grace: time.Minute} },
			strict.WorstCase() + time.Minute, strict.Tolerance(), time.Minute,
			"Interval, Misses, Retry", strict.WorstCase() + time.Minute, strict.Tolerance(), engine.HeartbeatLost, false, false},
		"follow": {func(c *engine.Config) { c.Listeners[0].Follow = engine.Follow{Min: time.Second, Max: 30 * time.Second} },
			30*time.Second + 3*strict.Retry + tick, strict.Tolerance(), time.Minute,
			"Interval, Misses, Retry", 30*time.Second + 3*strict.Retry + tick, strict.Tolerance(), engine.HeartbeatLost, false, false},
		"no end of pauses": {func(c *engine.Config) { c.MaxPause = -1 }, strict.WorstCase(), strict.Tolerance(), -1,
			"FrameTimeout", 30*time.Second + tick, -1, engine.FrameTimeout, false, false},
		"pauses": {func(c *engine.Config) { c.MaxPause = 3 * time.Second }, strict.WorstCase(), strict.Tolerance(), 3 * time.Second,
			"MaxPause", 3*time.Second + tick, -1, engine.Overloaded, false, false},
		"first frame": {func(c *engine.Config) { c.Admission.FirstFrame = 4 * time.Second }, strict.WorstCase(), strict.Tolerance(), time.Minute,
			"FirstFrame", 4*time.Second + tick, -1, engine.HandshakeTimeout, false, false},
		"slow": {func(c *engine.Config) { c.Backlog.DrainWindow = 7 * time.Second }, strict.WorstCase(), strict.Tolerance(), time.Minute,
			"DrainRate, DrainWindow", 14*time.Second + tick, -1, engine.SlowConsumer, false, false},
		"idle only": {func(c *engine.Config) { c.Listeners[0].Liveness = heartbeat.Config{IdleRead: 5 * time.Second} },
			5*time.Second + tick, 0, time.Minute, "IdleRead", 5*time.Second + tick, 0, engine.Idle, false, false},
		"nothing": {func(c *engine.Config) { c.Listeners[0].Liveness = heartbeat.Config{} },
			0, math.MaxInt64, time.Minute, "FrameTimeout", 30*time.Second + tick, -1, engine.FrameTimeout, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := listenOne(engine.Handler{}, strict)
			c.change(&cfg)
			srv, err := engine.Listen(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = srv.Shutdown(context.Background()) }()
			p := srv.Promises()[0]
			if p.Addr != srv.Addrs()[0] || p.WorstCase != c.worst || p.Tolerance != c.tolerance || p.Paused != c.paused {
				t.Errorf("%+v, want worst case %v, tolerance %v, while paused %v", p, c.worst, c.tolerance, c.paused)
			}
			if c.withoutBound != strings.Contains(p.String(), "no bound") {
				t.Errorf("in words: %v", p)
			}
			for _, d := range p.Detectors {
				if d.By == c.by {
					if d.Within != c.within || d.Tolerance != c.forgives || d.Reason != c.reason || d.Kernel != c.kernel || d.Finds == "" {
						t.Errorf("%+v", d)
					}
					return
				}
			}
			t.Errorf("no detector goes by %s: %+v", c.by, p.Detectors)
		})
	}
}

// A client promises, too, and both say so in the log when they begin.
func TestPromisesAreLogged(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	cl, err := engine.NewClient(engine.ClientConfig{Codec: codec.Native{}, Liveness: heartbeat.Realtime(), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	_ = cl.Shutdown(context.Background())
	if p := cl.Promises(); len(p) != 1 || p[0].WorstCase != heartbeat.Realtime().WorstCase() || p[0].Addr != "" {
		t.Errorf("%+v", p)
	}
	cfg := listenOne(engine.Handler{}, heartbeat.Strict())
	cfg.Logger = logger
	srv, err := engine.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	_ = srv.Shutdown(context.Background())
	for _, want := range []string{"worst_case=1.96s", "worst_case=8.51s", "tolerance=2.49s", "addr=" + srv.Addrs()[0]} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, log.String())
		}
	}
}

// Deadlines shorter than the timers' resolution cannot be kept.
func TestCoarseTick(t *testing.T) {
	cfg := listenOne(engine.Handler{}, heartbeat.Realtime())
	cfg.Tick = time.Second
	if srv, err := engine.Listen(cfg); err == nil {
		_ = srv.Shutdown(context.Background())
		t.Error("no error")
	} else if !strings.Contains(err.Error(), "Interval is 300ms, shorter than Tick") {
		t.Error(err)
	}
}
