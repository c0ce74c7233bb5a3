package rounds

import (
	"math"
	"slices"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
)

// Sample is one server in one round.
type Sample struct {
	Round int `json:"round"`
	// Place is the server's turn in being started, from 0.
	Place   int               `json:"place"`
	Server  string            `json:"server"`
	Figures map[string]Values `json:"figures"` // by key
	Notes   []string          `json:"notes,omitempty"`
	// Result is that of all windows together.
	load.Result
}

// Values are those of a figure in a round.
type Values struct {
	// Value is that of all windows together: of a figure that follows from their
	// Result the one of its sum, of others their median.
	Value float64 `json:"value"`
	// Cycles has each window's, in order; none if there was but one.
	Cycles []float64 `json:"cycles,omitempty"`
}

func newSample(p Plan, place int, a *alive) Sample {
	s := Sample{Place: place, Server: a.Name, Figures: make(map[string]Values)}
	for _, seen := range a.seen {
		s.Result = s.Plus(seen.Result)
		for _, note := range seen.Notes {
			if !slices.Contains(s.Notes, note) {
				s.Notes = append(s.Notes, note)
			}
		}
	}
	for _, f := range p.Figures {
		var v Values
		for _, seen := range a.seen {
			if x, there := f.of(seen); there {
				v.Cycles = append(v.Cycles, rounded(x))
			}
		}
		if len(v.Cycles) == 0 {
			continue
		}
		v.Value = stats.Median(v.Cycles)
		if f.Of != nil {
			v.Value = rounded(f.Of(s.Result))
		}
		if len(v.Cycles) == 1 {
			v.Cycles = nil
		}
		s.Figures[f.Key] = v
	}
	return s
}

func (f Figure) of(s Seen) (value float64, there bool) {
	if f.Of != nil {
		return f.Of(s.Result), true
	}
	value, there = s.Figures[f.Key]
	return value, there
}

// rounded keeps five digits, far beyond what a window can tell, so that files
// stay small.
func rounded(x float64) float64 {
	if x == 0 || math.IsNaN(x) || math.IsInf(x, 0) {
		return x
	}
	unit := math.Pow10(int(math.Floor(math.Log10(math.Abs(x)))) - 4)
	if unit >= 1 {
		return math.Round(x/unit) * unit
	}
	return math.Round(x/unit) / math.Round(1/unit)
}

// Value is that of a figure; NaN if the sample does not have it.
func (s Sample) Value(f Figure) float64 {
	if v, there := s.Figures[f.Key]; there {
		return v.Value
	}
	return math.NaN()
}

// Ratio compares two servers of one round: the median over the cycles, or, of
// single windows, their ratio. It is NaN if one of them does not have the figure.
// A cycle in which one of them has nothing, as a server that a busy machine did
// not let run for a whole window, is left out.
func (s Sample) Ratio(to Sample, f Figure) float64 {
	mine, others := s.Figures[f.Key], to.Figures[f.Key]
	if len(mine.Cycles) == 0 || len(mine.Cycles) != len(others.Cycles) {
		return s.Value(f) / to.Value(f)
	}
	var ratios []float64
	for i, x := range mine.Cycles {
		if y := others.Cycles[i]; x > 0 && y > 0 {
			ratios = append(ratios, x/y)
		}
	}
	return stats.Median(ratios)
}
