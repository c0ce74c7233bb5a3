//go:build unix

// Gnet is gnet.Run as a peer: one event loop, level-triggered, in the idiom its
// documentation recommends. It is built twice, as it comes and with its tags
// poll_opt and gc_opt (peer gnet-opt).
//
// Why it is the cheapest: complete frames are looked at in place (Peek) and
// answered by one Write straight from there, on the loop; nothing is copied but
// what was split. The edge-triggered mode reads until there is nothing left,
// which is one system call more an event.
//
// Idle timeout: gnet has none (its SetReadDeadline returns ErrUnsupportedOp), and
// its documentation has OnTick for what is periodic. A tick is an eighth of the
// timeout; a message stores the number of the last tick, and OnTick, which runs
// on a goroutine of its own, looks through all connections and closes those that
// are overdue. A time.Timer per connection costs a Reset per message instead.
//
// Room and broadcast: Write to the others, which may be called for any
// connection of the same loop. AsyncWrite, for other goroutines and loops, would
// copy, post and write each message by itself.
//
// Known: an error of accept such as EMFILE ends the whole engine. Output that a
// peer does not read is kept without bound.
package main

import (
	"fmt"
	"log"
	"sync"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"
	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/hub"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/wire"
)

// ticks is how many ticks the idle timeout has. A connection is ended between
// that many and one more.
const ticks = 8

type server struct {
	gnet.BuiltinEventEngine
	control.Options
	hub *hub.Hub[gnet.Conn]

	now atomic.Int64 // in ticks

	mu       sync.Mutex
	sessions []*session // of a server with idle timeout

	open, closed, verdicts atomic.Int64
}

// session is what a connection carries that is more than an echo.
type session struct {
	conn    gnet.Conn
	member  *hub.Member[gnet.Conn]
	heard   atomic.Int64 // in ticks
	at      int          // in server.sessions
	overdue bool         // under server.mu
}

func (s *server) plain() bool { return s.Work == control.Echo && s.Idle == 0 }

func (s *server) OnBoot(eng gnet.Engine) gnet.Action {
	port, err := boundPort(eng)
	if err != nil {
		control.Fail(err)
	}
	control.Announce(port)
	return gnet.None
}

// boundPort asks the socket, because gnet does not tell which port it was given.
func boundPort(eng gnet.Engine) (int, error) {
	fd, err := eng.Dup()
	if err != nil {
		return 0, fmt.Errorf("dup of listener: %w", err)
	}
	defer unix.Close(fd)
	name, err := unix.Getsockname(fd)
	if err != nil {
		return 0, fmt.Errorf("getsockname: %w", err)
	}
	addr, ok := name.(*unix.SockaddrInet4)
	if !ok {
		return 0, fmt.Errorf("listener has address %T", name)
	}
	return addr.Port, nil
}

func (s *server) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	s.open.Add(1)
	if s.plain() {
		return nil, gnet.None
	}
	state := &session{conn: c}
	c.SetContext(state)
	if s.Work != control.Echo {
		state.member = &hub.Member[gnet.Conn]{Conn: c}
		s.hub.Enter(state.member)
	}
	if s.Idle > 0 {
		state.heard.Store(s.now.Load())
		s.mu.Lock()
		state.at = len(s.sessions)
		s.sessions = append(s.sessions, state)
		s.mu.Unlock()
	}
	return nil, gnet.None
}

func (s *server) OnClose(c gnet.Conn, _ error) gnet.Action {
	s.open.Add(-1)
	s.closed.Add(1)
	if s.plain() {
		return gnet.None
	}
	state := c.Context().(*session)
	if state.member != nil {
		s.hub.Leave(state.member)
	}
	if s.Idle > 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		last := len(s.sessions) - 1
		moved := s.sessions[last]
		s.sessions[state.at], moved.at = moved, state.at
		s.sessions[last] = nil
		s.sessions = s.sessions[:last]
		if state.overdue {
			s.verdicts.Add(1)
		}
	}
	return gnet.None
}

func (s *server) OnTick() (time.Duration, gnet.Action) {
	now := s.now.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, state := range s.sessions {
		if now-state.heard.Load() > ticks && !state.overdue {
			state.overdue = true
			_ = state.conn.Close() // posts to the loop
		}
	}
	return s.Idle / ticks, gnet.None
}

func (s *server) OnTraffic(c gnet.Conn) gnet.Action {
	var state *session
	if !s.plain() {
		state = c.Context().(*session)
		if s.Idle > 0 {
			state.heard.Store(s.now.Load())
		}
	}
	buffered := c.InboundBuffered()
	if buffered < wire.Header {
		return gnet.None
	}
	// The first header alone: a Peek of everything copies what was kept of a
	// split frame, which for a large one would happen once per read.
	b, err := c.Peek(wire.Header)
	if err != nil {
		return gnet.Close
	}
	size, err := wire.Size(b)
	if err != nil {
		return gnet.Close
	}
	if buffered < size {
		return gnet.None
	}
	if b, err = c.Peek(buffered); err != nil {
		return gnet.Close
	}
	whole, err := wire.Whole(b) // an empty frame is answered like the others
	if err != nil {
		return gnet.Close
	}
	if state != nil && state.member != nil {
		err = s.hub.Frames(state.member, b[:whole], send)
	} else {
		_, err = c.Write(b[:whole])
	}
	if err != nil {
		return gnet.Close
	}
	_, _ = c.Discard(whole) // never 0, which would mean everything
	return gnet.None
}

// send ends a connection that cannot be written to, which gnet does itself.
func send(to gnet.Conn, frames []byte) { _, _ = to.Write(frames) }

// stderr keeps gnet's messages off standard output, which is the driver's.
type stderr struct{}

func (stderr) Debugf(string, ...any)          {}
func (stderr) Infof(string, ...any)           {}
func (stderr) Warnf(format string, v ...any)  { log.Printf(format, v...) }
func (stderr) Errorf(format string, v ...any) { log.Printf(format, v...) }
func (stderr) Fatalf(format string, v ...any) { log.Fatalf(format, v...) }

func main() {
	s := &server{Options: control.Parse()}
	s.hub = hub.New[gnet.Conn](s.Work, false)
	go func() {
		err := gnet.Run(s, fmt.Sprintf("tcp4://127.0.0.1:%d", s.Port),
			gnet.WithMulticore(false),
			gnet.WithNumEventLoop(1),
			// The loop accepts for itself; without it gnet adds a loop that
			// only accepts.
			gnet.WithReusePort(true),
			gnet.WithTCPNoDelay(gnet.TCPNoDelay),
			gnet.WithReadBufferCap(wire.ReadSize),
			gnet.WithTicker(s.Idle > 0),
			gnet.WithLogger(stderr{}))
		control.Fail(fmt.Errorf("gnet.Run returned: %w", err))
	}()
	control.Serve(func(r *control.Report) {
		r.Open, r.Closed, r.Verdicts = s.open.Load(), s.closed.Load(), s.verdicts.Load()
	})
}
