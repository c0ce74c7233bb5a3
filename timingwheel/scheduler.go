package timingwheel

import (
	"math"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxDuration = time.Duration(math.MaxInt64)

	// visitBudget bounds the number of timers handled under a shard's lock: some 20 µs.
	visitBudget = 256

	// retryDelay passes before a function is offered again to an executor that refused it.
	retryDelay = 10 * time.Millisecond
)

// Executor runs functions, soon, on other goroutines. An *ants.Pool is one.
type Executor interface {
	// Submit arranges for task to be called once, or returns an error and does not call it. It should not block.
	Submit(task func()) error
}

// Config holds the options of a [Scheduler]. The zero Config is ready to use.
type Config struct {
	// Tick is the resolution: timers fire at multiples of it. Zero or less means 1 ms.
	Tick time.Duration

	// Executor calls the timers' functions. Nil means that the Scheduler's own goroutine calls them, one after another:
	// the cheapest way, for functions that do not block. With an executor they may run at the same time, and in any
	// order. If Submit blocks, all timers wait; an ants pool should be nonblocking. If Submit returns an error, the timer
	// stays armed and its function is offered again 10 ms later. The executor must run what it has accepted, or Close
	// waits for ever: Close the Scheduler first, then the executor.
	Executor Executor

	// Clock tells the time. Nil means the monotonic clock of package time.
	Clock Clock

	// Shards is the number of wheels, rounded up to a power of two. Each has its own lock, and a timer belongs to one of
	// them. Zero or less means GOMAXPROCS. With 1 and no executor,
	// functions due at the same tick run in the order in which their timers were armed, except that a timer that was
	// moved to a later deadline while armed is put in its new place only when the old one comes.
	Shards int
}

// Stats are the counters of a [Scheduler].
type Stats struct {
	Held     int    // timers in the wheels: those that wait for their deadline, and stopped ones that keep their place
	Wakeups  uint64 // of the Scheduler's goroutine
	Rejected uint64 // functions that the executor refused
}

// Scheduler calls functions at set times, like AfterFunc and NewTicker of package time, for any number of timers at the
// cost of one goroutine. It is tickless: the goroutine sleeps until there is something to do, and while no timer is armed
// it does not wake at all. All methods may be called by several goroutines at once.
//
// A timer never fires early. It is late by at most a tick, plus what the goroutine needs to wake up, plus, without an
// executor, the time that the functions before it take. Functions due at different ticks start in the order of the
// ticks, those due at the same tick in no set order; see [Config] for executors and for a set order.
//
// A function that panics ends the program, as in package time. One that calls runtime.Goexit does no harm.
type Scheduler struct {
	// Set once.
	clock    Clock
	tick     int64 // ns
	executor Executor
	shards   []shard
	local    sync.Pool // of *shard: what it returns was last used on this processor
	wake     chan struct{}
	closed   chan struct{} // closed when closing is set
	done     chan struct{} // closed when drive has ended for good

	// Atomic.
	wakeAt   atomic.Uint64 // the tick until which drive sleeps; 0 while it is awake, noTick before it looks for a tick
	closing  atomic.Bool
	turn     atomic.Uint32
	wakeups  atomic.Uint64
	rejected atomic.Uint64

	tasks sync.WaitGroup // accepted by the executor and not finished

	// Owned by drive.
	alarm   Alarm
	alarmAt uint64       // the tick the alarm is set for, noTick if it is not
	now     int64        // ns, read at the last look at the clock
	batch   []*FuncTimer // timers whose turn has come; only what expire adds under a shard's lock, which drive calls
	ran     int          // how many of batch have had their turn
	sum     int64        // keeps reads from being optimized away
}

