//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
)

const (
	startLimit = 30 * time.Second
	callLimit  = 60 * time.Second
	// restLimit is how long the server may take until no connection is left
	// when no client is: its own deadlines are far below that.
	restLimit = 60 * time.Second
	stopLimit = 150 * time.Second
)

// child is a process of the driver's.
type child struct {
	*peer
	proc *proc.Process
}

// rig is the children of one run and what they report.
type rig struct {
	dir      string
	progress io.Writer
	begun    int64
	children []*child

	onServed func(served) // if not nil, for each; set before there are children

	mu        sync.Mutex
	ledger    *ledger
	latencies map[string]map[int64]*histogram // by what and slice
	windows   []window
}

// window is a time in which something was done to the server.
type window struct {
	What string `json:"what"`
	From int64  `json:"from"` // of the monotonic clock, ns
	To   int64  `json:"to"`
}

func newRig(progress io.Writer) (*rig, error) {
	dir, err := os.MkdirTemp("", "pulsewheel-fire-")
	if err != nil {
		return nil, err
	}
	return &rig{
		dir: dir, progress: progress, begun: now(),
		ledger: newLedger(rules()), latencies: make(map[string]map[int64]*histogram),
	}, nil
}

// close ends the children that still run.
func (r *rig) close() error {
	var errs []error
	for _, c := range r.children {
		if c.proc.Wait(0) != nil {
			_ = c.proc.Continue()
			c.peer.conn.Close()
			if err := c.proc.Wait(startLimit); errors.Is(err, os.ErrDeadlineExceeded) {
				errs = append(errs, c.proc.Stop())
			}
		}
		c.peer.close()
	}
	return errors.Join(append(errs, os.RemoveAll(r.dir))...)
}

// start starts a child of this program. Its reports go to the rig.
func (r *rig) start(ctx context.Context, role string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%s %d", role, len(r.children))
	path := filepath.Join(r.dir, fmt.Sprintf("%d", len(r.children)))
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	p, err := proc.Start(ctx, proc.Command{Argv: []string{self, childFlag, role, path}, CPU: proc.AnyCPU})
	if err != nil {
		return nil, err
	}
	_ = ln.SetDeadline(time.Now().Add(startLimit))
	conn, err := ln.Accept()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s does not answer: %w", name, err), p.Stop())
	}
	c := &child{newPeer(name, conn, r.reported), p}
	r.children = append(r.children, c)
	return c, nil
}

// startServer starts a server, and returns where it listens.
func (r *rig) startServer(ctx context.Context, c serverConfig) (*child, []target, error) {
	server, err := r.start(ctx, "server")
	if err != nil {
		return nil, nil, err
	}
	var l listening
	if err := server.call("start", c, &l, startLimit); err != nil {
		return nil, nil, err
	}
	var targets []target
	for _, addr := range l.Addrs {
		network, address, _ := strings.Cut(addr, "://")
		targets = append(targets, target{network, address})
	}
	return server, targets, nil
}

// startLoad starts a load.
func (r *rig) startLoad(ctx context.Context, c loadConfig) (*child, error) {
	load, err := r.start(ctx, "load")
	if err != nil {
		return nil, err
	}
	return load, load.call("start", c, nil, startLimit)
}

// childFlag makes this program a child: the role and the socket follow.
const childFlag = "-child"

