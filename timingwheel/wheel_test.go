package timingwheel_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"github.com/pulsewheel/pulsewheel/timingwheel"
)

// finish is a fire function for timers that fire once.
func finish(timingwheel.Timer, uint32) uint64 { return 0 }

func checkWheel(t *testing.T, w *timingwheel.Wheel) {
	t.Helper()
	if err := w.Check(); err != nil {
		t.Fatal(err)
	}
}

// forNears runs a test with wheels that have near slots for different numbers of ticks.
func forNears(t *testing.T, test func(t *testing.T, near uint64)) {
	for _, near := range []uint64{0, 64, 8000} {
		t.Run(fmt.Sprintf("near=%d", near), func(t *testing.T) { test(t, near) })
	}
}

func TestSizes(t *testing.T) {
	if timingwheel.NodeSize > 24 {
		t.Errorf("a timer of a Wheel costs %d bytes, want at most 24", timingwheel.NodeSize)
	}
	if size := unsafe.Sizeof(timingwheel.FuncTimer{}); size > 64 {
		t.Errorf("a FuncTimer has %d bytes, want at most 64", size)
	}
}

// What is built has no slots for more ticks than were asked for, which every shard of every Scheduler pays.
func TestNearSizes(t *testing.T) {
	for near, most := range map[uint64]uint64{0: 100 << 10, 8000: 295 << 10, math.MaxUint64: 500 << 10} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		timingwheel.NewNear(5, near)
		runtime.ReadMemStats(&after)
		if size := after.TotalAlloc - before.TotalAlloc; size > most {
			t.Errorf("near %d takes %d bytes, want at most %d", near, size, most)
		}
	}
}

// A timer that is near when it is armed is visited when it fires, and not before.
func TestNearIsVisitedOnce(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, near := range []uint64{1, 64, 65, 1000, 8000, timingwheel.MaxNear} {
		for range 300 {
			start := r.Uint64() >> (1 + r.UintN(63))
			w := timingwheel.NewNear(start, near)
			d := 1 + r.Uint64N(near)
			if r.IntN(4) == 0 {
				d = near
			}
			w.Add(start+d, 0)
			if next, _ := w.Next(); next != start+d {
				t.Fatalf("near %d, start %d, duration %d: Next is after %d", near, start, d, next-start)
			}
			if !w.Advance(start+d, 1, finish) || w.Len() != 0 {
				t.Fatalf("near %d, start %d, duration %d: one visit does not do", near, start, d)
			}
		}
	}
	// Nobody has to wake to move a timer as early as that could be done.
	sleeper := timingwheel.NewNear(0, 64)
	sleeper.Add(64*5+1, 0)
	if next, _ := sleeper.Next(); next != 64*5 {
		t.Errorf("Next is %d, want the first tick of the timer's slot", next)
	}
	// More near slots than that it does not have.
	w := timingwheel.NewNear(0, math.MaxUint64)
	w.Add(timingwheel.MaxNear+64, 0)
	if w.Advance(timingwheel.MaxNear+64, 1, finish) {
		t.Error("there are more near slots than there may be")
	}
}

// Trap: a far slot and a near one at the same tick. What fires arms timers which must come after those of the far slot,
// though these were not moved when they had to be, had firing come first.
func TestOrderWhereNearBegins(t *testing.T) {
	const deadline = 64*10 + 5
	for _, budget := range []int{0, 1, 2} {
		w := timingwheel.NewNear(0, 64) // two blocks: the far slot of block 10 is moved when block 9 begins
		for data := range uint32(3) {
			w.Add(deadline, data)
		}
		w.Add(64*9, 100)
		var order []uint32
		late := uint32(3)
		for step := uint64(64 * 9); w.Len() > 0; step++ {
			for !w.Advance(step, budget, func(_ timingwheel.Timer, data uint32) uint64 {
				if data == 100 {
					w.Add(deadline, late)
					late++
				} else {
					order = append(order, data)
				}
				return 0
			}) {
				if late < 6 { // also in the middle of the move
					w.Add(deadline, late)
					late++
				}
				checkWheel(t, w)
			}
			checkWheel(t, w)
		}
		if len(order) != int(late) || !slices.IsSorted(order) {
			t.Errorf("budget %d: fired in the order %v", budget, order)
		}
	}
}

