package timingwheel_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsewheel/pulsewheel/timingwheel"
)

const ms = time.Millisecond

// manualClock moves only when told. Its alarm calls beforeSleep, if set, each time the Scheduler is about to sleep.
type manualClock struct {
	now         atomic.Int64
	c           chan time.Time
	mu          sync.Mutex
	at          int64 // when the alarm rings, 0 if it is not set
	beforeSleep func()
}

func newManualClock() *manualClock { return &manualClock{c: make(chan time.Time, 1)} }

func (c *manualClock) Now() time.Duration          { return time.Duration(c.now.Load()) }
func (c *manualClock) NewAlarm() timingwheel.Alarm { return c }
func (c *manualClock) C() <-chan time.Time         { return c.c }
func (c *manualClock) Stop() bool                  { return c.Reset(math.MaxInt64) }

func (c *manualClock) Reset(d time.Duration) bool {
	c.mu.Lock()
	was := c.at != 0
	c.at = max(1, c.now.Load()+int64(d))
	hook := c.beforeSleep
	c.mu.Unlock()
	if hook != nil {
		hook()
	}
	c.ring()
	return was
}

func (c *manualClock) ring() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at > 0 && c.now.Load() >= c.at {
		c.at = 0
		select {
		case c.c <- time.Time{}:
		default:
		}
	}
}

// advance moves the clock and waits until all that follows has happened. It needs a synctest bubble.
func (c *manualClock) advance(d time.Duration) {
	c.now.Add(int64(d))
	c.ring()
	synctest.Wait()
}

func checkScheduler(t *testing.T, s *timingwheel.Scheduler) {
	t.Helper()
	synctest.Wait()
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
}

// goExecutor runs every function on a goroutine of its own.
type goExecutor struct{}

func (goExecutor) Submit(task func()) error { go task(); return nil }

// queueExecutor keeps the functions until they are run by hand, and refuses them while full.
type queueExecutor struct {
	mu    sync.Mutex
	tasks []func()
	full  bool
}

func (e *queueExecutor) Submit(task func()) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.full {
		return errors.New("full")
	}
	e.tasks = append(e.tasks, task)
	return nil
}

func (e *queueExecutor) setFull(full bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.full = full
}

// run runs what is queued and returns how many functions that were.
func (e *queueExecutor) run() int {
	e.mu.Lock()
	tasks := e.tasks
	e.tasks = nil
	e.mu.Unlock()
	for _, task := range tasks {
		task()
	}
	return len(tasks)
}

func TestAfterFunc(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := timingwheel.NewScheduler(timingwheel.Config{})
		defer s.Close()
		var fired []time.Duration
		for _, d := range []time.Duration{0, -time.Hour, 1, ms, 1500 * time.Microsecond, 64 * ms, time.Minute, 48 * time.Hour} {
			start := time.Now()
			s.AfterFunc(d, func() {
				late := time.Since(start) - max(0, d)
				if late < 0 || late > ms {
					t.Errorf("timer of %v fired %v late", d, late)
				}
				fired = append(fired, d)
			})
		}
		time.Sleep(72 * time.Hour)
		synctest.Wait()
		if len(fired) != 8 {
			t.Errorf("%d of 8 fired: %v", len(fired), fired)
		}
		checkScheduler(t, s)
	})
}

