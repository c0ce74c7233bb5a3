package timingwheel

import (
	"math"
	"math/bits"
)

// Timer is a handle to one timer of a [Wheel]. The zero Timer is no timer: Stop, Reset and Deadline answer false to it.
//
// A handle names its timer for ever. It stays the same when the timer is reset or postponed, it goes stale when the
// timer has fired for good or was stopped, and a stale handle never comes to mean another timer: no two timers of a
// Wheel ever share one. It has a meaning only for the Wheel that returned it.
type Timer uint64 // generation<<32 | node index

const (
	slotBits = 6
	slots    = 1 << slotBits
	slotMask = slots - 1
	levels   = (64 + slotBits - 1) / slotBits

	// Nodes come in chunks: growing adds one chunk and moves none, so that it costs the same at any size. 4096 nodes
	// of 24 B fill twelve 8 KiB pages of the Go heap exactly, and ten million timers are only 2,442 objects to mark.
	chunkBits  = 12
	chunkNodes = 1 << chunkBits
	chunkMask  = chunkNodes - 1

	// Index space of the slab. The heads are nodes too, so that unlinking a node needs no branch to find its list.
	noNode      = 0                        // no link: the node is in no list
	firstHead   = 1                        // head of level 0, slot 0; level l, slot s is firstHead + l*slots + s
	pendingHead = firstHead + levels*slots // the slot whose cascade is under way
	dueHead     = pendingHead + 1          // the tick whose timers are being fired
	firstNode   = dueHead + 1              // the first index that can be a timer
)

// node is a timer, or the head of a list of timers. It holds no pointer, so that the collector never looks inside a chunk.
type node struct {
	deadline uint64 // tick; in a head: first<<32 | last block of the list's marks, 0 if it has none
	next     uint32 // in its list; noNode while the timer is in none, that is while it fires; in a free node: next free node
	prev     uint32
	data     uint32 // the caller's; in a head: nodes appended since the list was empty
	gen      uint32 // odd while a timer lives here, even while free; part of the handle; in a head: the stride of its marks
}

type chunk [chunkNodes]node

// Wheel is a hierarchical timing wheel over uint64 ticks. It reads no clock, starts no goroutine and takes no lock: one
// goroutine owns it, calls its methods, and passes the time in. What a tick lasts is the caller's business. Callers
// that round deadlines up to a tick and the time handed to Advance down never see a timer fire early.
//
// Use [New] to make one; the zero Wheel is not usable.
//
// A timer costs 24 bytes in a slab that grows in chunks, holds no pointers and is never given back: freed nodes are
// reused. Lookahead takes 0.3 % more, and up to 2.4 % for timers in level 0. No method allocates, except to arm more timers than were ever outstanding before.
type Wheel struct {
	// Invariants, between any two calls (Check in export_test.go):
	//   - an armed node that is in neither the pending nor the due list has a deadline after now, or equal to it at the
	//     last tick only, and its place follows from now and its deadline alone: the level is that of the highest
	//     base-64 digit in which they differ, the slot is that digit of the deadline. Hence at each level only slots
	//     ahead of now's own are occupied, and all of a lower level is due before all of a higher.
	//   - so equal deadlines are always in the same list, in the order in which they were armed.
	now      uint64 // the tick reached: all deadlines before it have fired
	target   uint64 // the latest time Advance was told; > now only while it catches up
	occupied [levels]uint64
	nonempty uint32 // bit l: occupied[l] != 0

	pendingLast uint64 // last tick of the slot being cascaded, 0 if none is (no deadline is tick 0)
	armed       int
	free        uint32 // first of the free nodes, latest freed first: it is the likeliest to be in cache
	fresh       uint32 // first index never used; 0 once all 2^32 are
	firing      uint32 // the node whose callback runs
	advancing   bool
	heads       *chunk // chunks[0]
	chunks      []*chunk
	lookahead   lookahead
	fetch       func(data uint32)
}

// New returns an empty wheel that stands at the tick now.
func New(now uint64) *Wheel {
	w := &Wheel{now: now, target: now, fresh: firstNode, heads: new(chunk)}
	w.chunks = append(w.chunks, w.heads)
	for i := uint32(firstHead); i < firstNode; i++ {
		h := &w.heads[i]
		h.next, h.prev = i, i
		// Even, so that no handle names a head.
		if h.gen = farStride; i < firstHead+slots {
			h.gen = nearStride
		}
	}
	return w
}