// childMain is what a child does. It returns false in the driver.
func childMain() bool {
	if len(os.Args) != 4 || os.Args[1] != childFlag {
		return false
	}
	l, err := dialDriver(os.Args[3])
	if err == nil {
		switch os.Args[2] {
		case "server":
			err = serveFire(l)
		case "load":
			err = loadFire(l)
		default:
			err = fmt.Errorf("no role %q", os.Args[2])
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fire:", os.Args[2]+":", err)
		os.Exit(1)
	}
	return true
}

// reported receives what children report by themselves.
func (r *rig) reported(x reply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range x.Served {
		r.ledger.addServed(s)
		if r.onServed != nil {
			r.onServed(s)
		}
	}
	for _, c := range x.Clients {
		r.ledger.addClient(c)
	}
	for _, l := range x.Latency {
		bySlice := r.latencies[l.What]
		if bySlice == nil {
			bySlice = make(map[int64]*histogram)
			r.latencies[l.What] = bySlice
		}
		if bySlice[l.Slice] == nil {
			bySlice[l.Slice] = new(histogram)
		}
		bySlice[l.Slice].add(l.Hist.histogram())
	}
}

// stopwatch tells how much of the machine others used.
type stopwatch struct {
	at           int64
	machine, own time.Duration
}

func (r *rig) stopwatch() stopwatch {
	w := stopwatch{now(), machineTime(), processorTimeOf(os.Getpid())}
	for _, c := range r.children {
		w.own += processorTimeOf(c.proc.PID())
	}
	return w
}

// others returns how many processors were used since w by what is none of
// ours. With much more than 0.1, latencies say little.
func (r *rig) others(w stopwatch) float64 {
	x := r.stopwatch()
	return max(0, float64((x.machine-w.machine)-(x.own-w.own))/float64(x.at-w.at))
}

// say reports progress.
func (r *rig) say(format string, args ...any) {
	fmt.Fprintf(r.progress, "%6.1f s  %s\n", time.Duration(now()-r.begun).Seconds(), fmt.Sprintf(format, args...))
}

// during notes a window while f runs.
func (r *rig) during(what string, f func() error) error {
	from := now()
	err := f()
	r.mu.Lock()
	r.windows = append(r.windows, window{what, from, now()})
	r.mu.Unlock()
	return err
}

// recovery is added to a window in which the server could not answer.
const recovery = int64(time.Second)

// between sums up latencies of messages due within [from, to), for the slices
// of which keep says so.
func (r *rig) between(what string, from, to int64, keep func(begin int64) bool) *histogram {
	r.mu.Lock()
	defer r.mu.Unlock()
	var sum histogram
	for at, h := range r.latencies[what] {
		if begin := at * slice; begin >= from && begin+slice <= to && (keep == nil || keep(begin)) {
			sum.add(h)
		}
	}
	return &sum
}

// within reports whether a slice lies, in part, in a window of one of the names,
// or in the time of recovery after it.
func (r *rig) within(begin int64, names ...string) bool {
	for _, w := range r.windows {
		if slices.Contains(names, w.What) && begin < w.To+recovery && begin+slice > w.From {
			return true
		}
	}
	return false
}

// wait sleeps, and returns an error if ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// queueEmptied is for how long nothing may be accepted for nothing to be left in
// the kernel's queue: the engine waits that long at most between two tries.
const queueEmptied = 1200 * time.Millisecond

// atRest waits until the server has no connection left, and none comes any more:
// clients that are gone may still be in the kernel's queue.
func (r *rig) atRest(ctx context.Context, server *child) (s serverStats, err error) {
	var since time.Time // nothing was opened
	opened := uint64(0)
	for deadline := time.Now().Add(restLimit); ; {
		if err := server.call("stats", nil, &s, callLimit); err != nil {
			return s, err
		}
		if since.IsZero() || s.Engine.Opened != opened {
			since, opened = time.Now(), s.Engine.Opened
		}
		if s.Engine.Open == 0 && s.Engine.Opened == s.Engine.Closed && s.Opened == s.Closed && time.Since(since) > queueEmptied {
			return s, nil
		}
		if time.Now().After(deadline) {
			return s, nil // the invariants will say what is left
		}
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return s, err
		}
	}
}

// rest is the server with nothing to do.
type rest struct {
	RSS        int64 `json:"rss"`
	Heap       int64 `json:"heap"`
	Goroutines int   `json:"goroutines"`
	Files      int   `json:"descriptors"`
}

func (r *rig) restOf(server *child) (x rest, s serverStats, err error) {
	if err := server.call("collect", nil, &s, callLimit); err != nil {
		return x, s, err
	}
	usage, err := server.proc.Memory()
	if err != nil {
		return x, s, err
	}
	x = rest{RSS: usage.RSS, Heap: s.Heap, Goroutines: s.Goroutines}
	fds, err := descriptorsOf(server.proc.PID())
	x.Files = len(fds)
	return x, s, err
}

// invariant is one thing that must be true, and whether it is.
type invariant struct {
	Name   string `json:"name"`
	Holds  bool   `json:"holds"`
	Detail string `json:"detail"`
}

func holds(ok bool, name, format string, args ...any) invariant {
	return invariant{name, ok, fmt.Sprintf(format, args...)}
}

// ofLedger are the ledger's invariants. Both sides have said everything.
func (r *rig) ofLedger() (list []invariant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ledger.finish()
	for _, rule := range ledgerRules {
		if f := r.ledger.faults[rule]; f != nil {
			list = append(list, holds(false, rule, "%d times, as in: %q", f.Count, f.Examples))
		} else {
			list = append(list, holds(true, rule, "%d connections", r.ledger.opened))
		}
	}
	return list
}