// Random operations on a Scheduler and on package time: all answers and all times of firing must be the same.
func TestSchedulerAgainstPackageTime(t *testing.T) {
	for _, executor := range []timingwheel.Executor{nil, goExecutor{}} {
		synctest.Test(t, func(t *testing.T) {
			s := timingwheel.NewScheduler(timingwheel.Config{Executor: executor})
			defer s.Close()
			type pair struct {
				ours            *timingwheel.FuncTimer
				theirs          *time.Timer
				fired, expected atomic.Int64 // number of firings, and a checksum of their times
			}
			start := time.Now()
			note := func(v *atomic.Int64) func() {
				return func() { v.Add(1 + time.Since(start).Milliseconds()<<16) }
			}
			pairs := make([]*pair, 50)
			for i := range pairs {
				p := new(pair)
				p.ours = s.AfterFunc(time.Hour, note(&p.fired))
				if i%2 == 0 {
					p.ours = new(timingwheel.FuncTimer)
					s.Bind(p.ours, note(&p.fired))
					p.ours.Reset(time.Hour)
				}
				p.theirs = time.AfterFunc(time.Hour, note(&p.expected))
				pairs[i] = p
			}
			seed := rand.Uint64()
			r := rand.New(rand.NewPCG(seed, 0))
			for step := range 12_000 {
				p := pairs[r.IntN(len(pairs))]
				switch k := r.IntN(10); {
				case k < 3:
					if got, want := p.ours.Stop(), p.theirs.Stop(); got != want {
						t.Fatalf("seed %d, step %d: Stop is %v, want %v", seed, step, got, want)
					}
				case k < 7:
					d := time.Duration(1<<r.IntN(12)+r.IntN(3)-1) * ms
					d = max(d, ms) // at once means "at the next tick" here
					if got, want := p.ours.Reset(d), p.theirs.Reset(d); got != want {
						t.Fatalf("seed %d, step %d: Reset(%v) is %v, want %v", seed, step, d, got, want)
					}
				default:
					time.Sleep(time.Duration(r.IntN(1<<r.IntN(10))) * ms)
					checkScheduler(t, s)
				}
				if got, want := p.fired.Load(), p.expected.Load(); got != want {
					t.Fatalf("seed %d, step %d: fired %x, want %x", seed, step, got, want)
				}
			}
			for _, p := range pairs {
				p.theirs.Stop()
			}
		})
	}
}

func TestEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := timingwheel.NewScheduler(timingwheel.Config{})
		defer s.Close()
		var mu sync.Mutex
		start := time.Now()
		var ticks []time.Duration
		var work time.Duration // how long the function takes
		every := s.Every(2500*time.Microsecond, func() {
			mu.Lock()
			ticks = append(ticks, time.Since(start))
			d := work
			mu.Unlock()
			time.Sleep(d)
		})
		// expect compares the ticks since the last call, and prepares for the next.
		expect := func(nextWork time.Duration, want ...time.Duration) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(ticks, want) {
				t.Errorf("fired at %v, want %v", ticks, want)
			}
			ticks, work = nil, nextWork
		}
		time.Sleep(12 * ms)
		expect(9*ms, 3*ms, 5*ms, 8*ms, 10*ms) // no drift: 2.5, 5, 7.5 and 10, each rounded up
		time.Sleep(24 * ms)
		expect(0, 13*ms, 22*ms, 31*ms) // 12.5, runs until 22; 15, which makes up for all until 20; 22.5
		time.Sleep(8 * ms)
		expect(0, 40*ms, 43*ms)
		if !every.Reset(4 * ms) {
			t.Error("Reset of a ticking timer is false")
		}
		time.Sleep(9 * ms)
		expect(0, 48*ms, 52*ms)
		if !every.Stop() || every.Stop() {
			t.Error("Stop of a ticking timer is not true, then false")
		}
		time.Sleep(time.Hour)
		expect(0)
		if every.Reset(time.Second) {
			t.Error("Reset of a stopped timer is true")
		}
		time.Sleep(2500 * ms)
		expect(0, time.Hour+1053*ms, time.Hour+2053*ms)
	})
}

func TestEveryStopsItself(t *testing.T) {
	for _, executor := range []timingwheel.Executor{nil, goExecutor{}} {
		synctest.Test(t, func(t *testing.T) {
			s := timingwheel.NewScheduler(timingwheel.Config{Executor: executor})
			defer s.Close()
			var every timingwheel.FuncTimer
			n := 0
			s.Bind(&every, func() {
				if n++; n == 3 && !every.Stop() {
					t.Error("Stop within the third call is false")
				}
			})
			if every.Every(ms) {
				t.Error("Every of a new timer is true")
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if n != 3 {
				t.Errorf("called %d times after being stopped in the third", n)
			}
		})
	}
}

// A periodic function that is still running is not called a second time.
func TestEveryDoesNotOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := timingwheel.NewScheduler(timingwheel.Config{Executor: goExecutor{}})
		defer s.Close()
		var running, calls atomic.Int32
		s.Every(ms, func() {
			if running.Add(1) != 1 {
				t.Error("two calls at the same time")
			}
			time.Sleep(3500 * time.Microsecond)
			running.Add(-1)
			calls.Add(1)
		})
		time.Sleep(41 * ms)
		synctest.Wait()
		if n := calls.Load(); n != 10 {
			t.Errorf("%d calls, want 10", n)
		}
	})
}