func TestFiresAtItsDeadline(t *testing.T) {
	forNears(t, func(t *testing.T, near uint64) {
		for _, start := range []uint64{0, 1, 63, 64, 4095, 1<<40 - 1, math.MaxUint64 - 1<<41} {
			for k := range 41 {
				for _, d := range []uint64{1<<k - 1, 1 << k, 1<<k + 1} {
					if d == 0 {
						continue
					}
					w := timingwheel.NewNear(start, near)
					w.Add(start+d, 7)
					fired := 0
					count := func(_ timingwheel.Timer, data uint32) uint64 { fired += int(data); return 0 }
					if w.Advance(start+d-1, 0, count); fired != 0 {
						t.Fatalf("start %d, duration %d: early", start, d)
					}
					if w.Advance(start+d, 0, count); fired != 7 || w.Len() != 0 {
						t.Fatalf("start %d, duration %d: fired %d, %d left", start, d, fired, w.Len())
					}
				}
			}
		}
	})
}

// A driver that sleeps until Next wakes at most ten times before the timer's own tick, however far away that is.
func TestNextWakeups(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		start := r.Uint64() >> r.UintN(64)
		deadline := max(start+1, r.Uint64()>>r.UintN(64))
		near := nears[r.IntN(len(nears))]
		w := timingwheel.NewNear(start, near)
		w.Add(deadline, 0)
		wakes := 0
		for {
			next, ok := w.Next()
			if !ok || next > deadline || next < w.Now() {
				t.Fatalf("start %d, deadline %d: Next is %d, %v", start, deadline, next, ok)
			}
			if (deadline>>6 == w.Now()>>6 || deadline-w.Now() <= min(near, timingwheel.MaxNear)) && next != deadline {
				t.Fatalf("start %d, deadline %d: Next is %d though it is near", start, deadline, next)
			}
			w.Advance(next, 0, finish)
			if next == deadline {
				break
			}
			wakes++
		}
		if wakes > 10 || w.Len() != 0 {
			t.Fatalf("start %d, deadline %d: %d wakes, %d left", start, deadline, wakes, w.Len())
		}
	}
}

// Equal deadlines keep the order of arming, also when later ones are armed in the middle of a cascade.
func TestOrderOfEqualDeadlines(t *testing.T) {
	forNears(t, func(t *testing.T, near uint64) {
		const deadline = 1<<18 + 1<<12 + 1<<6 + 1 // three cascades away
		w := timingwheel.NewNear(0, near)
		var data uint32
		add := func(n int) {
			for range n {
				data++
				w.Add(deadline, data)
			}
		}
		var order []uint32
		record := func(_ timingwheel.Timer, data uint32) uint64 { order = append(order, data); return 0 }
		add(10)
		interrupted := 0
		for w.Len() > 0 {
			next, _ := w.Next()
			if !w.Advance(next, 3, record) && len(order) == 0 {
				interrupted++
				add(1)
			}
			checkWheel(t, w)
		}
		if interrupted == 0 {
			t.Error("no cascade was interrupted")
		}
		if len(order) != int(data) || !slices.IsSorted(order) {
			t.Errorf("%d armed, fired in the order %v", data, order)
		}
	})
}

