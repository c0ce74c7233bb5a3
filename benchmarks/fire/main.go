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
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/results"
)

func main() {
	if childMain() {
		return
	}
	duration := flag.Duration("duration", 10*time.Minute, "of the storm")
	only := flag.String("kinds", "", "comma-separated kinds of clients and events (default all)")
	slow := flag.Bool("slow", false, "slow readers among healthy ones under a broadcast, instead")
	rate := flag.Int("rate", 100, "broadcasts a second, with -slow")
	fds := flag.Bool("fds", false, "descriptor exhaustion and connect floods, instead")
	smoke := flag.Bool("smoke", false, "a short run with smaller numbers; writes nothing unless -out is given")
	out := flag.String("out", "", "folder for the report; \"none\" for nowhere (default benchmarks/results/DATE)")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "fire: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	if *rate < 1 || *slow && *fds {
		fmt.Fprintln(os.Stderr, "fire: -rate is at least 1, and -slow and -fds are two runs")
		os.Exit(2)
	}
	if *smoke {
		set := false
		flag.Visit(func(f *flag.Flag) { set = set || f.Name == "duration" })
		if !set {
			*duration = 10 * time.Second
		}
		if *out == "" {
			*out = results.None
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	dir, err := results.Dir(ctx, *out)
	if err == nil {
		switch {
		case *slow:
			err = runAndReport(ctx, dir, "fire-slow", slowMode(*smoke, *rate))
		case *fds:
			err = runAndReport(ctx, dir, "fire-fds", fdsMode(*smoke))
		default:
			c := newSoakConfig(*duration, *smoke)
			c.progress = os.Stderr
			if *only != "" {
				c.Kinds = strings.Split(*only, ",")
				err = c.checkKinds()
			}
			if err == nil {
				err = runAndReport(ctx, dir, "fire", c)
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fire:", err)
		stop()
		os.Exit(1)
	}
}

// mode is one way to run.
type mode interface {
	// run returns what it found, nil if that is worth nothing.
	run(ctx context.Context) (findings, error)
}

// findings is what a mode has to report.
type findings interface {
	markdown(facts machine.Facts) string
	lines(facts machine.Facts) []any
	verdicts() []invariant
}

func runAndReport(ctx context.Context, dir, name string, m mode) error {
	found, err := m.run(ctx)
	if found == nil {
		return err
	}
	facts := machine.Gather("benchmarks/fire", flag.CommandLine, "out")
	fmt.Print(found.markdown(facts))
	err = errors.Join(err, results.Write(dir, name, found.lines(facts), found.markdown(facts)))
	if bad := broken(found.verdicts()); len(bad) > 0 {
		err = errors.Join(err, fmt.Errorf("%d invariants are broken:\n\t%s", len(bad), strings.Join(bad, "\n\t")))
	}
	return err
}

// labelled is a line of the raw file.
type labelled struct {
	Kind string `json:"kind"`
	Data any    `json:"data"`
}