// NewScheduler starts a Scheduler. It ends with Close.
func NewScheduler(c Config) *Scheduler {
	if c.Tick <= 0 {
		c.Tick = time.Millisecond
	}
	if c.Clock == nil {
		c.Clock = monotonic{time.Now()}
	}
	if c.Shards <= 0 {
		c.Shards = runtime.GOMAXPROCS(0)
	}
	s := &Scheduler{
		clock:    c.Clock,
		tick:     int64(c.Tick),
		executor: c.Executor,
		shards:   make([]shard, 1<<bits.Len(uint(c.Shards-1))),
		wake:     make(chan struct{}, 1),
		closed:   make(chan struct{}),
		done:     make(chan struct{}),
		alarm:    c.Clock.NewAlarm(),
		alarmAt:  noTick,
		batch:    make([]*FuncTimer, 0, visitBudget),
	}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.sched = s
		sh.fire = sh.expire
		sh.next.Store(noTick)
	}
	s.local.New = func() any { return s.nextShard() }
	go s.drive()
	return s
}

// nextShard goes round the shards.
func (s *Scheduler) nextShard() *shard {
	return &s.shards[int(s.turn.Add(1))&(len(s.shards)-1)]
}

// Now returns the time of the Scheduler's clock, the scale of [FuncTimer.Postpone].
func (s *Scheduler) Now() time.Duration { return s.clock.Now() }

// Bind makes t, which must be zero, a timer of s that calls f. It does not arm it.
func (s *Scheduler) Bind(t *FuncTimer, f func()) {
	if t.shard != nil {
		panic("timingwheel: Bind of a FuncTimer that is bound already")
	}
	s.bind(t, s.nextShard(), f)
	t.keep = true
}

// newTimer returns a timer that is most likely armed at once, and stopped by the goroutine that made it.
func (s *Scheduler) newTimer(f func()) *FuncTimer {
	t := new(FuncTimer)
	// A pool keeps what it has per processor, without a lock. No other way to a processor's own shard is as cheap.
	sh := s.local.Get().(*shard)
	s.bind(t, sh, f)
	s.local.Put(sh)
	return t
}

func (s *Scheduler) bind(t *FuncTimer, sh *shard, f func()) {
	t.shard = sh
	t.f = f
	if s.executor != nil {
		t.task = t.runTask
	}
}

// AfterFunc calls f once, after d. After Close the timer it returns never fires.
func (s *Scheduler) AfterFunc(d time.Duration, f func()) *FuncTimer {
	t := s.newTimer(f)
	t.Reset(d)
	return t
}

// Every calls f every period, first one period from now. It does not drift: the deadlines are multiples of period after
// the call, each rounded up to a tick. If several have passed when f's turn comes, one call makes up for them all. While f
// still runs on an executor, deadlines are skipped: f is never called twice at the same time. A period shorter than a
// tick gives one call a tick. Every panics if period is not positive. After Close the timer it returns never fires.
func (s *Scheduler) Every(period time.Duration, f func()) *FuncTimer {
	t := s.newTimer(f)
	t.Every(period)
	return t
}

// Stats returns the current counters.
func (s *Scheduler) Stats() Stats {
	st := Stats{Wakeups: s.wakeups.Load(), Rejected: s.rejected.Load()}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		if sh.wheel != nil {
			st.Held += sh.wheel.Len()
		}
		sh.mu.Unlock()
	}
	return st
}

// Close stops all timers and waits until no function of theirs runs any more, on an executor either. When it returns, no
// function will be called again. Close can be called several times, and always waits; called from one of the functions
// it would wait for itself: start it in a goroutine there. It returns nil.
func (s *Scheduler) Close() error {
	if s.closing.CompareAndSwap(false, true) {
		for i := range s.shards {
			s.shards[i].close()
		}
		close(s.closed)
	}
	<-s.done
	s.tasks.Wait()
	return nil
}

