package main

import (
	"time"

	"github.com/pulsewheel/pulsewheel/timingwheel"
)

// tick is the length of a Wheel's tick here, and the Scheduler's default.
const tick = time.Millisecond

// engineBudget is how many timers the engine's loop visits in one call of Advance.
const engineBudget = 512

// conn stands for what a timer belongs to: the caller's struct that a lazy touch stores into. It has the size of a cache
// line, so each touch pays for a line of its own.
type conn struct {
	deadline uint64
	_        [56]byte
}

type wheelSubject struct {
	w      *timingwheel.Wheel
	r      *source
	timers []timingwheel.Timer
	conns  []conn
}

func openWheel() subject {
	return &wheelSubject{w: timingwheel.New(1000), r: newSource()}
}

// deadline converts a duration from now to a tick, rounded up.
func (s *wheelSubject) deadline(d time.Duration) uint64 {
	return s.w.Now() + uint64((d+tick-1)/tick)
}

func (s *wheelSubject) fill(n int, sp span) {
	s.timers = make([]timingwheel.Timer, n)
	for i := range s.timers {
		s.timers[i] = s.w.Add(s.deadline(sp.random(s.r)), uint32(i))
	}
}

func (s *wheelSubject) armStop(ops int, d time.Duration, sp span) {
	w := s.w
	if d != 0 {
		for range ops {
			w.Stop(w.Add(s.deadline(d), 0))
		}
		return
	}
	for range ops {
		w.Stop(w.Add(s.deadline(sp.random(s.r)), 0))
	}
}

func (s *wheelSubject) replace(ops int, sp span) {
	n := uint64(len(s.timers))
	for range ops {
		i := s.r.below(n)
		s.w.Stop(s.timers[i])
		s.timers[i] = s.w.Add(s.deadline(sp.random(s.r)), uint32(i))
	}
}

func (s *wheelSubject) touch(ops int, d time.Duration) {
	if s.conns == nil {
		s.conns = make([]conn, len(s.timers))
		for i := range s.conns {
			s.conns[i].deadline = 1 // so that the page is there
		}
	}
	n := uint64(len(s.conns))
	deadline := s.deadline(d)
	for range ops {
		s.conns[s.r.below(n)].deadline = deadline
	}
}

// fire drives the wheel as an event loop does: it sleeps until Next, and gives Advance the engine's budget.
func (s *wheelSubject) fire(n int, sp span, r *recorder, armed func()) {
	w := timingwheel.New(0)
	dues := make([]time.Duration, n)
	up := func(d time.Duration) uint64 { return uint64((d + tick - 1) / tick) }
	for i := range dues {
		dues[i] = r.now() + sp.random(s.r)
		w.Add(up(dues[i]), uint32(i))
	}
	fire := func(_ timingwheel.Timer, data uint32) uint64 { r.count(); return 0 }
	if r.buckets != nil {
		fire = func(_ timingwheel.Timer, data uint32) uint64 { r.note(dues[data]); return 0 }
	}
	armed()
	for {
		next, ok := w.Next()
		if !ok {
			return
		}
		time.Sleep(time.Duration(next)*tick - r.now())
		w.Advance(uint64(r.now()/tick), engineBudget, fire)
	}
}

func (s *wheelSubject) close() {}

// ownedSubject is a Scheduler with timers that the caller owns.
type ownedSubject struct {
	s      *timingwheel.Scheduler
	r      *source
	timers []timingwheel.FuncTimer
	reset  bool // touch with Reset, not Postpone
	never  func()
}

func openOwned() subject {
	return &ownedSubject{s: timingwheel.NewScheduler(timingwheel.Config{}), r: newSource(), never: func() {}}
}

func openOwnedReset() subject {
	s := openOwned().(*ownedSubject)
	s.reset = true
	return s
}

func (s *ownedSubject) fill(n int, sp span) {
	s.timers = make([]timingwheel.FuncTimer, n)
	for i := range s.timers {
		s.s.Bind(&s.timers[i], s.never)
		s.timers[i].Reset(sp.random(s.r))
	}
}