func TestPostpone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := timingwheel.NewScheduler(timingwheel.Config{})
		defer s.Close()
		var timer timingwheel.FuncTimer
		var fired []time.Duration
		s.Bind(&timer, func() { fired = append(fired, s.Now()) })
		if timer.Postpone(time.Hour) {
			t.Error("Postpone armed a timer")
		}
		timer.Reset(10 * ms)
		time.Sleep(5 * ms)
		for _, to := range []time.Duration{15 * ms, 7 * ms, 0, -1, 14 * ms} { // only the first is later
			if !timer.Postpone(to) {
				t.Errorf("Postpone(%v) is false", to)
			}
		}
		time.Sleep(5 * ms)
		if !timer.Postpone(100*ms + 1) {
			t.Error("Postpone is false")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if !slices.Equal(fired, []time.Duration{101 * ms}) || timer.Postpone(2*time.Hour) {
			t.Errorf("fired at %v, want once at 101ms", fired)
		}
		checkScheduler(t, s)
	})
}

// Trap: deadlines must round up to a tick, and the time down.
func TestRounding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := newManualClock()
		s := timingwheel.NewScheduler(timingwheel.Config{Tick: 1000, Clock: clock})
		defer s.Close()
		const µ = time.Microsecond
		clock.advance(999)
		for _, d := range []time.Duration{1, 2, 1000, 1001, 1002} {
			due := clock.Now() + d
			fired := time.Duration(0)
			s.AfterFunc(d, func() { fired = clock.Now() })
			for fired == 0 {
				clock.advance(1)
				if clock.Now() > due+µ {
					t.Fatalf("due at %d, not fired at %d", due, clock.Now())
				}
			}
			if fired < due || fired >= due+µ {
				t.Errorf("due at %d, fired at %d", due, fired)
			}
			clock.advance(999 - fired%1000)
		}
		// Rounded down, the deadlines would still not come early, but each would wake the goroutine once in vain.
		if n := s.Stats().Wakeups; n > 9 {
			t.Errorf("%d wakeups for 5 timers", n)
		}
	})
}

// Trap: a lock that Reset takes twice, for the slot that the timer leaves and for the same one again.
func TestResetWithinSlot(t *testing.T) {
	s := timingwheel.NewScheduler(timingwheel.Config{Shards: 1})
	defer s.Close()
	timers := make([]timingwheel.FuncTimer, 10)
	var wg sync.WaitGroup
	for i := range timers {
		s.Bind(&timers[i], func() { t.Error("fired") })
	}
	for range 4 {
		wg.Go(func() {
			for i := range 10_000 {
				timers[i%len(timers)].Reset(time.Hour - time.Duration(i)*time.Microsecond) // earlier: not without the lock
			}
		})
	}
	wg.Wait()
	if err := s.Check(); err != nil {
		t.Error(err)
	}
}

// Trap: now + d overflows.
func TestLongDurations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tick := range []time.Duration{1, ms, math.MaxInt64} {
			s := timingwheel.NewScheduler(timingwheel.Config{Tick: tick})
			time.Sleep(time.Second)
			never := func() { t.Error("fired") }
			s.AfterFunc(math.MaxInt64, never)
			s.Every(math.MaxInt64, never)
			timer := s.AfterFunc(time.Hour, never)
			timer.Postpone(math.MaxInt64)
			s.AfterFunc(time.Hour, never).Reset(math.MaxInt64 - 1)
			time.Sleep(1000 * time.Hour)
			checkScheduler(t, s)
			if !timer.Stop() {
				t.Error("the timer is not armed any more")
			}
			s.Close()
		}
		s := timingwheel.NewScheduler(timingwheel.Config{})
		defer s.Close()
		fired := 0
		s.AfterFunc(math.MinInt64, func() { fired++ })
		time.Sleep(ms)
		if synctest.Wait(); fired != 1 {
			t.Error("a timer with the shortest duration did not fire")
		}

		clock := newManualClock()
		clock.now.Store(int64(math.MaxInt64 - 20*ms))
		old := timingwheel.NewScheduler(timingwheel.Config{Clock: clock})
		defer old.Close()
		every := old.Every(15*ms, func() { fired++ })
		clock.advance(18 * ms)
		if fired != 2 || !every.Stop() {
			t.Error("a periodic timer did not stay armed up to the last nanosecond")
		}
	})
}

