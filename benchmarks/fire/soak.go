//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// soakConfig describes a run of all kinds.
type soakConfig struct {
	Duration time.Duration // of the storm
	Calm     time.Duration
	Smoke    bool
	Kinds    []string // nil: all
	Mass     int      // connections that come and go at once
	Every    time.Duration
	Gap      time.Duration // between two events of the driver's
	Server   serverConfig
	progress io.Writer
}

// Names of what the driver does to the server, beside the kinds of clients.
const (
	eventStop    = "SIGSTOP"
	eventGC      = "GC storm"
	eventFiles   = "EMFILE"
	eventMass    = "mass"
	eventBlock   = "loop blocked"
	eventFlood   = "flood"
	acceptRate   = 2000
	floodClients = 400
)

func newSoakConfig(duration time.Duration, smoke bool) soakConfig {
	c := soakConfig{
		Duration: duration, Calm: min(max(duration/10, 10*time.Second), time.Minute), Mass: 10000, Every: 200 * time.Millisecond, Gap: 3 * time.Second,
		Smoke: smoke,
		Server: serverConfig{
			Listeners: []string{"tcp4://127.0.0.1:0", "tcp4://127.0.0.1:0"}, Ordered: true,
			Liveness: heartbeat.Strict(), Greet: true, CastEvery: 50 * time.Millisecond,
			Rate: acceptRate, PerPrefix: 4000, FirstFrame: 3 * time.Second, EvictIdle: 5 * time.Second,
			Limits: engine.Limits{
				Loops:        2,
				Backlog:      engine.Backlog{High: 256 << 10, DrainRate: 16 << 10, DrainWindow: 3 * time.Second},
				Budget:       32 << 20,
				SendBuffer:   64 << 10,
				FrameTimeout: 4 * time.Second,
				MaxPause:     8 * time.Second,
				BlockedAfter: 200 * time.Millisecond,
				Linger:       3 * time.Second,
				Work:         engine.Work{Workers: 128, Queue: 32, Stuck: 2 * time.Second},
			},
		},
	}
	if smoke {
		c.Calm, c.Mass, c.Gap = 4*time.Second, 1000, 500*time.Millisecond
	}
	return c
}

// has reports whether a kind or event is part of the run.
func (c *soakConfig) has(name string) bool { return c.Kinds == nil || slices.Contains(c.Kinds, name) }

// sample is one look at the server.
type sample struct {
	At         float64 `json:"at_s"`
	RSS        int64   `json:"rss"`
	Heap       int64   `json:"heap"`
	Held       int64   `json:"held"`
	Open       int64   `json:"open"`
	Opened     uint64  `json:"opened"`
	Goroutines int     `json:"goroutines"`
	Files      int     `json:"descriptors"`
	Stuck      int     `json:"stuck"`
	ServerCPU  float64 `json:"server_cpu"` // processors, since the sample before
	LoadCPU    float64 `json:"load_cpu"`
}

// soak is a run of all kinds.
type soak struct {
	*rig
	config soakConfig

	server, steady, nasty *child

	before, after     rest
	calm, storm       span
	last              serverStats
	samples           []sample
	events            map[string]int
	massResults       []massResult
	missed            int64
	latency           []latencyRow
	others            [2]float64 // processors that others used, in the calm and in the storm
	filesSurvived     int
	invariants        []invariant
	acceptErrors      uint64
	floodPeakAccepted float64
}

type span struct{ from, to int64 }