// Trap: a million timers that cascade in one call stall a loop.
func TestBudgetBoundsEveryCall(t *testing.T) {
	const timers, now = 3000, 1 << 20
	build := func() *timingwheel.Wheel {
		r := rand.New(rand.NewPCG(1, 1))
		w := timingwheel.New(0)
		for i := range timers {
			w.Add(1+r.Uint64N(now), uint32(i))
		}
		return w
	}
	// With a budget of 1 every call but the last visits exactly one timer.
	calls := func(budget int) int {
		w := build()
		n := 1
		for !w.Advance(now, budget, finish) {
			if next, ok := w.Next(); !ok || next != w.Now() {
				t.Fatalf("budget %d: not done, but Next is %d, %v at %d", budget, next, ok, w.Now())
			}
			n++
		}
		if w.Len() != 0 {
			t.Fatalf("budget %d: %d timers left", budget, w.Len())
		}
		return n
	}
	visits := calls(1) - 1
	if visits < timers || visits > 11*timers {
		t.Fatalf("%d visits for %d timers", visits, timers)
	}
	for _, budget := range []int{2, 7, 512} {
		if got, want := calls(budget), visits/budget+1; got != want && !(visits%budget == 0 && got == visits/budget) {
			t.Errorf("budget %d: %d calls for %d visits, want %d", budget, got, visits, want)
		}
	}

	// One cascade alone: nothing fires, and still a call does no more than it may.
	w := timingwheel.New(0)
	for range timers {
		w.Add(1<<12+1, 0)
	}
	for left := timers; left > 0; left -= 100 {
		if w.Advance(1<<12, 100, finish) != (left == 100) {
			t.Fatalf("%d timers before the call: wrong answer", left)
		}
		checkWheel(t, w)
	}
}

// Trap: a timer for the current or a past tick.
func TestPastDeadlines(t *testing.T) {
	w := timingwheel.New(1000)
	for _, deadline := range []uint64{0, 1, 999, 1000} {
		timer := w.Add(deadline, 0)
		if got, _ := w.Deadline(timer); got != 1001 {
			t.Errorf("deadline %d at 1000 became %d", deadline, got)
		}
	}
	fired := 0
	count := func(timingwheel.Timer, uint32) uint64 { fired++; return 0 }
	if w.Advance(1000, 0, count); fired != 0 {
		t.Errorf("%d fired in the tick they were armed in", fired)
	}
	if w.Advance(1001, 0, count); fired != 4 {
		t.Errorf("%d of 4 fired in the next tick", fired)
	}
}

// Trap: a callback that asks for "at once" while the wheel catches up must not run at every tick of the gap.
func TestPastDeadlinesWhileCatchingUp(t *testing.T) {
	forNears(t, func(t *testing.T, near uint64) {
		const gap = 1 << 50
		w := timingwheel.NewNear(0, near)
		w.Add(1, 0)
		var ticks []uint64
		done := w.Advance(gap, 100, func(timingwheel.Timer, uint32) uint64 {
			ticks = append(ticks, w.Now())
			return 1 // long past
		})
		if want := []uint64{1, gap}; !done || !slices.Equal(ticks, want) {
			t.Fatalf("done %v, fired at %v, want %v", done, ticks, want)
		}
		if next, _ := w.Next(); next != gap+1 {
			t.Errorf("then due at %d, want the next tick %d", next, uint64(gap+1))
		}

		// The same between two calls.
		w = timingwheel.NewNear(0, near)
		w.Add(1, 0)
		w.Add(1, 0)
		w.Advance(gap, 1, finish)
		timer := w.Add(0, 0)
		if got, _ := w.Deadline(timer); w.Now() != 1 || got != gap {
			t.Errorf("armed at %d for %d, want 1, %d", w.Now(), got, uint64(gap))
		}
	})
}

// What is still ahead of the tick being fired keeps its deadline, so that chains of timers run exactly in one call.
func TestChainWhileCatchingUp(t *testing.T) {
	w := timingwheel.New(0)
	w.Add(10, 0)
	var ticks []uint64
	w.Advance(45, 0, func(timingwheel.Timer, uint32) uint64 {
		ticks = append(ticks, w.Now())
		return w.Now() + 10
	})
	if want := []uint64{10, 20, 30, 40}; !slices.Equal(ticks, want) {
		t.Errorf("fired at %v, want %v", ticks, want)
	}
}

