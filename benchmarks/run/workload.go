package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

// defaultServers leaves out variants that differ in nothing these workloads see.
const defaultServers = "cfloor,gnet,gnet@2,gnet-opt,nbio,netpoll,gev,evio,std,zinx,pulsewheel"

// workload is one way to load a server.
type workload struct {
	name  string // of files and in tables
	title string
	what  string // is counted
	work  control.Work
	// put loads a server; smoke asks for as little as shows that it works.
	put func(smoke bool) rounds.Load
}

// workloads lists them in the order of the tables.
var workloads = []workload{
	echo("echo-64", 1000, 4, 64, 2*time.Second),
	echo("echo-64-depth-1", 1000, 1, 64, 2*time.Second),
	echo("echo-4k", 1000, 4, 4<<10, 2*time.Second),
	echo("echo-64k", 200, 2, 64<<10, 2*time.Second),
	echo("echo-10k-conns", 10_000, 1, 64, 3*time.Second),
	heartbeat("heartbeat", 15_000, 3*time.Second, 6*time.Second),
}

func echo(name string, conns, depth, payload int, window time.Duration) workload {
	return workload{
		name:  name,
		title: fmt.Sprintf("Echo of %d B over %d connections, %d under way on each", payload, conns, depth),
		what:  "message",
		work:  control.Echo,
		put: func(smoke bool) rounds.Load {
			e := load.Echo{Conns: conns, Depth: depth, Payload: payload, Warmup: 500 * time.Millisecond, Window: window}
			if smoke {
				e.Conns, e.Warmup, e.Window = 20, 50*time.Millisecond, 400*time.Millisecond
			}
			return func(ctx context.Context, program load.Program, cpu int, t load.Target) (load.Result, error) {
				return program.Echo(ctx, cpu, t, e)
			}
		},
	}
}

func heartbeat(name string, conns int, interval, window time.Duration) workload {
	return workload{
		name:  name,
		title: fmt.Sprintf("Heartbeats of %d connections that do nothing else, one every %v on each", conns, interval),
		what:  "heartbeat",
		work:  control.Echo,
		put: func(smoke bool) rounds.Load {
			i := load.Idle{Conns: conns, Interval: interval, Warmup: time.Second, Window: window}
			if smoke {
				i.Conns, i.Interval, i.Warmup, i.Window = 20, time.Second, 50*time.Millisecond, 300*time.Millisecond
			}
			return func(ctx context.Context, program load.Program, cpu int, t load.Target) (load.Result, error) {
				r, held, err := program.Idle(ctx, cpu, t, i)
				if err != nil {
					return r, err
				}
				return r, held.End()
			}
		},
	}
}

type config struct {
	rounds             int
	servers, workloads string
	seed               uint64
	smoke              bool
	progress           io.Writer
}

// measured is a workload, who it is put on, and what came of it.
type measured struct {
	workload
	rounds.Plan
	samples []rounds.Sample
}

// plans returns what is to be measured. A server whose framework cannot do a
// work is left out there.
func (c config) plans() (plans []*measured, err error) {
	if c.rounds < 1 {
		return nil, fmt.Errorf("%d rounds asked for", c.rounds)
	}
	all, err := peers.Lookup(c.servers)
	if err != nil {
		return nil, err
	}
	chosen := workloads
	if c.workloads != "" {
		chosen = nil
		for name := range strings.SplitSeq(c.workloads, ",") {
			i := slices.IndexFunc(workloads, func(w workload) bool { return w.name == name })
			if i < 0 {
				return nil, fmt.Errorf("no workload %q", name)
			}
			chosen = append(chosen, workloads[i])
		}
	}
	for _, w := range chosen {
		m := &measured{workload: w, Plan: rounds.Plan{Name: w.name, Rounds: c.rounds, Seed: c.seed, Progress: c.progress}}
		for _, p := range all {
			if able, err := p.For(w.work); err == nil {
				m.Peers = append(m.Peers, able)
			}
		}
		if len(m.Peers) == 0 {
			return nil, fmt.Errorf("none of these servers can do %s", w.name)
		}
		plans = append(plans, m)
	}
	return plans, nil
}

// measure runs all rounds. Shared says that server and load had to share a
// processor.
func measure(ctx context.Context, c config, plans []*measured) (_ []*measured, shared bool, err error) {
	if len(plans) == 0 {
		return nil, false, errors.New("nothing to measure")
	}
	var all []peers.Peer
	for _, m := range plans {
		all = append(all, m.Peers...)
	}
	bench, err := rounds.Open(ctx, "run", all, c.progress)
	if err != nil {
		return nil, false, err
	}
	defer bench.Close()
	random := rand.New(rand.NewPCG(c.seed, 0))
	for round := range c.rounds {
		for _, i := range random.Perm(len(plans)) {
			m := plans[i]
			fmt.Fprintln(c.progress, m.name)
			samples, err := bench.Round(ctx, m.Plan, round, random, m.put(c.smoke))
			if err != nil {
				return nil, bench.Shared, fmt.Errorf("%s: %w", m.name, err)
			}
			m.samples = append(m.samples, samples...)
		}
	}
	return plans, bench.Shared, nil
}
