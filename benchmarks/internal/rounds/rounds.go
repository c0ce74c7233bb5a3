// Package rounds measures servers in turn, so that they can be compared: a round
// starts every server once, in random order, each as a new process bound to one
// processor, and loads it from another. Ratios are taken within a round, so that
// a machine that is slow for a while is slow for both.
package rounds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

// Plan says who is measured, and how often.
type Plan struct {
	// Name is that of the driver.
	Name   string
	Rounds int
	// Seed is that of the order within rounds, and of the bootstrap.
	Seed     uint64
	Peers    []peers.Peer
	Progress io.Writer
}

// Load puts one load on a server that listens, from processor cpu, and returns
// what its window saw.
type Load func(ctx context.Context, program load.Program, cpu int, t load.Target) (load.Result, error)

// Sample is one server measured once.
type Sample struct {
	Round int `json:"round"`
	// Place is the server's turn within the round, from 0.
	Place  int    `json:"place"`
	Server string `json:"server"`
	// CPU is the server's time per message in nanoseconds.
	CPU float64 `json:"cpu_ns_per_message"`
	load.Result
}

// Measure runs all rounds. Shared says that server and load had to share a
// processor.
func (p Plan) Measure(ctx context.Context, put Load) (samples []Sample, shared bool, err error) {
	if p.Rounds < 1 {
		return nil, false, fmt.Errorf("%d rounds asked for", p.Rounds)
	}
	b, err := Open(ctx, p.Name, p.Peers, p.Progress)
	if err != nil {
		return nil, false, err
	}
	defer b.Close()
	random := rand.New(rand.NewPCG(p.Seed, 0))
	for round := range p.Rounds {
		more, err := b.Round(ctx, p, round, random, put)
		if err != nil {
			return nil, b.Shared, err
		}
		samples = append(samples, more...)
	}
	return samples, b.Shared, nil
}

// Bench is what plans are measured on: programs that are built, and processors
// that are chosen. Several plans take turns on one where all that is compared is
// to be measured in the same hour.
type Bench struct {
	// Shared says that server and load have to share a processor.
	Shared bool

	dir       string
	program   load.Program
	servers   map[string]peers.Server // by program
	serverCPU int
	loadCPU   int
}

// Open builds the load and the programs of all peers that plans on this bench
// name. The caller closes it.
func Open(ctx context.Context, name string, all []peers.Peer, progress io.Writer) (b *Bench, err error) {
	b = &Bench{servers: make(map[string]peers.Server)}
	if b.serverCPU, b.loadCPU, b.Shared, err = proc.Pair(); err != nil {
		return nil, err
	}
	if b.Shared {
		fmt.Fprintln(progress, "only one processor may be used: server and load share it")
	}
	if b.dir, err = os.MkdirTemp("", "pulsewheel-"+name+"-"); err != nil {
		return nil, err
	}
	if b.program, err = load.Build(ctx, b.dir); err != nil {
		b.Close()
		return nil, err
	}
	servers, err := peers.Build(ctx, b.dir, all)
	if err != nil {
		b.Close()
		return nil, err
	}
	for _, s := range servers {
		b.servers[s.Program()] = s
	}
	return b, nil
}

// Close removes what was built.
func (b *Bench) Close() { _ = os.RemoveAll(b.dir) } // what is left of it is the system's to clean

// Round measures each of the plan's peers once, in random order.
func (b *Bench) Round(ctx context.Context, p Plan, round int, random *rand.Rand, put Load) (samples []Sample, err error) {
	for place, i := range random.Perm(len(p.Peers)) {
		s, built := b.servers[p.Peers[i].Program()]
		if !built {
			return nil, fmt.Errorf("%s is not built on this bench", p.Peers[i].Name)
		}
		s.Peer = p.Peers[i]
		r, err := once(ctx, s, b.serverCPU, func(t load.Target) (load.Result, error) { return put(ctx, b.program, b.loadCPU, t) })
		if err != nil {
			return nil, fmt.Errorf("round %d, %s: %w", round+1, s.Name, err)
		}
		samples = append(samples, Sample{round, place, s.Name, r.CPUPerMessage(), r})
		fmt.Fprintf(p.Progress, "round %d/%d  %-12s %8.1f ns of CPU a message, %9d messages, server busy %3.0f %%, others %.2f CPUs\n",
			round+1, p.Rounds, s.Name, r.CPUPerMessage(), r.Messages, 100*r.ServerBusy(), r.Others())
	}
	return samples, nil
}

