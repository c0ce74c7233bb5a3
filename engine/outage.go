package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// Outage keeps a failure of our own network from ending everybody at once. When
// a verdict of HeartbeatLost is due on a loop that has heard nothing at all for
// a Retry, and more than Share of the peers that it watches owe it a sign of
// life, it is presumed that the fault is on our side: verdicts of that kind wait
// for up to Grace, in which the silent peers are queried on. Those that are
// silent still then end. WorstCase is longer by Grace. Handler.Outage is told, and
// the log.
//
// There is no second grace before something was heard again. Fewer than 8
// silent peers on a loop presume nothing.
type Outage struct {
	// Share is the part of the peers that must be silent: more than 0, and less
	// than can be silent before the first verdict comes, (Misses × Retry -
	// Retry/2) / Interval. 0: off.
	Share float64
	// Grace is how long verdicts wait at most. Required with a Share.
	Grace time.Duration
}

// OutageEvent tells Handler.Outage that an outage is presumed.
type OutageEvent struct {
	Loop            *Loop
	Silent, Watched int           // peers
	For             time.Duration // since anything was heard
	Grace           time.Duration // that verdicts now wait for
}

// minSilent is how many peers must be silent at least: of a handful, all may
// well die at once.
const minSilent = 8

// presumedOutage is one, on one loop, by the clock that judges peers.
type presumedOutage struct {
	since, until int64 // 0: there was none yet
}

// check reports whether the outage can be told by the liveness of profiles.
func (o *Outage) check(profiles []*profile) error {
	switch {
	case o.Share == 0 && o.Grace == 0:
		return nil
	case !(o.Share > 0 && o.Share < 1):
		return fmt.Errorf("Outage.Share is %v, want more than 0 and less than 1", o.Share)
	case o.Grace <= 0:
		return fmt.Errorf("Outage.Grace is %v, want more than 0", o.Grace)
	}
	watched := false
	for _, p := range profiles {
		cfg := p.plan.Config()
		if cfg.Interval == 0 {
			continue
		}
		watched = true
		interval := max(cfg.Interval, p.follow.Max)
		left := time.Duration(cfg.Misses)*p.plan.Retry() - owed(p.plan)
		if seen := float64(left) / float64(interval); o.Share >= seen {
			return fmt.Errorf("Outage.Share is %v, but when the first of %v is given up, no more than %.2f of them can have been found silent",
				o.Share, cfg, min(seen, 1))
		}
	}
	if !watched {
		return errors.New("Outage, but no Liveness has an Interval")
	}
	return nil
}

// owed returns for how long beyond its Interval a peer is silent before that
// means anything: the time in which a query may be answered.
func owed(p *heartbeat.Plan) time.Duration {
	if !p.Queries() {
		return 0
	}
	return p.Retry() / 2
}

// presumes reports whether a verdict on c, which has lost its heartbeat, is to
// wait because the fault may be ours, and until when.
func (l *Loop) presumes(c *Conn) (until int64, wait bool) {
	o := &l.core.limits.Outage
	if o.Share == 0 {
		return 0, false
	}
	p := &l.outage
	if p.until > l.beat {
		return p.until, true
	}
	quiet := l.beat - l.heard
	if p.since != 0 && l.heard <= p.since || quiet < int64(c.plan().Retry()) {
		return 0, false
	}
	silent, watched := l.silent()
	if silent < minSilent || float64(silent) <= o.Share*float64(watched) {
		return 0, false
	}
	p.since, p.until = l.beat, l.beat+int64(o.Grace)
	l.stats.outages.Add(1)
	e := OutageEvent{Loop: l, Silent: silent, Watched: watched, For: time.Duration(quiet), Grace: o.Grace}
	l.core.report(slog.LevelWarn, "peers are silent all at once: an outage on our side is presumed, and verdicts wait",
		"loop", l.index, "silent", silent, "watched", watched, "nothing heard for", e.For, "grace", e.Grace)
	if h := c.profile.handler.Outage; h != nil {
		l.later(func() { h(e) })
	}
	return p.until, true
}

// silent counts the loop's watched peers, and those of them that owe a sign of
// life. It looks at all of them, while there is nothing else to do: nothing has
// been heard for a while.
func (l *Loop) silent() (silent, watched int) {
	l.core.conns.all(func(c *Conn) bool {
		if c.loop != l || c.phase != open || c.paused {
			return true
		}
		plan := c.plan()
		interval := plan.Config().Interval
		if interval == 0 {
			return true
		}
		watched++
		if l.beat-c.heart.LastRead() > int64(interval+owed(plan)) {
			silent++
		}
		return true
	})
	return silent, watched
}

// waitOut puts a verdict off while an outage is presumed, and asks once more
// where this side asks at all.
func (c *Conn) waitOut(until int64) {
	l := c.loop
	plan := c.plan()
	if plan.Queries() {
		c.ping()
		until = min(until, l.beat+int64(plan.Retry()))
	}
	c.timer = l.arm(l.beatTick(until), uint32(c.fd))
}
