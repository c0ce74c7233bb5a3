package main

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// serve is the server: it greets each client with the number of its
// connection, sends back what it gets, and tells the conductor of every end.
func serve(s spec, l link) error {
	var srv *engine.Server
	srv, err := engine.Listen(engine.Config{
		Listeners: []engine.Listener{{Addr: s.Addr, Codec: codec.Native{}, Liveness: presets[s.Preset]}},
		Limits:    engine.Limits{MaxConns: s.Clients, Tick: heartbeat.Tick},
		Handler: engine.Handler{
			Open: func(c *engine.Conn) error {
				return c.Send(binary.BigEndian.AppendUint64(nil, uint64(c.ID())))
			},
			Message: func(c *engine.Conn, payload []byte) { _ = c.Send(payload) },
			Close: func(c *engine.Conn, err error) {
				e := event{Kind: closed, Peer: c.ID(), At: now(), Reason: engine.ReasonOf(err).String(), Loop: c.Loop().Index()}
				st := srv.Stats().Loops[e.Loop]
				e.Loops = []loop{{st.Lag, st.Stalled}}
				l.events <- e
			},
		},
	})
	if err != nil {
		return err
	}
	l.events <- event{Kind: listening, Addr: srv.Addrs()[0]}
	go func() {
		for range time.Tick(sampling) {
			e := event{Kind: sample, At: now()}
			for _, st := range srv.Stats().Loops {
				e.Loops = append(e.Loops, loop{st.Lag, st.Stalled})
			}
			l.events <- e
		}
	}()
	return srv.Serve(context.Background())
}
