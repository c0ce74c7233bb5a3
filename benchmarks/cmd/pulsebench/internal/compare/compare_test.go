package compare_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/compare"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/result"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
)

// file has a run for each pair of a rate and a p99.
func file(label string, rates []float64) result.File {
	f := result.File{Schema: result.Schema, Label: label, Plan: spec.Spec{Workload: spec.Closed, Conns: 10}}
	for _, rate := range rates {
		f.Runs = append(f.Runs, result.Run{
			Unit: result.Echoes, MessagesPerSecond: rate,
			Latency: &result.Latency{P50: 1e9 / rate, P99: 3e9 / rate, P999: 5e9 / rate},
		})
	}
	return f
}

// noisy is n values around a mean with that relative spread.
func noisy(random *rand.Rand, n int, mean, spread float64) []float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = mean * (1 + spread*random.NormFloat64())
	}
	return values
}

func one(t *testing.T, a, b result.File, o compare.Options) compare.Comparison {
	t.Helper()
	list, err := compare.Files([]result.File{a, b}, o)
	if err != nil {
		t.Fatal(err)
	}
	return list[0]
}

// A real difference is stated, with its direction, size and worth.
func TestDiffers(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	a, b := file("old", noisy(random, 9, 100_000, 0.02)), file("new", noisy(random, 9, 120_000, 0.02))
	c := one(t, a, b, compare.Options{Least: 0.01})
	rate, p50 := c.Differences[0], c.Differences[1]
	if rate.Verdict != compare.More || !rate.Better() || rate.Ratio.Median < 1.17 || rate.Ratio.Median > 1.23 {
		t.Errorf("rate: %+v", rate)
	}
	if p50.Verdict != compare.Less || !p50.Better() || c.Worse() {
		t.Errorf("p50: %+v", p50)
	}
	var text strings.Builder
	if err := compare.Write(&text, []compare.Comparison{c}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"new's is", "% higher than old's", "better, beyond noise", "| echoes per second |"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in:\n%s", want, &text)
		}
	}
	if c := one(t, b, a, compare.Options{}); !c.Worse() {
		t.Error("the other way round nothing is worse")
	}
}

// Noise is not called a difference: of results of the same distribution, hardly
// one in twenty is, with five runs and with fifteen, paired and not.
func TestDoesNotDiffer(t *testing.T) {
	for _, test := range []struct {
		n int
		o compare.Options
	}{{5, compare.Options{}}, {15, compare.Options{}}, {12, compare.Options{Paired: true}}} {
		n, o, random := test.n, test.o, rand.New(rand.NewPCG(2, 2))
		const tries = 25
		called := 0
		for range tries {
			a, b := file("a", noisy(random, n, 1000, 0.1)), file("b", noisy(random, n, 1000, 0.1))
			for i := range n {
				a.Runs[i].Latency, b.Runs[i].Latency = nil, nil // one metric is enough
			}
			c := one(t, a, b, o)
			if c.Differences[0].Verdict != compare.Same {
				called++
			}
		}
		// One or two are to be expected; five would happen once in a hundred times.
		if called > 5 {
			t.Errorf("%+v, %d runs: %d of %d results that do not differ are said to", o, n, called, tries)
		}
	}
}

// Neither an interval that leaves out 1 nor a permutation test below 5 % makes a
// difference alone.
func TestBothMustAgree(t *testing.T) {
	for name, runs := range map[string][2][]float64{
		"the interval alone": {{1117, 949, 1029, 929, 901, 925}, {1170, 1112, 1013, 1253, 1098, 994}},
		"the test alone":     {{785, 1135, 969, 1048, 1032, 783}, {1455, 1042, 1176, 1136, 1271, 980}},
	} {
		d := one(t, file("a", runs[0]), file("b", runs[1]), compare.Options{}).Differences[0]
		if excludes, rare := d.Ratio.Low > 1, d.P < 0.05; excludes == rare {
			t.Errorf("%s: the example does not show it: %+v", name, d)
		}
		if d.Verdict != compare.Same {
			t.Errorf("%s was enough: %+v", name, d)
		}
	}
}

