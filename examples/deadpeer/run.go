package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

const (
	// patience is how long anything may take for which there is no promise.
	patience = 20 * time.Second
	// grace is how long a verdict that is late already is waited for.
	grace = 10 * time.Second
	// maxStep is by how much the system's clock may be off at the end.
	maxStep = heartbeat.Tick
)

// conductor runs the server and the clients, makes peers vanish, and enters
// what it is told into the ledger. It is one goroutine; what others have to
// say comes as messages.
type conductor struct {
	plan     plan
	network  *network
	liveness heartbeat.Config
	ledger   *ledger
	progress *progress

	stderr    io.Writer
	messages  chan message
	processes []*process // that have not exited
	addr      string     // of the server; empty: it does not listen yet
}

// run plays the whole piece. It returns when no child is left.
func run(ctx context.Context, clients int, preset string, stderr io.Writer) (r *report, err error) {
	// The system takes the end of the thread that starts a child for the
	// parent's death.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	began := time.Now()
	files, err := openFiles()
	if err != nil {
		return nil, err
	}
	all := ways
	network, err := openNetwork()
	if err == nil {
		all = append(slices.Clone(ways), farWays...)
		// Deferred first: by then no process is left in it.
		defer func() { err = errors.Join(err, network.close()) }()
	} else {
		fmt.Fprintf(stderr, "deadpeer: no network is broken: %v\n", err)
	}
	plan, err := newPlan(clients, files, all)
	if err != nil {
		return nil, err
	}
	liveness := presets[preset]
	c := &conductor{
		plan: plan, network: network, liveness: liveness,
		ledger: newLedger(plan.counts), progress: newProgress(stderr),
		stderr: stderr, messages: make(chan message, 1000),
	}
	defer c.stop()
	fmt.Fprintf(stderr, "deadpeer: %d clients in %d processes, %d of them victims, preset %s\n%v\n",
		clients, len(plan.crews), plan.victims(), preset, liveness)
	c.progress.phase("connecting", c.ledger)
	if err := c.connect(ctx, preset); err != nil {
		return nil, err
	}
	c.progress.phase("talking", c.ledger)
	if err := c.wait(ctx, liveness.Interval); err != nil {
		return nil, err
	}
	c.progress.phase("vanishing", c.ledger)
	if err := c.vanish(ctx); err != nil {
		return nil, err
	}
	c.progress.phase("waiting for the verdicts", c.ledger)
	if err := c.find(ctx); err != nil {
		return nil, err
	}
	c.progress.phase("asking the healthy", c.ledger)
	if err := c.check(ctx); err != nil {
		return nil, err
	}
	// Where it was set, wall clock and monotonic clock have parted.
	took := time.Since(began)
	if step := time.Duration(now()-began.UnixNano()) - took; step.Abs() > maxStep {
		return nil, fmt.Errorf("the system's clock was set by %v, so that no time can be told: run it again", step)
	}
	r = c.ledger.judge(liveness.WorstCase(), heartbeat.Tick)
	r.Clients, r.Preset, r.Liveness, r.Took = clients, preset, liveness.String(), millis(took)
	return r, nil
}

// connect starts the server and the clients.
func (c *conductor) connect(ctx context.Context, preset string) error {
	if _, err := c.start(spec{Addr: c.network.listen(), Preset: preset, Clients: c.plan.clients}); err != nil {
		return err
	}
	if err := c.await(ctx, patience, func() bool { return c.addr != "" }); err != nil {
		return err
	}
	for _, s := range c.plan.crews {
		s.Addr, s.Preset = c.network.reach(s.Way, c.addr), preset
		if _, err := c.start(s); err != nil {
			return err
		}
	}
	talkers := c.plan.talkers()
	if err := c.await(ctx, patience+time.Duration(talkers)*pace, func() bool { return c.ledger.connected == talkers }); err != nil {
		return err
	}
	if c.ledger.connected < talkers {
		return fmt.Errorf("only %d of %d clients could connect within %v", c.ledger.connected, talkers, patience)
	}
	return nil
}

