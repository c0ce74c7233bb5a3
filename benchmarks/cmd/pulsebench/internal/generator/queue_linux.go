package generator

// entry is a message from the moment it is due until it has come back.
type entry struct {
	at   int64 // due, on the monotonic clock
	size uint32
}

// queue holds a connection's entries in order. It begins with room for a few
// within itself, which saves the usual connection a look elsewhere; it grows as
// needed and keeps its room. It must not be moved while it is in use.
type queue struct {
	ring []entry // a power of two, or nil
	head uint32  // of the first entry
	n    uint32
	few  [4]entry
}

func (q *queue) len() int { return int(q.n) }

// at is entry i from the front.
func (q *queue) at(i uint32) entry { return q.ring[(q.head+i)&uint32(len(q.ring)-1)] }

func (q *queue) push(e entry) {
	if int(q.n) == len(q.ring) {
		q.grow()
	}
	q.ring[(q.head+q.n)&uint32(len(q.ring)-1)] = e
	q.n++
}

func (q *queue) pop() entry {
	e := q.ring[q.head&uint32(len(q.ring)-1)]
	q.head++
	q.n--
	return e
}

func (q *queue) grow() {
	if q.ring == nil {
		q.ring = q.few[:]
		return
	}
	bigger := make([]entry, 2*len(q.ring))
	for i := range q.n {
		bigger[i] = q.at(i)
	}
	q.ring, q.head = bigger, 0
}

func (q *queue) clear() { q.head, q.n = 0, 0 }