// While no timer is armed the goroutine does not wake, also not after timers have come and gone.
func TestIdleNeverWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := timingwheel.NewScheduler(timingwheel.Config{})
		defer s.Close()
		expect := func(most uint64) {
			t.Helper()
			synctest.Wait()
			before := s.Stats().Wakeups
			time.Sleep(1000 * time.Hour)
			synctest.Wait()
			if got := s.Stats().Wakeups - before; got > most {
				t.Errorf("%d wakeups, want at most %d", got, most)
			}
		}
		expect(0)
		s.AfterFunc(time.Second, func() {})
		expect(2) // a cascade, and the deadline
		expect(0)
		var own timingwheel.FuncTimer
		s.Bind(&own, func() {})
		for range 1000 {
			own.Reset(time.Minute)
			own.Stop()
			s.AfterFunc(time.Minute, func() {}).Stop()
		}
		expect(12)
		expect(0)
		if held := s.Stats().Held; held != 0 {
			t.Errorf("%d timers are still held", held)
		}
	})
}

// Arming and stopping again and again must not wake the goroutine each time, whether it comes to look in between or not.
func TestArmStopWakesOnce(t *testing.T) {
	for _, look := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := timingwheel.NewScheduler(timingwheel.Config{})
			defer s.Close()
			for range 100 {
				timer := s.AfterFunc(time.Minute, func() {})
				if look {
					synctest.Wait()
				}
				timer.Stop()
				synctest.Wait()
				time.Sleep(ms)
			}
			if n := s.Stats().Wakeups; n > 2 {
				t.Errorf("%d wakeups", n)
			}
		})
	}
}

// A wheel that has slept for long must not take new timers for far away: they would all have to cascade at once.
func TestArmAfterLongSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := timingwheel.NewScheduler(timingwheel.Config{Shards: 1})
		defer s.Close()
		timer := s.AfterFunc(ms, func() {})
		time.Sleep(time.Hour)
		synctest.Wait()
		timer.Reset(time.Minute)
		if now := time.Duration(s.WheelNow()) * ms; now != time.Hour {
			t.Errorf("the wheel stands at %v", now)
		}
	})
}

// Trap: a tickless driver must publish how long it sleeps before it looks for timers, or one that is armed in between is
// slept through.
func TestArmWhileFallingAsleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := newManualClock()
		s := timingwheel.NewScheduler(timingwheel.Config{Clock: clock})
		defer s.Close()
		fired := false
		once := sync.OnceFunc(func() { s.AfterFunc(5*ms, func() { fired = true }) })
		clock.mu.Lock()
		clock.beforeSleep = once
		clock.mu.Unlock()
		s.AfterFunc(time.Hour, func() {}) // now it looks, finds this one, sets the alarm, and the next is armed
		synctest.Wait()
		clock.advance(5 * ms)
		if !fired {
			t.Error("a timer armed while the Scheduler fell asleep was slept through")
		}
	})
}

// The same from outside: timers are armed just as the Scheduler falls asleep, and each must fire.
func TestNoLostWakeup(t *testing.T) {
	s := timingwheel.NewScheduler(timingwheel.Config{Tick: time.Microsecond})
	defer s.Close()
	var fired atomic.Int64
	var timer timingwheel.FuncTimer
	s.Bind(&timer, func() { fired.Add(1) })
	for i := range int64(10_000) {
		for range i % 1024 {
			_ = fired.Load() // some nanoseconds up to some hundred
		}
		timer.Reset(0)
		start := time.Now()
		for spins := 1; fired.Load() <= i; spins++ {
			if spins%1000 != 0 {
				continue
			}
			runtime.Gosched()
			if time.Since(start) > 10*time.Second {
				t.Fatalf("timer %d was slept through", i)
			}
		}
	}
}

