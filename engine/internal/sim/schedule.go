package sim

// schedule is a heap of things to happen: earliest first, and at equal times in
// the order in which they were pushed.
type schedule struct {
	heap []entry
	seq  uint64
}

type entry struct {
	at  int64
	seq uint64
	do  action
}

// action is called with World.mu held and may release it meanwhile.
type action interface{ act(w *World, e entry) }

func (s *schedule) empty() bool { return len(s.heap) == 0 }
func (s *schedule) next() entry { return s.heap[0] }

func (a entry) before(b entry) bool { return a.at < b.at || a.at == b.at && a.seq < b.seq }

func (s *schedule) push(at int64, do action) (seq uint64) {
	s.seq++
	s.restore(entry{at, s.seq, do})
	return s.seq
}

// restore puts back what pop took.
func (s *schedule) restore(e entry) {
	s.heap = append(s.heap, e)
	i := len(s.heap) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if !e.before(s.heap[parent]) {
			break
		}
		s.heap[i] = s.heap[parent]
		i = parent
	}
	s.heap[i] = e
}

func (s *schedule) pop() entry {
	top := s.heap[0]
	last := len(s.heap) - 1
	e := s.heap[last]
	s.heap[last] = entry{}
	s.heap = s.heap[:last]
	i := 0
	for {
		child := 2*i + 1
		if child >= last {
			break
		}
		if child+1 < last && s.heap[child+1].before(s.heap[child]) {
			child++
		}
		if !s.heap[child].before(e) {
			break
		}
		s.heap[i] = s.heap[child]
		i = child
	}
	if last > 0 {
		s.heap[i] = e
	}
	return top
}
