//go:build race || !(amd64 || arm64)

package engine

import "sync/atomic"

// counter is a number that one goroutine adds to and any reads.
type counter struct{ n atomic.Uint64 }

func (c *counter) Add(n uint64) { c.n.Add(n) }
func (c *counter) Load() uint64 { return c.n.Load() }
