package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// ending is why a connection is to end. The first reason stays.
type ending struct {
	reason Reason
	err    error
	broken error // what writing failed with
	now    bool  // nothing more is waited for
}

var errLinger = fmt.Errorf("not delivered within Linger: %w", os.ErrDeadlineExceeded)

var errGoexit = errors.New("a callback called runtime.Goexit")

// kill marks the connection to end now. It takes effect when the connection is
// settled: no callback runs here, and no Message follows.
func (c *Conn) kill(reason Reason, err error) {
	if c.ending == nil {
		c.ending = &ending{reason: reason}
	}
	if c.ending.err == nil {
		c.ending.err = err
	}
	c.ending.now = true
}

// beginDrain marks the connection to end once what was sent is delivered.
func (c *Conn) beginDrain(reason Reason, err error) {
	if c.phase == connecting {
		c.kill(reason, err)
	}
	if c.phase != open || c.ending != nil {
		return
	}
	c.ending = &ending{reason: reason, err: err}
	c.mu.Lock()
	c.state.Or(closing)
	c.mu.Unlock()
	c.phase = flushing
	c.dropInbox()
	l := c.loop
	if c.timer != 0 {
		l.wheel.Stop(c.timer)
	}
	c.timer = l.arm(l.tickOf(l.after(l.linger)), uint32(c.fd))
	if c.paused && !c.eof {
		// The peer's own end of stream is behind what nobody has read.
		c.paused = false
		if err := l.poller.Resume(int(c.fd), c.writing); err != nil {
			c.kill(Unknown, err)
			return
		}
		c.remind()
	}
}

// phaseTimedOut ends what took longer than it may.
func (c *Conn) phaseTimedOut() {
	if c.phase == connecting {
		c.kill(KernelTimeout, errDialTimeout)
		return
	}
	c.hard = true
	c.kill(c.ending.reason, errLinger)
}

// goAway tells the peer that we are about to leave, where the codec can.
func (c *Conn) goAway() {
	if c.phase != open {
		return
	}
	c.loop.call(c, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.state.Load()&closing != 0 {
			return
		}
		p := c.pending.writable()
		payload := codec.GoAwayPayload{RetryAfter: c.loop.core.limits.RetryAfter}.Append(nil)
		if b, err := c.codec.Append(p.b, codec.GoAway, payload); err == nil {
			c.queued += int32(len(b) - len(p.b))
			p.addControl(b)
		}
	})
}

// rests ends the turn of an open connection that has nothing to be settled, and
// reports whether that is so. It looks for what was sent after whoever sends has
// been told, by scheduled, that nobody will.
func (c *Conn) rests() bool {
	if c.phase != open || c.ending != nil || c.backlog != nil || c.eof || c.paused || c.leftOver() {
		return false
	}
	if c.state.And(^uint32(scheduled))&(closing|aborted|pausedByApp|pausedByWork) == 0 {
		c.mu.Lock()
		sent := c.pending.last != nil
		c.mu.Unlock()
		if !sent {
			return true
		}
	}
	c.state.Or(scheduled)
	return false
}

// settle writes what was sent, and carries the connection's end one step
// further. It returns true if the peer's input is to be read to its end first.
func (l *Loop) settle(c *Conn) (readOn bool) {
	asked := c.state.And(^uint32(scheduled))
	if c.phase == gone {
		return false
	}
	if asked&aborted != 0 && c.phase != connecting {
		c.hard = true
		c.kill(Local, nil)
	}
	switch {
	case c.phase != open:
	case asked&closing != 0 && c.eof:
		c.beginDrain(PeerClosed, nil) // it was the peer who ended first
	case asked&closing != 0:
		c.beginDrain(Local, nil)
	case c.eof && c.ending == nil && !c.answering():
		c.beginDrain(PeerClosed, nil)
	}
	c.settleReading(asked)
	if c.phase != connecting && (c.ending == nil || !c.ending.now && c.ending.broken == nil) {
		if err := c.flush(); err != nil {
			c.outputFailed(err)
		} else {
			c.drained()
		}
	}
	if c.ending == nil {
		return false
	}
	if c.ending.now {
		if !c.hard && c.ending.broken == nil && c.phase == open {
			_ = c.flush() // a refusal that Open sent, say; what fails is counted
		}
		l.destroy(c)
		return false
	}
	return c.ending.broken != nil
}

// outputFailed notes an error of write. The kernel has reported it, and will
// not do so again: reading goes on until the end of what the peer had sent.
func (c *Conn) outputFailed(err error) {
	if c.phase != open || c.eof {
		c.kill(reasonOfError(err), err)
		return
	}
	if c.ending == nil {
		c.ending = &ending{reason: reasonOfError(err)}
	}
	c.ending.broken = err
}

