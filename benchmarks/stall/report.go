//go:build linux

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
)

type report struct {
	facts    machine.Facts
	config   config
	findings []*finding
}

// counts prints a map of counts in order.
func counts(m map[string]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
	}
	if parts == nil {
		return "–"
	}
	return strings.Join(parts, ", ")
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) }

// extent prints the range of the loops' values, in seconds.
func extent(ds []time.Duration) string {
	least, most := slices.Min(ds), slices.Max(ds)
	if seconds(least) == seconds(most) {
		return seconds(least)
	}
	return seconds(least) + " to " + seconds(most)
}

func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Stall: a watcher that is stopped blames nobody for it\n\n")
	fmt.Fprintf(&b, "A process with connections to thousands of live peers is stopped (SIGSTOP) for long once, and then for one second in every two. "+
		"Its peers' own tolerance is longer than that. In the middle of the long stop and of the first short one, some peers are stopped for good: "+
		"their kernels acknowledge, they never answer. Unguarded means Limits.StallCap −1: time that the watcher was stopped counts against its peers.\n\n")
	for i := range r.config.cases {
		s := &r.config.cases[i]
		patience := fmt.Sprintf("tolerate %v", s.tolerance())
		if s.Delay > 0 {
			patience = fmt.Sprintf("answer after %v and wait for ever", s.Delay)
		}
		fmt.Fprintf(&b, "- **%s**: %s. Watcher: %v; its peers %s. %d live peers, 2 × %d doomed; %v, then %d × %v in every %v.",
			s.Name, s.About, s.Watch, patience, s.Peers, s.Doomed, s.Long, s.Cycles, s.Short, 2*s.Short)
		if !s.NeedsGuard {
			fmt.Fprintf(&b, " Its detectors bear a stop without the guard, too: queries count from when they were sent.")
		}
		fmt.Fprintf(&b, "\n")
	}
	fmt.Fprintf(&b, "\n| case | stopped | guard | false verdicts: after the long stop | during the short ones | later | why | dead peers found | pings in the busiest tenth of a second, × mean |\n|%s\n", strings.Repeat(" --- |", 9))
	for _, f := range r.findings {
		s := f.scenario
		long, short, later := f.falseVerdicts()
		fmt.Fprintf(&b, "| %s | %s | %s | %d of %d | %d | %d | %s | %d of %d | %.1f |\n", s.Name, f.Side, onOff(f.Guarded),
			long, s.Peers, short, later, counts(f.End.Groups[live].Reasons),
			f.End.Groups[dieInLong].Closed+f.End.Groups[dieInShort].Closed, 2*s.Doomed, f.burst())
	}
	fmt.Fprintf(&b, "\nThe last column is the second after the long stop. With the guard, time has stood still, and pings are as spread as before; "+
		"without it, all are due at once, and from then on march in step.\n")
	fmt.Fprintf(&b, "\nHow long the last of the dead was dead until it was ended, in seconds; of that, how long the watcher was stopped; and what was promised: "+
		"WorstCase, a tick and the stop, plus the time that the watcher's threads waited for a processor, plus slack. Not counted is what each loop has taken out of its peers' time, "+
		"counted what was more than StallCap permits.\n\n")
	fmt.Fprintf(&b, "| case | stopped | guard | died | found after | stopped for | starved for | at most | reasons | diagnoses | not counted | counted |\n|%s\n", strings.Repeat(" --- |", 12))
	for _, f := range r.findings {
		for g := dieInLong; g < numOfGroups; g++ {
			d := f.End.Groups[g]
			if d.Closed == 0 || d.First < f.died[g] {
				continue // without the guard they were ended while they lived
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", f.scenario.Name, f.Side, onOff(f.Guarded),
				strings.TrimPrefix(groupNames[g], "doomed "), seconds(f.took(g)), seconds(f.stopped(f.died[g], d.Last)), seconds(f.starved(f.died[g], d.Last)), seconds(f.bound(g)),
				counts(d.Reasons), counts(d.Diagnoses), extent(f.End.Stalled), extent(f.End.StallExcess))
		}
	}
	fmt.Fprintf(&b, "\n| what must hold | | |\n| --- | --- | --- |\n")
	for _, f := range r.findings {
		for _, i := range f.invariants {
			word := "holds"
			if !i.Holds {
				word = "BROKEN"
			}
			fmt.Fprintf(&b, "| %s: %s | %s | %s |\n", f.title(), i.Name, word, strings.ReplaceAll(i.Detail, "|", "\\|"))
		}
	}
	fmt.Fprintf(&b, "\n%s", r.facts.Markdown())
	return b.String()
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// lines is the raw file: facts, every case, and every finding.
func (r report) lines() []any {
	type labelled struct {
		Kind string `json:"kind"`
		Data any    `json:"data"`
	}
	lines := []any{labelled{"facts", r.facts}}
	for _, s := range r.config.cases {
		lines = append(lines, labelled{"case", s})
	}
	for _, f := range r.findings {
		lines = append(lines, labelled{"finding", struct {
			Case string `json:"case"`
			*finding
			Died       []int64     `json:"died"`
			Stops      []span      `json:"stops"`
			Invariants []invariant `json:"invariants"`
		}{f.scenario.Name, f, f.died[dieInLong:], f.stops, f.invariants}})
	}
	return lines
}
