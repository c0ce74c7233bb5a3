//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// fdsConfig is descriptor exhaustion in both ways that a connection can get to
// its loop, and a flood of connects.
type fdsConfig struct {
	// Files limits the server's descriptors; 0: as it is.
	Files     uint64
	Crowd     int // connections of each of two loads
	Untouched int
	Calm      time.Duration
	Hold      time.Duration // how long the second crowd stays
	Rate      int           // accepted in a second, in the flood
	Factor    int           // how many more connect
	Flood     time.Duration
	Smoke     bool
	progress  io.Writer
}

func fdsMode(smoke bool) fdsConfig {
	c := fdsConfig{
		Crowd: 10100, Untouched: 100, Calm: 10 * time.Second, Hold: 20 * time.Second,
		Rate: 500, Factor: 10, Flood: 20 * time.Second, Smoke: smoke, progress: os.Stderr,
	}
	if smoke {
		c.Files, c.Crowd, c.Untouched, c.Calm, c.Hold, c.Rate, c.Flood = 700, 400, 20, time.Second, 3*time.Second, 200, 600*time.Millisecond
	}
	return c
}

// fdsPart is one server under one load.
type fdsPart struct {
	Name       string      `json:"name"`
	About      string      `json:"about"`
	Limit      uint64      `json:"limit"` // of descriptors
	Peak       int         `json:"peak_descriptors"`
	PeakOpen   []int64     `json:"peak_open"`     // by loop
	Failed     uint64      `json:"failed"`        // accepts
	FailedMore uint64      `json:"failed_second"` // in the last second of the shortage
	Crowd      [2]int      `json:"answered"`      // clients of each crowd that were answered
	Rate       float64     `json:"rate"`          // accepted in a second, in the flood
	Begun      int         `json:"begun"`         // clients of the flood
	CPU        float64     `json:"server_cpu"`    // processors, during the shortage or the flood
	Others     [2]float64  `json:"others_cpu"`    // that others used, in the calm and then
	Before     rest        `json:"before"`
	After      rest        `json:"after"`
	Stats      serverStats `json:"stats"`
	invariants []invariant
	latency    []latencyRow
	kinds      map[string]*kindCount
}

type fdsRun struct {
	config fdsConfig
	parts  []*fdsPart
}

func (c fdsConfig) run(ctx context.Context) (findings, error) {
	f := &fdsRun{config: c}
	base := serverConfig{
		Liveness: heartbeat.Relaxed(), Greet: true, Kind: "mass",
		Limits: engine.Limits{MaxConns: -1, SendBuffer: 64 << 10},
	}
	own := base
	own.Listeners, own.Limits.Loops = []string{"tcp4://127.0.0.1:0"}, 1
	spread := base
	spread.Listeners, spread.Limits.Loops = []string{"tcp4://127.0.0.1:0"}, 2
	handed := base
	handed.Limits.Loops = 2 // its one listener is the first loop's
	flooded := base
	flooded.Listeners, flooded.Limits.Loops, flooded.Rate = []string{"tcp4://127.0.0.1:0"}, 2, c.Rate
	for _, p := range []struct {
		name, about string
		server      serverConfig
		do          func(*fdsPart, context.Context, *rig, serverConfig) error
	}{
		{"own listener", "one loop and its own TCP listener", own, c.exhaust},
		{"own listeners of two loops", "two loops, each with a TCP listener of its own; the kernel spreads the connections", spread, c.exhaust},
		{"hand-over", "two loops and one Unix listener, which is the first loop's: it accepts all and hands half of them over", handed, c.exhaust},
		{"connect flood", fmt.Sprintf("%d× as many connects as are accepted, %d a second", c.Factor, c.Rate), flooded, c.flood},
	} {
		if c.Smoke && p.server.Listeners != nil && p.server.Limits.Loops > 1 && p.server.Rate == 0 {
			continue // much like the first
		}
		part := &fdsPart{Name: p.name, About: p.about}
		if err := c.part(ctx, part, p.server, p.do); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		f.parts = append(f.parts, part)
	}
	return f, nil
}

