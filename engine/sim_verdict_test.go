package engine_test

import (
	"errors"
	"os"
	"time"

	"github.com/pulsewheel/pulsewheel/engine"
)

// What the defaults of engine.Limits are, as far as a life may see them.
const (
	simFrameTimeout = 30 * time.Second
	simDrainWindow  = time.Minute
	simLinger       = 5 * time.Second
)

func (a *simApp) linger() time.Duration {
	if a.limits.Linger == 0 {
		return simLinger
	}
	return a.limits.Linger
}

// frameTimeout returns a time that no life sees the end of where there is no
// limit.
func (a *simApp) frameTimeout() time.Duration {
	switch d := a.limits.FrameTimeout; {
	case d == 0:
		return simFrameTimeout
	case d < 0:
		return time.Hour
	default:
		return d
	}
}

func (a *simApp) drainWindow() time.Duration {
	if a.limits.Backlog.DrainWindow == 0 {
		return simDrainWindow
	}
	return a.limits.Backlog.DrainWindow
}

// causes returns the reasons for which s may end now, on account of what its two
// ends did. Others depend on when: see deserves.
func (s *simConn) causes() simReasons {
	set := s.allowed
	if s.app.name == "client" && !s.dialled {
		set |= reasons(engine.Local) // whoever dialled may have given up
	}
	if s.app.shut {
		set |= reasons(engine.Shutdown)
	}
	if s.eofAt != 0 {
		set |= reasons(engine.PeerClosed)
	}
	if s.peer != nil {
		return set | s.peer.allowed
	}
	far := s.app.l.farEnd(s)
	if far == nil {
		// The other engine has not introduced itself. It may not even have
		// accepted.
		return set | reasons(engine.PeerClosed, engine.PeerReset, engine.HeartbeatLost, engine.Deaf, engine.Idle)
	}
	return set | far.farCauses(s)
}

// farCauses returns the reasons for which other, the other end of s, may end.
func (s *simConn) farCauses(other *simConn) (set simReasons) {
	a := s.app
	l := a.l
	// Where Close runs on a worker the end comes before it.
	if s.marked || s.closed || a.shut || a.engine.Conn(s.c.ID()) == nil {
		set |= reasons(engine.PeerClosed, engine.PeerReset)
	}
	liveness := a.liveness
	waited := s.openedAt - other.openedAt // in the listener's queue
	switch silent := max(l.unheard(s), waited); {
	case liveness.Interval > 0 && silent >= int64(liveness.Misses-1)*int64(liveness.Retry):
		set |= reasons(engine.HeartbeatLost, engine.Deaf)
	case liveness.Interval == 0 && liveness.IdleRead > 0 && silent >= int64(liveness.IdleRead)/2:
		set |= reasons(engine.Idle)
	}
	return set
}

// unheard returns for how long s may have answered nothing at a stretch, in ns,
// as the far end sees it.
func (l *simLife) unheard(s *simConn) int64 {
	now := l.w.Now()
	most := s.pause.most
	if s.pause.since != 0 {
		most = max(most, now-s.pause.since)
	}
	if s.app.ordered {
		most = max(most, s.app.work.blocked) // its input waited for workers
	}
	return most
}

// deserves reports whether there was reason for s to end like this.
func (s *simConn) deserves(ce *engine.CloseError) bool {
	a := s.app
	l := a.l
	now := l.w.Now()
	l.checkHalfClosed(s, ce, now)
	switch ce.Reason {
	case engine.SlowConsumer:
		if errors.Is(ce, engine.ErrBacklog) {
			l.seen["slow consumer: no room for a broadcast"]++
			return s.noRoom()
		}
		l.seen["slow consumer: drain rate"]++
		return s.slow(now)
	case engine.Overloaded:
		if !errors.Is(ce, os.ErrDeadlineExceeded) {
			return s.evictable(ce)
		}
		l.seen["overloaded: not read"]++
		return s.forgotten(now)
	case engine.HandshakeTimeout:
		first := a.door.FirstFrame
		early := now-s.openedAt < int64(first)-l.behind()
		return first > 0 && !early && s.heardAt == 0 && (s.causes().has(ce.Reason) || s.peer == nil && l.disturbed(s))
	case engine.FrameTimeout:
		since := s.openedAt
		if !a.ordered {
			since = max(since, s.heardAt)
		}
		early := now-since < int64(a.frameTimeout())-l.behind()
		// A frame that was under way when the machine stood still may have had to
		// wait for what came before it to be read.
		return !early && (s.causes().has(ce.Reason) || l.stalled > 0 || s.peer == nil && l.disturbed(s))
	}
	return s.causes().has(ce.Reason)
}

