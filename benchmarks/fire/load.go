//go:build linux

package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	frameHeader = 4
	maxPayload  = 64 << 10
	// patience is how long a client waits for an answer or an end that must
	// come, on a machine that has other things to do.
	patience = 60 * time.Second
	// dialPatience allows for connects whose first segments were dropped.
	dialPatience = 20 * time.Second
)

// Kinds of Native's frames, as the load speaks them.
const (
	frameData = 0
	framePing = 1
	framePong = 2
)

// target is a listener of the server.
type target struct{ Network, Addr string }

// loadConfig is what the driver tells a load child.
type loadConfig struct {
	Targets []target
	// Child tells load children apart.
	Child uint64
	Seed  uint64
	// Yield: see yieldToOthers.
	Yield bool
	// Every is how often an untouched client sends.
	Every time.Duration
	// Nevers bounds the tasks that never end.
	Nevers int64
	// SlowRate is how much a slow reader takes, in bytes a second, for SlowFor;
	// then it reads what is there.
	SlowRate int
	SlowFor  time.Duration
}

// loadStats is what a load child answers.
type loadStats struct {
	Live   int64 // clients
	Lives  int64 // that there have been
	Missed int64 // messages that an untouched client sent later than a second after they were due
}

// load runs clients.
type load struct {
	config loadConfig
	link   *link
	lives  atomic.Int64
	live   atomic.Int64
	missed atomic.Int64
	nevers atomic.Int64

	mu       sync.Mutex
	slots    map[string][]chan struct{} // to stop each
	running  sync.WaitGroup
	stopping chan struct{}
	once     sync.Once

	ledgerMu sync.Mutex
	ledger   []life

	starving  starvation
	latencies latencies

	reported  sync.WaitGroup
	reportEnd chan struct{}
}

// life is a client's entry, and when it lived.
type life struct {
	client
	from, to int64
}

// starvation notices when this process does not get to run as it should: it
// sleeps 20 times a second, and has starved in a second in which it woke up less
// than 12 times.
type starvation struct {
	mu      sync.Mutex
	windows []span // the latest
}

const (
	starvingEvery  = 50 * time.Millisecond
	starvingWindow = int64(time.Second)
	starvingLeast  = 12
	starvingKept   = 4096
)

func (s *starvation) watch(end chan struct{}) {
	tick := time.NewTimer(starvingEvery)
	defer tick.Stop()
	from, count := now(), 0
	for {
		select {
		case <-end:
			return
		case <-tick.C:
			tick.Reset(starvingEvery)
		}
		count++
		if at := now(); at-from >= starvingWindow {
			if int64(count)*starvingWindow < starvingLeast*(at-from) {
				s.mu.Lock()
				s.windows = append(s.windows, span{from, at})
				s.windows = s.windows[max(len(s.windows)-starvingKept, 0):]
				s.mu.Unlock()
			}
			from, count = at, 0
		}
	}
}

// during reports whether the process starved in a time that is over for a
// window at least.
func (s *starvation) during(from, to int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.windows, func(w span) bool { return w.from < to && from < w.to })
}

// loadFire is the load child.
func loadFire(k *link) error {
	l := &load{
		link: k, slots: make(map[string][]chan struct{}), stopping: make(chan struct{}),
		reportEnd: make(chan struct{}),
	}
	return k.serve(func(op string, args json.RawMessage) (any, bool, error) {
		result, err := l.do(op, args)
		return result, op == "stop", err
	})
}

// massOrder asks for clients that come and go together.
type massOrder struct {
	Kind string
	N    int
	// For is how long those that connected wait for the others, and Stay how
	// long they stay at least.
	For, Stay time.Duration
	// Parallel bounds how many connect at a time.
	Parallel int
}

// paceOrder asks for clients at a rate.
type paceOrder struct {
	Kind string
	// PerSecond begin to connect in a second, and as many as Parallel are there
	// at a time; those above are left out.
	PerSecond, Parallel int
	For                 time.Duration
}

type paceResult struct{ Begun, LeftOut int }

type massResult struct {
	Connected, Answered int
	Took                time.Duration // until all that connected had their answer
}

