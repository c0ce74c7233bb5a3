package rounds

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

// Row is one server's line of the table of one figure.
type Row struct {
	Server string        `json:"server"`
	About  string        `json:"about"`
	Figure string        `json:"figure"`
	Value  stats.Summary `json:"value"`
	// Ratios are taken within rounds, to each reference that was measured.
	Ratios map[string]stats.Summary `json:"ratios"`
	// Medians that tell whether servers were loaded alike and undisturbed: the
	// share of the windows the server was on its processor, the load on its own,
	// frames per read of the load, and processors that others used.
	Busy     float64 `json:"server_busy"`
	LoadBusy float64 `json:"load_busy"`
	Batch    float64 `json:"frames_per_read"`
	Others   float64 `json:"others_cpus"`
}

// Rows sums a figure up, a row for each entry in the order of the plan.
func (p Plan) Rows(samples []Sample, f Figure) (rows []Row) {
	for _, e := range p.Entries {
		of := func(g func(Sample) float64) (xs []float64) {
			for _, s := range samples {
				if s.Server == e.Name {
					xs = append(xs, g(s))
				}
			}
			return xs
		}
		ratios := make(map[string]stats.Summary)
		for _, reference := range p.References() {
			if reference != e.Name {
				ratios[reference] = p.Compare(samples, f, e.Name, reference)
			}
		}
		rows = append(rows, Row{
			Server:   e.Name,
			About:    e.About,
			Figure:   f.Key,
			Value:    p.summarize(of(func(s Sample) float64 { return s.Value(f) })),
			Ratios:   ratios,
			Busy:     finite(stats.Median(of(func(s Sample) float64 { return s.ServerBusy() }))),
			LoadBusy: finite(stats.Median(of(func(s Sample) float64 { return s.LoadBusy() }))),
			Batch:    finite(stats.Median(of(func(s Sample) float64 { return float64(s.Messages) / float64(s.Reads) }))),
			Others:   finite(stats.Median(of(func(s Sample) float64 { return s.Others() }))),
		})
	}
	return rows
}

// summarize leaves out rounds without a value: what divides nothing by nothing.
func (p Plan) summarize(xs []float64) stats.Summary {
	return stats.Summarize(slices.DeleteFunc(xs, func(x float64) bool { return math.IsNaN(x) || math.IsInf(x, 0) }), p.Seed)
}

// finite is x, or 0, since JSON knows no other number.
func finite(x float64) float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	return x
}

// Compare sums up the ratios of one server to another within rounds.
func (p Plan) Compare(samples []Sample, f Figure, server, to string) stats.Summary {
	var ratios []float64
	for _, s := range samples {
		i := slices.IndexFunc(samples, func(other Sample) bool { return other.Round == s.Round && other.Server == to })
		if s.Server == server && i >= 0 {
			ratios = append(ratios, s.Ratio(samples[i], f))
		}
	}
	return p.summarize(ratios)
}

// References are the entries that others are compared with.
func (p Plan) References() (names []string) {
	against := p.Against
	if against == nil {
		against = peers.References
	}
	for _, name := range against {
		if slices.ContainsFunc(p.Entries, func(e Entry) bool { return e.Name == name }) {
			names = append(names, name)
		}
	}
	return names
}

// Table is the rows of a figure in Markdown. What tells how far to trust them is
// with the plan's first figure only: it is the same for all.
func (p Plan) Table(f Figure, rows []Row) string {
	var b strings.Builder
	references := p.References()
	first := len(p.Figures) == 0 || p.Figures[0].Key == f.Key
	columns := 2 + len(references)
	fmt.Fprintf(&b, "| server | %s, %s |", f.Name, f.Unit)
	for _, name := range references {
		fmt.Fprintf(&b, " × %s |", name)
	}
	if first {
		columns += 4
		b.WriteString(" server busy | load busy | frames per read | others' CPUs |")
	}
	fmt.Fprintf(&b, "\n|%s\n", strings.Repeat(" --- |", columns))
	for _, row := range rows {
		fmt.Fprintf(&b, "| %s: %s | %s |", row.Server, row.About, Number(row.Value.Median))
		for _, name := range references {
			fmt.Fprintf(&b, " %s |", row.Ratios[name]) // a dash to itself
		}
		if first {
			fmt.Fprintf(&b, " %.0f %% | %.0f %% | %.2f | %.2f |", 100*row.Busy, 100*row.LoadBusy, row.Batch, row.Others)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Number prints a value with as many digits as it deserves.
func Number(x float64) string {
	switch {
	case math.IsNaN(x):
		return "–"
	case math.Abs(x) < 10:
		return fmt.Sprintf("%.2f", x)
	case math.Abs(x) < 100:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}