// Trap: Stop racing with fire. Every arming ends exactly once: by a call, or by a Stop that returns true.
func TestStopRacesWithFire(t *testing.T) {
	for name, executor := range map[string]timingwheel.Executor{"inline": nil, "executor": goExecutor{}} {
		t.Run(name, func(t *testing.T) {
			s := timingwheel.NewScheduler(timingwheel.Config{Tick: 10 * time.Microsecond, Executor: executor})
			const timers, goroutines, ops = 8, 4, 4000
			var owned [timers]timingwheel.FuncTimer
			var armed, ended [timers]atomic.Int64
			for i := range owned {
				s.Bind(&owned[i], func() { ended[i].Add(1) })
			}
			var wg sync.WaitGroup
			for g := range goroutines {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(uint64(g), rand.Uint64()))
					for range ops {
						i := r.IntN(timers)
						switch r.IntN(4) {
						case 0:
							if owned[i].Stop() {
								ended[i].Add(1)
							}
						case 1:
							owned[i].Postpone(s.Now() + time.Duration(r.IntN(50))*time.Microsecond)
						default:
							if !owned[i].Reset(time.Duration(r.IntN(50)-10) * time.Microsecond) {
								armed[i].Add(1)
							}
						}
					}
				})
			}
			wg.Wait()
			for i := range owned {
				if owned[i].Stop() {
					ended[i].Add(1)
				}
			}
			s.Close()
			for i := range owned {
				if armed[i].Load() != ended[i].Load() {
					t.Errorf("timer %d: armed %d times, ended %d times", i, armed[i].Load(), ended[i].Load())
				}
			}
		})
	}
}

// handOver is an executor that passes the functions on.
type handOver chan func()

func (e handOver) Submit(task func()) error { e <- task; return nil }

// Aims at the very moment of the decision: a goroutine stops the timer while another begins its turn.
func TestStopAtTheDecision(t *testing.T) {
	tasks := make(handOver)
	s := timingwheel.NewScheduler(timingwheel.Config{Tick: time.Microsecond, Executor: tasks})
	defer s.Close()
	var timer timingwheel.FuncTimer
	runs, stops := 0, 0
	s.Bind(&timer, func() { runs++ })
	var round atomic.Int64
	stopped := make(chan bool)
	const rounds = 15_000
	go func() {
		for i := range int64(rounds) {
			for spins := 0; round.Load() <= i; spins++ {
				if spins > 1000 {
					runtime.Gosched()
				}
			}
			stopped <- timer.Stop()
		}
	}()
	for i := range rounds {
		timer.Reset(0)
		task := <-tasks
		round.Add(1)
		for range i % 512 {
			_ = round.Load() // some nanoseconds up to some hundred
		}
		task()
		if <-stopped {
			stops++
		}
		if runs+stops != i+1 {
			t.Fatalf("armed %d times, but %d runs and %d stops", i+1, runs, stops)
		}
	}
	if runs == 0 || stops == 0 {
		t.Logf("not aimed well: %d runs, %d stops", runs, stops)
	}
}

// A function may stop, reset and create timers, also ones whose turn comes in the same tick.
func TestFunctionChangesTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := timingwheel.NewScheduler(timingwheel.Config{Shards: 1})
		defer s.Close()
		var timers [6]timingwheel.FuncTimer
		var fired []int
		for i := range timers {
			s.Bind(&timers[i], func() {
				fired = append(fired, i)
				if i > 0 || len(fired) > 1 {
					return
				}
				if !timers[1].Stop() {
					t.Error("Stop of a timer that waits for its turn is false")
				}
				if !timers[2].Reset(5*ms) || timers[0].Reset(7*ms) {
					t.Error("Reset is not true for the waiting timer, and false for the timer that fired")
				}
				timers[4].Postpone(s.Now() + 9*ms)
				timers[5].Reset(5 * ms)
				timers[5].Stop() // it keeps its new place, and its turn must not count
				s.AfterFunc(0, func() { fired = append(fired, 10) })
			})
			timers[i].Reset(ms)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if want := []int{0, 3, 10, 2, 0, 4}; !slices.Equal(fired, want) {
			t.Errorf("fired %v, want %v", fired, want)
		}
		checkScheduler(t, s)
	})
}

// With one shard the order of arming is kept within a tick; with several, the order of ticks still is.
func TestOrderWhenLate(t *testing.T) {
	for _, shards := range []int{1, 4} {
		synctest.Test(t, func(t *testing.T) {
			clock := newManualClock()
			s := timingwheel.NewScheduler(timingwheel.Config{Clock: clock, Shards: shards})
			defer s.Close()
			type firing struct {
				tick time.Duration
				i    int
			}
			var want, fired []firing
			timers := make([]timingwheel.FuncTimer, 3000)
			for i := range timers {
				f := firing{time.Duration(rand.IntN(100)+1) * ms, i}
				want = append(want, f)
				s.Bind(&timers[i], func() { fired = append(fired, f) })
				timers[i].Reset(f.tick)
			}
			clock.advance(time.Second) // all at once
			byTick := func(a, b firing) int { return int(a.tick - b.tick) }
			slices.SortStableFunc(want, byTick)
			if len(fired) != len(want) || !slices.IsSortedFunc(fired, byTick) || shards == 1 && !slices.Equal(fired, want) {
				t.Errorf("%d shards: %d timers fired out of order", shards, len(fired))
			}
		})
	}
}

