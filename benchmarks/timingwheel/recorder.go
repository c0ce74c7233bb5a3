package main

import (
	"math"
	"sync/atomic"
	"time"
)

// recorder counts timers that fired and, if it has buckets, how late they were. It may be used by several goroutines.
type recorder struct {
	start    time.Time
	left     atomic.Int64
	done     chan struct{} // closed when left gets to zero
	buckets  []atomic.Uint32
	early    atomic.Int64
	earliest atomic.Int64 // ns, negative
}

const (
	bucketWidth = 20 * time.Microsecond
	lastBucket  = 10 * time.Second // and later
)

// newRecorder waits for n timers.
func newRecorder(n int, record bool) *recorder {
	r := &recorder{start: time.Now(), done: make(chan struct{})}
	r.left.Store(int64(n))
	if record {
		r.buckets = make([]atomic.Uint32, lastBucket/bucketWidth+1)
	}
	return r
}

func (r *recorder) now() time.Duration { return time.Since(r.start) }

// count counts a timer that fired.
func (r *recorder) count() {
	if r.left.Add(-1) == 0 {
		close(r.done)
	}
}

// note counts a timer that fired and was due at due.
func (r *recorder) note(due time.Duration) {
	late := r.now() - due
	if late < 0 {
		r.early.Add(1)
		for {
			worst := r.earliest.Load()
			if int64(late) >= worst || r.earliest.CompareAndSwap(worst, int64(late)) {
				break
			}
		}
		late = 0
	}
	r.buckets[min(int(late/bucketWidth), len(r.buckets)-1)].Add(1)
	r.count()
}

// late returns the lateness that a share q of all timers did not exceed, to the upper end of its bucket.
func (r *recorder) late(q float64) time.Duration {
	total := uint64(0)
	for i := range r.buckets {
		total += uint64(r.buckets[i].Load())
	}
	rank := uint64(math.Ceil(q * float64(total)))
	sum := uint64(0)
	for i := range r.buckets {
		if sum += uint64(r.buckets[i].Load()); sum >= rank {
			return time.Duration(i+1) * bucketWidth
		}
	}
	return lastBucket
}
