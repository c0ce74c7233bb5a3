package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

type config struct {
	rounds   int
	load     load.Idle
	peers    []peers.Peer
	progress io.Writer
}

// sample is one server measured once. Memory is in bytes.
type sample struct {
	Round  int    `json:"round"`
	Server string `json:"server"`

	Empty     proc.Usage `json:"empty"`     // no connection, collected
	Loaded    proc.Usage `json:"loaded"`    // all connections, as the server left it
	Collected proc.Usage `json:"collected"` // all connections, collected

	Goroutines int   `json:"goroutines"`
	Verdicts   int64 `json:"verdicts"`

	load.Result
}

func (s sample) perConn(bytes int64) float64 { return float64(bytes) / float64(s.Conns) }

// ResidentPerConn is after collection; of it, AnonymousPerConn is heap and
// stacks. PeakPerConn is without a forced collection.
func (s sample) residentPerConn() float64 { return s.perConn(s.Collected.RSS - s.Empty.RSS) }
func (s sample) anonymousPerConn() float64 {
	return s.perConn(s.Collected.Anonymous - s.Empty.Anonymous)
}
func (s sample) peakPerConn() float64 { return s.perConn(s.Loaded.Peak - s.Empty.RSS) }

// warmup is the load that makes a server touch what it touches once.
var warmup = load.Idle{Conns: 64, Interval: time.Second, Window: 200 * time.Millisecond}

// measure runs all rounds. Shared says that server and load had to share a
// processor.
func measure(ctx context.Context, c config) (samples []sample, shared bool, err error) {
	if c.rounds < 1 {
		return nil, false, fmt.Errorf("%d rounds asked for", c.rounds)
	}
	serverCPU, loadCPU, shared, err := proc.Pair()
	if err != nil {
		return nil, false, err
	}
	if shared {
		fmt.Fprintln(c.progress, "only one processor may be used: server and load share it")
	}
	dir, err := os.MkdirTemp("", "pulsewheel-idle-")
	if err != nil {
		return nil, shared, err
	}
	defer os.RemoveAll(dir)
	program, err := load.Build(ctx, dir)
	if err != nil {
		return nil, shared, err
	}
	servers, err := peers.Build(ctx, dir, c.peers)
	if err != nil {
		return nil, shared, err
	}
	for round := range c.rounds {
		for _, server := range servers {
			s, err := once(ctx, program, server, c.load, serverCPU, loadCPU)
			if err != nil {
				return nil, shared, fmt.Errorf("round %d, %s: %w", round+1, server.Name, err)
			}
			s.Round = round
			samples = append(samples, s)
			fmt.Fprintf(c.progress, "round %d/%d  %-12s %7.0f B a connection, %d goroutines, %d heartbeats answered, %6.0f ns of CPU each, %d verdicts, others %.2f CPUs\n",
				round+1, c.rounds, server.Name, s.residentPerConn(), s.Goroutines, s.Messages, s.CPUPerMessage(), s.Verdicts, s.Others())
		}
	}
	return samples, shared, nil
}

func once(ctx context.Context, program load.Program, server peers.Server, idle load.Idle, serverCPU, loadCPU int) (s sample, err error) {
	s.Server = server.Name
	running, err := server.Start(ctx, serverCPU)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, running.Stop()) }()
	target := load.Target{Port: running.Port, PID: running.PID()}

	_, held, err := program.Idle(ctx, loadCPU, target, warmup)
	if err == nil {
		err = held.End()
	}
	if err != nil {
		return s, fmt.Errorf("first connections: %w", err)
	}
	if _, err = running.WaitOpen(0); err != nil {
		return s, err
	}
	if s.Empty, err = running.Memory(); err != nil {
		return s, err
	}

	if s.Result, held, err = program.Idle(ctx, loadCPU, target, idle); err != nil {
		return s, err
	}
	err = s.look(running, int64(idle.Conns))
	return s, errors.Join(err, held.End())
}

// look takes the server's figures while all connections are open.
func (s *sample) look(running *peers.Running, conns int64) (err error) {
	if s.Loaded, err = running.Memory(); err != nil {
		return err
	}
	report, err := running.Collect()
	if err != nil {
		return err
	}
	if s.Collected, err = running.Memory(); err != nil {
		return err
	}
	s.Goroutines, s.Verdicts = report.Goroutines, report.Verdicts
	if report.Verdicts != 0 || report.Open != conns {
		return fmt.Errorf("%d verdicts, %d of %d connections open: all of them are alive", report.Verdicts, report.Open, conns)
	}
	return nil
}
