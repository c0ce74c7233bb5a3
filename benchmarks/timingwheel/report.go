package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
)

// report turns samples into what is written.
type report struct {
	facts   machine.Facts
	samples []sample
}

// lines are the raw results.
func (r report) lines() []any {
	lines := []any{r.facts}
	for _, s := range r.samples {
		lines = append(lines, s)
	}
	return lines
}

// values returns a figure of all rounds by round, and nil if it was not measured.
func (r report) values(subject string, n int, figure string) map[int]float64 {
	var vs map[int]float64
	for _, s := range r.samples {
		if v, ok := s.Figures[figure]; ok && s.Subject == subject && s.Timers == n {
			if vs == nil {
				vs = map[int]float64{}
			}
			vs[s.Round] = v
		}
	}
	return vs
}

// median returns the median of a figure, NaN if it was not measured.
func (r report) median(subject string, n int, figure string) float64 {
	return stats.Median(slices.Collect(maps.Values(r.values(subject, n, figure))))
}

// ratio compares two subjects' figures round by round.
func (r report) ratio(a, b string, n int, figure string) stats.Summary {
	xs, ys := r.values(a, n, figure), r.values(b, n, figure)
	var ratios []float64
	for _, round := range slices.Sorted(maps.Keys(xs)) {
		if y, ok := ys[round]; ok {
			ratios = append(ratios, xs[round]/y)
		}
	}
	return stats.Summarize(ratios, 1)
}

// counts returns the numbers of timers that were measured, in order.
func (r report) counts() []int {
	var ns []int
	for _, s := range r.samples {
		ns = append(ns, s.Timers)
	}
	slices.Sort(ns)
	return slices.Compact(ns)
}

// claim is something the package is to show.
type claim struct {
	text   string
	want   string
	holds  func(float64) bool
	value  stats.Summary
	format string // of value's parts
}

const million = 1_000_000

// claims returns those for which there are figures.
func (r report) claims() []claim {
	atMost := func(limit float64) func(float64) bool { return func(v float64) bool { return v <= limit } }
	var cs []claim
	add := func(text, want, format string, limit float64, v stats.Summary) {
		if v.N > 0 {
			cs = append(cs, claim{text, want, atMost(limit), v, format})
		}
	}
	ratio := func(text, a, b, figure string, parts float64) {
		add(text, fmt.Sprintf("≤ 1/%g", parts), "1/%.1f", 1/parts, r.ratio(a, b, million, figure))
	}
	absolute := func(text, want, format string, limit float64, subject string, n int, figure string) {
		add(text, want, format, limit, stats.Summarize(sorted(r.values(subject, n, figure)), 1))
	}
	ratio("Wheel, arm+stop, of time.AfterFunc's", "Wheel", reference, armStopNS, 25)
	ratio("Wheel, arm+stop, of RussellLuo's", "Wheel", "RussellLuo", armStopNS, 20)
	absolute("Wheel, arm+stop, allocations", "0", "%.3f", 0.0005, "Wheel", million, armStopN)
	if flat := r.flatness("Wheel", armStopNS); flat > 0 {
		add("Wheel, arm+stop, slowest of 1k to 10M over fastest", "≤ 2", "%.2f", 2, stats.Summary{Median: flat, Low: flat, High: flat, N: 1})
	}
	ratio("Wheel, replace, of time.AfterFunc's", "Wheel", reference, replaceNS, 5)
	ratio("Wheel, fire, of time.AfterFunc's", "Wheel", reference, fireNS, 4)
	ratio("Wheel, lazy touch, of time.Timer.Reset", "Wheel", reference, touchNS, 30)
	absolute("Wheel, one collection with 10M timers, ms", "< 2", "%.2f", 2, "Wheel", 10*million, gcMS)
	absolute("Wheel, bytes a timer: a node of 24, and lookahead", "≤ 24 + 0.5 %", "%.2f", 24.12, "Wheel", million, timerB)
	absolute("Wheel, one Advance during a cascade, CPU p99.9, µs", "< 500", "%.0f", 500, "Wheel", million, cascadeP999)
	ratio("FuncTimer, arm+stop, of time.AfterFunc's", "FuncTimer", reference, armStopNS, 4)
	ratio("FuncTimer, arm+stop by two goroutines, of time.AfterFunc's elapsed time", "FuncTimer", reference, twoWall, 5)
	ratio("FuncTimer, Postpone, of time.Timer.Reset", "FuncTimer", reference, touchNS, 3)
	absolute("FuncTimer, wake-ups of the Scheduler in an idle second", "0", "%.1f", 0, "FuncTimer", million, idleWakeups)
	absolute("FuncTimer, timers that fired early, %", "0", "%.3f", 0, "FuncTimer", million, earlyShare)
	absolute("FuncTimer, lateness p99 in real time, ms", "≤ 5", "%.2f", 5, "FuncTimer", million, lateP99)
	return cs
}

