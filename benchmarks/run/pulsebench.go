package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
)

// tools are what some workloads need beside servers and load. They are there
// before the first round.
type tools struct {
	// pulsebench is the program, used as anyone would: by its flags and the JSON
	// that its README documents. It is empty if no workload needs it.
	pulsebench string
	dir        string // for its results
	// rate is that of the open loop, in messages a second.
	rate float64
}

func (t *tools) build(ctx context.Context, dir string) error {
	t.dir = dir
	path := filepath.Join(dir, "pulsebench")
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", path, "github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build pulsebench: %w\n%s", err, strings.TrimSpace(string(out)))
	}
	t.pulsebench = path
	return nil
}

// schema is the one that outcome is part of.
const schema = "pulsebench/1"

// outcome is what is looked at of a run of pulsebench.
type outcome struct {
	Seconds   float64  `json:"seconds"`
	Problems  []string `json:"problems"`
	Saturated bool     `json:"saturated"`
	Counters  struct {
		Messages   int64 `json:"messages"`
		Reads      int64 `json:"reads"`
		Writes     int64 `json:"writes"`
		Unanswered int64 `json:"unanswered"`
	} `json:"counters"`
	Latency *struct {
		P50 float64 `json:"p50_us"`
		P99 float64 `json:"p99_us"`
	} `json:"latency"`
	Client struct {
		Shares []float64 `json:"cpu_share"`
	} `json:"client"`
	Server *struct {
		CPUs float64 `json:"cpus"`
	} `json:"server"`
	OtherCPUs float64 `json:"other_cpus"`
	DeadPeer  *struct {
		Ways []struct {
			Way      string  `json:"way"`
			Vanished int     `json:"vanished"`
			Found    int     `json:"found"`
			P50      float64 `json:"p50_s"`
			P99      float64 `json:"p99_s"`
			Max      float64 `json:"max_s"`
		} `json:"ways"`
		FalseVerdicts int      `json:"false_verdicts"`
		Skipped       []string `json:"skipped"`
	} `json:"dead_peer"`
}

// run runs pulsebench against one server. A result with problems is one.
func (t *tools) run(ctx context.Context, at rounds.Site, limit time.Duration, args ...string) (o outcome, err error) {
	file, err := os.CreateTemp(t.dir, "pulsebench-*.json")
	if err != nil {
		return o, err
	}
	defer os.Remove(file.Name())
	file.Close()
	argv := []string{t.pulsebench, "run", "-addr", "127.0.0.1:" + strconv.Itoa(at.Target.Port), "-protocol", "length4",
		"-pid", strconv.Itoa(at.Target.PID), "-json", file.Name(), "-force", "-quiet"}
	if at.CPU != proc.AnyCPU {
		argv = append(argv, "-cpus", strconv.Itoa(at.CPU))
	}
	child, err := proc.Start(ctx, proc.Command{Argv: append(argv, args...), CPU: at.CPU})
	if err != nil {
		return o, err
	}
	ended := child.Wait(limit)
	if errors.Is(ended, os.ErrDeadlineExceeded) {
		_ = child.Stop() // ended is the cause
		return o, ended
	}
	text, err := os.ReadFile(file.Name())
	if err != nil {
		return o, errors.Join(ended, err)
	}
	var f struct {
		Schema string    `json:"schema"`
		Runs   []outcome `json:"runs"`
	}
	if err := json.Unmarshal(text, &f); err != nil { // nothing was written, and its words say why
		return o, errors.Join(ended, fmt.Errorf("pulsebench's result: %w", err))
	}
	if f.Schema != schema || len(f.Runs) != 1 {
		return o, fmt.Errorf("pulsebench wrote %d runs of schema %q", len(f.Runs), f.Schema)
	}
	return f.Runs[0], nil
}

// seen is what every table has of a run.
func (o outcome) seen(mode string, conns int) rounds.Seen {
	r := load.Result{Mode: mode, Conns: conns, Seconds: o.Seconds,
		Messages: o.Counters.Messages, Reads: o.Counters.Reads, Writes: o.Counters.Writes}
	busy := 0.0
	for _, share := range o.Client.Shares {
		busy += share
	}
	r.LoadCPU = int64(busy * o.Seconds * 1e9)
	if o.Server != nil {
		r.ServerCPU = int64(o.Server.CPUs * o.Seconds * 1e9)
	}
	r.MachineCPU = r.LoadCPU + r.ServerCPU + int64(o.OtherCPUs*o.Seconds*1e9)
	seen := rounds.Seen{Result: r, Figures: make(map[string]float64)}
	if o.Saturated {
		seen.Notes = append(seen.Notes, saturated)
	}
	return seen
}

const saturated = "the load generator was above 85 % of its processor, so that rates and latencies are partly its own"

// benching is a load of pulsebench, which is a process anew in each window.
type benching struct {
	window func(d time.Duration) (rounds.Seen, error)
}

func (b benching) Window(d time.Duration) (rounds.Seen, error) { return b.window(d) }
func (b benching) End() error                                  { return nil }
