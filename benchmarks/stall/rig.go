//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
)

type config struct {
	cases         []scenario
	unguardedOnly bool
	progress      io.Writer
}

// sides are who watches, and is stopped.
var sides = []string{"server", "client"}

// run takes the cases one after another, and all watchers of a case at once.
func (c config) run(ctx context.Context) ([]*finding, error) {
	var found []*finding
	for i := range c.cases {
		s := &c.cases[i]
		if err := s.check(); err != nil {
			return nil, err
		}
		var rigs []*rig
		for _, side := range sides {
			for _, guarded := range []bool{true, false} {
				if guarded && c.unguardedOnly {
					continue
				}
				rigs = append(rigs, &rig{finding: &finding{scenario: s, Side: side, Guarded: guarded}, progress: c.progress})
			}
		}
		if err := together(ctx, rigs); err != nil {
			return nil, fmt.Errorf("case %s: %w", s.Name, err)
		}
		for _, r := range rigs {
			r.finding.judge()
			found = append(found, r.finding)
		}
	}
	return found, nil
}

// together runs rigs at the same time. The first that fails ends the others.
func together(ctx context.Context, rigs []*rig) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, r := range rigs {
		wg.Go(func() {
			if err := r.run(ctx); err != nil {
				cancel(fmt.Errorf("%s: %w", r.finding.title(), err))
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// Groups of peers, by what becomes of them.
const (
	live        = iota
	dieInLong   // during the long stop
	dieInShort  // during the first of the short ones
	numOfGroups // how many there are
)

var groupNames = [numOfGroups]string{"live", "doomed in the long stop", "doomed in a short stop"}

// rig is one watcher and its peers, a process for each group of them.
type rig struct {
	finding  *finding
	progress io.Writer

	watcher *child
	peers   [numOfGroups]*child
	all     []*child
}

// child is a process of the driver's. One goroutine uses it.
type child struct {
	*proc.Process
	suspended bool
}

const (
	startLimit  = 60 * time.Second
	reportLimit = 30 * time.Second
	// pace is how often a report is asked for where something is waited for.
	pace = 100 * time.Millisecond
)

func (r *rig) start(ctx context.Context, c partyConfig) (*child, started, error) {
	var s started
	self, err := os.Executable()
	if err != nil {
		return nil, s, err
	}
	text, err := json.Marshal(c)
	if err != nil {
		return nil, s, err
	}
	p, err := proc.Start(ctx, proc.Command{Argv: []string{self, childFlag, string(text)}, CPU: proc.AnyCPU})
	if err != nil {
		return nil, s, err
	}
	x := &child{Process: p}
	r.all = append(r.all, x)
	line, err := p.Line(startLimit)
	if err == nil {
		err = json.Unmarshal([]byte(line), &s)
	}
	return x, s, err
}

// startAll starts the watcher and its peers, and returns when all connections
// are there: servers come first.
func (r *rig) startAll(ctx context.Context) (err error) {
	s := r.finding.scenario
	sizes := [numOfGroups]int{live: s.Peers, dieInLong: s.Doomed, dieInShort: s.Doomed}
	watcher := partyConfig{Liveness: s.Watch}
	if !r.finding.Guarded {
		watcher.StallCap = -1
	}
	for g, name := range groupNames {
		watcher.Groups = append(watcher.Groups, group{Name: name, Conns: sizes[g]})
	}
	peer := func(g, port int) (*child, started, error) {
		return r.start(ctx, partyConfig{Liveness: s.Patient, Delay: s.Delay, Groups: []group{{Name: groupNames[g], Port: port, Conns: sizes[g]}}})
	}
	if r.finding.Side == "server" {
		var at started
		if r.watcher, at, err = r.start(ctx, watcher); err != nil {
			return err
		}
		for g := range r.peers {
			if r.peers[g], _, err = peer(g, at.Ports[g]); err != nil {
				return err
			}
		}
		return nil
	}
	for g := range r.peers {
		var at started
		if r.peers[g], at, err = peer(g, 0); err != nil {
			return err
		}
		watcher.Groups[g].Port = at.Ports[0]
	}
	r.watcher, _, err = r.start(ctx, watcher)
	return err
}

func (c *child) suspend() error {
	c.suspended = true
	return c.Suspend()
}

func (c *child) resume() error {
	c.suspended = false
	return c.Continue()
}

func (c *child) report() (r partyReport, err error) {
	if err := c.Collect(); err != nil {
		return r, err
	}
	line, err := c.Line(reportLimit)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		return r, fmt.Errorf("report %q: %w", line, err)
	}
	return r, nil
}

// until asks the watcher for reports until one is as it should be, or the time
// has come. It returns the last one.
func (r *rig) until(ctx context.Context, deadline int64, done func(*partyReport) bool) (x partyReport, err error) {
	for {
		r.sample()
		if x, err = r.watcher.report(); err != nil || done(&x) || now() >= deadline {
			return x, err
		}
		if err := wait(ctx, pace); err != nil {
			return x, err
		}
	}
}

// sample notes for how long the watcher has waited for a processor so far.
func (r *rig) sample() {
	r.finding.samples = append(r.finding.samples, sample{now(), waited(r.watcher.PID())})
}

// waited returns for how long a process's threads have been ready to run and did
// not, all of them together; 0 where the kernel does not count it.
func waited(pid int) (sum time.Duration) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, path := range threads {
		text, err := os.ReadFile(path)
		var ran, waited int64
		if err == nil {
			_, _ = fmt.Sscan(string(text), &ran, &waited)
		}
		sum += time.Duration(waited)
	}
	return sum
}

// wait sleeps, and returns an error if ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// close ends all children, the stopped ones too.
func (r *rig) close() error {
	var errs []error
	for _, c := range r.all {
		if c.suspended {
			errs = append(errs, c.resume())
		}
		errs = append(errs, c.Stop())
	}
	return errors.Join(errs...)
}

func (r *rig) say(format string, args ...any) {
	fmt.Fprintf(r.progress, "%-55s %s\n", r.finding.title(), fmt.Sprintf(format, args...))
}

func (r *rig) run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, r.close()) }()
	s, f := r.finding.scenario, r.finding
	if err := r.startAll(ctx); err != nil {
		return err
	}
	conns := s.Peers + 2*s.Doomed
	before, err := r.until(ctx, now()+int64(startLimit), func(x *partyReport) bool {
		// Every connection was asked once: its next query is due some time
		// within an interval.
		return x.opened() == conns && x.Pongs >= uint64(conns)
	})
	if err != nil {
		return err
	}
	if before.opened() != conns || before.Pongs < uint64(conns) || before.closed() != 0 {
		return fmt.Errorf("%d connections, %d ended, and %d answers within %v: this machine is too slow for %d peers",
			before.opened(), before.closed(), before.Pongs, startLimit, conns)
	}
	r.say("%d peers are there; stopped for %v", conns, s.Long)

	if err := r.stop(ctx, s.Long, dieInLong); err != nil {
		return err
	}
	if f.AfterLong, err = r.awake(ctx, before.Pings); err != nil {
		return err
	}
	r.say("%d live peers were ended; %d times stopped for %v", f.AfterLong.Groups[live].Closed, s.Cycles, s.Short)
	for cycle := range s.Cycles {
		doomed := live // none
		if cycle == 0 {
			doomed = dieInShort
		}
		if err := r.stop(ctx, s.Short, doomed); err != nil {
			return err
		}
		if err := wait(ctx, s.Short); err != nil {
			return err
		}
	}
	if f.AfterShort, err = r.watcher.report(); err != nil {
		return err
	}

	// Until all that died are found, and whatever the last stop may have led to
	// has come: a series of queries that it began.
	settled := f.stops[len(f.stops)-1].To + int64(s.Watch.Misses)*int64(max(s.Watch.Retry, s.Watch.Interval)) + int64(s.Slack)/2
	deadline := settled
	for g := dieInLong; g < numOfGroups; g++ {
		deadline = max(deadline, f.latest(g))
	}
	f.End, err = r.until(ctx, deadline, func(x *partyReport) bool {
		return now() > settled && x.Groups[dieInLong].Closed+x.Groups[dieInShort].Closed == 2*s.Doomed
	})
	if err != nil {
		return err
	}
	r.sample()
	f.PeersEnd, err = r.peers[live].report()
	r.say("%d live peers were ended, %d of %d dead ones", f.End.Groups[live].Closed,
		f.End.Groups[dieInLong].Closed+f.End.Groups[dieInShort].Closed, 2*s.Doomed)
	return err
}

