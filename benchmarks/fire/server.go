//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// serverConfig is what the driver tells a server child.
type serverConfig struct {
	// Listeners are addresses; the last one's messages are served by workers
	// if Ordered, those of the others on the loop.
	Listeners []string
	Ordered   bool
	Liveness  heartbeat.Config
	Limits    engine.Limits
	PerPrefix int
	Rate      int
	Burst     int
	// FirstFrame and EvictIdle: see engine.Admission.
	FirstFrame, EvictIdle time.Duration
	// CastEvery is how often a broadcast goes to the group; 0: never.
	CastEvery time.Duration
	// Greet: each connection gets a message when it opens.
	Greet bool
	// Kind is that of connections whose address does not tell, before they say
	// anything.
	Kind string
}

// serverStats is what a server child answers.
type serverStats struct {
	Engine     engine.LoopStats // of all loops, but Reasons
	Reasons    map[string]uint64
	Opens      []int64 // connections of each loop
	Work       engine.WorkStats
	Held       int64
	Opened     uint64 // Open callbacks
	Closed     uint64 // Close callbacks
	Heap       int64  // bytes of objects
	Goroutines int
	Owned      int64          // SendOwned that were taken
	OwnedBack  int64          // and released
	Nevers     int64          // tasks that wait for the end
	Casts      uint32         // broadcasts
	CastSkips  uint32         // that the budget left no room for
	Members    int            // of the group
	Logs       map[string]int // what was logged, how often
	Failures   []string       // of it, what must never be
}

// listening is the answer to the start.
type listening struct{ Addrs []string }

// server is the application under fire.
type server struct {
	config serverConfig
	link   *link
	srv    *engine.Server
	served chan error

	plain, ordered engine.Handler
	orderedPort    uint16

	group     *engine.Group
	castMu    sync.Mutex // numbers and broadcasts go together
	casts     uint32
	castSkips uint32
	stopCasts chan struct{}
	hush      sync.Once
	casting   sync.WaitGroup

	released chan struct{} // closed when the tasks that never end may
	release  sync.Once

	opened, closed   atomic.Uint64
	owned, ownedBack atomic.Int64
	nevers           atomic.Int64

	logs *logCounter

	latencies latencies

	ledgerMu sync.Mutex
	ledger   []served
	reported sync.WaitGroup
	stopped  chan struct{}
}

// serveFire is the server child.
func serveFire(l *link) error {
	s := &server{
		link: l, served: make(chan error, 1), released: make(chan struct{}), stopCasts: make(chan struct{}),
		logs: &logCounter{counts: make(map[string]int)}, stopped: make(chan struct{}),
	}
	return l.serve(func(op string, args json.RawMessage) (any, bool, error) {
		result, err := s.do(op, args)
		return result, op == "stop", err
	})
}

func (s *server) do(op string, args json.RawMessage) (any, error) {
	switch op {
	case "start":
		if err := json.Unmarshal(args, &s.config); err != nil {
			return nil, err
		}
		return s.start()
	case "stats":
		return s.stats(), nil
	case "collect":
		// Twice, because what a sync.Pool holds survives one collection.
		runtime.GC()
		runtime.GC()
		debug.FreeOSMemory()
		return s.stats(), nil
	case "sample":
		return sampleMemory()
	case "storm":
		var d time.Duration
		if err := json.Unmarshal(args, &d); err != nil {
			return nil, err
		}
		return collectFor(d), nil
	case "cast":
		var c castOrder
		if err := json.Unmarshal(args, &c); err != nil {
			return nil, err
		}
		return s.castAtRate(c), nil
	case "quiet":
		s.quiet()
		return nil, nil
	case "release":
		s.release.Do(func() { close(s.released) })
		return nil, nil
	case "stop":
		return nil, s.stop()
	}
	return nil, fmt.Errorf("unknown request %q", op)
}

