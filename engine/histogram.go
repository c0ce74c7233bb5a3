package engine

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Histogram counts durations by their order of magnitude.
type Histogram struct {
	// Counts[i] is how many were at least 2^(i-1) microseconds and below 2^i;
	// Counts[0] those below one, the last one all that are longer.
	Counts [histogramBuckets]uint64
}

const histogramBuckets = 40 // the last begins at six days

// Count returns how many durations were counted.
func (h *Histogram) Count() (n uint64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Quantile returns a duration that the fraction q (0 to 1) of those counted do
// not exceed: the upper end of a bucket, so up to twice too long. 0 if none was
// counted.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.Count()))
	seen := uint64(0)
	for i, c := range h.Counts {
		if seen += c; c > 0 && seen >= max(rank, 1) {
			return time.Microsecond << i
		}
	}
	return 0
}

func (h *Histogram) add(other *Histogram) {
	for i, c := range other.Counts {
		h.Counts[i] += c
	}
}

// histogram is a Histogram that one loop writes and anyone reads.
type histogram [histogramBuckets]atomic.Uint64

func (h *histogram) note(d time.Duration) {
	i := bits.Len64(uint64(max(d, 0) / time.Microsecond))
	h[min(i, histogramBuckets-1)].Add(1)
}

func (h *histogram) snapshot() (out Histogram) {
	for i := range h {
		out.Counts[i] = h[i].Load()
	}
	return out
}
