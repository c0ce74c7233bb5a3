// Package sim is a simulated network of machines in virtual time, on which
// whole engines run deterministically from a seed.
//
// A [World] owns the clock, the random numbers and a queue of things to come.
// [World.Machine] adds a machine and returns its [Kernel], which stands where
// sys.Kernel stands otherwise; the pollers it opens imitate epoll or kqueue as
// package poll presents them. Machines reach each other over links with
// latency and jitter; [World.Dial] and [World.Serve] add a [Peer], which is the
// far end of a connection without an engine, to be as nasty as a test likes.
//
// One goroutine runs at any time. The test's goroutine drives: [World.RunFor]
// takes what is next from the queue, and where that is work for a loop, hands
// over to the goroutine inside Poller.Run and waits until it comes back.
// Scripts given to [World.At] run on the test's goroutine while every loop is
// parked. [Config].Settle covers goroutines that the simulation cannot see.
//
// The simulation is the strictest kernel there is. Using a descriptor that is
// not open, closing one twice, waking a closed poller and the like are recorded
// as violations, each with the stack that did it ([World.Violations]). What is
// still open at the end is told by [World.Leaks].
//
// Limits: no packet loss or reordering within a connection (TCP hides both),
// no bandwidth, no datagrams.
package sim

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Config describes a World.
type Config struct {
	// Seed decides everything that the test leaves open.
	Seed uint64
	// Trace keeps the trace as text, for World.Trace. The hash is always kept.
	Trace bool
	// Settle returns once every goroutine that is neither the caller's nor a
	// parked loop's has ended or blocked; it is called after each script and
	// each turn of a loop. synctest.Wait does this for a World that lives in
	// a synctest bubble. Nil is enough for a program that has no goroutines
	// but its loops; one that takes over after a Goexit is waited for anyway.
	Settle func()
	// Latency is the range of a link's one-way delay. Each link draws its own
	// and each packet adds up to half of it again. Zero means 20 µs to 5 ms.
	Latency Range
	// Buffers is the range of the size, in bytes, of each socket buffer. Zero
	// means 16 KiB to 256 KiB.
	Buffers Range
	// UserTimeout is after how long a kernel gives up on unacknowledged data,
	// with ETIMEDOUT. Zero means never.
	UserTimeout time.Duration
	// KeepAlive is after how long a kernel finds that a peer without
	// unacknowledged data is gone, with ETIMEDOUT. Zero means never.
	KeepAlive time.Duration
	// Prompt says that loops read all that they are told of, as an engine's do. One
	// that goes to sleep and has not is a violation.
	Prompt bool
}

// Range is from which numbers to draw, both ends included. Durations are in
// nanoseconds.
type Range struct{ Min, Max int64 }

// Between makes a Range of durations.
func Between(min, max time.Duration) Range { return Range{int64(min), int64(max)} }

func (r Range) or(min, max int64) Range {
	if r == (Range{}) {
		return Range{min, max}
	}
	return r
}

// World is one simulation. Its methods, and those of its machines and peers,
// belong to the goroutine that drives it, except where they say otherwise.
type World struct {
	// Set once.
	cfg Config

	// mu guards everything below, and all state of kernels, pollers, sockets
	// and peers. One goroutine runs at any time, so it is hardly ever
	// contended; it is there for Wake, which any goroutine may call.
	mu    sync.Mutex
	now   int64
	queue schedule
	rng   *rand.Rand

	hosts    map[netip.Addr]*host
	machines []*Kernel
	nextIP   uint32
	sockets  int // made so far; names them in the trace

	running  *poller // whose batch is being handled
	nested   bool    // Spend is running the queue
	deferred []entry // what Spend must leave to the driver
	expected bool    // a poller was entered or woken since the driver looked

	freePackets []*packet
	trace       trace
	counts      [lastCounter]int
	violations  []string
}

// New makes a world without machines. Its clock starts at some random time.
func New(cfg Config) *World {
	cfg.Latency = cfg.Latency.or(20e3, 5e6)
	cfg.Buffers = cfg.Buffers.or(16<<10, 256<<10)
	w := &World{
		cfg:   cfg,
		rng:   rand.New(rand.NewPCG(cfg.Seed, 0x9e3779b97f4a7c15)),
		hosts: make(map[netip.Addr]*host),
	}
	w.now = w.draw(Range{1e6, 10e9})
	w.trace.keep = cfg.Trace
	w.trace.hash = cfg.Seed
	return w
}

// Now returns the virtual time in nanoseconds. Any goroutine may call it.
func (w *World) Now() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// Int returns a random number below n from the world's source, for what a
// script leaves open.
func (w *World) Int(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

func (w *World) draw(r Range) int64 {
	if r.Max <= r.Min {
		return r.Min
	}
	return r.Min + w.rng.Int64N(r.Max-r.Min+1)
}

// chance is true perMille times in a thousand.
func (w *World) chance(perMille int) bool {
	return perMille > 0 && w.rng.IntN(1000) < perMille
}

// Step lets the next thing happen and reports whether there was one.
func (w *World) Step() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.welcome()
	if w.queue.empty() {
		return false
	}
	w.happen(w.queue.pop())
	return true
}

