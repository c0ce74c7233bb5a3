package engine

import (
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/pulsewheel/pulsewheel/engine/internal/poll"
	"github.com/pulsewheel/pulsewheel/timingwheel"
)

const (
	readBufferSize = 64 << 10
	beatBufferSize = 512 // heartbeats are small; others are allocated
	// mailBatch is how many letters one wake-up serves; what is left wakes the
	// loop again through the poller, so that I/O gets its turn.
	mailBatch = 256
	// ahead is how many connections before its turn one is fetched from memory.
	ahead = 4
	// mostDirty is how many connections' events are served before the first of
	// them is settled, and longestDirty about how long that one waits: with
	// handlers that take long, as long as one of them.
	mostDirty    = 16
	longestDirty = 50 * time.Microsecond
	// yieldAfter is how long others wait for the loop's processor at most.
	yieldAfter = int64(time.Millisecond)
	// Events are expected soon while the average time between batches, in which one
	// counts for 1/gapWeight, is less than soon. A longGap ends that for at least a
	// dozen batches.
	soon      = int64(time.Millisecond)
	gapWeight = 8
	longGap   = 5 * soon
	// drainBatches bounds how many batches of connections are still accepted
	// before a listener closes.
	drainBatches = 64
	// never is a time that does not come.
	never = math.MaxInt64
)

// Loop is one event loop: a goroutine, a poller, and the connections it owns.
// Unless a field says otherwise it belongs to that goroutine; others get in
// through the mailbox.
type Loop struct {
	// What every event touches comes first, on as few cache lines as it takes: after
	// a wait each of them may be far away.

	// Set once.
	core       *core
	poller     poll.Poller
	readBuffer []byte

	// The clock, read once per event.
	now     int64 // monotonic ns
	beat    int64 // the same, less the time during which the loop was stalled
	stalled int64
	armed   int64 // what the poller's timer is set to; never: it is not
	watchAt int64 // from when on an event is worth a word to watch
	heard   int64 // when anything was last read or accepted, on beat's clock

	dirty      []*Conn // had events, or got broadcasts: to be settled from dirtyNext on
	dirtyNext  int
	dirtySince int64

	running    *Conn  // whose callback runs, or ran last
	runs       uint64 // callbacks begun, those for the messages of one event as one
	runsThen   uint64 // the same after the latest batch
	yielded    int64  // when others were last said to wait for the processor
	servedAt   int64  // when the latest batch was
	gap        int64  // between batches, ns: a moving average of at most longGap
	fetched    int64  // keeps what is read ahead of its use from being optimized away
	largeFrame int    // the length of the latest that did not fit half of readBuffer
	beatBuffer []byte // for a heartbeat that is written at once

	// Atomic.
	stats loopStats    // those of every event first
	load  atomic.Int64 // connections, for balance

	// Set once.
	index int
	mail  mailbox
	empty chan struct{}                          // closed when the loop drains and has no connection left
	tick  int64                                  // ns
	fire  func(timingwheel.Timer, uint32) uint64 // l.fired, bound once

	stall  stallMeter
	probe  probe // of watch
	pacer  pacer
	outage presumedOutage

	// Timers.
	wheel    *timingwheel.Wheel
	timers   timerSlab
	dueSince int64     // since when something has been due; never: nothing is
	behind   bool      // the wheel has more that is due
	due      []dueItem // what fired and is to be served, from dueNext on
	// dueNext and batchNext outlive a Goexit, so that the next goroutine goes
	// on with what follows.
	dueNext int

	batch     []letter // taken from the mailbox, to be served from batchNext on
	batchNext int
	members   []*Conn // that a broadcast is being given to

	listeners []*listener
	unwinding bool          // a Goexit is ending the goroutine
	draining  bool          // no more connections; those there are to end
	runDown   *runDown      // one after another; nil: all at once
	linger    time.Duration // how long that may take each
	stopping  bool          // the mailbox is closed; the loop ends when it is served
}

func newLoop(co *core, index int) (*Loop, error) {
	poller, err := co.kernel.OpenPoller()
	if err != nil {
		return nil, err
	}
	l := &Loop{
		core: co, index: index, poller: poller,
		empty: make(chan struct{}),
		tick:  int64(co.limits.Tick),
		armed: never, dueSince: never, linger: co.limits.Linger, gap: longGap,
	}
	l.beatBuffer = make([]byte, 0, beatBufferSize)
	l.mail.wake = poller.Wake
	l.fire = l.fired
	l.now = co.kernel.Now()
	l.beat = l.now
	if co.limits.BlockedAfter < 0 {
		l.watchAt = never
	}
	l.heard = l.beat
	rate, longest := float64(co.limits.PingRate)/float64(co.limits.Loops), time.Duration(0)
	for _, p := range co.profiles {
		_, most := p.pingSpan()
		longest = max(longest, most)
	}
	l.pacer = newPacer(rate, longest, co.limits.Tick)
	l.stall = stallMeter{cap: int64(max(co.limits.StallCap, 0)), least: max(l.tick, int64(leastStall))}
	l.wheel = timingwheel.NewNear(uint64(l.now/l.tick), nearTicks)
	l.wheel.Fetch(l.fetch)
	return l, nil
}

