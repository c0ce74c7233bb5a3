// Deadpeer makes peers vanish in every way that it is permitted to, and shows
// how long a server takes to know.
//
//	go run ./examples/deadpeer                    # 2,000 clients, about 25 s
//	go run ./examples/deadpeer -preset realtime
//
// A server and its clients run in processes of their own and talk over
// loopback. A third of the clients are victims: they close or abort their
// connections, are killed or frozen, hang, go deaf, or never say a word. Run by
// root on Linux, with iproute2 and nftables, there are more of them: on hosts of
// their own, made of network namespaces, whose cable is cut, whose packets get
// lost, or of which a router says that they cannot be reached. The rest are the control group, which must come through untouched. The exit
// status is 0 only if every victim was found, for the right reason and within
// the promised time, and nobody else was suspected.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// Exit statuses, beside 0 and the 2 of package flag.
const (
	broken      = 1 // the promise, or the run
	interrupted = 130
)

var presets = map[string]heartbeat.Config{
	"relaxed":  heartbeat.Relaxed(),
	"strict":   heartbeat.Strict(),
	"realtime": heartbeat.Realtime(),
}

func main() {
	if text := os.Getenv(specVar); text != "" {
		os.Exit(child(text))
	}
	clients := flag.Int("n", 2000, "clients")
	preset := flag.String("preset", "strict", "liveness of both sides: relaxed, strict or realtime")
	asJSON := flag.Bool("json", false, "print one JSON object instead of a table")
	flag.Parse()
	if presets[*preset].Interval == 0 || flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "deadpeer: -preset is %q, want relaxed, strict or realtime, and no arguments\n", *preset)
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	report, err := run(ctx, *clients, *preset, os.Stderr)
	if err == nil && *asJSON {
		err = report.writeJSON(os.Stdout)
	} else if err == nil {
		err = report.writeTable(os.Stdout)
	}
	if err == nil {
		err = report.verdict()
	}
	switch {
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "deadpeer: interrupted")
		os.Exit(interrupted)
	case err != nil:
		fmt.Fprintln(os.Stderr, "deadpeer:", err)
		os.Exit(broken)
	}
}
