package engine

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/timingwheel"
)

const (
	// advanceBudget bounds how many timers one call moves or fires, so that a
	// cascade of a million does not hold up I/O.
	advanceBudget = 512
	// nearTicks is within how many ticks the wheel visits a timer only once, for
	// 192 KiB a loop: 80 s of the default tick, so that it is once per connection
	// and deadline. With a million of them each visit is a wait for memory.
	nearTicks = 8000
	// timerBit marks a wheel entry that is a Timer's and not a connection's.
	timerBit = 1 << 31
)

// dueItem is something that fired: a connection's liveness, its guards, or a
// Timer.
type dueItem struct {
	c      *Conn
	guards bool // it is c's guards that are due
	action heartbeat.Action
	t      *Timer
}

// Expired drives the wheel. Every socket that was readable by then was served
// before. It is part of poll.Handler.
func (l *Loop) Expired() {
	l.readClock()
	if l.armed > l.now {
		return // a time that was replaced since
	}
	l.settleDirty()
	l.advance()
}

// advance does what is due by now, or begins to: more than advanceBudget of it
// takes several calls.
func (l *Loop) advance() {
	l.dueSince = min(l.dueSince, l.armed)
	l.noteLag(l.now) // for callbacks that ask
	// What is armed meanwhile is looked at below.
	l.armed = l.now
	if l.dueNext == len(l.due) { // otherwise a Goexit interrupted the last round
		l.due, l.dueNext = l.due[:0], 0
		l.behind = !l.wheel.Advance(uint64(l.now/l.tick), advanceBudget, l.fire)
	}
	for l.dueNext < len(l.due) {
		item := l.due[l.dueNext]
		l.due[l.dueNext] = dueItem{}
		l.dueNext++
		switch {
		case item.t != nil:
			item.t.run()
		case item.guards:
			l.attendGuards(item.c)
		default:
			l.attend(item.c, item.action)
		}
	}
	// The last of many was done later than the first.
	l.noteLag(l.core.kernel.Now())
	l.armed = never
	if l.behind {
		l.wakeAt(l.now)
		return
	}
	l.dueSince = never
	if next, ok := l.wheel.Next(); ok {
		l.wakeAtTick(next)
	}
}

// noteLag says that something that is due has not been done before now.
func (l *Loop) noteLag(now int64) {
	if late := now - l.dueSince; late > l.stats.lagMax.Load() {
		l.stats.lagMax.Store(late)
	}
}

// fired receives what the wheel found due. It runs no code of the
// application's: that might end the goroutine in the middle of the wheel.
func (l *Loop) fired(t timingwheel.Timer, data uint32) (again uint64) {
	if data&timerBit != 0 {
		return l.timers.fired(l, data&^timerBit)
	}
	if data&guardBit != 0 {
		return l.guardsFired(t, int(data&^guardBit))
	}
	c := l.core.conns.at(int(data))
	if c == nil || c.timer != t {
		return 0
	}
	if c.phase != open {
		c.timer = 0
		l.due = append(l.due, dueItem{c: c})
		return 0
	}
	c.excusePause()
	plan := c.plan()
	action, next := c.heart.Poll(plan, l.beat)
	if l.pacer.width > 0 && !action.Verdict() {
		at, ping := c.pace(plan, next, true)
		if ping && action == heartbeat.None {
			c.heart.Hasten(l.beat)
			action, at = c.heart.Poll(plan, l.beat)
		}
		next = at
	}
	if action != heartbeat.None {
		l.due = append(l.due, dueItem{c: c, action: action})
	}
	if again = l.beatTick(next); again == 0 || action.Verdict() {
		c.timer = 0
		return 0
	}
	return again
}

// fetch reads what fired is going to look at: the connections are everywhere in
// memory, and with very many of them to wait for each is most of what liveness
// costs. First where they are and then what they hold, since in a short loop the
// processor waits for many at a time.
func (l *Loop) fetch(data []uint32) {
	var found [64]*Conn
	for len(data) > 0 {
		n := min(len(data), len(found))
		for i, d := range data[:n] {
			if d&(timerBit|guardBit) != 0 {
				found[i] = nil
			} else {
				found[i] = l.core.conns.at(int(d))
			}
		}
		for _, c := range found[:n] {
			if c != nil && c.loop == l { // by now the number may be another loop's
				l.fetched += c.heart.LastRead() ^ int64(c.timer)
			}
		}
		data = data[n:]
	}
}

// tickOf rounds a time up, so that nothing fires early. Zero means never.
func (l *Loop) tickOf(at int64) uint64 {
	if at >= never-l.tick {
		return 0
	}
	return uint64(max((at+l.tick-1)/l.tick, 1))
}

// after returns the time that comes once d has passed; never, if d is that long.
func (l *Loop) after(d time.Duration) int64 {
	return l.now + min(max(int64(d), 0), never-l.now)
}

