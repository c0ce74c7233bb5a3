// Package bench carries out a plan: it starts workers, keeps them in step,
// looks at the server meanwhile, and makes one result of what all of them saw.
package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/cut"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/fleet"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/hist"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/meter"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/monotonic"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/result"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/serverstats"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
)

// Bench is a plan and its circumstances.
type Bench struct {
	Plan spec.Spec
	// PIDs are the server's processes, if they run here.
	PIDs []int
	// CPUs are the processors that workers are bound to in turn; none: any.
	CPUs []int
	// StatsURL is where the server publishes its engine.Stats.
	StatsURL string
	// Progress is told how far the run is; nil: nobody.
	Progress func(Progress)
}

// Progress is how far a run is.
type Progress struct {
	Stage    string        // what happens
	Ready    int           // connections
	Elapsed  time.Duration // of the window
	Rate     float64       // messages a second, of the last step
	P50, P99 time.Duration // of the last step
}

// margin is what workers may take beyond their plan before they are killed.
const margin = 30 * time.Second

// lead is how long before the beginning workers are told of it, so that none hears
// what another has begun with before it has begun itself.
const lead = 200 * time.Millisecond

// ErrSetup is wrapped by errors that come before any load: the plan, the
// target, the machine.
var ErrSetup = errors.New("no load was generated")

// session is one run.
type session struct {
	Bench
	plan     spec.Spec
	heard    chan fleet.Heard
	workers  []*fleet.Worker
	left     int // workers that have not ended
	ready    []int
	opened   int
	shares   []*spec.Share
	steps    []*step
	window   spec.Window
	started  time.Time
	skipped  []string
	before   meter.Memory
	open     meter.Memory
	after    meter.Memory
	points   []serverstats.Point
	stopping bool
}

// step gathers the workers' parts of one step.
type step struct {
	workers  int
	open     int
	messages int64
	own      int64
	server   int64
	latency  *hist.Histogram // until it is frozen
	p50, p99 time.Duration
	max      time.Duration
}

func newSession(b Bench) *session {
	return &session{Bench: b, plan: b.Plan, heard: make(chan fleet.Heard, 64), started: time.Now().UTC().Truncate(time.Second)}
}

