package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

type config struct {
	rounds   int
	load     load.Echo
	seed     uint64
	peers    []peers.Peer
	progress io.Writer
}

// sample is one server measured once.
type sample struct {
	Round int `json:"round"`
	// Place is the server's turn within the round, from 0.
	Place  int    `json:"place"`
	Server string `json:"server"`
	// CPU is the server's time per message in nanoseconds.
	CPU float64 `json:"cpu_ns_per_message"`
	load.Result
}

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
	dir, err := os.MkdirTemp("", "pulsewheel-echo-")
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

	random := rand.New(rand.NewPCG(c.seed, 0))
	for round := range c.rounds {
		for place, i := range random.Perm(len(servers)) {
			s := servers[i]
			r, err := once(ctx, program, s, c.load, serverCPU, loadCPU)
			if err != nil {
				return nil, shared, fmt.Errorf("round %d, %s: %w", round+1, s.Name, err)
			}
			samples = append(samples, sample{round, place, s.Name, r.CPUPerMessage(), r})
			fmt.Fprintf(c.progress, "round %d/%d  %-12s %8.1f ns of CPU a message, %9d messages, server busy %3.0f %%, others %.2f CPUs\n",
				round+1, c.rounds, s.Name, r.CPUPerMessage(), r.Messages, 100*r.ServerBusy(), r.Others())
		}
	}
	return samples, shared, nil
}

func once(ctx context.Context, program load.Program, s peers.Server, e load.Echo, serverCPU, loadCPU int) (r load.Result, err error) {
	running, err := s.Start(ctx, serverCPU)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, running.Stop()) }()
	return program.Echo(ctx, loadCPU, load.Target{Port: running.Port, PID: running.PID()}, e)
}