func (s *server) start() (listening, error) {
	s.plain = engine.Handler{Open: s.open, Message: s.message, Writable: s.writable, Close: s.close}
	s.ordered = engine.Ordered(s.plain)
	c := s.config
	config := engine.Config{
		Handler: engine.Handler{
			Open: s.open,
			Message: func(c *engine.Conn, p []byte) {
				s.of(c).Message(c, p)
			},
			Writable: func(c *engine.Conn) { s.of(c).Writable(c) },
			Close:    func(c *engine.Conn, err error) { s.of(c).Close(c, err) },
		},
		Admission: engine.Admission{
			PerPrefix: c.PerPrefix, Rate: c.Rate, Burst: c.Burst, FirstFrame: c.FirstFrame, EvictIdle: c.EvictIdle,
		},
		Limits: c.Limits,
		Logger: slog.New(s.logs),
	}
	for _, addr := range c.Listeners {
		config.Listeners = append(config.Listeners, engine.Listener{
			Addr: addr, Codec: codec.Native{MaxPayload: maxPayload}, Liveness: c.Liveness,
		})
	}
	var err error
	if s.srv, err = engine.Listen(config); err != nil {
		return listening{}, err
	}
	if c.Ordered {
		s.orderedPort = s.srv.Port(len(c.Listeners) - 1)
	}
	s.group = s.srv.Group("members")
	go func() { s.served <- s.srv.Serve(context.Background()) }()
	s.reported.Go(s.reportLedger)
	s.reported.Go(s.watchLag)
	if c.CastEvery > 0 {
		s.casting.Go(s.castOn)
	}
	return listening{s.srv.Addrs()}, nil
}

func (s *server) stop() error {
	s.release.Do(func() { close(s.released) })
	s.quiet()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := s.srv.Shutdown(ctx)
	if served := <-s.served; !errors.Is(served, engine.ErrClosed) {
		err = errors.Join(err, served)
	}
	close(s.stopped)
	s.reported.Wait()
	return err
}

// quiet ends the broadcasts.
func (s *server) quiet() {
	s.hush.Do(func() { close(s.stopCasts) })
	s.casting.Wait()
}

// reportLedger hands what has ended to the driver, so that nothing adds up here.
func (s *server) reportLedger() {
	for last := false; !last; {
		select {
		case <-s.stopped:
			last = true
		case <-time.After(50 * time.Millisecond):
		}
		s.ledgerMu.Lock()
		entries := s.ledger
		s.ledger = nil
		s.ledgerMu.Unlock()
		if lags := s.latencies.take(last); len(entries)+len(lags) > 0 {
			s.link.send(reply{Served: entries, Latency: lags})
		}
	}
}

// What the server measures of itself: how late its timers are, which is the
// machine's doing, and after what time a loop runs what was posted to it, which
// is that and what the loop was at.
const (
	lagOfProcess = "timers of the server's process"
	lagOfLoops   = "posts to the server's loops"
	lagEvery     = 20 * time.Millisecond
)

func (s *server) watchLag() {
	for due := now() + int64(lagEvery); ; due += int64(lagEvery) {
		select {
		case <-s.stopped:
			return
		case <-time.After(time.Duration(due - now())):
		}
		was, at := due, now()
		s.latencies.note(lagOfProcess, was, time.Duration(at-was))
		for _, l := range s.srv.Loops() {
			_ = l.Post(func() { s.latencies.note(lagOfLoops, was, time.Duration(now()-at)) })
		}
		if behind := at - due; behind > int64(time.Second) {
			due += behind // it was stopped: one look at that is enough
		}
	}
}

func (s *server) stats() serverStats {
	es := s.srv.Stats()
	// A Reason can be written as text, but not read back.
	reasons := make(map[string]uint64)
	for r, n := range es.Total.Reasons {
		reasons[r.String()] = n
	}
	es.Total.Reasons = nil
	var opens []int64
	for _, l := range es.Loops {
		opens = append(opens, l.Open)
	}
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	s.castMu.Lock()
	casts, skips := s.casts, s.castSkips
	s.castMu.Unlock()
	counts, failures := s.logs.take()
	return serverStats{
		Engine: es.Total, Reasons: reasons, Opens: opens, Work: es.Work, Held: es.Held,
		Opened: s.opened.Load(), Closed: s.closed.Load(),
		Heap: int64(heap[0].Value.Uint64()), Goroutines: runtime.NumGoroutine(),
		Owned: s.owned.Load(), OwnedBack: s.ownedBack.Load(), Nevers: s.nevers.Load(),
		Casts: casts, CastSkips: skips, Members: s.group.Len(),
		Logs: counts, Failures: failures,
	}
}

