// Package hist counts durations in HDR histograms: any percentile afterwards,
// from 100 ns to 10 minutes, to three significant digits, and several
// histograms add up to one as if it had seen everything.
package hist

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

const (
	lowest  = 100 // nanoseconds
	highest = int64(10 * time.Minute)
	digits  = 3
)

// Histogram counts durations. It belongs to one goroutine at a time.
type Histogram struct {
	h *hdr.Histogram
	// Clipped is how many were longer than 10 minutes, and counted as such.
	Clipped int64
}

// New returns an empty histogram. It takes about 200 KB.
func New() *Histogram { return &Histogram{h: hdr.New(lowest, highest, digits)} }

// Record counts one duration in nanoseconds. A negative one counts as zero.
func (h *Histogram) Record(ns int64) { h.RecordMany(ns, 1) }

// RecordMany counts n equal durations.
func (h *Histogram) RecordMany(ns, n int64) {
	if ns > highest {
		ns = highest
		h.Clipped += n
	}
	_ = h.h.RecordValues(max(ns, 0), n) // within bounds it has no error
}

// Merge adds what other has counted.
func (h *Histogram) Merge(other *Histogram) {
	h.h.Merge(other.h) // same bounds: nothing is dropped
	h.Clipped += other.Clipped
}

// Reset forgets everything.
func (h *Histogram) Reset() {
	h.h.Reset()
	h.Clipped = 0
}

// Count is how many durations were counted.
func (h *Histogram) Count() int64 { return h.h.TotalCount() }

// Quantile is the duration that a share q (0 to 1) of those counted does not
// exceed; 0 of none.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.Count() == 0 {
		return 0
	}
	return time.Duration(h.h.ValueAtPercentile(100 * q))
}

// Mean is the mean of all; 0 of none.
func (h *Histogram) Mean() time.Duration { return time.Duration(h.h.Mean()) }

// Point is one step of a distribution: a share Quantile (0 to 1) of all is not
// longer than Value.
type Point struct {
	Quantile float64
	Value    time.Duration
	Count    int64 // up to here
}

// Points returns the distribution, denser towards its upper end: ten points for
// each halving of what is left.
func (h *Histogram) Points() []Point {
	if h.Count() == 0 {
		return nil
	}
	var points []Point
	for _, b := range h.h.CumulativeDistributionWithTicks(10) {
		points = append(points, Point{b.Quantile / 100, time.Duration(b.ValueAt), b.Count})
	}
	return points
}

// Text is the histogram in the V2 compressed format of all HDR histogram
// libraries, in base 64; empty of an empty histogram.
func (h *Histogram) Text() (string, error) {
	if h.Count() == 0 {
		return "", nil
	}
	b, err := h.h.Encode(hdr.V2CompressedEncodingCookieBase)
	if err != nil {
		return "", fmt.Errorf("encode histogram: %w", err)
	}
	return string(b), nil
}

var errText = errors.New("no HDR histogram of ours")

// maxText bounds what Parse looks at: all counts of a full histogram take less.
const maxText = 1 << 20

// Parse reads what Text returned.
func Parse(text string) (h *Histogram, err error) {
	h = New()
	if text == "" {
		return h, nil
	}
	if !plausible(text) {
		return nil, errText
	}
	defer func() {
		if recover() != nil {
			h, err = nil, errText
		}
	}()
	decoded, err := hdr.Decode([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errText, err)
	}
	h.h = decoded
	return h, nil
}

// plausible reports whether a text has the size and bounds of our histograms:
// result files are written by others, and the library slices and allocates
// before it looks.
func plausible(text string) bool {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(text) > maxText || len(raw) < 8 || binary.BigEndian.Uint32(raw[4:]) != uint32(len(raw)-8) {
		return false
	}
	z, err := zlib.NewReader(bytes.NewReader(raw[8:]))
	if err != nil {
		return false
	}
	content, err := io.ReadAll(io.LimitReader(z, maxText+1))
	// Cookie, length of the counts, offset, digits, lowest, highest, ratio.
	const header = 4 + 4 + 4 + 4 + 8 + 8 + 8
	return err == nil && len(content) <= maxText && len(content) >= header &&
		binary.BigEndian.Uint32(content[12:]) == digits &&
		binary.BigEndian.Uint64(content[16:]) == lowest && binary.BigEndian.Uint64(content[24:]) == uint64(highest)
}
