//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/internal/netns"
)

// tableConfig is a run of the whole table.
type tableConfig struct {
	Faults    []string
	Detectors []string
	// Rounds is how often each fault strikes, each time on a host of its own.
	Rounds int
	// Conns is how many connections a detector of ours has to find in a round,
	// Kernel how many one of the kernel's.
	Conns, Kernel int
	// Parallel is how many faults are under way at a time.
	Parallel int
	// Control is how many connections of each detector are on the host that
	// nothing happens to.
	Control  int
	progress io.Writer
}

func newTableConfig(rounds int, smoke bool) *tableConfig {
	c := &tableConfig{Rounds: rounds, Conns: 300/rounds + 1, Kernel: 20/rounds + 1, Parallel: 4, Control: 50, progress: os.Stderr}
	for _, f := range faults() {
		c.Faults = append(c.Faults, f.Name)
	}
	for _, d := range detectors() {
		c.Detectors = append(c.Detectors, d.Name)
	}
	if smoke {
		c.Faults = []string{"cut", "cut-to", "rebooted", "frozen"}
		c.Detectors = slices.DeleteFunc(c.Detectors, func(name string) bool { return name == relaxed })
		c.Rounds, c.Conns, c.Kernel, c.Control = 1, 20, 5, 10
	}
	return c
}

const (
	// settle is how long connections are well before their fault: longer than
	// an interval of those that have one, so that all have asked once.
	settle = 3 * time.Second
	// streaming is for how long streams run before a fault.
	streaming = time.Second
	// grace is how long a verdict that is late already is waited for, and
	// blindGrace one that should not come.
	grace      = 15 * time.Second
	blindGrace = time.Second
	// poll is how often the server is asked for news.
	poll = 100 * time.Millisecond

	controlHost = "control"
	serverHost  = "server"
)

// table is what a run has found out.
type table struct {
	config  *tableConfig
	cells   []*cell
	control control
	took    time.Duration
}

// control is how those fared to whom nothing happened.
type control struct {
	Planned  int    `json:"planned"`
	Answered int    `json:"answered"` // at the end
	Suspects []End  `json:"suspects"` // whom the server closed
	Left     string `json:"left"`     // who left by themselves
}

// tableRun is a run of the table under way.
type tableRun struct {
	*tableConfig
	dir    string
	begun  time.Time
	net    *netns.Net
	server *child
	addrs  map[string]Listening // by detector

	building sync.Mutex // of hosts

	mu   sync.Mutex
	said State // all ends so far
}

// rowRun is one round of one fault.
type rowRun struct {
	*tableRun
	fault  *fault
	host   string
	number int
	client *child
}

func (c *tableConfig) run(ctx context.Context) (findings, error) {
	t, err := c.runTable(ctx)
	if t == nil {
		return nil, err
	}
	return t, err
}

func (c *tableConfig) runTable(ctx context.Context) (_ *table, err error) {
	r := &tableRun{tableConfig: c, begun: time.Now()}
	if r.dir, err = os.MkdirTemp("", "pulsewheel-death-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	if r.net, err = netns.New(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.net.Close()) }()
	// Children live until they are stopped, or this process dies.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if err := r.startServer(life); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.server.stop()) }()
	healthy, err := r.startRow(life, controlHost, c.all(c.Control, c.Control))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, healthy.client.stop()) }()

	t := &table{config: c}
	if t.cells, err = r.rows(ctx, life); err != nil {
		return nil, err
	}
	if t.control, err = r.judgeControl(healthy); err != nil {
		return nil, err
	}
	t.took = time.Since(r.begun)
	return t, nil
}

func (r *tableRun) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.progress, "%6.1f s  %s\n", time.Since(r.begun).Seconds(), fmt.Sprintf(format, args...))
}

