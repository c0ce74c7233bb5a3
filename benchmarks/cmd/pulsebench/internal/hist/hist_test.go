package hist_test

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/hist"
)

// Parts that went through text and were merged say the same as one histogram
// of everything, and both say what the sorted values say, to three digits.
func TestMerge(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	whole, merged := hist.New(), hist.New()
	var all []float64
	for range 4 {
		part := hist.New()
		for range 25_000 {
			ns := int64(random.ExpFloat64() * 3e6)
			whole.Record(ns)
			part.Record(ns)
			all = append(all, float64(ns))
		}
		text, err := part.Text()
		if err != nil {
			t.Fatal(err)
		}
		back, err := hist.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if back.Count() != part.Count() {
			t.Fatalf("%d of %d values came back", back.Count(), part.Count())
		}
		merged.Merge(back)
	}
	slices.Sort(all)
	if merged.Count() != int64(len(all)) {
		t.Fatalf("%d of %d values", merged.Count(), len(all))
	}
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		if merged.Quantile(q) != whole.Quantile(q) {
			t.Errorf("quantile %g: merged %v, whole %v", q, merged.Quantile(q), whole.Quantile(q))
		}
		want := all[min(int(q*float64(len(all))), len(all)-1)]
		if got := float64(merged.Quantile(q)); math.Abs(got-want) > 0.002*want+200 {
			t.Errorf("quantile %g is %v, sorted values say %v", q, time.Duration(got), time.Duration(want))
		}
	}
	points := merged.Points()
	if len(points) < 20 || points[len(points)-1].Count != merged.Count() {
		t.Errorf("%d points, the last one %+v", len(points), points[len(points)-1])
	}
}

// What is too long is counted as the longest, and said.
func TestClipped(t *testing.T) {
	h := hist.New()
	h.Record(int64(time.Hour))
	h.Record(-5)
	if h.Count() != 2 || h.Clipped != 1 || h.Quantile(1) < 10*time.Minute || h.Quantile(0.5) > time.Microsecond {
		t.Errorf("%d values, %d clipped, from %v to %v", h.Count(), h.Clipped, h.Quantile(0.5), h.Quantile(1))
	}
}

// Result files are written by others: nothing in one makes us panic.
func TestParseRefuses(t *testing.T) {
	h := hist.New()
	h.Record(5000)
	good, err := h.Text()
	if err != nil {
		t.Fatal(err)
	}
	other, err := hdr.New(1, 1e15, 5).Encode(hdr.V2CompressedEncodingCookieBase) // 2 MB a piece
	if err != nil {
		t.Fatal(err)
	}
	var bomb bytes.Buffer
	bomb.Write(make([]byte, 8))
	z := zlib.NewWriter(&bomb)
	if _, err := z.Write(make([]byte, 64<<20)); err != nil {
		t.Fatal(err)
	}
	z.Close()
	binary.BigEndian.PutUint32(bomb.Bytes()[4:], uint32(bomb.Len()-8))
	for _, text := range []string{string(other), base64.StdEncoding.EncodeToString(bomb.Bytes()), "x", "AAAA", "AAAAAAAAAAA=", "!!!!", good[:len(good)/2], good[4:]} {
		if _, err := hist.Parse(text); err == nil {
			t.Errorf("%q was taken for a histogram", text)
		}
	}
	if h, err := hist.Parse(""); err != nil || h.Count() != 0 {
		t.Errorf("an empty histogram: %v", err)
	}
}
