package timingwheel

import (
	"sync/atomic"
	"time"
)

// FuncTimer is a timer of a [Scheduler]: it calls a function, once or periodically. [Scheduler.AfterFunc] and
// [Scheduler.Every] return one. A caller can also own it, as a field of its own struct, for timers that cost no
// allocation: it is bound to a Scheduler and a function with [Scheduler.Bind], and then armed with Reset or Every as
// often as wanted. It must not be copied after that.
//
// All methods may be called by several goroutines at once, and from the function itself.
type FuncTimer struct {
	// Positive: the timer is armed, and this is its deadline in nanoseconds of the Scheduler's clock. Zero: it is not
	// armed. Negative: it is not armed but parked, that is stopped without a lock and still in the wheel as if it had the
	// deadline -due; to arm it for that time or later then takes no lock either.
	//
	// Whoever changes it decides: the function is called if and only if claim takes the deadline away, and the timer is
	// stopped if and only if Stop does. What would put the wheel behind is done under shard.mu: going from 0 to a
	// deadline or from one to an earlier one, and from the wheel's side to 0. So a timer with a due other than 0 is in the
	// wheel, at that tick or an earlier one, or it is in a batch or in the executor's hands, and claim will put it back.
	due atomic.Int64

	period atomic.Int64 // ns, 0 for a timer that fires once

	// Set once, by Bind.
	shard *shard
	f     func()
	task  func() // what the executor is given; nil without one
	keep  bool   // the caller owns the timer and is likely to arm it again, so it is worth parking

	parks   atomic.Bool // written under shard.mu: the timer may be parked, and counts in shard.parked
	running atomic.Bool // the function of a periodic timer runs on the executor

	node Timer // under shard.mu: the timer in shard.wheel, 0 if there is none
}

// Stop ends the timer's current arming and reports whether it did: true if the timer was armed, and then its function
// is not called for that arming, nor again if the timer is periodic; false if the timer had fired or was stopped, or
// never armed. As in package time, Stop does not wait for a call that has begun.
//
// Arming and stopping a caller-owned timer over and over takes no lock most of the time. For that, the Scheduler may keep
// a reference to a stopped timer until the deadline it had, for up to 1024 timers a shard and a quarter of all that the
// shard holds at the time.
func (t *FuncTimer) Stop() bool {
	due := t.due.Load()
	if due <= 0 {
		return false
	}
	if t.parks.Load() && t.due.CompareAndSwap(due, -due) {
		return true
	}
	sh := t.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if t.keep && t.node != 0 && sh.mayPark(t) {
		for due = t.due.Load(); due > 0 && !t.due.CompareAndSwap(due, -due); due = t.due.Load() {
		}
		return due > 0
	}
	due = t.due.Swap(0)
	sh.unlink(t)
	return due > 0
}

// Reset arms the timer to fire after d, armed before or not, and reports whether it was. A d of zero or less fires at
// the next tick. As with time.Timer, if it was not armed its function may still be running, and the new call does not
// wait for the old one; as with time.Ticker, resetting a periodic timer also changes its period to d, which then must
// be positive.
//
// A reset to a later deadline costs a look at the clock and one atomic operation. After Close, Reset does nothing and
// returns false. On a timer that was never bound it panics.
func (t *FuncTimer) Reset(d time.Duration) bool {
	s := t.bound("Reset")
	if t.period.Load() != 0 {
		return t.Every(d)
	}
	now := int64(s.clock.Now())
	return t.arm(now, saturatingAdd(now, int64(d)))
}

// Every arms the timer to fire every period from now on, armed before or not, and reports whether it was. It makes the
// timer periodic, as described at [Scheduler.Every]. It panics if period is not positive.
func (t *FuncTimer) Every(period time.Duration) bool {
	s := t.bound("Every")
	if period <= 0 {
		panic("timingwheel: the period of a timer must be positive")
	}
	t.period.Store(int64(period))
	now := int64(s.clock.Now())
	return t.arm(now, saturatingAdd(now, int64(period)))
}