func (c *conductor) start(s spec) (*process, error) {
	p, err := start(s, c.network, c.stderr, c.messages)
	if err == nil {
		c.processes = append(c.processes, p)
	}
	return p, err
}

// vanish spreads the faults over a worst case, so that they meet every phase
// of the heartbeats.
func (c *conductor) vanish(ctx context.Context) error {
	from := time.Now()
	o := order{Vanish: true, From: from.UnixNano(), Window: c.liveness.WorstCase()}
	type blow struct {
		at time.Time
		p  *process
	}
	var blows []blow
	for turn, w := range []way{killed, frozen} {
		crew := c.crew(w)
		for i, p := range crew {
			blows = append(blows, blow{o.at(2*i+turn, 2*len(crew)), p})
		}
	}
	for i, w := range farWays {
		for _, p := range c.crew(w) {
			blows = append(blows, blow{o.at(i, len(farWays)), p})
		}
	}
	slices.SortFunc(blows, func(a, b blow) int { return a.at.Compare(b.at) })

	for _, w := range []way{fin, rst, hung, deaf, silent} {
		for _, p := range c.crew(w) {
			if err := p.tell(o); err != nil {
				return err
			}
		}
	}
	for _, b := range blows {
		if err := c.wait(ctx, time.Until(b.at)); err != nil {
			return err
		}
		strike := b.p.kill
		switch {
		case b.p.Way == frozen:
			strike = b.p.freeze
		case b.p.Way.far():
			strike = func() error { return c.network.strike(b.p.Way) }
		}
		at := now()
		if err := strike(); err != nil {
			return err
		}
		if b.p.Way.far() {
			at = now() // it took a while, and may have come about at its end
		}
		c.ledger.struck(b.p, at)
	}
	return c.wait(ctx, time.Until(from.Add(o.Window)))
}

func (c *conductor) crew(w way) []*process {
	var crew []*process
	for _, p := range c.processes {
		if p.Way == w {
			crew = append(crew, p)
		}
	}
	return crew
}

// find waits until every victim was found, or should have been.
func (c *conductor) find(ctx context.Context) error {
	return c.await(ctx, c.liveness.WorstCase()+grace, func() bool { return c.ledger.found == c.plan.victims() })
}

// check has every healthy client ask the server something.
func (c *conductor) check(ctx context.Context) error {
	for _, p := range c.crew(healthy) {
		if err := p.tell(order{Check: true}); err != nil {
			return err
		}
	}
	return c.await(ctx, c.liveness.WorstCase(), func() bool { return c.ledger.alive == c.plan.counts[healthy] })
}

// stop ends every child, whatever it does, and waits until all are gone.
func (c *conductor) stop() {
	c.progress.done()
	for _, p := range c.processes {
		_ = p.kill()
	}
	for len(c.processes) > 0 {
		c.note(<-c.messages)
	}
}

func (c *conductor) wait(ctx context.Context, d time.Duration) error {
	return c.await(ctx, d, func() bool { return false })
}

// await takes messages until done says that it is, or the time is over.
func (c *conductor) await(ctx context.Context, limit time.Duration, done func() bool) error {
	over := time.After(limit)
	for !done() {
		select {
		case m := <-c.messages:
			if err := c.note(m); err != nil {
				return err
			}
		case <-c.progress.due():
			c.progress.show(c.ledger)
		case <-over:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// note takes one message.
func (c *conductor) note(m message) error {
	switch m.Kind {
	case listening:
		c.addr = m.Addr
	case failed:
		return fmt.Errorf("the %s: %s", m.from, m.Text)
	case exited:
		c.processes = slices.DeleteFunc(c.processes, func(p *process) bool { return p == m.from })
		if !m.from.killed {
			return fmt.Errorf("the %s ended by itself: %s", m.from, m.Text)
		}
	default:
		c.ledger.note(m)
	}
	return nil
}