func (c fdsConfig) part(ctx context.Context, p *fdsPart, server serverConfig, do func(*fdsPart, context.Context, *rig, serverConfig) error) (err error) {
	r, err := newRig(c.progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if len(server.Listeners) == 0 {
		server.Listeners = []string{"unix://" + filepath.Join(r.dir, "listener")}
	}
	r.say("%s", p.Name)
	life, cancel := context.WithCancel(ctx)
	defer cancel()
	return do(p, life, r, server)
}

// crew is the children of one part.
type crew struct {
	server *child
	steady *child
	crowds [2]*child
}

// begin starts a server and three loads, warms the server up, and lets the
// untouched begin.
func (c fdsConfig) begin(ctx context.Context, p *fdsPart, r *rig, config serverConfig) (k crew, err error) {
	var targets []target
	if k.server, targets, err = r.startServer(ctx, config); err != nil {
		return k, err
	}
	if k.steady, err = r.startLoad(ctx, loadConfig{Targets: targets, Child: 1, Every: 100 * time.Millisecond}); err != nil {
		return k, err
	}
	for i := range k.crowds {
		if k.crowds[i], err = r.startLoad(ctx, loadConfig{Targets: targets, Child: uint64(2 + i), Seed: uint64(r.begun), Yield: !c.Smoke}); err != nil {
			return k, err
		}
	}
	warm := massOrder{Kind: "prober", N: 100, For: 20 * time.Second, Parallel: 20}
	if err := k.crowds[0].call("mass", warm, nil, callLimit); err != nil {
		return k, err
	}
	if _, err := r.atRest(ctx, k.server); err != nil {
		return k, err
	}
	if p.Before, _, err = r.restOf(k.server); err != nil {
		return k, err
	}
	return k, k.steady.call("want", map[string]int{"untouched": c.Untouched}, nil, callLimit)
}

// exhaust lets two crowds together need more descriptors than there are, and
// one of them leave.
func (c fdsConfig) exhaust(p *fdsPart, ctx context.Context, r *rig, config serverConfig) error {
	k, err := c.begin(ctx, p, r, config)
	if err != nil {
		return err
	}
	pid := k.server.proc.PID()
	want := c.Files
	if want == 0 {
		want = 20000
	}
	if _, err := limitFiles(pid, want); err != nil {
		return err
	}
	p.Limit = want
	if err := wait(ctx, time.Second); err != nil {
		return err
	}
	calm := span{from: now()}
	watch := r.stopwatch()
	if err := wait(ctx, c.Calm); err != nil {
		return err
	}
	calm.to = now()
	p.Others[0] = r.others(watch)

	var wg sync.WaitGroup
	var results [2]massResult
	errs := make([]error, 2)
	long := 8 * time.Minute
	wg.Go(func() {
		errs[0] = k.crowds[0].call("mass", massOrder{Kind: "mass", N: c.Crowd, For: 5 * time.Minute, Parallel: 256, Stay: c.Hold + c.Hold/4}, &results[0], long)
	})
	wg.Go(func() {
		errs[1] = k.crowds[1].call("mass", massOrder{Kind: "mass", N: c.Crowd, For: c.Hold, Stay: c.Hold, Parallel: 256}, &results[1], long)
	})
	crowded := make(chan struct{})
	go func() { wg.Wait(); close(crowded) }()

	// Both crowds are in, as far as there is room; then the shortage begins.
	shortage := span{}
	var st serverStats
	for full := false; !full; {
		if err := k.server.call("stats", nil, &st, callLimit); err != nil {
			return err
		}
		used, err := descriptorsOf(pid)
		if err != nil {
			return err
		}
		count := len(used)
		if count > p.Peak {
			p.Peak, p.PeakOpen = count, st.Opens
		}
		full = uint64(count) >= p.Limit && st.Engine.AcceptErrors > 0
		select {
		case <-crowded:
			return fmt.Errorf("the crowds came and went, with %d of %d descriptors used: %w", p.Peak, p.Limit, errors.Join(errs...))
		default:
		}
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	shortage.from = now()
	watch = r.stopwatch()
	cpu := processorTimeOf(pid)
	r.say("%d descriptors, %v connections, %d accepts failed", p.Peak, st.Opens, st.Engine.AcceptErrors)
	if err := wait(ctx, max(c.Hold/2-time.Second, 0)); err != nil {
		return err
	}
	var before serverStats
	if err := k.server.call("stats", nil, &before, callLimit); err != nil {
		return err
	}
	if err := wait(ctx, time.Second); err != nil {
		return err
	}
	if err := k.server.call("stats", nil, &st, callLimit); err != nil {
		return err
	}
	shortage.to = now()
	p.Others[1] = r.others(watch)
	p.CPU = float64(processorTimeOf(pid)-cpu) / float64(shortage.to-shortage.from)
	p.FailedMore = st.Engine.AcceptErrors - before.Engine.AcceptErrors
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	p.Crowd = [2]int{results[0].Answered, results[1].Answered}
	r.say("%v of %d clients of each crowd were answered; the clients end", p.Crowd, c.Crowd)
	if err := c.finish(ctx, p, r, k); err != nil {
		return err
	}
	p.Failed = p.Stats.Engine.AcceptErrors

	add := func(i invariant) { p.invariants = append(p.invariants, i) }
	add(holds(uint64(p.Peak) >= p.Limit && p.Failed > 0, "descriptors ran out", "%d of %d used, connections by loop %v, %d accepts failed", p.Peak, p.Limit, p.PeakOpen, p.Failed))
	listeners := uint64(1)
	if strings.HasPrefix(config.Listeners[0], "tcp") {
		listeners = uint64(config.Limits.Loops)
	}
	most := 3 * listeners
	if c.Smoke {
		most = 10 * listeners // so soon after it began
	}
	add(holds(p.FailedMore <= most, "no loop spins meanwhile: a listener waits longer and longer, up to a second", "%d accepts failed in a second of the shortage, of %d listeners; %.2f processors used", p.FailedMore, listeners, p.CPU))
	add(holds(p.Crowd[0] == c.Crowd && p.Crowd[1] <= c.Crowd, "who waited in the kernel's queue is served when there is room",
		"of the crowd that stayed %d of %d were answered, of the one that left %d", p.Crowd[0], c.Crowd, p.Crowd[1]))
	if config.Limits.Loops > 1 {
		least, most := slices.Min(p.PeakOpen), slices.Max(p.PeakOpen)
		add(holds(float64(most) <= 1.3*float64(least)+16, "the loops have about as many connections each", "%v", p.PeakOpen))
	}
	c.judge(p, r, calm, shortage, "the shortage")
	return nil
}

// flood has many more clients connect than are accepted.
func (c fdsConfig) flood(p *fdsPart, ctx context.Context, r *rig, config serverConfig) error {
	k, err := c.begin(ctx, p, r, config)
	if err != nil {
		return err
	}
	if err := wait(ctx, 2*time.Second); err != nil {
		return err
	}
	calm := span{from: now()}
	watch := r.stopwatch()
	if err := wait(ctx, c.Calm); err != nil {
		return err
	}
	calm.to = now()
	p.Others[0] = r.others(watch)

	pid := k.server.proc.PID()
	var before, after serverStats
	if err := k.server.call("stats", nil, &before, callLimit); err != nil {
		return err
	}
	flood := span{from: now()}
	watch = r.stopwatch()
	cpu := processorTimeOf(pid)
	var wg sync.WaitGroup
	var results [2]paceResult
	errs := make([]error, 2)
	for i := range results {
		wg.Go(func() {
			order := paceOrder{Kind: "flood", PerSecond: c.Rate * c.Factor / 2, Parallel: 9000, For: c.Flood}
			errs[i] = k.crowds[i].call("pace", order, &results[i], c.Flood+callLimit)
		})
	}
	if err := wait(ctx, c.Flood); err != nil {
		return err
	}
	if err := k.server.call("stats", nil, &after, callLimit); err != nil {
		return err
	}
	flood.to = now()
	p.Others[1] = r.others(watch)
	took := time.Duration(flood.to - flood.from).Seconds()
	p.CPU = (processorTimeOf(pid) - cpu).Seconds() / took
	p.Rate = float64(after.Engine.Opened-before.Engine.Opened) / took
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	p.Begun = results[0].Begun + results[1].Begun
	leftOut := results[0].LeftOut + results[1].LeftOut
	r.say("%d connects begun in %v, %.0f a second accepted; the clients end", p.Begun, c.Flood, p.Rate)
	// Those that are gone already are still in the kernel's queue.
	if err := c.finish(ctx, p, r, k); err != nil {
		return err
	}
	add := func(i invariant) { p.invariants = append(p.invariants, i) }
	wanted := float64(c.Rate*c.Factor) * c.Flood.Seconds()
	least := 0.8
	if c.Smoke {
		least = 0.4 // so short a flood is less of one where the machine is busy
	}
	add(holds(float64(p.Begun) >= least*wanted, fmt.Sprintf("the flood was one: about %d connects a second", c.Rate*c.Factor), "%.0f a second begun, %d left out", float64(p.Begun)/took, leftOut))
	add(holds(p.Rate <= 1.1*float64(c.Rate)+float64(c.Rate)/took, fmt.Sprintf("no more than %d are accepted a second, and %d at once", c.Rate, c.Rate/10), "%.0f", p.Rate))
	c.judge(p, r, calm, flood, "the flood")
	return nil
}

// finish ends all clients and the server.
func (c fdsConfig) finish(ctx context.Context, p *fdsPart, r *rig, k crew) (err error) {
	for _, l := range []*child{k.crowds[0], k.crowds[1], k.steady} {
		if err := l.call("stop", nil, nil, stopLimit); err != nil {
			return err
		}
	}
	if _, err = r.atRest(ctx, k.server); err != nil {
		return err
	}
	if p.After, p.Stats, err = r.restOf(k.server); err != nil {
		return err
	}
	return r.end(k.server)
}

// judge adds what holds for every part.
func (c fdsConfig) judge(p *fdsPart, r *rig, calm, trouble span, what string) {
	add := func(i invariant) { p.invariants = append(p.invariants, i) }
	for _, i := range r.ofLedger() {
		add(i)
	}
	e := p.Stats.Engine
	add(holds(e.Opened == e.Closed && e.Open == 0 && p.Stats.Opened == e.Opened && p.Stats.Closed == e.Closed, "opened = closed, as the engine and the application count",
		"opened %d and %d, closed %d and %d", e.Opened, p.Stats.Opened, e.Closed, p.Stats.Closed))
	r.mu.Lock()
	u := r.ledger.kinds["untouched"]
	p.kinds = r.ledger.kinds
	r.mu.Unlock()
	if u != nil {
		add(holds(u.Clients == c.Untouched && u.Ends[endOfStream] == u.Clients, "untouched connections see no error", "%d clients: %s; server: %s", u.Clients, counts(u.Ends), counts(u.Reasons)))
	}
	a, b := r.between("loop", calm.from, calm.to, nil), r.between("loop", trouble.from, trouble.to, nil)
	p.latency = []latencyRow{row("untouched", "calm", a), row("untouched", "in "+what, b),
		row("untouched"+fromSending, "calm", r.between("loop"+fromSending, calm.from, calm.to, nil)),
		row("untouched"+fromSending, "in "+what, r.between("loop"+fromSending, trouble.from, trouble.to, nil))}
	for _, own := range []string{lagOfProcess, lagOfLoops} {
		p.latency = append(p.latency, row(own, "calm", r.between(own, calm.from, calm.to, nil)), row(own, "in "+what, r.between(own, trouble.from, trouble.to, nil)))
	}
	if b.count() > 0 {
		add(tail("the untouched", a, b, c.Smoke))
	}
	// Tables that grew with the highest descriptor stay.
	add(holds(p.After.Goroutines <= p.Before.Goroutines+slackGoroutines && p.After.Files == p.Before.Files && p.After.RSS <= p.Before.RSS+slackRSS && p.After.Heap <= p.Before.Heap+slackHeap,
		fmt.Sprintf("memory, goroutines and descriptors return (slack %d MiB, %d, 0)", slackRSS>>20, slackGoroutines), "%s → %s", p.Before, p.After))
	add(holds(len(p.Stats.Failures) == 0, "no loop failed", "%q", p.Stats.Failures))
}

func (f *fdsRun) verdicts() (list []invariant) {
	for _, p := range f.parts {
		for _, i := range p.invariants {
			i.Name = p.Name + ": " + i.Name
			list = append(list, i)
		}
	}
	return list
}

func (f *fdsRun) markdown(facts machine.Facts) string {
	var b strings.Builder
	c := f.config
	fmt.Fprintf(&b, "# Fire: descriptors run out, and connects flood\n\n")
	fmt.Fprintf(&b, "%d untouched clients echo ten times a second each. For a shortage two crowds of %d clients connect to a server that may have fewer descriptors; "+
		"those it has no descriptor for wait in the kernel's queue of the listener. After %v one crowd leaves, and the other when all of it were served. Server: no limit of its own (MaxConns −1), "+
		"so that accept fails with EMFILE. All clients but the untouched run under SCHED_IDLE, so that what is seen is the server, and not who gets the processor that all share.\n\n", c.Untouched, c.Crowd, c.Hold)
	for _, p := range f.parts {
		fmt.Fprintf(&b, "## %s\n\n%s.\n\n", capital(p.Name), capital(p.About))
		writeInvariants(&b, p.invariants)
		writeLatency(&b, p.latency)
		fmt.Fprintf(&b, "The server used %.2f processors meanwhile. Others used %.2f in the calm and %.2f then: with much more than 0.1, measure again. A listener waited %d times.",
			p.CPU, p.Others[0], p.Others[1], p.Stats.Engine.Parks)
		if p.Rate > 0 {
			fmt.Fprintf(&b, " %d clients began to connect, %.0f a second were accepted.", p.Begun, p.Rate)
		}
		fmt.Fprintf(&b, "\n\n| kind | clients | served | reasons | clients saw |\n|%s\n", strings.Repeat(" --- |", 5))
		for _, kind := range kinds {
			if k := p.kinds[kind.name]; k != nil {
				fmt.Fprintf(&b, "| %s | %d | %d | %s | %s |\n", kind.name, k.Clients, k.Served, counts(k.Reasons), counts(k.Ends))
			}
		}
		fmt.Fprintln(&b)
	}
	fmt.Fprintf(&b, "%s", facts.Markdown())
	return b.String()
}

func (f *fdsRun) lines(facts machine.Facts) []any {
	lines := []any{labelled{"facts", facts}, labelled{"setup", f.config}}
	for _, p := range f.parts {
		lines = append(lines, labelled{"part", p})
		for _, i := range p.invariants {
			lines = append(lines, labelled{"invariant", map[string]any{"part": p.Name, "invariant": i}})
		}
		for _, l := range p.latency {
			lines = append(lines, labelled{"latency", map[string]any{"part": p.Name, "latency": l}})
		}
	}
	return lines
}