// Fetch has Advance call f with the data of timers that it is about to fire, some hundred before their turn: so that f can
// read what fire is going to look at, and the processor fetches much of that from memory at the same time instead of one
// after the other. With very many timers, waiting for memory is most of what firing costs. A nil f ends it.
//
// It is a hint. Where few timers are due f is not called, and it may be called for a timer that does not fire, or with the
// data of one that has been stopped. It must call no method of the Wheel.
func (w *Wheel) Fetch(f func(data uint32)) { w.fetch = f }

// Now returns the tick the wheel has reached. Inside fire that is the tick being fired; otherwise it is the largest time
// passed to Advance, unless its budget ran out: then it is the tick at which Advance will go on.
func (w *Wheel) Now() uint64 { return w.now }

// Len returns the number of armed timers. A timer does not count while it fires, unless fire has armed it again.
func (w *Wheel) Len() int { return w.armed }

// Add arms a new timer that fires in the first Advance to deadline or later, and hands data to its fire function.
//
// A deadline at or before Now is moved to the next tick, Now()+1. While the wheel is catching up (inside fire, or after
// an Advance whose budget ran out) it is moved to that Advance's own time instead, so that a callback that asks for "at
// once" runs once more at the end of the catching up and not at every tick of it. At the last tick, 2^64-1, there is no
// next one: the timer fires in the next call of Advance.
//
// Add panics if 2^32-707 timers are outstanding.
func (w *Wheel) Add(deadline uint64, data uint32) Timer {
	i := w.free
	var n *node
	if i != noNode {
		n = w.at(i)
		w.free = n.next
	} else {
		i = w.grow()
		n = w.at(i)
	}
	n.gen++ // odd: alive
	n.data = data
	w.arm(i, n, deadline)
	return Timer(n.gen)<<32 | Timer(i)
}

// Stop ends t and reports whether that kept it from firing: true if t was armed, false if it had already fired or been
// stopped.
//
// Inside its own fire call a timer is not armed, so Stop returns false, but it still ends the timer: what fire returns
// is ignored.
func (w *Wheel) Stop(t Timer) bool {
	i, n := w.lookup(t)
	if n == nil {
		return false
	}
	wasArmed := n.next != noNode
	if wasArmed {
		w.disarm(n)
	}
	w.release(i, n)
	return wasArmed
}

// Reset moves t to a new deadline, to which the rules of [Wheel.Add] apply, and returns true; it counts as armed anew
// in the order of equal deadlines. It returns false, and does nothing, if t is no longer pending.
//
// Inside its own fire call a timer can be reset; it then fires again at that deadline, unless fire returns another.
func (w *Wheel) Reset(t Timer, deadline uint64) bool {
	i, n := w.lookup(t)
	if n == nil {
		return false
	}
	if n.next != noNode {
		w.disarm(n)
	}
	w.arm(i, n, deadline)
	return true
}

// Deadline returns the tick at which t will fire, and whether t is armed. The tick is the one Add or Reset settled on.
func (w *Wheel) Deadline(t Timer) (uint64, bool) {
	_, n := w.lookup(t)
	if n == nil || n.next == noNode {
		return 0, false
	}
	return n.deadline, true
}

// Next returns the earliest tick at which Advance has work, and false if no timer is armed. Its cost does not depend
// on the number of timers or on how far away they are.
//
// The tick is never later than the earliest deadline. It is exact if that deadline differs from Now only within the
// lowest level, that is in the last six bits. Otherwise it may be earlier: the first tick of the slot the timer waits
// in, where Advance moves it to a lower level. A driver that sleeps until Next wakes at most ten times for that, in all,
// before the timer fires, however far away it is.
//
// After an Advance whose budget ran out, Next returns Now: there is work at once.
func (w *Wheel) Next() (deadline uint64, ok bool) {
	if w.pendingLast != 0 || w.heads[dueHead].next != dueHead {
		return w.now, true
	}
	if w.nonempty == 0 {
		return 0, false
	}
	_, _, start := w.nextSlot()
	return start, true
}

