package engine

import (
	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// heard serves a heartbeat of the peer's. Where a ping and its answer look
// alike, the side that asks takes every heartbeat for an answer, and the other
// for a question.
func (c *Conn) heard(f codec.Frame) {
	l := c.loop
	plan, format := c.profile.plan, &c.profile.format
	if f.Kind == codec.Pong || format.Answered && !format.Directed && !plan.Answers() {
		l.stats.pongsIn.Add(1)
		beat := c.codec.Beat(f.Kind, f.Payload)
		stamp := beat.Stamp
		if mine := c.heart.Stamp(); stamp == mine&format.StampMask {
			stamp = mine // as much of it as the format brings back
		}
		c.heart.Answer(plan, l.beat, stamp, beat.HasStamp)
		return
	}
	l.stats.pingsIn.Add(1)
	if plan.Answers() {
		c.sendBeat(func(dst []byte) []byte { return c.codec.AppendPong(dst, f.Payload) })
	}
}

// attend serves what the connection's timer found due.
func (l *Loop) attend(c *Conn, action heartbeat.Action) {
	if c.phase == gone {
		return
	}
	c.state.Or(scheduled)
	l.call(c, func() { c.overdue(action) })
	l.finish(c)
}

func (c *Conn) overdue(action heartbeat.Action) {
	l := c.loop
	plan := c.profile.plan
	if c.phase != open {
		if action == heartbeat.None {
			c.phaseTimedOut()
		}
		return // its liveness was due, and then it began to end
	}
	if !action.Verdict() {
		c.ping()
		return
	}
	// Verify before the verdict: what came in this very moment counts.
	c.look()
	if c.phase != open || c.deaf() {
		return
	}
	c.excusePause()
	action, next := c.heart.Poll(plan, l.beat)
	switch action {
	case heartbeat.Lost:
		c.hard = true
		c.kill(HeartbeatLost, nil)
	case heartbeat.Deaf:
		c.hard = true
		c.kill(Deaf, nil)
	case heartbeat.Idle:
		c.kill(Idle, nil)
	default:
		if action == heartbeat.Ping {
			c.ping()
		}
		c.timer = l.arm(l.beatTick(next), uint32(c.fd))
	}
}

// ping asks the peer, or shows it that we are here.
func (c *Conn) ping() {
	c.loop.stats.pings.Add(1)
	if c.heart.Asking() {
		c.loop.stats.queries.Add(1)
	}
	beat := codec.Beat{Stamp: c.heart.Stamp(), HasStamp: true, Interval: c.profile.plan.Announce()}
	c.sendBeat(func(dst []byte) []byte { return c.codec.AppendPing(dst, beat) })
}
