//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// slowConfig is slow readers among healthy ones, under a broadcast to all.
type slowConfig struct {
	Healthy, Slow int
	Rate, Size    int // broadcasts a second, bytes of each
	Calm, Phase   time.Duration
	Server        serverConfig
	Smoke         bool
	progress      io.Writer
}

func slowMode(smoke bool, rate int) slowConfig {
	c := slowConfig{
		Healthy: 1000, Slow: 1000, Rate: rate, Size: 4 << 10, Calm: 20 * time.Second, Phase: 30 * time.Second,
		Smoke: smoke, progress: os.Stderr,
		Server: serverConfig{
			Listeners: []string{"tcp4://127.0.0.1:0"}, Liveness: heartbeat.Relaxed(), Greet: true,
			Limits: engine.Limits{
				Loops:      2,
				Backlog:    engine.Backlog{High: 4 << 20, DrainRate: 16 << 10, DrainWindow: 3 * time.Second},
				Budget:     256 << 20,
				SendBuffer: 64 << 10,
			},
		},
	}
	if smoke {
		c.Healthy, c.Slow, c.Rate, c.Calm, c.Phase = 50, 50, min(rate, 50), 3*time.Second, 8*time.Second
		c.Server.Limits.Backlog.DrainWindow = 2 * time.Second
	}
	return c
}

// memorySample is one look at what the server takes.
type memorySample struct {
	At float64 `json:"at_s"`
	memory
	Held int64 `json:"held"`
	// TCP is what all of the machine's TCP takes, the clients' ends included.
	TCP int64 `json:"tcp_all"`
}

// slowEnd is how one slow reader ended.
type slowEnd struct {
	After  float64 `json:"after_s"` // the first broadcast of the phase
	Reason string  `json:"reason"`
	Err    string  `json:"err"`
}

type slowRun struct {
	*rig
	config slowConfig

	base        memory // with all connections, before any broadcast to slow ones
	conns       int
	sndbuf      int64
	calm, phase span
	calmCasts   castResult
	phaseCasts  castResult
	samples     []memorySample
	ends        []slowEnd
	stalled     time.Duration // that a loop was found late in the phase, on average of the loops
	last        serverStats
	before      rest
	after       rest
	cpu         [2][2]float64 // processors that server and healthy clients used, in the calm and in the phase
	others      [2]float64    // processors that others used, in the calm and in the phase
	latency     []latencyRow
	invariants  []invariant
}

func (c slowConfig) run(ctx context.Context) (findings, error) {
	s, err := c.runSlow(ctx)
	if s == nil {
		return nil, err
	}
	return s, err
}