func (l *load) do(op string, args json.RawMessage) (any, error) {
	switch op {
	case "start":
		if err := json.Unmarshal(args, &l.config); err != nil {
			return nil, err
		}
		l.reported.Go(l.reportOn)
		l.reported.Go(func() { l.starving.watch(l.reportEnd) })
		if l.config.Yield {
			return nil, yieldToOthers()
		}
		return nil, nil
	case "want":
		var want map[string]int
		if err := json.Unmarshal(args, &want); err != nil {
			return nil, err
		}
		for name, n := range want {
			if err := l.want(name, n); err != nil {
				return nil, err
			}
		}
		return nil, nil
	case "mass":
		var m massOrder
		if err := json.Unmarshal(args, &m); err != nil {
			return nil, err
		}
		return l.mass(m)
	case "pace":
		var p paceOrder
		if err := json.Unmarshal(args, &p); err != nil {
			return nil, err
		}
		return l.pace(p)
	case "stats":
		return loadStats{l.live.Load(), l.lives.Load(), l.missed.Load()}, nil
	case "stop":
		l.stop()
		return loadStats{l.live.Load(), l.lives.Load(), l.missed.Load()}, nil
	}
	return nil, fmt.Errorf("unknown request %q", op)
}

// want makes so many clients of a kind run at a time, each followed by another
// one when it ends.
func (l *load) want(name string, n int) error {
	k := kindByName(name)
	if k == nil {
		return fmt.Errorf("no kind %q", name)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.slots[name]) > n {
		last := len(l.slots[name]) - 1
		close(l.slots[name][last])
		l.slots[name] = l.slots[name][:last]
	}
	for i := len(l.slots[name]); i < n; i++ {
		stop := make(chan struct{})
		l.slots[name] = append(l.slots[name], stop)
		l.running.Go(func() { l.slot(k, i, stop) })
	}
	return nil
}

// stop ends all clients in good order and reports what they saw.
func (l *load) stop() {
	l.once.Do(func() {
		close(l.stopping)
		l.mu.Lock()
		for _, slots := range l.slots {
			for _, stop := range slots {
				close(stop)
			}
		}
		clear(l.slots)
		l.mu.Unlock()
		l.running.Wait()
		close(l.reportEnd)
		l.reported.Wait()
	})
}

// slot runs one client after another.
func (l *load) slot(k *kind, index int, stop chan struct{}) {
	random := rand.New(rand.NewPCG(l.config.Seed, uint64(k.index)<<32|uint64(index)))
	for {
		c := l.newClient(k, index, random, stop)
		if !c.sleep(time.Duration(random.Int64N(int64(2*k.rest + time.Millisecond)))) {
			return
		}
		c.live()
		select {
		case <-stop:
			return
		default:
		}
	}
}

// reportOn tells the driver what clients saw, so that nothing adds up here.
func (l *load) reportOn() {
	for last := false; !last; {
		select {
		case <-l.reportEnd:
			last = true
		case <-time.After(100 * time.Millisecond):
		}
		var r reply
		// An entry waits until it is known whether the client starved.
		known := now() - 2*starvingWindow
		l.ledgerMu.Lock()
		l.ledger = slices.DeleteFunc(l.ledger, func(x life) bool {
			if !last && x.to > known {
				return false
			}
			x.Starved = l.starving.during(x.from, x.to)
			r.Clients = append(r.Clients, x.client)
			return true
		})
		l.ledgerMu.Unlock()
		r.Latency = l.latencies.take(last)
		if r.Clients != nil || r.Latency != nil {
			l.link.send(r)
		}
	}
}

// clientConn is one client and its connection.
type clientConn struct {
	l      *load
	k      *kind
	index  int
	random *rand.Rand
	stop   chan struct{}
	target int // which listener

	conn     net.Conn
	in       []byte // read and not used
	inFrom   int
	own      stream
	casts    stream
	honest   bool // answers heartbeats
	entry    client
	begun    int64
	deadline time.Time       // of reading
	onFrame  func(m message) // for each message, if not nil

	write struct {
		sync.Mutex
		key    uint64
		ended  bool  // its stream has ended
		broken error // what writing failed with
		buf    []byte
	}
}

