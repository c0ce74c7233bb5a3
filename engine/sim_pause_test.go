package engine_test

import (
	"errors"
	"net"
	"time"

	"github.com/pulsewheel/pulsewheel/engine"
)

// simPause is what the application knows of one connection's pauses.
type simPause struct {
	wanted bool  // Pause was called last, and not Resume
	held   bool  // the loop has taken note of that: no Message may come
	seq    int   // of the calls that changed wanted
	since  int64 // since when the loop may not have read it; 0: it does
	latest int64 // when Pause was called last
	total  int64 // ns, of the pauses that are over
	most   int64 // ns, the longest of them
	// mercy: a timer of its own loop resumes it well within MaxPause.
	mercy bool
}

// pauseNow pauses s. own: in a callback of s, where it takes effect at once.
func (s *simConn) pauseNow(own bool) bool {
	var err error
	s.app.call("Pause", func() { err = s.c.Pause() })
	p := &s.pause
	if !s.askedReading("Pause", err) || p.wanted {
		return err == nil
	}
	p.wanted, p.latest = true, s.app.l.w.Now()
	p.seq++
	p.mercy = false
	if p.since == 0 {
		p.since = s.app.l.w.Now()
	}
	if own {
		p.held = true
		return true
	}
	seq := p.seq
	s.post(func() {
		if p.seq == seq { // what was posted before has been served
			p.held = true
		}
	})
	return true
}

func (s *simConn) resume() {
	var err error
	s.app.call("Resume", func() { err = s.c.Resume() })
	p := &s.pause
	if !s.askedReading("Resume", err) || !p.wanted {
		return
	}
	p.wanted, p.held = false, false
	p.seq++
	seq := p.seq
	s.post(func() {
		if p.seq == seq {
			d := s.app.l.w.Now() - p.since
			p.total += d
			p.most = max(p.most, d)
			p.since = 0
		}
	})
}

func (s *simConn) askedReading(what string, err error) bool {
	switch {
	case err == nil && s.closed:
		s.app.l.problem("%s: %s of %d succeeded after its Close", s.app.name, what, s.key)
	case err != nil && !errors.Is(err, net.ErrClosed):
		s.app.l.problem("%s: %s: %v", s.app.name, what, err)
	case err != nil && !s.closed && !s.app.ordered:
		s.app.l.problem("%s: %s of %d, which is open: %v", s.app.name, what, s.key, err)
	}
	return err == nil
}

// pauseFor pauses s, and has it resumed in one of the ways there are.
func (s *simConn) pauseFor(arg uint32, own bool) {
	a := s.app
	l := a.l
	if s.pause.wanted || !s.pauseNow(own) {
		return
	}
	d := time.Duration(1+arg%400) * time.Millisecond
	if arg%7 == 0 && s.peer != nil && !l.calm {
		d *= 4
	}
	if !l.busy() {
		d = min(d, 50*time.Millisecond)
	}
	limit := a.maxPause()
	l.seen["pause: "+[]string{"timer", "other goroutine", "post", "forgotten"}[arg>>4%4]]++
	switch arg >> 4 % 4 {
	case 0:
		// A loop that has not taken note of the last Resume yet may be stalled,
		// and learn of the timer too late; and it may be late by 50 ms before
		// that counts as a stall.
		fresh := s.pause.since == s.pause.latest
		s.pause.mercy = fresh && d+2*a.limits.Tick+60*time.Millisecond < limit
		a.timer(s.c.Loop(), d, s.resume)
	case 1:
		l.w.After(d, s.resume)
	case 2:
		l.w.After(d, func() { s.post(s.resume) })
	case 3:
		if l.calm || limit > 2*time.Second {
			l.w.After(min(d, max(0, time.Duration(l.quietAt-l.w.Now()))), s.resume)
		}
	}
}

// pauses pauses and resumes s many times.
func (s *simConn) pauses(arg uint32) {
	if s.pause.wanted {
		return
	}
	for range 1 + arg%4 {
		s.pauseNow(!s.app.ordered)
		s.resume()
	}
	left := int(arg>>4) % 20
	var again func()
	again = func() {
		if s.closed || s.pause.wanted {
			return
		}
		s.pauseNow(false)
		s.post(s.resume)
		if left--; left > 0 {
			s.app.l.w.After(time.Duration(s.app.l.pick(3e6)), again)
		}
	}
	again()
}

func (a *simApp) maxPause() time.Duration {
	switch d := a.limits.MaxPause; {
	case d == 0:
		return time.Minute
	case d < 0:
		return time.Hour // of which no life sees the end
	default:
		return d
	}
}

// unread returns for how long s may not have been read, all in all.
func (s *simConn) unread(now int64) (ns int64) {
	ns = s.pause.total
	if s.pause.since != 0 {
		ns += now - s.pause.since
	}
	return ns
}

// mayBeBroken reports whether the connection may have failed, so that what came
// before is delivered in spite of a pause.
func (s *simConn) mayBeBroken() bool {
	set := s.causes()
	return set.has(engine.PeerReset) || set.has(engine.KernelTimeout) || set.has(engine.Unreachable)
}

// halfClosed is EOF: the peer has ended its stream, and we go on for a while.
func (a *simApp) halfClosed(c *engine.Conn) {
	l := a.l
	s, ok := c.Get().(*simConn)
	switch {
	case !ok || s.closed:
		l.problem("%s: EOF outside Open and Close", a.name)
		return
	case s.eofAt != 0:
		l.problem("%s: EOF of %d twice", a.name, s.key)
	case s.pause.held && !a.ordered && !s.mayBeBroken():
		l.problem("%s: EOF while %d is paused", a.name, s.key)
	case s.peer != nil && !s.peer.finished:
		l.problem("%s: EOF of %v", a.name, s.peer)
	case s.peer != nil && s.in.next != s.peer.sent && !s.peer.junk && s.allowed == 0:
		l.problem("%s: EOF of %d after %d of %d messages", a.name, s.key, s.in.next, s.peer.sent)
	}
	s.eofAt = l.w.Now()
	answer := func() {
		s.send(orderNothing, simHeader+l.pick(200), 0)
		s.sendOwned(simHeader+l.pick(2000), 0)
	}
	way := l.pick(5)
	if way == 4 && a.maxPause() > 2*time.Second {
		way = 1
	}
	l.seen["EOF: "+[]string{"answers and closes", "answers late", "answers by a task", "aborts", "stays"}[way]]++
	switch answer(); way {
	case 0:
		s.close()
	case 1:
		a.timer(c.Loop(), l.wait(200*time.Millisecond), func() { answer(); s.close() })
	case 2:
		s.do(func() {
			a.block(l.wait(100 * time.Millisecond))
			answer()
			s.close()
		})
		s.do(func() {})
	case 3:
		s.post(s.abort)
	case 4:
		l.w.After(l.wait(300*time.Millisecond), answer)
	}
}
