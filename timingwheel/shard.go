package timingwheel

import (
	"math"
	"sync"
	"sync/atomic"
)

// noTick stands for "no timer" where a tick is expected. No timer of a Scheduler is that far away: its deadlines are
// nanoseconds in an int64.
const noTick = math.MaxUint64

// minParked is how many stopped timers a shard may keep in its wheel, besides a quarter of all timers in it.
const minParked = 1024

// shard is a wheel with a lock, and the timers that belong to it. A timer stays with its shard.
type shard struct {
	// Set once.
	sched *Scheduler
	fire  func(Timer, uint32) uint64 // expire, as a value that costs no allocation
	_     [64]byte                   // every arming reads sched: keep it out of the cache lines that are written

	// Written under mu. The earliest tick at which wheel has work, or earlier; noTick if it has none. The Scheduler's
	// goroutine reads it without the lock, to pass over shards that are idle.
	next atomic.Uint64

	mu     sync.Mutex
	wheel  *Wheel                    // nil until the first timer, so that an unused shard costs nothing
	timers []*[chunkNodes]*FuncTimer // by index of the wheel's node
	parked int                       // timers with parks set
	closed bool

	_ [64]byte
}

// link puts t into the wheel, or moves it there, and reports whether the Scheduler's goroutine must be woken to see it.
// The caller holds mu and the shard is not closed.
func (sh *shard) link(t *FuncTimer, tick, now uint64) (wake bool) {
	if sh.wheel == nil {
		sh.wheel = New(now)
	}
	w := sh.wheel
	w.skip(now)
	if at, ok := w.Deadline(t.node); ok {
		if at <= tick {
			return false // it comes by in time
		}
		w.Reset(t.node, tick)
	} else {
		t.node = w.Add(tick, 0)
		*sh.entry(t.node) = t
	}
	tick, _ = w.Deadline(t.node)
	if tick < sh.next.Load() {
		sh.next.Store(tick)
	}
	// After the store above: see Scheduler.sleep.
	return sh.sched.lowerWake(tick)
}

// unlink takes t out of the wheel if it is in. The caller holds mu.
func (sh *shard) unlink(t *FuncTimer) {
	if t.node != 0 {
		sh.wheel.Stop(t.node)
		sh.forget(t)
	}
}

// forget drops the references between t and a node that is no longer its own. The caller holds mu.
func (sh *shard) forget(t *FuncTimer) {
	*sh.entry(t.node) = nil
	t.node = 0
	sh.unpark(t)
}

// mayPark reports whether t, which is in the wheel, may stay there when it is stopped. From then on it can be stopped and
// armed without the lock, until the wheel comes to its node: counting here, and not each time, keeps goroutines that
// stop timers from sharing a counter. The caller holds mu.
func (sh *shard) mayPark(t *FuncTimer) bool {
	if t.parks.Load() {
		return true
	}
	if sh.parked >= minParked+sh.wheel.Len()/4 {
		return false
	}
	sh.parked++
	t.parks.Store(true)
	return true
}

// unpark ends that. The caller holds mu.
func (sh *shard) unpark(t *FuncTimer) {
	if t.parks.Load() {
		sh.parked--
		t.parks.Store(false)
	}
}

// entry returns the place for the timer of a node.
func (sh *shard) entry(node Timer) **FuncTimer {
	i := uint32(node)
	for int(i>>chunkBits) >= len(sh.timers) {
		sh.timers = append(sh.timers, new([chunkNodes]*FuncTimer))
	}
	return &sh.timers[i>>chunkBits][i&chunkMask]
}

// advance visits up to visitBudget timers that are due at tick, puts those that are to run into the Scheduler's batch, and
// reports whether there are no more.
func (sh *shard) advance(tick uint64) (done bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed {
		return true
	}
	done = sh.wheel.Advance(tick, visitBudget, sh.fire)
	sh.settle(tick)
	next, ok := sh.wheel.Next()
	if !ok {
		next = noTick
	}
	sh.next.Store(next)
	return done
}

// expire is the wheel's fire function. It only collects.
func (sh *shard) expire(node Timer, _ uint32) (again uint64) {
	t := sh.entry(node)
	sh.sched.batch = append(sh.sched.batch, *t)
	*t = nil
	return 0
}

// settle goes through what expire has collected. It drops timers that were stopped, puts those back that were postponed,
// and leaves those that are due. Whether these run is decided when their turn comes, by FuncTimer.claim, so that they can
// be stopped until then. The caller holds mu.
func (sh *shard) settle(tick uint64) {
	s := sh.sched
	// The timers may be anywhere in memory. While nothing depends on what is read, the processor fetches several at once.
	for _, t := range s.batch {
		s.sum += t.due.Load()
	}
	due := s.batch[:0]
	for _, t := range s.batch {
		t.node = 0
		sh.unpark(t)
		at := t.due.Load()
		for at < 0 && !t.due.CompareAndSwap(at, 0) { // parked: its place is gone, unless it has just been armed again
			at = t.due.Load()
		}
		switch {
		case at <= 0:
		case s.tickUp(at) > tick:
			sh.link(t, s.tickUp(at), tick)
		default:
			due = append(due, t)
		}
	}
	clear(s.batch[len(due):])
	s.batch = due
}

// close stops all timers.
func (sh *shard) close() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.closed = true
	for _, chunk := range sh.timers {
		for _, t := range chunk {
			if t != nil {
				t.due.Store(0)
				t.node = 0
			}
		}
	}
	sh.wheel, sh.timers = nil, nil
	sh.next.Store(noTick)
}
