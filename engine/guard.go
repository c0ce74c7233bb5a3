package engine

import (
	"fmt"
	"math"
	"os"
	"time"

	"github.com/pulsewheel/pulsewheel/timingwheel"
)

// guard is a deadline, beside liveness, that a connection can be under.
type guard uint8

const (
	guardFirstFrame guard = iota // until a whole frame has come
	guardFrame                   // until the frame that was begun has got on
	guardUnread                  // until its input is read again
	guardDrain                   // until the backlog has got smaller
	guardIdle                    // until it may have been idle for long again
	numGuards
)

// guards are the deadlines of one connection, on the clock that stands still
// while the loop is stalled, and the one wheel entry for all of them: it fires
// at the earliest, or before. Deadlines that come and go between two firings,
// as those of split frames do, cost a store each.
type guards struct {
	at    [numGuards]int64 // 0: there is none
	entry timingwheel.Timer
	fires int64
}

// guardBit marks a wheel entry as that of a connection's guards.
const guardBit = 1 << 30

var (
	errFirstFrame = fmt.Errorf("no frame within FirstFrame: %w", os.ErrDeadlineExceeded)
	errFrame      = fmt.Errorf("a frame was not continued within FrameTimeout: %w", os.ErrDeadlineExceeded)
	errUnread     = fmt.Errorf("input was not read within MaxPause: %w", os.ErrDeadlineExceeded)
)

// guard sets a deadline.
func (c *Conn) guard(g guard, d time.Duration) {
	l := c.loop
	gs := &c.more().guards
	at := l.beat + min(int64(d), math.MaxInt64/2)
	gs.at[g] = at
	switch {
	case gs.entry == 0:
		gs.entry = l.arm(l.beatTick(at), guardBit|uint32(c.fd))
	case at < gs.fires:
		l.rearm(gs.entry, l.beatTick(at))
	default:
		return
	}
	gs.fires = at
}

// unguard lifts a deadline.
func (c *Conn) unguard(g guard) {
	if c.extra != nil {
		c.extra.guards.at[g] = 0
	}
}

func (c *Conn) guarded(g guard) bool { return c.extra != nil && c.extra.guards.at[g] != 0 }

// stopGuards takes a connection that is gone off the wheel.
func (c *Conn) stopGuards() {
	if c.extra != nil && c.extra.guards.entry != 0 {
		c.loop.wheel.Stop(c.extra.guards.entry)
		c.extra.guards.entry = 0
	}
}

// guardsFired receives a guards' entry from the wheel.
func (l *Loop) guardsFired(t timingwheel.Timer, fd int) (again uint64) {
	c := l.core.conns.at(fd)
	if c == nil || c.extra == nil || c.extra.guards.entry != t {
		return 0
	}
	gs := &c.extra.guards
	next := int64(math.MaxInt64)
	for _, at := range gs.at {
		switch {
		case at == 0:
		case at <= l.beat:
			gs.entry = 0
			l.due = append(l.due, dueItem{c: c, guards: true})
			return 0
		default:
			next = min(next, at)
		}
	}
	if next == math.MaxInt64 {
		gs.entry = 0
		if x := c.extra; x.groups == nil && x.dial == nil && x.plan == nil && !c.paused {
			c.extra = nil
		}
		return 0
	}
	gs.fires = next
	return l.beatTick(next)
}

// attendGuards serves the deadlines that have passed.
func (l *Loop) attendGuards(c *Conn) {
	if c.phase == gone {
		return
	}
	c.state.Or(scheduled)
	l.call(c, func() {
		for g := range numGuards {
			if at := c.extra.guards.at[g]; at != 0 && at <= l.beat && c.ending == nil {
				c.unguard(g)
				c.guardOverdue(g)
			}
		}
	})
	if c.ending == nil {
		// What is left may be due before what one of them has set anew.
		for g, at := range c.extra.guards.at {
			if at != 0 {
				c.guard(guard(g), time.Duration(at-l.beat))
			}
		}
	}
	l.finish(c)
}

func (c *Conn) guardOverdue(g guard) {
	switch g {
	case guardFirstFrame:
		if c.look(); !c.greeted && c.ending == nil && !c.paused {
			c.kill(HandshakeTimeout, errFirstFrame)
		}
	case guardFrame:
		if c.look(); c.in != nil && c.ending == nil && !c.guarded(guardFrame) && !c.holding() {
			c.kill(FrameTimeout, errFrame)
		}
	case guardUnread:
		if c.eof {
			c.beginDrain(PeerClosed, nil)
		} else if c.paused && c.holding() {
			c.kill(Overloaded, errUnread)
		}
	case guardDrain:
		c.drainOverdue()
	case guardIdle:
		if c.look(); c.ending == nil {
			c.lookForIdle()
		}
	}
}