// Pairs find a difference that a drifting machine hides from medians.
func TestPaired(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	var a, b []float64
	for range 12 {
		drift := 1 + random.Float64()
		a = append(a, 1000*drift*(1+0.005*random.NormFloat64()))
		b = append(b, 1050*drift*(1+0.005*random.NormFloat64()))
	}
	if d := one(t, file("a", a), file("b", b), compare.Options{Paired: true}).Differences[0]; d.Verdict != compare.More {
		t.Errorf("paired: %+v", d)
	}
	if d := one(t, file("a", a), file("b", b), compare.Options{}).Differences[0]; d.Verdict != compare.Same {
		t.Errorf("not paired: %+v", d)
	}
}

// Too few runs say nothing, however far apart they are.
func TestTooFew(t *testing.T) {
	c := one(t, file("a", []float64{1, 1, 1, 1}), file("b", []float64{9, 9, 9, 9, 9}), compare.Options{})
	if d := c.Differences[0]; d.Verdict != compare.TooFew || !strings.Contains(d.Statement("a", "b"), "too few runs") {
		t.Errorf("%+v: %s", d, d.Statement("a", "b"))
	}
	c = one(t, file("a", []float64{1, 1, 1, 1, 1}), file("b", []float64{9, 9, 9, 9, 9}), compare.Options{Paired: true})
	if d := c.Differences[0]; d.Verdict != compare.TooFew {
		t.Errorf("five pairs: %+v", d)
	}
}

// A difference that is sure and small is not worth a statement.
func TestLeast(t *testing.T) {
	a, b := file("a", []float64{1000, 1000.1, 999.9, 1000, 1000.2, 1000}), file("b", []float64{1004, 1004.1, 1003.9, 1004, 1004.2, 1004})
	if d := one(t, a, b, compare.Options{Least: 0.01}).Differences[0]; d.Verdict != compare.Same {
		t.Errorf("0.4 %% with a threshold of 1 %%: %+v", d)
	}
	if d := one(t, a, b, compare.Options{}).Differences[0]; d.Verdict != compare.More {
		t.Errorf("0.4 %% without: %+v", d)
	}
}

// Counts that may be zero are compared without dividing by them.
func TestZero(t *testing.T) {
	make := func(label string, verdicts ...int) result.File {
		f := result.File{Label: label, Plan: spec.Spec{Workload: spec.DeadPeer}}
		for _, n := range verdicts {
			f.Runs = append(f.Runs, result.Run{DeadPeer: &result.DeadPeer{FalseVerdicts: n}})
		}
		return f
	}
	c := one(t, make("a", 0, 0, 0, 0, 0, 0), make("b", 3, 4, 3, 5, 4, 4), compare.Options{})
	d := c.Differences[len(c.Differences)-1]
	if d.Verdict != compare.More || !d.Worse() || !strings.Contains(d.Statement("a", "b"), "4 against 0") {
		t.Errorf("%+v: %s", d, d.Statement("a", "b"))
	}
	c = one(t, make("a", 0, 0, 0, 0, 0), make("b", 0, 0, 0, 0, 0), compare.Options{})
	if d := c.Differences[len(c.Differences)-1]; d.Verdict != compare.Same {
		t.Errorf("none and none: %+v", d)
	}
}

// What is not equal is said, and what cannot be compared is refused.
func TestCaveats(t *testing.T) {
	a, b := file("a", []float64{1}), file("b", []float64{2})
	b.Plan.Conns = 20
	b.Machine.CPUs = 8
	b.Runs[0].Problems = []string{"something"}
	c := one(t, a, b, compare.Options{})
	text := strings.Join(c.Caveats, "\n")
	for _, want := range []string{"conns is 10 and 20", "cpus is 0 and 8", "b: 1 of 1 runs have problems"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %q", want, c.Caveats)
		}
	}
	b.Plan.Workload = spec.Idle
	if _, err := compare.Files([]result.File{a, b}, compare.Options{}); err == nil {
		t.Error("two workloads were compared")
	}
	if _, err := compare.Files([]result.File{a}, compare.Options{}); err == nil {
		t.Error("one result was compared")
	}
}
