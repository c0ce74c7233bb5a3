package generator

import (
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/hist"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/meter"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
)

// series counts latencies step by step. A step's histogram is handed over to
// another goroutine, which encodes it and adds it to the sum, so that the loop
// only swaps a pointer.
type series struct {
	g       *Generator
	current *hist.Histogram
	// same is how many latencies of the length again came last and are not in
	// current yet: answers that are sent together often come back together.
	again, same int64
	index       int
	next        int64 // end of the current step
	last        mark

	full  chan stepEnd
	empty chan *hist.Histogram
	ended chan struct{}
	sum   *hist.Histogram // the goroutine's, until ended
}

type stepEnd struct {
	interval spec.Interval
	latency  *hist.Histogram
}

// swaps is how many histograms there are beside the current one.
const swaps = 3

func (s *series) begin(g *Generator) {
	*s = series{
		g: g, current: hist.New(), sum: hist.New(), next: forever,
		full: make(chan stepEnd, swaps), empty: make(chan *hist.Histogram, swaps), ended: make(chan struct{}),
	}
	for range swaps {
		s.empty <- hist.New()
	}
	go func() {
		defer close(s.ended)
		for end := range s.full {
			// A histogram that cannot be encoded leaves a hole in the series;
			// it still counts in the sum.
			end.interval.Latency, _ = end.latency.Text()
			g.notes.write(spec.Note{Interval: &end.interval})
			s.sum.Merge(end.latency)
			end.latency.Reset()
			s.empty <- end.latency
		}
	}()
}

// record counts a latency in nanoseconds.
func (s *series) record(ns int64) {
	if ns != s.again {
		s.settle()
		s.again = ns
	}
	s.same++
}

// settle enters the latencies that came last.
func (s *series) settle() {
	if s.same > 0 {
		s.current.RecordMany(s.again, s.same)
		s.same = 0
	}
}

// start begins the first step.
func (s *series) start(at int64) {
	s.next = at + int64(s.g.spec.Step)
	s.last = s.g.from
}

// due ends the steps that are over by now and returns when the next one is.
func (s *series) due() int64 {
	if s.g.phase != counting {
		return forever
	}
	// The last step ends with the window, when its counters are read.
	s.advance(min(s.g.now, s.g.window.To-1))
	return s.next
}

// advance ends the steps that are over by then.
func (s *series) advance(until int64) {
	g := s.g
	for until >= s.next {
		s.settle()
		m := mark{counts: g.counts, own: g.own()}
		if len(g.mine.PIDs) > 0 {
			m.server, _ = meter.CPUs(g.mine.PIDs) // a failure shows at the end
		}
		s.full <- stepEnd{spec.Interval{
			Index: s.index, At: s.next, Open: g.open,
			Messages: m.counts.Messages - s.last.counts.Messages,
			Own:      m.own - s.last.own, Server: m.server - s.last.server,
		}, s.current}
		s.current = <-s.empty
		s.last = m
		s.index++
		s.next += int64(g.spec.Step)
	}
}

// end stops the goroutine, and returns all that was recorded. It may be called
// again, and before begin.
func (s *series) end() *hist.Histogram {
	if s.g == nil {
		return hist.New()
	}
	if s.full != nil {
		close(s.full)
		s.full = nil
		<-s.ended
		s.settle()
		s.sum.Merge(s.current)
	}
	return s.sum
}
