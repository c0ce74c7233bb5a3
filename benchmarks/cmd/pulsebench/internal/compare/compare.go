// Package compare says what differs between results, and whether the difference
// is more than noise.
//
// Two things must agree before a difference is called one: the 95 % bootstrap
// interval of the ratio of medians leaves out 1, and a permutation test finds
// that runs shuffled between the two results would rarely look so different.
// The first alone is too easily satisfied by five runs.
package compare

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/result"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
)

// Options says how to compare.
type Options struct {
	// Paired: the first run of each result was taken beside the first of the
	// others, and so on, so that ratios are taken within these pairs.
	Paired bool
	// Least is the ratio less 1 from which on a difference matters: 0.01 is 1 %.
	Least float64
	// Seed of the resampling.
	Seed uint64
}

// Verdict is what can be said of two samples.
type Verdict uint8

const (
	// TooFew runs to say anything.
	TooFew Verdict = iota
	// Same: no difference beyond noise, which does not prove that there is none.
	Same
	Less
	More
)

// MinRuns is how many runs of each result it takes to say anything, and
// MinPairs how many pairs: of fewer, no arrangement is rare enough.
const (
	MinRuns  = 5
	MinPairs = 6
)

// rare is the share of arrangements below which a difference is not by chance.
const rare = 0.05

// Difference is one metric of two results.
type Difference struct {
	Metric result.Metric // its Value is of no meaning
	// A and B are the results' runs.
	A, B stats.Summary
	// Ratio is of B to A. Where a value is zero there is none, and N is 0.
	Ratio   stats.Summary
	P       float64 // the permutation test's
	Verdict Verdict
}

// Better reports whether B is better than A beyond noise, Worse the opposite.
func (d Difference) Better() bool {
	return d.Verdict == More && d.Metric.MoreIsBetter || d.Verdict == Less && !d.Metric.MoreIsBetter
}

// Worse reports whether B is worse than A beyond noise.
func (d Difference) Worse() bool {
	return (d.Verdict == More || d.Verdict == Less) && !d.Better()
}

// Comparison is of one result with the reference.
type Comparison struct {
	A, B        string
	Differences []Difference
	// Caveats are reasons why the two may not be comparable.
	Caveats []string
}

// Worse reports whether anything is worse beyond noise.
func (c Comparison) Worse() bool { return slices.ContainsFunc(c.Differences, Difference.Worse) }

// Files compares each result with the first.
func Files(files []result.File, o Options) ([]Comparison, error) {
	if len(files) < 2 {
		return nil, errors.New("want two results or more")
	}
	var list []Comparison
	for i, b := range files[1:] {
		a := files[0]
		if a.Plan.Workload != b.Plan.Workload {
			return nil, fmt.Errorf("%s ran workload %s, %s ran %s: they cannot be compared", a.Label, a.Plan.Workload, b.Label, b.Plan.Workload)
		}
		c := Comparison{A: a.Label, B: b.Label, Caveats: caveats(a, b)}
		if c.A == c.B {
			c.A, c.B = c.A+" (1)", fmt.Sprintf("%s (%d)", c.B, i+2)
		}
		left, right := samples(a), samples(b)
		for _, m := range left.order {
			x, y := left.values[m.Name], right.values[m.Name]
			if len(y) == 0 {
				continue
			}
			if o.Paired && len(x) != len(y) {
				return nil, fmt.Errorf("-paired: %s has %d runs, %s has %d", a.Label, len(x), b.Label, len(y))
			}
			c.Differences = append(c.Differences, differ(m, x, y, o))
		}
		list = append(list, c)
	}
	return list, nil
}

// sample is the runs of a result by metric.
type sample struct {
	order  []result.Metric
	values map[string][]float64
}

func samples(f result.File) sample {
	s := sample{values: make(map[string][]float64)}
	for _, r := range f.Runs {
		if r.Interrupted {
			continue
		}
		for _, m := range r.Metrics() {
			if len(s.values[m.Name]) == 0 {
				s.order = append(s.order, m)
			}
			s.values[m.Name] = append(s.values[m.Name], m.Value)
		}
	}
	return s
}

func differ(m result.Metric, x, y []float64, o Options) Difference {
	d := Difference{Metric: m, A: stats.Summarize(x, o.Seed), B: stats.Summarize(y, o.Seed)}
	positive := slices.Min(x) > 0 && slices.Min(y) > 0
	// above and below: the interval lies on one side of no difference.
	above, below := false, false
	if positive {
		d.Ratio = ratio(x, y, o)
		above, below = d.Ratio.Low > 1+o.Least, d.Ratio.High < 1/(1+o.Least)
	} else {
		low, high := shift(x, y, o)
		above, below = low > 0, high < 0
	}
	if o.Paired {
		if len(x) < MinPairs {
			return d
		}
		d.P = signFlips(x, y, o.Seed)
	} else {
		if len(x) < MinRuns || len(y) < MinRuns {
			return d
		}
		d.P = permutations(x, y, o.Seed)
	}
	switch {
	case above && d.P < rare:
		d.Verdict = More
	case below && d.P < rare:
		d.Verdict = Less
	default:
		d.Verdict = Same
	}
	return d
}

