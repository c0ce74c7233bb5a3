package timingwheel

const (
	// A stride is the number of nodes from one mark to the next, in near slots, which are those of level 0, and in far
	// ones; the chains are those that are read at the same time. A million timers of a minute are 170 a tick of 10 ms,
	// of which a mark at every 64th makes three chains. With connections at random places, a mark at every 16th makes
	// firing twice as fast, and more marks or chains gain nothing more. Far slots hold thousands, where fewer marks do as
	// well. The products, 256 and 512 nodes, are 16 and 32 KiB of cache lines.
	nearStride = 16
	nearChains = 16
	farStride  = 64
	farChains  = 8

	marksPerBlock  = 14
	blockChunkBits = 8
	blockChunkSize = 1 << blockChunkBits
)

// markBlock is a piece of a chain of marks. It has the size of a cache line.
type markBlock struct {
	node [marksPerBlock]uint32
	n    uint32 // marks in node
	next uint32 // block, 0 at the end of the chain
}

// lookahead reads the nodes of a long list into the processor's cache before Advance comes to them. In a list, each node
// tells only where the next one is, so that a walk waits for memory at each; at a million timers that wait is most of the
// cost of firing. Marks tell where every 16th node is, or every 64th, and from several marks the processor fetches several
// nodes at once.
//
// Marks are hints. A marked node may have left its list, or belong to another timer by now: then a chain leads to other
// nodes, which are read in vain. The indices in marks and links are always those of nodes that exist.
//
// A chain begins and ends in the head of its list, see Wheel.pushBack.
type lookahead struct {
	chunks []*[blockChunkSize]markBlock
	fresh  uint32 // first block never used
	free   uint32 // first of the free blocks, 0 if there are none
	inUse  int

	// The list that Advance works on.
	block uint32 // the rest of its marks
	mark  uint32 // the next one in block
	ahead int    // nodes that were read and not yet visited
	sum   uint32 // keeps the reads from being optimized away

	// Here and not on the stack, where they would have to be cleared each time.
	chains [max(nearChains, farChains)]uint32 // where each has come to
	data   [nearChains * nearStride]uint32    // of the nodes that were read
}

func (l *lookahead) at(b uint32) *markBlock {
	return &l.chunks[b>>blockChunkBits][b&(blockChunkSize-1)]
}

// alloc returns an empty block, or 0 if there are as many as limit.
func (l *lookahead) alloc(limit int) uint32 {
	if l.inUse >= limit {
		return 0
	}
	l.inUse++
	b := l.free
	if b != 0 {
		l.free = l.at(b).next
	} else {
		if l.fresh == 0 {
			l.fresh = 1 // 0 is no block
		}
		b = l.fresh
		l.fresh++
		if int(b>>blockChunkBits) == len(l.chunks) {
			l.chunks = append(l.chunks, new([blockChunkSize]markBlock))
		}
	}
	*l.at(b) = markBlock{}
	return b
}

// release frees the chain that begins with block b.
func (l *lookahead) release(b uint32) {
	for b != 0 {
		m := l.at(b)
		next := m.next
		m.next = l.free
		l.free = b
		l.inUse--
		b = next
	}
}

// begin takes over the marks of the list that Advance is going to work on.
func (l *lookahead) begin(chain uint32) {
	l.release(l.block)
	l.block, l.mark, l.ahead = chain, 0, 0
}

// nextMark returns the next mark of the list and whether there is one.
func (l *lookahead) nextMark() (uint32, bool) {
	for l.block != 0 {
		m := l.at(l.block)
		if l.mark < m.n {
			l.mark++
			return m.node[l.mark-1], true
		}
		rest := m.next
		m.next = 0
		l.release(l.block)
		l.block, l.mark = rest, 0
	}
	return 0, false
}

// mark remembers node i, which has been appended to the list at head h.
func (w *Wheel) mark(h *node, i uint32) {
	l := &w.lookahead
	first, last := uint32(h.deadline>>32), uint32(h.deadline)
	if last != 0 {
		// A timer that is armed and stopped over and over would leave nothing but marks that have become wrong.
		m := l.at(last)
		if latest := m.node[m.n-1]; latest == i || w.at(latest).gen&1 == 0 {
			m.node[m.n-1] = i
			return
		}
	}
	if last == 0 || l.at(last).n == marksPerBlock {
		b := l.alloc(16 + w.armed/(int(h.gen)*marksPerBlock/2)) // twice what is needed if no timer is ever stopped
		if b == 0 {
			return
		}
		if last == 0 {
			first = b
		} else {
			l.at(last).next = b
		}
		last = b
		h.deadline = uint64(first)<<32 | uint64(last)
	}
	m := l.at(last)
	m.node[m.n] = i
	m.n++
}

// unmark drops the marks of the list at head h.
func (w *Wheel) unmark(h *node) {
	h.data = 0
	if h.deadline != 0 {
		w.lookahead.release(uint32(h.deadline >> 32))
		h.deadline = 0
	}
}

// lookAhead is called before the visit of node i.
func (w *Wheel) lookAhead(i uint32) {
	if w.lookahead.ahead > 0 {
		w.lookahead.ahead--
	} else if w.lookahead.block != 0 {
		w.readAhead(i)
	}
}

// readAhead reads node i and what follows it, as far as there are marks for it.
func (w *Wheel) readAhead(i uint32) {
	l := &w.lookahead
	stride, most, fetch := nearStride, nearChains, w.fetch
	if w.pendingSpan != 0 {
		stride, most, fetch = farStride, farChains, nil // these only move to a lower level
	}
	chains := append(l.chains[:0], i)
	for len(chains) < most {
		mark, ok := l.nextMark()
		if !ok {
			break
		}
		chains = append(chains, mark)
	}
	if fetch == nil {
		for range stride {
			for c, at := range chains {
				chains[c] = w.at(at).next
			}
		}
	} else {
		// First all nodes and then all that fetch reads, lest one wait for the other.
		data := l.data[:0]
		for range stride {
			for c, at := range chains {
				node := w.at(at)
				chains[c] = node.next
				if at >= w.firstNode {
					data = append(data, node.data)
				}
			}
		}
		fetch(data)
	}
	for _, c := range chains {
		l.sum += c
	}
	l.nextMark() // where the next call begins by itself
	l.ahead = len(chains)*stride - 1
}