// drained goes on with an end that has waited for output.
func (c *Conn) drained() {
	if c.phase != flushing || c.backlog != nil || c.ending.now {
		return
	}
	if c.eof {
		c.kill(c.ending.reason, nil)
		return
	}
	c.phase = lingering
	if err := c.loop.core.kernel.CloseWrite(int(c.fd)); err != nil {
		if !errors.Is(err, sys.ENOTCONN) {
			c.ending.err = err
		}
		c.kill(c.ending.reason, nil)
	}
}

// destroy frees the descriptor and reports the end.
func (l *Loop) destroy(c *Conn) {
	was := c.phase
	c.phase = gone
	c.mu.Lock()
	old := c.state.Or(closing)
	c.state.And(^uint32(opened))
	c.endWork()
	pending := c.pending
	c.pending = outbufRing{}
	c.queued = 0
	l.core.held.Add(-int64(c.held))
	c.held = 0
	c.mu.Unlock()

	e := c.ending
	cause := &CloseError{Reason: e.reason, Err: e.err, Evidence: c.evidence(was, pending)}
	pending.each((*outbuf).release)
	if c.backlog != nil {
		c.backlog.release()
		c.backlog = nil
	}
	c.dropInbox()
	if c.timer != 0 {
		l.wheel.Stop(c.timer)
		c.timer = 0
	}
	c.stopGuards()
	c.leaveGroups()
	l.core.identities.leave(c)
	fd := int(c.fd)
	l.core.conns.put(fd, nil)
	if c.hard {
		_ = l.core.kernel.Reset(fd)
	} else {
		_ = l.core.kernel.Close(fd)
	}
	if old&opened != 0 {
		l.stats.closed[cause.Reason].Add(1)
		l.core.ended.enter(c.id, l.now, cause)
		switch cause.Reason {
		case HeartbeatLost, Idle:
			l.stats.detection.note(cause.Evidence.LastRead)
		case Deaf:
			l.stats.detection.note(time.Duration(l.beat - c.heart.LastAnswer()))
		}
	}
	defer l.leave(c.remote) // whatever Close does
	if d := c.takeDial(); d != nil {
		d.done(nil, fmt.Errorf("dial %v: %w", d.addr, cause))
	}
	if old&opened != 0 {
		if l.core.log.Enabled(context.Background(), slog.LevelDebug) {
			l.core.report(slog.LevelDebug, "connection closed", "conn", uint64(c.id), "remote", c.remote.String(), "err", cause)
		}
		if h := c.profile.handler.Close; h != nil {
			l.call(c, func() { h(c, cause) })
		}
	}
}

// evidence collects what is known of a connection before its descriptor goes.
func (c *Conn) evidence(was phase, pending outbufRing) Evidence {
	l := c.loop
	ev := Evidence{Unacked: -1}
	if was == connecting {
		return ev
	}
	ev.Age = time.Duration(l.now - c.since)
	ev.LastRead = time.Duration(l.beat - c.heart.LastRead())
	ev.LastWrite = time.Duration(l.beat - c.heart.LastWrite())
	ev.Missed = c.heart.Missed()
	ev.RTT = c.heart.RTT()
	ev.Unsent = pending.messages()
	if c.backlog != nil {
		ev.Unsent += c.backlog.messages()
	}
	if c.ending.reason == PeerReset {
		return ev // the kernel has let go of all it had
	}
	info := l.core.kernel.Info(int(c.fd))
	ev.Unacked = info.Unacked
	if was == lingering && ev.Unacked > 0 {
		ev.Unacked-- // our end of stream counts as one
	}
	ev.Kernel = KernelView{
		RTT: info.RTT, Retransmits: info.Retransmits, Unheeded: c.unheeded(&info),
		LastAck: info.LastAck, InFlight: info.InFlight, NotSent: info.NotSent,
	}
	return ev
}

// unheeded returns for how long at least the oldest segment has been under way
// that the peer's kernel does not acknowledge; 0 if that is unknown, or the
// segment was never sent again.
func (c *Conn) unheeded(info *sys.Info) (d time.Duration) {
	if info.Retransmits == 0 {
		return 0
	}
	// The kernel waited for the first acknowledgement, and then each time for
	// twice as long (RFC 6298 section 5.5), unless a router made it try sooner.
	d = info.RTO - info.RTO>>min(info.Retransmits, 62)
	// Of our own queries, the first is at least as old as the series.
	d = max(d, time.Duration(c.heart.Missed())*c.plan().Retry())
	if errors.Is(c.ending.err, sys.ETIMEDOUT) {
		d = max(d, c.profile.probes.UserTimeout)
	}
	return d
}
