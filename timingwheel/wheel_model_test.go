package timingwheel_test

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pulsewheel/pulsewheel/timingwheel"
)

// naive is one armed timer of the model: what a Wheel should hold, in a sorted slice.
type naive struct {
	deadline uint64
	order    uint64 // rank among all armings
	timer    timingwheel.Timer
	data     uint32
}

func (n naive) compare(m naive) int {
	return cmp.Or(cmp.Compare(n.deadline, m.deadline), cmp.Compare(n.order, m.order))
}

// harness drives a Wheel and the model with the same operations and compares every answer. The operations are read
// from bytes, so that the property test and the fuzzer share them.
type harness struct {
	w      *timingwheel.Wheel
	near   uint64 // ticks within which Next is exact
	draw   func() byte
	armed  []naive // sorted
	handle map[timingwheel.Timer]naive
	stale  []timingwheel.Timer
	known  []timingwheel.Timer // armed or once armed, to pick from
	order  uint64
	data   uint32
	target uint64
	last   uint64 // the last value of w.Now
	dense  bool   // most timers share a few slots, which get long lists
	steps  int
	err    error
}

// startTicks are where wheels begin: both ends of the range, and around the first tick of slots of every level.
func startTick(draw func() byte) uint64 {
	k, offset := draw(), uint64(draw()%5)
	switch k % 4 {
	case 0:
		return offset
	case 1:
		return math.MaxUint64 - uint64(k)*uint64(k) - offset
	case 2:
		return 1<<(draw()%64) + offset - 2
	default:
		var start uint64
		for range 8 {
			start = start<<8 | uint64(draw())
		}
		return start
	}
}

// nears are for how many ticks wheels have slots: mostly for few, which are soon used a second time, and quick to check.
var nears = [16]uint64{0, 0, 0, 0, 0, 1, 64, 64, 64, 192, 192, 960, 960, 4000, 8000, 20000}

func newHarness(draw func() byte) *harness {
	start := startTick(draw)
	near := nears[draw()%16]
	return &harness{
		w: timingwheel.NewNear(start, near), near: min(near, timingwheel.MaxNear), draw: draw,
		handle: map[timingwheel.Timer]naive{}, target: start, last: start,
		dense: draw()%4 == 0,
	}
}

func (h *harness) failf(format string, args ...any) {
	if h.err == nil {
		h.err = fmt.Errorf("step %d, now %d, target %d: %s", h.steps, h.w.Now(), h.target, fmt.Sprintf(format, args...))
	}
}

// duration returns 0, 1, 2, a power of two or its neighbours up to 2^40, or something small.
func (h *harness) duration() uint64 {
	k := h.draw()
	switch {
	case k < 32:
		return uint64(k) % 3
	case k < 160:
		return 1<<(h.draw()%41) + uint64(k%3) - 1
	default:
		return uint64(h.draw()) * uint64(k-159)
	}
}

// deadline is mostly in the future, at times in the past, and may be beyond the end of the range, where it wraps.
func (h *harness) deadline() uint64 {
	k := h.draw()
	if h.dense && k >= 32 {
		return ((h.w.Now() + h.near) | 0xFFF + 1) + uint64(k%2)<<6 + uint64(k%3)
	}
	switch k % 8 {
	case 0:
		return h.w.Now() - h.duration()
	case 1: // where the near slots end
		return h.w.Now() + h.near + uint64(h.draw()) - 128
	}
	return h.w.Now() + h.duration()
}

// settled is the deadline that a request for asked must lead to.
func (h *harness) settled(asked uint64) uint64 {
	now := h.w.Now()
	switch {
	case asked > now:
		return asked
	case now < h.target:
		return h.target
	case now == math.MaxUint64:
		return now
	default:
		return now + 1
	}
}

func (h *harness) insert(t timingwheel.Timer, asked uint64, data uint32) {
	h.order++
	n := naive{h.settled(asked), h.order, t, data}
	i, _ := slices.BinarySearchFunc(h.armed, n, naive.compare)
	h.armed = slices.Insert(h.armed, i, n)
	h.handle[t] = n
	if got, ok := h.w.Deadline(t); !ok || got != n.deadline {
		h.failf("armed for %d: Deadline is %d, %v, want %d", asked, got, ok, n.deadline)
	}
}

func (h *harness) remove(t timingwheel.Timer) {
	i, ok := slices.BinarySearchFunc(h.armed, h.handle[t], naive.compare)
	if !ok {
		panic("the model lost a timer")
	}
	h.armed = slices.Delete(h.armed, i, i+1)
	delete(h.handle, t)
}