// Advance moves the wheel to the tick now and calls fire for each timer with a deadline at or before it. It visits at
// most budget timers, to fire them or to move them to a lower level, and reports whether it is done; a budget of 0 or
// less has no limit. If it is not done, call it again soon, with the same or a later time: it goes on where it stopped,
// and until then Next says "now". A time before that of an earlier call counts as that one.
//
// Fire gets the timer and its data. If it returns 0 the timer is finished, and its handle stale. Otherwise the same
// timer is armed again, under the same handle, at the tick returned, by the rules of [Wheel.Add]. That is how a deadline
// is postponed lazily: the caller stores the new one in a field of its own, at the price of one store, and when the
// timer fires too soon, fire returns it. (No deadline is tick 0, so 0 cannot be meant as one.)
//
// Timers fire in the order of their deadlines, and equal deadlines in the order in which they were armed by Add, Reset
// or the return value of fire. This holds across levels and across calls whose budget ran out. The deadline that counts
// is the one returned by [Wheel.Deadline], after the rules of Add.
//
// Fire runs on the caller's goroutine and must not block longer than the owner can bear. It may call any method for any
// timer, its own included, but Advance: that panics. Stopping the timer that fires is described at [Wheel.Stop]. If
// fire panics or calls runtime.Goexit, its timer is finished and all others remain; Advance can be called again.
func (w *Wheel) Advance(now uint64, budget int, fire func(t Timer, data uint32) (again uint64)) (done bool) {
	if w.advancing {
		panic("timingwheel: Advance called from within fire")
	}
	w.advancing = true
	defer w.leave()
	w.target = max(w.target, now)
	if budget <= 0 {
		budget = math.MaxInt
	}
	pending, due := &w.heads[pendingHead], &w.heads[dueHead]
	ended := false
	for {
		for i := pending.next; i != pendingHead; i = pending.next {
			if budget == 0 {
				return false
			}
			budget--
			w.lookAhead(i)
			n := w.at(i)
			w.unlink(n)
			w.place(i, n)
		}
		for i := due.next; i != dueHead; i = due.next {
			if budget == 0 {
				return false
			}
			budget--
			w.lookAhead(i)
			n := w.at(i)
			w.disarm(n)
			n.next = noNode
			w.firing = i
			gen := n.gen
			again := fire(Timer(gen)<<32|Timer(i), n.data)
			w.firing = noNode
			switch {
			case n.gen != gen: // stopped by fire; the node may be another timer already
			case again != 0:
				if n.next != noNode {
					w.disarm(n)
				}
				w.arm(i, n, again)
			case n.next == noNode: // not reset by fire
				w.release(i, n)
			}
			// What is armed at the last tick must wait for the next call, or a callback that arms again never lets go.
			ended = w.now == math.MaxUint64
		}
		if w.nonempty == 0 {
			w.now = w.target
			return true
		}
		level, slot, start := w.nextSlot()
		if start > w.target {
			w.now = w.target
			return true
		}
		if ended {
			return true
		}
		w.now = start
		if level == 0 {
			w.splice(level, slot, dueHead)
		} else {
			w.splice(level, slot, pendingHead)
			w.pendingLast = start + (1<<(level*slotBits) - 1)
		}
	}
}

// leave ends Advance, also when fire unwinds it.
func (w *Wheel) leave() {
	w.advancing = false
	if i := w.firing; i != noNode {
		w.firing = noNode
		n := w.at(i)
		if n.gen&1 == 1 && n.next == noNode {
			w.release(i, n)
		}
	}
}

func (w *Wheel) at(i uint32) *node { return &w.chunks[i>>chunkBits][i&chunkMask] }

// lookup returns the node of a timer that is armed or firing, or nil.
func (w *Wheel) lookup(t Timer) (uint32, *node) {
	i, gen := uint32(t), uint32(t>>32)
	if gen&1 == 0 || int(i>>chunkBits) >= len(w.chunks) {
		return 0, nil
	}
	n := w.at(i)
	if n.gen != gen {
		return 0, nil
	}
	return i, n
}

// grow returns a node that was never used.
func (w *Wheel) grow() uint32 {
	i := w.fresh
	if i == 0 {
		panic("timingwheel: too many timers outstanding")
	}
	if int(i>>chunkBits) == len(w.chunks) {
		w.chunks = append(w.chunks, new(chunk))
	}
	w.fresh++
	return i
}