// run is the loop's goroutine. A Goexit in a callback ends a goroutine whatever
// we do; then another one runs on.
func (l *Loop) run(takesOver bool) {
	returned := false
	defer func() {
		if !returned {
			go l.run(true)
		}
	}()
	if takesOver {
		l.takeOver()
	} else {
		l.readBuffer = make([]byte, readBufferSize)
	}
	l.end(l.poller.Run(l))
	returned = true
}

// takeOver goes on where another goroutine was ended by Goexit: with the
// connection whose callback it was, and with everything that the poller may
// have had in hand, which it does not report again.
func (l *Loop) takeOver() {
	l.unwinding = false
	l.readClock()
	if c := l.running; c != nil {
		l.finish(c)
	}
	l.mail.rearm()
	l.mail.poke()
	l.core.conns.all(func(c *Conn) bool {
		if c.loop == l {
			l.turn(c, poll.Readable|poll.Writable|poll.Hangup)
		}
		return true
	})
	for _, ln := range l.listeners {
		l.accept(ln)
	}
	l.settleDirty()
	if l.draining {
		l.drain(l.linger)
	}
	l.advance()
}

// end frees everything after the poller has stopped, or failed. A Goexit in
// Close makes it begin again.
func (l *Loop) end(err error) {
	if err != nil {
		l.core.report(slog.LevelError, "event loop failed", "loop", l.index, "err", err)
		l.draining, l.stopping = true, true
		l.mail.close()
		for l.nextLetter() {
		}
		l.killAll(Unknown, fmt.Errorf("event loop failed: %w", err))
		l.noteEmpty()
		select {
		case l.core.failed <- fmt.Errorf("engine: loop %d: %w", l.index, err):
		default:
		}
	}
	l.release()
	l.core.running.Done()
}

// release closes the descriptors of a loop that does not run.
func (l *Loop) release() {
	l.mail.close()
	for _, ln := range l.listeners {
		l.closeListener(ln)
	}
	l.listeners = nil
	_ = l.poller.Close()
}

// readClock begins an event. A timer that is overdue shows that the loop was
// stalled; that time is taken out of the beat, by which peers are judged.
func (l *Loop) readClock() {
	l.now = l.core.kernel.Now()
	if l.now-l.armed > l.stall.least {
		excluded, excess := l.stall.note(l.armed, l.now)
		l.stalled += excluded
		if excluded+excess > 0 {
			l.stats.stalled.Add(excluded)
			l.stats.stallExcess.Add(excess)
		}
	}
	l.beat = max(l.beat, l.now-l.stalled)
	if l.now >= l.watchAt {
		l.watchAt = l.now + int64(l.core.limits.BlockedAfter)
		l.probe.kick(&l.core.watch)
	}
}

// Ready serves one event of a descriptor. It is part of poll.Handler.
func (l *Loop) Ready(fd int, ev poll.Events) {
	l.readClock()
	switch n := len(l.dirty); {
	case n == 0:
		l.dirtySince = l.now
	case n >= mostDirty || l.now-l.dirtySince >= int64(longestDirty):
		l.settleDirty()
		l.dirtySince = l.now
	}
	if c := l.core.conns.at(fd); c != nil {
		// A connection of another loop has got the number of one of ours that
		// was closed while its event waited in our poller's batch.
		if c.loop == l {
			l.touch(c)
			l.turn(c, ev)
		}
		return
	}
	for _, ln := range l.listeners {
		if ln.fd == fd {
			// Who has ended gives back its place, and its descriptor, before somebody
			// is turned away for want of one.
			l.settleDirty()
			l.accept(ln)
			return
		}
	}
}

// Coming fetches what an event of a descriptor is going to need. It is part of
// poll.Handler.
func (l *Loop) Coming(fd int) {
	if c := l.core.conns.at(fd); c != nil && c.loop == l {
		l.touch(c)
	}
}

// touch has a connection's two cache lines that events and output need fetched
// from memory, at the same time and ahead of their use: among many connections each
// is far away.
func (l *Loop) touch(c *Conn) { l.fetched += int64(c.fd) + int64(c.answersDue) }

