// Package antspool lets an engine's tasks (Conn.Do, engine.Ordered) run on
// goroutines of an ants pool, which are kept for more instead of being made
// anew. It is a package of its own because whoever imports ants runs two
// goroutines of its package-level pool, which wake up three times a second for
// ever.
package antspool

import (
	"fmt"
	"time"

	"github.com/panjf2000/ants/v2"
)

// Pool is an engine.Pool. It belongs to whoever made it, and several engines may
// share it.
type Pool struct{ ants *ants.Pool }

// idle is how long a goroutine without work is kept.
const idle = 10 * time.Second

// New makes a pool, private to the caller. It has no limit of its own: it is the
// engine that counts (Limits.Work.Workers).
func New() (*Pool, error) {
	pool, err := ants.NewPool(-1, ants.WithNonblocking(true), ants.WithExpiryDuration(idle))
	if err != nil {
		return nil, fmt.Errorf("antspool: %w", err)
	}
	return &Pool{pool}, nil
}

// Go runs f soon on a goroutine of the pool. It never blocks, and fails after
// Close.
func (p *Pool) Go(f func()) error { return p.ants.Submit(f) }

// Close ends the goroutines, after the engines that use them were shut down. Of
// those that still run something, it waits for a second at most.
func (p *Pool) Close() error {
	if err := p.ants.ReleaseTimeout(time.Second); err != nil {
		return fmt.Errorf("antspool: %w", err)
	}
	return nil
}
