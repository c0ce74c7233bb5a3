package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/bench"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/wire"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/results"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

// calibration is what to calibrate with.
type calibration struct {
	rounds    int
	echo      load.Echo
	depths    []int
	servers   []peers.Server
	tolerance float64
	seed      uint64
	progress  io.Writer
}

// reading is one server put under one load once.
type reading struct {
	Round     int     `json:"round"`
	Place     int     `json:"place"`
	Server    string  `json:"server"`
	Depth     int     `json:"depth"`
	Load      string  `json:"load"`
	Rate      float64 `json:"messages_per_second"`
	ServerCPU float64 `json:"server_cpu_ns_per_message"`
	LoadCPU   float64 `json:"load_cpu_ns_per_message"`
	LoadShare float64 `json:"load_cpu_share"`
}

// The two loads.
const (
	inC  = "C"
	ours = "pulsebench"
)

func calibrateCommand(ctx context.Context, args []string, out, progress io.Writer) error {
	set := flag.NewFlagSet("calibrate", flag.ContinueOnError)
	c := calibration{progress: progress, echo: load.Echo{}}
	set.IntVar(&c.rounds, "n", 15, "rounds: how often each server is put under both loads")
	set.IntVar(&c.echo.Conns, "conns", 1000, "connections")
	depths := set.String("depth", "1,4", "comma-separated messages under way on each connection")
	set.IntVar(&c.echo.Payload, "payload", 64, "payload in bytes")
	set.DurationVar(&c.echo.Window, "duration", 2*time.Second, "length of the window")
	set.DurationVar(&c.echo.Warmup, "warmup", 500*time.Millisecond, "load before the window")
	servers := set.String("servers", "cfloor,pulsewheel", "comma-separated servers")
	set.Float64Var(&c.tolerance, "tolerance", 3, "percent by which the loads may differ")
	set.Uint64Var(&c.seed, "seed", 0, "of the order and the bootstrap (default random)")
	to := set.String("out", "", "folder for calibrate.jsonl and calibrate.md; \"none\" for nowhere (default benchmarks/results/DATE)")
	smoke := set.Bool("smoke", false, "a tiny run that only shows that everything works; writes nothing unless -out is given")
	set.Usage = func() {
		fmt.Fprint(set.Output(), "usage: pulsebench calibrate [flags]\nPuts the same servers under this load and under one written in C, in turn, and compares what the servers did.\nIt needs this project's sources, Go and a C compiler.\n\n")
		set.PrintDefaults()
	}
	if err := parse(set, args, progress); err != nil {
		return err
	}
	if set.NArg() > 0 {
		return usageError(fmt.Errorf("unexpected argument %q", set.Arg(0)))
	}
	var err error
	if c.depths, err = numbers("-depth", *depths, 1); err != nil {
		return usageError(err)
	}
	if c.rounds < 1 || len(c.depths) == 0 {
		return usageError(errors.New("-n and -depth: want at least one"))
	}
	if *smoke {
		c.rounds, c.depths = 1, c.depths[:1]
		c.echo = load.Echo{Conns: 20, Payload: 64, Warmup: 50 * time.Millisecond, Window: 200 * time.Millisecond}
		if *to == "" {
			*to = results.None
		}
	}
	if c.seed == 0 {
		c.seed = rand.Uint64()
	}
	// Before the measurement: a mistake here must not cost its minutes.
	dir, err := results.Dir(ctx, *to)
	if err != nil {
		return err
	}
	found, err := peers.Lookup(*servers)
	if err != nil {
		return usageError(err)
	}
	tmp, err := os.MkdirTemp("", "pulsebench-calibrate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if c.servers, err = peers.Build(ctx, tmp, found); err != nil {
		return err
	}
	program, err := load.Build(ctx, tmp)
	if err != nil {
		return err
	}
	readings, shared, err := c.measure(ctx, program)
	if err != nil {
		return err
	}
	facts := machine.Gather("benchmarks/cmd/pulsebench calibrate", set, "out")
	table, within := c.table(readings, shared)
	table += "\n" + facts.Markdown()
	fmt.Fprint(out, table)
	lines := []any{map[string]any{"kind": "facts", "data": facts}}
	for _, r := range readings {
		lines = append(lines, map[string]any{"kind": "reading", "data": r})
	}
	if err := results.Write(dir, "calibrate", lines, table); err != nil {
		return err
	}
	if !within && !*smoke {
		return fmt.Errorf("the loads differ by more than %g %%", c.tolerance)
	}
	return nil
}

// measure takes all readings; within a round and depth a server is put under
// both loads one after the other, in random order.
func (c calibration) measure(ctx context.Context, program load.Program) (readings []reading, shared bool, err error) {
	serverCPU, loadCPU, shared, err := proc.Pair()
	if err != nil {
		return nil, false, err
	}
	random := rand.New(rand.NewPCG(c.seed, 0))
	for round := range c.rounds {
		for _, at := range random.Perm(len(c.servers) * len(c.depths)) {
			server, depth := c.servers[at/len(c.depths)], c.depths[at%len(c.depths)]
			for place, i := range random.Perm(2) {
				r := reading{Round: round, Place: place, Server: server.Name, Depth: depth, Load: [...]string{inC, ours}[i]}
				if err := c.once(ctx, program, server, serverCPU, loadCPU, &r); err != nil {
					return nil, shared, fmt.Errorf("round %d, %s under %s: %w", round+1, r.Server, r.Load, err)
				}
				readings = append(readings, r)
				fmt.Fprintf(c.progress, "round %d/%d  %-12s depth %-3d %-10s %9.0f/s, server %6.0f ns, load %6.0f ns a message, load busy %3.0f %%\n",
					round+1, c.rounds, r.Server, r.Depth, r.Load, r.Rate, r.ServerCPU, r.LoadCPU, 100*r.LoadShare)
			}
		}
	}
	return readings, shared, nil
}