func (l *load) newClient(k *kind, index int, random *rand.Rand, stop chan struct{}) *clientConn {
	c := &clientConn{
		l: l, k: k, index: index, random: random, stop: stop, honest: true,
		target: random.IntN(len(l.config.Targets)),
		entry:  client{Kind: k.name, Expect: -1}, begun: now(),
	}
	c.write.key = k.key(l.config.Child, uint64(l.lives.Add(1)))
	return c
}

// live is a client's whole life.
func (c *clientConn) live() {
	c.l.live.Add(1)
	defer c.l.live.Add(-1)
	if c.k.prepare != nil {
		c.k.prepare(c)
	}
	if err := c.dial(); err != nil {
		c.entry.End, c.entry.Err = endFailed, err.Error()
	} else {
		c.k.life(c)
		c.conn.Close()
		if c.entry.End == "" {
			c.entry.End = endLeft
		}
	}
	c.report()
}

// report enters what the client saw into the ledger.
func (c *clientConn) report() {
	c.l.ledgerMu.Lock()
	defer c.l.ledgerMu.Unlock()
	c.l.ledger = append(c.l.ledger, life{c.entry, c.begun, now()})
}

// dial connects from an address that tells the kind.
func (c *clientConn) dial() error {
	t := c.l.config.Targets[c.target]
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(c.k.patience, dialPatience))
	defer cancel()
	for {
		d := net.Dialer{KeepAlive: -1}
		if t.Network != "unix" {
			d.LocalAddr = &net.TCPAddr{IP: c.k.source(c.l.config.Child, c.index)}
			d.Control = func(_, _ string, raw syscall.RawConn) (err error) {
				failed := raw.Control(func(fd uintptr) { err = bindLate(fd, c.k.receive) })
				return errors.Join(failed, err)
			}
		}
		conn, err := d.DialContext(ctx, t.Network, t.Addr)
		if err == nil {
			c.conn = conn
			return nil
		}
		// A Unix socket's queue is full: TCP would try again by itself.
		if t.Network != "unix" || !errors.Is(err, syscall.EAGAIN) || !c.sleep(20*time.Millisecond) {
			return err
		}
		if ctx.Err() != nil {
			return err
		}
	}
}

// sleep waits, and returns false if the client is to come to an end.
func (c *clientConn) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.stop:
		return false
	}
}

func (c *clientConn) stopped() bool {
	select {
	case <-c.stop:
		return true
	default:
		return false
	}
}

// frame encodes the next message. The caller holds c.write or is alone.
func (c *clientConn) frame(o order, arg uint32, size int, stamp int64) []byte {
	m := message{sender: c.write.key, number: c.entry.Sent, stamp: stamp, order: o, arg: arg, size: size}
	m.size = min(max(size, messageHeader), maxMessage)
	c.write.buf = binary.BigEndian.AppendUint32(c.write.buf[:0], uint32(m.size)<<8|frameData)
	c.write.buf = m.append(c.write.buf)
	return c.write.buf
}

// send sends one message whole.
func (c *clientConn) send(o order, arg uint32, size int, stamp int64) error {
	c.write.Lock()
	defer c.write.Unlock()
	err := c.put(c.frame(o, arg, size, stamp))
	if err == nil {
		c.entry.Sent++
	}
	return err
}