// ratio is of B's median to A's, or the median of the pairs' ratios.
func ratio(x, y []float64, o Options) stats.Summary {
	if o.Paired {
		return stats.Summarize(stats.Ratios(y, x), o.Seed)
	}
	low, high := bootstrap(x, y, o.Seed, func(a, b float64) float64 { return b / a })
	return stats.Summary{Median: stats.Median(y) / stats.Median(x), Low: low, High: high, N: min(len(x), len(y))}
}

// shift is the interval of the difference of medians.
func shift(x, y []float64, o Options) (low, high float64) {
	return bootstrap(x, y, o.Seed, func(a, b float64) float64 { return b - a })
}

// bootstrap is the 95 % percentile interval of a function of two medians, the
// samples being resampled independently.
func bootstrap(x, y []float64, seed uint64, of func(a, b float64) float64) (low, high float64) {
	random := rand.New(rand.NewPCG(seed, uint64(len(x))<<32|uint64(len(y))))
	draw := func(from, to []float64) float64 {
		for i := range to {
			to[i] = from[random.IntN(len(from))]
		}
		return stats.Median(to)
	}
	xs, ys := make([]float64, len(x)), make([]float64, len(y))
	values := make([]float64, stats.Resamples)
	for i := range values {
		values[i] = of(draw(x, xs), draw(y, ys))
	}
	slices.Sort(values)
	return values[stats.Resamples*25/1000], values[stats.Resamples-1-stats.Resamples*25/1000]
}

// permutations is the share of random arrangements of all values into two
// samples whose rank sums are at least as uneven as those found.
func permutations(x, y []float64, seed uint64) float64 {
	all := slices.Concat(x, y)
	ranks := midranks(all)
	expected := float64(len(x)) * float64(len(all)+1) / 2
	uneven := func() float64 {
		sum := 0.0
		for _, rank := range ranks[:len(x)] {
			sum += rank
		}
		return math.Abs(sum - expected)
	}
	found := uneven()
	random := rand.New(rand.NewPCG(seed, 1))
	as := 0
	for range stats.Resamples {
		random.Shuffle(len(ranks), func(i, j int) { ranks[i], ranks[j] = ranks[j], ranks[i] })
		if uneven() >= found {
			as++
		}
	}
	return float64(as+1) / (stats.Resamples + 1)
}

// midranks is the place of each value in order, from 1; equal ones share the
// mean of theirs.
func midranks(values []float64) []float64 {
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int {
		switch {
		case values[i] < values[j]:
			return -1
		case values[i] > values[j]:
			return 1
		}
		return 0
	})
	ranks := make([]float64, len(values))
	for from := 0; from < len(order); {
		to := from + 1
		for to < len(order) && values[order[to]] == values[order[from]] {
			to++
		}
		for _, i := range order[from:to] {
			ranks[i] = float64(from+to+1) / 2
		}
		from = to
	}
	return ranks
}

// signFlips is the share of random choices of which run of each pair is whose
// under which the pairs differ on average at least as much.
func signFlips(x, y []float64, seed uint64) float64 {
	gaps := make([]float64, len(x))
	for i := range x {
		if x[i] > 0 && y[i] > 0 {
			gaps[i] = math.Log(y[i] / x[i])
		} else {
			gaps[i] = y[i] - x[i]
		}
	}
	found := 0.0
	for _, gap := range gaps {
		found += gap
	}
	found = math.Abs(found)
	random := rand.New(rand.NewPCG(seed, 2))
	as := 0
	for range stats.Resamples {
		sum := 0.0
		for _, gap := range gaps {
			if random.Uint64()&1 == 0 {
				gap = -gap
			}
			sum += gap
		}
		// Sums of the same numbers in another order may differ in the last bit.
		if math.Abs(sum) >= found*(1-1e-12) {
			as++
		}
	}
	return float64(as+1) / (stats.Resamples + 1)
}

// incidental fields of a plan may differ without making results incomparable.
var incidental = []string{"target", "seed", "sources", "worker"}