// collectFor collects garbage again and again, and makes some.
func collectFor(d time.Duration) (cycles int) {
	var kept [64][]byte
	for end := time.Now().Add(d); time.Now().Before(end); cycles++ {
		for i := range kept {
			kept[i] = make([]byte, 32<<10)
		}
		runtime.GC()
	}
	runtime.KeepAlive(&kept)
	return cycles
}

// conn is what the application keeps of one connection.
type conn struct {
	id      uint64
	handler *engine.Handler

	mu      sync.Mutex // numbers and sending go together
	sent    uint32
	flood   uint32 // messages that are to follow when there is room
	stamp   int64  // of the flood
	joined  bool
	joinAt  uint32
	castLow uint32 // broadcasts of memberships that are over

	// Of the one callback that runs.
	kind    string
	guessed bool
	in      stream
	problem string
}

func (s *server) of(c *engine.Conn) *engine.Handler {
	if x, ok := c.Get().(*conn); ok {
		return x.handler
	}
	return &s.plain
}

func (s *server) open(c *engine.Conn) error {
	s.opened.Add(1)
	x := &conn{id: uint64(c.ID()), kind: kindOf(c.RemoteAddr()), handler: &s.plain}
	if x.kind == "" {
		x.kind, x.guessed = s.config.Kind, true
	}
	if s.orderedPort != 0 && c.LocalAddr().Port() == s.orderedPort {
		x.handler = &s.ordered
	}
	c.Set(x)
	if s.config.Greet {
		s.send(c, x, 0, messageHeader)
	}
	return nil
}

func (s *server) close(c *engine.Conn, err error) {
	x, ok := c.Get().(*conn)
	if !ok {
		x = &conn{id: uint64(c.ID()), kind: kindOf(c.RemoteAddr()), problem: "Close without Open"}
	}
	s.closed.Add(1)
	entry := served{ID: x.id, Kind: x.kind, At: now(), In: x.in.count, Problem: x.problem, Reason: engine.ReasonOf(err).String(), Err: err.Error()}
	if ce, ok := errors.AsType[*engine.CloseError](err); ok {
		entry.Unsent, entry.Unacked = ce.Evidence.Unsent, ce.Evidence.Unacked
		entry.Err = ""
		if ce.Err != nil {
			entry.Err = ce.Err.Error()
		}
	}
	s.castMu.Lock()
	casts := s.casts
	s.castMu.Unlock()
	x.mu.Lock()
	entry.Sent, entry.CastLow = x.sent, x.castLow
	entry.CastHigh = x.castLow
	if x.joined {
		entry.CastHigh += casts - x.joinAt
	}
	x.mu.Unlock()
	s.ledgerMu.Lock()
	s.ledger = append(s.ledger, entry)
	s.ledgerMu.Unlock()
}

func (s *server) message(c *engine.Conn, p []byte) {
	x := c.Get().(*conn)
	m, err := decode(p)
	if err == nil {
		err = x.in.receive(m, true)
		if x.guessed {
			x.kind, x.guessed = kindOfKey(m.sender), false
		}
	}
	if err != nil {
		if !isGarbage(x.kind) && x.problem == "" {
			x.problem = err.Error()
		}
		_ = c.Abort()
		return
	}
	s.obey(c, x, m)
}

// send sends the next message of a connection.
func (s *server) send(c *engine.Conn, x *conn, stamp int64, size int) error {
	b := payloads.Get().(*[]byte)
	defer payloads.Put(b)
	x.mu.Lock()
	defer x.mu.Unlock()
	m := message{sender: x.id, number: x.sent, stamp: stamp, size: size}
	*b = m.append((*b)[:0])
	err := c.Send(*b)
	if err == nil {
		x.sent++
	}
	return err
}

var payloads = sync.Pool{New: func() any { return new([]byte) }}

// sendOwned is send for a payload that is lent.
func (s *server) sendOwned(c *engine.Conn, x *conn, stamp int64, size int) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	m := message{sender: x.id, number: x.sent, stamp: stamp, size: size}
	b := m.append(nil)
	err := c.SendOwned(b, func() {
		clear(b) // it is ours again
		s.ownedBack.Add(1)
	})
	if err == nil {
		x.sent++
		s.owned.Add(1)
	}
	return err
}

