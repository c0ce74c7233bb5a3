// Echo measures what a server spends on a message: CPU time per echoed frame,
// beside a loop written in C and beside other frameworks.
//
//	go run ./benchmarks/echo                 # 15 rounds, about two minutes
//	go run ./benchmarks/echo -smoke          # does it work at all?
//
// A round starts every server once, each as a new process bound to one processor,
// and loads them from another in turn, for a moment each, as package rounds says;
// their CPU clocks are read at both ends of each window. The table shows the
// median of the rounds' ratios and the 95 % bootstrap interval of that median.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/results"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

func main() {
	c := config{Plan: rounds.Plan{Name: "echo", Figures: figures, Progress: os.Stderr}}
	flag.IntVar(&c.Rounds, "n", 15, "rounds: how often every server is measured")
	flag.IntVar(&c.load.Conns, "conns", 1000, "connections")
	flag.IntVar(&c.load.Depth, "depth", 4, "frames under way on each connection")
	flag.IntVar(&c.load.Payload, "payload", 64, "payload of a frame in bytes")
	flag.IntVar(&c.Cycles, "cycles", 20, "windows of each server in a round")
	flag.DurationVar(&c.Slice, "slice", 50*time.Millisecond, "length of a window")
	warmup := flag.Float64("warmup", 0.5, "seconds of load before the first window")
	servers := flag.String("servers", "", "comma-separated servers (default all)")
	seed := flag.Uint64("seed", 0, "of the order within rounds and the bootstrap (default random)")
	out := flag.String("out", "", "folder for echo.jsonl and echo.md; \"none\" for nowhere (default benchmarks/results/DATE)")
	smoke := flag.Bool("smoke", false, "a tiny run that only shows that everything works; writes nothing unless -out is given")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "echo: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	c.load.Warmup = time.Duration(*warmup * float64(time.Second))
	if c.Seed = *seed; c.Seed == 0 {
		c.Seed = uint64(time.Now().UnixNano())
	}
	if *smoke {
		c.Rounds, c.Cycles, c.Slice, c.load = 1, smokeCycles, smokeSlice, smokeLoad
		if *out == "" {
			*out = results.None
		}
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c, *servers, *out); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		stop()
		os.Exit(1)
	}
}

var smokeLoad = load.Echo{Conns: 20, Depth: 4, Payload: 64, Warmup: 50 * time.Millisecond}

const (
	smokeCycles = 3
	smokeSlice  = 20 * time.Millisecond
)

type config struct {
	rounds.Plan
	load load.Echo
}

var figures = []rounds.Figure{rounds.CPU("message")}

func run(ctx context.Context, c config, servers, out string) error {
	found, err := peers.Lookup(servers)
	if err != nil {
		return err
	}
	c.Entries = rounds.Entries(found, rounds.Mode(c.load))
	// Before the measurement: a mistake here must not cost its minutes.
	dir, err := results.Dir(ctx, out)
	if err != nil {
		return err
	}
	samples, shared, err := c.Measure(ctx)
	if err != nil {
		return err
	}
	facts := machine.Gather("benchmarks/echo", flag.CommandLine, "out")
	report := newReport(c, samples, shared, facts)
	fmt.Print(report.markdown())
	return results.Write(dir, "echo", report.lines(), report.markdown())
}
