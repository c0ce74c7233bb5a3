//go:build unix

// Pulsewheel is this project's engine as a peer: one loop, the codec, and
// liveness with its usual settings, as an application would have it.
package main

import (
	"context"
	"fmt"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

const (
	header     = 4
	maxPayload = 1 << 20
	// backlog is above what any load keeps under way on a connection, so that
	// it waits here as it would in the other peers.
	backlog = 64 << 20
)

// verdicts are the reasons for which a server gives up on a peer that seemed
// to be there.
var verdicts = []engine.Reason{engine.HeartbeatLost, engine.Deaf, engine.Idle}

func main() {
	wire := codec.Length4()
	wire.MaxFrame = header + maxPayload
	srv, err := engine.Listen(engine.Config{
		Listeners: []engine.Listener{{
			Addr:     fmt.Sprintf("tcp4://127.0.0.1:%d", control.Port()),
			Codec:    wire,
			Liveness: heartbeat.Relaxed(),
		}},
		Handler: engine.Handler{
			Message: func(c *engine.Conn, payload []byte) {
				if c.Send(payload) != nil {
					c.Abort() // the load sees it: an echo is never left out
				}
			},
		},
		Limits: engine.Limits{
			Loops:   1,
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
