package generator

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/monotonic"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/transport"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/wire"
)

// state is where a connection is in its life.
type state uint8

const (
	absent     state = iota // not opened, or ended
	connecting              // the transport is not established
	greeting                // the session is not ready
	probing                 // the first heartbeat is not answered
	usable
)

// conn is one connection, or the place of several that have it in turn.
type conn struct {
	transport transport.Transport
	session   wire.Session
	number    uint32
	index     int32
	turn      int32 // grows with each connection that has this place
	state     state
	begun     int64 // when it was dialed, or due to be

	wantWrite bool
	wasUsable bool
	leaving   bool // its end is wanted
	deaf      bool // nothing is read
	mute      bool // nothing is sent

	received uint32 // messages that came back
	written  uint32 // messages that were encoded: received ≤ written ≤ received+queue
	queue    queue
	beatDue  int64 // of the heartbeat that is not answered; 0: none

	control []byte // replies and heartbeats, ahead of messages
	rest    []byte // what the kernel did not take
	in      []byte // the beginning of a frame

	extra int64 // the workload's
}

// queued is how many messages wait to be encoded.
func (c *conn) queued() uint32 { return uint32(c.queue.len()) - (c.written - c.received) }

// errEnd: the server has ended its stream.
var errEnd = io.EOF

// dial begins a connection in a place that is free. due is what its latency
// counts from.
func (g *Generator) dial(c *conn, due int64) error {
	t, err := g.dialer.Dial()
	if err != nil {
		return err
	}
	c.turn++
	*c = conn{
		transport: t, session: g.protocol.Session(c.number), number: c.number, index: c.index, turn: c.turn,
		state: connecting, begun: due, extra: c.extra,
	}
	if err := g.poll.add(t.Descriptor(), c.index, c.turn, unix.EPOLLIN|unix.EPOLLOUT); err != nil {
		c.release(g)
		return err
	}
	return nil
}

// watch sets what a connection waits for.
func (g *Generator) watch(c *conn) {
	events := uint32(unix.EPOLLIN)
	if c.deaf {
		events = unix.EPOLLRDHUP // resets are reported in any case
	}
	if c.wantWrite {
		events |= unix.EPOLLOUT
	}
	if err := g.poll.change(c.transport.Descriptor(), c.index, c.turn, events); err != nil {
		g.fail(err)
	}
}

// serve handles one event.
func (g *Generator) serve(e *unix.EpollEvent) {
	c := &g.conns[e.Fd]
	if c.turn != e.Pad || c.state == absent {
		return // of a connection that is gone
	}
	if c.state == connecting {
		g.establish(c)
		return
	}
	if c.deaf && e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		g.now = monotonic.Now()
		err := errEnd
		if e.Events&unix.EPOLLERR != 0 {
			err = unix.ECONNRESET
		}
		g.lose(c, err)
		return
	}
	if e.Events&^unix.EPOLLOUT != 0 {
		turn := c.turn
		g.read(c)
		if c.turn != turn || c.state == absent {
			return
		}
	}
	if e.Events&unix.EPOLLOUT != 0 || len(c.control) > 0 || c.queued() > 0 {
		g.flush(c)
	}
}

// establish goes on with a connection whose transport may be there.
func (g *Generator) establish(c *conn) {
	err := c.transport.Handshake()
	if errors.Is(err, transport.ErrAgain) {
		return
	}
	g.now = monotonic.Now()
	if err != nil {
		g.lose(c, err)
		return
	}
	g.connect.Record(g.now - c.begun)
	g.watch(c)
	var wait bool
	c.control, wait = c.session.Greet(c.control)
	switch {
	case wait:
		c.state = greeting
	case g.probed:
		c.state = probing
		c.control = c.session.AppendHeartbeat(c.control)
		c.beatDue = g.now
	default:
		g.usable(c)
	}
	if c.state != absent {
		g.flush(c)
	}
}

func (g *Generator) usable(c *conn) {
	c.state = usable
	c.wasUsable = true
	g.open++
	g.counts.Connects++
	g.isReady.Record(g.now - c.begun)
	if g.opener.fatal {
		g.opener.arrived()
	}
	g.work.ready(c)
}

// read reads once, and handles what has come.
func (g *Generator) read(c *conn) {
	var data []byte
	var n int
	var err error
	if held := len(c.in); held > 0 {
		n, err = c.transport.Read(c.in[held:cap(c.in)])
		data = c.in[:held+n]
	} else {
		n, err = c.transport.Read(g.in[:])
		data = g.in[:n]
	}
	g.counts.Reads++
	g.now = monotonic.Now()
	if err != nil {
		if err != transport.ErrAgain {
			g.lose(c, err)
		}
		return
	}
	g.counts.BytesIn += int64(n)
	turn := c.turn
	for len(data) > 0 {
		e, n, need, err := c.session.Next(data)
		if err != nil {
			g.fail(fmt.Errorf("connection %d: the server sent what is no frame: %w", c.number, err))
			return
		}
		if n == 0 {
			g.keep(c, data, need)
			return
		}
		data = data[n:]
		g.handle(c, e)
		if g.failure != nil || c.turn != turn || c.state == absent {
			return
		}
	}
	if len(c.in) > 0 {
		g.spare = append(g.spare, c.in[:0])
		c.in = nil
	}
}

// maxSpare bounds the input buffers that are kept for the next one in need.
const maxSpare = 1024