func once(ctx context.Context, s peers.Server, cpu int, f func(load.Target) (load.Result, error)) (r load.Result, err error) {
	running, err := s.Start(ctx, cpu)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, running.Stop()) }()
	return f(load.Target{Port: running.Port, PID: running.PID(), Warmup: s.WarmUp()})
}

// Row is one server's line of the table.
type Row struct {
	Server string        `json:"server"`
	About  string        `json:"about"`
	CPU    stats.Summary `json:"cpu_ns_per_message"`
	// Ratios are taken within rounds, to each reference that was measured.
	Ratios map[string]stats.Summary `json:"ratios"`
	// Medians that tell whether servers were loaded alike and undisturbed: the
	// share of the window the server was on its processor, the load on its own,
	// frames per read of the load, and processors that others used.
	Busy     float64 `json:"server_busy"`
	LoadBusy float64 `json:"load_busy"`
	Batch    float64 `json:"frames_per_read"`
	Others   float64 `json:"others_cpus"`
}

// Rows sums samples up, a row for each server in the order of the plan.
func (p Plan) Rows(samples []Sample) (rows []Row) {
	of := func(name string, f func(Sample) float64) (xs []float64) {
		for _, s := range samples { // in order of rounds, so that indexes pair up
			if s.Server == name {
				xs = append(xs, f(s))
			}
		}
		return xs
	}
	cpu := func(s Sample) float64 { return s.CPU }
	for _, peer := range p.Peers {
		mine := of(peer.Name, cpu)
		ratios := make(map[string]stats.Summary)
		for _, reference := range p.References() {
			if reference != peer.Name {
				ratios[reference] = stats.Summarize(stats.Ratios(mine, of(reference, cpu)), p.Seed)
			}
		}
		rows = append(rows, Row{
			Server:   peer.Name,
			About:    peer.About,
			CPU:      stats.Summarize(mine, p.Seed),
			Ratios:   ratios,
			Busy:     stats.Median(of(peer.Name, func(s Sample) float64 { return s.ServerBusy() })),
			LoadBusy: stats.Median(of(peer.Name, func(s Sample) float64 { return s.LoadBusy() })),
			Batch:    stats.Median(of(peer.Name, func(s Sample) float64 { return float64(s.Messages) / float64(s.Reads) })),
			Others:   stats.Median(of(peer.Name, func(s Sample) float64 { return s.Others() })),
		})
	}
	return rows
}

// References are those of package peers that the plan measures.
func (p Plan) References() (names []string) {
	for _, name := range peers.References {
		if slices.ContainsFunc(p.Peers, func(peer peers.Peer) bool { return peer.Name == name }) {
			names = append(names, name)
		}
	}
	return names
}

// Table is the rows in Markdown. What is the name of a message.
func (p Plan) Table(what string, rows []Row) string {
	var b strings.Builder
	references := p.References()
	fmt.Fprintf(&b, "| server | CPU ns per %s |", what)
	for _, name := range references {
		fmt.Fprintf(&b, " × %s |", name)
	}
	fmt.Fprintf(&b, " server busy | load busy | frames per read | others' CPUs |\n|%s\n", strings.Repeat(" --- |", 6+len(references)))
	for _, row := range rows {
		fmt.Fprintf(&b, "| %s: %s | %.0f |", row.Server, row.About, row.CPU.Median)
		for _, name := range references {
			fmt.Fprintf(&b, " %s |", row.Ratios[name]) // a dash to itself
		}
		fmt.Fprintf(&b, " %.0f %% | %.0f %% | %.2f | %.2f |\n", 100*row.Busy, 100*row.LoadBusy, row.Batch, row.Others)
	}
	return b.String()
}