// Trap: a goroutine for each timer that fires.
func TestNoGoroutinePerTimer(t *testing.T) {
	s := timingwheel.NewScheduler(timingwheel.Config{})
	defer s.Close()
	before := runtime.NumGoroutine()
	var most atomic.Int64
	var wg sync.WaitGroup
	for range 5000 {
		wg.Add(1)
		s.AfterFunc(time.Duration(rand.IntN(20))*ms, func() {
			most.Store(max(most.Load(), int64(runtime.NumGoroutine())))
			wg.Done()
		})
	}
	wg.Wait()
	if got := int(most.Load()); got > before {
		t.Errorf("%d goroutines while 5000 timers fired, %d before", got, before)
	}
}

func TestCloseWaits(t *testing.T) {
	for name, executor := range map[string]timingwheel.Executor{"inline": nil, "executor": goExecutor{}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := timingwheel.NewScheduler(timingwheel.Config{Executor: executor})
				var finished atomic.Bool
				s.AfterFunc(ms, func() {
					time.Sleep(time.Hour)
					finished.Store(true)
				})
				var later timingwheel.FuncTimer
				s.Bind(&later, func() { t.Error("called after Close") })
				later.Reset(time.Minute)
				every := s.Every(time.Minute, func() { t.Error("called after Close") })
				time.Sleep(2 * ms)
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() {
						if err := s.Close(); err != nil || !finished.Load() {
							t.Errorf("Close returned %v, function finished: %v", err, finished.Load())
						}
					})
				}
				wg.Wait()
				if later.Stop() || later.Reset(0) || later.Postpone(math.MaxInt64) || every.Stop() || every.Every(ms) {
					t.Error("a timer was armed after Close")
				}
				if s.AfterFunc(0, func() { t.Error("called after Close") }).Stop() {
					t.Error("a timer was armed after Close")
				}
				time.Sleep(time.Hour)
			})
		})
	}
}

// What the executor has queued when the Scheduler is closed is not called any more.
func TestCloseWithQueuedFunctions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := new(queueExecutor)
		s := timingwheel.NewScheduler(timingwheel.Config{Executor: pool})
		timer := s.AfterFunc(ms, func() { t.Error("called") })
		time.Sleep(ms)
		synctest.Wait()
		closed := make(chan struct{})
		go func() { s.Close(); close(closed) }()
		synctest.Wait()
		select {
		case <-closed:
			t.Fatal("Close did not wait for the executor")
		default:
		}
		if pool.run() != 1 {
			t.Error("nothing was queued")
		}
		<-closed
		if timer.Stop() || timer.Reset(ms) {
			t.Error("armed after Close")
		}
	})
}

// Timers whose turn has come but that have not run are stopped by Close, too.
func TestCloseWithinTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := timingwheel.NewScheduler(timingwheel.Config{Shards: 1})
		s.AfterFunc(ms, func() {
			go s.Close()
			time.Sleep(ms)
		})
		timer := s.AfterFunc(ms, func() { t.Error("called after Close was") })
		time.Sleep(3 * ms / 2) // into the first function
		s.Close()
		if timer.Stop() {
			t.Error("a timer is armed after Close")
		}
	})
}

// refuser is an executor that closes the Scheduler and then refuses the function.
type refuser struct{ s *timingwheel.Scheduler }

func (e *refuser) Submit(func()) error {
	go e.s.Close()
	time.Sleep(ms)
	return errors.New("refused")
}

func TestCloseWhileExecutorRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		executor := new(refuser)
		s := timingwheel.NewScheduler(timingwheel.Config{Executor: executor})
		executor.s = s
		timer := s.AfterFunc(ms, func() { t.Error("called") })
		time.Sleep(3 * ms / 2) // into Submit
		s.Close()
		if timer.Stop() {
			t.Error("a timer is armed after Close")
		}
	})
}

func TestStopWhileQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := new(queueExecutor)
		s := timingwheel.NewScheduler(timingwheel.Config{Executor: pool})
		defer s.Close()
		calls := 0
		var timer timingwheel.FuncTimer
		s.Bind(&timer, func() { calls++ })
		run := func(queued, want int) {
			t.Helper()
			synctest.Wait()
			if n := pool.run(); n != queued || calls != want {
				t.Errorf("%d queued, %d calls; want %d, %d", n, calls, queued, want)
			}
			checkScheduler(t, s)
		}
		timer.Reset(ms)
		time.Sleep(ms)
		synctest.Wait()
		if !timer.Stop() {
			t.Error("Stop of a queued timer is false")
		}
		run(1, 0)

		timer.Reset(ms)
		time.Sleep(ms)
		synctest.Wait()
		if !timer.Reset(10 * ms) {
			t.Error("Reset of a queued timer is false")
		}
		run(1, 0)
		time.Sleep(10 * ms)
		run(1, 1)

		timer.Reset(ms)
		time.Sleep(ms)
		synctest.Wait()
		timer.Postpone(s.Now() + 20*ms)
		timer.Stop()
		timer.Reset(30 * ms) // by now without a lock
		run(1, 1)
		time.Sleep(30 * ms)
		run(1, 2)

		timer.Every(ms)
		time.Sleep(50 * ms) // does not pile up
		run(1, 3)
	})
}

func TestExecutorRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := &queueExecutor{full: true}
		s := timingwheel.NewScheduler(timingwheel.Config{Executor: pool})
		defer s.Close()
		calls := 0
		once := s.AfterFunc(ms, func() { calls++ })
		stopped := s.AfterFunc(ms, func() { t.Error("called after Stop") })
		every := s.Every(ms, func() { calls += 100 })
		time.Sleep(25 * ms)
		synctest.Wait()
		if n := s.Stats().Rejected; n != 9 {
			t.Errorf("%d rejected, want three for each timer", n)
		}
		if !stopped.Stop() {
			t.Error("Stop of a refused timer is false")
		}
		pool.setFull(false)
		time.Sleep(10 * ms)
		synctest.Wait()
		pool.run()
		if calls != 101 {
			t.Errorf("calls: %d", calls)
		}
		if once.Stop() || !every.Stop() {
			t.Error("Stop is not false for the timer that was called, and true for the periodic one")
		}

		// A timer that waits to be offered again can be reset to a time before that.
		pool.setFull(true)
		once.Reset(ms)
		time.Sleep(2 * ms)
		pool.setFull(false)
		once.Reset(3 * ms)
		time.Sleep(3 * ms)
		synctest.Wait()
		pool.run()
		if calls != 102 {
			t.Errorf("calls: %d", calls)
		}
		checkScheduler(t, s)
	})
}

func TestGoexitInFunction(t *testing.T) {
	for name, executor := range map[string]timingwheel.Executor{"inline": nil, "executor": goExecutor{}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := timingwheel.NewScheduler(timingwheel.Config{Executor: executor})
				defer s.Close()
				var calls atomic.Int32
				for range 5 {
					s.AfterFunc(ms, func() { calls.Add(1); runtime.Goexit() })
				}
				s.Every(10*ms, func() { calls.Add(100); runtime.Goexit() })
				time.Sleep(35 * ms)
				synctest.Wait()
				if n := calls.Load(); n != 305 {
					t.Errorf("calls: %d, want 305", n)
				}
			})
		})
	}
}

// Stopped timers stay in the wheel to be armed again cheaply, but only so many, and not beyond their deadline.
func TestParkedTimersAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := timingwheel.NewScheduler(timingwheel.Config{Shards: 1})
		defer s.Close()
		timers := make([]timingwheel.FuncTimer, 10_000)
		for i := range timers {
			s.Bind(&timers[i], func() { t.Error("a stopped timer fired") })
			timers[i].Reset(time.Hour)
		}
		for range 2 {
			for i := range timers {
				if !timers[i].Stop() {
					t.Fatal("Stop is false")
				}
			}
			checkScheduler(t, s)
			if held := s.Stats().Held; held == 0 || held > timingwheel.MinParked+len(timers)/4 {
				t.Errorf("%d timers are held after all were stopped", held)
			}
			for i := range timers {
				if timers[i].Reset(2 * time.Hour) {
					t.Fatal("Reset of a stopped timer is true")
				}
			}
		}
		for i := range timers {
			timers[i].Stop()
		}
		time.Sleep(3 * time.Hour)
		checkScheduler(t, s)
		if held := s.Stats().Held; held != 0 {
			t.Errorf("%d timers are held after their deadlines", held)
		}
	})
}