// latencyRow compares the untouched clients of one listener.
type latencyRow struct {
	What  string  `json:"what"`
	Phase string  `json:"phase"`
	Count uint64  `json:"count"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	Max   float64 `json:"max_ms"`
}

func row(what, phase string, h *histogram) latencyRow {
	ms := func(d time.Duration) float64 { return float64(d) / 1e6 }
	return latencyRow{what, phase, h.count(), ms(h.quantile(0.5)), ms(h.quantile(0.99)), ms(h.quantile(0.999)), ms(h.largest())}
}

// runSoak runs all kinds and returns what was found, also if ctx ended early.
func runSoak(ctx context.Context, c soakConfig) (_ *soak, err error) {
	r, err := newRig(c.progress)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	s := &soak{rig: r, config: c, events: make(map[string]int)}
	// The children outlive an interrupt: they are ended in order.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if err := s.begin(life); err != nil {
		return nil, err
	}
	sampling := s.sampleOn()
	stormy := s.weather(ctx)
	if err := s.calmDown(life); err != nil {
		sampling()
		return nil, err
	}
	sampling()
	s.judge()
	if stormy != nil && ctx.Err() == nil {
		return s, stormy
	}
	return s, nil
}

func (s *soak) begin(ctx context.Context) (err error) {
	var targets []target
	if s.server, targets, err = s.startServer(ctx, s.config.Server); err != nil {
		return err
	}
	load := loadConfig{
		Targets: targets, Seed: uint64(s.begun), Every: s.config.Every, Nevers: 16, SlowRate: 1 << 10, SlowFor: 12 * time.Second,
	}
	for i, c := range []**child{&s.steady, &s.nasty} {
		load.Child, load.Yield = uint64(i+1), i == 1 && !s.config.Smoke
		if *c, err = s.startLoad(ctx, load); err != nil {
			return err
		}
	}
	s.say("server at %v", targets)

	// What is loaded and grown once is not to count as growth.
	for range 2 {
		warm := massOrder{Kind: "prober", N: 200, For: 20 * time.Second, Parallel: 50}
		if err := s.nasty.call("mass", warm, nil, callLimit); err != nil {
			return err
		}
	}
	if _, err := s.atRest(ctx, s.server); err != nil {
		return err
	}
	if s.before, _, err = s.restOf(s.server); err != nil {
		return err
	}
	s.say("at rest: %s", s.before)
	return nil
}

func (x rest) String() string {
	return fmt.Sprintf("%.1f MiB resident, %.1f MiB of objects, %d goroutines, %d descriptors", mib(x.RSS), mib(x.Heap), x.Goroutines, x.Files)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// sampleOn looks at the server once a second until the function it returns is
// called.
func (s *soak) sampleOn() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		var at int64
		var server, load time.Duration
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			var st serverStats
			if s.server.call("stats", nil, &st, callLimit) != nil {
				return
			}
			x := sample{
				Heap: st.Heap, Held: st.Held, Open: st.Engine.Open, Opened: st.Engine.Opened, Goroutines: st.Goroutines, Stuck: st.Work.Stuck,
			}
			pid := s.server.proc.PID()
			x.RSS, _ = residentOf(fmt.Sprint(pid))
			fds, _ := descriptorsOf(pid)
			x.Files = len(fds)
			t, sc, lc := now(), processorTimeOf(pid), processorTimeOf(s.steady.proc.PID())+processorTimeOf(s.nasty.proc.PID())
			if at > 0 {
				x.ServerCPU = float64(sc-server) / float64(t-at)
				x.LoadCPU = max(float64(lc-load), 0) / float64(t-at) // it may have ended
			}
			at, server, load = t, sc, lc
			x.At = float64(t-s.begun) / 1e9
			s.mu.Lock()
			s.samples = append(s.samples, x)
			s.mu.Unlock()
		}
	})
	return func() { close(done); wg.Wait() }
}

// want sets how many clients of the ordinary kinds there are.
func (s *soak) want(healthyOnly bool) error {
	want := make(map[string]int)
	for _, k := range kinds {
		if k.special || !s.config.has(k.name) || healthyOnly && !k.healthy {
			continue
		}
		if want[k.name] = k.many; s.config.Smoke {
			want[k.name] = k.few
		}
	}
	return s.nasty.call("want", want, nil, callLimit)
}

// weather is the calm and then the storm.
func (s *soak) weather(ctx context.Context) error {
	untouched := kindByName("untouched").many
	if s.config.Smoke {
		untouched = kindByName("untouched").few
	}
	if err := s.steady.call("want", map[string]int{"untouched": untouched}, nil, callLimit); err != nil {
		return err
	}
	if err := s.want(true); err != nil {
		return err
	}
	if err := wait(ctx, 1500*time.Millisecond); err != nil {
		return err
	}
	s.say("calm for %v", s.config.Calm)
	s.calm.from = now()
	watch := s.stopwatch()
	if err := wait(ctx, s.config.Calm); err != nil {
		return err
	}
	s.calm.to = now()
	s.others[0] = s.rig.others(watch)
	if err := s.want(false); err != nil {
		return err
	}
	s.storm.from = now()
	watch = s.stopwatch()
	s.say("storm for %v", s.config.Duration)
	err := s.rage(ctx)
	s.storm.to = now()
	s.others[1] = s.rig.others(watch)
	return err
}

// rage lets one event follow another until the storm is over.
func (s *soak) rage(ctx context.Context) error {
	type event struct {
		name string
		do   func(ctx context.Context) error
	}
	all := []event{
		{eventStop, s.suspend}, {eventGC, s.collect}, {eventMass, s.massive}, {eventFiles, s.exhaust},
		{eventFlood, s.flooded}, {eventBlock, s.blockLoops},
	}
	all = slices.DeleteFunc(all, func(e event) bool { return !s.config.has(e.name) })
	end := time.Now().Add(s.config.Duration)
	for i := 0; time.Now().Before(end); i++ {
		if err := wait(ctx, min(s.config.Gap, time.Until(end))); err != nil {
			return err
		}
		if len(all) == 0 || time.Now().After(end) {
			continue
		}
		e := all[i%len(all)]
		if err := s.during(e.name, func() error { return e.do(ctx) }); err != nil {
			if ctx.Err() != nil {
				return err
			}
			return fmt.Errorf("%s: %w", e.name, err)
		}
		s.events[e.name]++
	}
	return nil
}

// suspend stops the server for one to three seconds.
func (s *soak) suspend(ctx context.Context) error {
	d := time.Second + time.Duration(s.events[eventStop]%3)*time.Second
	s.say("SIGSTOP for %v", d)
	if err := s.server.proc.Suspend(); err != nil {
		return err
	}
	err := wait(ctx, d)
	return errors.Join(err, s.server.proc.Continue())
}

// collect makes the server collect garbage without a break.
func (s *soak) collect(context.Context) error {
	cycles := 0
	err := s.server.call("storm", time.Second, &cycles, callLimit)
	s.say("GC storm: %d cycles in 1 s", cycles)
	return err
}

// massive lets a crowd come and go.
func (s *soak) massive(context.Context) error {
	m := massOrder{Kind: "mass", N: s.config.Mass, For: 25 * time.Second, Parallel: 512}
	var r massResult
	err := s.nasty.call("mass", m, &r, 3*callLimit)
	s.say("mass: %d of %d connected, %d answered, after %v", r.Connected, m.N, r.Answered, r.Took.Round(time.Millisecond))
	s.massResults = append(s.massResults, r)
	return err
}

// fewFiles is how many more descriptors the server may have in a shortage.
const fewFiles = 50

// exhaust lowers the server's limit of descriptors, and then connects.
func (s *soak) exhaust(ctx context.Context) error {
	pid := s.server.proc.PID()
	used, err := descriptorsOf(pid)
	if err != nil {
		return err
	}
	limit := limitLeaving(fewFiles, used)
	var before, after serverStats
	if err := s.server.call("stats", nil, &before, callLimit); err != nil {
		return err
	}
	soft, err := limitFiles(pid, limit)
	if err != nil {
		return err
	}
	m := massOrder{Kind: "exhauster", N: fewFiles + 300, For: 3 * time.Second, Parallel: 512}
	var r massResult
	err = s.nasty.call("mass", m, &r, 3*callLimit)
	_, back := limitFiles(pid, soft)
	if err := errors.Join(err, back); err != nil {
		return err
	}
	if err := s.server.call("stats", nil, &after, callLimit); err != nil {
		return err
	}
	failed := after.Engine.AcceptErrors - before.Engine.AcceptErrors
	s.acceptErrors += failed
	// Afterwards it serves as before.
	probe := massOrder{Kind: "prober", N: 20, For: dialPatience, Parallel: 20}
	var p massResult
	if err := s.nasty.call("mass", probe, &p, 3*callLimit); err != nil {
		return err
	}
	if p.Answered == probe.N {
		s.filesSurvived++
	}
	s.say("EMFILE: limit %d, %d of %d newcomers answered within 3 s, %d accepts failed, %d evicted; afterwards %d of %d probes answered",
		limit, r.Answered, m.N, failed, after.Engine.Evicted-before.Engine.Evicted, p.Answered, probe.N)
	return ctx.Err()
}

// flooded has more clients connect than are accepted.
func (s *soak) flooded(ctx context.Context) error {
	var before, after serverStats
	if err := s.server.call("stats", nil, &before, callLimit); err != nil {
		return err
	}
	n := floodClients
	d := 4 * time.Second
	if s.config.Smoke {
		d = 2 * time.Second
	}
	from := now()
	if err := s.nasty.call("want", map[string]int{"flood": n}, nil, callLimit); err != nil {
		return err
	}
	err := wait(ctx, d)
	if err := s.server.call("stats", nil, &after, callLimit); err != nil {
		return err
	}
	took := time.Duration(now() - from).Seconds()
	if err := s.nasty.call("want", map[string]int{"flood": 0}, nil, callLimit); err != nil {
		return err
	}
	rate := float64(after.Engine.Opened-before.Engine.Opened) / took
	s.floodPeakAccepted = max(s.floodPeakAccepted, rate)
	s.say("flood: %.0f connections a second accepted", rate)
	return err
}

// blockLoops has handlers block the event loops.
func (s *soak) blockLoops(ctx context.Context) error {
	if err := s.nasty.call("want", map[string]int{"loop blocker": 2}, nil, callLimit); err != nil {
		return err
	}
	s.say("loops blocked for 2 s")
	err := wait(ctx, 2*time.Second)
	if err := s.nasty.call("want", map[string]int{"loop blocker": 0}, nil, callLimit); err != nil {
		return err
	}
	// The last ones are still at it.
	return errors.Join(err, wait(ctx, 2*time.Second))
}

// calmDown ends all clients and looks what is left of them.
func (s *soak) calmDown(ctx context.Context) (err error) {
	s.say("the clients end")
	for _, op := range []string{"release", "quiet"} {
		if err := s.server.call(op, nil, nil, callLimit); err != nil {
			return err
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, 2)
	var steady loadStats
	wg.Go(func() { errs[0] = s.nasty.call("stop", nil, nil, stopLimit) })
	wg.Go(func() { errs[1] = s.steady.call("stop", nil, &steady, stopLimit) })
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.missed = steady.Missed
	if s.last, err = s.atRest(ctx, s.server); err != nil {
		return err
	}
	// Workers and timers end a moment after the last connection.
	for deadline := time.Now().Add(10 * time.Second); ; {
		if s.after, s.last, err = s.restOf(s.server); err != nil {
			return err
		}
		if s.after.Goroutines <= s.before.Goroutines || time.Now().After(deadline) {
			break
		}
		if err := wait(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	s.say("at rest: %s", s.after)
	return s.end(s.server)
}

// end stops the server; its last report comes before its answer.
func (r *rig) end(server *child) error {
	if err := server.call("stop", nil, nil, callLimit); err != nil {
		return err
	}
	return server.proc.Wait(startLimit)
}

// What the server may keep: Go gives memory back page by page, and tables that
// grew with the highest descriptor stay.
const (
	slackRSS        = 48 << 20
	slackHeap       = 4 << 20
	slackGoroutines = 2
	slackFiles      = 0
	// tailFactor is how much later the untouched may be answered in the storm.
	tailFactor = 3
)

// excluded are the windows in which nobody can be answered.
var excluded = []string{eventStop, eventBlock}

func (s *soak) judge() {
	e := s.last.Engine
	add := func(i invariant) { s.invariants = append(s.invariants, i) }
	add(holds(e.Opened == e.Closed+uint64(e.Open) && s.last.Opened == e.Opened && s.last.Closed == e.Closed && e.Open == 0,
		"opened = closed + open, as the engine and the application count, and nothing is open at the end",
		"opened %d and %d, closed %d and %d, open %d", e.Opened, s.last.Opened, e.Closed, s.last.Closed, e.Open))
	for _, i := range s.ofLedger() {
		add(i)
	}
	s.mu.Lock()
	opened := s.ledger.opened
	u := s.ledger.kinds["untouched"]
	s.mu.Unlock()
	add(holds(uint64(opened) == e.Opened, "every connection that was opened is in the ledger", "%d of %d", opened, e.Opened))
	if u != nil {
		add(holds(u.Ends[endOfStream] == u.Clients && u.Reasons["PeerClosed"] == u.Clients,
			"untouched connections see no error", "%d clients: %s; server: %s", u.Clients, counts(u.Ends), counts(u.Reasons)))
	}
	for _, what := range []string{"loop", "Ordered"} {
		calm := s.between(what, s.calm.from, s.calm.to, nil)
		kept := s.between(what, s.storm.from, s.storm.to, func(begin int64) bool { return !s.within(begin, excluded...) })
		s.latency = append(s.latency, row(what, "calm", calm), row(what, "storm", kept),
			row(what+fromSending, "calm", s.between(what+fromSending, s.calm.from, s.calm.to, nil)),
			row(what+fromSending, "storm", s.between(what+fromSending, s.storm.from, s.storm.to, func(begin int64) bool { return !s.within(begin, excluded...) })))
		for _, name := range []string{eventStop, eventBlock, eventGC, eventMass, eventFiles, eventFlood} {
			in := s.between(what, s.storm.from, s.storm.to, func(begin int64) bool { return s.within(begin, name) })
			if in.count() > 0 {
				s.latency = append(s.latency, row(what, "of it: "+name, in))
			}
		}
		if calm.count() > 0 && kept.count() > 0 { // not interrupted
			add(tail(fmt.Sprintf("the untouched at listener %q", what), calm, kept, s.config.Smoke))
		}
	}
	kept := func(begin int64) bool { return !s.within(begin, excluded...) }
	for _, what := range []string{lagOfProcess, lagOfLoops} {
		s.latency = append(s.latency, row(what, "calm", s.between(what, s.calm.from, s.calm.to, nil)), row(what, "storm", s.between(what, s.storm.from, s.storm.to, kept)))
	}
	add(holds(s.after.RSS <= s.before.RSS+slackRSS, fmt.Sprintf("resident memory returns (slack %d MiB)", slackRSS>>20), "%.1f → %.1f MiB", mib(s.before.RSS), mib(s.after.RSS)))
	add(holds(s.after.Heap <= s.before.Heap+slackHeap, fmt.Sprintf("objects on the heap return (slack %d MiB)", slackHeap>>20), "%.1f → %.1f MiB", mib(s.before.Heap), mib(s.after.Heap)))
	add(holds(s.after.Goroutines <= s.before.Goroutines+slackGoroutines, fmt.Sprintf("goroutines return (slack %d)", slackGoroutines), "%d → %d", s.before.Goroutines, s.after.Goroutines))
	add(holds(s.after.Files <= s.before.Files+slackFiles, "descriptors return", "%d → %d", s.before.Files, s.after.Files))
	held := int64(0)
	for _, x := range s.samples {
		held = max(held, x.Held)
	}
	budget := s.config.Server.Limits.Budget
	add(holds(held <= budget+slackHeap, fmt.Sprintf("held output stays within the budget (slack %d MiB)", slackHeap>>20), "at most %.1f of %.1f MiB", mib(held), mib(budget)))
	add(holds(s.last.Held == 0, "held output returns to 0", "%d bytes", s.last.Held))
	add(holds(s.last.Owned == s.last.OwnedBack, "every lent payload was given back", "%d of %d", s.last.OwnedBack, s.last.Owned))
	add(holds(s.last.Work.Queued == 0 && s.last.Work.Active == 0 && s.last.Nevers == 0, "no task is left", "%d queued, %d workers, %d that never return", s.last.Work.Queued, s.last.Work.Active, s.last.Nevers))
	add(holds(s.last.Members == 0, "the group is empty", "%d members", s.last.Members))
	add(holds(len(s.last.Failures) == 0, "no loop failed, and nothing panicked but what was ordered to", "%q", s.last.Failures))
	if n := s.events[eventFiles]; n > 0 {
		add(holds(s.filesSurvived == n && s.acceptErrors > 0, "after each shortage of descriptors the server accepts again",
			"%d of %d times, %d accepts failed", s.filesSurvived, n, s.acceptErrors))
	}
	if n := s.events[eventFlood]; n > 0 {
		add(holds(s.floodPeakAccepted <= 1.15*acceptRate, fmt.Sprintf("no more than %d connections a second are accepted in a flood", acceptRate),
			"at most %.0f on average of one of %d", s.floodPeakAccepted, n))
	}
	if n := s.events[eventBlock]; n > 0 {
		add(holds(e.Blocked > 0, "blocked loops are noticed", "%d reported in %d windows", e.Blocked, n))
	}
}

// broken lists the invariants that do not hold.
func broken(list []invariant) (names []string) {
	for _, i := range list {
		if !i.Holds {
			names = append(names, i.Name+": "+i.Detail)
		}
	}
	return names
}