// put writes bytes. The caller holds c.write.
func (c *clientConn) put(b []byte) error {
	switch {
	case c.write.broken != nil:
		return c.write.broken
	case c.write.ended:
		return net.ErrClosed // heartbeats go without an answer from now on
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := c.conn.Write(b); err != nil {
		c.write.broken = err
		// It may be that part of a message is out: the server may have it whole.
		c.entry.Sent++
		return err
	}
	return nil
}

// raw writes bytes that are no message.
func (c *clientConn) raw(b []byte) error {
	c.write.Lock()
	defer c.write.Unlock()
	before := c.entry.Sent
	err := c.put(b)
	c.entry.Sent = before
	return err
}

// errProblem ends a life in which something was wrong.
var errProblem = errors.New("what was received is wrong")

// receive reads until the next message, no longer than until deadline. What
// was read of a frame then stays for the next call.
func (c *clientConn) receive(deadline time.Time) (m message, err error) {
	// Setting it costs as much as reading: one that is a little early will do.
	if d := deadline.Sub(c.deadline); d < 0 || d > 100*time.Millisecond {
		c.deadline = deadline
		_ = c.conn.SetReadDeadline(deadline)
	}
	for {
		m, ok, err := c.parse()
		if ok || err != nil {
			return m, err
		}
		if err := c.fill(16 << 10); err != nil {
			return m, err
		}
	}
}

// fill reads once, at most limit bytes.
func (c *clientConn) fill(limit int) error {
	if c.inFrom > 0 {
		c.in = append(c.in[:0], c.in[c.inFrom:]...)
		c.inFrom = 0
	}
	if cap(c.in)-len(c.in) < 512 {
		c.in = append(make([]byte, 0, max(2*cap(c.in), 1024)), c.in...)
	}
	n, err := c.conn.Read(c.in[len(c.in):min(cap(c.in), len(c.in)+limit)])
	c.in = c.in[:len(c.in)+n]
	if n > 0 {
		return nil
	}
	return err
}

// parse takes frames out of what was read, up to the next message. Heartbeats
// are answered, or not, on the way.
func (c *clientConn) parse() (m message, ok bool, err error) {
	for {
		b := c.in[c.inFrom:]
		if len(b) < frameHeader {
			return m, false, nil
		}
		head := binary.BigEndian.Uint32(b)
		size := int(head >> 8)
		if size > maxPayload {
			return m, false, c.problem("a frame of %d bytes", size)
		}
		if len(b) < frameHeader+size {
			return m, false, nil
		}
		payload := b[frameHeader : frameHeader+size]
		c.inFrom += frameHeader + size
		switch head & 0xff {
		case framePing:
			if c.honest {
				pong := binary.BigEndian.AppendUint32(make([]byte, 0, 16), uint32(size)<<8|framePong)
				_ = c.raw(append(pong, payload...))
			}
		case frameData:
			m, err := decode(payload)
			if err != nil {
				return m, false, c.problem("%v", err)
			}
			if m.sender == castSender {
				err = c.casts.receive(m, false)
				c.entry.Cast = c.casts.count
			} else {
				err = c.own.receive(m, true)
				c.entry.ID, c.entry.Got = c.own.sender, c.own.count
			}
			if err != nil {
				return m, false, c.problem("%v", err)
			}
			if c.onFrame != nil {
				c.onFrame(m)
			}
			return m, true, nil
		}
	}
}

func (c *clientConn) problem(format string, args ...any) error {
	if c.entry.Problem == "" {
		c.entry.Problem = fmt.Sprintf(format, args...)
	}
	return errProblem
}

// await reads until so many messages of the connection have come.
func (c *clientConn) await(n uint32) error {
	deadline := time.Now().Add(patience)
	for c.entry.Got < n {
		if _, err := c.receive(deadline); err != nil {
			c.ended(err)
			return err
		}
	}
	return nil
}

// watch reads for so long, or until the client is to come to an end.
func (c *clientConn) watch(d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end) && !c.stopped(); {
		_, err := c.receive(time.Now().Add(min(time.Until(end), 200*time.Millisecond)))
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			c.ended(err)
			return err
		}
	}
	return nil
}

// ended notes how the connection ended.
func (c *clientConn) ended(err error) {
	if c.entry.End != "" {
		return
	}
	c.write.Lock()
	broken := c.write.broken
	c.write.Unlock()
	switch {
	case errors.Is(err, io.EOF) && broken == nil:
		c.entry.End = endOfStream
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		// A write that failed took the error with it, and the read after it
		// saw nothing but the end.
		c.entry.End = endReset
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.entry.End, c.entry.Err = endStuck, err.Error()
	default:
		c.entry.End, c.entry.Err = endLeft, err.Error()
	}
}

// drain reads until the server ends the connection.
func (c *clientConn) drain() {
	deadline := time.Now().Add(patience)
	for c.entry.End == "" {
		if _, err := c.receive(deadline); err != nil {
			c.ended(err)
		}
	}
}

