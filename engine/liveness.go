package engine

import (
	"errors"
	"fmt"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// heard serves a heartbeat of the peer's. Where a ping and its answer look
// alike, the side that asks takes every heartbeat for an answer, and the other
// for a question. last says that nothing of what was read is left behind it.
func (c *Conn) heard(f codec.Frame, last bool) {
	l := c.loop
	plan, format := c.plan(), &c.profile.format
	if f.Kind == codec.Pong || format.Answered && !format.Directed && !plan.Answers() {
		l.stats.pongsIn.Add(1)
		beat := c.codec.Beat(f.Kind, f.Payload)
		stamp := beat.Stamp
		if mine := c.heart.Stamp(); stamp == mine&format.StampMask {
			stamp = mine // as much of it as the format brings back
		}
		if rtt := c.heart.Answer(plan, l.beat, stamp, beat.HasStamp); rtt > 0 {
			l.stats.rtt.note(rtt)
		}
		return
	}
	l.stats.pingsIn.Add(1)
	c.follow(f)
	if !plan.Answers() {
		return
	}
	if !c.mayAnswer() {
		l.stats.pingsIgnored.Add(1)
		return
	}
	h := c.profile.handler.Healthy
	if h != nil {
		l.runs++
	}
	if h == nil || h(c) {
		c.sendBeat(func(dst []byte) []byte { return c.codec.AppendPong(dst, f.Payload) }, last)
	}
}

// A peer's pings are answered up to one every answerStep ms on average, and
// answerBurst ms worth of them at once. That is ten times what the shortest
// sensible interval needs; a flood is read and not answered.
const (
	answerStep  = 10
	answerBurst = 1000
)

// mayAnswer counts an answer, and reports whether it is within the rate: the
// generic cell rate algorithm, as in admission.take.
func (c *Conn) mayAnswer() bool {
	now := uint32(c.loop.beat / int64(time.Millisecond))
	due := c.answersDue
	if ahead := int32(due - now); ahead < 0 || ahead > answerBurst+answerStep {
		due = now // it is past, or so long past that the count has gone round
	}
	if due-now > answerBurst {
		return false
	}
	c.answersDue = due + answerStep
	return true
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
	plan := c.plan()
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
	if c.phase != open || c.ending != nil {
		return
	}
	c.excusePause()
	action, next := c.heart.Poll(plan, l.beat)
	switch action {
	case heartbeat.Lost:
		if until, wait := l.presumes(c); wait {
			c.waitOut(until)
			return
		}
		c.hard = true
		c.kill(HeartbeatLost, nil)
	case heartbeat.Deaf:
		c.hard = true
		c.kill(Deaf, nil)
	case heartbeat.Idle:
		c.idled()
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
	beat := codec.Beat{Stamp: c.heart.Stamp(), HasStamp: true, Interval: c.plan().Announce()}
	c.sendBeat(func(dst []byte) []byte { return c.codec.AppendPing(dst, beat) }, true)
}

// plan returns what c's liveness goes by.
func (c *Conn) plan() *heartbeat.Plan {
	if c.state.Load()&planned != 0 {
		return c.extra.plan
	}
	return c.profile.plan
}

// SetLiveness watches this connection in another way than its listener or client
// says, from now on: what its handshake has agreed on, say. The error is the
// configuration's, or ErrClosed. It replaces what Follow has chosen, and Follow
// does not change it any more.
//
// The silence so far counts, so that a stricter configuration may ask the peer at
// once, or, where it only waits or limits idleness, end the connection. What is
// asked already counts, too: a shorter Retry or fewer Misses in the middle of an
// outage forgive less of it than Tolerance says.
func (c *Conn) SetLiveness(cfg heartbeat.Config) error {
	plan, err := cfg.Plan(c.profile.traits)
	if err != nil {
		return err
	}
	return c.Post(func() {
		c.more().pinned = true
		c.watchBy(plan)
	})
}

// watchBy changes the plan. What the new one wants is found out at once.
func (c *Conn) watchBy(plan *heartbeat.Plan) {
	if c.phase != open {
		return
	}
	c.more().plan = plan
	c.state.Or(planned)
	c.extra.idle = nil
	c.unguard(guardIdle)
	l := c.loop
	if c.timer != 0 {
		l.wheel.Stop(c.timer)
	}
	c.timer = l.arm(l.tickOf(l.now), uint32(c.fd))
}

// Follow lets the peer say how often it is heard of. A ping that announces its
// sender's next interval, where the format has room for that, makes the silence
// after which that peer is queried, or given up where it cannot be, as long as
// announced, between Min and Max. Peers that announce nothing are watched as
// Liveness says. WorstCase is then that of an Interval of Max.
type Follow struct {
	// Min and Max bound Liveness.Interval. 0 and 0: nobody is followed.
	Min, Max time.Duration
}

// check reports whether Liveness can have every Interval that f permits.
func (f Follow) check(cfg heartbeat.Config, t heartbeat.Traits) error {
	switch {
	case f == Follow{}:
		return nil
	case f.Min <= 0 || f.Max < f.Min:
		return fmt.Errorf("Follow is %v to %v, want 0 < Min <= Max", f.Min, f.Max)
	case cfg.Interval == 0:
		return errors.New("Follow, but Liveness has no Interval")
	}
	for _, interval := range []time.Duration{f.Min, f.Max} {
		if _, err := withInterval(cfg, interval).Plan(t); err != nil {
			return fmt.Errorf("Follow with an interval of %v: %w", interval, err)
		}
	}
	return nil
}

// withInterval returns cfg for a peer that is heard of that often. How often we
// speak, and how long an answer may take, is not the peer's to say.
func withInterval(cfg heartbeat.Config, interval time.Duration) heartbeat.Config {
	if cfg.Retry == 0 {
		cfg.Retry = cfg.Interval
	}
	if cfg.Speak == 0 {
		cfg.Speak = cfg.Interval
	}
	cfg.Interval = interval
	return cfg
}

// follow does what a ping of the peer's announces.
func (c *Conn) follow(f codec.Frame) {
	p := c.profile
	if p.follow == (Follow{}) {
		return
	}
	announced := c.codec.Beat(f.Kind, f.Payload).Interval
	if announced == 0 || c.extra != nil && c.extra.pinned {
		return
	}
	interval := min(max(announced, p.follow.Min), p.follow.Max)
	if c.plan().Config().Interval != interval {
		if plan, err := p.planFor(interval); err == nil {
			c.watchBy(plan)
		}
	}
}

// planFor returns the plan for an announced interval. Peers that announce the
// same share one, as long as there are not too many.
func (p *profile) planFor(interval time.Duration) (*heartbeat.Plan, error) {
	if interval == p.plan.Config().Interval {
		return p.plan, nil
	}
	if plan, ok := p.plans.Load(interval); ok {
		return plan.(*heartbeat.Plan), nil
	}
	plan, err := withInterval(p.plan.Config(), interval).Plan(p.traits)
	if err == nil && p.planned.Add(1) <= maxPlans {
		p.plans.Store(interval, plan)
	}
	return plan, err
}

// maxPlans bounds the plans that are kept, whatever peers announce.
const maxPlans = 1024
