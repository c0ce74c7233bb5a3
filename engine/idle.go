package engine

import (
	"fmt"
	"math"
	"time"
)

// IdleEvent tells Handler.Idle which limit of Liveness has passed.
type IdleEvent struct {
	// Limit is the one that passed first: IdleRead, IdleWrite or IdleAll.
	Limit IdleLimit
	// For is how long the connection has been idle in that sense.
	For time.Duration
	// Count is 1 for the first event since the connection was used, and counts
	// up each time the limit passes again.
	Count int
}

// IdleLimit names an idle limit of heartbeat.Config.
type IdleLimit uint8

const (
	IdleRead  IdleLimit = iota // nothing was read
	IdleWrite                  // nothing was written
	IdleAll                    // neither
	numIdleLimits
)

// String returns the limit's name in heartbeat.Config.
func (l IdleLimit) String() string {
	if l < numIdleLimits {
		return [...]string{"IdleRead", "IdleWrite", "IdleAll"}[l]
	}
	return fmt.Sprintf("IdleLimit(%d)", uint8(l))
}

// idleWatch stands in for the idle limits of a connection's plan once one has
// passed and the handler let it stay: it is then for a guard to look for the
// next event.
type idleWatch struct {
	limits [numIdleLimits]time.Duration
	at     int64 // of the latest event
	count  int
}

// idled serves the first idle verdict on a connection.
func (c *Conn) idled() {
	if c.profile.handler.Idle == nil {
		c.kill(Idle, nil)
		return
	}
	cfg := c.plan().Config()
	w := &idleWatch{
		limits: [numIdleLimits]time.Duration{cfg.IdleRead, cfg.IdleWrite, cfg.IdleAll},
		at:     math.MinInt64,
	}
	cfg.IdleRead, cfg.IdleWrite, cfg.IdleAll = 0, 0, 0
	plan, err := cfg.Plan(c.profile.traits)
	if err != nil {
		c.kill(Idle, fmt.Errorf("liveness without idle limits: %w", err))
		return
	}
	c.watchBy(plan)
	c.more().idle = w
	c.lookForIdle()
}

// lookForIdle asks the handler if a limit has passed, and comes back for the
// next one.
func (c *Conn) lookForIdle() {
	w := c.extra.idle
	if w == nil {
		return // SetLiveness has replaced the limits
	}
	now := c.loop.beat
	read, write := c.heart.LastRead(), c.heart.LastWrite()
	used := [numIdleLimits]int64{IdleRead: read, IdleWrite: write, IdleAll: max(read, write)}
	next := int64(math.MaxInt64)
	first, passed := IdleLimit(0), false
	for l, limit := range w.limits {
		if limit == 0 {
			continue
		}
		due := max(used[l], w.at) + int64(limit)
		if due <= now && (!passed || limit < w.limits[first]) {
			first, passed = IdleLimit(l), true
		}
		next = min(next, max(due, now+1))
	}
	if passed {
		if used[first] > w.at {
			w.count = 0
		}
		w.count++
		w.at = now
		event := IdleEvent{Limit: first, For: time.Duration(now - used[first]), Count: w.count}
		if !c.profile.handler.Idle(c, event) {
			c.kill(Idle, nil)
			return
		}
		c.lookForIdle()
		return
	}
	c.guard(guardIdle, time.Duration(next-now))
}
