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
	"github.com/pulsewheel/pulsewheel/internal/netns"
)

func main() {
	if childMain() {
		return
	}
	rounds := flag.Int("rounds", 3, "how often each fault strikes, each time other connections")
	only := flag.String("faults", "", "comma-separated faults (default all)")
	smoke := flag.Bool("smoke", false, "a few faults and connections; writes nothing unless -out is given")
	capture := flag.Bool("capture", false, "look at what goes over the wire, instead")
	out := flag.String("out", "", "folder for the report; \"none\" for nowhere (default benchmarks/results/DATE)")
	flag.Parse()
	if flag.NArg() > 0 || *rounds < 1 {
		fmt.Fprintln(os.Stderr, "death: -rounds is at least 1, and there are no arguments")
		os.Exit(2)
	}
	if err := netns.Permitted(); err != nil {
		fmt.Fprintln(os.Stderr, "death: nothing was run:", err)
		if os.Getenv("CI") == "true" {
			os.Exit(1)
		}
		return
	}
	if *smoke && *out == "" {
		*out = results.None
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := results.Dir(ctx, *out)
	if err == nil && *capture {
		err = runAndReport(ctx, dir, "death-capture", captureConfig{Smoke: *smoke})
	} else if err == nil {
		c := newTableConfig(*rounds, *smoke)
		if *only != "" {
			err = c.keep(strings.Split(*only, ","))
		}
		if err == nil {
			err = runAndReport(ctx, dir, "death", c)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "death:", err)
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
	// broken says which promises were not kept.
	broken() []string
}

func runAndReport(ctx context.Context, dir, name string, m mode) error {
	found, err := m.run(ctx)
	if found == nil {
		return err
	}
	facts := machine.Gather("benchmarks/death", flag.CommandLine, "out")
	fmt.Print(found.markdown(facts))
	err = errors.Join(err, results.Write(dir, name, found.lines(facts), found.markdown(facts)))
	if broken := found.broken(); len(broken) > 0 {
		err = errors.Join(err, fmt.Errorf("%d promises are broken:\n\t%s", len(broken), strings.Join(broken, "\n\t")))
	}
	return err
}

// labelled is a line of the raw file.
type labelled struct {
	Kind string `json:"kind"`
	Data any    `json:"data"`
}
