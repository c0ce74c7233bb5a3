//go:build linux

// Gev is github.com/Allenxuxu/gev as a peer.
//
// Its idiom, and why it is the cheapest. One working loop (another one accepts,
// always), and a custom protocol, as its documentation recommends for framing:
// UnPacket returns all complete frames in one piece, in place unless they wrap
// around the ring buffer, and what OnMessage returns is written at once after
// the last of them. Packet takes the answer from the server, because a slice that
// is returned as an interface is an allocation.
//
// Idle timeout: gev.IdleTime, a timer of a timing wheel a connection that only
// compares times. It knows the last activity to the second, rounded down, so
// that it ends a connection up to a second early. OnClose is not told why, so
// this program counts no verdicts.
//
// Room and broadcast: Connection.Send, its only way to write to another
// connection. It is a closure in the queue of the loop; what it sends is copied
// once for all.
//
// Known: it does not set TCP_NODELAY and hands out no descriptor, so this program
// sets it on the listener, from which connections inherit it. While output
// waits for a peer that also sends, the loop spins: the socket is readable, and
// is not read (v0.5.0, Connection.HandleEvent). After events it polls once
// without waiting. Not maintained since 2022.
package main

import (
	"fmt"
	"sync/atomic"

	"github.com/Allenxuxu/gev"
	"github.com/Allenxuxu/ringbuffer"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/hub"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/listener"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/wire"
)

type server struct {
	control.Options
	hub    *hub.Hub[*gev.Connection]
	answer []byte // of the OnMessage that has just returned

	open, closed atomic.Int64
}

// UnPacket returns the complete frames in buffer.
func (s *server) UnPacket(c *gev.Connection, buffer *ringbuffer.RingBuffer) (any, []byte) {
	buffered := buffer.Length()
	if buffered < wire.Header {
		return nil, nil
	}
	// The first header alone: what wraps around is copied to be looked at, which
	// for a large frame would happen once per read.
	n := buffer.PeekUint32()
	if n > wire.MaxPayload {
		_ = c.Close()
		return nil, nil
	}
	if buffered < wire.Header+int(n) {
		return nil, nil
	}
	b, end := buffer.PeekAll()
	if len(end) > 0 {
		space := *c.UserBuffer() // the loop's
		if cap(space) < buffered {
			space = make([]byte, buffered)
			*c.UserBuffer() = space
		}
		b = append(append(space[:0], b...), end...)
	}
	whole, err := wire.Whole(b)
	if err != nil {
		_ = c.Close()
		return nil, nil
	}
	buffer.Retrieve(whole)
	return nil, b[:whole]
}

// Packet returns what is to be written: an answer of OnMessage or what was sent.
func (s *server) Packet(_ *gev.Connection, data any) []byte {
	if frames, sent := data.([]byte); sent {
		return frames
	}
	return s.answer
}

func (s *server) OnConnect(c *gev.Connection) {
	s.open.Add(1)
	if s.Work != control.Echo {
		m := &hub.Member[*gev.Connection]{Conn: c}
		c.SetContext(m)
		s.hub.Enter(m)
	}
}

func (s *server) OnClose(c *gev.Connection) {
	if s.Work != control.Echo {
		s.hub.Leave(c.Context().(*hub.Member[*gev.Connection]))
	}
	s.open.Add(-1)
	s.closed.Add(1)
}

func (s *server) OnMessage(c *gev.Connection, _ any, frames []byte) any {
	if s.Work != control.Echo {
		if err := s.hub.Frames(c.Context().(*hub.Member[*gev.Connection]), frames, send); err != nil {
			_ = c.Close()
		}
		return nil
	}
	s.answer = frames
	return s
}

// send fails for a connection that is closed, whose OnClose follows.
func send(to *gev.Connection, frames []byte) { _ = to.Send(frames) }

func main() {
	s := &server{Options: control.Parse()}
	s.hub = hub.New[*gev.Connection](s.Work, false)
	s.hub.Copy = true // what is sent is written later
	g, err := gev.NewServer(s,
		gev.Network("tcp4"),
		gev.Address(fmt.Sprintf("127.0.0.1:%d", s.Port)),
		gev.NumLoops(1),
		gev.CustomProtocol(s),
		gev.IdleTime(s.Idle))
	if err != nil {
		control.Fail(err)
	}
	port, err := listener.Wait(0)
	if err != nil {
		control.Fail(err)
	}
	control.Announce(port)
	go g.Start()
	control.Serve(func(r *control.Report) {
		r.Open, r.Closed = s.open.Load(), s.closed.Load()
	})
}
