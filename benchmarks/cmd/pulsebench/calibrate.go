package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
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
	conns     int
	payload   int
	warmup    time.Duration
	share     float64 // of a server's closed loop, in percent: the rate of its open loop; 0: none
	depths    []int   // of closed loops
	servers   []peers.Peer
	tolerance float64 // percent
	seed      uint64
	progress  io.Writer
}

// matter is one server in an open loop or at one depth of a closed one: a process
// that both loads have their connections to, and that they load in turn, so that
// nothing but the load can make a difference.
type matter struct {
	server  peers.Peer
	depth   int     // 0: an open loop
	rate    float64 // of that, messages a second
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
	set.IntVar(&c.conns, "conns", 1000, "connections of each load")
	set.Float64Var(&c.share, "open", 50, "rate of the open loops, in percent of what a server does in a closed one with one message under way on each connection; 0: no open loops")
	depths := set.String("depth", "1", "closed loops: comma-separated messages under way on each connection; none: no closed loops")
	set.IntVar(&c.payload, "payload", 64, "payload in bytes")
	set.IntVar(&c.cycles, "cycles", 20, "windows of each load in a round")
	set.DurationVar(&c.slice, "slice", 50*time.Millisecond, "length of a window")
	set.DurationVar(&c.warmup, "warmup", 500*time.Millisecond, "load of each kind before the first window")
	servers := set.String("servers", "cfloor,gnet,pulsewheel", "comma-separated servers")
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
	if *depths != "none" {
		if c.depths, err = numbers("-depth", *depths, 1); err != nil {
			return usageError(err)
		}
	}
	switch {
	case c.rounds < 1 || c.cycles < 1 || c.slice <= 0:
		return usageError(errors.New("-n, -cycles and -slice: want at least one"))
	case c.share < 0 || c.share > 100:
		return usageError(fmt.Errorf("-open %g, want 0 to 100 percent", c.share))
	case c.share == 0 && len(c.depths) == 0:
		return usageError(errors.New("-open 0 and -depth none leave nothing to measure"))
	}
	if *smoke {
		c.rounds, c.cycles, c.slice, c.depths = 1, 3, 20*time.Millisecond, c.depths[:min(1, len(c.depths))]
		c.conns, c.payload, c.warmup = 20, 64, 50*time.Millisecond
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

// measure takes all rounds. Within one, each server and loop has its turn, in
// random order.
func (c calibration) measure(ctx context.Context) (matters []*matter, shared bool, err error) {
	b, err := rounds.Open(ctx, "calibrate", c.servers, c.progress)
	if err != nil {
		return nil, false, err
	}
	defer b.Close()
	random := rand.New(rand.NewPCG(c.seed, 0))
	for _, server := range c.servers {
		if c.share > 0 {
			capacity, err := c.capacity(ctx, b, server, random)
			if err != nil {
				return nil, b.Shared, fmt.Errorf("what %s can do: %w", server.Name, err)
			}
			matters = append(matters, c.open(server, max(1, math.Round(capacity*c.share/100))))
		}
		for _, depth := range c.depths {
			matters = append(matters, c.closed(server, depth))
		}
	}
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

// capacity is the rate of a server's closed loop under the load in C, with one
// message under way on each connection.
func (c calibration) capacity(ctx context.Context, b *rounds.Bench, server peers.Peer, random *rand.Rand) (perSecond float64, err error) {
	p := rounds.Plan{Name: "capacity", Rounds: 1, Cycles: c.cycles, Slice: c.slice, Progress: c.progress, Figures: []rounds.Figure{rate},
		Entries: rounds.Entries([]peers.Peer{server}, rounds.Mode(c.echo(1)))}
	samples, err := b.Round(ctx, p, 0, random)
	if err != nil {
		return 0, err
	}
	return samples[0].Value(rate), nil
}

func (c calibration) echo(depth int) load.Echo {
	return load.Echo{Conns: c.conns, Depth: depth, Payload: c.payload, Warmup: c.warmup}
}

func (c calibration) closed(server peers.Peer, depth int) *matter {
	m := &matter{server: server, depth: depth}
	c.pair(m, c.echo(depth), spec.Spec{Workload: spec.Closed, Depth: depth})
	return m
}

// open has both loads awake all the time, so that they send when it is due, and not
// when they happen to be woken.
func (c calibration) open(server peers.Peer, rate float64) *matter {
	m := &matter{server: server, rate: rate}
	c.pair(m, load.Open{Conns: c.conns, Payload: c.payload, Rate: rate, Warmup: c.warmup},
		spec.Spec{Workload: spec.Open, Rate: rate, Spin: time.Second, Depth: 1})
	return m
}

// pair plans a matter: the load in C, and a run of pulsebench that does the same.
func (c calibration) pair(m *matter, mode load.Mode, plan spec.Spec) {
	entry := func(name string, put rounds.Loader) rounds.Entry {
		return rounds.Entry{Name: m.under(name), About: m.server.About, Peer: m.server, Load: put, Process: m.server.Name}
	}
	m.plan = rounds.Plan{
		Name: "calibrate", Rounds: c.rounds, Cycles: c.cycles, Slice: c.slice, Seed: c.seed, Progress: c.progress,
		Figures: []rounds.Figure{serverCPU, rate, ownCPU},
		Entries: []rounds.Entry{entry(inC, rounds.Mode(mode)), entry(ours, c.windows(plan))},
	}
}

// loop says how a matter is loaded.
func (m *matter) loop() string {
	if m.depth == 0 {
		return fmt.Sprintf("open, %.0f/s", m.rate)
	}
	return fmt.Sprintf("closed, depth %d", m.depth)
}

// under names the server under one of the loads.
func (m *matter) under(load string) string {
	return fmt.Sprintf("%s %s, %s", m.server.Name, m.loop(), load)
}

// windowed is pulsebench as a load of package rounds.
type windowed struct {
	*bench.Windows
	plan spec.Spec
	conf calibration
}

// windows is the loader of pulsebench.
func (c calibration) windows(plan spec.Spec) rounds.Loader {
	return func(ctx context.Context, at rounds.Site) (rounds.Session, error) {
		plan := plan
		plan.Target = "127.0.0.1:" + strconv.Itoa(at.Target.Port)
		plan.Protocol = wire.Options{Name: "length4"}
		plan.Conns, plan.Payload, plan.Seed = c.conns, strconv.Itoa(c.payload), c.seed
		plan.Arrivals, plan.End, plan.Senders = spec.Uniform, spec.EndFin, 1
		plan.Connecting, plan.ConnectLimit = 128, 30*time.Second
		plan.Warmup, plan.Duration, plan.Drain = max(c.warmup, at.Target.Warmup), time.Second, 5*time.Second
		plan.DetectLimit, plan.MaxOutstanding, plan.Workers, plan.SaturatedAt = time.Second, 1_000_000, 1, 1
		w, err := bench.Bench{Plan: plan, PIDs: []int{at.Target.PID}, CPUs: []int{at.CPU}}.Open(ctx)
		if err != nil {
			return nil, err
		}
		return windowed{w, plan, c}, nil
	}
}

func (w windowed) Window(d time.Duration) (rounds.Seen, error) {
	s, err := w.Windows.Window(d)
	return rounds.Seen{Result: load.Result{
		Mode: ours, Conns: w.conf.conns, Depth: w.plan.Depth, Payload: w.conf.payload, Warmup: w.plan.Warmup.Seconds(),
		Seconds: time.Duration(s.To - s.From).Seconds(), Messages: s.Counters.Messages, Reads: s.Counters.Reads, Writes: s.Counters.Writes,
		ServerCPU: s.ServerCPU, LoadCPU: s.OwnCPU, MachineCPU: s.MachineCPU - s.Spun,
	}}, err
}

// table compares the loads, and reports whether they agree wherever that can be
// told.
func (c calibration) table(matters []*matter, shared bool) (text string, agree bool) {
	var b strings.Builder
	fmt.Fprintf(&b, "# Calibration: the same servers under pulsebench and under a load generator in C\n\n")
	fmt.Fprintf(&b, "%d connections of each load to the same process, payload %d B. %d rounds, in each a new process, %d windows of %v for each load, in random order (seed %d), after %v of each. "+
		"Ratios are pulsebench's to C's: a round's is the median of its cycles'; shown is the median of the rounds' [95 %% bootstrap interval]. "+
		"The loads agree on a server if the interval of its CPU time per message lies within %g %% of 1. "+
		"Where a load was above %.0f %% of its processor, its own speed is part of what the server does, and nothing is concluded.\n\n",
		c.conns, c.payload, c.rounds, c.cycles, c.slice, c.seed, c.warmup, c.tolerance, 100*load.BusyLimit)
	if shared {
		fmt.Fprintf(&b, "**Server and load shared one processor.**\n\n")
	}
	fmt.Fprintf(&b, "| server | loop | server CPU per message, C | ratio | agree | throughput | load's own CPU | server busy | load busy | messages per read | per write |\n|%s\n", strings.Repeat(" --- |", 11))
	judged := 0
	agree = true
	for _, m := range matters {
		verdict := c.verdict(m)
		if verdict != limited {
			judged++
			agree = agree && verdict == agreed
		}
		fmt.Fprintf(&b, "| %s | %s | %.0f ns | %v | %s | %v | %v | %s | %s | %s | %s |\n", m.server.Name, m.loop(),
			stats.Median(m.of(inC, func(s rounds.Sample) float64 { return s.Value(serverCPU) })),
			m.ratio(serverCPU), verdict, m.ratio(rate), m.ratio(ownCPU),
			m.both("%.0f %%", func(s rounds.Sample) float64 { return 100 * s.ServerBusy() }),
			m.both("%.0f %%", func(s rounds.Sample) float64 { return 100 * s.LoadBusy() }),
			m.both("%.2f", func(s rounds.Sample) float64 { return float64(s.Messages) / float64(s.Reads) }),
			m.both("%.2f", func(s rounds.Sample) float64 { return float64(s.Messages) / float64(s.Writes) }))
	}
	fmt.Fprintf(&b, "\nWhere there are two figures, the first is of the load in C. Reads and writes are the load's own.\n")
	return b.String(), agree && judged > 0
}

// What a matter shows.
const (
	agreed    = "yes"
	differ    = "**no**"
	undecided = "not shown"
	limited   = "the load is the limit"
)

// verdict says whether the loads agree on a matter. An interval that reaches
// beyond the tolerance shows neither that they do nor that they do not.
func (c calibration) verdict(m *matter) string {
	for _, name := range []string{inC, ours} {
		if stats.Median(m.of(name, func(s rounds.Sample) float64 { return s.LoadBusy() })) > load.BusyLimit {
			return limited
		}
	}
	return c.judge(m.ratio(serverCPU))
}

func (c calibration) judge(ratio stats.Summary) string {
	low, high := 1-c.tolerance/100, 1+c.tolerance/100
	switch {
	case ratio.N > 0 && ratio.Low >= low && ratio.High <= high:
		return agreed
	case ratio.N == 0 || ratio.Low <= high && ratio.High >= low:
		return undecided
	}
	return differ
}

// ratio is pulsebench's figure to that of the load in C.
func (m *matter) ratio(f rounds.Figure) stats.Summary {
	return m.plan.Compare(m.samples, f, m.under(ours), m.under(inC))
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