// Run carries out the plan once. When ctx ends, the window ends, and the result
// is what there is.
func (b Bench) Run(ctx context.Context) (result.Run, error) {
	s := newSession(b)
	if err := s.prepare(); err != nil {
		return result.Run{}, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	mark := 0
	if slices.Contains(s.plan.Ways, spec.Cut) && s.plan.Workload == spec.DeadPeer {
		scissors, err := cut.Open()
		if err != nil {
			if err := s.skip(spec.Cut, err); err != nil {
				return result.Run{}, fmt.Errorf("%w: %w", ErrSetup, err)
			}
		} else {
			mark = cut.Mark
			defer scissors.Close()
		}
	}
	defer s.end()
	if err := s.start(mark); err != nil {
		return result.Run{}, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	if err := s.awaitOpened(ctx); err != nil {
		return result.Run{}, err
	}
	if err := s.load(ctx); err != nil {
		return result.Run{}, err
	}
	return s.result()
}

func (s *session) prepare() error {
	var err error
	if s.plan, _, _, err = s.plan.Check(); err != nil {
		return err
	}
	address, err := s.plan.Resolve()
	if err != nil {
		return err
	}
	if len(s.plan.Sources) == 0 {
		s.plan.Sources = sources(s.plan, address)
	}
	if len(s.PIDs) > 0 {
		if _, err := meter.CPUs(s.PIDs); err != nil {
			return fmt.Errorf("-pid: %w", err)
		}
		if s.before, err = meter.Memories(s.PIDs); err != nil {
			return fmt.Errorf("-pid: %w", err)
		}
	}
	return nil
}

// portsPerSource is how many connections one source address is trusted with:
// Linux has 28,232 ports for them by default, and others use some.
const portsPerSource = 20_000

// churnSources is how many source addresses connections that come and go take
// turns with, because a port rests for a while after each.
const churnSources = 32

// sources returns the loopback addresses to connect from, if the target is one.
func sources(plan spec.Spec, address netip.AddrPort) []string {
	n := (plan.Conns + portsPerSource - 1) / portsPerSource
	if plan.Workload == spec.Churn {
		n = churnSources
	}
	if !address.Addr().Is4() || !address.Addr().IsLoopback() || n < 2 {
		return nil
	}
	var list []string
	a := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	for range min(n, 250) {
		list = append(list, a.String())
		a = a.Next()
	}
	return list
}

// skip leaves a way to vanish out that this machine cannot do.
func (s *session) skip(way spec.Way, why error) error {
	s.skipped = append(s.skipped, fmt.Sprintf("%s %v", way, why))
	s.plan.Ways = slices.DeleteFunc(slices.Clone(s.plan.Ways), func(w spec.Way) bool { return w == way })
	if len(s.plan.Ways) == 0 {
		return fmt.Errorf("-vanish %s %w", way, why)
	}
	return nil
}

func (s *session) start(mark int) error {
	address, err := s.plan.Resolve()
	if err != nil {
		return err
	}
	s.ready = make([]int, s.plan.Workers)
	s.shares = make([]*spec.Share, s.plan.Workers)
	for i := range s.plan.Workers {
		cpu := fleet.AnyCPU
		if len(s.CPUs) > 0 {
			cpu = s.CPUs[i%len(s.CPUs)]
		}
		w, err := fleet.Start(s.plan.Assign(i, address.String(), s.PIDs, mark), cpu, s.heard)
		if err != nil {
			return err
		}
		s.workers = append(s.workers, w)
		s.left++
	}
	return nil
}

// patience is how long workers may take to end that were released.
const patience = 5 * time.Second

// end sees to it that no worker is left.
func (s *session) end() {
	for _, w := range s.workers {
		w.Release()
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for s.left > 0 {
		select {
		case h := <-s.heard:
			if h.Ended {
				s.left--
			}
		case <-timer.C:
			for _, w := range s.workers {
				w.Kill()
			}
		}
	}
}

func (s *session) tell(p Progress) {
	if s.Progress != nil {
		s.Progress(p)
	}
}

func (s *session) sumReady() (n int) {
	for _, ready := range s.ready {
		n += ready
	}
	return n
}

// hear takes one note in.
func (s *session) hear(h fleet.Heard) error {
	switch n := h.Note; {
	case h.Ended:
		s.left--
		if s.shares[h.Worker] == nil {
			if h.Err == nil {
				return fmt.Errorf("worker %d ended without a word", h.Worker)
			}
			return h.Err
		}
	case n.Failed != "":
		return errors.New(n.Failed)
	case n.Opening != nil:
		s.ready[h.Worker] = n.Opening.Ready
	case n.Opened:
		s.opened++
	case n.Interval != nil:
		return s.hearStep(n.Interval)
	case n.Share != nil:
		s.shares[h.Worker] = n.Share
	}
	return nil
}

// maxSteps bounds the series.
const maxSteps = 1 << 20

func (s *session) hearStep(i *spec.Interval) error {
	if i.Index < 0 || i.Index > maxSteps {
		return fmt.Errorf("step %d of a series", i.Index)
	}
	for len(s.steps) <= i.Index {
		s.steps = append(s.steps, &step{latency: hist.New()})
	}
	at := s.steps[i.Index]
	if at.latency == nil {
		return fmt.Errorf("step %d of the series is over", i.Index)
	}
	at.workers++
	at.open += i.Open
	at.messages += i.Messages
	at.own += i.Own
	at.server += i.Server
	h, err := hist.Parse(i.Latency)
	if err != nil {
		return err
	}
	at.latency.Merge(h)
	if at.workers == s.plan.Workers {
		s.tell(Progress{
			Stage: "measuring", Ready: at.open, Elapsed: time.Duration(i.At - s.window.From),
			Rate: float64(at.messages) / s.plan.Step.Seconds(),
			P50:  at.latency.Quantile(0.5), P99: at.latency.Quantile(0.99),
		})
		at.freeze()
	}
	return nil
}

func (s *session) awaitOpened(ctx context.Context) error {
	limit := s.plan.ConnectLimit + margin
	if s.plan.ConnectRate > 0 {
		limit += time.Duration(float64(s.plan.Conns) / s.plan.ConnectRate * 1e9)
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for s.opened < s.plan.Workers {
		select {
		case h := <-s.heard:
			if err := s.hear(h); err != nil {
				return err
			}
			s.tell(Progress{Stage: "connecting", Ready: s.sumReady()})
		case <-ctx.Done():
			return fmt.Errorf("interrupted while %d of %d connections were ready", s.sumReady(), s.plan.Conns)
		case <-timer.C:
			return fmt.Errorf("workers took more than %v to connect", limit)
		}
	}
	if len(s.PIDs) > 0 {
		var err error
		if s.open, err = meter.Memories(s.PIDs); err != nil {
			return fmt.Errorf("-pid: %w", err)
		}
	}
	return nil
}

func (s *session) load(ctx context.Context) error {
	if s.StatsURL != "" {
		first, err := serverstats.Get(ctx, s.StatsURL)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSetup, err)
		}
		following, stop := context.WithCancel(context.WithoutCancel(ctx))
		points := serverstats.Follow(following, s.StatsURL, first)
		defer func() {
			// One more look, so that what happened last is in it.
			last, err := serverstats.Get(following, s.StatsURL)
			stop()
			s.points = points()
			if err == nil {
				s.points = append(s.points, last)
			}
		}()
	}
	s.tell(Progress{Stage: "warming up", Ready: s.sumReady()})
	s.window.Begin = monotonic.Now() + int64(lead)
	s.window.From = s.window.Begin + int64(s.plan.Warmup)
	s.window.To = s.window.From + int64(s.plan.Duration)
	if s.plan.Workload == spec.DeadPeer {
		s.window.To += int64(s.plan.DetectLimit)
	}
	for _, w := range s.workers {
		w.Order(spec.Order{Go: &s.window})
	}
	timer := time.NewTimer(time.Duration(s.window.To-monotonic.Now()) + s.plan.Drain + margin)
	defer timer.Stop()
	interrupted := ctx.Done()
	for slices.Contains(s.shares, nil) {
		select {
		case h := <-s.heard:
			if err := s.hear(h); err != nil {
				return err
			}
		case <-interrupted:
			interrupted = nil
			s.stopping = true
			for _, w := range s.workers {
				w.Order(spec.Order{Stop: true})
			}
			timer.Reset(s.plan.Drain + margin)
		case <-timer.C:
			return errors.New("workers did not come to an end")
		}
	}
	if len(s.PIDs) > 0 {
		var err error
		if s.after, err = meter.Memories(s.PIDs); err != nil {
			return fmt.Errorf("-pid: %w", err)
		}
	}
	return nil
}
