//go:build !race && (amd64 || arm64)

package engine

import "sync/atomic"

// counter is a number that one goroutine adds to and any reads. An atomic
// addition locks the bus or its cache line, in case somebody else adds at the
// same time; nobody does. On these processors a plain store of an aligned word
// is whole, so a reader sees the number as it was a moment ago, never half of it,
// which is all that a statistic promises. counter_atomic.go is for all others, and
// for the race detector.
type counter struct{ n uint64 }

func (c *counter) Add(n uint64) { c.n += n }
func (c *counter) Load() uint64 { return atomic.LoadUint64(&c.n) }