// keep holds the beginning of a frame of at least need bytes back.
func (g *Generator) keep(c *conn, data []byte, need int) {
	if cap(c.in) >= need {
		c.in = append(c.in[:0], data...) // moves within itself
		return
	}
	var bigger []byte
	if n := len(g.spare); n > 0 && cap(g.spare[n-1]) >= need {
		bigger, g.spare = g.spare[n-1], g.spare[:n-1]
	} else {
		bigger = make([]byte, 0, need+min(need, readSize))
	}
	bigger = append(bigger, data...)
	if cap(c.in) > 0 && len(g.spare) < maxSpare {
		g.spare = append(g.spare, c.in[:0])
	}
	c.in = bigger
}

// handle does what a frame asks for.
func (g *Generator) handle(c *conn, e wire.Event) {
	switch e.Kind {
	case wire.Message:
		if c.state != usable {
			return // a broker may have kept something
		}
		if err := g.work.message(c, e.Payload); err != nil {
			g.fail(fmt.Errorf("connection %d: %w", c.number, err))
		}
	case wire.Answer:
		if c.mute {
			return // nobody waits for it any more
		}
		if c.beatDue == 0 {
			g.fail(fmt.Errorf("connection %d: an answer to a heartbeat that was not sent", c.number))
			return
		}
		if c.state == probing {
			c.beatDue = 0
			g.usable(c)
			return
		}
		g.beater.answered(c)
	case wire.Asked:
		if !c.mute {
			c.control = c.session.Reply(c.control, e)
		}
	case wire.Ready:
		if c.state == greeting {
			g.usable(c)
		}
	}
}

// flush writes what a connection has to say, as long as the kernel takes it.
func (g *Generator) flush(c *conn) {
	if c.mute {
		return
	}
	buf := c.rest
	if len(buf) == 0 {
		buf = g.encode(c)
	}
	for len(buf) > 0 {
		n, err := c.transport.Write(buf)
		g.counts.Writes++
		if err != nil {
			if err != transport.ErrAgain {
				g.lose(c, err)
				return
			}
			n = 0
		}
		g.counts.BytesOut += int64(n)
		if buf = buf[n:]; len(buf) > 0 {
			c.rest = append(c.rest[:0], buf...) // may move within itself
			if !c.wantWrite {
				c.wantWrite = true
				g.watch(c)
			}
			return
		}
		c.rest = nil
		buf = g.encode(c)
	}
	if c.wantWrite {
		c.wantWrite = false
		g.watch(c)
	}
}

// encode returns the next bytes a connection has to send, valid until the next
// call.
func (g *Generator) encode(c *conn) []byte {
	out := g.out[:0]
	if len(c.control) > 0 {
		out = append(out, c.control...)
		c.control = c.control[:0]
	}
	if c.state != usable {
		return out
	}
	for c.queued() > 0 && len(out) < writeSize {
		e := c.queue.at(c.written - c.received)
		var payload []byte
		if g.oneWay {
			payload = g.content.cast(c.number, c.written, e.at, int(e.size))
		} else {
			payload = g.content.echo(c.number, c.written, int(e.size))
		}
		var err error
		if out, err = c.session.AppendMessage(out, payload); err != nil {
			g.fail(fmt.Errorf("message of %d bytes: %w", e.size, err))
			return nil
		}
		c.written++
		if g.oneWay { // it does not come back for the sender to take
			c.queue.pop()
			c.received++
		}
	}
	g.out = out
	return out
}

// enqueue adds a message that is due at that time.
func (g *Generator) enqueue(c *conn, due int64) {
	number := c.received + uint32(c.queue.len())
	c.queue.push(entry{due, uint32(g.sizes.At(g.spec.Seed ^ uint64(c.number)<<32 ^ uint64(number)))})
	g.counts.Sent++
}

// echoed takes the next message of a connection back, and checks every byte.
func (g *Generator) echoed(c *conn, payload []byte) (entry, error) {
	if c.received == c.written {
		return entry{}, fmt.Errorf("a message of %d bytes came that was not sent", len(payload))
	}
	e := c.queue.pop()
	if len(payload) != int(e.size) || !g.content.isEcho(payload, c.number, c.received) {
		return e, fmt.Errorf("message %d came back altered, or another in its place (%d bytes of %d)", c.received, len(payload), e.size)
	}
	c.received++
	return e, nil
}

// lose ends a connection that something else than we has ended.
func (g *Generator) lose(c *conn, err error) {
	if g.phase == opening {
		g.fail(fmt.Errorf("connection %d, before the server had answered on it: %w", c.number, told(err)))
		return
	}
	g.end(c, err)
}

// told makes the end of a stream something to read.
func told(err error) error {
	if errors.Is(err, errEnd) {
		return errors.New("closed by the server")
	}
	return err
}

// end closes a connection; a nil cause is our own doing. The workload is told
// while what was outstanding can still be seen.
func (g *Generator) end(c *conn, err error) {
	if c.state == usable {
		g.open--
	}
	c.release(g)
	c.state = absent
	g.work.ended(c, err)
	if c.state == absent {
		c.queue.clear()
		c.received = c.written
	}
}

// release gives back what a connection holds.
func (c *conn) release(g *Generator) {
	if c.transport != nil {
		_ = c.transport.Close()
		c.transport = nil
	}
	if cap(c.in) > 0 && len(g.spare) < maxSpare {
		g.spare = append(g.spare, c.in[:0])
	}
	c.in, c.rest, c.control = nil, nil, nil
	c.state = absent
}
