package timingwheel

import (
	"fmt"
	"unsafe"
)

// NodeSize is what one timer costs, in bytes.
const NodeSize = unsafe.Sizeof(node{})

// SetGeneration moves an armed timer's node to another generation, an odd one, and returns the timer's new handle. It
// spares tests the two billion timers it would take to get there.
func (w *Wheel) SetGeneration(t Timer, gen uint32) Timer {
	i, n := w.lookup(t)
	n.gen = gen
	return Timer(gen)<<32 | Timer(i)
}

// Check walks the whole wheel and reports the first broken invariant.
func (w *Wheel) Check() error {
	if w.now > w.target {
		return fmt.Errorf("now %d is after target %d", w.now, w.target)
	}
	if w.advancing || w.firing != noNode {
		return fmt.Errorf("advancing %v, firing %d outside Advance", w.advancing, w.firing)
	}
	armed := 0
	for head := uint32(pendingHead); head < w.firstNode; head++ {
		if head > dueHead && head < firstFar {
			continue // no heads: their indices only make those of the slots even
		}
		n, err := w.checkList(head)
		if err != nil {
			return err
		}
		armed += n
	}
	if armed != w.armed {
		return fmt.Errorf("%d nodes in lists, but Len is %d", armed, w.armed)
	}
	if err := w.checkBitmaps(); err != nil {
		return err
	}
	free, retired := 0, 0
	for i := w.free; i != noNode; i = w.at(i).next {
		if w.at(i).gen&1 != 0 {
			return fmt.Errorf("free node %d has live generation %d", i, w.at(i).gen)
		}
		free++
	}
	for i := w.firstNode; i < w.fresh; i++ {
		if w.at(i).gen == 0 {
			retired++
		}
	}
	if used := int(w.fresh - w.firstNode); used != armed+free+retired {
		return fmt.Errorf("%d nodes used, but %d armed, %d free, %d retired", used, armed, free, retired)
	}
	return w.checkMarks()
}

// checkBitmaps checks that nonempty and summary say what far and near do. Check looks at these themselves.
func (w *Wheel) checkBitmaps() error {
	if len(w.near) != int(w.firstNode-firstNear)/64 {
		return fmt.Errorf("near has %d words", len(w.near))
	}
	var nonempty uint32
	var summary [summaryWords]uint64
	for level, bits := range w.far {
		if bits != 0 {
			nonempty |= 1 << level
		}
	}
	if nonempty&^(1<<levels-2) != 0 {
		return fmt.Errorf("levels %x are occupied", nonempty)
	}
	for word, bits := range w.near {
		if bits != 0 {
			nonempty |= 1
			summary[word/64] |= 1 << (word % 64)
		}
	}
	if nonempty != w.nonempty || summary != w.summary {
		return fmt.Errorf("nonempty %x, summary %x, want %x, %x", w.nonempty, w.summary, nonempty, summary)
	}
	return nil
}

// checkMarks checks that no block of marks is lost, shared or out of range.
func (w *Wheel) checkMarks() error {
	l := &w.lookahead
	seen := map[uint32]bool{}
	count := func(b uint32, used bool) error {
		for ; b != 0; b = l.at(b).next {
			if seen[b] || b >= l.fresh {
				return fmt.Errorf("block %d of marks is in two chains, or out of range", b)
			}
			seen[b] = true
			m := l.at(b)
			if !used {
				continue
			}
			if m.n == 0 || m.n > marksPerBlock {
				return fmt.Errorf("block %d has %d marks", b, m.n)
			}
			for _, i := range m.node[:m.n] {
				if i < w.firstNode || i >= w.fresh {
					return fmt.Errorf("block %d: mark %d is out of range", b, i)
				}
			}
		}
		return nil
	}
	if err := count(l.block, true); err != nil {
		return err
	}
	for head := uint32(pendingHead); head < w.firstNode; head++ {
		if err := count(uint32(w.at(head).deadline>>32), true); err != nil {
			return err
		}
	}
	if len(seen) != l.inUse {
		return fmt.Errorf("%d blocks of marks are in use, not %d", len(seen), l.inUse)
	}
	if err := count(l.free, false); err != nil {
		return err
	}
	if len(seen) != max(1, int(l.fresh))-1 {
		return fmt.Errorf("%d of %d blocks of marks are lost", max(1, int(l.fresh))-1-len(seen), l.fresh)
	}
	return nil
}

// Marks returns the marks of the slot that a deadline has, as node indices.
func (w *Wheel) Marks(deadline uint64) []uint32 {
	var marks []uint32
	for b := uint32(w.at(w.naiveSlot(deadline)).deadline >> 32); b != 0; b = w.lookahead.at(b).next {
		m := w.lookahead.at(b)
		marks = append(marks, m.node[:m.n]...)
	}
	return marks
}

// NearStride and FarStride are the numbers of nodes from one mark to the next.
const (
	NearStride = nearStride
	FarStride  = farStride
)