// Postpone moves the timer's deadline to a later one, given as a time of [Scheduler.Now], and reports whether the timer
// was armed. It never moves a deadline to an earlier time and never arms a timer. True means that the timer will not
// fire before deadline.
//
// It costs one atomic operation, reads no clock and takes no lock. That suits idle timeouts, which move with every
// message: one reading of the clock serves any number of timers.
func (t *FuncTimer) Postpone(deadline time.Duration) bool {
	for {
		due := t.due.Load()
		if due <= 0 {
			return false
		}
		if due >= int64(deadline) || t.due.CompareAndSwap(due, int64(deadline)) {
			return true
		}
	}
}

// bound returns the timer's Scheduler.
func (t *FuncTimer) bound(method string) *Scheduler {
	if t.shard == nil {
		panic("timingwheel: " + method + " of a FuncTimer that is not bound to a Scheduler")
	}
	return t.shard.sched
}

// arm sets the deadline to due and reports whether there was one.
func (t *FuncTimer) arm(now, due int64) (was bool) {
	due = max(due, now, 1)
	// If the wheel holds the timer at an earlier tick, it comes by then and moves the timer on. (Not so after a refusal
	// by the executor, when a deadline that has passed is tried again later: hence the comparison with now.)
	old := t.due.Load()
	if at := max(old, -old); at > now && at <= due && t.due.CompareAndSwap(old, due) {
		return old > 0
	}
	sh := t.shard
	s := sh.sched
	sh.mu.Lock()
	if sh.closed {
		sh.mu.Unlock()
		return false
	}
	old = t.due.Swap(due)
	wake := sh.link(t, s.tickUp(due), s.tickDown(now))
	sh.mu.Unlock()
	if wake {
		s.signal()
	}
	return old > 0
}

// claim takes the deadline of a timer whose turn has come, if it still has one at or before now. True means that the
// function is to be called, and no one else will.
func (t *FuncTimer) claim(now int64) bool {
	for {
		due := t.due.Load()
		switch {
		case due == 0:
			return false // stopped
		case due < 0: // stopped and parked, in a place that it has left
			if t.due.CompareAndSwap(due, 0) {
				return false
			}
			continue
		case due > now:
			t.relink(now, due) // postponed
			return false
		}
		var next int64
		if period := t.period.Load(); period > 0 {
			next = nextDue(due, period, now)
		}
		if t.due.CompareAndSwap(due, next) {
			if next != 0 {
				t.relink(now, next)
			}
			return true
		}
	}
}

// relink puts a timer that was taken out of the wheel back, at the time at or later, if it is still armed or was armed
// again, or even parked: an arming without a lock relies on its being there.
func (t *FuncTimer) relink(now, at int64) {
	sh := t.shard
	s := sh.sched
	wake := false
	sh.mu.Lock()
	switch due := t.due.Load(); {
	case sh.closed:
		t.due.Store(0)
	case due != 0:
		wake = sh.link(t, s.tickUp(max(due, at)), s.tickDown(now))
	}
	sh.mu.Unlock()
	if wake {
		s.signal()
	}
}

// runTask is the timer's turn on an executor.
func (t *FuncTimer) runTask() {
	s := t.shard.sched
	defer s.tasks.Done()
	if s.closing.Load() {
		t.due.Store(0)
		return
	}
	if !t.claim(int64(s.clock.Now())) {
		return
	}
	if t.period.Load() == 0 {
		t.f()
		return
	}
	if t.running.CompareAndSwap(false, true) {
		defer t.running.Store(false)
		t.f()
	}
}

// nextDue returns the first deadline after now of a timer that fires every period and was due at due.
func nextDue(due, period, now int64) int64 {
	missed := max(0, (now-due)/period)
	if missed >= (maxDue-due)/period {
		return maxDue
	}
	return due + (missed+1)*period
}

// maxDue is a deadline that never comes, 292 years after the clock's start.
const maxDue = int64(maxDuration)

// saturatingAdd returns a + b, for a >= 0, or the largest value if that overflows.
func saturatingAdd(a, b int64) int64 {
	if sum := a + b; b <= 0 || sum > a {
		return sum
	}
	return maxDue
}
