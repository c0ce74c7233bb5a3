// Timingwheel measures the Wheel and the Scheduler of package timingwheel beside package time and other timer packages.
//
//	go run ./benchmarks/timingwheel                  # all of it, some 40 minutes
//	go run ./benchmarks/timingwheel -n 1000000       # with one number of timers outstanding
//	go run ./benchmarks/timingwheel -smoke           # does it work at all?
//
// Every subject is measured in a process of its own, which does nothing else, with N timers outstanding that are due in
// five to ten minutes. Rounds are interleaved: each measures all subjects in random order, and ratios are taken within
// rounds. Times are CPU time of the whole process, so background goroutines and the collector count, and what else the
// machine does counts little; for two goroutines it is elapsed time. The subjects are used in the way that is cheapest for
// them: those of package time once as most programs do, with a new timer each time, and once reusing a timer.
//
//	arm+stop      a timeout of 30 s armed and stopped, beside the N outstanding
//	… random      the same with a random duration of 5 to 10 minutes
//	replace       a random one of the N stopped and armed anew
//	touch         a random one of the N postponed
//	fire          N timers that fire over N × 4 µs, at least 1 s: CPU time for each, with a function that only counts
//	late, early   when those fired, in a second run with up to a million
//	two           arm+stop by two goroutines at once: elapsed time over the operations of both
//	gc            CPU time of one collection with N outstanding, by the runtime's own account; and without any
//	idle          CPU time and voluntary context switches in a second in which nothing is due
//	cascade       one call of Wheel.Advance with the engine's budget of 512 while N timers cascade
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/results"
)

// config is what is measured.
type config struct {
	counts   []int // timers outstanding
	rounds   int
	subjects []kind
	smoke    bool
}

// roundsFor is how often each subject is measured with n timers: large numbers take long, and vary little.
func (c config) roundsFor(n int) int {
	if n > 1_000_000 {
		return max(1, c.rounds/5)
	}
	return c.rounds
}

func main() {
	counts := flag.String("n", "1000,100000,1000000,10000000", "comma-separated numbers of timers outstanding")
	rounds := flag.Int("rounds", 5, "how often every subject is measured; a fifth of that with more than a million timers")
	subjects := flag.String("subjects", "", "semicolon-separated subjects (default all)")
	out := flag.String("out", "", "folder for timingwheel.jsonl, .md and .svg; \"none\" for nowhere (default benchmarks/results/DATE)")
	tiny := flag.Bool("smoke", false, "a tiny run that only shows that everything works; writes nothing unless -out is given")
	child := flag.String("child", "", "measure this subject in this process (the driver starts itself so)")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "timingwheel: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	if *tiny && *child == "" {
		*counts, *rounds = "1000", 1
		if *out == "" {
			*out = results.None
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := parse(*counts, *rounds, *subjects, *tiny)
	if err == nil {
		if *child != "" {
			err = runChild(c, *child)
		} else {
			err = run(ctx, c, *out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "timingwheel:", err)
		stop()
		os.Exit(1)
	}
}

func parse(counts string, rounds int, subjects string, smoke bool) (config, error) {
	c := config{rounds: rounds, smoke: smoke}
	for _, field := range strings.Split(counts, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			return c, fmt.Errorf("%q is no number of timers", field)
		}
		c.counts = append(c.counts, n)
	}
	if rounds < 1 {
		return c, errors.New("at least one round is needed")
	}
	if subjects == "" {
		c.subjects = kinds
		return c, nil
	}
	for _, name := range strings.Split(subjects, ";") {
		k, ok := kindOf(strings.TrimSpace(name))
		if !ok {
			return c, fmt.Errorf("unknown subject %q", name)
		}
		c.subjects = append(c.subjects, k)
	}
	return c, nil
}

// runChild measures one subject and prints its sample.
func runChild(c config, name string) error {
	k, ok := kindOf(name)
	if !ok {
		return fmt.Errorf("unknown subject %q", name)
	}
	sc := full
	if c.smoke {
		sc = smoke
	}
	n := c.counts[0]
	figures, err := measure(k, n, sc)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(sample{Subject: name, Timers: n, Figures: figures})
}

func run(ctx context.Context, c config, out string) error {
	dir, err := results.Dir(ctx, out)
	if err != nil {
		return err
	}
	samples, err := measureAll(ctx, c)
	if err != nil {
		return err
	}
	r := report{facts: machine.Gather("benchmarks/timingwheel", flag.CommandLine, "out"), samples: samples}
	text := r.markdown()
	fmt.Print(text)
	if err := results.Write(dir, "timingwheel", r.lines(), text); err != nil || dir == results.None {
		return err
	}
	if chart := r.chart(); chart != nil {
		return os.WriteFile(filepath.Join(dir, "timingwheel.svg"), chart, 0o644)
	}
	return nil
}

// measureAll measures all subjects, each in a process of its own.
func measureAll(ctx context.Context, c config) ([]sample, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program to start it again: %w", err)
	}
	var samples []sample
	for _, n := range c.counts {
		for round := range c.roundsFor(n) {
			order := slices.Clone(c.subjects)
			rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			for _, k := range order {
				s, err := start(ctx, program, k, n, c.smoke)
				if err != nil {
					return nil, fmt.Errorf("%s with %d timers: %w", k.name, n, err)
				}
				s.Round = round
				samples = append(samples, s)
			}
		}
	}
	return samples, nil
}

func start(ctx context.Context, program string, k kind, n int, smoke bool) (sample, error) {
	fmt.Fprintf(os.Stderr, "%s  %-20s %9d timers\n", time.Now().Format(time.TimeOnly), k.name, n)
	cmd := exec.CommandContext(ctx, program, "-child", k.name, "-n", strconv.Itoa(n), fmt.Sprintf("-smoke=%v", smoke))
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return sample{}, err
	}
	var s sample
	if err := json.Unmarshal(stdout.Bytes(), &s); err != nil {
		return sample{}, fmt.Errorf("its output %q: %w", stdout.String(), err)
	}
	return s, nil
}
