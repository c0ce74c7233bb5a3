package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine/internal/poll"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/timingwheel"
)

// Conn is one connection. Its methods may be called from any goroutine, with
// any lock held: none runs a callback or waits for one. After Handler.Close
// they do nothing and touch no descriptor.
type Conn struct {
	// The fields stand by cache lines of 64 bytes. An event needs the second and
	// the third, a timer the first and the second, and the fourth is for the
	// application. Who may touch them is said of each group.

	// Owned by the loop.
	timer timingwheel.Timer // liveness; in later phases, the phase's deadline
	extra *extra            // what few connections need; nil: nothing
	heart heartbeat.State   // up to and with the beginning of the second line

	in      *inbox   // the beginning of a frame; nil: none
	backlog *backlog // what the kernel did not take yet; nil: nothing
	fd      int32
	phase   phase
	eof     bool // the peer has ended its stream
	hard    bool // ends with RST
	blocked bool // the kernel has no room to write
	writing bool // the poller reports room to write
	paused  bool // the poller does not report arriving data
	hungry  bool // a letter is under way that makes the loop read it
	greeted bool // a whole frame has come

	// Atomic.
	state atomic.Uint32

	// Set once, before any callback.
	profile *profile
	loop    *Loop
	codec   codec.Codec

	// Owned by the loop.
	ending *ending // nil: it goes on

	// Under mu.
	mu      sync.Mutex
	pending outbufRing // sent since the last flush
	queued  int32      // bytes in pending and backlog
	held    int32      // of them, what counts towards Limits.Budget
	starved bool       // Send returned ErrBacklog since the last Writable

	// Owned by the loop again, and here because here is room.

	// large is the size class of its latest frame that did not fit half of the loop's
	// buffer, and one more; 0: the latest was smaller.
	large uint8
	// answersDue is when the next answer to a ping would be due if they came at
	// the rate that is answered, in ms, modulo 2^32.
	answersDue uint32

	// Atomic.
	work atomic.Pointer[workQueue] // what Do was given; nil: nothing ever

	// Under mu.
	value any

	// Set once, before any callback.
	id     ID
	remote netip.AddrPort
	since  int64 // when it was opened, ns
}

// extra is what few connections need at a time. The loop owns it.
type extra struct {
	guards guards
	dial   *dial           // it is being established
	groups []membership    // it is a member of
	plan   *heartbeat.Plan // its own, if the connection is planned
	pinned bool            // by SetLiveness
	idle   *idleWatch      // what is left of its idle limits; nil: they are the plan's
	// pausedAt is up to when the time for which nothing was read is taken out
	// of what its liveness sees.
	pausedAt int64
	// frameLeft and firstLeft are how long, after a pause, the frame may still
	// take that was begun before it, and the first frame. 0: a FrameTimeout, and
	// for ever.
	frameLeft, firstLeft int64
}

// more returns c's extra, which it makes if there is none.
func (c *Conn) more() *extra {
	if c.extra == nil {
		c.extra = new(extra)
	}
	return c.extra
}

// phase is where a connection stands in its life.
type phase uint8

const (
	connecting phase = iota
	open
	flushing  // Close was called: delivering what was sent before
	lingering // our end of stream is sent: waiting for the peer's
	gone      // the descriptor is freed
)

// Bits of Conn.state.
const (
	// scheduled: the loop will settle the connection, or is serving its event;
	// who sends need not wake it.
	scheduled = 1 << iota
	// opened: Handler.Open was called and Handler.Close was not.
	opened
	// closing: nothing more is accepted for sending, no Message is delivered.
	closing
	// aborted: Abort was called.
	aborted
	// pausedByApp: Pause was called, and not yet Resume.
	pausedByApp
	// pausedByWork: its work queue is full.
	pausedByWork
	// identified: Identify was called.
	identified
	// pingPlaced: its liveness timer has a place in a slot of the pacer's.
	pingPlaced
	// planned: its liveness goes by a plan of its own.
	planned
)

// newConn enters a descriptor into the table. It returns nil, and has given
// everything back, if there is no place for a number that high or the codec
// fails.
func (l *Loop) newConn(fd int, remote netip.AddrPort, p *profile) *Conn {
	if fd >= maxSlots {
		l.core.report(slog.LevelError, "descriptor number out of range", "fd", fd)
		_ = l.core.kernel.Close(fd)
		l.leave(remote)
		return nil
	}
	c := &Conn{loop: l, profile: p, id: newID(fd), remote: remote, since: l.now, fd: int32(fd)}
	l.core.conns.put(fd, c)
	l.call(c, func() { c.codec = p.codec.PerConn() })
	if c.ending != nil {
		l.finish(c)
		return nil
	}
	return c
}

// discard takes back newConn.
func (l *Loop) discard(c *Conn) {
	c.phase = gone
	l.core.conns.put(int(c.fd), nil)
	_ = l.core.kernel.Close(int(c.fd))
	l.leave(c.remote)
}