func (h *harness) add() {
	h.data++
	asked := h.deadline()
	t := h.w.Add(asked, h.data)
	if _, ok := h.handle[t]; ok || t == 0 || slices.Contains(h.stale, t) {
		h.failf("Add returned the handle %x again", uint64(t))
	}
	h.known = append(h.known, t)
	h.insert(t, asked, h.data)
}

// pick returns some timer, armed or not; now and then it forgets it.
func (h *harness) pick() timingwheel.Timer {
	if len(h.known) == 0 {
		return 0
	}
	i := (int(h.draw())<<8 | int(h.draw())) % len(h.known)
	t := h.known[i]
	if _, ok := h.handle[t]; !ok && h.draw()%2 == 0 {
		h.known[i] = h.known[len(h.known)-1]
		h.known = h.known[:len(h.known)-1]
		if len(h.stale) < 64 {
			h.stale = append(h.stale, t)
		}
	}
	return t
}

// change stops or resets some timer. The one that is firing is left to fire.
func (h *harness) change(firing timingwheel.Timer) {
	t := h.pick()
	if t == firing {
		return
	}
	n, ok := h.handle[t]
	if got, isArmed := h.w.Deadline(t); isArmed != ok || got != n.deadline {
		h.failf("Deadline is %d, %v, want %d, %v", got, isArmed, n.deadline, ok)
	}
	if h.draw()%2 == 0 {
		if got := h.w.Stop(t); got != ok {
			h.failf("Stop is %v, want %v", got, ok)
		}
		if ok {
			h.remove(t)
		}
		return
	}
	asked := h.deadline()
	if got := h.w.Reset(t, asked); got != ok {
		h.failf("Reset is %v, want %v", got, ok)
	}
	if ok {
		h.remove(t)
		h.insert(t, asked, n.data)
	}
}

func (h *harness) advance() {
	now := h.target
	switch k := h.draw(); {
	case k < 80:
		now += uint64(k) % 4
	case k < 120:
		now += uint64(h.draw())
	case k < 200:
		if next, ok := h.w.Next(); ok {
			now = max(now, next)
		}
	case k < 208:
		now -= min(now, uint64(k)) // time must not run backwards
	default:
		now += min(h.duration(), math.MaxUint64-now)
	}
	budget := 0
	if k := int(h.draw()); k < 192 {
		budget = k%12 + 1
	}
	h.target = max(h.target, now)
	fired := 0
	rearmed := map[timingwheel.Timer]bool{}
	done := h.w.Advance(now, budget, func(t timingwheel.Timer, data uint32) uint64 {
		h.steps++
		fired++
		n, ok := h.handle[t]
		switch {
		case h.err != nil:
			return 0
		case !ok:
			h.failf("fired a timer that is not armed")
			return 0
		case n.data != data:
			h.failf("fired with data %d, want %d", data, n.data)
		case n.deadline > h.target:
			h.failf("fired early: deadline %d", n.deadline)
		case n != h.armed[0]:
			h.failf("fired out of order: %v before %v", n, h.armed[0])
		case n.deadline != h.w.Now():
			h.failf("fired deadline %d", n.deadline)
		}
		h.remove(t)
		for h.draw()%4 == 0 {
			h.steps++
			if h.draw()%2 == 0 {
				h.add()
			} else {
				h.change(t)
			}
		}
		return h.finish(t, data, rearmed)
	})
	if budget > 0 && fired > budget {
		h.failf("fired %d timers with a budget of %d", fired, budget)
	}
	next, ok := h.w.Next()
	switch {
	case !done && budget <= 0:
		h.failf("not done without a budget")
	case !done && (!ok || next != h.w.Now()):
		h.failf("not done, but Next is %d, %v", next, ok)
	case done && h.w.Now() != h.target:
		h.failf("done, but Now is not there")
	case done && len(h.armed) > 0 && h.armed[0].deadline <= h.target && h.target != math.MaxUint64:
		h.failf("done, but %d is due", h.armed[0].deadline)
	}
}

// skip moves an idle wheel, and must leave any other alone.
func (h *harness) skip() {
	now := h.w.Now()
	to := now + h.duration()
	h.w.Skip(to)
	if got := h.w.Now(); got == to && to > now {
		h.target = to
	} else if got != now {
		h.failf("skipped from %d to %d instead of %d", now, got, to)
	} else if len(h.armed) == 0 && to > h.target {
		h.failf("did not skip to %d", to)
	}
}