// caveats lists why two results may not be comparable.
func caveats(a, b result.File) []string {
	var list []string
	for _, part := range []struct {
		name string
		a, b any
		but  []string
	}{
		{"plan", a.Plan, b.Plan, incidental},
		{"machine", a.Machine, b.Machine, []string{"date", "command", "compiler"}},
	} {
		x, y := flat(part.a), flat(part.b)
		for _, key := range keys(x, y) {
			if slices.Contains(part.but, key) || key == "protocol.run" || reflect.DeepEqual(x[key], y[key]) {
				continue
			}
			list = append(list, fmt.Sprintf("%s: %s is %s and %s", part.name, key, show(x[key]), show(y[key])))
		}
	}
	for _, f := range []result.File{a, b} {
		problems, saturated, interrupted := 0, 0, 0
		for _, r := range f.Runs {
			if len(r.Problems) > 0 {
				problems++
			}
			if r.Saturated {
				saturated++
			}
			if r.Interrupted {
				interrupted++
			}
		}
		for _, flaw := range []struct {
			n    int
			text string
		}{
			{problems, "have problems"}, {saturated, "were limited by the load generator"}, {interrupted, "were interrupted and are left out"},
		} {
			if flaw.n > 0 {
				list = append(list, fmt.Sprintf("%s: %d of %d runs %s", f.Label, flaw.n, len(f.Runs), flaw.text))
			}
		}
	}
	return list
}

// flat is a value's JSON with nested fields as a.b.
func flat(v any) map[string]any {
	text, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	var nested map[string]any
	if json.Unmarshal(text, &nested) != nil {
		return nil
	}
	out := make(map[string]any)
	var walk func(prefix string, m map[string]any)
	walk = func(prefix string, m map[string]any) {
		for key, value := range m {
			if inner, ok := value.(map[string]any); ok {
				walk(prefix+key+".", inner)
				continue
			}
			out[prefix+key] = value
		}
	}
	walk("", nested)
	return out
}

func keys(a, b map[string]any) []string {
	var list []string
	for _, m := range []map[string]any{a, b} {
		for key := range m {
			if !slices.Contains(list, key) {
				list = append(list, key)
			}
		}
	}
	slices.Sort(list)
	return list
}

func show(v any) string {
	if v == nil {
		return "not set"
	}
	return fmt.Sprint(v)
}

// Statement says in one sentence what the difference is.
func (d Difference) Statement(a, b string) string {
	what := d.Metric.Name
	ratio := ""
	if d.Ratio.N > 0 {
		ratio = " (ratio " + d.Ratio.String() + ")"
	}
	switch d.Verdict {
	case TooFew:
		return fmt.Sprintf("%s: %s and %s%s; too few runs to tell a difference from noise", what, d.number(d.A.Median), d.number(d.B.Median), ratio)
	case Same:
		return fmt.Sprintf("%s: no difference beyond noise%s", what, ratio)
	}
	than := "higher"
	if d.Verdict == Less {
		than = "lower"
	}
	judgement := "worse"
	if d.Better() {
		judgement = "better"
	}
	if d.Ratio.N == 0 {
		return fmt.Sprintf("%s: %s's is %s than %s's, %s against %s: %s, beyond noise", what, b, than, a, d.number(d.B.Median), d.number(d.A.Median), judgement)
	}
	return fmt.Sprintf("%s: %s's is %.1f %% %s than %s's%s: %s, beyond noise", what, b, 100*math.Abs(d.Ratio.Median-1), than, a, ratio, judgement)
}

// number prints a value of the metric.
func (d Difference) number(v float64) string {
	if d.Metric.Unit == "µs" {
		return result.Duration(v)
	}
	digits := 0
	if d.Metric.Unit == "s" || v != math.Trunc(v) && math.Abs(v) < 100 {
		digits = 3
	}
	text := fmt.Sprintf("%.*f", digits, v)
	if d.Metric.Unit != "" && d.Metric.Unit != "/s" {
		text += " " + d.Metric.Unit
	}
	return text
}

// spread prints a median and its interval.
func (d Difference) spread(s stats.Summary) string {
	if s.N < 2 {
		return d.number(s.Median)
	}
	return fmt.Sprintf("%s [%s, %s]", d.number(s.Median), d.number(s.Low), d.number(s.High))
}

// Write writes comparisons as Markdown: for each a table, and what it means.
func Write(out io.Writer, list []Comparison) error {
	var b strings.Builder
	for i, c := range list {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "## %s beside %s\n\n", c.B, c.A)
		fmt.Fprintf(&b, "| median [95 %% interval] | %s | %s | ratio |\n| --- | --- | --- | --- |\n", c.A, c.B)
		for _, d := range c.Differences {
			ratio := "–"
			if d.Ratio.N > 0 {
				ratio = d.Ratio.String()
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", d.Metric.Name, d.spread(d.A), d.spread(d.B), ratio)
		}
		b.WriteString("\n")
		for _, d := range c.Differences {
			fmt.Fprintf(&b, "- %s\n", d.Statement(c.A, c.B))
		}
		if len(c.Caveats) > 0 {
			b.WriteString("\nNot all else is equal:\n\n")
			for _, caveat := range c.Caveats {
				fmt.Fprintf(&b, "- %s\n", caveat)
			}
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}