// Served settles the connections that have had events, and says what is to be known
// of the wait that follows. It is part of poll.Handler.
func (l *Loop) Served() (next poll.Wait) {
	l.settleDirty()
	if l.runs != l.runsThen {
		l.runsThen = l.runs
		next |= poll.Ran
	}
	if l.now-l.yielded >= yieldAfter {
		l.yielded = l.now
		next |= poll.Overdue
	}
	if gap := l.now - l.servedAt; gap >= longGap {
		l.gap = longGap
	} else {
		l.gap += (gap - l.gap) / gapWeight
	}
	l.servedAt = l.now
	if l.gap < soon {
		next |= poll.Soon
	}
	return next
}

// Woken serves the mailbox. It is part of poll.Handler.
func (l *Loop) Woken() {
	l.readClock()
	l.settleDirty()
	l.mail.rearm() // before the mailbox is looked at: who posts from now on wakes again
	for range mailBatch {
		if !l.nextLetter() {
			l.settleDirty()
			if l.stopping {
				l.killAll(Shutdown, nil) // who was handed over meanwhile
				l.poller.Stop()
			}
			return
		}
	}
	l.settleDirty()
	l.mail.poke()
}

// settleDirty settles the connections that had events or got broadcasts: each
// once, however many there were.
func (l *Loop) settleDirty() {
	for l.dirtyNext < len(l.dirty) {
		if next := l.dirtyNext + ahead; next < len(l.dirty) {
			l.touch(l.dirty[next])
		}
		c := l.dirty[l.dirtyNext]
		l.dirty[l.dirtyNext] = nil
		l.dirtyNext++
		l.finish(c)
	}
	l.dirty, l.dirtyNext = l.dirty[:0], 0
}

// later runs f on the loop once what it does now is done.
func (l *Loop) later(f func()) {
	if !l.mail.post(letter{f: f}) {
		l.call(nil, f) // the loop is ending
	}
}

// nextLetter serves one letter, if there is one.
func (l *Loop) nextLetter() bool {
	if l.batchNext == len(l.batch) {
		l.batch, l.batchNext = l.mail.take(l.batch), 0
		if len(l.batch) == 0 {
			return false
		}
	}
	if next := l.batchNext + ahead; next < len(l.batch) && l.batch[next].c != nil {
		l.touch(l.batch[next].c)
	}
	x := l.batch[l.batchNext]
	l.batch[l.batchNext] = letter{}
	l.batchNext++
	l.deliver(x)
	return true
}

func (l *Loop) deliver(x letter) {
	switch {
	case x.c == nil:
		l.call(nil, x.f)
	case x.f != nil:
		x.c.state.Or(scheduled)
		l.call(x.c, x.f)
		l.finish(x.c)
	case x.c.hungry:
		// The event that it goes on from may have told of an end, which is not told
		// again.
		x.c.hungry = false
		x.c.state.Or(scheduled)
		l.serve(x.c, poll.Readable|poll.Hangup)
		l.finish(x.c)
	default:
		l.finish(x.c)
	}
}

// turn serves an event's input. Output, and the end if it has come, follow when
// the dirty connections are settled, with those of the events next to this one.
// Until then c counts as scheduled, so that whatever is sent to it waits for the
// one write. Where no callback ran, there is often nothing to settle.
func (l *Loop) turn(c *Conn, ev poll.Events) {
	c.state.Or(scheduled)
	runs := l.runs
	l.serve(c, ev)
	if l.runs != runs || !c.rests() {
		l.dirty = append(l.dirty, c)
	}
}

// finish settles c, and reads it to its end if writing has failed: what the
// peer had sent before is still delivered.
func (l *Loop) finish(c *Conn) {
	if !l.settle(c) {
		return
	}
	c.state.Or(scheduled)
	l.serve(c, poll.Readable|poll.Hangup)
	if l.settle(c) && !c.hungry { // more another time: others wait
		c.hungry = true
		if !l.mail.post(letter{c: c}) {
			c.kill(Shutdown, nil)
			l.settle(c)
		}
	}
}

// serve handles an event's input, containing what goes wrong in callbacks.
func (l *Loop) serve(c *Conn, ev poll.Events) {
	l.running = c
	returned := false
	defer func() {
		if !returned {
			l.contain(c, recover())
		}
	}()
	c.handle(ev)
	returned = true
}

// call runs f as a callback of c, which may be nil.
func (l *Loop) call(c *Conn, f func()) {
	l.stats.calls.Add(1)
	l.runs++
	l.running = c
	returned := false
	defer func() {
		if !returned {
			l.contain(c, recover())
		}
	}()
	f()
	returned = true
}

// contain limits a panic, or a Goexit (for which there is nothing to
// recover), to the connection whose callback it was.
func (l *Loop) contain(c *Conn, panicked any) {
	err := errGoexit
	if panicked != nil {
		err = fmt.Errorf("panic: %v", panicked)
	} else if l.unwinding {
		return // of nested calls, the innermost was the one
	}
	l.unwinding = panicked == nil
	l.stats.panics.Add(1)
	if c == nil {
		l.core.report(slog.LevelError, "a posted function or timer failed", "err", err, "stack", string(debug.Stack()))
		return
	}
	c.kill(Panic, err)
	l.core.report(slog.LevelError, "a callback failed", "conn", uint64(c.id), "remote", c.remote.String(), "err", err, "stack", string(debug.Stack()))
}