// finish ends a callback in one of the ways there are: a timer may be stopped, reset, or postponed, or several of them.
func (h *harness) finish(t timingwheel.Timer, data uint32, rearmed map[timingwheel.Timer]bool) (again uint64) {
	if _, ok := h.w.Deadline(t); ok {
		h.failf("armed while it fires")
	}
	k := h.draw()
	if k&1 == 0 {
		return 0
	}
	if k&2 != 0 && !rearmed[t] {
		asked := h.deadline()
		if !h.w.Reset(t, asked) {
			h.failf("Reset of the firing timer is false")
		}
		h.insert(t, asked, data)
	}
	if k&4 != 0 {
		_, ok := h.handle[t]
		if got := h.w.Stop(t); got != ok {
			h.failf("Stop of the firing timer is %v, want %v", got, ok)
		}
		if ok {
			h.remove(t)
		}
		if k&8 != 0 {
			h.add() // reuses the node
		}
		return h.w.Now() + 1 // must have no effect
	}
	if k&16 == 0 || rearmed[t] {
		return 0
	}
	rearmed[t] = true // once a call, so that catching up ends
	again = h.deadline()
	if again == 0 {
		return 0
	}
	if _, ok := h.handle[t]; ok {
		h.remove(t)
	}
	// The wheel arms it when fire has returned: nothing can come between.
	h.order++
	n := naive{h.settled(again), h.order, t, data}
	i, _ := slices.BinarySearchFunc(h.armed, n, naive.compare)
	h.armed = slices.Insert(h.armed, i, n)
	h.handle[t] = n
	return again
}

// check compares what can be seen at rest.
func (h *harness) check() {
	w := h.w
	if w.Now() < h.last || w.Now() > h.target {
		h.failf("Now was %d before", h.last)
	}
	h.last = w.Now()
	if w.Len() != len(h.armed) {
		h.failf("Len is %d, want %d", w.Len(), len(h.armed))
	}
	next, ok := w.Next()
	if ok != (len(h.armed) > 0) {
		h.failf("Next is %d, %v with %d armed", next, ok, len(h.armed))
	}
	if ok {
		first := h.armed[0].deadline
		if next > first || next < w.Now() {
			h.failf("Next is %d, earliest deadline %d", next, first)
		}
		if next != first && (first>>6 == w.Now()>>6 || first-w.Now() <= h.near) && next != w.Now() {
			h.failf("Next is %d, earliest deadline %d is near", next, first)
		}
		if w.Now() > first {
			h.failf("went past the deadline %d", first)
		}
	}
}

// step does one operation; it reports whether the wheel and the model still agree.
func (h *harness) step() bool {
	h.steps++
	most := 400
	if h.dense {
		most = 2000
	}
	switch k := h.draw(); {
	case k < 112 && len(h.armed) < most || h.dense && k < 192 && len(h.armed) < most/2:
		h.add()
	case k < 212:
		h.change(0)
	case k < 216:
		h.skip()
	default:
		h.advance()
	}
	h.check()
	return h.err == nil
}

func TestWheelAgainstModel(t *testing.T) {
	const total = 1_200_000 // operations, each with all of its answers compared
	steps, wheels := 0, 0
	seed := rand.Uint64()
	for ; steps < total; wheels++ {
		r := rand.New(rand.NewPCG(seed, uint64(wheels)))
		var word uint64
		var left int
		h := newHarness(func() byte {
			if left == 0 {
				word, left = r.Uint64(), 8
			}
			left--
			b := byte(word)
			word >>= 8
			return b
		})
		for h.steps < 6000 && h.step() {
			if h.steps%8 == 0 && (!h.dense && h.near < 1000 || h.steps%64 == 0) {
				if err := h.w.Check(); err != nil {
					h.failf("%v", err)
				}
			}
		}
		if h.err == nil {
			h.err = h.w.Check()
		}
		if h.err != nil {
			t.Fatalf("seed %d, wheel %d: %v", seed, wheels, h.err)
		}
		steps += h.steps
	}
	t.Logf("%d operations on %d wheels", steps, wheels)
}

// FuzzWheel reads operations from bytes and compares the wheel with the model after each.
func FuzzWheel(f *testing.F) {
	f.Add([]byte{0, 0, 10, 1, 200, 50, 255, 3, 200})
	f.Add([]byte{1, 4, 10, 1, 40, 200, 10, 1, 0, 200, 255, 255, 255, 255})
	r := rand.New(rand.NewPCG(1, 2))
	for range 4 {
		b := make([]byte, 300)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h := newHarness(func() byte {
			if len(b) == 0 {
				return 2 // ends every loop of the harness
			}
			k := b[0]
			b = b[1:]
			return k
		})
		for len(b) > 0 && h.step() {
			if h.near >= 1000 && h.steps%64 != 0 {
				continue // to walk so many slots takes its time
			}
			if err := h.w.Check(); err != nil {
				h.failf("%v", err)
			}
		}
		if h.err == nil {
			h.err = h.w.Check()
		}
		if h.err != nil {
			t.Fatal(h.err)
		}
	})
}
