package engine_test

import (
	"errors"
	"net"
	"runtime"
	"time"

	"github.com/pulsewheel/pulsewheel/engine"
)

// simWork counts what an application had its workers do.
type simWork struct {
	tasks   uint64 // that Do took
	busy    uint64 // that Do refused with ErrBusy
	exited  uint64 // that ended their goroutine
	active  int    // tasks that run now
	blocked int64  // ns for which tasks have been blocked, or are to be
}

// enterWork begins something that a worker does for s. There is never more than
// one such thing.
func (s *simConn) enterWork(what string) (leave func()) {
	a := s.app
	if a.inCall != "" {
		a.l.problem("%s: %s ran inside %s", a.name, what, a.inCall)
	}
	if s.busy != "" {
		a.l.problem("%s: %s of %d runs beside %s", a.name, what, s.key, s.busy)
	}
	if a.work.active++; a.work.active > a.limits.Work.Workers {
		a.l.problem("%s: %s of %d is the %dth thing at a time, Workers is %d", a.name, what, s.key, a.work.active, a.limits.Work.Workers)
	}
	s.busy = what
	return func() { s.busy = ""; a.work.active-- }
}

// watchQueue checks that no message comes to h, which is engine.Ordered's, while as
// many as may wait do.
func (a *simApp) watchQueue(h engine.Handler) engine.Handler {
	message := h.Message
	h.Message = func(c *engine.Conn, p []byte) {
		if s, ok := c.Get().(*simConn); ok {
			if waiting := s.orderedMessages - s.begunMessages; waiting >= a.limits.Work.Queue && !s.mayBeBroken() {
				a.l.problem("%s: a message of %d was read, of which %d wait", a.name, s.key, waiting)
			}
			s.orderedMessages++
		}
		message(c, p)
	}
	return h
}

// do has a worker run f.
func (s *simConn) do(f func()) {
	a := s.app
	number, waiting := s.tasks, s.tasks-s.begun
	var err error
	a.call("Do", func() { err = s.c.Do(func() { s.run(number, f) }) })
	// Those of engine.Ordered wait in the same queue.
	full := waiting >= a.limits.Work.Queue
	switch {
	case err == nil:
		s.tasks++
		a.work.tasks++
		if full {
			a.l.problem("%s: Do took a task of %d, of which %d wait", a.name, s.key, waiting)
		}
		if s.closed {
			a.l.problem("%s: Do took a task of %d after its Close", a.name, s.key)
		}
	case errors.Is(err, engine.ErrBusy):
		a.work.busy++
		a.l.seen["app: ErrBusy"]++
		if !full && !a.ordered {
			a.l.problem("%s: Do refused a task of %d, of which %d wait", a.name, s.key, waiting)
		}
	case !errors.Is(err, net.ErrClosed) || !s.closed && !a.ordered:
		a.l.problem("%s: Do for %d: %v", a.name, s.key, err)
	}
}

func (s *simConn) run(number int, f func()) {
	defer s.enterWork("a task")()
	if number != s.begun {
		s.app.l.problem("%s: task %d of %d runs where %d is due", s.app.name, number, s.key, s.begun)
	}
	s.begun++
	s.passes()
	f()
}

// passes checks that the tasks of s leave the workers to the others in time.
func (s *simConn) passes() {
	if s.app.ordered {
		return // where messages are tasks, too
	}
	const turn = 16 // tasks that a worker does for one connection before the others
	s.passed = nil
	for _, other := range s.app.all {
		if other == s || other.busy != "" || other.begun == other.tasks {
			continue
		}
		if other.passed == nil {
			other.passed = make(map[*simConn]int)
		}
		if other.passed[s]++; other.passed[s] == turn+1 {
			s.app.l.problem("%s: %d tasks of %d were begun while one of %d waits", s.app.name, turn+1, s.key, other.key)
		}
	}
}

// task picks something for a worker to do.
func (s *simConn) task(arg uint32, echo func()) func() {
	a := s.app
	l := a.l
	what := arg % 12
	if l.calm && what >= 7 && what <= 9 {
		what = 4
	}
	l.seen["task: "+[]string{"echoes", "echoes", "echoes", "echoes", "blocks", "has another one", "posts", "closes", "panics",
		"ends its goroutine", "pauses", "blocks for long"}[what]]++
	return func() {
		switch what {
		default:
			echo()
		case 4:
			a.block(time.Duration(1+arg%20) * time.Millisecond)
			echo()
		case 5:
			s.do(echo)
		case 6:
			s.post(echo)
		case 7:
			echo()
			s.close()
		case 8:
			echo()
			a.failures++
			s.doom(engine.Panic)
			panic("in a task")
		case 9:
			echo()
			a.failures++
			a.work.exited++
			s.doom(engine.Panic)
			runtime.Goexit()
		case 10:
			if !s.pause.wanted && s.pauseNow(false) {
				a.block(time.Duration(arg%50) * time.Millisecond)
				s.resume()
			}
		case 11:
			a.block(time.Duration(50+arg%400) * time.Millisecond)
			echo()
		}
	}
}

// chain has n tasks done, each of which asks for the next.
func (s *simConn) chain(n int) {
	var next func()
	next = func() {
		if n--; n > 0 {
			s.do(next)
		}
	}
	s.do(next)
}

// block makes a task take virtual time. When things get quiet, all of them end.
func (a *simApp) block(d time.Duration) {
	w := a.l.w
	d = min(d, time.Duration(a.l.quietAt-w.Now()))
	if d <= 0 {
		return
	}
	a.work.blocked += int64(d)
	done := make(chan struct{})
	w.After(d, func() { close(done) })
	<-done
}
