package stats_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		xs   []float64
		want float64
	}{
		{[]float64{7}, 7},
		{[]float64{3, 1}, 2},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		given := slices.Clone(c.xs)
		if got := stats.Median(c.xs); got != c.want {
			t.Errorf("Median(%v) = %v, want %v", c.xs, got, c.want)
		}
		if !slices.Equal(given, c.xs) {
			t.Errorf("Median reordered its argument: %v, was %v", c.xs, given)
		}
	}
	if got := stats.Median(nil); !math.IsNaN(got) {
		t.Errorf("Median of nothing = %v, want NaN", got)
	}
}

func TestSummarizeSmall(t *testing.T) {
	if got := stats.Summarize(nil, 1); got != (stats.Summary{}) {
		t.Errorf("of nothing: %+v", got)
	}
	if got := stats.Summarize([]float64{2.5}, 1); got != (stats.Summary{Median: 2.5, Low: 2.5, High: 2.5, N: 1}) {
		t.Errorf("of one value: %+v", got)
	}
}

func TestSummarizeIsReproducible(t *testing.T) {
	xs := []float64{1.10, 1.07, 1.12, 1.09, 1.31, 1.08, 1.11}
	a, b := stats.Summarize(xs, 42), stats.Summarize(xs, 42)
	if a != b {
		t.Errorf("same seed, different intervals: %v and %v", a, b)
	}
	if a.Low > a.Median || a.Median > a.High {
		t.Errorf("interval %v does not hold its median", a)
	}
	if a.High > 1.31 || a.Low < 1.07 {
		t.Errorf("interval %v reaches outside the sample", a)
	}
}

// TestSummarizeCovers draws samples of the size the drivers use from a known,
// skewed distribution: the interval has to hold the true median about as often
// as it claims. Over thousands of trials it is 93 % for the median of 15; few
// trials leave room below that.
func TestSummarizeCovers(t *testing.T) {
	const trials, n = 40, 15
	random := rand.New(rand.NewPCG(1, 2))
	held := 0
	for trial := range trials {
		xs := make([]float64, n)
		for i := range xs {
			xs[i] = random.ExpFloat64()
		}
		if s := stats.Summarize(xs, uint64(trial)); s.Low <= math.Ln2 && math.Ln2 <= s.High {
			held++
		}
	}
	if held < trials*85/100 {
		t.Errorf("%d of %d intervals hold the true median, want at least 85 %%", held, trials)
	}
}

func TestRatios(t *testing.T) {
	got := stats.Ratios([]float64{2, 9}, []float64{1, 3})
	if !slices.Equal(got, []float64{2, 3}) {
		t.Errorf("Ratios = %v", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("values without a partner were accepted")
		}
	}()
	stats.Ratios([]float64{1}, nil)
}