// Trap: callbacks that add, stop and reset timers, their own among them.
func TestCallbackChangesItself(t *testing.T) {
	type wheel = *timingwheel.Wheel
	for _, test := range []struct {
		name string
		fire func(w wheel, t timingwheel.Timer) uint64
		want uint64 // deadline afterwards, 0 for none
		len  int
	}{
		{"nothing", func(wheel, timingwheel.Timer) uint64 { return 0 }, 0, 0},
		{"again", func(wheel, timingwheel.Timer) uint64 { return 20 }, 20, 1},
		{"reset", func(w wheel, t timingwheel.Timer) uint64 { w.Reset(t, 30); return 0 }, 30, 1},
		{"reset, again", func(w wheel, t timingwheel.Timer) uint64 { w.Reset(t, 30); return 20 }, 20, 1},
		{"stop", func(w wheel, t timingwheel.Timer) uint64 { w.Stop(t); return 0 }, 0, 0},
		{"stop, again", func(w wheel, t timingwheel.Timer) uint64 { w.Stop(t); return 20 }, 0, 0},
		{"reset, stop, again", func(w wheel, t timingwheel.Timer) uint64 { w.Reset(t, 30); w.Stop(t); return 20 }, 0, 0},
		{"stop, reset", func(w wheel, t timingwheel.Timer) uint64 { w.Stop(t); w.Reset(t, 30); return 0 }, 0, 0},
		{"stop, add, again", func(w wheel, t timingwheel.Timer) uint64 { w.Stop(t); w.Add(40, 2); return 20 }, 0, 1},
	} {
		w := timingwheel.New(0)
		timer := w.Add(10, 1)
		w.Advance(10, 0, func(t timingwheel.Timer, data uint32) uint64 { return test.fire(w, t) })
		checkWheel(t, w)
		if got, _ := w.Deadline(timer); got != test.want || w.Len() != test.len {
			t.Errorf("%s: deadline %d, want %d; Len %d, want %d", test.name, got, test.want, w.Len(), test.len)
		}
	}
}

func TestCallbackStopsNeighbours(t *testing.T) {
	w := timingwheel.New(0)
	var timers []timingwheel.Timer
	for i := range 10 {
		timers = append(timers, w.Add(10, uint32(i)))
	}
	var fired []uint32
	w.Advance(10, 0, func(_ timingwheel.Timer, data uint32) uint64 {
		fired = append(fired, data)
		w.Stop(timers[data+1])      // the next
		w.Stop(timers[9])           // the last
		w.Reset(timers[data+2], 11) // the one after the next
		return 0
	})
	checkWheel(t, w)
	if want := []uint32{0, 3, 6}; !slices.Equal(fired, want) || w.Len() != 3 {
		t.Errorf("fired %v, want %v; Len %d, want 3", fired, want, w.Len())
	}
}

func TestAdvanceWithinFirePanics(t *testing.T) {
	w := timingwheel.New(0)
	w.Add(1, 0)
	w.Advance(1, 0, func(timingwheel.Timer, uint32) uint64 {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		w.Advance(2, 0, finish)
		return 0
	})
	checkWheel(t, w)
}

func TestPanicAndGoexitInFire(t *testing.T) {
	for _, unwind := range []func(){func() { panic("in fire") }, runtime.Goexit} {
		w := timingwheel.New(0)
		timer := w.Add(5, 0)
		w.Add(5, 0)
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() { _ = recover() }()
			w.Advance(10, 0, func(timingwheel.Timer, uint32) uint64 { unwind(); return 20 })
		}()
		<-done
		checkWheel(t, w)
		if w.Stop(timer) || w.Len() != 1 {
			t.Errorf("the timer is still there, or its neighbour is not: Len %d", w.Len())
		}
		if w.Advance(10, 0, finish); w.Len() != 0 {
			t.Error("the neighbour did not fire")
		}
	}
}

