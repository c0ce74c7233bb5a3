//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/results"
)

func main() {
	if childMain() {
		return
	}
	unguarded := flag.Bool("unguarded", false, "only watchers without the guard, which must give false verdicts")
	smoke := flag.Bool("smoke", false, "a short run with few peers; writes nothing unless -out is given")
	only := flag.String("cases", "", "comma-separated names of the cases to run (default all)")
	peers := flag.Int("peers", 0, "live peers of a watcher (default: what the case says)")
	out := flag.String("out", "", "folder for stall.jsonl and stall.md; \"none\" for nowhere (default benchmarks/results/DATE)")
	flag.Parse()
	if flag.NArg() > 0 || *peers < 0 {
		fmt.Fprintln(os.Stderr, "stall: takes no arguments, and no negative number of peers")
		os.Exit(2)
	}
	c := config{cases: fullCases(), unguardedOnly: *unguarded, progress: os.Stderr}
	if *smoke {
		c.cases = smokeCases()
		if *out == "" {
			*out = results.None
		}
	}
	if *peers > 0 {
		for i := range c.cases {
			c.cases[i].Peers = *peers
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c, *only, *out); err != nil {
		fmt.Fprintln(os.Stderr, "stall:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, c config, only, out string) (err error) {
	if c.cases, err = choose(c.cases, only); err != nil {
		return err
	}
	// Before the measurement: a mistake here must not cost its minutes.
	dir, err := results.Dir(ctx, out)
	if err != nil {
		return err
	}
	found, err := c.run(ctx)
	if err != nil {
		return err
	}
	r := report{facts: machine.Gather("benchmarks/stall", flag.CommandLine, "out"), config: c, findings: found}
	fmt.Print(r.markdown())
	err = results.Write(dir, "stall", r.lines(), r.markdown())
	if bad := broken(found); len(bad) > 0 {
		err = errors.Join(err, fmt.Errorf("%d of what must hold does not:\n\t%s", len(bad), strings.Join(bad, "\n\t")))
	}
	return err
}
