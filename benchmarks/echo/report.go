package main

import (
	"fmt"
	"strings"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
)

type report struct {
	facts   machine.Facts
	config  config
	shared  bool
	samples []rounds.Sample
	rows    []rounds.Row
}

func newReport(c config, samples []rounds.Sample, shared bool, facts machine.Facts) report {
	return report{facts: facts, config: c, shared: shared, samples: samples, rows: c.Rows(samples, c.Figures[0])}
}

func (r report) markdown() string {
	var b strings.Builder
	l := r.config.load
	fmt.Fprintf(&b, "# Echo: CPU of the server per message\n\n")
	fmt.Fprintf(&b, "%d connections, %d frames under way on each, payload %d B, 4-byte length prefix. %d rounds, "+
		"in each, all servers at once, %d windows of %v each in random order (seed %d), after %v of warm-up. "+
		"A round's ratio is the median of its cycles'; shown is the median of the rounds' [95 %% bootstrap interval].\n\n",
		l.Conns, l.Depth, l.Payload, r.config.Rounds, r.config.Cycles, r.config.Slice, r.config.Seed, l.Warmup)
	if r.shared {
		fmt.Fprintf(&b, "Only one processor could be used: server and load shared it.\n\n")
	}
	fmt.Fprintf(&b, "%s\n%s", r.config.Table(r.config.Figures[0], r.rows), r.facts.Markdown())
	return b.String()
}

// lines is the raw file: facts, every sample, the table.
func (r report) lines() []any {
	type labelled struct {
		Kind string `json:"kind"`
		Data any    `json:"data"`
	}
	lines := []any{labelled{"facts", r.facts}, labelled{"setup", map[string]any{"rounds": r.config.Rounds, "seed": r.config.Seed, "shared_cpu": r.shared}}}
	for _, s := range r.samples {
		lines = append(lines, labelled{"sample", s})
	}
	for _, row := range r.rows {
		lines = append(lines, labelled{"row", row})
	}
	return lines
}
