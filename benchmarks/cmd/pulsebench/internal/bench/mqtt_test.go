//go:build linux

package bench_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/bench"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/lack"
)

// mqttFormat is MQTT's framing, and PINGREQ and PINGRESP.
var mqttFormat = codec.LengthField{
	Offset: 1, Size: codec.Base128,
	Heartbeat: codec.Heartbeat{
		Pingers: codec.Client,
		Ping:    codec.Match{Offset: 0, Value: []byte{0xc0}}, Pong: codec.Match{Offset: 0, Value: []byte{0xd0}},
		Exact: true, Query: []byte{0xc0, 0}, Answer: []byte{0xd0, 0},
	},
}

// broker is the least of a broker: it passes each PUBLISH on to those that have
// subscribed to its topic, by groups of connections.
func broker(t *testing.T) *engine.Server {
	var srv *engine.Server
	return serve(t, engine.Config{
		Listeners: []engine.Listener{{Codec: mqttFormat, Liveness: heartbeat.Relaxed()}},
		Handler: engine.Handler{Message: func(c *engine.Conn, packet []byte) {
			body := packet[1:]
			for body[0]&0x80 != 0 {
				body = body[1:]
			}
			body = body[1:]
			topic := func(b []byte) string { return string(b[2 : 2+binary.BigEndian.Uint16(b)]) }
			var err error
			switch packet[0] >> 4 {
			case 1:
				err = c.Send([]byte{0x20, 2, 0, 0})
			case 8:
				if err = srv.Group(topic(body[2:])).Add(c); err == nil {
					err = c.Send([]byte{0x90, 3, body[0], body[1], 0})
				}
			case 3:
				err = srv.Group(topic(body)).Broadcast(packet)
			default:
				err = fmt.Errorf("packet % x", packet[:1])
			}
			if err != nil {
				t.Error(err)
				_ = c.Abort()
			}
		}},
	}, func(s *engine.Server) { srv = s })
}

// checkMQTT runs what a broker is asked for: echoes by a topic of one's own, a
// broadcast, rooms, and heartbeats.
func checkMQTT(t *testing.T, plan func(w spec.Workload) spec.Spec) {
	t.Run("closed", func(t *testing.T) {
		p := plan(spec.Closed)
		p.Payload = "uniform:1-300"
		if r := run(t, bench.Bench{Plan: p}); r.Counters.Messages < 100 {
			t.Errorf("%d messages", r.Counters.Messages)
		}
	})
	t.Run("idle", func(t *testing.T) {
		p := plan(spec.Idle)
		p.Heartbeat, p.Duration = time.Second, 2*time.Second
		if r := run(t, bench.Bench{Plan: p}); r.Counters.Answers < int64(p.Conns) {
			t.Errorf("%d answers", r.Counters.Answers)
		}
	})
	for _, size := range []int{0, 5} {
		t.Run(fmt.Sprintf("broadcast to rooms of %d", size), func(t *testing.T) {
			p := plan(spec.Broadcast)
			p.Payload, p.Rate, p.Protocol.Room = "64", 200, size
			p.FanOut = size
			if size == 0 {
				p.FanOut = p.Conns
			}
			if r := run(t, bench.Bench{Plan: p}); r.Broadcast.FanOut != float64(p.FanOut) {
				t.Errorf("%+v", r.Broadcast)
			}
		})
	}
}

// The mqtt preset works with a broker made of this project's own parts.
func TestMQTT(t *testing.T) {
	srv := broker(t)
	checkMQTT(t, func(w spec.Workload) spec.Spec { return plan(srv, w, "mqtt") })
}

// The mqtt preset works with a broker that is in use everywhere.
func TestMosquitto(t *testing.T) {
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/mosquitto"); err != nil {
			lack.Skip(t, "mosquitto is not installed")
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	config := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(config, []byte("listener "+port+" 127.0.0.1\nallow_anonymous true\npersistence false\nlog_type error\nmax_queued_messages 0\nset_tcp_nodelay true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, path, "-c", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait()
	}()
	eventually(t, "mosquitto listens", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	srv := echoServer(t, codec.Native{}) // only for the plan's sake
	checkMQTT(t, func(w spec.Workload) spec.Spec {
		p := plan(srv, w, "mqtt")
		p.Target = address
		return p
	})
	// A client that falls silent is given up after one and a half keep-alives.
	p := plan(srv, spec.DeadPeer, "mqtt")
	p.Target, p.Heartbeat, p.Ways, p.Duration = address, 3*time.Second, []spec.Way{spec.Silent, spec.Fin}, 500*time.Millisecond
	r := run(t, bench.Bench{Plan: p})
	if d := way(t, r, spec.Silent); d.Found != d.Vanished || d.Min < 1.5 || d.Max > 15 {
		t.Errorf("%+v", d)
	}
}
