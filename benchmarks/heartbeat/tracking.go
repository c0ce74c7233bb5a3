package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"time"
	"unsafe"

	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/timingwheel"
)

const (
	tick = 10 * time.Millisecond // the engine's
	// budget is how many timers the engine's loop visits in one call of Advance,
	// near within how many ticks its wheel visits one only once.
	budget = 512
	near   = 8000
	// connSize is about what a connection of the engine takes, so that as few
	// lines of it share a page, and none a cache line, as there.
	connSize = 256
	// traffic is how often a connection is read, give or take a tenth.
	traffic = 10 * time.Second
	// patience is the silence after which a peer is given up.
	patience = 60 * time.Second
)

// deadline is the plan of a side that waits for its peers to speak: of the
// roles of a connection with traffic, what the simulation needs and no more.
func deadline() (*heartbeat.Plan, error) {
	c := heartbeat.Config{Interval: patience / 2, Misses: 3, Retry: patience / 6, Role: heartbeat.Answer}
	return c.Plan(heartbeat.Traits{MayPing: true, PeerMayPing: true, Directed: true, Answered: true, Stamped: true})
}

// tracking is a simulation of connections of which most are alive. Times are
// virtual.
type tracking struct {
	Conns  int
	Window time.Duration // that is measured, after the connections have settled
	Silent int           // how many fall silent at its beginning
}

var (
	fullTracking  = tracking{Conns: 1_000_000, Window: 2 * patience, Silent: 1000}
	smokeTracking = tracking{Conns: 2000, Window: patience, Silent: 50}
)

// tracked is what a simulation has cost, and what it found.
type tracked struct {
	// Opened is within what time all connections were opened, long before the
	// window. That decides how many deadlines fall together.
	Opened time.Duration `json:"opened_within"`
	Conns  int           `json:"conns"`
	Window time.Duration `json:"window"`

	// CPU is what timers and deadlines took, a second of virtual time; Busiest
	// in the worst second; Longest in the worst call of Advance, of Calls.
	CPU     time.Duration `json:"cpu_per_second"`
	Busiest time.Duration `json:"cpu_in_busiest_second"`
	Longest time.Duration `json:"longest_advance"`
	Calls   int           `json:"advance_calls"`
	Fired   int           `json:"fired"` // timers, in the window
	// Reads were noted in the window. Noting is what that added to a look at the
	// connection, which the engine takes anyway, and Looking what the look took,
	// in ns.
	Reads   int     `json:"reads"`
	Noting  float64 `json:"read_ns"`
	Looking float64 `json:"look_ns"`
	Mallocs uint64  `json:"mallocs"` // in the window

	// Found of the silent were given up, the last of them Late after its
	// deadline. Wrong were given up though they spoke.
	Found int           `json:"found"`
	Late  time.Duration `json:"late"`
	Wrong int           `json:"wrong"`
}

// perSecond returns what one second of virtual time takes: timers, deadlines and
// the noting of reads.
func (t *tracked) perSecond() time.Duration {
	return t.CPU + time.Duration(t.Noting*float64(t.Reads)/t.Window.Seconds())
}

