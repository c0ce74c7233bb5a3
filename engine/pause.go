package engine

import (
	"time"

	"github.com/pulsewheel/pulsewheel/engine/internal/poll"
)

// Pause stops reading from the connection: no Message follows once the loop has
// taken note, which is at once if Pause is called in a callback of this
// connection. What the peer sends stays in the kernel's buffers until they are
// full and the peer must wait. Sending goes on.
//
// The peer's silence does not count against it meanwhile; IdleAll then counts from
// what was written last, as IdleWrite does. A reset is noticed;
// what had come before it is then delivered in spite of the pause, and the
// connection ends. An end of stream is noticed after Resume. A connection that
// is not resumed within Limits.MaxPause ends with reason Overloaded.
//
// It returns ErrClosed if the connection is closed. Pauses do not add up: one
// Resume ends them.
func (c *Conn) Pause() error { return c.hold(pausedByApp, true) }

// Resume ends what Pause began. What came meanwhile is delivered.
func (c *Conn) Resume() error { return c.hold(pausedByApp, false) }

func (c *Conn) hold(bit uint32, on bool) error {
	var old uint32
	if on {
		old = c.state.Or(bit)
	} else {
		old = c.state.And(^bit)
	}
	if old&opened == 0 {
		return ErrClosed
	}
	if (old&bit != 0) != on {
		c.schedule()
	}
	return nil
}

// holding reports whether input is to wait.
func (c *Conn) holding() bool {
	return c.state.Load()&(pausedByApp|pausedByWork) != 0 && c.ending == nil
}

// settleReading makes the poller report input if it is to be read, and not
// otherwise: what comes to a connection that is not read need not wake the loop.
func (c *Conn) settleReading(asked uint32) {
	pause := c.eof || asked&(pausedByApp|pausedByWork) != 0 && c.ending == nil
	switch {
	case c.phase != open:
		return
	case pause == c.paused:
		if !pause && c.leftOver() {
			c.remind() // a pause that was lifted before it came this far
		}
		return
	}
	if pause {
		c.pauseReading()
	} else {
		c.resumeReading()
	}
}

// leftOver reports whether a pause has left frames that were read already.
func (c *Conn) leftOver() bool { return c.in != nil && c.in.need <= len(c.in.b) }

func (c *Conn) pauseReading() {
	if c.paused {
		return
	}
	l := c.loop
	c.paused = true
	c.blocked = false
	if err := l.poller.Pause(int(c.fd)); err != nil {
		c.kill(Unknown, err)
		return
	}
	if c.phase == open {
		l.stats.pauses.Add(1)
		x := c.more()
		x.pausedAt = l.beat
		x.frameLeft, x.firstLeft = c.timeLeft(guardFrame), c.timeLeft(guardFirstFrame)
		c.unguard(guardFrame)
		c.unguard(guardFirstFrame)
		if d := l.core.limits.MaxPause; d > 0 {
			c.guard(guardUnread, d)
		}
	}
}

// timeLeft returns how long it is until a deadline, 0 if there is none. One that has
// passed, and was not served yet, is not none.
func (c *Conn) timeLeft(g guard) int64 {
	if !c.guarded(g) {
		return 0
	}
	return max(c.extra.guards.at[g]-c.loop.beat, 1)
}

func (c *Conn) resumeReading() {
	l := c.loop
	c.excusePause()
	c.paused = false
	c.unguard(guardUnread)
	if d := l.core.limits.FrameTimeout; d > 0 && c.in != nil {
		if left := c.extra.frameLeft; left > 0 {
			d = time.Duration(left)
		}
		c.guard(guardFrame, d)
	}
	if left := c.extra.firstLeft; left > 0 && !c.greeted {
		c.guard(guardFirstFrame, time.Duration(left))
	}
	if err := l.poller.Resume(int(c.fd), c.writing); err != nil {
		c.kill(Unknown, err)
		return
	}
	// Frames may wait in our own buffer, and what is in the kernel's need not be
	// reported again.
	c.remind()
}

// remind makes the loop read the connection once more, after the others.
func (c *Conn) remind() {
	if !c.hungry {
		c.hungry = true
		if !c.loop.mail.post(letter{c: c}) {
			c.hungry = false
		}
	}
}

// excusePause takes the time for which nothing was read out of what liveness
// sees.
func (c *Conn) excusePause() {
	if c.paused && c.extra != nil {
		c.heart.Excuse(c.loop.beat - c.extra.pausedAt)
		c.extra.pausedAt = c.loop.beat
	}
}

// lookForReset tells a reset of a paused or half-closed connection from an end of
// stream. After a reset, all that had come before is read.
func (c *Conn) lookForReset() {
	if err := c.loop.core.kernel.SocketError(int(c.fd)); err != nil {
		c.outputFailed(err)
	}
}

// look reads what has come, before a deadline that has passed is held against
// the peer.
func (c *Conn) look() {
	if !c.eof {
		c.handle(poll.Readable)
	}
}