// awake watches the first moments after the long stop, as long as a short stop
// lasts: how the pings are spread over them. It returns the last report.
func (r *rig) awake(ctx context.Context, pings uint64) (x partyReport, err error) {
	f := r.finding
	began := f.stops[0].To
	for at := began; at < began+int64(f.scenario.Short); {
		if err = wait(ctx, pace); err != nil {
			return x, err
		}
		if x, err = r.watcher.report(); err != nil {
			return x, err
		}
		f.Awake = append(f.Awake, moment{For: time.Duration(now() - at), Pings: x.Pings - pings})
		at += int64(f.Awake[len(f.Awake)-1].For)
		pings = x.Pings
	}
	return x, nil
}

// stop stops the watcher for d. In the middle of that the peers of a group die,
// unless it is that of the living.
func (r *rig) stop(ctx context.Context, d time.Duration, doomed int) error {
	f := r.finding
	x := span{From: now()}
	if err := r.watcher.suspend(); err != nil {
		return err
	}
	if err := wait(ctx, d/2); err != nil {
		return err
	}
	if doomed != live {
		if err := r.peers[doomed].suspend(); err != nil {
			return err
		}
		f.died[doomed] = now()
		r.sample()
	}
	if err := wait(ctx, d-d/2); err != nil {
		return err
	}
	if err := r.watcher.resume(); err != nil {
		return err
	}
	x.To = now()
	f.stops = append(f.stops, x)
	r.sample()
	return nil
}