func (r *tableRun) startServer(ctx context.Context) error {
	addr, err := r.net.AddHost(serverHost)
	if err != nil {
		return err
	}
	if r.server, err = start(ctx, r.net, serverHost, "server", r.dir); err != nil {
		return err
	}
	if err := r.server.call("Listen", ServerSetup{addr, r.Detectors}, &r.addrs); err != nil {
		return errors.Join(err, r.server.stop())
	}
	for _, name := range r.Detectors {
		if err := detectorByName(name).asPromised(r.addrs[name].Promise); err != nil {
			return errors.Join(err, r.server.stop())
		}
	}
	return nil
}

// startRow makes a host, and connects it.
func (r *tableRun) startRow(ctx context.Context, host string, counts map[string]int) (*rowRun, error) {
	row, err := r.newHost(ctx, host, nil)
	if err != nil {
		return nil, err
	}
	if err := row.connect(counts); err != nil {
		return nil, errors.Join(err, row.client.stop())
	}
	return row, nil
}

func (r *tableRun) newHost(ctx context.Context, host string, f *fault) (*rowRun, error) {
	r.building.Lock()
	defer r.building.Unlock()
	addr, err := r.net.AddHost(host)
	if err != nil {
		return nil, err
	}
	row := &rowRun{tableRun: r, fault: f, host: host, number: int(addr.As4()[2])}
	if f != nil && f.prepare != nil {
		if err := f.prepare(row); err != nil {
			return nil, err
		}
	}
	row.client, err = start(ctx, r.net, host, "client", r.dir)
	return row, err
}

// all returns how many connections each detector has in a round.
func (c *tableConfig) all(ours, kernels int) map[string]int {
	counts := make(map[string]int)
	for _, name := range c.Detectors {
		counts[name] = ours
		if detectorByName(name).Kernel {
			counts[name] = kernels
		}
	}
	return counts
}

// counts returns the same for one fault. Beside Strict, the other presets are
// shown by the cut cable alone.
func (c *tableConfig) counts(f *fault) map[string]int {
	counts := c.all(c.Conns, c.Kernel)
	if f.Name != "cut" && slices.Contains(c.Detectors, strict) {
		delete(counts, relaxed)
		delete(counts, realtime)
	}
	return counts
}

// connect establishes a row's connections, and waits until the server has them.
func (r *rowRun) connect(counts map[string]int) error {
	var to []Calls
	for name, n := range counts {
		to = append(to, Calls{r.addrs[name].Addr, n, detectorByName(name).Talk})
	}
	if err := r.client.call("Connect", to, &None{}); err != nil {
		return err
	}
	for deadline := time.Now().Add(startLimit); ; time.Sleep(poll / 5) {
		st, err := r.look()
		if err != nil {
			return err
		}
		ready := true
		for name, n := range counts {
			ready = ready && st.Opened[Place{r.number, name}] == n
		}
		if ready {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server does not have all connections of %s", r.host)
		}
	}
}

// look returns all that the server has seen.
func (r *tableRun) look() (State, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var news State
	if err := r.server.call("Look", len(r.said.Ends), &news); err != nil {
		return State{}, err
	}
	news.Ends = append(r.said.Ends[:len(r.said.Ends):len(r.said.Ends)], news.Ends...)
	r.said = news
	return news, nil
}

// still makes the row's clients read no more.
func (r *rowRun) still(mute bool) error { return r.client.call("Still", mute, &None{}) }