func (c slowConfig) runSlow(ctx context.Context) (_ *slowRun, err error) {
	r, err := newRig(c.progress)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	s := &slowRun{rig: r, config: c}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var closed []served
	r.onServed = func(x served) {
		if x.Kind == "slow member" {
			closed = append(closed, x)
		}
	}

	server, targets, err := r.startServer(life, c.Server)
	if err != nil {
		return nil, err
	}
	healthy, err := r.startLoad(life, loadConfig{Targets: targets, Child: 1, Every: time.Second})
	if err != nil {
		return nil, err
	}
	slow, err := r.startLoad(life, loadConfig{
		Targets: targets, Child: 2, Yield: !c.Smoke, SlowRate: 1 << 10, SlowFor: c.Phase + 5*time.Second,
	})
	if err != nil {
		return nil, err
	}
	warm := massOrder{Kind: "prober", N: 200, For: 20 * time.Second, Parallel: 50}
	if err := slow.call("mass", warm, nil, callLimit); err != nil {
		return nil, err
	}
	if _, err := r.atRest(life, server); err != nil {
		return nil, err
	}
	if s.before, _, err = r.restOf(server); err != nil {
		return nil, err
	}

	if err := healthy.call("want", map[string]int{"healthy member": c.Healthy}, nil, callLimit); err != nil {
		return nil, err
	}
	if err := r.members(ctx, server, c.Healthy); err != nil {
		return nil, err
	}
	interrupted := context.AfterFunc(ctx, func() { _ = server.call("quiet", nil, nil, callLimit) })
	defer interrupted()
	cast := func(d time.Duration) (res castResult, at span, err error) {
		at.from = now()
		err = server.call("cast", castOrder{c.Rate, c.Size, d}, &res, 2*d+callLimit)
		at.to = now()
		return res, at, err
	}
	r.say("%d healthy readers, %d broadcasts of %d bytes a second for %v", c.Healthy, c.Rate, c.Size, c.Calm)
	pids := [2]int{server.proc.PID(), healthy.proc.PID()}
	measure := func(phase int) (stop func()) {
		watch := r.stopwatch()
		var before [2]time.Duration
		for i, pid := range pids {
			before[i] = processorTimeOf(pid)
		}
		return func() {
			s.others[phase] = r.others(watch)
			for i, pid := range pids {
				s.cpu[phase][i] = float64(processorTimeOf(pid)-before[i]) / float64(now()-watch.at)
			}
		}
	}
	measured := measure(0)
	if s.calmCasts, s.calm, err = cast(c.Calm); err != nil {
		return nil, err
	}
	measured()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}

	if err := slow.call("want", map[string]int{"slow member": c.Slow}, nil, callLimit); err != nil {
		return nil, err
	}
	if err := r.members(ctx, server, c.Healthy+c.Slow); err != nil {
		return nil, err
	}
	if err := server.call("collect", nil, nil, callLimit); err != nil {
		return nil, err
	}
	if err := server.call("sample", nil, &s.base, callLimit); err != nil {
		return nil, err
	}
	var st serverStats
	if err := server.call("stats", nil, &st, callLimit); err != nil {
		return nil, err
	}
	s.conns = int(st.Engine.Open)
	s.sndbuf = 2 * int64(c.Server.Limits.SendBuffer) // socket(7): the kernel doubles it
	r.say("and %d slow ones, for %v", c.Slow, c.Phase)

	stop := s.sampleOn(server)
	measured = measure(1)
	s.phaseCasts, s.phase, err = cast(c.Phase)
	measured()
	stop()
	if err := errors.Join(err, ctx.Err()); err != nil {
		return nil, err
	}
	stalled := st.Engine.Stalled
	if err := server.call("stats", nil, &st, callLimit); err != nil {
		return nil, err
	}
	s.stalled = (st.Engine.Stalled - stalled) / time.Duration(c.Server.Limits.Loops)

	r.say("the clients end")
	var wg sync.WaitGroup
	errs := make([]error, 2)
	wg.Go(func() { errs[0] = slow.call("stop", nil, nil, stopLimit) })
	wg.Go(func() { errs[1] = healthy.call("stop", nil, nil, stopLimit) })
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if _, err = r.atRest(life, server); err != nil {
		return nil, err
	}
	if s.after, s.last, err = r.restOf(server); err != nil {
		return nil, err
	}
	if err := r.end(server); err != nil {
		return nil, err
	}
	r.mu.Lock()
	for _, x := range closed {
		s.ends = append(s.ends, slowEnd{time.Duration(x.At - s.phase.from).Seconds(), x.Reason, x.Err})
	}
	r.mu.Unlock()
	slices.SortFunc(s.ends, func(a, b slowEnd) int { return int((a.After - b.After) * 1e6) })
	s.judge()
	return s, nil
}