// Post runs f on the loop, after everything posted before by the same
// goroutine. It returns ErrClosed once the loop has ended.
func (l *Loop) Post(f func()) error {
	if !l.mail.post(letter{f: f}) {
		return ErrClosed
	}
	return nil
}

// drain begins the loop's shutdown: no more listeners, and every connection
// ends once what was sent to it is delivered. It may be repeated.
func (l *Loop) drain(linger time.Duration) {
	l.draining, l.linger = true, linger
	for _, ln := range l.listeners {
		// Whom the kernel accepted already would otherwise be reset.
		for range drainBatches {
			if !l.accept(ln) {
				break
			}
		}
		l.closeListener(ln)
	}
	l.listeners = nil
	if l.core.limits.RunDown > 0 {
		l.runDownFurther()
	} else {
		l.core.conns.all(func(c *Conn) bool {
			if c.loop == l {
				l.dismiss(c)
			}
			return true
		})
	}
	l.noteEmpty()
}

// dismiss tells the peer to go, and ends the connection in good order.
func (l *Loop) dismiss(c *Conn) {
	c.goAway()
	c.beginDrain(Shutdown, nil)
	l.finish(c)
}

// runDown is a shutdown that takes its time.
type runDown struct {
	begun     int64
	dismissed int
	left      []*Conn
	timer     *Timer
}

// runDownFurther dismisses as many connections as are due by now, and comes
// back for the others. It may be called at any time, and begins a run-down if
// there is none.
func (l *Loop) runDownFurther() {
	r := l.runDown
	if r == nil {
		r = &runDown{begun: l.now}
		l.runDown = r
		l.core.conns.all(func(c *Conn) bool {
			if c.loop == l {
				r.left = append(r.left, c)
			}
			return true
		})
	}
	if r.timer != nil {
		r.timer.Stop()
	}
	// Armed first: a Goexit in a callback below must not be the end of it.
	r.timer = l.AfterFunc(l.core.limits.Tick, l.runDownFurther)
	rate := float64(l.core.limits.RunDown) / float64(len(l.core.loops))
	due := int(time.Duration(l.now-r.begun).Seconds()*rate) + 1
	for r.dismissed < due && len(r.left) > 0 {
		c := r.left[len(r.left)-1]
		r.left = r.left[:len(r.left)-1]
		if c.phase != gone {
			r.dismissed++
			l.dismiss(c)
		}
	}
	if len(r.left) == 0 {
		r.timer.Stop()
	}
}

// noteEmpty tells a shutdown that waits when the last connection is gone.
func (l *Loop) noteEmpty() {
	if l.draining && l.load.Load() == 0 {
		select {
		case <-l.empty:
		default:
			close(l.empty)
		}
	}
}

// stop resets what connections are left. The loop ends when it has served what
// is in its mailbox, which takes no more.
func (l *Loop) stop() {
	l.stopping = true
	l.mail.close()
	l.killAll(Shutdown, nil)
}

// killAll resets every connection of the loop.
func (l *Loop) killAll(reason Reason, err error) {
	l.core.conns.all(func(c *Conn) bool {
		if c.loop == l {
			c.hard = true
			c.kill(reason, err)
			l.finish(c)
		}
		return true
	})
}

// stallMeter measures for how long the loop did not get to run, within a
// budget per window: a peer must not live for ever because we keep stalling.
type stallMeter struct {
	cap       int64 // ns a window
	least     int64 // ns that a timer must be late for that to be a stall
	left      int64 // of the current window's budget
	windowEnd int64
	noted     int64 // up to when stalls were counted
}

// leastStall is the lateness of a timer that is ordinary on a busy machine, and
// no harm to peers, since they are read before they are judged. Where many timers
// are due and each is a little late, not counting that time would be to judge
// nobody.
const leastStall = 50 * time.Millisecond

// note accounts for a timer that was armed for a time and is overdue at now.
// It returns what is excluded from peers' time, and what went over the budget.
func (s *stallMeter) note(armed, now int64) (excluded, excess int64) {
	late := now - max(armed, s.noted)
	if late <= s.least {
		return 0, 0
	}
	s.noted = now
	if now >= s.windowEnd {
		s.left = s.cap
		s.windowEnd = now + int64(stallWindow)
	}
	excluded = min(late, s.left)
	s.left -= excluded
	return excluded, late - excluded
}

// Index returns the loop's number, from 0.
func (l *Loop) Index() int { return l.index }

// Now returns the time of the event that is being served. Call it on the loop.
func (l *Loop) Now() time.Duration { return time.Duration(l.now) }
