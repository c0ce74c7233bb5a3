//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// now is the machine's monotonic clock, which all processes share. Go reads it
// without a system call, but does not tell where it began.
func now() int64 { return clockBase + int64(time.Since(clockStart)) }

var clockStart, clockBase = func() (time.Time, int64) {
	var t unix.Timespec
	start := time.Now()
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return start, t.Nano()
}()

// partyConfig describes a child process.
type partyConfig struct {
	Liveness heartbeat.Config
	// StallCap is that of engine.Limits.
	StallCap time.Duration
	// Delay makes its connections those of peers that far away (distant.go). 0: it
	// is a server or a client of the engine.
	Delay time.Duration
	// Groups are the kinds of peers, which are told apart by port: on a server
	// each has a listener, on a client each dials a port of its own.
	Groups []group
}

type group struct {
	Name  string
	Port  int // to dial; 0: the party is a server
	Conns int // how many to dial
}

// started is the first line of a child: its ports, or that all connections it
// was to dial are there.
type started struct{ Ports []int }

// partyReport is what a child prints when it is asked.
type partyReport struct {
	Groups []groupReport `json:"groups"`

	Pings        uint64          `json:"pings"`
	Queries      uint64          `json:"queries"`
	Pongs        uint64          `json:"pongs"`
	Stalled      []time.Duration `json:"stalled"`       // by loop
	StallExcess  []time.Duration `json:"stall_excess"`  // by loop
	PingsIgnored uint64          `json:"pings_ignored"` // must be none, or answers were left out
}

// groupReport is what became of the connections of a group. Times are on the
// monotonic clock.
type groupReport struct {
	Name      string         `json:"name"`
	Opened    int            `json:"opened"`
	Closed    int            `json:"closed"`
	Reasons   map[string]int `json:"reasons"`
	Diagnoses map[string]int `json:"diagnoses"`
	First     int64          `json:"first"` // when the first of them ended
	Last      int64          `json:"last"`
	Example   string         `json:"example,omitempty"` // the first one's error
}

// party is a child process.
type party struct {
	config partyConfig
	stats  func() engine.Stats // nil: it has no engine

	mu     sync.Mutex
	groups []*groupReport
}

// childFlag makes this program a child: its configuration follows.
const childFlag = "-child"

// childMain is what a child does. It returns false in the driver.
func childMain() bool {
	if len(os.Args) != 3 || os.Args[1] != childFlag {
		return false
	}
	// At first: the driver may want to end a child that is not ready yet.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGTERM, syscall.SIGINT)
	p := new(party)
	err := json.Unmarshal([]byte(os.Args[2]), &p.config)
	if err == nil {
		err = p.run(signals)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stall:", err)
		os.Exit(1)
	}
	return true
}

func (p *party) run(signals <-chan os.Signal) error {
	for _, g := range p.config.Groups {
		p.groups = append(p.groups, &groupReport{Name: g.Name, Reasons: make(map[string]int), Diagnoses: make(map[string]int)})
	}
	switch {
	case p.config.Delay > 0:
		return p.runDistant(signals)
	case p.config.Groups[0].Port != 0:
		return p.dial(signals)
	}
	return p.serve(signals)
}

func (p *party) limits() engine.Limits {
	return engine.Limits{Loops: 2, MaxConns: -1, StallCap: p.config.StallCap, DrainTimeout: -1}
}

// logger shows what must not happen; proc prints it if the child ends badly.
func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
}

// handler counts the connections of the group that of tells.
func (p *party) handler(of func(*engine.Conn) *groupReport) engine.Handler {
	return engine.Handler{
		Open: func(c *engine.Conn) error {
			g := of(c)
			if g == nil {
				return errors.New("a connection of no group")
			}
			c.Set(g)
			p.opened(g)
			return nil
		},
		Close: func(c *engine.Conn, err error) {
			g, ok := c.Get().(*groupReport)
			if !ok {
				return // Open has refused it
			}
			diagnosis := ""
			if ce, ok := errors.AsType[*engine.CloseError](err); ok {
				diagnosis = ce.Diagnosis().String()
			}
			p.closed(g, engine.ReasonOf(err).String(), diagnosis, err)
		},
	}
}

