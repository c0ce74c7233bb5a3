//go:build unix

// Pulsewheel is this project's engine as a peer: one loop, the codec, and
// liveness with its usual settings, as an application would have it. Option
// -liveness has others; -idle replaces it by the plain idle limit that the other
// peers have. Option -loops has more of them.
//
// Room: Send to the others, from any loop. Broadcast: Server.Broadcast.
package main

import (
	"context"
	"flag"
	"fmt"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/hub"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/wire"
	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// backlog is above what any load keeps under way on a connection, so that it
// waits here as it would in the other peers.
const backlog = 64 << 20

// verdicts are the reasons for which a server gives up on a peer that seemed
// to be there.
var verdicts = []engine.Reason{engine.HeartbeatLost, engine.Deaf, engine.Idle}

// presets are what -liveness may ask for.
var presets = map[string]heartbeat.Config{
	"off":      {},
	"relaxed":  heartbeat.Relaxed(),
	"strict":   heartbeat.Strict(),
	"realtime": heartbeat.Realtime(),
}

// send ends a connection that misses a message: the load sees it, because none
// is ever left out.
func send(to *engine.Conn, payload []byte) {
	if to.Send(payload) != nil {
		_ = to.Abort()
	}
}

func echo() engine.Handler { return engine.Handler{Message: send} }

// room relays on the loop that received; with one loop, nobody else is there.
func room(loops int) engine.Handler {
	type member = hub.Member[*engine.Conn]
	h := hub.New[*engine.Conn](control.Room, loops > 1)
	return engine.Handler{
		Open: func(c *engine.Conn) error {
			c.Set(&member{Conn: c})
			return nil
		},
		Message: func(c *engine.Conn, payload []byte) {
			m := c.Get().(*member)
			if m.Joined() {
				h.Relay(m, payload, send)
				return
			}
			if h.Join(m, payload) != nil {
				_ = c.Close()
				return
			}
			send(c, payload)
		},
		Close: func(c *engine.Conn, _ error) { h.Leave(c.Get().(*member)) },
	}
}

// broadcast needs the server, which is known only after its handler.
func broadcast(srv **engine.Server) engine.Handler {
	return engine.Handler{Message: func(c *engine.Conn, payload []byte) {
		if (*srv).Broadcast(payload) != nil {
			_ = c.Abort()
		}
	}}
}

func main() {
	liveness := flag.String("liveness", "relaxed", "how peers are watched: off, relaxed, strict or realtime")
	loops := flag.Int("loops", 1, "event loops")
	options := control.Parse()
	watch, known := presets[*liveness]
	if !known {
		control.Fail(fmt.Errorf("no liveness %q", *liveness))
	}
	if options.Idle > 0 {
		watch = heartbeat.Config{IdleRead: options.Idle}
	}
	var srv *engine.Server
	handler := echo()
	switch options.Work {
	case control.Room:
		handler = room(*loops)
	case control.Broadcast:
		handler = broadcast(&srv)
	}
	length := codec.Length4()
	length.MaxFrame = wire.Header + wire.MaxPayload
	srv, err := engine.Listen(engine.Config{
		Listeners: []engine.Listener{{
			Addr:     fmt.Sprintf("tcp4://127.0.0.1:%d", options.Port),
			Codec:    length,
			Liveness: watch,
		}},
		Handler: handler,
		Limits: engine.Limits{
			Loops:   *loops,
			Backlog: engine.Backlog{High: backlog},
			// Measurements end at once; the load has drained its connections.
			DrainTimeout: -1,
		},
	})
	if err != nil {
		control.Fail(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		err := srv.Serve(ctx)
		if ctx.Err() == nil {
			control.Fail(fmt.Errorf("serve: %w", err)) // by itself: the measurement is void
		}
		served <- err
	}()
	control.Announce(int(srv.Port(0)))

	control.Serve(func(r *control.Report) {
		total := srv.Stats().Total
		r.Open, r.Closed = total.Open, int64(total.Closed)
		for _, reason := range verdicts {
			r.Verdicts += int64(total.Reasons[reason])
		}
	})
	stop()
	if err := <-served; err != nil {
		control.Fail(err)
	}
}