// behind is by how much a callback may be later than the time that the engine
// counts it at.
func (l *simLife) behind() int64 {
	const atOnce = 200 * time.Millisecond // what callbacks of one event spend
	return int64(2*time.Millisecond) + l.stalled + min(l.spent-l.stalled, int64(atOnce))
}

// disturbed reports whether one of two engines, or the way between them, stood
// still for a while.
func (l *simLife) disturbed(s *simConn) bool {
	far := l.farEnd(s)
	return l.stalled > 0 || l.outage > 0 || far == nil || l.unheard(far) > 0
}

// noRoom reports whether so much waits for the peer that a broadcast may have
// found no room.
func (s *simConn) noRoom() bool {
	limits := &s.app.limits
	hard := limits.Backlog.Hard
	if hard == 0 {
		hard = 2 * limits.Backlog.High
	}
	n := s.outstanding()
	return s.due.total > 0 && (n < 0 || n >= int64(hard) || limits.Budget > 0 && n > simSlack)
}

// slow reports whether the peer took less than it must, before now.
func (s *simConn) slow(now int64) bool {
	a := s.app
	window := int64(a.drainWindow())
	if window < 0 || now-s.openedAt < window {
		return false
	}
	if s.peer == nil {
		return a.l.disturbed(s)
	}
	// What arrived a moment ago may not have been acknowledged.
	const moment = int64(10 * time.Millisecond)
	took := 0
	for _, x := range s.peer.arrivals {
		if x.at > now-window && x.at <= now-moment {
			took += x.n
		}
	}
	late := s.peer.pausedFor > 0 // so may be the acknowledgements
	return took < a.leastDrain() || late
}

func (a *simApp) leastDrain() int {
	return max(int(float64(a.limits.Backlog.DrainRate)*a.drainWindow().Seconds()), 1)
}

// forgotten reports whether s was left unread for so long that it may end.
func (s *simConn) forgotten(now int64) bool {
	a := s.app
	limit := int64(a.maxPause())
	p := &s.pause
	if p.since != 0 && now-p.since >= limit-a.l.behind() {
		if p.mercy {
			a.l.problem("%s: %d is overloaded, although a timer was to resume it in time", a.name, s.key)
		}
		return true
	}
	return a.ordered && a.work.blocked+s.unread(now) >= limit/2 && now-s.openedAt >= limit-a.l.behind()
}

// checkHalfClosed checks that s did not end too soon after its peer's end of
// stream.
func (l *simLife) checkHalfClosed(s *simConn, ce *engine.CloseError, now int64) {
	a := s.app
	if ce.Reason != engine.PeerClosed || ce.Err != nil || s.marked || a.shut || a.ordered {
		return
	}
	limit := int64(a.maxPause()) - l.behind()
	if s.eofAt != 0 && now-s.eofAt < limit {
		l.problem("%s: %d ended %v after EOF", a.name, s.key, time.Duration(now-s.eofAt))
	}
	if n := s.peer; n != nil && n.finAt != 0 && s.begun < n.tasksThen && now-n.finAt < limit {
		l.problem("%s: %d ended while %d of %d tasks waited that it had when its peer ended its stream",
			a.name, s.key, n.tasksThen-s.begun, n.tasksThen)
	}
}

