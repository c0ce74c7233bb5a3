package main

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

// target is something that this project has set out to reach.
type target struct {
	workload string
	what     string
	judge    func(m *measured) judgement
}

// judgement is what became of it.
type judgement struct {
	figure string
	// holds is empty where there is nothing to say: nothing was measured, or no
	// bound was set.
	holds string
}

// Verdicts. "At most" is about the median, "below" about the whole interval; "not
// above" means that not all of the interval is above.
const (
	holds   = "**holds**"
	narrow  = "**holds**, but not for the whole interval"
	misses  = "does not hold"
	unsure  = "does not hold: the median does, but not the whole interval"
	unknown = "–"
)

// verdict judges a median that has to lie within a bound.
func verdict(s stats.Summary, bound float64) string {
	switch {
	case s.N == 0:
		return unknown
	case s.High <= bound:
		return holds
	case s.Median <= bound:
		return narrow
	}
	return misses
}

// below judges an interval that has to lie below 1.
func below(s stats.Summary) string {
	switch {
	case s.N == 0:
		return unknown
	case s.High < 1:
		return holds
	case s.Median < 1:
		return unsure
	}
	return misses
}

var targets = []target{
	{"echo-64", "at most 1.10 × the floor", atMost(peers.Floor, 1.10)},
	{"echo-64", "below every peer", belowEvery},
	{"echo-64-depth-1", "at most 1.10 × the floor", atMost(peers.Floor, 1.10)},
	{"echo-64-depth-1", "below every peer", belowEvery},
	{"echo-4k", "below every peer", belowEvery},
	{"echo-64k", "below every peer", belowEvery},
	{"echo-10k-conns", "below every peer", belowEvery},
	{"room", "below every peer", belowEvery},
	{"broadcast", "at most 1.10 × a loop of writes in C (allocations are counted by the engine's tests)", atMost(peers.Floor, 1.10)},
	{"churn", "cycles per second of CPU: at least gnet's", atMost("gnet", 1)},
	{"heartbeat", "at most 1.15 × the floor", atMost(peers.Floor, 1.15)},
	{"heartbeat", "at most 420 resident bytes per connection, collected; the peak stated", memory(420)},
	{"open", "p99 not above the best peer's", notAboveBest},
	{"deadpeer", "detection and false verdicts side by side", detection},
	{"growth", "100 → 18,000 connections: cost per message within 1.5 ×", growing(100, 18_000, 1.5)},
	{"scaling", "two loops on two processors against one, the load's share stated", scaled},
}

// compare is the ratio of the workload's first figure.
func (m *measured) compare(server, to string) stats.Summary {
	return m.Compare(m.samples, m.Plan.Figures[0], server, to)
}

func atMost(to string, bound float64) func(*measured) judgement {
	return func(m *measured) judgement {
		s := m.compare(ours, to)
		return judgement{fmt.Sprintf("× %s: %v", to, s), verdict(s, bound)}
	}
}

// others are the servers of a workload that are neither ours nor the floor.
func (m *measured) others() (names []string) {
	for _, e := range m.Entries {
		if e.Name != peers.Floor && !strings.HasPrefix(e.Name, ours) {
			names = append(names, e.Name)
		}
	}
	return names
}

// belowEvery shows the peer that is nearest to being better.
func belowEvery(m *measured) judgement {
	nearest, name := stats.Summary{}, ""
	for _, other := range m.others() {
		if s := m.compare(ours, other); s.N > 0 && s.High > nearest.High {
			nearest, name = s, other
		}
	}
	if name == "" {
		return judgement{"no peer was measured", unknown}
	}
	return judgement{fmt.Sprintf("nearest is %s: × %v", name, nearest), below(nearest)}
}

func notAboveBest(m *measured) judgement {
	best, least := "", math.Inf(1)
	for _, other := range m.others() {
		if v := m.values(other, m.Plan.Figures[0]); len(v) > 0 && stats.Median(v) < least {
			best, least = other, stats.Median(v)
		}
	}
	if best == "" {
		return judgement{"no peer was measured", unknown}
	}
	s := m.compare(ours, best)
	j := judgement{fmt.Sprintf("the best peer is %s: × %v", best, s), misses}
	switch {
	case s.N == 0:
		j.holds = unknown
	case s.Low <= 1:
		j.holds = holds
	}
	return j
}

func memory(bound float64) func(*measured) judgement {
	return func(m *measured) judgement {
		sum := func(f rounds.Figure) stats.Summary { return stats.Summarize(m.values(ours, f), m.Seed) }
		s, most := sum(collected), sum(peak)
		return judgement{fmt.Sprintf("%.0f [%.0f, %.0f] B, peak %.0f B", s.Median, s.Low, s.High, most.Median), verdict(s, bound)}
	}
}

func growing(from, to int, bound float64) func(*measured) judgement {
	return func(m *measured) judgement {
		s := m.compare(ours+grown(to), ours+grown(from))
		floor := m.compare(peers.Floor+grown(to), peers.Floor+grown(from))
		return judgement{fmt.Sprintf("× %v (the floor: %v)", s, floor), verdict(s, bound)}
	}
}

func scaled(m *measured) judgement {
	s := m.compare(ofTwo, ours)
	share := stats.Median(m.values(ofTwo, m.Plan.Figures[2]))
	return judgement{fmt.Sprintf("throughput × %v, of all processors %.0f %% were the load's", s, share), unknown}
}

// detection has no bound but that nobody who is well is given up.
func detection(m *measured) judgement {
	i := slices.IndexFunc(m.Entries, func(e rounds.Entry) bool { return strings.HasPrefix(e.Name, ours) })
	if i < 0 {
		return judgement{"", unknown}
	}
	name := m.Entries[i].Name
	verdicts := m.values(name, falseVerdicts)
	j := judgement{fmt.Sprintf("%s: %.0f false verdicts; silent %s s", name, sum(verdicts), m.times(name, wayFigures("silent"))), holds}
	switch {
	case len(verdicts) == 0:
		j.holds = unknown
	case sum(verdicts) > 0:
		j.holds = misses
	}
	return j
}

// targets is the list at the end of the tables.
func (r report) targets() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## Targets\n\nWhat this project has set out to reach, by the samples above: CPU per message where nothing else is said, "+
		"median [95 %% bootstrap interval] of the ratios. \"At most\" holds if the median is, \"below\" if the whole interval is, \"not above\" if not all of it is above.\n\n"+
		"| workload | wanted | measured | |\n| --- | --- | --- | --- |\n")
	for _, t := range targets {
		i := slices.IndexFunc(r.measured, func(m *measured) bool { return m.name == t.workload })
		if i < 0 {
			continue
		}
		j := t.judge(r.measured[i])
		if j.holds != unknown && r.config.rounds < 5 {
			j.holds = "too few rounds to say"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", t.workload, t.what, j.figure, j.holds)
	}
	return b.String()
}