// MaxNear is for how many ticks a Wheel has slots at most.
const MaxNear = maxNear - slots

// Skip is skip.
func (w *Wheel) Skip(now uint64) { w.skip(now) }

// checkList checks the list at head and returns its length.
func (w *Wheel) checkList(head uint32) (int, error) {
	length := 0
	last := head
	for i := w.at(head).next; i != head; i = w.at(i).next {
		n := w.at(i)
		if i < w.firstNode || i >= w.fresh {
			return 0, fmt.Errorf("list %d: index %d out of range", head, i)
		}
		if n.prev != last {
			return 0, fmt.Errorf("list %d: node %d has prev %d, not %d", head, i, n.prev, last)
		}
		if n.gen&1 == 0 {
			return 0, fmt.Errorf("list %d: node %d is armed but has generation %d", head, i, n.gen)
		}
		switch head {
		case pendingHead:
			if n.deadline < w.now || n.deadline < w.pendingFirst || n.deadline-w.pendingFirst >= w.pendingSpan {
				return 0, fmt.Errorf("pending node %d: deadline %d not in %d + %d, now %d", i, n.deadline, w.pendingFirst, w.pendingSpan, w.now)
			}
		case dueHead:
			if n.deadline != w.now {
				return 0, fmt.Errorf("due node %d: deadline %d, now %d", i, n.deadline, w.now)
			}
		default:
			if want := w.naiveSlot(n.deadline); head != want {
				return 0, fmt.Errorf("node %d, deadline %d, now %d: in list %d, not %d", i, n.deadline, w.now, head, want)
			}
		}
		last = i
		length++
	}
	if w.at(head).prev != last {
		return 0, fmt.Errorf("list %d: head's prev is %d, not %d", head, w.at(head).prev, last)
	}
	switch {
	case head >= firstFar:
		word := w.far[head/64%16]
		if head >= firstNear {
			word = w.near[(head-firstNear)/64]
		}
		bit := word >> (head % 64) & 1
		if (length > 0) != (bit == 1) {
			return 0, fmt.Errorf("list %d: %d nodes, occupancy bit %d", head, length, bit)
		}
	case head == pendingHead:
		if (length > 0) != (w.pendingSpan != 0) {
			return 0, fmt.Errorf("%d pending nodes, pendingSpan %d", length, w.pendingSpan)
		}
	}
	return length, nil
}

// naiveSlot finds the list for a deadline: in a near slot by its distance, or else digit by digit.
func (w *Wheel) naiveSlot(deadline uint64) uint32 {
	near := uint64(w.firstNode) - firstNear
	if deadline/64-w.now/64 < near/64 {
		return uint32(firstNear + deadline%near)
	}
	horizon := w.now/64 + near/64 - 1
	for level := levels - 1; level > 1; level-- {
		if shift := (level - 1) * slotBits; horizon>>shift != deadline/64>>shift {
			return uint32(level*slots + int(deadline/64>>shift&slotMask))
		}
	}
	return uint32(slots + deadline/64&slotMask)
}

// MinParked is the number of stopped timers that a shard may keep.
const MinParked = minParked

// WheelNow returns the tick at which the wheel of the only shard stands.
func (s *Scheduler) WheelNow() uint64 {
	sh := &s.shards[0]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.wheel.Now()
}

// Check reports the first broken invariant of a Scheduler whose goroutine sleeps and that nobody is using.
func (s *Scheduler) Check() error {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		err := sh.check()
		sh.mu.Unlock()
		if err != nil {
			return fmt.Errorf("shard %d: %w", i, err)
		}
	}
	return nil
}

func (sh *shard) check() error {
	if sh.wheel == nil {
		return nil
	}
	if err := sh.wheel.Check(); err != nil {
		return err
	}
	now := sh.sched.tickDown(int64(sh.sched.clock.Now()))
	held, parked := 0, 0
	for c, chunk := range sh.timers {
		for i, t := range chunk {
			if t == nil {
				continue
			}
			held++
			at, ok := sh.wheel.Deadline(t.node)
			if node := uint32(c<<chunkBits + i); !ok || uint32(t.node) != node {
				return fmt.Errorf("the timer at node %d has node %x, armed %v", node, uint64(t.node), ok)
			}
			if at < sh.next.Load() && at > now {
				return fmt.Errorf("next is %d, but a timer is in the wheel at %d", sh.next.Load(), at)
			}
			due := max(t.due.Load(), -t.due.Load())
			if due != 0 && sh.sched.tickUp(due) < at && sh.sched.tickUp(due) > now {
				return fmt.Errorf("a timer due at tick %d is in the wheel at %d", sh.sched.tickUp(due), at)
			}
			if t.parks.Load() {
				parked++
			}
		}
	}
	if held != sh.wheel.Len() || parked != sh.parked {
		return fmt.Errorf("%d timers, %d of them parked, but the wheel has %d, and parked is %d", held, parked, sh.wheel.Len(), sh.parked)
	}
	return nil
}