// RunUntil lets everything up to time t happen, and sets the clock to t.
func (w *World) RunUntil(t int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.welcome()
	for !w.queue.empty() && w.queue.next().at <= t {
		w.happen(w.queue.pop())
		w.welcome()
	}
	w.now = max(w.now, t)
}

// RunFor lets d pass.
func (w *World) RunFor(d time.Duration) { w.RunUntil(w.Now() + int64(d)) }

// Await lets time pass until done says so, at most d, and returns what done
// said last. done is asked between any two things that happen.
func (w *World) Await(d time.Duration, done func() bool) bool {
	for limit := w.Now() + int64(d); !done(); {
		w.mu.Lock()
		w.welcome()
		if w.queue.empty() || w.queue.next().at > limit {
			w.now = max(w.now, limit)
			w.mu.Unlock()
			return done()
		}
		w.happen(w.queue.pop())
		w.mu.Unlock()
	}
	return true
}

func (w *World) happen(e entry) {
	w.now = max(w.now, e.at)
	e.do.act(w, e)
}

// welcome looks after pollers that were entered or woken, possibly several at
// once by goroutines of their own: in the order in which they were opened, so
// that the race between those goroutines is never seen.
func (w *World) welcome() {
	if !w.expected {
		return
	}
	w.expected = false
	for _, k := range w.machines {
		for _, p := range k.pollers {
			if p.asked && !p.closed {
				p.asked = false
				p.woken = true
				w.trace.call(w.now, k, "wake", p.index, 0, nil)
				p.kick()
			}
			if p.inRun && p.owed {
				p.owed = false
				p.kickAt(w.now)
			}
		}
	}
}

// settle lets goroutines run that the simulation does not hand over to.
func (w *World) settle() {
	if w.cfg.Settle != nil {
		w.mu.Unlock()
		w.cfg.Settle()
		w.mu.Lock()
	}
}

// At runs f at time t, or at once if t has passed, on the goroutine that drives
// the world, while all loops are parked. Scripts and callbacks may call it.
func (w *World) At(t int64, f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.push(t, script(f))
}

// After runs f like At, d from now.
func (w *World) After(d time.Duration, f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.push(w.now+int64(d), script(f))
}

// Start runs f on a goroutine of its own, for calls that block, and returns
// once it has. Needs Config.Settle to be deterministic.
func (w *World) Start(f func()) {
	go f()
	if w.cfg.Settle != nil {
		w.cfg.Settle()
	}
}

type script func()

func (f script) act(w *World, e entry) {
	if w.nested {
		w.deferred = append(w.deferred, e)
		return
	}
	w.mu.Unlock()
	f()
	w.mu.Lock()
	w.settle()
}

// Spend is for callbacks: the calling loop is busy for d. Packets fly on and
// peers react meanwhile, but all loops and scripts stand still.
func (w *World) Spend(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.nested {
		return
	}
	until := w.now + int64(d)
	w.nested = true
	for !w.queue.empty() && w.queue.next().at <= until {
		w.happen(w.queue.pop())
	}
	w.nested = false
	for _, e := range w.deferred {
		w.queue.restore(e)
	}
	w.deferred = w.deferred[:0]
	w.now = max(w.now, until)
}

// push queues a thing to happen at time t, or now if t has passed.
func (w *World) push(t int64, do action) uint64 {
	return w.queue.push(max(t, w.now), do)
}

// violation records a misuse of the kernel, with the stack of the misuser.
func (w *World) violation(format string, args ...any) {
	const enough = 20 // a loop gone wild would drown the first one
	if len(w.violations) >= enough {
		return
	}
	what := fmt.Sprintf(format, args...)
	w.trace.note(w.now, "violation: "+what)
	w.violations = append(w.violations, fmt.Sprintf("at %v: %s%s", time.Duration(w.now), what, callers()))
}

// callers lists the frames above the simulation.
func callers() string {
	var pcs [24]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	var s strings.Builder
	for {
		f, more := frames.Next()
		if f.Function != "" && !strings.Contains(f.Function, "/internal/sim.") && !strings.HasPrefix(f.Function, "runtime.") {
			fmt.Fprintf(&s, "\n\t%s:%d", f.Function, f.Line)
		}
		if !more {
			return s.String()
		}
	}
}

// Violations lists every misuse of a kernel or poller so far.
func (w *World) Violations() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.violations...)
}

// Leaks lists the descriptors and pollers that are still open, and the
// goroutines still in a poller's Run.
func (w *World) Leaks() (leaks []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.machines {
		for fd, f := range k.files {
			if f != nil && f.kind != stdio && f.kind != pollerFile {
				leaks = append(leaks, fmt.Sprintf("%s: descriptor %d: %v", k.name, fd, f))
			}
		}
		for i, p := range k.pollers {
			if !p.closed {
				leaks = append(leaks, fmt.Sprintf("%s: poller %d not closed", k.name, i))
			}
			if p.inRun {
				leaks = append(leaks, fmt.Sprintf("%s: poller %d still in Run", k.name, i))
			}
		}
		for path := range k.host.paths {
			leaks = append(leaks, fmt.Sprintf("%s: socket file %s", k.name, path))
		}
	}
	return leaks
}
