// Echo measures what a server spends on a message: CPU time per echoed frame,
// beside a loop written in C and beside other frameworks.
//
//	go run ./benchmarks/echo                 # 15 rounds, about two and a half minutes
//	go run ./benchmarks/echo -smoke          # does it work at all?
//
// A round starts every server once, in random order, each as a new process
// bound to one processor, loads it from another, and reads its CPU clock at
// both ends of the window. Ratios are taken within a round, so that a machine
// that is slow for a while is slow for both; the table shows their median and
// the 95 % bootstrap interval of that median.
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
	c := config{Plan: rounds.Plan{Name: "echo", Progress: os.Stderr}}
	flag.IntVar(&c.Rounds, "n", 15, "rounds: how often every server is measured")
	flag.IntVar(&c.load.Conns, "conns", 1000, "connections")
	flag.IntVar(&c.load.Depth, "depth", 4, "frames under way on each connection")
	flag.IntVar(&c.load.Payload, "payload", 64, "payload of a frame in bytes")
	seconds := flag.Float64("seconds", 2, "length of the measured window")
	warmup := flag.Float64("warmup", 0.5, "seconds of load before the window")
	servers := flag.String("servers", "", "comma-separated servers (default all)")
	seed := flag.Uint64("seed", 0, "of the order within rounds and the bootstrap (default random)")
	out := flag.String("out", "", "folder for echo.jsonl and echo.md; \"none\" for nowhere (default benchmarks/results/DATE)")
	smoke := flag.Bool("smoke", false, "a tiny run that only shows that everything works; writes nothing unless -out is given")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "echo: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	c.load.Window, c.load.Warmup = duration(*seconds), duration(*warmup)
	if c.Seed = *seed; c.Seed == 0 {
		c.Seed = uint64(time.Now().UnixNano())
	}
	if *smoke {
		c.Rounds, c.load = 1, smokeLoad
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

var smokeLoad = load.Echo{Conns: 20, Depth: 4, Payload: 64, Warmup: 50 * time.Millisecond, Window: 200 * time.Millisecond}

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

func run(ctx context.Context, c config, servers, out string) error {
	var err error
	if c.Peers, err = peers.Lookup(servers); err != nil {
		return err
	}
	// Before the measurement: a mistake here must not cost its minutes.
	dir, err := results.Dir(ctx, out)
	if err != nil {
		return err
	}
	samples, shared, err := measure(ctx, c)
	if err != nil {
		return err
	}
	facts := machine.Gather("benchmarks/echo", flag.CommandLine, "out")
	report := newReport(c, samples, shared, facts)
	fmt.Print(report.markdown())
	return results.Write(dir, "echo", report.lines(), report.markdown())
}