func (s *ownedSubject) armStop(ops int, d time.Duration, sp span) {
	r := newSource()
	t := new(timingwheel.FuncTimer)
	s.s.Bind(t, s.never)
	if d != 0 {
		for range ops {
			t.Reset(d)
			t.Stop()
		}
		return
	}
	for range ops {
		t.Reset(sp.random(r))
		t.Stop()
	}
}

func (s *ownedSubject) replace(ops int, sp span) {
	n := uint64(len(s.timers))
	for range ops {
		t := &s.timers[s.r.below(n)]
		t.Stop()
		t.Reset(sp.random(s.r))
	}
}

func (s *ownedSubject) touch(ops int, d time.Duration) {
	n := uint64(len(s.timers))
	if s.reset {
		for range ops {
			s.timers[s.r.below(n)].Reset(d)
		}
		return
	}
	// A batch of messages shares one look at the clock; 16 is a small one.
	for ops > 0 {
		deadline := s.s.Now() + d
		for range min(ops, 16) {
			s.timers[s.r.below(n)].Postpone(deadline)
		}
		ops -= 16
	}
}

func (s *ownedSubject) fire(n int, sp span, r *recorder, armed func()) {
	timers := make([]timingwheel.FuncTimer, n)
	f := r.count
	for i := range timers {
		d := sp.random(s.r)
		if r.buckets != nil {
			due := r.now() + d
			f = func() { r.note(due) }
		}
		s.s.Bind(&timers[i], f)
		timers[i].Reset(d)
	}
	armed()
	<-r.done
}

func (s *ownedSubject) close() { s.s.Close() }

// A stopper is what the AfterFunc of all others returns. Their methods are the same but for its type.
type stopper interface{ Stop() bool }

// afterFuncSubject is anything with an AfterFunc that returns a new timer.
type afterFuncSubject[T stopper] struct {
	r         *source
	timers    []T
	never     func()
	afterFunc func(time.Duration, func()) T
	reset     func(T, time.Duration) bool // nil if there is none
	shut      func()
}

func openScheduler() subject {
	s := timingwheel.NewScheduler(timingwheel.Config{})
	return &afterFuncSubject[*timingwheel.FuncTimer]{
		r:         newSource(),
		never:     func() {},
		afterFunc: s.AfterFunc,
		reset:     (*timingwheel.FuncTimer).Reset,
		shut:      func() { s.Close() },
	}
}

func (s *afterFuncSubject[T]) fill(n int, sp span) {
	s.timers = make([]T, n)
	for i := range s.timers {
		s.timers[i] = s.afterFunc(sp.random(s.r), s.never)
	}
}

func (s *afterFuncSubject[T]) armStop(ops int, d time.Duration, sp span) {
	r := newSource()
	if d != 0 {
		for range ops {
			s.afterFunc(d, s.never).Stop()
		}
		return
	}
	for range ops {
		s.afterFunc(sp.random(r), s.never).Stop()
	}
}

func (s *afterFuncSubject[T]) replace(ops int, sp span) {
	n := uint64(len(s.timers))
	for range ops {
		i := s.r.below(n)
		s.timers[i].Stop()
		s.timers[i] = s.afterFunc(sp.random(s.r), s.never)
	}
}

func (s *afterFuncSubject[T]) touch(ops int, d time.Duration) {
	n := uint64(len(s.timers))
	if s.reset != nil {
		for range ops {
			s.reset(s.timers[s.r.below(n)], d)
		}
		return
	}
	for range ops {
		i := s.r.below(n)
		s.timers[i].Stop()
		s.timers[i] = s.afterFunc(d, s.never)
	}
}

func (s *afterFuncSubject[T]) fire(n int, sp span, r *recorder, armed func()) {
	f := r.count
	for range n {
		d := sp.random(s.r)
		if r.buckets != nil {
			due := r.now() + d
			f = func() { r.note(due) }
		}
		s.afterFunc(d, f)
	}
	armed()
	<-r.done
}

func (s *afterFuncSubject[T]) close() {
	for _, t := range s.timers {
		t.Stop()
	}
	if s.shut != nil {
		s.shut()
	}
}