// release frees a node that is in no list. Its generation becomes even; when it has used up all generations it is never
// used again, which keeps stale handles stale at the price of 24 B for every 2^31 timers.
func (w *Wheel) release(i uint32, n *node) {
	n.gen++
	if n.gen == 0 {
		return
	}
	n.next = w.free
	w.free = i
}

// arm puts a node that is in no list where its deadline belongs.
func (w *Wheel) arm(i uint32, n *node, deadline uint64) {
	if deadline <= w.now {
		deadline = w.clamp()
	}
	n.deadline = deadline
	w.armed++
	if deadline <= w.pendingLast {
		// Earlier timers with this deadline may still wait in the interrupted cascade: queue behind them.
		w.pushBack(pendingHead, i, n)
		return
	}
	w.place(i, n)
}

// disarm takes an armed node out of its list.
func (w *Wheel) disarm(n *node) {
	w.armed--
	w.unlink(n)
}

// clamp returns the deadline for timers that ask for a tick at or before now.
func (w *Wheel) clamp() uint64 {
	if w.now < w.target {
		return w.target
	}
	if w.now == math.MaxUint64 {
		return w.now
	}
	return w.now + 1
}

// place links a node into the slot that its deadline has, seen from now.
func (w *Wheel) place(i uint32, n *node) {
	level := uint(bits.Len64((n.deadline^w.now)|1)-1) / slotBits
	slot := uint(n.deadline>>(level*slotBits)) & slotMask
	w.occupied[level] |= 1 << slot
	w.nonempty |= 1 << level
	w.pushBack(uint32(firstHead+level*slots+slot), i, n)
}

// nextSlot returns the earliest occupied slot and its first tick. Some slot must be occupied.
func (w *Wheel) nextSlot() (level, slot uint, start uint64) {
	level = uint(bits.TrailingZeros32(w.nonempty))
	slot = uint(bits.TrailingZeros64(w.occupied[level]))
	span := uint64(1)<<((level+1)*slotBits) - 1 // at the highest level the shift gives 0, and span all ones
	return level, slot, w.now&^span | uint64(slot)<<(level*slotBits)
}

// splice moves all nodes of a slot, which has some, to the list at head to, which has none.
func (w *Wheel) splice(level, slot uint, to uint32) {
	from := &w.heads[firstHead+level*slots+slot]
	first, last := from.next, from.prev
	from.next = uint32(firstHead + level*slots + slot)
	from.prev = from.next
	w.lookahead.begin(uint32(from.deadline >> 32))
	from.deadline = 0
	w.vacate(from.next)
	w.heads[to].next, w.heads[to].prev = first, last
	w.at(first).prev = to
	w.at(last).next = to
}

func (w *Wheel) pushBack(head, i uint32, n *node) {
	h := &w.heads[head&chunkMask]
	last := h.prev
	n.next, n.prev = head, last
	w.at(last).next = i
	h.prev = i
	if h.data++; h.data&(h.gen-1) == 0 {
		w.mark(h, i)
	}
}

// unlink takes a node out of its list. Its own links keep their old values.
func (w *Wheel) unlink(n *node) {
	next, prev := n.next, n.prev
	w.at(next).prev = prev
	w.at(prev).next = next
	if next == prev { // the list's head: it is alone now
		w.vacate(next)
	}
}

// vacate records that the list at head has become empty.
func (w *Wheel) vacate(head uint32) {
	w.unmark(w.at(head))
	switch {
	case head < pendingHead:
		level, slot := (head-firstHead)/slots, (head-firstHead)%slots
		w.occupied[level] &^= 1 << slot
		if w.occupied[level] == 0 {
			w.nonempty &^= 1 << level
		}
	case head == pendingHead:
		w.pendingLast = 0
	}
}

// skip moves an idle wheel to the tick now: it does what Advance would do if no timer is to be visited by then, and
// nothing otherwise. A timer armed after a long sleep thus lands on a low level.
func (w *Wheel) skip(now uint64) {
	if next, ok := w.Next(); now > w.target && (!ok || next > now) {
		w.now, w.target = now, now
	}
}
