// Run measures everything that the README says about servers, with one command:
//
//	go run ./benchmarks/run                  # 15 rounds of every workload, about an hour
//	go run ./benchmarks/run -smoke           # does it work at all?
//	go run ./benchmarks/run -readme README.md
//
// A round runs every workload, in random order, and most workloads have all their
// servers alive at once and load them in turn, for a moment each (package rounds
// says why). Workloads are listed in workload.go; most are loads of package load,
// two are run by pulsebench.
//
// It writes run.jsonl (facts and every sample with its windows), run.md (tables,
// and at its end what this project has set out to reach and whether it does) and a
// chart for each workload, as SVG and PNG; with -readme also the table between that
// file's marks.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/results"
)

func main() {
	c := config{progress: os.Stderr}
	flag.IntVar(&c.rounds, "n", 15, "rounds: how often every server is measured by every workload, at least 5 for figures worth keeping")
	flag.StringVar(&c.servers, "servers", "", "comma-separated servers (default "+defaultServers+", and netty in one workload where it can be built)")
	flag.StringVar(&c.workloads, "workloads", "", "comma-separated workloads (default all)")
	flag.Uint64Var(&c.seed, "seed", 0, "of all orders and the bootstrap (default random)")
	flag.BoolVar(&c.smoke, "smoke", false, "a tiny run that only shows that everything works; writes nothing unless -out is given")
	out := flag.String("out", "", "folder for what is written; \"none\" for nowhere (default benchmarks/results/DATE)")
	readme := flag.String("readme", "", "file whose table is written anew")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "run: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	if c.seed == 0 {
		c.seed = uint64(time.Now().UnixNano())
	}
	if c.smoke {
		c.rounds = 1
		if *out == "" {
			*out = results.None
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c, *out, *readme); err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, c config, out, readme string) error {
	// Before the measurement: a mistake here must not cost its hour.
	var t tools
	plans, err := c.plans(&t)
	if err != nil {
		return err
	}
	dir, err := results.Dir(ctx, out)
	if err != nil {
		return err
	}
	var page []byte
	if readme != "" {
		if page, err = os.ReadFile(readme); err != nil {
			return err
		}
		if _, err := replaceTable(page, ""); err != nil {
			return fmt.Errorf("%s: %w", readme, err)
		}
	}
	// What was measured before something failed, or before an interrupt, is kept.
	shared, failed := measure(ctx, c, &t, plans)
	if failed != nil && !slices.ContainsFunc(plans, func(m *measured) bool { return len(m.samples) > 0 }) {
		return failed
	}
	r := report{config: c, shared: shared, rate: t.rate, measured: plans, failed: failed,
		facts: machine.Gather("benchmarks/run", flag.CommandLine, "out", "readme")}
	fmt.Print(r.markdown())
	if err := results.Write(dir, "run", r.lines(), r.markdown()); err != nil {
		return err
	}
	if dir != results.None {
		for _, m := range plans {
			if len(m.samples) == 0 {
				continue
			}
			for _, format := range []string{"svg", "png"} {
				picture, err := m.chart(format)
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, m.picture(format)), picture, 0o644)
				}
				if err != nil {
					return fmt.Errorf("chart: %w", err)
				}
			}
		}
	}
	if failed != nil || readme == "" {
		return failed
	}
	page, err = replaceTable(page, r.summary())
	if err != nil {
		return err
	}
	return os.WriteFile(readme, page, 0o644)
}