// Trap: after 2^31 timers in the same node its generation would begin anew, and a stale handle mean another timer.
func TestGenerationWrap(t *testing.T) {
	w := timingwheel.New(0)
	first := w.Add(10, 0)
	last := w.SetGeneration(first, math.MaxUint32)
	if w.Stop(first) || !w.Stop(last) || w.Stop(last) {
		t.Fatal("the handle does not follow the generation")
	}
	checkWheel(t, w)
	for range 10 {
		timer := w.Add(10, 0)
		if uint32(timer) == uint32(first) {
			t.Fatalf("handle %x reuses a node that has used up its generations", uint64(timer))
		}
		if w.Stop(first) || w.Stop(last) || w.Reset(last, 20) {
			t.Fatal("a stale handle works")
		}
	}
}

func TestStaleHandles(t *testing.T) {
	w := timingwheel.New(0)
	fired, stopped, live := w.Add(1, 0), w.Add(2, 0), w.Add(3, 0)
	w.Stop(stopped)
	w.Advance(1, 0, finish)
	reused := []timingwheel.Timer{w.Add(9, 0), w.Add(9, 0)}
	for _, timer := range []timingwheel.Timer{
		0, fired, stopped, live + 1, live + 1<<30, live + 1<<32, 1, 1<<32 | 1, 16<<32 | 704, 64<<32 | 64, // slots
	} {
		if _, ok := w.Deadline(timer); ok || w.Stop(timer) || w.Reset(timer, 50) {
			t.Errorf("handle %x works", uint64(timer))
		}
	}
	for _, timer := range append(reused, live) {
		if !w.Stop(timer) {
			t.Errorf("handle %x does not work", uint64(timer))
		}
	}
	checkWheel(t, w)
}

// Trap: huge gaps. Ticking through them would take centuries.
func TestHugeGaps(t *testing.T) {
	forNears(t, func(t *testing.T, near uint64) {
		w := timingwheel.NewNear(0, near)
		w.Advance(1<<62, 0, finish) // empty
		for k := range 63 {
			w.Add(1<<62+1<<k, uint32(k))
		}
		next := uint32(0)
		w.Advance(math.MaxUint64, 0, func(_ timingwheel.Timer, data uint32) uint64 {
			if data != next || w.Now() != 1<<62+1<<data {
				t.Fatalf("timer %d fired at %d, want timer %d", data, w.Now(), next)
			}
			next++
			return 0
		})
		if next != 63 {
			t.Errorf("%d of 63 fired", next)
		}
	})
}

// Trap: the end of the range. There is no next tick, and a timer that is armed again must still let Advance return.
func TestLastTick(t *testing.T) {
	forNears(t, func(t *testing.T, near uint64) {
		const last = math.MaxUint64
		w := timingwheel.NewNear(last-1, near)
		w.Add(last, 1)
		fired := 0
		count := func(timingwheel.Timer, uint32) uint64 { fired++; return last }
		for want := 1; want < 4; want++ {
			if done := w.Advance(last, 0, count); !done || fired != want {
				t.Fatalf("call %d: done %v, fired %d times", want, done, fired)
			}
			if next, ok := w.Next(); !ok || next != last {
				t.Fatalf("Next is %d, %v", next, ok)
			}
			checkWheel(t, w)
		}
		w.Add(0, 2)
		if w.Advance(last, 0, finish); w.Len() != 0 {
			t.Errorf("%d timers left", w.Len())
		}
	})
}

// Trap: a zero that means both "unset" and tick 0.
func TestTickZero(t *testing.T) {
	w := timingwheel.New(0)
	timer := w.Add(0, 0)
	if timer == 0 {
		t.Error("the handle of a timer is the zero Timer")
	}
	if deadline, ok := w.Deadline(timer); !ok || deadline != 1 {
		t.Errorf("Deadline is %d, %v", deadline, ok)
	}
	if next, ok := w.Next(); !ok || next != 1 {
		t.Errorf("Next is %d, %v", next, ok)
	}
	var none timingwheel.Timer
	if w.Stop(none) || w.Reset(none, 5) {
		t.Error("the zero Timer works")
	}
}