// floodOn sends what is left of a flood, as far as there is room.
func (s *server) floodOn(c *engine.Conn, x *conn) {
	for {
		x.mu.Lock()
		left, stamp := x.flood, x.stamp
		x.mu.Unlock()
		if left == 0 {
			return
		}
		send := s.send
		if left%4 == 0 {
			send = s.sendOwned
		}
		err := send(c, x, stamp, 4<<10)
		if errors.Is(err, engine.ErrBacklog) {
			return // Writable goes on
		}
		x.mu.Lock()
		if x.flood--; err != nil {
			x.flood = 0
		}
		x.mu.Unlock()
	}
}

func (s *server) writable(c *engine.Conn) { s.floodOn(c, c.Get().(*conn)) }

// obey does what a message orders. It runs on the loop or on a worker.
func (s *server) obey(c *engine.Conn, x *conn, m message) {
	wait := time.Duration(m.arg) * time.Millisecond
	echo := func() { _ = s.send(c, x, m.stamp, messageHeader) }
	switch m.order {
	case orderNothing:
	case orderEcho:
		_ = s.send(c, x, m.stamp, int(m.arg))
	case orderBurst:
		for i := range m.arg {
			_ = s.send(c, x, m.stamp, messageHeader+int(i*37%1024))
		}
	case orderFlood:
		x.mu.Lock()
		x.flood += m.arg
		x.stamp = m.stamp
		x.mu.Unlock()
		s.floodOn(c, x)
	case orderOwned:
		_ = s.sendOwned(c, x, m.stamp, int(m.arg))
	case orderPost:
		_ = c.Post(echo)
	case orderTask:
		_ = c.Do(func() { time.Sleep(wait); echo() })
	case orderBlock:
		if x.handler == &s.ordered {
			time.Sleep(wait)
			echo()
		} else {
			_ = c.Do(func() { time.Sleep(wait); echo() })
		}
	case orderBlockLoop:
		time.Sleep(wait)
		echo()
	case orderPause:
		echo()
		if c.Pause() == nil {
			time.AfterFunc(wait, func() { _ = c.Resume() })
		}
	case orderJoin:
		s.castMu.Lock()
		if s.group.Add(c) == nil {
			x.mu.Lock()
			x.joined, x.joinAt = true, s.casts
			x.mu.Unlock()
		}
		s.castMu.Unlock()
		echo()
	case orderLeave:
		s.castMu.Lock()
		if s.group.Remove(c) == nil {
			x.mu.Lock()
			if x.joined {
				x.joined = false
				x.castLow += s.casts - x.joinAt
			}
			x.mu.Unlock()
		}
		s.castMu.Unlock()
		_ = c.Post(echo) // after the broadcasts from before
	case orderCast:
		s.broadcast(int(m.arg), 0)
		echo()
	case orderClose:
		echo()
		_ = c.Close()
	case orderAbort:
		echo()
		_ = c.Abort()
	case orderPanic:
		echo()
		panic("as ordered")
	case orderGoexit:
		echo()
		runtime.Goexit()
	case orderPostPanic:
		_ = c.Post(func() { panic("as ordered, in a post") })
		echo()
	case orderTaskPanic:
		echo()
		_ = c.Do(func() { panic("as ordered, in a task") })
	case orderTaskGoexit:
		echo()
		_ = c.Do(runtime.Goexit)
	case orderNever:
		echo()
		_ = c.Do(func() {
			s.nevers.Add(1)
			<-s.released
			s.nevers.Add(-1)
		})
	}
}

// broadcast sends the next broadcast to the group. A stamp of 0 is now.
func (s *server) broadcast(size int, stamp int64) {
	b := payloads.Get().(*[]byte)
	defer payloads.Put(b)
	s.castMu.Lock()
	defer s.castMu.Unlock()
	if stamp == 0 {
		stamp = now()
	}
	m := message{sender: castSender, number: s.casts, stamp: stamp, size: size}
	*b = m.append((*b)[:0])
	if s.group.Broadcast(*b) == nil {
		s.casts++
	} else {
		s.castSkips++
	}
}

