// Package stats says how sure a measured figure is.
//
// Machines drift: a figure taken now and one taken a minute later differ for
// reasons that have nothing to do with the programs. So runs are taken in
// pairs, a [Summary] is made of the ratios within the pairs, and its interval
// is found by resampling them, which assumes nothing about their distribution.
package stats

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Resamples is how many times [Summarize] draws a new sample.
const Resamples = 10_000

// Summary is a median and the interval that holds it with 95 % confidence.
type Summary struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	N      int     `json:"n"`
}

// String prints the median with its interval.
func (s Summary) String() string {
	if s.N == 0 {
		return "–"
	}
	return fmt.Sprintf("%.3f [%.3f, %.3f]", s.Median, s.Low, s.High)
}

// Median returns the middle of xs, or the mean of the middle two; NaN of
// nothing. It leaves xs as it is.
func Median(xs []float64) float64 {
	return middle(slices.Sorted(slices.Values(xs)))
}

func middle(sorted []float64) float64 {
	n := len(sorted)
	if n == 0 {
		return math.NaN()
	}
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// Summarize returns the median of xs and its 95 % percentile-bootstrap
// interval. The same xs and seed give the same result. The interval of one
// value is that value, which says nothing; N says so.
func Summarize(xs []float64, seed uint64) Summary {
	if len(xs) == 0 {
		return Summary{}
	}
	random := rand.New(rand.NewPCG(seed, uint64(len(xs))))
	medians := make([]float64, Resamples)
	sample := make([]float64, len(xs))
	for i := range medians {
		for j := range sample {
			sample[j] = xs[random.IntN(len(xs))]
		}
		slices.Sort(sample)
		medians[i] = middle(sample)
	}
	slices.Sort(medians)
	return Summary{
		Median: Median(xs),
		Low:    medians[Resamples*25/1000],
		High:   medians[Resamples-1-Resamples*25/1000],
		N:      len(xs),
	}
}

// Ratios divides xs by ys pair by pair. Both have the same length.
func Ratios(xs, ys []float64) []float64 {
	if len(xs) != len(ys) {
		panic(fmt.Sprintf("stats: %d values paired with %d", len(xs), len(ys)))
	}
	rs := make([]float64, len(xs))
	for i := range xs {
		rs[i] = xs[i] / ys[i]
	}
	return rs
}
