package engine_test

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"errors"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

// Each contradiction is one clear error from Listen, which leaves neither a
// goroutine nor a descriptor behind.
func TestListenRefuses(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	shared := serve(t, listenOne(engine.Handler{}, heartbeat.Config{})) // it would share its port
	// So that its goroutines are counted.
	passLoops(t, shared)

	valid := func() engine.Config { return listenOne(engine.Handler{}, heartbeat.Strict()) }
	tests := map[string]struct {
		change func(*engine.Config)
		says   string
	}{
		"no listeners":      {func(c *engine.Config) { c.Listeners = nil }, "Listeners"},
		"no codec":          {func(c *engine.Config) { c.Listeners[0].Codec = nil }, "Codec"},
		"no scheme":         {func(c *engine.Config) { c.Listeners[0].Addr = "127.0.0.1:0" }, "no scheme"},
		"unknown scheme":    {func(c *engine.Config) { c.Listeners[0].Addr = "sctp://:0" }, `unknown scheme "sctp"`},
		"no port":           {func(c *engine.Config) { c.Listeners[0].Addr = "tcp://127.0.0.1" }, "port"},
		"no such address":   {func(c *engine.Config) { c.Listeners[0].Addr = "tcp://192.0.2.1:0" }, "assign"},
		"busy port":         {func(c *engine.Config) { c.Listeners[0].Addr = "tcp://" + busy.Addr().String() }, "in use"},
		"busy, would share": {func(c *engine.Config) { c.Listeners[0].Addr = shared.Addrs()[0] }, "in use"},
		"second busy": {func(c *engine.Config) {
			c.Listeners = append(c.Listeners, c.Listeners[0])
			c.Listeners[1].Addr = "tcp://" + busy.Addr().String()
		}, "in use"},
		"zero misses":       {func(c *engine.Config) { c.Listeners[0].Liveness.Misses = 0 }, "Misses"},
		"negative interval": {func(c *engine.Config) { c.Listeners[0].Liveness.Interval = -1 }, "Interval"},
		"idle < interval":   {func(c *engine.Config) { c.Listeners[0].Liveness.IdleRead = time.Second }, "IdleRead"},
		"echo for ever": {func(c *engine.Config) {
			c.Listeners[0].Codec = codec.Length4()
			c.Listeners[0].Liveness.Role = heartbeat.Both
		}, "Role"},
		"max over the field": {func(c *engine.Config) { c.Listeners[0].Codec = codec.LengthField{Size: 2, MaxFrame: 1 << 20} }, "MaxFrame"},
		"max over native":    {func(c *engine.Config) { c.Listeners[0].Codec = codec.Native{MaxPayload: 1 << 24} }, "MaxPayload"},
		"negative loops":     {func(c *engine.Config) { c.Loops = -1 }, "Loops"},
		"tiny tick":          {func(c *engine.Config) { c.Tick = time.Microsecond }, "Tick"},
		"low over high":      {func(c *engine.Config) { c.Backlog = engine.Backlog{High: 10, Low: 20} }, "Low"},
		"stall cap":          {func(c *engine.Config) { c.StallCap = time.Hour }, "StallCap"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			fds, goroutines := leak.Files(), runtime.NumGoroutine()
			cfg := valid()
			tt.change(&cfg)
			srv, err := engine.Listen(cfg)
			if err == nil {
				t.Fatalf("accepted; listens on %v", srv.Addrs())
			}
			if !strings.HasPrefix(err.Error(), "engine: ") || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q does not mention %q", err, tt.says)
			}
			if strings.HasPrefix(name, "busy") && !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("%v is not EADDRINUSE", err)
			}
			if n := leak.Files(); n != fds {
				t.Errorf("%d descriptors before, %d after", fds, n)
			}
			eventually(t, fmt.Sprintf("%d goroutines again", goroutines), func() bool { return runtime.NumGoroutine() <= goroutines })
		})
	}
}

// A server that never served leaves nothing behind either.
func TestShutdownBeforeServe(t *testing.T) {
	fds := leak.Files()
	srv, err := engine.Listen(listenOne(engine.Handler{}, heartbeat.Strict()))
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := leak.Files(); n != fds {
		t.Errorf("%d descriptors before, %d after", fds, n)
	}
	if err := srv.Serve(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve after Shutdown: %v", err)
	}
}