// members waits until the group has so many.
func (r *rig) members(ctx context.Context, server *child, n int) error {
	for deadline := time.Now().Add(restLimit); ; {
		var st serverStats
		if err := server.call("stats", nil, &st, callLimit); err != nil {
			return err
		}
		if st.Members == n {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d clients joined the group within %v", st.Members, n, restLimit)
		}
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// sampleOn looks at the server's memory every 100 ms.
func (s *slowRun) sampleOn(server *child) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			var m memorySample
			var st serverStats
			if server.call("sample", nil, &m.memory, callLimit) != nil || server.call("stats", nil, &st, callLimit) != nil {
				return
			}
			m.Held, m.TCP = st.Held, allTCP()
			m.At = float64(now()-s.begun) / 1e9
			s.samples = append(s.samples, m)
		}
	})
	return func() { close(done); wg.Wait() }
}

// allTCP is what the kernel has allocated for all TCP sockets (the mem of
// /proc/net/sockstat, in pages).
func allTCP() int64 {
	text, _ := os.ReadFile("/proc/net/sockstat")
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 1 && f[0] == "TCP:" {
			for i := 1; i+1 < len(f); i += 2 {
				if f[i] == "mem" {
					var pages int64
					_, _ = fmt.Sscan(f[i+1], &pages)
					return pages * int64(os.Getpagesize())
				}
			}
		}
	}
	return 0
}

// allowed is the memory that the configuration admits: what the process has
// with all its connections, the engine's budget, and the send buffers.
func (s *slowRun) allowed() int64 {
	return s.base.RSS + s.config.Server.Limits.Budget + int64(s.conns)*s.sndbuf
}

func (s *slowRun) peak() (p memorySample) {
	for _, m := range s.samples {
		if m.RSS+m.Kernel > p.RSS+p.Kernel {
			p = m
		}
	}
	return p
}

func (s *slowRun) judge() {
	add := func(i invariant) { s.invariants = append(s.invariants, i) }
	for _, i := range s.ofLedger() {
		add(i)
	}
	e := s.last.Engine
	add(holds(e.Opened == e.Closed && s.last.Opened == e.Opened && s.last.Closed == e.Closed, "opened = closed, as the engine and the application count",
		"opened %d and %d, closed %d and %d", e.Opened, s.last.Opened, e.Closed, s.last.Closed))
	limit := s.allowed() * 12 / 10
	p := s.peak()
	add(holds(len(s.samples) > 0 && p.RSS+p.Kernel <= limit, "resident memory and the kernel's socket memory stay below the budget plus 20 %",
		"at most %.0f MiB (%.0f resident, %.0f of %d sockets), limit %.0f MiB, %d samples",
		mib(p.RSS+p.Kernel), mib(p.RSS), mib(p.Kernel), p.Sockets, mib(limit), len(s.samples)))
	s.mu.Lock()
	healthy, slow := s.ledger.kinds["healthy member"], s.ledger.kinds["slow member"]
	s.mu.Unlock()
	if healthy != nil {
		want := uint64(s.config.Healthy) * (uint64(s.calmCasts.Casts+s.phaseCasts.Casts) + greeting + 2)
		add(holds(healthy.Got == want && healthy.Ends[endOfStream] == s.config.Healthy, "healthy readers lose nothing",
			"got %d of %d messages; %s", healthy.Got, want, counts(healthy.Ends)))
	}
	add(holds(s.calmCasts.Skips+s.phaseCasts.Skips == 0, "no broadcast is refused", "%d of %d", s.calmCasts.Skips+s.phaseCasts.Skips, s.calmCasts.Casts+s.phaseCasts.Casts))
	if slow != nil {
		window := s.config.Server.Limits.Backlog.DrainWindow
		late, other := 0, 0
		// While the kernels' buffers fill, a peer seems to take enough: that
		// costs a window. Then there is one in which it is found too slow, and
		// perhaps one more to confirm it. Time for which a loop was late does
		// not count against peers.
		latest := 3*window + 2*time.Second + s.stalled
		for _, x := range s.ends {
			if x.After > latest.Seconds() || x.After < window.Seconds() {
				late++
			}
			if x.Reason != engine.SlowConsumer.String() || !strings.Contains(x.Err, "the peer took") {
				other++
			}
		}
		add(holds(len(s.ends) == s.config.Slow && late == 0 && other == 0, fmt.Sprintf("slow readers end as SlowConsumer by the drain rate, between %v and %v after the first broadcast", window, latest.Round(time.Millisecond)),
			"%d of %d: %s; the loops were late for %v in the phase, which does not count against peers", len(s.ends), s.config.Slow, s.endings(), s.stalled.Round(time.Millisecond)))
	}
	// What counts is the time in which there are slow ones, not what follows.
	until := s.phase.to
	if len(s.ends) > 0 {
		until = min(until, s.phase.from+int64(s.ends[len(s.ends)-1].After*1e9)+recovery)
	}
	calm := s.between("healthy", s.calm.from, s.calm.to, nil)
	storm := s.between("healthy", s.phase.from, until, nil)
	s.latency = append(s.latency, row("healthy", "alone", calm), row("healthy", "among slow ones, up to a second after the last", storm),
		row("healthy", "in all of the phase", s.between("healthy", s.phase.from, s.phase.to, nil)))
	add(tail("healthy readers, while there are slow ones,", calm, storm, s.config.Smoke))
	add(holds(s.last.Held == 0, "held output returns to 0", "%d bytes", s.last.Held))
	add(holds(s.after.Goroutines <= s.before.Goroutines+slackGoroutines && s.after.Files == s.before.Files && s.after.RSS <= s.before.RSS+slackRSS,
		fmt.Sprintf("memory, goroutines and descriptors return (slack %d MiB, %d, 0)", slackRSS>>20, slackGoroutines), "%s → %s", s.before, s.after))
	add(holds(len(s.last.Failures) == 0, "no loop failed", "%q", s.last.Failures))
}

