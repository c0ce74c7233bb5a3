package timingwheel_test

import (
	"testing"

	"github.com/pulsewheel/pulsewheel/timingwheel"
)

// What is about to fire is fetched before its turn, most of it some timers ahead;
// what only moves to a lower level is not; and what fires, and when, is as
// without.
func TestFetch(t *testing.T) {
	const timers, deadline = 10_000, 100_000 // which two cascades precede
	fires := func(fetch bool) (order []uint32, fetched map[uint32]int) {
		w := timingwheel.New(0)
		fetched = make(map[uint32]int) // by data, how many had fired then
		if fetch {
			w.Fetch(func(data []uint32) {
				for _, d := range data {
					if _, again := fetched[d]; !again {
						fetched[d] = len(order)
					}
				}
			})
		}
		for i := range uint32(timers) {
			w.Add(deadline, i)
		}
		w.Advance(deadline-1, 0, finish)
		if len(fetched) > 0 {
			t.Errorf("%d timers were fetched that are not due", len(fetched))
		}
		for !w.Advance(deadline, 100, func(_ timingwheel.Timer, data uint32) uint64 {
			order = append(order, data)
			return 0
		}) {
		}
		checkWheel(t, w)
		return order, fetched
	}
	plain, none := fires(false)
	order, fetched := fires(true)
	if len(none) > 0 || len(order) != timers || len(plain) != timers {
		t.Fatalf("%d and %d fired", len(plain), len(order))
	}
	ahead := 0
	for turn, data := range order {
		if plain[turn] != data {
			t.Fatalf("number %d fires in turn %d, and %d without", data, turn, plain[turn])
		}
		if at, ok := fetched[data]; ok && at < turn {
			ahead++
		}
	}
	if ahead < timers*9/10 {
		t.Errorf("%d of %d timers were fetched before their turn", ahead, timers)
	}
}

// A timer that was stopped may be fetched, and does not fire; nothing is
// allocated for it all.
func TestFetchStopped(t *testing.T) {
	const (
		timers = 5000
		base   = 1 << 20 // of their data, so that nothing else of the wheel's looks like it
	)
	w := timingwheel.New(0)
	calls := 0
	w.Fetch(func(data []uint32) {
		for _, d := range data {
			if calls++; d < base || d >= base+timers {
				t.Errorf("data %d was given to no timer", d)
			}
		}
	})
	var stopped [timers]bool
	var handles [timers]timingwheel.Timer
	now := uint64(0)
	round := func() {
		now += 50
		for i := range handles {
			handles[i] = w.Add(now, base+uint32(i))
			stopped[i] = false
		}
		for i := 0; i < timers; i += 3 {
			w.Stop(handles[i])
			stopped[i] = true
		}
		w.Advance(now, 0, func(_ timingwheel.Timer, data uint32) uint64 {
			if stopped[data-base] {
				t.Errorf("timer %d was stopped and fires", data)
			}
			return 0
		})
	}
	if n := testing.AllocsPerRun(20, round); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if calls == 0 {
		t.Error("nothing was fetched")
	}
	checkWheel(t, w)
	w.Fetch(nil)
	before := calls
	round()
	if calls != before {
		t.Error("it goes on after it was ended")
	}
}