// trackAll simulates connections that were opened one after another, and all at
// once: so that their deadlines come at once, too.
func trackAll(ctx context.Context, c config) (list []tracked, err error) {
	if c.tracking.Conns == 0 {
		return nil, nil
	}
	for _, opened := range []time.Duration{patience, time.Second} {
		t, err := track(ctx, c.tracking, opened, c.Seed)
		if err != nil {
			return nil, fmt.Errorf("tracking: %w", err)
		}
		list = append(list, t)
		fmt.Fprintf(c.Progress, "%d connections opened within %v: %.2f ms of CPU a second, longest call %.3f ms, %d silent ones found, %d wrong\n",
			t.Conns, opened, ms(t.perSecond()), ms(t.Longest), t.Found, t.Wrong)
	}
	return list, nil
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// conn is a connection as far as it is tracked.
type conn struct {
	tracker
	_ [connSize - unsafe.Sizeof(tracker{})]byte
}

type tracker struct {
	heart heartbeat.State
	timer timingwheel.Timer
	fd    int32
}

// world is the connections and what tracks them, in the manner of engine.Loop:
// a read stores its time and touches no timer, and a timer that fires too soon
// is put back.
type world struct {
	plan   *heartbeat.Plan
	wheel  *timingwheel.Wheel
	conns  []*conn
	now    int64
	due    []*conn // verdicts of the call of Advance that is under way
	random *rand.Rand
	fire   func(timingwheel.Timer, uint32) uint64

	order  []uint32 // in which connections are read, once every traffic
	turn   int      // whose turn it is, in order
	silent []bool   // who is not read any more
	batch  []*conn
	sum    int64         // keeps the compiler from leaving out what only looks
	asking time.Duration // what it takes to read the clock

	result *tracked
}

func tickOf(at int64) uint64 {
	const never = 1<<63 - 1
	if at >= never-int64(tick) {
		return 0
	}
	return uint64((at + int64(tick) - 1) / int64(tick))
}

// open adds a connection.
func (w *world) open(fd int) {
	c := w.conns[fd]
	c.fd = int32(fd)
	c.heart.Start(w.plan, w.now, w.random.Uint32())
	_, next := c.heart.Poll(w.plan, w.now)
	c.timer = w.wheel.Add(tickOf(next), uint32(fd))
}

// onFire is what the engine's loop does with a timer that fires.
func (w *world) onFire(t timingwheel.Timer, data uint32) (again uint64) {
	w.result.Fired++
	c := w.conns[data]
	if c.timer != t {
		return 0
	}
	action, next := c.heart.Poll(w.plan, w.now)
	if action.Verdict() {
		c.timer = 0
		w.due = append(w.due, c)
		return 0
	}
	return tickOf(next)
}

// fetch is what the engine's loop does with timers that are about to fire.
func (w *world) fetch(data []uint32) {
	var found [64]*conn
	for len(data) > 0 {
		n := min(len(data), len(found))
		for i, d := range data[:n] {
			found[i] = w.conns[d]
		}
		for _, c := range found[:n] {
			w.sum += c.heart.LastRead() ^ int64(c.timer)
		}
		data = data[n:]
	}
}

// advance serves the timers that are due, and measures it.
func (w *world) advance() (took time.Duration) {
	for {
		next, ok := w.wheel.Next()
		if !ok || next > uint64(w.now/int64(tick)) {
			return took
		}
		began := cpuTime()
		w.wheel.Advance(uint64(w.now/int64(tick)), budget, w.fire)
		for _, c := range w.due {
			w.verdict(c)
		}
		w.due = w.due[:0]
		call := w.since(began)
		took += call
		w.result.Calls++
		w.result.Longest = max(w.result.Longest, call)
	}
}

func (w *world) verdict(c *conn) {
	if !w.silent[c.fd] {
		w.result.Wrong++
		return
	}
	w.result.Found++
	w.result.Late = max(w.result.Late, time.Duration(w.now-c.heart.LastRead())-patience)
}

// read has one tick's share of the connections read from, and measures that: the
// look at them that the engine takes anyway, and the note of it, if asked for;
// else it notes it afterwards.
func (w *world) read(opened int, note bool) (n int, took time.Duration) {
	share := int(int64(len(w.order)) * int64(tick) / int64(traffic))
	block := len(w.order) / 10
	w.batch = w.batch[:0]
	for range share {
		if w.turn%block == 0 {
			next := w.order[w.turn:min(w.turn+block, len(w.order))]
			w.random.Shuffle(len(next), func(i, j int) { next[i], next[j] = next[j], next[i] })
		}
		fd := int(w.order[w.turn])
		w.turn = (w.turn + 1) % len(w.order)
		if fd >= opened || w.silent[fd] {
			continue
		}
		w.batch = append(w.batch, w.conns[fd])
	}
	sum := int64(0)
	began := cpuTime()
	if note {
		for _, c := range w.batch {
			sum += c.heart.LastWrite()
			c.heart.Read(w.now)
		}
		took = w.since(began)
	} else {
		for _, c := range w.batch {
			sum += c.heart.LastWrite()
		}
		took = w.since(began)
		for _, c := range w.batch {
			c.heart.Read(w.now)
		}
	}
	w.sum += sum
	return len(w.batch), took
}

// since returns the CPU time since began, without what it takes to ask for it.
func (w *world) since(began time.Duration) time.Duration {
	return max(0, cpuTime()-began-w.asking)
}

// askingTwice returns what it takes to read the clock twice in a row: the median
// of many.
func askingTwice() time.Duration {
	took := make([]time.Duration, 1001)
	for i := range took {
		began := cpuTime()
		took[i] = cpuTime() - began
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// Times of a simulation, after its beginning. Connections settle for three
// deadlines, and after the window it runs on until whoever fell silent must have
// been found.
const (
	settled = int64(3 * patience)
	after   = int64(patience + patience/30)
)

// track simulates connections that are opened within a time.
func track(ctx context.Context, t tracking, opened time.Duration, seed uint64) (tracked, error) {
	plan, err := deadline()
	if err != nil {
		return tracked{}, err
	}
	if t.Conns < 1000 || t.Silent < 1 || t.Window%time.Second != 0 {
		return tracked{}, fmt.Errorf("%d connections, of which %d fall silent, for %v: want at least 1000, 1 and whole seconds", t.Conns, t.Silent, t.Window)
	}
	w := &world{
		plan: plan, wheel: timingwheel.NewNear(0, near), conns: make([]*conn, t.Conns), silent: make([]bool, t.Conns),
		random: rand.New(rand.NewPCG(seed, 0)), result: new(tracked),
		batch: make([]*conn, 0, t.Conns/100),
	}
	w.fire = w.onFire
	w.wheel.Fetch(w.fetch)
	for i := range w.conns {
		w.conns[i] = new(conn)
	}
	for _, i := range w.random.Perm(t.Conns) {
		w.order = append(w.order, uint32(i))
	}
	defer debug.FreeOSMemory() // for the servers that follow
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	runtime.LockOSThread() // whose clock is read
	defer runtime.UnlockOSThread()
	runtime.GC()
	w.asking = askingTwice()

	there := 0 // connections
	for w.now < settled {
		w.now += int64(tick)
		for there < t.Conns && int64(there)*int64(opened) < w.now*int64(t.Conns) {
			w.open(there)
			there++
		}
		w.read(there, true)
		w.advance()
		if err := ctx.Err(); err != nil {
			return tracked{}, err
		}
	}
	for i := range t.Silent {
		w.silent[i*t.Conns/t.Silent] = true
	}

	wrong := w.result.Wrong
	w.result = &tracked{Opened: opened, Conns: t.Conns, Window: t.Window, Wrong: wrong}
	w.measure()
	if err := ctx.Err(); err != nil {
		return tracked{}, err
	}

	result := *w.result
	for end := w.now + after; w.now < end; {
		w.now += int64(tick)
		w.read(there, true)
		w.advance()
	}
	result.Found, result.Late, result.Wrong = w.result.Found, w.result.Late, w.result.Wrong
	return result, nil
}

// measure is the window.
func (w *world) measure() {
	r := w.result
	var reads [2]struct { // only looked at; and noted
		n    int
		took time.Duration
	}
	var total, second time.Duration // of CPU, for timers
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for end := w.now + int64(r.Window); w.now < end; {
		w.now += int64(tick)
		note := int(w.now / int64(tick) % 2)
		n, took := w.read(len(w.conns), note == 1)
		reads[note].n += n
		reads[note].took += took
		second += w.advance()
		if w.now%int64(time.Second) == 0 {
			r.Busiest = max(r.Busiest, second)
			total += second
			second = 0
		}
	}
	runtime.ReadMemStats(&after)
	r.Mallocs = after.Mallocs - before.Mallocs
	r.CPU = time.Duration(float64(total) / r.Window.Seconds())
	r.Reads = reads[0].n + reads[1].n
	r.Looking = float64(reads[0].took) / float64(max(reads[0].n, 1))
	r.Noting = max(float64(reads[1].took)/float64(max(reads[1].n, 1))-r.Looking, 0)
}