// checkVerdict checks that a dead peer was found in time.
func (l *simLife) checkVerdict(s *simConn, now int64) {
	n := s.peer
	if n == nil || !n.verdictDue() {
		return
	}
	since := max(n.badSince, s.openedAt)
	if n.kind != peerDeaf {
		// What its kernel still had counts as a sign of life.
		since = max(since, n.p.LastArrival())
	}
	if s.app.ordered {
		since = max(since, l.quietAt) // it may have been left unread until then
	}
	due := since + int64(s.app.worstCase()) + s.unread(now)
	if s.marked {
		due = max(due, s.markedAt+int64(s.app.linger()))
	}
	// It is read late if the loop is.
	due += int64(s.app.limits.Tick) + l.lateness()
	if closed := s.endedBy(now); closed > due {
		l.problem("%s: %v was bad for %v until connection %d ended, want at most %v",
			s.app.name, n, time.Duration(closed-since), s.key, time.Duration(due-since))
	} else if s.closed && s.err != nil && s.err.Reason.Timeout() {
		l.seen["verdict in time: "+simKindNames[n.kind]]++
	}
}

// endedBy returns when s ended, now if it has not.
func (s *simConn) endedBy(now int64) int64 {
	if s.closed {
		return s.closedAt
	}
	return now
}

// checkBounds checks that what is to end s after a time did so.
func (l *simLife) checkBounds(s *simConn, now int64) {
	a := s.app
	end := s.endedBy(now)
	// late adds what is allowed on top of every bound.
	late := int64(a.limits.Tick) + l.lateness()
	linger := int64(a.linger())
	bound := func(what string, since int64, most time.Duration) {
		if since == 0 || s.marked || a.shut {
			return
		}
		if a.ordered { // until when its work may have waited
			since = max(since, l.quietAt)
		}
		if end-since > int64(most)+late {
			l.problem("%s: connection %d (%v) lasted %v after %s, want at most %v",
				a.name, s.key, s.peer, time.Duration(end-since), what, most)
		}
	}
	if s.marked && !s.closed && now-s.markedAt > linger+late {
		l.problem("%s: connection %d was told to end %v ago and is open", a.name, s.key, time.Duration(now-s.markedAt))
	}
	if s.pause.wanted && s.eofAt == 0 {
		bound("Pause", s.pause.latest, a.maxPause())
	}
	if a.maxPause() < time.Hour {
		bound("EOF", s.eofAt, a.maxPause()+a.linger())
	}
	n := s.peer
	if n == nil {
		return
	}
	unread := time.Duration(s.unread(now))
	if window := a.limits.Backlog.DrainWindow; window > 0 {
		bound("it had a backlog that nobody takes", s.backlogAt, simDrainWindows*window)
	}
	if first := a.door.FirstFrame; first > 0 && n.kind == peerMute {
		bound("Open without a first frame", s.openedAt, first+unread)
	}
	if n.stalledAt != 0 && a.frameTimeout() < time.Hour {
		bound("a frame was begun", max(n.stalledAt, s.openedAt), a.frameTimeout()+unread)
	}
	if n.resetAt != 0 {
		bound("its peer reset it", max(n.resetAt, s.openedAt), 2*time.Second)
	}
	if n.finAt != 0 && a.answers && n.resetAt == 0 && !s.closed && !s.marked && s.eofAt == 0 && !s.pause.wanted && now-max(n.finAt, s.openedAt) > int64(2*time.Second)+late {
		l.problem("%s: EOF of %d did not run, whose peer %v has ended its stream", a.name, s.key, n)
	}
	if n.finAt != 0 && !a.answers && s.begun == s.tasks && s.busy == "" && !s.pause.wanted {
		bound("its peer ended the stream", max(n.finAt, s.openedAt, l.quietAt), a.linger()+time.Second)
	}
}

// simDrainWindows is how many windows it takes at most until a peer that takes
// nothing is given up.
const simDrainWindows = 2

// expectDrain notes that the connection must end because nobody takes what it
// sends, if there is anything.
func (n *simPeer) expectDrain() {
	s := n.conn
	window := n.app.limits.Backlog.DrainWindow
	if f := n.l.serverFaults; s == nil || s.closed || window <= 0 || n.l.stalled > 0 || f.ShortWrite+f.AgainWrite+f.SpuriousHint > 0 {
		return // or the kernel may take some more, any time
	}
	s.post(func() {
		if s.closed {
			return
		}
		now, before := n.l.w.Now(), s.c.Info().Backlog
		n.l.w.After(window/2, func() {
			s.post(func() {
				if !s.closed && before > simSlack && s.c.Info().Backlog >= before {
					s.backlogAt = now
				}
			})
		})
	})
}
