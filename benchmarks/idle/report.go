package main

import (
	"fmt"
	"strings"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
)

type report struct {
	facts   machine.Facts
	config  config
	shared  bool
	samples []sample
}

func (r report) markdown() string {
	var b strings.Builder
	l := r.config.load
	fmt.Fprintf(&b, "# Idle: what a connection costs that only stays alive\n\n")
	fmt.Fprintf(&b, "%d connections from another process, an empty frame on each every %v, window %v, %d round(s), medians. "+
		"Memory is the server's resident memory less that without connections, per connection: collected (after two "+
		"collections and giving free memory back), its anonymous part, and the peak without a forced collection.\n\n",
		l.Conns, l.Interval, l.Window, r.config.rounds)
	if r.shared {
		fmt.Fprintf(&b, "Only one processor could be used: server and load shared it.\n\n")
	}
	fmt.Fprintf(&b, "| server | goroutines | B/conn collected | B/conn anonymous | B/conn peak | heartbeats answered | CPU ns per heartbeat | verdicts | others' CPUs |\n")
	fmt.Fprintf(&b, "|%s\n", strings.Repeat(" --- |", 9))
	for _, p := range r.config.peers {
		median := func(f func(sample) float64) float64 {
			var xs []float64
			for _, s := range r.samples {
				if s.Server == p.Name {
					xs = append(xs, f(s))
				}
			}
			return stats.Median(xs)
		}
		fmt.Fprintf(&b, "| %s: %s | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %.2f |\n", p.Name, p.About,
			median(func(s sample) float64 { return float64(s.Goroutines) }),
			median(sample.residentPerConn),
			median(sample.anonymousPerConn),
			median(sample.peakPerConn),
			median(func(s sample) float64 { return float64(s.Messages) }),
			median(func(s sample) float64 { return s.CPUPerMessage() }),
			median(func(s sample) float64 { return float64(s.Verdicts) }),
			median(func(s sample) float64 { return s.Others() }))
	}
	fmt.Fprintf(&b, "\n%s", r.facts.Markdown())
	return b.String()
}

// lines is the raw file: facts and every sample.
func (r report) lines() []any {
	type labelled struct {
		Kind string `json:"kind"`
		Data any    `json:"data"`
	}
	lines := []any{labelled{"facts", r.facts}}
	for _, s := range r.samples {
		lines = append(lines, labelled{"sample", s})
	}
	return lines
}