func (c calibration) once(ctx context.Context, program load.Program, s peers.Server, serverCPU, loadCPU int, r *reading) (err error) {
	running, err := s.Start(ctx, serverCPU)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, running.Stop()) }()
	if r.Load == inC {
		echo := c.echo
		echo.Depth = r.Depth
		got, err := program.Echo(ctx, loadCPU, load.Target{Port: running.Port, PID: running.PID()}, echo)
		if err != nil {
			return err
		}
		r.Rate, r.ServerCPU = float64(got.Messages)/got.Seconds, got.CPUPerMessage()
		r.LoadCPU, r.LoadShare = float64(got.LoadCPU)/float64(got.Messages), float64(got.LoadCPU)/1e9/got.Seconds
		return nil
	}
	got, err := bench.Bench{Plan: c.plan(running.Port, r.Depth), PIDs: []int{running.PID()}, CPUs: []int{loadCPU}}.Run(ctx)
	if err != nil {
		return err
	}
	if len(got.Problems) > 0 {
		return errors.New(strings.Join(got.Problems, "; "))
	}
	if got.Interrupted {
		return context.Canceled
	}
	r.Rate, r.ServerCPU = got.MessagesPerSecond, got.Server.CPUPerMessage
	r.LoadCPU, r.LoadShare = got.Client.CPUPerMessage, got.Client.Shares[0]
	return nil
}

// plan is the plan of a run that does what the load in C does.
func (c calibration) plan(port, depth int) spec.Spec {
	return spec.Spec{
		Target: "127.0.0.1:" + strconv.Itoa(port), Workload: spec.Closed, Protocol: wire.Options{Name: "length4"},
		Conns: c.echo.Conns, Payload: strconv.Itoa(c.echo.Payload), Seed: c.seed, Depth: depth,
		Arrivals: spec.Uniform, End: spec.EndFin, Senders: 1, Connecting: 128, ConnectLimit: 30 * time.Second,
		Warmup: c.echo.Warmup, Duration: c.echo.Window, Drain: 5 * time.Second, Step: max(c.echo.Window, 10*time.Millisecond),
		DetectLimit: time.Second, MaxOutstanding: 1_000_000, Workers: 1, SaturatedAt: 1,
	}
}

// table compares the loads, and reports whether all is within the tolerance.
func (c calibration) table(readings []reading, shared bool) (text string, within bool) {
	within = true
	var b strings.Builder
	fmt.Fprintf(&b, "# Calibration: the same servers under pulsebench and under a load generator in C\n\n")
	fmt.Fprintf(&b, "%d connections, payload %d B, %d rounds, both loads one after the other within a round, window %v after %v. Ratios are of pairs, pulsebench to C: median [95 %% bootstrap interval].\n\n",
		c.echo.Conns, c.echo.Payload, c.rounds, c.echo.Window, c.echo.Warmup)
	if shared {
		fmt.Fprintf(&b, "**Server and load shared one processor.**\n\n")
	}
	fmt.Fprintf(&b, "| server | depth | throughput | server CPU per message | load CPU per message | load busy, C | load busy, pulsebench | within %g %% |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n", c.tolerance)
	for _, s := range c.servers {
		for _, depth := range c.depths {
			rate := c.pairs(readings, s.Name, depth, func(r reading) float64 { return r.Rate })
			cpu := c.pairs(readings, s.Name, depth, func(r reading) float64 { return r.ServerCPU })
			own := c.pairs(readings, s.Name, depth, func(r reading) float64 { return r.LoadCPU })
			busy := func(name string) float64 {
				return 100 * stats.Median(of(readings, s.Name, depth, name, func(r reading) float64 { return r.LoadShare }))
			}
			ok := math.Abs(rate.Median-1) <= c.tolerance/100 && math.Abs(cpu.Median-1) <= c.tolerance/100
			within = within && ok
			verdict := "yes"
			if !ok {
				verdict = "**no**"
			}
			fmt.Fprintf(&b, "| %s | %d | %v | %v | %v | %.0f %% | %.0f %% | %s |\n", s.Name, depth, rate, cpu, own, busy(inC), busy(ours), verdict)
		}
	}
	return b.String(), within
}

// of picks a figure of the readings of one server, depth and load, by round.
func of(readings []reading, server string, depth int, load string, figure func(reading) float64) (list []float64) {
	for _, r := range readings {
		if r.Server == server && r.Depth == depth && r.Load == load {
			list = append(list, figure(r))
		}
	}
	return list
}

func (c calibration) pairs(readings []reading, server string, depth int, figure func(reading) float64) stats.Summary {
	return stats.Summarize(stats.Ratios(of(readings, server, depth, ours, figure), of(readings, server, depth, inC, figure)), c.seed)
}
