package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

// row is one server's line of the table.
type row struct {
	Server string        `json:"server"`
	About  string        `json:"about"`
	CPU    stats.Summary `json:"cpu_ns_per_message"`
	// Ratios are taken within rounds, to each reference that was measured.
	Ratios map[string]stats.Summary `json:"ratios"`
	// Medians that tell whether servers were loaded alike and undisturbed: the
	// share of the window the server was on its processor, frames per read of
	// the load, and processors that others used.
	Busy   float64 `json:"server_busy"`
	Batch  float64 `json:"frames_per_read"`
	Others float64 `json:"others_cpus"`
}

type report struct {
	facts   machine.Facts
	config  config
	shared  bool
	samples []sample
	rows    []row
}

func newReport(c config, samples []sample, shared bool, facts machine.Facts) report {
	cpu := make(map[string][]float64)
	busy := make(map[string][]float64)
	batch := make(map[string][]float64)
	others := make(map[string][]float64)
	for _, s := range samples { // in order of rounds, so that indexes pair up
		cpu[s.Server] = append(cpu[s.Server], s.CPU)
		busy[s.Server] = append(busy[s.Server], s.ServerBusy())
		batch[s.Server] = append(batch[s.Server], float64(s.Messages)/float64(s.Reads))
		others[s.Server] = append(others[s.Server], s.Others())
	}
	ratios := func(name string) map[string]stats.Summary {
		to := make(map[string]stats.Summary)
		for _, reference := range peers.References {
			if reference != name && len(cpu[reference]) > 0 {
				to[reference] = stats.Summarize(stats.Ratios(cpu[name], cpu[reference]), c.seed)
			}
		}
		return to
	}
	r := report{facts: facts, config: c, shared: shared, samples: samples}
	for _, p := range c.peers {
		r.rows = append(r.rows, row{
			Server: p.Name,
			About:  p.About,
			CPU:    stats.Summarize(cpu[p.Name], c.seed),
			Ratios: ratios(p.Name),
			Busy:   stats.Median(busy[p.Name]),
			Batch:  stats.Median(batch[p.Name]),
			Others: stats.Median(others[p.Name]),
		})
	}
	return r
}

func (r report) markdown() string {
	var b strings.Builder
	l := r.config.load
	fmt.Fprintf(&b, "# Echo: CPU of the server per message\n\n")
	fmt.Fprintf(&b, "%d connections, %d frames under way on each, payload %d B, 4-byte length prefix. %d rounds, "+
		"servers in random order within a round (seed %d), window %v after %v of warm-up. "+
		"Ratios are of pairs from one round: median [95 %% bootstrap interval].\n\n",
		l.Conns, l.Depth, l.Payload, r.config.rounds, r.config.seed, l.Window, l.Warmup)
	if r.shared {
		fmt.Fprintf(&b, "Only one processor could be used: server and load shared it.\n\n")
	}
	var references []string
	for _, name := range peers.References {
		if slices.ContainsFunc(r.rows, func(row row) bool { return row.Server == name }) {
			references = append(references, name)
		}
	}
	fmt.Fprintf(&b, "| server | CPU ns per message |")
	for _, name := range references {
		fmt.Fprintf(&b, " × %s |", name)
	}
	fmt.Fprintf(&b, " server busy | frames per read | others' CPUs |\n|%s\n", strings.Repeat(" --- |", 5+len(references)))
	for _, row := range r.rows {
		fmt.Fprintf(&b, "| %s: %s | %.0f |", row.Server, row.About, row.CPU.Median)
		for _, name := range references {
			fmt.Fprintf(&b, " %s |", row.Ratios[name]) // a dash to itself
		}
		fmt.Fprintf(&b, " %.0f %% | %.2f | %.2f |\n", 100*row.Busy, row.Batch, row.Others)
	}
	fmt.Fprintf(&b, "\n%s", r.facts.Markdown())
	return b.String()
}

// lines is the raw file: facts, every sample, the table.
func (r report) lines() []any {
	type labelled struct {
		Kind string `json:"kind"`
		Data any    `json:"data"`
	}
	lines := []any{labelled{"facts", r.facts}, labelled{"setup", map[string]any{"rounds": r.config.rounds, "seed": r.config.seed, "shared_cpu": r.shared}}}
	for _, s := range r.samples {
		lines = append(lines, labelled{"sample", s})
	}
	for _, row := range r.rows {
		lines = append(lines, labelled{"row", row})
	}
	return lines
}
