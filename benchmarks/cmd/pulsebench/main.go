// Pulsebench is a load and liveness bench for servers that speak a framed TCP
// protocol: how fast they answer, what a message and a connection cost them,
// and how soon they notice that a peer is gone. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/fleet"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/generator"
)

// Exit statuses.
const (
	statusOK      = 0
	statusProblem = 1 // it failed, or the result has problems
	statusUsage   = 2
	statusRefused = 3 // the load generator was the bottleneck
)

// command is a sub-command.
type command struct {
	name, about string
	run         func(ctx context.Context, args []string, out, progress io.Writer) error
}

var commands = []command{
	{"run", "put a server under load", runCommand},
	{"compare", "say what differs between results", compareCommand},
	{"report", "make one HTML page of results", reportCommand},
	{"calibrate", "compare this load generator with one written in C", calibrateCommand},
}

// status is an error that ends the program with a status of its own.
type status struct {
	code int
	err  error
}

func (s *status) Error() string { return s.err.Error() }
func (s *status) Unwrap() error { return s.err }

func usageError(err error) error { return &status{statusUsage, err} }

func usage(out io.Writer) {
	fmt.Fprintln(out, "usage: pulsebench COMMAND [flags]")
	for _, c := range commands {
		fmt.Fprintf(out, "  %-10s %s\n", c.name, c.about)
	}
	fmt.Fprintln(out, "pulsebench COMMAND -h explains the flags.")
}

func main() {
	if fleet.IsWorker() {
		generator.Main()
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first interrupt ends the run in good order, a second one the program.
	context.AfterFunc(ctx, stop)
	code := dispatch(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// dispatch runs a command line and returns the status to exit with.
func dispatch(ctx context.Context, args []string, out, progress io.Writer) int {
	if len(args) == 0 {
		usage(progress)
		return statusUsage
	}
	for _, c := range commands {
		if c.name != args[0] {
			continue
		}
		err := c.run(ctx, args[1:], out, progress)
		var s *status
		switch {
		case err == nil, errors.Is(err, flag.ErrHelp):
			return statusOK
		case errors.As(err, &s):
			fmt.Fprintf(progress, "pulsebench %s: %v\n", c.name, err)
			return s.code
		}
		fmt.Fprintf(progress, "pulsebench %s: %v\n", c.name, err)
		return statusProblem
	}
	if args[0] == "help" || args[0] == "-h" || args[0] == "-help" || args[0] == "--help" {
		usage(out)
		return statusOK
	}
	fmt.Fprintf(progress, "pulsebench: no command %q\n", args[0])
	usage(progress)
	return statusUsage
}

// parse parses flags and refuses what is left over.
func parse(set *flag.FlagSet, args []string, progress io.Writer) error {
	set.SetOutput(progress)
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return usageError(err)
	}
	return nil
}