// leave gives back a connection's place in the loop's load and under the
// limits of admission.
func (l *Loop) leave(remote netip.AddrPort) {
	l.core.admission.leave(remote)
	l.load.Add(-1)
	l.core.unreserve()
	l.noteEmpty()
}

// enter opens an established connection.
func (l *Loop) enter(c *Conn) {
	c.phase = open
	c.since = l.now
	l.heard = l.beat
	c.state.Or(scheduled | opened)
	l.stats.opened.Add(1)
	plan := c.profile.plan
	c.heart.Start(plan, l.beat, l.core.kernel.Random())
	action, next := c.heart.Poll(plan, l.beat)
	if l.pacer.width > 0 {
		next, _ = c.pace(plan, next, false)
	}
	c.timer = l.arm(l.beatTick(next), uint32(c.fd))
	if d := l.core.admission.FirstFrame; d > 0 {
		c.guard(guardFirstFrame, d)
	}
	if h := c.profile.handler.Open; h != nil {
		l.call(c, func() {
			if err := h(c); err != nil {
				c.kill(Local, err)
			}
		})
	}
	if action == heartbeat.Ping && c.ending == nil {
		l.call(c, c.ping)
	}
	if l.draining {
		c.beginDrain(Shutdown, nil)
	}
	l.finish(c)
}

// ID returns the connection's name, which no other ever has.
func (c *Conn) ID() ID { return c.id }

// Loop returns the loop that owns the connection.
func (c *Conn) Loop() *Loop { return c.loop }

// RemoteAddr returns the peer's address; the zero AddrPort for a Unix socket.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.remote }

// LocalAddr returns the address of our end; the zero AddrPort for a Unix socket
// and once the connection is closed.
func (c *Conn) LocalAddr() netip.AddrPort {
	c.mu.Lock()
	defer c.mu.Unlock() // the descriptor is not freed meanwhile
	if c.state.Load()&opened == 0 {
		return netip.AddrPort{}
	}
	return c.loop.core.kernel.Local(int(c.fd))
}

// Set stores a value of the application's with the connection.
func (c *Conn) Set(value any) {
	c.mu.Lock()
	c.value = value
	c.mu.Unlock()
}

// Get returns what Set stored last.
func (c *Conn) Get() any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value
}

// Send queues a data frame with a copy of payload. It never blocks. What is
// sent within one callback, to whichever connection, leaves in one write per
// connection.
//
// The error is ErrClosed (which wraps net.ErrClosed) once the connection is
// closing, ErrBacklog at the high watermark, or the codec's. Then the message
// was not taken. A message that was taken is delivered in order, or counted in
// the Evidence of the close: Unsent, or within Unacked.
func (c *Conn) Send(payload []byte) error { return c.SendFrame(codec.Data, payload) }

// SendFrame is Send for a frame of any kind but Ping and Pong, which belong to
// the engine.
func (c *Conn) SendFrame(kind codec.Kind, payload []byte) error {
	if kind == codec.Ping || kind == codec.Pong {
		return errors.New("engine: heartbeats are the engine's to send")
	}
	if err := c.enqueue(kind, payload); err != nil {
		return err
	}
	c.schedule()
	return nil
}

// enqueue encodes a frame into the pending output.
func (c *Conn) enqueue(kind codec.Kind, payload []byte) (err error) {
	if len(payload) > maxHigh {
		return fmt.Errorf("engine: message of %d bytes: %w", len(payload), codec.ErrTooLarge)
	}
	c.mu.Lock()
	defer c.mu.Unlock() // even if an application's codec panics
	if err := c.admit(c.loop.core.limits.Backlog.High); err != nil {
		return err
	}
	var p *outbuf
	large := len(payload) >= largeMessage
	if large {
		p = getLarge(len(payload) + maxFraming)
	} else {
		p = c.pending.writable()
	}
	b, err := c.codec.Append(p.b, kind, payload)
	if err != nil {
		if large {
			p.release()
		}
		return err
	}
	size := len(b) - len(p.b)
	p.add(b, message)
	if large {
		c.pending.append(p)
	}
	c.queue(size, size)
	return nil
}

// admit tells whether one more message may be sent while the backlog is below
// a limit. The caller holds mu.
func (c *Conn) admit(limit int) error {
	if c.state.Load()&closing != 0 {
		return ErrClosed
	}
	if int(c.queued) >= limit || c.held > 0 && c.loop.core.held.Load() >= c.loop.core.limits.Budget {
		c.starved = true
		return ErrBacklog
	}
	return nil
}

// queue counts a message of size bytes that was entered into pending, and the
// memory it costs if it has to wait. The caller holds mu.
func (c *Conn) queue(size, cost int) {
	c.queued += int32(size)
	if c.held > 0 {
		c.held += int32(cost)
		c.loop.core.held.Add(int64(cost))
	}
}

