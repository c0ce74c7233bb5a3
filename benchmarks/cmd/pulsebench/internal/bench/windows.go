package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/monotonic"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
)

// Windows is the load of a closed or an open loop that is quiet but for its
// windows, so that it can take turns with others on the same server. It is what a run does, by the
// same worker, but for the pauses. Its methods are for one goroutine.
type Windows struct {
	ctx context.Context
	s   *session
	err error // has ended it
}

// Open carries out a plan up to the end of its warm-up. What it returns is to be
// ended, and fails once ctx has.
func (b Bench) Open(ctx context.Context) (*Windows, error) {
	if b.Plan.Workload != spec.Closed && b.Plan.Workload != spec.Open || b.Plan.Workers != 1 {
		return nil, fmt.Errorf("%w: only one worker's closed or open loop has windows", ErrSetup)
	}
	b.Plan.Step = spec.MaxDuration // windows have no series
	s := newSession(b)
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	if err := s.start(0); err != nil {
		s.end()
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	w := &Windows{ctx: ctx, s: s}
	err := s.awaitOpened(ctx)
	if err == nil && s.plan.Warmup > 0 {
		_, err = w.Window(s.plan.Warmup)
	}
	if err != nil {
		s.end()
		return nil, err
	}
	return w, nil
}

// Window loads the server and returns what was counted for that long: once a fifth
// of it has passed under load, until it is over. Then nothing more is sent, and
// what is under way is awaited. A busy machine may let the server answer nothing
// in a whole window, which is then repeated, no longer than the plan's Drain.
func (w *Windows) Window(d time.Duration) (share spec.Share, err error) {
	if w.err != nil {
		return share, w.err
	}
	defer func() { w.err = err }()
	for limit := time.Now().Add(w.s.plan.Drain); ; {
		if share, err = w.once(d); err != nil || share.Counters.Messages > 0 {
			return share, err
		}
		if time.Now().After(limit) {
			return share, fmt.Errorf("nothing came back within %v, in any window of %v", w.s.plan.Drain, d)
		}
	}
}

func (w *Windows) once(d time.Duration) (spec.Share, error) {
	window := spec.Window{Begin: monotonic.Now(), More: true}
	window.From = window.Begin + int64(d)/5
	window.To = window.From + int64(d)
	return w.order(spec.Order{Go: &window}, 2*d)
}

// order tells the worker what to do, and awaits its share of it for that long, and
// for as long as the drain may take.
func (w *Windows) order(o spec.Order, takes time.Duration) (spec.Share, error) {
	s := w.s
	s.shares[0] = nil
	s.workers[0].Order(o)
	timer := time.NewTimer(takes + s.plan.Drain + margin)
	defer timer.Stop()
	for s.shares[0] == nil {
		select {
		case h := <-s.heard:
			if err := s.hear(h); err != nil {
				return spec.Share{}, err
			}
		case <-w.ctx.Done():
			return spec.Share{}, w.ctx.Err()
		case <-timer.C:
			return spec.Share{}, errors.New("the worker did not come to an end")
		}
	}
	return *s.shares[0], s.spoilt(s.shares[0])
}

// spoilt says what must not be in a window, nor between two.
func (s *session) spoilt(share *spec.Share) error {
	switch {
	case len(share.Problems) > 0:
		return errors.New(share.Problems[0])
	case len(share.Lost) > 0:
		return fmt.Errorf("connections were lost: %v", share.Lost)
	case share.Counters.Unanswered > 0:
		return fmt.Errorf("%d messages were not answered within %v", share.Counters.Unanswered, s.plan.Drain)
	}
	return nil
}

// End ends the load and its connections. The error says what went wrong since the
// last window, unless Window has said so.
func (w *Windows) End() error {
	defer w.s.end()
	if w.err != nil {
		return nil
	}
	_, err := w.order(spec.Order{Stop: true}, 0)
	return err
}