// finish ends the client's stream, and reads what is still to come.
func (c *clientConn) finish() {
	c.endStream()
	c.drain()
}

func (c *clientConn) endStream() {
	c.write.Lock()
	defer c.write.Unlock()
	c.write.ended = true
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// reset ends the connection with RST.
func (c *clientConn) reset() {
	if t, ok := c.conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	c.conn.Close()
}

// mass runs clients that connect together, wait for each other and leave
// together.
func (l *load) mass(m massOrder) (r massResult, err error) {
	k := kindByName(m.Kind)
	if k == nil {
		return r, fmt.Errorf("no kind %q", m.Kind)
	}
	var connected, answered atomic.Int64
	begun := now()
	parallel := make(chan struct{}, max(m.Parallel, 1))
	leave := make(chan struct{})
	var all, arriving sync.WaitGroup
	for i := range m.N {
		select {
		case parallel <- struct{}{}:
		case <-l.stopping:
		}
		random := rand.New(rand.NewPCG(l.config.Seed^uint64(begun), uint64(i)))
		c := l.newClient(k, i, random, l.stopping)
		arriving.Add(1)
		all.Go(func() {
			l.live.Add(1)
			defer l.live.Add(-1)
			defer c.report()
			err := c.dial()
			<-parallel
			if err != nil {
				arriving.Done()
				c.entry.End, c.entry.Err = endFailed, err.Error()
				return
			}
			defer c.conn.Close()
			connected.Add(1)
			c.massLife(leave, func() {
				answered.Add(1)
				arriving.Done()
			}, arriving.Done)
		})
	}
	arrived := make(chan struct{})
	go func() {
		arriving.Wait()
		close(arrived)
	}()
	select {
	case <-arrived:
		r.Took = time.Duration(now() - begun)
		select {
		case <-time.After(m.Stay - r.Took):
		case <-l.stopping:
		}
	case <-time.After(m.For):
	case <-l.stopping:
	}
	r.Connected, r.Answered = int(connected.Load()), int(answered.Load())
	close(leave)
	all.Wait()
	<-arrived
	return r, nil
}

// pace runs clients at a rate, whatever becomes of them.
func (l *load) pace(p paceOrder) (r paceResult, err error) {
	k := kindByName(p.Kind)
	if k == nil {
		return r, fmt.Errorf("no kind %q", p.Kind)
	}
	var all sync.WaitGroup
	parallel := make(chan struct{}, max(p.Parallel, 1))
	begun := now()
	for i := 0; now() < begun+int64(p.For); i++ {
		due := begun + int64(i)*int64(time.Second)/int64(p.PerSecond)
		if wait := time.Duration(due - now()); wait > time.Millisecond {
			time.Sleep(wait)
		}
		select {
		case <-l.stopping:
			all.Wait()
			return r, nil
		case parallel <- struct{}{}:
			r.Begun++
			c := l.newClient(k, i, rand.New(rand.NewPCG(l.config.Seed, uint64(i))), l.stopping)
			all.Go(func() {
				c.live()
				<-parallel
			})
		default:
			r.LeftOut++
		}
	}
	all.Wait()
	return r, nil
}

// massLife asks once, waits until all are to leave, and leaves in one of three
// ways.
func (c *clientConn) massLife(leave chan struct{}, answered, not func()) {
	err := c.send(orderEcho, messageHeader, messageHeader, now())
	due := uint32(1)
	if c.l.config.greeted() {
		due++
	}
	waiting := true
	for err == nil {
		_, err = c.receive(time.Now().Add(200 * time.Millisecond))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		}
		if waiting && c.entry.Got >= due {
			waiting = false
			answered()
		}
		select {
		case <-leave:
			err = errLeave
		default:
		}
	}
	if waiting {
		not()
	}
	if !errors.Is(err, errLeave) {
		c.ended(err)
		return
	}
	switch c.random.IntN(3) {
	case 0:
		c.finish()
	case 1:
		c.reset()
		c.entry.End = endLeft
	default:
		c.entry.End = endLeft
	}
}

var errLeave = errors.New("all leave")

// greeted: every server greets; see serverConfig.Greet.
func (loadConfig) greeted() bool { return true }
