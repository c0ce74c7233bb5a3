package main

import (
	"fmt"
	"strings"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

// What this project has set out to reach.
const (
	ours        = "pulsewheel"
	mostRatio   = 1.15 // of CPU per heartbeat to the floor's
	mostPerMill = 4    // ms of CPU a second for a million connections
)

type report struct {
	facts   machine.Facts
	config  config
	shared  bool
	samples []rounds.Sample
	rows    []rounds.Row
	tracked []tracked
}

func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Heartbeat: what staying informed costs\n\n")
	if len(r.rows) > 0 {
		l := r.config.load
		fmt.Fprintf(&b, "## A server's CPU per heartbeat\n\n%d connections from another process, an empty frame on each every %v, answered by an empty frame. "+
			"%d rounds (seed %d); in each all servers are alive at once, and their connections beat in %d windows of %v in turn, after %v of warm-up. "+
			"Ratios are of one round, the median of its cycles: median of the rounds [95 %% bootstrap interval].\n\n",
			l.Conns, l.Interval, r.config.Rounds, r.config.Seed, r.config.Cycles, r.config.Slice, l.Warmup)
		if r.shared {
			fmt.Fprintf(&b, "Only one processor could be used: server and load shared it.\n\n")
		}
		fmt.Fprintf(&b, "%s\n", r.config.Table(r.config.Figures[0], r.rows))
		if ratio, ok := r.ratio(); ok {
			fmt.Fprintf(&b, "%s to the floor: %v; wanted: at most %.2f, %s.\n\n", ours, ratio, mostRatio, verdict(ratio))
		}
	}
	if len(r.tracked) > 0 {
		fmt.Fprintf(&b, "## Tracking connections that are alive\n\nSimulated connections, each read about every %v, given up after %v of silence; "+
			"heartbeat.State and timingwheel.Wheel as the engine's loop drives them, with %d timers at most in one call of Advance. "+
			"CPU per second of virtual time. Noting a read is one store, and what it adds to a look at the connection, which the engine takes anyway; "+
			"looking is what that look takes. Nearly all of it is waiting for memory, which on a shared machine takes now more, now less: repeat it. "+
			"Wanted: at most %d ms a second for a million, opened one after another.\n\n",
			traffic, patience, budget, mostPerMill)
		fmt.Fprintf(&b, "| connections | opened within | CPU ms per second | of it timers | busiest second | longest call ms | calls per second | fired per second | reads per second | ns to note a read | ns to look | allocations | silent ones found | late by | wrong |\n|%s\n", strings.Repeat(" --- |", 15))
		for _, t := range r.tracked {
			s := t.Window.Seconds()
			fmt.Fprintf(&b, "| %d | %v | %.2f | %.2f | %.2f | %.3f | %.0f | %.0f | %.0f | %.1f | %.1f | %d | %d of %d | %v | %d |\n",
				t.Conns, t.Opened, ms(t.perSecond()), ms(t.CPU), ms(t.Busiest), ms(t.Longest), float64(t.Calls)/s, float64(t.Fired)/s,
				float64(t.Reads)/s, t.Noting, t.Looking, t.Mallocs, t.Found, r.config.tracking.Silent, t.Late, t.Wrong)
		}
		fmt.Fprintln(&b)
	}
	fmt.Fprintf(&b, "%s", r.facts.Markdown())
	return b.String()
}

// ratio is our CPU per heartbeat to the floor's, if both were measured.
func (r report) ratio() (stats.Summary, bool) {
	for _, row := range r.rows {
		if row.Server == ours {
			s, ok := row.Ratios[peers.Floor]
			return s, ok
		}
	}
	return stats.Summary{}, false
}

// verdict says plainly what a ratio shows.
func verdict(s stats.Summary) string {
	switch {
	case s.High <= mostRatio:
		return "and the whole interval is"
	case s.Low > mostRatio:
		return "and the whole interval is above"
	case s.Median <= mostRatio:
		return "and the median is, but not the whole interval"
	}
	return "and the median is above, but not the whole interval"
}

// lines is the raw file: facts, every sample, the table, the simulations.
func (r report) lines() []any {
	type labelled struct {
		Kind string `json:"kind"`
		Data any    `json:"data"`
	}
	lines := []any{labelled{"facts", r.facts}, labelled{"setup", map[string]any{
		"rounds": r.config.Rounds, "seed": r.config.Seed, "shared_cpu": r.shared, "tracking": r.config.tracking,
	}}}
	for _, s := range r.samples {
		lines = append(lines, labelled{"sample", s})
	}
	for _, row := range r.rows {
		lines = append(lines, labelled{"row", row})
	}
	for _, t := range r.tracked {
		lines = append(lines, labelled{"tracked", t})
	}
	return lines
}