// castOn broadcasts small and large messages in turn until the end.
func (s *server) castOn() {
	tick := time.NewTicker(s.config.CastEvery)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-s.stopCasts:
			return
		case <-tick.C:
			s.broadcast([]int{100, 2000}[i%2], 0)
		}
	}
}

// castOrder asks for broadcasts of one size at a rate.
type castOrder struct {
	Rate, Size int
	For        time.Duration
}

// castResult says when the broadcasts were made: of a server that is too slow
// for the rate, some later than they were due.
type castResult struct {
	Casts, Skips uint32
	MaxLate      time.Duration
}

func (s *server) castAtRate(c castOrder) (r castResult) {
	s.castMu.Lock()
	casts, skips := s.casts, s.castSkips
	s.castMu.Unlock()
	begun := now()
	for i := range int64(c.For.Seconds() * float64(c.Rate)) {
		due := begun + i*int64(time.Second)/int64(c.Rate)
		if wait := time.Duration(due - now()); wait > 0 {
			select {
			case <-s.stopCasts:
				return r
			case <-time.After(wait):
			}
		}
		r.MaxLate = max(r.MaxLate, time.Duration(now()-due))
		s.broadcast(c.Size, due)
	}
	s.castMu.Lock()
	defer s.castMu.Unlock()
	r.Casts, r.Skips = s.casts-casts, s.castSkips-skips
	return r
}

// memory is what a server and its sockets occupy.
type memory struct {
	RSS     int64 `json:"rss"`
	Kernel  int64 `json:"kernel"`  // of all its sockets, SO_MEMINFO
	Sockets int   `json:"sockets"` // that were looked at
}

// Indexes into what SO_MEMINFO yields (the kernel's sock_diag.h).
const (
	memRead       = 0 // bytes allocated for what was received
	memWrite      = 2 // for what was handed to the device
	memForward    = 4 // reserved for the socket
	memWriteQueue = 5 // for what is queued to be sent
	memOption     = 6
	memBacklog    = 7
	memInfoCount  = 9
)

// sampleMemory adds up the resident memory of this process and what the kernel
// has allocated for its sockets.
func sampleMemory() (m memory, err error) {
	if m.RSS, err = residentOf("self"); err != nil {
		return m, err
	}
	// Numbers are given away from the lowest on: behind a long gap there are
	// none. Listing them would cost more than asking.
	for fd, missed := 0, 0; missed < 2048; fd++ {
		if kernel, ok := socketMemory(fd); ok {
			m.Kernel += kernel
			m.Sockets++
			missed = 0
		} else {
			missed++
		}
	}
	return m, nil
}

// socketMemory returns what the kernel has allocated for one socket. A number
// that is none, or not any more, is no socket.
func socketMemory(fd int) (bytes int64, ok bool) {
	var info [memInfoCount]uint32
	if !socketOption(fd, unix.SOL_SOCKET, unix.SO_MEMINFO, info[:]) {
		return 0, false
	}
	// What is queued to be sent and what is reserved, and on the way in what
	// was received. What the device has is part of what is queued.
	return int64(info[memRead]) + max(int64(info[memWriteQueue]), int64(info[memWrite])) + int64(info[memForward]) +
		int64(info[memOption]) + int64(info[memBacklog]), true
}

// logCounter counts what the engine logs, by its message.
type logCounter struct {
	mu       sync.Mutex
	counts   map[string]int
	failures []string
}

func (l *logCounter) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}
func (l *logCounter) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *logCounter) WithGroup(string) slog.Handler      { return l }

func (l *logCounter) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[r.Message]++
	// Loops never fail, and nothing panics but what was ordered to.
	failed := strings.Contains(r.Message, "loop failed") || strings.Contains(r.Message, "cannot park") || strings.Contains(r.Message, "cannot resume")
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" && strings.Contains(a.Value.String(), "panic") && !strings.Contains(a.Value.String(), "as ordered") {
			failed = true
		}
		text += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		return true
	})
	if failed && len(l.failures) < maxExamples {
		l.failures = append(l.failures, text)
	}
	return nil
}

func (l *logCounter) take() (map[string]int, []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := make(map[string]int, len(l.counts))
	for k, v := range l.counts {
		counts[k] = v
	}
	return counts, append([]string(nil), l.failures...)
}
