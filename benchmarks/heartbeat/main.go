// Heartbeat measures what staying informed costs: CPU time of a server per
// heartbeat it answers, beside a loop written in C, and CPU time for keeping
// track of a million connections that are all alive.
//
//	go run ./benchmarks/heartbeat            # 15 rounds, about ten minutes
//	go run ./benchmarks/heartbeat -smoke     # does it work at all?
//	go run ./benchmarks/heartbeat -n=0       # the tracking only
//	go run ./benchmarks/heartbeat -tracked=0 # the servers only
//
// In the first part another process holds the connections and sends an empty
// frame on each once per interval, which must be answered by an empty frame
// before the next one is sent. All servers of a round are alive at once, and
// their connections beat in turn (package rounds).
//
// In the second part the connections are simulated, and what tracks them is
// not: heartbeat.State and timingwheel.Wheel, driven as the engine's loop does
// it, in virtual time (see tracking.go).
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
	c := config{Plan: rounds.Plan{Name: "heartbeat", Figures: figures, Progress: os.Stderr}, tracking: fullTracking}
	flag.IntVar(&c.Rounds, "n", 15, "rounds: how often every server is measured; 0: not at all")
	flag.IntVar(&c.load.Conns, "conns", 15000, "connections to a server")
	flag.DurationVar(&c.load.Interval, "interval", time.Second, "time between two heartbeats of a connection")
	flag.IntVar(&c.Cycles, "cycles", 8, "windows of a server in a round")
	seconds := flag.Float64("seconds", 0.5, "length of a window")
	servers := flag.String("servers", "", "comma-separated servers (default all)")
	flag.IntVar(&c.tracking.Conns, "tracked", c.tracking.Conns, "simulated connections; 0: none")
	seed := flag.Uint64("seed", 0, "of the order within rounds, the bootstrap and the simulation (default random)")
	out := flag.String("out", "", "folder for heartbeat.jsonl and heartbeat.md; \"none\" for nowhere (default benchmarks/results/DATE)")
	smoke := flag.Bool("smoke", false, "a tiny run that only shows that everything works; writes nothing unless -out is given")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "heartbeat: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	c.Slice, c.load.Warmup, c.load.Quiet = time.Duration(*seconds*float64(time.Second)), c.load.Interval, true
	if c.Seed = *seed; c.Seed == 0 {
		c.Seed = uint64(time.Now().UnixNano())
	}
	if *smoke {
		c.Rounds, c.Cycles, c.Slice, c.load, c.tracking = 1, 1, smokeSlice, smokeLoad, smokeTracking
		if *out == "" {
			*out = results.None
		}
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c, *servers, *out); err != nil {
		fmt.Fprintln(os.Stderr, "heartbeat:", err)
		stop()
		os.Exit(1)
	}
}

type config struct {
	rounds.Plan
	load     load.Idle
	tracking tracking
}

// The interval is long for so short a window: an answer that is late because
// the machine compiles something is not what a smoke test is after.
var smokeLoad = load.Idle{Conns: 20, Interval: time.Second, Warmup: 50 * time.Millisecond, Quiet: true}

const smokeSlice = 300 * time.Millisecond

var figures = []rounds.Figure{rounds.CPU("heartbeat")}

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
	r := report{config: c}
	if r.tracked, err = trackAll(ctx, c); err != nil {
		return err
	}
	if c.Rounds > 0 {
		if r.samples, r.shared, err = c.Measure(ctx); err != nil {
			return err
		}
		r.rows = c.Rows(r.samples, c.Figures[0])
	}
	r.facts = machine.Gather("benchmarks/heartbeat", flag.CommandLine, "out")
	fmt.Print(r.markdown())
	return results.Write(dir, "heartbeat", r.lines(), r.markdown())
}