// rows runs all faults, several at a time.
func (r *tableRun) rows(ctx, life context.Context) ([]*cell, error) {
	var (
		list   []*fault
		cells  []*cell
		of     = make(map[*fault]map[string]*cell)
		wg     sync.WaitGroup
		mu     sync.Mutex
		errs   []error
		places = make(chan struct{}, r.Parallel)
	)
	for _, f := range faults() {
		if !slices.Contains(r.Faults, f.Name) {
			continue
		}
		list = append(list, f)
		of[f] = make(map[string]*cell)
		counts := r.counts(f)
		for _, d := range detectors() {
			if counts[d.Name] > 0 {
				x := newCell(f, d, expect(f, d))
				of[f][d.Name] = x
				cells = append(cells, x)
			}
		}
	}
	for _, f := range list {
		wg.Go(func() {
			for round := range r.Rounds {
				places <- struct{}{}
				err := r.round(ctx, life, f, round, of[f])
				<-places
				if err != nil {
					mu.Lock()
					errs = append(errs, fmt.Errorf("%s: %w", f.Name, err))
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return cells, errors.Join(errs...)
}

// round lets one fault strike once, and judges what comes of it.
func (r *tableRun) round(ctx, life context.Context, f *fault, round int, cells map[string]*cell) (err error) {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	row, err := r.newHost(life, fmt.Sprintf("%s-%d", f.Name, round+1), f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, row.client.stop()) }()
	counts := r.counts(f)
	if err := row.connect(counts); err != nil {
		return err
	}
	if err := wait(ctx, settle-streaming); err != nil {
		return err
	}
	var streamed, flooded []string // before the fault, and from it on
	for name := range counts {
		switch {
		case detectorByName(name).Stream && !f.Stream:
			streamed = append(streamed, name)
		case f.Stream:
			flooded = append(flooded, name)
		}
	}
	if err := r.server.call("Stream", Flow{row.number, streamed}, &None{}); err != nil {
		return err
	}
	if err := wait(ctx, streaming); err != nil {
		return err
	}

	r.say("%s, round %d", f.What, round+1)
	before, err := r.look()
	if err != nil {
		return err
	}
	s := strike{from: now(), stalled: before.Stalled}
	if err := f.strike(row); err != nil {
		return err
	}
	s.to = now()
	if err := r.server.call("Stream", Flow{row.number, flooded}, &None{}); err != nil {
		return err
	}
	after, err := row.observe(ctx, counts, cells, s)
	if err != nil {
		return err
	}
	s.until = now()
	r.mu.Lock()
	for name, x := range cells {
		s.lag = after.Lag[name]
		x.judge(counts[name], row.endsOf(after, name, s.until), s)
	}
	r.mu.Unlock()
	// What is left is reset, so that the machine is as it was.
	return r.server.call("Dismiss", row.number, &None{})
}

// endsOf returns the ends of a row's connections with one detector.
func (r *rowRun) endsOf(st State, detector string, until int64) (ends []End) {
	for _, e := range st.Ends {
		if e.Place == (Place{r.number, detector}) && e.At <= until {
			ends = append(ends, e)
		}
	}
	return ends
}

// observe waits until all that should be found is found, or should have been,
// and those that cannot be found would have been.
func (r *rowRun) observe(ctx context.Context, counts map[string]int, cells map[string]*cell, s strike) (State, error) {
	for {
		st, err := r.look()
		if err != nil {
			return st, err
		}
		done := true
		for name, x := range cells {
			limit := x.want.Within + 2*tick + time.Duration(s.to-s.from) + st.Stalled[name] - s.stalled[name]
			if x.want.Blind != "" {
				done = done && now() > s.from+int64(limit+blindGrace)
				continue
			}
			done = done && (len(r.endsOf(st, name, now())) >= counts[name] || now() > s.from+int64(limit+grace))
		}
		if done {
			return st, nil
		}
		if err := wait(ctx, poll); err != nil {
			return st, err
		}
	}
}

// judgeControl looks at those to whom nothing happened.
func (r *tableRun) judgeControl(healthy *rowRun) (control, error) {
	c := control{Planned: r.Control * len(r.Detectors)}
	var h Health
	if err := healthy.client.call("Ask", None{}, &h); err != nil {
		return c, err
	}
	c.Answered = h.Answered
	if len(h.Left) > 0 {
		c.Left = fmt.Sprint(h.Left)
	}
	st, err := r.look()
	if err != nil {
		return c, err
	}
	for _, e := range st.Ends {
		if e.Row == healthy.number {
			c.Suspects = append(c.Suspects, e)
		}
	}
	return c, nil
}
