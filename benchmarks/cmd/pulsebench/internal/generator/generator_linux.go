package generator

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/hist"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/meter"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/monotonic"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/sizes"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/transport"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/wire"
)

// workload is what tells one kind of run from another. Its methods are called
// by the loop.
type workload interface {
	// begin is called when load is to start: of closed and open loops in every
	// window, of others once.
	begin()
	// ready: the server has answered on a connection.
	ready(c *conn)
	// message: a message has come, in time for g.now.
	message(c *conn, payload []byte) error
	// ended: a connection is gone. A nil cause is our own doing.
	ended(c *conn, cause error)
	// due does what is due by g.now and returns when it wants to be called
	// again.
	due() int64
	// report completes the share, once, at the end.
	report(s *spec.Share)
	// outstanding is what is still awaited after the window. It is asked from
	// the window's end on, until it says 0 or the drain limit is over.
	outstanding() int64
}

// phase is where a worker is in its run.
type phase uint8

const (
	opening  phase = iota // connections are being opened
	waiting               // for an Order to go
	warming               // under load, but not counting
	counting              // within the window
	draining              // after it
	over
)

// Generator is one worker.
type Generator struct {
	spec     spec.Spec
	mine     spec.Assignment
	protocol wire.Protocol
	probed   bool // connections are ready when a heartbeat was answered
	oneWay   bool // messages do not come back to their sender
	byBeats  bool // answered heartbeats are what is counted
	sizes    sizes.Distribution
	content  *content
	dialer   transport.Dialer
	work     workload
	notes    *notebook

	poll  *poller
	conns []conn
	now   int64 // read after every wait and every read

	phase  phase
	window spec.Window
	drain  int64 // its end
	open   int   // connections that are ready

	opener  opener
	beater  beater
	series  series
	counts  spec.Counters
	from    mark
	to      mark
	lag     *hist.Histogram
	connect *hist.Histogram
	isReady *hist.Histogram
	beats   *hist.Histogram

	// spun is the processor time spent awake while nothing was to be done.
	spun int64

	lost     map[string]int64
	problems []string
	failure  error // ends the run
	stopped  bool

	in    [readSize]byte
	out   []byte
	spare [][]byte // input buffers that nobody needs

	mu     sync.Mutex
	orders []spec.Order
}

const (
	readSize  = 64 << 10
	writeSize = 256 << 10
)

// mark is counters and clocks at one instant.
type mark struct {
	at                   int64
	counts               spec.Counters
	own, server, machine int64
	spun                 int64
}

func newGenerator(plan spec.Spec, notes *notebook) (*Generator, error) {
	if plan.Worker == nil {
		return nil, errors.New("plan without an assignment")
	}
	plan, protocol, distribution, err := plan.Check()
	if err != nil {
		return nil, err
	}
	address, err := netip.ParseAddrPort(plan.Worker.Address)
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	var sources []netip.Addr
	for _, text := range plan.Sources {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("-sources: %w", err)
		}
		sources = append(sources, a)
	}
	dialer, err := transport.NewTCP(address, sources)
	if err != nil {
		return nil, err
	}
	g := &Generator{
		spec: plan, mine: *plan.Worker, protocol: protocol, sizes: distribution, dialer: dialer, notes: notes,
		conns: make([]conn, plan.Worker.Conns), content: newContent(max(distribution.Max(), spec.StampSize)),
		out: make([]byte, 0, writeSize+readSize), lost: make(map[string]int64),
		lag: hist.New(), connect: hist.New(), isReady: hist.New(), beats: hist.New(),
	}
	for i := range g.conns {
		g.conns[i].index, g.conns[i].number = int32(i), uint32(g.mine.First+i)
	}
	_, answered := protocol.Heartbeats()
	g.probed = answered && plan.Workload != spec.Churn
	g.oneWay = plan.Workload == spec.Broadcast
	g.byBeats = plan.Workload == spec.Idle || plan.Workload == spec.DeadPeer
	g.work = g.newWorkload()
	if g.poll, err = newPoller(); err != nil {
		return nil, err
	}
	return g, nil
}

