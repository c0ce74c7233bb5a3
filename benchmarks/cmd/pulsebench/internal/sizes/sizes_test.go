package sizes_test

import (
	"math"
	"strings"
	"testing"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/sizes"
)

// What is drawn has the promised bounds and mean, and depends on the key alone.
func TestAt(t *testing.T) {
	for _, test := range []struct {
		text     string
		min, max int
		mean     float64
	}{
		{"64", 64, 64, 64},
		{"fixed:1", 1, 1, 1},
		{"uniform:16-1024", 16, 1024, 520},
		{"exp:256", 1, 4096, 256},
		{"list:10,10,10,50", 10, 50, 20},
	} {
		d, err := sizes.Parse(test.text)
		if err != nil {
			t.Fatal(err)
		}
		if d.Min() != test.min || d.Max() != test.max || d.String() != test.text {
			t.Errorf("%s: from %d to %d, shown as %s", test.text, d.Min(), d.Max(), d)
		}
		const n = 200_000
		sum := 0
		for key := range uint64(n) {
			size := d.At(key)
			if size < test.min || size > test.max {
				t.Fatalf("%s: size %d of message %d", test.text, size, key)
			}
			if size != d.At(key) {
				t.Fatalf("%s: message %d has two sizes", test.text, key)
			}
			sum += size
		}
		if mean := float64(sum) / n; math.Abs(mean/test.mean-1) > 0.02 {
			t.Errorf("%s: mean %.1f, want %.1f", test.text, mean, test.mean)
		}
	}
}

// What cannot be understood is refused with a message that quotes it.
func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"", "0", "-1", "64k", "fixed:", "uniform:5", "uniform:9-3", "exp:0", "list:", "list:1,x", "zipf:3", "16777216"} {
		if d, err := sizes.Parse(text); err == nil {
			t.Errorf("%q was parsed as %v", text, d)
		} else if !strings.Contains(err.Error(), `"`+text+`"`) {
			t.Errorf("%q: the error does not quote it: %v", text, err)
		}
	}
}