func (p *party) opened(g *groupReport) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g.Opened++
}

func (p *party) closed(g *groupReport, reason, diagnosis string, err error) {
	at := now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if g.Closed++; g.Closed == 1 {
		g.First, g.Example = at, err.Error()
	}
	g.Last = at
	g.Reasons[reason]++
	if diagnosis != "" {
		g.Diagnoses[diagnosis]++
	}
}

func (p *party) serve(signals <-chan os.Signal) error {
	var listeners []engine.Listener
	for range p.config.Groups {
		listeners = append(listeners, engine.Listener{Addr: "tcp4://127.0.0.1:0", Codec: codec.Native{}, Liveness: p.config.Liveness})
	}
	ports := make(map[uint16]*groupReport) // complete before anything is accepted
	srv, err := engine.Listen(engine.Config{
		Listeners: listeners,
		Handler:   p.handler(func(c *engine.Conn) *groupReport { return ports[c.LocalAddr().Port()] }),
		Limits:    p.limits(),
		Logger:    logger(),
	})
	if err != nil {
		return err
	}
	p.stats = srv.Stats
	var s started
	for i, g := range p.groups {
		ports[srv.Port(i)] = g
		s.Ports = append(s.Ports, int(srv.Port(i)))
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx) }()
	p.answer(s, signals)
	stop()
	return <-served
}

const (
	dialers     = 32
	dialTimeout = 30 * time.Second
)

func (p *party) dial(signals <-chan os.Signal) error {
	ports := make(map[uint16]*groupReport)
	for i, g := range p.config.Groups {
		ports[uint16(g.Port)] = p.groups[i]
	}
	cl, err := engine.NewClient(engine.ClientConfig{
		Codec:    codec.Native{},
		Liveness: p.config.Liveness,
		Handler:  p.handler(func(c *engine.Conn) *groupReport { return ports[c.RemoteAddr().Port()] }),
		Limits:   p.limits(),
		Logger:   logger(),
	})
	if err != nil {
		return err
	}
	defer func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel() // they are reset at once
		_ = cl.Shutdown(ended)
	}()
	p.stats = cl.Stats
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	if err := dialAll(ctx, cl, p.config.Groups); err != nil {
		return err
	}
	p.answer(started{}, signals)
	return nil
}

// dialAll opens all connections, a few at a time.
func dialAll(ctx context.Context, cl *engine.Client, groups []group) error {
	targets := make(chan string)
	go func() {
		defer close(targets)
		for _, g := range groups {
			for range g.Conns {
				targets <- fmt.Sprintf("tcp4://127.0.0.1:%d", g.Port)
			}
		}
	}()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	for range dialers {
		wg.Go(func() {
			for target := range targets {
				_, err := cl.Dial(ctx, target)
				mu.Lock()
				if first == nil {
					first = err
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return first
}

// answer says that the child is ready, and reports until it is told to end.
func (p *party) answer(s started, signals <-chan os.Signal) {
	lines := json.NewEncoder(os.Stdout)
	if lines.Encode(s) != nil {
		return // nobody listens any more
	}
	for sig := range signals {
		if sig != syscall.SIGUSR1 || lines.Encode(p.report()) != nil {
			return
		}
	}
}

func (p *party) report() partyReport {
	var r partyReport
	if p.stats != nil {
		st := p.stats()
		r = partyReport{Pings: st.Total.Pings, Queries: st.Total.Queries, Pongs: st.Total.PongsIn, PingsIgnored: st.Total.PingsIgnored}
		for _, l := range st.Loops {
			r.Stalled = append(r.Stalled, l.Stalled)
			r.StallExcess = append(r.StallExcess, l.StallExcess)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, g := range p.groups {
		g := *g
		// What is counted on is not what is encoded.
		g.Reasons, g.Diagnoses = maps.Clone(g.Reasons), maps.Clone(g.Diagnoses)
		r.Groups = append(r.Groups, g)
	}
	return r
}
