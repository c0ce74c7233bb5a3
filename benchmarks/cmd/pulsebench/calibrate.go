package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/bench"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/wire"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/results"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

// calibration is what to calibrate with.
type calibration struct {
	rounds    int
	cycles    int
	slice     time.Duration
	echo      load.Echo // but for its depth
	depths    []int
	servers   []peers.Peer
	tolerance float64 // percent
	seed      uint64
	progress  io.Writer
}

// matter is one server at one depth: a process that both loads have their
// connections to, and that they load in turn, so that nothing but the load can
// make a difference.
type matter struct {
	server  peers.Peer
	depth   int
	plan    rounds.Plan
	samples []rounds.Sample
}

// The two loads.
const (
	inC  = "C"
	ours = "pulsebench"
)

var (
	serverCPU = rounds.CPU("message")
	rate      = rounds.Figure{Key: "per_second", Name: "messages per second", Unit: "1/s", More: true, Of: load.Result.Rate}
	ownCPU    = rounds.Figure{Key: "load_cpu_ns", Name: "load's own CPU per message", Unit: "ns",
		Of: func(r load.Result) float64 { return float64(r.LoadCPU) / float64(r.Messages) }}
)

func calibrateCommand(ctx context.Context, args []string, out, progress io.Writer) error {
	set := flag.NewFlagSet("calibrate", flag.ContinueOnError)
	c := calibration{progress: progress}
	set.IntVar(&c.rounds, "n", 15, "rounds: how often each server is started, and put under both loads")
	set.IntVar(&c.echo.Conns, "conns", 1000, "connections of each load")
	depths := set.String("depth", "1,4", "comma-separated messages under way on each connection")
	set.IntVar(&c.echo.Payload, "payload", 64, "payload in bytes")
	set.IntVar(&c.cycles, "cycles", 20, "windows of each load in a round")
	set.DurationVar(&c.slice, "slice", 50*time.Millisecond, "length of a window")
	set.DurationVar(&c.echo.Warmup, "warmup", 500*time.Millisecond, "load of each kind before the first window")
	servers := set.String("servers", "cfloor,pulsewheel", "comma-separated servers")
	set.Float64Var(&c.tolerance, "tolerance", 3, "percent by which a server's CPU time per message may differ")
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
	if c.rounds < 1 || c.cycles < 1 || len(c.depths) == 0 || c.slice <= 0 {
		return usageError(errors.New("-n, -cycles, -slice and -depth: want at least one"))
	}
	if *smoke {
		c.rounds, c.cycles, c.slice, c.depths = 1, 3, 20*time.Millisecond, c.depths[:1]
		c.echo = load.Echo{Conns: 20, Payload: 64, Warmup: 50 * time.Millisecond}
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
	if c.servers, err = peers.Lookup(*servers); err != nil {
		return usageError(err)
	}
	matters, shared, err := c.measure(ctx)
	if err != nil {
		return err
	}
	facts := machine.Gather("benchmarks/cmd/pulsebench calibrate", set, "out")
	table, agree := c.table(matters, shared)
	table += "\n" + facts.Markdown()
	fmt.Fprint(out, table)
	if err := results.Write(dir, "calibrate", lines(matters, facts), table); err != nil {
		return err
	}
	if !agree && !*smoke {
		return fmt.Errorf("it is not shown that the loads agree within %g %%", c.tolerance)
	}
	return nil
}

// measure takes all rounds. Within one, each server and depth has its turn, in
// random order.
func (c calibration) measure(ctx context.Context) (matters []*matter, shared bool, err error) {
	for _, server := range c.servers {
		for _, depth := range c.depths {
			matters = append(matters, c.matter(server, depth))
		}
	}
	b, err := rounds.Open(ctx, "calibrate", c.servers, c.progress)
	if err != nil {
		return nil, false, err
	}
	defer b.Close()
	random := rand.New(rand.NewPCG(c.seed, 0))
	for round := range c.rounds {
		for _, i := range random.Perm(len(matters)) {
			m := matters[i]
			samples, err := b.Round(ctx, m.plan, round, random)
			if err != nil {
				return nil, b.Shared, err
			}
			m.samples = append(m.samples, samples...)
		}
	}
	return matters, b.Shared, nil
}

func (c calibration) matter(server peers.Peer, depth int) *matter {
	m := &matter{server: server, depth: depth}
	echo := c.echo
	echo.Depth = depth
	entry := func(name string, put rounds.Loader) rounds.Entry {
		return rounds.Entry{Name: m.under(name), About: server.About, Peer: server, Load: put, Process: server.Name}
	}
	m.plan = rounds.Plan{
		Name: "calibrate", Rounds: c.rounds, Cycles: c.cycles, Slice: c.slice, Seed: c.seed, Progress: c.progress,
		Figures: []rounds.Figure{serverCPU, rate, ownCPU},
		Entries: []rounds.Entry{entry(inC, rounds.Mode(echo)), entry(ours, windows(echo, c.seed))},
	}
	return m
}

// under names the server under one of the loads.
func (m *matter) under(load string) string {
	return fmt.Sprintf("%s depth %d, %s", m.server.Name, m.depth, load)
}

// windowed is pulsebench as a load of package rounds.
type windowed struct {
	*bench.Windows
	echo load.Echo
}

// windows is the loader of pulsebench: the plan of a run that does what the load
// in C does.
func windows(echo load.Echo, seed uint64) rounds.Loader {
	return func(ctx context.Context, at rounds.Site) (rounds.Session, error) {
		plan := spec.Spec{
			Target: "127.0.0.1:" + strconv.Itoa(at.Target.Port), Workload: spec.Closed, Protocol: wire.Options{Name: "length4"},
			Conns: echo.Conns, Payload: strconv.Itoa(echo.Payload), Seed: seed, Depth: echo.Depth,
			Arrivals: spec.Uniform, End: spec.EndFin, Senders: 1, Connecting: 128, ConnectLimit: 30 * time.Second,
			Warmup: max(echo.Warmup, at.Target.Warmup), Duration: time.Second, Drain: 5 * time.Second,
			DetectLimit: time.Second, MaxOutstanding: 1_000_000, Workers: 1, SaturatedAt: 1,
		}
		w, err := bench.Bench{Plan: plan, PIDs: []int{at.Target.PID}, CPUs: []int{at.CPU}}.Open(ctx)
		if err != nil {
			return nil, err
		}
		return windowed{w, echo}, nil
	}
}

func (w windowed) Window(d time.Duration) (rounds.Seen, error) {
	s, err := w.Windows.Window(d)
	return rounds.Seen{Result: load.Result{
		Mode: ours, Conns: w.echo.Conns, Depth: w.echo.Depth, Payload: w.echo.Payload, Warmup: w.echo.Warmup.Seconds(),
		Seconds: time.Duration(s.To - s.From).Seconds(), Messages: s.Counters.Messages, Reads: s.Counters.Reads, Writes: s.Counters.Writes,
		ServerCPU: s.ServerCPU, LoadCPU: s.OwnCPU, MachineCPU: s.MachineCPU,
	}}, err
}

// table compares the loads, and reports whether they agree on everything.
func (c calibration) table(matters []*matter, shared bool) (text string, agree bool) {
	agree = true
	var b strings.Builder
	fmt.Fprintf(&b, "# Calibration: the same servers under pulsebench and under a load generator in C\n\n")
	fmt.Fprintf(&b, "%d connections of each load to the same process, payload %d B. %d rounds, in each a new process, %d windows of %v for each load, in random order (seed %d), after %v of each. "+
		"Ratios are pulsebench's to C's: a round's is the median of its cycles'; shown is the median of the rounds' [95 %% bootstrap interval]. "+
		"The loads agree on a server if the interval of its CPU time per message lies within %g %% of 1.\n\n",
		c.echo.Conns, c.echo.Payload, c.rounds, c.cycles, c.slice, c.seed, c.echo.Warmup, c.tolerance)
	if shared {
		fmt.Fprintf(&b, "**Server and load shared one processor.**\n\n")
	}
	fmt.Fprintf(&b, "| server | depth | server CPU per message, C | ratio | agree | throughput | load's own CPU | server busy | load busy | messages per read | per write |\n|%s\n", strings.Repeat(" --- |", 11))
	for _, m := range matters {
		ratio := func(f rounds.Figure) stats.Summary { return m.plan.Compare(m.samples, f, m.under(ours), m.under(inC)) }
		verdict := c.verdict(ratio(serverCPU))
		agree = agree && verdict == agreed
		fmt.Fprintf(&b, "| %s | %d | %.0f ns | %v | %s | %v | %v | %s | %s | %s | %s |\n", m.server.Name, m.depth,
			stats.Median(m.of(inC, func(s rounds.Sample) float64 { return s.Value(serverCPU) })),
			ratio(serverCPU), verdict, ratio(rate), ratio(ownCPU),
			m.both("%.0f %%", func(s rounds.Sample) float64 { return 100 * s.ServerBusy() }),
			m.both("%.0f %%", func(s rounds.Sample) float64 { return 100 * s.LoadBusy() }),
			m.both("%.2f", func(s rounds.Sample) float64 { return float64(s.Messages) / float64(s.Reads) }),
			m.both("%.2f", func(s rounds.Sample) float64 { return float64(s.Messages) / float64(s.Writes) }))
	}
	fmt.Fprintf(&b, "\nWhere there are two figures, the first is of the load in C. Reads and writes are the load's own.\n")
	return b.String(), agree
}

const agreed = "yes"

// verdict says whether the loads agree by this ratio. An interval that reaches
// beyond the tolerance shows neither that they do nor that they do not.
func (c calibration) verdict(ratio stats.Summary) string {
	low, high := 1-c.tolerance/100, 1+c.tolerance/100
	switch {
	case ratio.N > 0 && ratio.Low >= low && ratio.High <= high:
		return agreed
	case ratio.N == 0 || ratio.Low <= high && ratio.High >= low:
		return "not shown"
	}
	return "**no**"
}

// of picks a figure of one load, by round.
func (m *matter) of(load string, figure func(rounds.Sample) float64) (list []float64) {
	for _, s := range m.samples {
		if s.Server == m.under(load) {
			list = append(list, figure(s))
		}
	}
	return list
}

// both is the median of a figure of each load.
func (m *matter) both(format string, figure func(rounds.Sample) float64) string {
	return fmt.Sprintf(format+", "+format, stats.Median(m.of(inC, figure)), stats.Median(m.of(ours, figure)))
}

// lines is the raw file: facts, and every sample.
func lines(matters []*matter, facts machine.Facts) []any {
	type labelled struct {
		Kind string `json:"kind"`
		Data any    `json:"data"`
	}
	lines := []any{labelled{"facts", facts}}
	for _, m := range matters {
		for _, s := range m.samples {
			lines = append(lines, labelled{"sample", s})
		}
	}
	return lines
}