// drive is the Scheduler's goroutine. Other goroutines change wheels under their locks, and wake it when it would sleep
// past an earlier deadline.
func (s *Scheduler) drive() {
	ended := false
	defer func() {
		if !ended {
			// A function called runtime.Goexit, or panicked and the program is about to end.
			go s.drive()
		}
	}()
	for !s.closing.Load() {
		s.runBatch() // what is left if a function ended the goroutine before
		s.now = int64(s.clock.Now())
		if first := s.first(); first <= s.tickDown(s.now) {
			s.advance(first)
			continue
		}
		s.sleep()
	}
	s.alarm.Stop()
	clear(s.batch[:cap(s.batch)])
	ended = true
	close(s.done)
}

// first returns the earliest tick at which a shard has work, or noTick.
func (s *Scheduler) first() uint64 {
	first := uint64(noTick)
	for i := range s.shards {
		first = min(first, s.shards[i].next.Load())
	}
	return first
}

// advance moves the shards that have work at tick there, and runs what is due. Going from tick to tick, and not from
// shard to shard, keeps deadlines in order across shards.
func (s *Scheduler) advance(tick uint64) {
	for i := range s.shards {
		sh := &s.shards[i]
		for done := sh.next.Load() > tick; !done && !s.closing.Load(); {
			done = sh.advance(tick)
			s.runBatch()
		}
	}
}

// runBatch gives the collected timers their turn.
func (s *Scheduler) runBatch() {
	for s.ran < len(s.batch) {
		t := s.batch[s.ran]
		s.batch[s.ran] = nil
		s.ran++
		switch {
		case s.closing.Load():
			t.due.Store(0)
		case s.executor != nil:
			s.submit(t)
		case t.claim(s.now):
			t.f()
		}
	}
	s.batch, s.ran = s.batch[:0], 0
}

// submit hands a timer whose turn has come to the executor.
func (s *Scheduler) submit(t *FuncTimer) {
	s.tasks.Add(1)
	if err := s.executor.Submit(t.task); err != nil {
		s.tasks.Done()
		s.rejected.Add(1)
		t.relink(s.now, saturatingAdd(s.now, int64(retryDelay)))
	}
}

// sleep waits until the next tick with work, or until a timer with an earlier one is armed. The tick may be that of a
// timer that was stopped, because Stop does not change a shard's next. So a goroutine that arms and stops a timer again
// and again wakes this one only once.
func (s *Scheduler) sleep() {
	// Publish first, then look: link stores a shard's next and then reads wakeAt, this stores wakeAt and then reads next.
	// So one of the two sees the other, and no deadline is slept through.
	s.wakeAt.Store(noTick)
	if tick := s.first(); tick > s.tickDown(s.now) {
		if tick < s.alarmAt {
			s.alarmAt = tick
			s.alarm.Reset(s.until(tick))
		}
		s.wakeAt.Store(s.alarmAt)
		select {
		case <-s.alarm.C():
			s.alarmAt = noTick
		case <-s.wake:
		case <-s.closed:
		}
		s.wakeups.Add(1)
	}
	s.wakeAt.Store(0)
}

// until returns the time from the last look at the clock to a tick.
func (s *Scheduler) until(tick uint64) time.Duration {
	if tick > uint64(maxDue/s.tick) {
		return time.Duration(maxDue - s.now)
	}
	return time.Duration(int64(tick)*s.tick - s.now)
}

// lowerWake notes that there is work at tick, and reports whether drive must be woken for it.
func (s *Scheduler) lowerWake(tick uint64) bool {
	for {
		at := s.wakeAt.Load()
		if tick >= at {
			return false
		}
		if s.wakeAt.CompareAndSwap(at, tick) {
			return true
		}
	}
}

// signal wakes drive. One signal in the channel is enough.
func (s *Scheduler) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// tickUp and tickDown convert nanoseconds to ticks. Deadlines are rounded up and the time down, or timers would fire early.
func (s *Scheduler) tickUp(ns int64) uint64 {
	return (uint64(ns) + uint64(s.tick) - 1) / uint64(s.tick)
}
func (s *Scheduler) tickDown(ns int64) uint64 { return uint64(ns) / uint64(s.tick) }