// beatTick is tickOf for a time on the clock that stands still while the loop
// is stalled.
func (l *Loop) beatTick(at int64) uint64 {
	if at >= never-l.stalled {
		return 0
	}
	return l.tickOf(at + l.stalled)
}

// arm adds a wheel entry.
func (l *Loop) arm(tick uint64, data uint32) timingwheel.Timer {
	if tick == 0 {
		return 0
	}
	t := l.wheel.Add(tick, data)
	l.wakeAtTick(tick)
	return t
}

// rearm moves a wheel entry to an earlier tick.
func (l *Loop) rearm(t timingwheel.Timer, tick uint64) {
	l.wheel.Reset(t, tick)
	l.wakeAtTick(tick)
}

func (l *Loop) wakeAtTick(tick uint64) { l.wakeAt(int64(min(tick, never/uint64(l.tick))) * l.tick) }

// wakeAt makes sure that the poller's timer expires by then. A time that has
// passed when it is asked for is due, and armed for now: that the loop was stalled
// shows in a timer that was armed in time.
func (l *Loop) wakeAt(at int64) {
	if at < l.now {
		l.dueSince = min(l.dueSince, at)
		at = l.now
	}
	if at < l.armed {
		l.armed = at
		if err := l.poller.Arm(at); err != nil {
			l.core.report(slog.LevelError, "cannot arm the loop's timer", "loop", l.index, "err", err)
		}
	}
}

// Timer is a function that runs on a loop later, once or again and again.
type Timer struct {
	loop   *Loop
	f      func()
	at     int64
	period int64 // 0: once
	state  atomic.Uint32

	// Owned by the loop.
	entry timingwheel.Timer
	slot  uint32
}

const (
	timerPending = iota
	timerDone
	timerStopped
)

// AfterFunc runs f on the loop once d has passed: never early, late by less
// than a tick plus the loop's own lag. It may be called from any goroutine. On
// a loop that has ended, the timer is stopped already.
func (l *Loop) AfterFunc(d time.Duration, f func()) *Timer { return l.newTimer(d, 0, f) }

// Every runs f on the loop each time d has passed, without drift; runs that a
// stall made impossible are left out. d is at least one tick.
func (l *Loop) Every(d time.Duration, f func()) *Timer {
	d = max(d, l.core.limits.Tick)
	return l.newTimer(d, d, f)
}

func (l *Loop) newTimer(d, period time.Duration, f func()) *Timer {
	now := l.core.kernel.Now()
	t := &Timer{loop: l, f: f, at: now + min(max(int64(d), 0), never-now), period: int64(period)}
	if !l.mail.post(letter{f: t.enter}) {
		t.state.Store(timerStopped)
	}
	return t
}

// Stop keeps the function from running (again). It returns true if it stopped
// the timer, and false if the function of AfterFunc has begun to run, or the
// timer was stopped before. It does not wait for a running function.
func (t *Timer) Stop() bool {
	if !t.state.CompareAndSwap(timerPending, timerStopped) {
		return false
	}
	t.loop.mail.post(letter{f: t.leave})
	return true
}

// enter puts the timer on the wheel.
func (t *Timer) enter() {
	if t.state.Load() != timerPending {
		return
	}
	tick := t.loop.tickOf(t.at)
	if tick == 0 {
		return // it never comes
	}
	t.slot = t.loop.timers.add(t)
	t.entry = t.loop.arm(tick, timerBit|t.slot)
}

// leave takes a stopped timer off the wheel.
func (t *Timer) leave() {
	if t.entry != 0 {
		t.loop.wheel.Stop(t.entry)
		t.loop.timers.remove(t)
	}
}

// run calls the function, unless Stop came first.
func (t *Timer) run() {
	if t.period == 0 {
		if !t.state.CompareAndSwap(timerPending, timerDone) {
			return
		}
	} else if t.state.Load() != timerPending {
		return
	}
	t.loop.call(nil, t.f)
}

// timerSlab finds Timers by a 31-bit number, which is what the wheel carries.
type timerSlab struct {
	slots []*Timer
	free  []uint32
}

func (s *timerSlab) add(t *Timer) uint32 {
	if n := len(s.free); n > 0 {
		slot := s.free[n-1]
		s.free = s.free[:n-1]
		s.slots[slot] = t
		return slot
	}
	s.slots = append(s.slots, t)
	return uint32(len(s.slots) - 1)
}

func (s *timerSlab) remove(t *Timer) {
	s.slots[t.slot] = nil
	s.free = append(s.free, t.slot)
	t.entry = 0
}

// fired enters a timer into the list of what is due.
func (s *timerSlab) fired(l *Loop, slot uint32) (again uint64) {
	t := s.slots[slot]
	l.due = append(l.due, dueItem{t: t})
	if t.period == 0 {
		s.remove(t)
		return 0
	}
	t.at += t.period * max(1, (l.now-t.at)/t.period)
	if t.at <= l.now {
		t.at += t.period
	}
	if again = l.tickOf(t.at); again == 0 {
		s.remove(t)
	}
	return again
}
