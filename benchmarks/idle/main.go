// Idle measures what a connection costs that does nothing but stay alive:
// resident memory, goroutines, and CPU time per heartbeat.
//
//	go run ./benchmarks/idle -n 15000        # every server once, about 25 s each
//	go run ./benchmarks/idle -smoke          # does it work at all?
//
// Each server is a process of its own; another process holds the connections
// and sends an empty frame on each once per interval, which must be answered
// by an empty frame before the next one is sent. No connection may be closed.
//
// Memory per connection is the server's resident memory with N connections
// less that with none, over N: once as the server left it (the peak), once
// after it was told to collect its garbage and give memory back. Sockets are
// the kernel's and are not in it. "With none" is after a first few connections
// came and went, so that code and tables every server loads once do not count.
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
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

func main() {
	c := config{progress: os.Stderr}
	flag.IntVar(&c.load.Conns, "n", 15000, "connections")
	flag.IntVar(&c.rounds, "rounds", 1, "how often every server is measured")
	flag.DurationVar(&c.load.Interval, "interval", 10*time.Second, "time between two heartbeats of a connection")
	seconds := flag.Float64("seconds", 20, "length of the measured window")
	servers := flag.String("servers", "", "comma-separated servers (default all)")
	out := flag.String("out", "", "folder for idle.jsonl and idle.md; \"none\" for nowhere (default benchmarks/results/DATE)")
	smoke := flag.Bool("smoke", false, "a tiny run that only shows that everything works; writes nothing unless -out is given")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "idle: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	c.load.Window, c.load.Warmup = time.Duration(*seconds*float64(time.Second)), time.Second
	if *smoke {
		c.rounds, c.load = 1, smokeLoad
		if *out == "" {
			*out = results.None
		}
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c, *servers, *out); err != nil {
		fmt.Fprintln(os.Stderr, "idle:", err)
		stop()
		os.Exit(1)
	}
}

// The interval is long for so short a window: an answer that is late because
// the machine compiles something is not what a smoke test is after.
var smokeLoad = load.Idle{Conns: 20, Interval: time.Second, Warmup: 50 * time.Millisecond, Window: 300 * time.Millisecond}

func run(ctx context.Context, c config, servers, out string) error {
	var err error
	if c.peers, err = peers.Lookup(servers); err != nil {
		return err
	}
	dir, err := results.Dir(ctx, out)
	if err != nil {
		return err
	}
	samples, shared, err := measure(ctx, c)
	if err != nil {
		return err
	}
	report := report{
		facts:   machine.Gather("benchmarks/idle", flag.CommandLine, "out"),
		config:  c,
		shared:  shared,
		samples: samples,
	}
	fmt.Print(report.markdown())
	return results.Write(dir, "idle", report.lines(), report.markdown())
}