// tail compares the untouched with the calm. In a smoke test it only says what
// was measured: on a machine that does other things it means nothing.
func tail(who string, calm, storm *histogram, smoke bool) invariant {
	a, b := calm.quantile(0.99), storm.quantile(0.99)
	name := fmt.Sprintf("p99 of %s stays within %d× of calm", who, tailFactor)
	detail := fmt.Sprintf("%v calm, %v in the storm: %.1f×", a, b, float64(b)/float64(max(a, 1)))
	if smoke {
		return holds(true, name+" (not judged in a smoke test)", "%s", detail)
	}
	return holds(calm.count() > 0 && storm.count() > 0 && b <= tailFactor*a, name, "%s", detail)
}

// endings sums up when and why the slow ones ended.
func (s *slowRun) endings() string {
	if len(s.ends) == 0 {
		return "none"
	}
	reasons := make(map[string]int)
	for _, x := range s.ends {
		how := x.Reason
		if strings.Contains(x.Err, "the peer took") {
			how += " by the drain rate"
		} else if x.Err != "" {
			how += " (" + x.Err + ")"
		}
		reasons[how]++
	}
	at := func(q float64) float64 { return s.ends[int(q*float64(len(s.ends)-1))].After }
	return fmt.Sprintf("first after %.2f s, half after %.2f s, last after %.2f s; %s", at(0), at(0.5), at(1), counts(reasons))
}

func (s *slowRun) verdicts() []invariant { return s.invariants }