// A timer that is armed and postponed for long gives its right to be parked to others.
func TestParkingIsHandedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := timingwheel.NewScheduler(timingwheel.Config{Shards: 1})
		defer s.Close()
		timers := make([]timingwheel.FuncTimer, 2*timingwheel.MinParked)
		for i := range timers {
			s.Bind(&timers[i], func() {})
			timers[i].Reset(time.Hour)
		}
		busy, others := timers[:len(timers)*3/4], timers[len(timers)*3/4:]
		for i := range busy {
			busy[i].Stop()
			busy[i].Reset(3 * time.Hour)
		}
		for i := range others {
			others[i].Reset(3 * time.Hour)
		}
		time.Sleep(2 * time.Hour)
		before := s.Stats().Held
		for i := range others {
			others[i].Stop()
		}
		if held := s.Stats().Held; before != len(timers) || held != before {
			t.Errorf("%d timers are held, and %d when a quarter is stopped", before, held)
		}
		checkScheduler(t, s)
	})
}

func TestParkedTimerIsArmedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := timingwheel.NewScheduler(timingwheel.Config{})
		defer s.Close()
		var fired []time.Duration
		var timer timingwheel.FuncTimer
		s.Bind(&timer, func() { fired = append(fired, s.Now()) })
		timer.Reset(time.Second)
		timer.Stop()
		timer.Reset(5 * ms) // earlier than its place
		time.Sleep(10 * ms)
		timer.Reset(time.Second)
		timer.Stop()
		time.Sleep(time.Minute) // its place is gone
		timer.Reset(5 * ms)
		time.Sleep(10 * ms)
		timer.Reset(10 * ms)
		timer.Stop()
		timer.Reset(time.Hour)
		timer.Stop()
		time.Sleep(time.Minute) // again, and it was an earlier one than its last deadline
		timer.Reset(2 * time.Hour)
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if want := []time.Duration{5 * ms, time.Minute + 15*ms, 2*time.Hour + 2*time.Minute + 20*ms}; !slices.Equal(fired, want) {
			t.Errorf("fired at %v, want %v", fired, want)
		}
	})
}

func TestMisuse(t *testing.T) {
	s := timingwheel.NewScheduler(timingwheel.Config{})
	defer s.Close()
	var zero, bound timingwheel.FuncTimer
	s.Bind(&bound, func() {})
	if zero.Stop() || zero.Postpone(1) {
		t.Error("the zero FuncTimer is armed")
	}
	for name, f := range map[string]func(){
		"Reset unbound": func() { zero.Reset(ms) },
		"Every unbound": func() { zero.Every(ms) },
		"Bind twice":    func() { s.Bind(&bound, func() {}) },
		"Every 0":       func() { bound.Every(0) },
		"Scheduler.Every 0": func() {
			s.Every(0, func() {})
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

func TestSchedulerAllocations(t *testing.T) {
	s := timingwheel.NewScheduler(timingwheel.Config{Tick: time.Microsecond})
	defer s.Close()
	timers := make([]timingwheel.FuncTimer, 100)
	fired := make(chan struct{}, len(timers))
	for i := range timers {
		s.Bind(&timers[i], func() { fired <- struct{}{} })
	}
	if n := testing.AllocsPerRun(100, func() {
		for i := range timers {
			timers[i].Reset(time.Hour)
			timers[i].Postpone(2 * time.Hour)
			timers[i].Stop()
			timers[i].Reset(time.Minute)
			timers[i].Reset(time.Duration(i) * time.Microsecond)
		}
		for range timers {
			<-fired
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// None early, in real time and on all processors. How late they are is for a benchmark to say.
func TestNeverEarly(t *testing.T) {
	s := timingwheel.NewScheduler(timingwheel.Config{})
	defer s.Close()
	var wg, fired sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2000 {
				d := time.Duration(rand.Int64N(int64(50 * ms)))
				start := time.Now()
				fired.Add(1)
				s.AfterFunc(d, func() {
					if early := d - time.Since(start); early > 0 {
						t.Errorf("%v early", early)
					}
					fired.Done()
				})
			}
		})
	}
	wg.Wait()
	fired.Wait()
}
