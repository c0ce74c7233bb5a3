//go:build linux

// Evio is github.com/tidwall/evio as a peer.
//
// Its idiom, and why it is the cheapest. One loop, ReuseInputBuffer, so that
// Data is given the loop's own 64 KiB buffer, and the answer to all complete
// frames returned from where they lie; evio copies it and writes it at the next
// turn of the loop. InputStream, its own helper for split input, copies all that
// follows a split frame too, so what was split is put together here instead.
//
// Idle timeout: there is none. Its documentation offers Tick, which runs on the
// loop, and Conn.Wake, after which Data may return Close. A tick is an eighth of
// the timeout; Data stores the number of the last tick.
//
// Room and broadcast are left out: Conn has no Write, and what Data returns after
// a Wake replaces output that is not written yet (v1.0.8, loopWake), so that
// messages are lost as soon as two come close together.
//
// Known: it does not set TCP_NODELAY and hands out no descriptor, so this program
// sets it on the listener, from which connections inherit it. An error of accept
// other than EAGAIN (EMFILE, say) ends the server without a word. epoll_wait
// wakes up ten times a second. Not maintained since 2020.
package main

import (
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/tidwall/evio"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/listener"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/wire"
)

// ticks is how many ticks the idle timeout has. A connection is ended between
// that many and one more.
const ticks = 8

type server struct {
	control.Options
	sessions []*session // of a server with idle timeout
	now      int64      // in ticks
	out      []byte     // an answer that lies in two places

	open, closed, verdicts atomic.Int64
}

type session struct {
	rest  wire.Rest
	conn  evio.Conn
	heard int64 // in ticks
	at    int   // in server.sessions
}

func (s *server) opened(c evio.Conn) (out []byte, opts evio.Options, action evio.Action) {
	s.open.Add(1)
	state := new(session)
	c.SetContext(state)
	if s.Idle > 0 {
		state.conn, state.heard, state.at = c, s.now, len(s.sessions)
		s.sessions = append(s.sessions, state)
	}
	return nil, evio.Options{ReuseInputBuffer: true}, evio.None
}

func (s *server) ended(c evio.Conn, _ error) evio.Action {
	state := c.Context().(*session)
	state.rest.Drop()
	if s.Idle > 0 {
		last := len(s.sessions) - 1
		moved := s.sessions[last]
		s.sessions[state.at], moved.at = moved, state.at
		s.sessions[last] = nil
		s.sessions = s.sessions[:last]
		if s.overdue(state) {
			s.verdicts.Add(1)
		}
	}
	s.open.Add(-1)
	s.closed.Add(1)
	return evio.None
}

func (s *server) overdue(state *session) bool { return s.now-state.heard > ticks }

func (s *server) data(c evio.Conn, in []byte) (out []byte, action evio.Action) {
	state := c.Context().(*session)
	if in == nil { // woken by tick
		if s.overdue(state) {
			return nil, evio.Close
		}
		return nil, evio.None
	}
	state.heard = s.now
	first, frames, err := state.rest.Feed(in)
	switch {
	case err != nil:
		return nil, evio.Close
	case len(first) == 0:
		return frames, evio.None
	}
	s.out = append(append(s.out[:0], first...), frames...)
	wire.Free(first)
	return s.out, evio.None
}

func (s *server) tick() (delay time.Duration, action evio.Action) {
	s.now++
	for _, state := range s.sessions {
		if s.overdue(state) {
			state.conn.Wake()
		}
	}
	return s.Idle / ticks, evio.None
}

func main() {
	s := &server{Options: control.Parse()}
	if s.Work != control.Echo {
		control.Fail(fmt.Errorf("evio can do no %s: see the head of this program", s.Work))
	}
	events := evio.Events{
		NumLoops: 1,
		Opened:   s.opened,
		Closed:   s.ended,
		Data:     s.data,
		Serving: func(server evio.Server) evio.Action {
			if _, err := listener.Wait(0); err != nil {
				control.Fail(err)
			}
			control.Announce(server.Addrs[0].(*net.TCPAddr).Port)
			return evio.None
		},
	}
	if s.Idle > 0 {
		events.Tick = s.tick
	}
	go func() {
		err := evio.Serve(events, fmt.Sprintf("tcp4://127.0.0.1:%d", s.Port))
		control.Fail(fmt.Errorf("evio.Serve returned: %w", err))
	}()
	control.Serve(func(r *control.Report) {
		r.Open, r.Closed, r.Verdicts = s.open.Load(), s.closed.Load(), s.verdicts.Load()
	})
}
