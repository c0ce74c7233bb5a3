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

	// The most near slots that a Wheel can have, and the words of 64 bits that tell which words of their bitmap are not 0.
	maxNear      = 1 << 14
	summaryWords = maxNear / 64 / 64

	// Nodes come in chunks: growing adds one chunk and moves none, so that it costs the same at any size. 4096 nodes
	// of 24 B fill twelve 8 KiB pages of the Go heap exactly, and ten million timers are only 2,442 objects to mark.
	chunkBits  = 12
	chunkNodes = 1 << chunkBits
	chunkMask  = chunkNodes - 1

	// Index space of the slab. The heads are nodes too, so that unlinking a node needs no branch to find its list. A
	// head's index tells its bit of Wheel.far: bit index%64 of word index/64. Timers follow the near slots.
	noNode      = 0              // no link: the node is in no list
	pendingHead = 1              // the slot whose cascade is under way
	dueHead     = 2              // the tick whose timers are being fired
	firstFar    = slots          // level l from 1 on, slot s is l*slots + s
	firstNear   = levels * slots // level 0, slot s is firstNear + s
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
// reused. Lookahead takes 0.3 % more, and up to 2.4 % for timers in near slots. No method allocates, except to arm more
// timers than were ever outstanding before.
type Wheel struct {
	// Invariants, between any two calls (Check in export_test.go):
	//   - an armed node that is in neither the pending nor the due list has a deadline after now, or equal to it at the
	//     last tick only, and its place follows from now and its deadline alone. A block is 64 ticks. In the block of
	//     now, or in one of the next blocksAhead, it is in the near slot of its tick, modulo their number. Otherwise
	//     the level is that of the highest base-64 digit in which it differs from the horizon, which is the last of
	//     these blocks, and the slot is that digit. Hence at each level from 1 on only slots ahead of the horizon's own
	//     are occupied, and all of a lower level is due before all of a higher.
	//   - so equal deadlines are always in the same list, in the order in which they were armed.
	now         uint64               // the tick reached: all deadlines before it have fired
	target      uint64               // the latest time Advance was told; > now only while it catches up
	blocksAhead uint64               // how many blocks after that of now have near slots
	nearMask    uint32               // near slots - 1
	nonempty    uint32               // bit l: a slot of level l is occupied
	far         [16]uint64           // occupied slots by level; more than there are, so that no index is out of range
	near        []uint64             // occupied near slots
	summary     [summaryWords]uint64 // bit i: near[i] != 0

	pendingFirst uint64 // first tick of the slot being cascaded
	pendingSpan  uint64 // its ticks, 0 if none is
	armed        int
	free         uint32 // first of the free nodes, latest freed first: it is the likeliest to be in cache
	fresh        uint32 // first index never used; 0 once all 2^32 are
	firing       uint32 // the node whose callback runs
	firstNode    uint32 // the first index that can be a timer
	advancing    bool
	heads        []node // the first chunks
	chunks       []*chunk
	lookahead    lookahead
	fetch        func(data []uint32)
}

// New returns an empty wheel that stands at the tick now. It has 64 near slots.
func New(now uint64) *Wheel { return NewNear(now, 0) }

// NewNear returns an empty wheel that stands at the tick now and visits a timer of up to near ticks only once, to fire
// it, where otherwise it visits a timer once more for each level between. With very many timers a visit costs a wait for
// memory. That takes a slot of 24 bytes a tick: their number is the power of two from near+64 on, at least 64 and at most
// 16,384. What comes after the near slots is as in any wheel.
func NewNear(now, near uint64) *Wheel {
	size := slots
	for size < maxNear && uint64(size-slots) < near {
		size *= 2
	}
	w := &Wheel{
		now: now, target: now, blocksAhead: uint64(size/slots) - 1, nearMask: uint32(size) - 1,
		near: make([]uint64, size/64), firstNode: uint32(firstNear + size), fresh: uint32(firstNear + size),
	}
	// One piece, so that a head is found without its chunk.
	w.heads = make([]node, (int(w.firstNode)+chunkMask)&^chunkMask)
	for rest := w.heads; len(rest) > 0; rest = rest[chunkNodes:] {
		w.chunks = append(w.chunks, (*chunk)(rest))
	}
	for i := uint32(pendingHead); i < w.firstNode; i++ {
		h := &w.heads[i]
		h.next, h.prev = i, i
		// Even, so that no handle names a head.
		if h.gen = farStride; i >= firstNear {
			h.gen = nearStride
		}
	}
	return w
}

// Fetch has Advance call f with the data of timers that it is about to fire, up to 256 at a time: so that f can read what
// fire is going to look at, and the processor fetches much of that from memory at the same time instead of one after the
// other. With very many timers, waiting for memory is most of what firing costs. Short loops are best, each over many of
// them: first all pointers, say, and then all that they point to. A nil f ends it.
//
// It is a hint. Where few timers are due f is not called, and data may be that of timers that do not fire, or that have been
// stopped. The slice is the Wheel's, and holds the data until f returns. F must call no method of the Wheel.
func (w *Wheel) Fetch(f func(data []uint32)) { w.fetch = f }

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
// Add panics if more timers are outstanding than 32 bits can count besides the slots, see the package's limits.
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