func sorted(vs map[int]float64) []float64 {
	return slices.Sorted(maps.Values(vs))
}

// flatness is the largest median of a figure over its smallest, among all numbers of timers; 0 if there is only one.
func (r report) flatness(subject, figure string) float64 {
	var ms []float64
	for _, n := range r.counts() {
		if m := r.median(subject, n, figure); !math.IsNaN(m) {
			ms = append(ms, m)
		}
	}
	if len(ms) < 2 {
		return 0
	}
	return slices.Max(ms) / slices.Min(ms)
}

// String prints a claim's value, as a fraction where it is one.
func (c claim) String() string {
	show := func(v float64) string {
		if strings.HasPrefix(c.format, "1/") {
			v = 1 / v
		}
		return fmt.Sprintf(c.format, v)
	}
	if c.value.N == 1 {
		return show(c.value.Median)
	}
	return fmt.Sprintf("%s [%s, %s]", show(c.value.Median), show(c.value.Low), show(c.value.High))
}

// columns of the tables: a figure and how to print it.
var columns = []struct{ title, figure, format string }{
	{"arm+stop", armStopNS, "%.1f"},
	{"… random", armRandomNS, "%.1f"},
	{"replace", replaceNS, "%.0f"},
	{"touch", touchNS, "%.1f"},
	{"fire", fireNS, "%.0f"},
	{"two", twoWall, "%.1f"},
	{"B/op", armStopB, "%.0f"},
	{"B/timer", timerB, "%.1f"},
	{"gc ms", gcMS, "%.2f"},
	{"… without", gcBaseMS, "%.2f"},
	{"idle µs/s", idleCPU, "%.0f"},
	{"switches/s", idleWakes, "%.0f"},
	{"late p50 ms", lateP50, "%.2f"},
	{"late p99 ms", lateP99, "%.2f"},
	{"late max ms", lateMax, "%.1f"},
	{"early %", earlyShare, "%.1f"},
	{"by up to ms", earlyMax, "%.1f"},
}

func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Timers\n\n%s\n", r.facts.Markdown())
	b.WriteString("Medians of CPU time, ns per operation, unless a unit is given; \"two\" is elapsed time. What is measured, and how, is told in\nthe driver's documentation. ")
	b.WriteString("In brackets: 95 % intervals of the median over the rounds.\n")
	if cs := r.claims(); len(cs) > 0 {
		b.WriteString("\n## What it is to show, with a million timers\n\n| | wanted | measured | |\n| --- | --- | --- | --- |\n")
		for _, c := range cs {
			verdict := "holds"
			if !c.holds(c.value.Median) {
				verdict = "**does not hold**"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", c.text, c.want, c, verdict)
		}
	}
	for _, n := range r.counts() {
		r.table(&b, n)
	}
	b.WriteString("\n## Subjects\n\n")
	for _, k := range kinds {
		fmt.Fprintf(&b, "- %s: %s\n", k.name, k.about)
	}
	return b.String()
}

// table writes the medians with n timers.
func (r report) table(b *strings.Builder, n int) {
	rounds := 0
	for _, s := range r.samples {
		if s.Timers == n {
			rounds = max(rounds, s.Round+1)
		}
	}
	fmt.Fprintf(b, "\n## %s timers, rounds: %d\n\n|", grouped(n), rounds)
	for _, c := range columns {
		fmt.Fprintf(b, " | %s", c.title)
	}
	b.WriteString(" |\n| ---" + strings.Repeat(" | ---:", len(columns)) + " |\n")
	for _, k := range kinds {
		row, any := "| "+k.name, false
		for _, c := range columns {
			if m := r.median(k.name, n, c.figure); math.IsNaN(m) {
				row += " | –"
			} else {
				any = true
				row += " | " + fmt.Sprintf(c.format, m)
			}
		}
		if any {
			b.WriteString(row + " |\n")
		}
	}
	if calls := r.median("Wheel", n, cascadeN); !math.IsNaN(calls) {
		fmt.Fprintf(b, "\nWheel, one call of Advance with a budget of %d while these timers cascade: CPU time p50 %.1f µs, p99.9 %.1f µs, largest %.0f µs; elapsed p99.9 %.1f µs; %.0f calls.\n",
			engineBudget, r.median("Wheel", n, cascadeP50), r.median("Wheel", n, cascadeP999), r.median("Wheel", n, cascadeMax), r.median("Wheel", n, cascadeWall), calls)
	}
}

// grouped prints n with commas.
func grouped(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