func TestTimeRunsBackwards(t *testing.T) {
	w := timingwheel.New(100)
	w.Add(150, 0)
	if !w.Advance(50, 0, finish) || w.Now() != 100 {
		t.Errorf("Now is %d", w.Now())
	}
	checkWheel(t, w)
}

// Many timers: the slab grows over several chunks, and freed nodes are used again.
func TestSlabIsReused(t *testing.T) {
	forNears(t, func(t *testing.T, near uint64) {
		w := timingwheel.NewNear(0, near)
		timers := make([]timingwheel.Timer, 20_000)
		for round := range 3 {
			for i := range timers {
				timers[i] = w.Add(w.Now()+1+uint64(i), uint32(i))
			}
			checkWheel(t, w)
			if round < 2 {
				for _, i := range rand.Perm(len(timers)) {
					w.Stop(timers[i])
				}
			}
			for _, timer := range timers {
				if uint32(timer) > uint32(len(timers)+1000)+uint32(2*near) {
					t.Fatalf("round %d: node %d is in use for %d timers", round, uint32(timer), len(timers))
				}
			}
		}
		if w.Advance(math.MaxInt64, 0, finish); w.Len() != 0 {
			t.Errorf("%d timers left", w.Len())
		}
		checkWheel(t, w)
	})
}

// Long lists are marked, and the marks are used up with the list.
func TestMarks(t *testing.T) {
	const timers = 10_000
	for _, test := range []struct {
		deadline uint64
		stride   int
	}{{1<<18 + 5, timingwheel.FarStride}, {50, timingwheel.NearStride}, {7000, timingwheel.NearStride}} {
		w := timingwheel.NewNear(0, 8000)
		var want []uint32
		for i := range timers {
			timer := w.Add(test.deadline, 0)
			if (i+1)%test.stride == 0 {
				want = append(want, uint32(timer))
			}
		}
		if got := w.Marks(test.deadline); !slices.Equal(got, want) {
			t.Errorf("marks %v, want %v", got, want)
		}
		checkWheel(t, w)
		for w.Len() > 0 {
			next, _ := w.Next()
			w.Advance(next, 100, finish)
			checkWheel(t, w)
		}
		if got := w.Marks(test.deadline + 1); got != nil {
			t.Errorf("marks %v are left", got)
		}
	}
}

// Marks of timers that were stopped do not pile up.
func TestMarksAreLimited(t *testing.T) {
	for _, inFlight := range []int{1, 10, 1000} {
		for _, deadline := range []uint64{1 << 18, 7000} {
			w := timingwheel.NewNear(0, 8000)
			w.Add(deadline, 0) // so that the slot is never empty
			timers := make([]timingwheel.Timer, inFlight)
			for i := range 300_000 {
				w.Stop(timers[i%inFlight])
				timers[i%inFlight] = w.Add(deadline, 0)
			}
			if marks := len(w.Marks(deadline)); marks > 400 {
				t.Errorf("%d marks for %d timers", marks, inFlight+1)
			}
			checkWheel(t, w)
			w.Advance(deadline, 0, finish)
			checkWheel(t, w)
		}
	}
}

func TestWheelAllocations(t *testing.T) {
	forNears(t, func(t *testing.T, near uint64) {
		w := timingwheel.NewNear(0, near)
		var timers [1000]timingwheel.Timer
		now := uint64(0)
		again := func(_ timingwheel.Timer, data uint32) uint64 { return now + 1 + uint64(data)%50 }
		for i := range timers {
			timers[i] = w.Add(uint64(i), uint32(i))
		}
		if n := testing.AllocsPerRun(100, func() {
			for i := range timers {
				w.Stop(timers[i])
				timers[i] = w.Add(now+uint64(i)*11, uint32(i))
				w.Reset(timers[i], now+uint64(i))
			}
			now += 30
			w.Advance(now, 100, again)
			w.Advance(now, 0, again)
			w.Next()
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}