// Next returns the earliest tick at which Advance must be called, and false if no timer is armed. Its cost does not depend
// on the number of timers or on how far away they are.
//
// The tick is never later than the earliest deadline. It is exact if that deadline differs from Now only in the last six
// bits, or is no more than the ticks given to [NewNear] away. Otherwise it may be earlier: the first tick of the slot the
// timer waits in, where Advance must move it to a lower level. A driver that sleeps until Next wakes at most ten times for
// that, in all, before the timer fires, however far away it is. An Advance before then moves what it can already.
//
// After an Advance whose budget ran out, Next returns Now: there is work at once.
func (w *Wheel) Next() (deadline uint64, ok bool) {
	switch {
	case w.pendingSpan != 0 || w.heads[dueHead].next != dueHead:
		return w.now, true
	case w.nonempty&1 != 0:
		return w.nextNear(), true
	case w.nonempty != 0:
		_, _, block := w.nextFar()
		return block << slotBits, true
	}
	return 0, false
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
		if ended {
			return true
		}
		at, far := w.nextVisit()
		if at > w.target || w.nonempty == 0 {
			w.now = w.target
			return true
		}
		if !far {
			w.now = at
			w.splice(firstNear+uint32(at)&w.nearMask, dueHead)
			continue
		}
		head, level, block := w.nextFar()
		w.now = at
		w.splice(head, pendingHead)
		w.pendingFirst, w.pendingSpan = block<<slotBits, 1<<(level*slotBits)
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
	if deadline-w.pendingFirst < w.pendingSpan {
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

// horizon returns the last block that has near slots. It may lie beyond the last tick.
func (w *Wheel) horizon() uint64 { return w.now>>slotBits + w.blocksAhead }

// place links a node into the slot that its deadline has, seen from now.
func (w *Wheel) place(i uint32, n *node) {
	var head uint32
	block, horizon := n.deadline>>slotBits, w.horizon()
	if block <= horizon {
		head = firstNear + uint32(n.deadline)&w.nearMask
		word := (head - firstNear) / 64
		w.near[word] |= 1 << (head % 64)
		w.summary[word/64%summaryWords] |= 1 << (word % 64)
		w.nonempty |= 1
	} else {
		above := uint(bits.Len64(block^horizon)-1) / slotBits // level 1's number is 0 here
		slot := uint(block>>(above*slotBits%64)) & slotMask
		w.far[(above+1)%16] |= 1 << slot
		w.nonempty |= 2 << (above % 16)
		head = uint32(firstFar + above*slots + slot)
	}
	w.pushBack(head, i, n)
}

// nextVisit returns the tick at which Advance goes on, and whether to move timers from a far slot then: as soon as the
// horizon comes there, and before it fires what is due at the same tick, lest fire arms timers for that slot which then
// come before those that wait there. Some slot must be occupied, or what it returns means nothing.
func (w *Wheel) nextVisit() (at uint64, far bool) {
	at = math.MaxUint64
	if w.nonempty&1 != 0 {
		at = w.nextNear()
	}
	if w.nonempty > 1 {
		_, _, block := w.nextFar()
		if start := (block - w.blocksAhead) << slotBits; start <= at {
			return start, true
		}
	}
	return at, false
}

// nextNear returns the tick of the earliest occupied near slot. Some near slot must be occupied.
func (w *Wheel) nextNear() uint64 {
	block := w.now >> slotBits
	last := w.nearMask / 64 // word of the near slots
	own := uint32(block) & last
	to := own
	if w.near[own] == 0 {
		for from := (own + 1) & last; ; from = ((from | 63) + 1) & last {
			if b := w.summary[from/64] >> (from % 64); b != 0 {
				to = from + uint32(bits.TrailingZeros64(b))
				break
			}
		}
	}
	block += uint64((to - own) & last)
	return block<<slotBits + uint64(bits.TrailingZeros64(w.near[to]))
}

// nextFar returns the earliest occupied slot of the levels from 1 on, and its first block. Some such slot must be
// occupied.
func (w *Wheel) nextFar() (head uint32, level uint, block uint64) {
	level = uint(bits.TrailingZeros32(w.nonempty &^ 1))
	slot := uint(bits.TrailingZeros64(w.far[level]))
	span := uint64(1)<<(level*slotBits) - 1
	return uint32(level*slots + slot), level, w.horizon()&^span | uint64(slot)<<((level-1)*slotBits)
}

// splice moves all nodes of the list at head from, which has some, to the list at head to, which has none.
func (w *Wheel) splice(from, to uint32) {
	h := &w.heads[from]
	first, last := h.next, h.prev
	h.next, h.prev = from, from
	w.lookahead.begin(uint32(h.deadline >> 32))
	h.deadline = 0
	w.vacate(from)
	w.heads[to].next, w.heads[to].prev = first, last
	w.at(first).prev = to
	w.at(last).next = to
}

func (w *Wheel) pushBack(head, i uint32, n *node) {
	h := &w.heads[head]
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
	w.unmark(&w.heads[head])
	if head < firstFar {
		if head == pendingHead {
			w.pendingSpan = 0
		}
		return
	}
	if head < firstNear {
		level := head / 64 % 16
		if w.far[level] &^= 1 << (head % 64); w.far[level] == 0 {
			w.nonempty &^= 1 << level
		}
		return
	}
	word := (head - firstNear) / 64
	if w.near[word] &^= 1 << (head % 64); w.near[word] != 0 {
		return
	}
	w.summary[word/64%summaryWords] &^= 1 << (word % 64)
	if w.summary == [summaryWords]uint64{} {
		w.nonempty &^= 1
	}
}

// skip moves an idle wheel to the tick now: it does what Advance would do if no timer is to be visited by then, and
// nothing otherwise. A timer armed after a long sleep thus lands on a low level.
func (w *Wheel) skip(now uint64) {
	if now <= w.target || w.pendingSpan != 0 || w.heads[dueHead].next != dueHead {
		return
	}
	if at, _ := w.nextVisit(); at > now || w.nonempty == 0 {
		w.now, w.target = now, now
	}
}