func (g *Generator) newWorkload() workload {
	switch g.spec.Workload {
	case spec.Closed:
		return &closedLoop{base: base{g}}
	case spec.Open:
		return &openLoop{base: base{g}}
	case spec.Ramp:
		return &ramp{base{g}}
	case spec.Churn:
		return &churn{base: base{g}}
	case spec.Broadcast:
		return &broadcast{base: base{g}}
	case spec.DeadPeer:
		return &deadPeer{base: base{g}}
	}
	return &idle{base{g}}
}

func (g *Generator) close() {
	for i := range g.conns {
		if c := &g.conns[i]; c.transport != nil {
			_ = c.transport.Close()
			c.transport = nil
		}
	}
	g.series.end()
	g.poll.close()
}

// order hands an order to the loop. It may be called by any goroutine.
func (g *Generator) order(o spec.Order) {
	g.mu.Lock()
	g.orders = append(g.orders, o)
	g.mu.Unlock()
	g.poll.wake()
}

// run is the loop.
func (g *Generator) run() (*spec.Share, error) {
	g.now = monotonic.Now()
	g.series.begin(g)
	if g.spec.Workload.Opens() {
		g.opener.begin(g, g.spec.ConnectRate*float64(g.mine.Conns)/float64(g.spec.Conns))
		g.opener.fatal = true
	} else {
		g.setPhase(waiting)
	}
	for {
		next := g.step()
		if g.failure != nil {
			return nil, g.failure
		}
		if g.phase == over {
			return g.share()
		}
		events, err := g.wait(next - g.now)
		if err != nil {
			return nil, err
		}
		g.now = monotonic.Now()
		for i := range events {
			if e := &events[i]; e.Fd != wakeIndex {
				g.serve(e)
				// A batch may take milliseconds; what is due does not wait for
				// its end.
				if g.now >= next {
					next = g.step()
				}
			}
			if g.failure != nil {
				return nil, g.failure
			}
		}
	}
}

// wait waits for events, no longer than ns nanoseconds. A short wait is spent
// awake if that was asked for: waking up takes longer than some waits.
func (g *Generator) wait(ns int64) ([]unix.EpollEvent, error) {
	if ns <= 0 || ns > int64(g.spec.Spin) {
		return g.poll.wait(ns)
	}
	before := meter.Thread()
	events, err := g.poll.wait(0)
	if len(events) == 0 {
		g.spun += meter.Thread() - before
	}
	return events, err
}

// own is the processor time that load has taken so far.
func (g *Generator) own() int64 { return meter.Own() - g.spun }

// step does what is due by now and returns when the next thing is.
func (g *Generator) step() (next int64) {
	g.obey()
	next = forever
	switch g.phase {
	case opening:
		next = g.opener.due()
		if g.opener.done() {
			g.setPhase(waiting)
		}
	case warming:
		if g.now >= g.window.From {
			g.setPhase(counting)
		}
		next = g.window.From
	case counting:
		if g.now >= g.window.To {
			g.setPhase(draining)
		}
		next = g.window.To
	}
	next = min(next, g.beater.due())
	if g.phase == warming || g.phase == counting || g.phase == draining {
		next = min(next, g.work.due(), g.series.due())
	}
	if g.phase == draining {
		if left := g.work.outstanding(); left == 0 || g.now >= g.drain {
			g.finish(left)
		}
		next = min(next, g.drain)
	}
	if g.phase == counting {
		next = min(next, g.window.To)
	}
	return next
}

// obey carries out orders.
func (g *Generator) obey() {
	g.mu.Lock()
	orders := g.orders
	g.orders = nil
	g.mu.Unlock()
	for _, o := range orders {
		switch {
		case o.Go != nil && g.phase == waiting:
			g.window = *o.Go
			g.setPhase(warming)
		case o.Stop && g.phase == waiting && g.window.More:
			g.setPhase(over)
		case o.Stop && g.phase < warming:
			g.fail(errors.New("stopped before load began"))
		case o.Stop && g.phase < draining:
			g.stopped = true
			g.window.From = min(g.window.From, g.now)
			g.window.To = g.now
		}
	}
}