// SendOwned is Send without the copy, for large payloads: the payload belongs
// to the engine until release is called, and must not be changed. release,
// which may be nil, is called once on the connection's loop, when the kernel
// has taken the message or the connection has ended. It is not called, and the
// payload stays the caller's, if SendOwned returns an error.
//
// Codecs in whose frames something follows the payload, or that have a say in
// it, cost a copy nonetheless (see codec.Prefixer).
func (c *Conn) SendOwned(payload []byte, release func()) error {
	if len(payload) > maxHigh {
		return fmt.Errorf("engine: message of %d bytes: %w", len(payload), codec.ErrTooLarge)
	}
	if err := c.enqueueOwned(payload, release); err != nil {
		return err
	}
	c.schedule()
	return nil
}

func (c *Conn) enqueueOwned(payload []byte, release func()) error {
	c.mu.Lock()
	defer c.mu.Unlock() // even if an application's codec panics
	if err := c.admit(c.loop.core.limits.Backlog.High); err != nil {
		return err
	}
	lent := &loan{done: func() {
		if release != nil {
			c.loop.later(release)
		}
	}}
	lent.refs.Store(1)
	if prefixer, ok := c.codec.(codec.Prefixer); ok && len(payload) > 0 {
		p := c.pending.writable()
		if b, err := prefixer.AppendPrefix(p.b, codec.Data, payload); err == nil {
			size := len(b) - len(p.b) + len(payload)
			p.b = b
			own := getLent(payload, lent)
			own.continues = true
			c.pending.append(own)
			c.queue(size, size)
			return nil
		}
	}
	b, err := c.codec.Append(nil, codec.Data, payload)
	if err != nil {
		return err
	}
	c.pending.append(getLent(b, lent))
	c.queue(len(b), len(b))
	return nil
}

// schedule makes the loop settle the connection, unless it will anyway.
func (c *Conn) schedule() {
	if c.state.Load()&scheduled == 0 && c.state.Or(scheduled)&scheduled == 0 {
		c.loop.mail.post(letter{c: c})
	}
}

// Close ends the connection gracefully: what was sent before is delivered, our
// end of stream follows, and the descriptor is freed once the peer has ended
// its own, at latest after Limits.Linger, when it is reset. No further Message
// is delivered. The reason is Local. It returns ErrClosed if the connection was
// closing already.
func (c *Conn) Close() error { return c.ask(closing) }

// Abort ends the connection at once with RST. What the peer had not read may
// be lost on both sides. The reason is Local. It returns ErrClosed if the
// connection was aborted or closed already; one that is still delivering after
// Close can be aborted.
func (c *Conn) Abort() error { return c.ask(closing | aborted) }

func (c *Conn) ask(bits uint32) error {
	c.mu.Lock()
	old := c.state.Or(bits)
	c.mu.Unlock()
	if old&bits == bits || old&opened == 0 {
		return ErrClosed
	}
	c.schedule()
	return nil
}

// Post runs f on the connection's loop, in the order of posting and sending.
// A panic in f closes the connection. It returns ErrClosed, and f does not run,
// if the connection is closed; f does run if it is closed in between, so that
// what f holds can be released.
func (c *Conn) Post(f func()) error {
	if c.state.Load()&opened == 0 || !c.loop.mail.post(letter{c: c, f: f}) {
		return ErrClosed
	}
	return nil
}

// Info is a connection's condition.
type Info struct {
	Age       time.Duration // since it was opened
	LastRead  time.Duration // since anything was read
	LastWrite time.Duration // since the kernel took anything
	Missed    int           // queries without an answer, in a row
	RTT       time.Duration // smoothed, of our queries; 0: none was measured
	Backlog   int           // bytes that wait for the kernel
}

// Info returns the connection's condition. Call it on the loop: in a callback
// of this connection, or in a function that was posted to it.
func (c *Conn) Info() Info {
	l := c.loop
	c.mu.Lock()
	backlog := int(c.queued)
	c.mu.Unlock()
	return Info{
		Age:       time.Duration(l.now - c.since),
		LastRead:  time.Duration(l.beat - c.heart.LastRead()),
		LastWrite: time.Duration(l.beat - c.heart.LastWrite()),
		Missed:    c.heart.Missed(),
		RTT:       c.heart.RTT(),
		Backlog:   backlog,
	}
}

// handle serves an event's input. Output is settled afterwards.
func (c *Conn) handle(ev poll.Events) {
	if ev&(poll.Writable|poll.Hangup) != 0 {
		c.blocked = false
	}
	switch {
	case c.phase == gone, c.ending != nil && c.ending.now: // or about to go
	case c.phase == connecting:
		c.established()
	case c.paused && c.ending == nil:
		if ev&poll.Hangup != 0 {
			c.lookForReset()
		}
	case ev&(poll.Readable|poll.Hangup) != 0 && !c.eof:
		c.readInput(ev&poll.Hangup != 0)
	}
}