func (s *slowRun) markdown(facts machine.Facts) string {
	var b strings.Builder
	c := s.config
	fmt.Fprintf(&b, "# Fire: slow readers among healthy ones\n\n")
	fmt.Fprintf(&b, "One group of %d healthy readers and then %d more that read 1 KiB a second (SO_RCVBUF 64 KiB). Every member gets %d broadcasts a second of %d bytes: "+
		"%v with the healthy ones alone, then %v with all. That is %.0f MB/s for the healthy ones, through loopback. Server: %s.\n\n",
		c.Healthy, c.Slow, c.Rate, c.Size, c.Calm, c.Phase, float64(c.Healthy*c.Rate*c.Size)/1e6, c.Server.describe())
	writeInvariants(&b, s.invariants)
	fmt.Fprintf(&b, "## Memory\n\nThe limit is what the process has with all connections before the phase (%.1f MiB), the budget (%.0f MiB), and for each of %d connections "+
		"the send buffer as Linux accounts for it (%d KiB: SO_SNDBUF is doubled), %.0f MiB; together %.0f MiB, and 20 %% more: %.0f MiB. "+
		"Measured every 100 ms: resident memory, and of every socket of the process SO_MEMINFO: received, queued to be sent, reserved, options, backlog. "+
		"Beside it, for comparison, what /proc/net/sockstat says of all TCP of the machine, the clients' receive buffers included.\n\n",
		mib(s.base.RSS), mib(c.Server.Limits.Budget), s.conns, s.sndbuf>>10, mib(int64(s.conns)*s.sndbuf), mib(s.allowed()), mib(s.allowed()*12/10))
	fmt.Fprintf(&b, "| second of the phase | RSS MiB | sockets MiB | together MiB | held MiB | sockets | all TCP MiB |\n|%s\n", strings.Repeat(" --- |", 7))
	step := max((len(s.samples)+24)/25, 1)
	for i := 0; i < len(s.samples); i += step {
		var p memorySample
		for _, m := range s.samples[i:min(i+step, len(s.samples))] {
			if m.RSS+m.Kernel >= p.RSS+p.Kernel {
				p = m
			}
		}
		fmt.Fprintf(&b, "| %.1f | %.1f | %.1f | %.1f | %.1f | %d | %.1f |\n", p.At-float64(s.phase.from-s.begun)/1e9, mib(p.RSS), mib(p.Kernel), mib(p.RSS+p.Kernel), mib(p.Held), p.Sockets, mib(p.TCP))
	}
	fmt.Fprintf(&b, "\nThe largest of each stretch.\n\n## The slow ones\n\n%s.\n\n", s.endings())
	fmt.Fprintf(&b, "## The healthy ones\n\nLatency from when a broadcast was due to when a client had it whole. Broadcasts were made at most %v late in the calm and %v in the phase. "+
		"In the calm the server used %.2f processors and the healthy clients %.2f, in the phase %.2f and %.2f. Others used %.2f in the calm and %.2f in the phase: with much more than 0.1, measure again.\n\n",
		s.calmCasts.MaxLate.Round(time.Millisecond), s.phaseCasts.MaxLate.Round(time.Millisecond),
		s.cpu[0][0], s.cpu[0][1], s.cpu[1][0], s.cpu[1][1], s.others[0], s.others[1])
	writeLatency(&b, s.latency)
	fmt.Fprintf(&b, "%s", facts.Markdown())
	return b.String()
}

func (s *slowRun) lines(facts machine.Facts) []any {
	lines := []any{
		labelled{"facts", facts}, labelled{"setup", s.config}, labelled{"base", s.base},
		labelled{"casts", map[string]castResult{"calm": s.calmCasts, "phase": s.phaseCasts}},
	}
	for _, i := range s.invariants {
		lines = append(lines, labelled{"invariant", i})
	}
	for _, l := range s.latency {
		lines = append(lines, labelled{"latency", l})
	}
	for _, x := range s.ends {
		lines = append(lines, labelled{"slow_end", x})
	}
	for _, m := range s.samples {
		lines = append(lines, labelled{"sample", m})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range slices.Sorted(maps.Keys(s.latencies["healthy"])) {
		r := row("healthy", "", s.latencies["healthy"][at])
		lines = append(lines, labelled{"slice", map[string]any{
			"at_s": float64(at*slice-s.begun) / 1e9, "count": r.Count, "p50_ms": r.P50, "p99_ms": r.P99, "max_ms": r.Max,
		}})
	}
	return lines
}
