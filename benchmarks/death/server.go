//go:build linux

package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
)

// server is the child that finds the dead: one engine a detector.
type server struct {
	engines map[string]*engine.Server

	mu     sync.Mutex
	ends   []End
	opened map[Place]int
}

// Place is where a connection belongs: to a host, by its number, and to a
// detector.
type Place struct {
	Row      int
	Detector string
}

// End is what the server has made of a connection.
type End struct {
	Place
	Port      uint16 // the client's
	At        int64
	Reason    engine.Reason
	Diagnosis engine.Diagnosis
	Err       string
	Evidence  engine.Evidence
	// Stalled is for how long the engine's loop had stood still up to then,
	// which does not count against peers.
	Stalled time.Duration
}

// question is what a client asks to see that it is served.
var question = []byte("are you still there?")

// shout is what clients answer at once.
var shout = []byte("who is there?")

// rowOf returns the number of the host that an address belongs to.
func rowOf(a netip.AddrPort) int { return int(a.Addr().As4()[2]) }

func newServer() *server {
	return &server{engines: make(map[string]*engine.Server), opened: make(map[Place]int)}
}

// ServerSetup names the detectors, and says where to listen.
type ServerSetup struct {
	Addr      netip.Addr
	Detectors []string
}

// Listening is where an engine listens, and what it promises.
type Listening struct {
	Addr    string
	Promise engine.Promise
}

// Listen starts an engine for each detector.
func (s *server) Listen(setup ServerSetup, listening *map[string]Listening) error {
	*listening = make(map[string]Listening)
	for _, name := range setup.Detectors {
		d := detectorByName(name)
		var srv *engine.Server
		srv, err := engine.Listen(engine.Config{
			Listeners: []engine.Listener{{
				Addr:  "tcp4://" + netip.AddrPortFrom(setup.Addr, 0).String(),
				Codec: codec.Native{}, Liveness: d.Liveness, KeepAlive: d.KeepAlive,
			}},
			Limits: d.Limits,
			Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
			Handler: engine.Handler{
				Open: func(c *engine.Conn) error {
					s.open(c, d)
					return nil
				},
				Message: func(c *engine.Conn, payload []byte) {
					if bytes.Equal(payload, question) {
						_ = c.Send(payload)
					}
				},
				Close: func(c *engine.Conn, err error) { s.closed(c, d, err, srv.Stats().Total.Stalled) },
			},
		})
		if err != nil {
			return err
		}
		s.engines[name] = srv
		(*listening)[name] = Listening{srv.Addrs()[0], srv.Promises()[0]}
		go func() { _ = srv.Serve(context.Background()) }()
	}
	return nil
}

// timers are what a connection has running. They belong to its loop.
type timers []*engine.Timer

func (s *server) open(c *engine.Conn, d *detector) {
	s.mu.Lock()
	s.opened[Place{rowOf(c.RemoteAddr()), d.Name}]++
	s.mu.Unlock()
	if d.Say > 0 {
		c.Set(timers{c.Loop().Every(d.Say, func() { _ = c.Send([]byte("news")) })})
	}
}

func (s *server) closed(c *engine.Conn, d *detector, err error, stalled time.Duration) {
	at := now()
	running, _ := c.Get().(timers)
	for _, t := range running {
		t.Stop()
	}
	e := End{
		Place: Place{rowOf(c.RemoteAddr()), d.Name}, Port: c.RemoteAddr().Port(),
		At: at, Reason: engine.ReasonOf(err), Err: err.Error(), Stalled: stalled,
	}
	if ce, ok := err.(*engine.CloseError); ok {
		e.Diagnosis, e.Evidence = ce.Diagnosis(), ce.Evidence
	}
	s.mu.Lock()
	s.ends = append(s.ends, e)
	s.mu.Unlock()
}

// Flow says whom to send a stream.
type Flow struct {
	Row       int
	Detectors []string
}

// Stream begins to send more and more, until the connection ends.
func (s *server) Stream(f Flow, _ *None) error {
	for _, name := range f.Detectors {
		s.engines[name].Range(func(c *engine.Conn) bool {
			if rowOf(c.RemoteAddr()) == f.Row {
				_ = c.Post(func() {
					chunk := make([]byte, chunkSize)
					running, _ := c.Get().(timers)
					c.Set(append(running, c.Loop().Every(chunkEvery, func() { _ = c.Send(chunk) })))
				})
			}
			return true
		})
	}
	return nil
}

// Shout sends something to all of a detector's connections that they answer.
func (s *server) Shout(detector string, _ *None) error { return s.engines[detector].Broadcast(shout) }

// Dismiss resets the connections of a host.
func (s *server) Dismiss(row int, _ *None) error {
	for _, srv := range s.engines {
		srv.Range(func(c *engine.Conn) bool {
			if rowOf(c.RemoteAddr()) == row {
				_ = c.Abort()
			}
			return true
		})
	}
	return nil
}

// State is what the server has seen.
type State struct {
	Opened map[Place]int
	Ends   []End // from the one asked for
	// Lag and Stalled are those of engine.LoopStats, by detector.
	Lag, Stalled map[string]time.Duration
}

// Look returns the ends from number from on.
func (s *server) Look(from int, st *State) error {
	s.mu.Lock()
	st.Ends = append(st.Ends, s.ends[from:]...)
	st.Opened = maps.Clone(s.opened)
	s.mu.Unlock()
	st.Lag, st.Stalled = make(map[string]time.Duration), make(map[string]time.Duration)
	for name, srv := range s.engines {
		if err := settled(srv); err != nil {
			return err
		}
		total := srv.Stats().Total
		st.Lag[name], st.Stalled[name] = total.Lag, total.Stalled
	}
	return nil
}

// settled waits until every loop is done with what it is doing, so that its
// LoopStats.Lag includes that.
func settled(srv *engine.Server) error {
	var wg sync.WaitGroup
	for _, l := range srv.Loops() {
		wg.Add(1)
		if err := l.Post(wg.Done); err != nil {
			return err
		}
	}
	wg.Wait()
	return nil
}