func (g *Generator) setPhase(p phase) {
	g.phase = p
	switch p {
	case waiting:
		g.notes.write(spec.Note{Opening: &spec.Opening{Ready: g.open}})
		g.notes.write(spec.Note{Opened: true})
		g.beater.begin(g)
	case warming:
		g.work.begin()
	case counting:
		g.from = g.mark()
		if g.window.More { // a short one is not to be shorter because it began late
			g.window.To += g.from.at - g.window.From
		}
		g.series.start(g.window.From)
	case draining:
		g.to = g.mark()
		g.series.advance(g.window.To)
		g.drain = g.now + int64(g.spec.Drain)
	}
}

// finish ends a window of which that many messages are left without an answer.
func (g *Generator) finish(left int64) {
	if !g.window.More {
		g.setPhase(over)
		return
	}
	s := g.part()
	s.Counters.Unanswered = left
	g.notes.write(spec.Note{Share: s})
	g.phase = waiting
}

// counted reports whether what was due at that time belongs to the window.
func (g *Generator) counted(at int64) bool {
	return g.phase >= counting && at >= g.window.From && at < g.window.To
}

func (g *Generator) mark() mark {
	m := mark{at: monotonic.Now(), counts: g.counts}
	if len(g.mine.PIDs) > 0 {
		server, err := meter.CPUs(g.mine.PIDs)
		if err != nil {
			g.fail(fmt.Errorf("-pid: %w", err))
		}
		m.server = server
	}
	m.own, m.spun = g.own(), g.spun
	m.machine = meter.Machine() // last: it takes the longest, and the server does not wait
	return m
}

// fail ends the run; the first failure counts.
func (g *Generator) fail(err error) {
	if g.failure == nil {
		g.failure = err
	}
}

// maxProblems bounds what is explained one by one.
const maxProblems = 10

// problem notes something that spoils the result but not the run.
func (g *Generator) problem(format string, args ...any) {
	if len(g.problems) < maxProblems {
		g.problems = append(g.problems, fmt.Sprintf(format, args...))
	}
}

// part is what was counted within the window, and what has spoilt it.
func (g *Generator) part() *spec.Share {
	return &spec.Share{
		From: g.from.at, To: g.to.at, Counters: g.to.counts.Sub(g.from.counts), Total: g.counts,
		OwnCPU: g.to.own - g.from.own, Spun: g.to.spun - g.from.spun, ServerCPU: g.to.server - g.from.server, MachineCPU: g.to.machine - g.from.machine,
		Lost: g.lost, Problems: g.problems, Stopped: g.stopped,
	}
}

// share is what this worker found.
func (g *Generator) share() (*spec.Share, error) {
	s := g.part()
	g.work.report(s) // which may count what never came
	// These two are decided after the window, about messages within it.
	s.Counters.Unanswered, s.Counters.Missed = g.counts.Unanswered, g.counts.Missed
	total := g.series.end()
	for _, h := range []struct {
		to   *string
		from *hist.Histogram
	}{{&s.Latency, total}, {&s.Lag, g.lag}, {&s.Connect, g.connect}, {&s.Ready, g.isReady}, {&s.Heartbeat, g.beats}} {
		text, err := h.from.Text()
		if err != nil {
			return nil, err
		}
		*h.to = text
	}
	return s, nil
}

// cause is why a connection ended, in the words of a result.
func cause(err error) string {
	switch {
	case errors.Is(err, errEnd):
		return "closed by the server"
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return "reset by the server"
	case errors.Is(err, unix.ECONNREFUSED):
		return "refused"
	case errors.Is(err, unix.ETIMEDOUT):
		return "timed out"
	}
	return err.Error()
}
