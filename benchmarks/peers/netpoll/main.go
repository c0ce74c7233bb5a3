//go:build linux && (amd64 || arm64)

// Netpoll is github.com/cloudwego/netpoll as a peer.
//
// Its idiom, and why it is the cheapest. One poller, which is also the default
// below 20 processors. It reads into each connection's LinkBuffer, and starts
// the request handler on a goroutine of its pool where none runs for that
// connection. The handler uses the nocopy Reader and Writer, as its guide
// recommends: all complete frames that came together are one Next, one
// WriteBinary and one Flush; above 4 KiB WriteBinary refers to what was read
// instead of copying it. A handler has to use up what there is, so one that
// finds part of a frame waits for the rest in Peek.
//
// Idle timeout: netpoll's own (WithIdleTimeout) is TCP keepalive, which asks the
// peer's kernel and not the peer; option -keepalive has it. A peer that is
// silent is found by a timer a connection, which only compares times and is set
// again when it fires: a request costs a store. SetReadTimeout, the other
// candidate, bounds the wait for the rest of a frame, and would hold a goroutine
// a connection if it were to bound the wait for the next one.
//
// Room and broadcast: mux.ShardQueue, netpoll's own way to write to one
// connection from several goroutines. It gathers what comes together and
// flushes once. Writer alone is not safe for that.
//
// Known: nothing can be written to a peer that has ended its stream, not even the
// answer to what it had sent before (v0.7.2, Flush fails once the poller has seen
// the end), so such a peer may miss it.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/cloudwego/netpoll"
	"github.com/cloudwego/netpoll/mux"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/hub"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/wire"
)

type server struct {
	control.Options
	keepalive bool
	start     time.Time
	hub       *hub.Hub[*mux.ShardQueue]

	open, closed, verdicts atomic.Int64
}

// session is what a connection carries, as the context of its requests, where
// it is more than an echo.
type session struct {
	context.Context
	member *hub.Member[*mux.ShardQueue]
	timer  *time.Timer
	heard  atomic.Int64 // since server.start
}

// watched says that silence ends a connection here, and not in the kernel.
func (s *server) watched() bool { return s.Idle > 0 && !s.keepalive }

func (s *server) prepare(c netpoll.Connection) context.Context {
	s.open.Add(1)
	state := &session{Context: context.Background()}
	_ = c.AddCloseCallback(func(netpoll.Connection) error {
		if state.timer != nil {
			state.timer.Stop()
		}
		if state.member != nil {
			s.hub.Leave(state.member)
		}
		s.open.Add(-1)
		s.closed.Add(1)
		return nil
	})
	if s.Work != control.Echo {
		state.member = &hub.Member[*mux.ShardQueue]{Conn: mux.NewShardQueue(mux.ShardSize, c)}
		s.hub.Enter(state.member)
	}
	if s.watched() {
		s.hear(state)
		state.timer = time.AfterFunc(s.Idle, func() { s.look(c, state) })
	}
	return state
}

func (s *server) hear(state *session) { state.heard.Store(int64(time.Since(s.start))) }

// look ends a connection that was silent for as long as it may be, or comes
// back when that can be.
func (s *server) look(c netpoll.Connection, state *session) {
	left := s.Idle - (time.Since(s.start) - time.Duration(state.heard.Load()))
	if left > 0 {
		state.timer.Reset(left)
		return
	}
	s.verdicts.Add(1)
	_ = c.Close()
}

func (s *server) request(ctx context.Context, c netpoll.Connection) error {
	state := ctx.(*session)
	r := c.Reader()
	for {
		have := r.Len()
		if have == 0 {
			return nil
		}
		if s.watched() {
			s.hear(state)
		}
		size := wire.Header
		if have >= wire.Header {
			b, err := r.Peek(wire.Header)
			if err != nil {
				return err
			}
			if size, err = wire.Size(b); err != nil {
				return c.Close()
			}
		}
		if have < size {
			if s.watched() {
				size = have + 1 // whatever comes is a sign of life
			}
			if _, err := r.Peek(size); err != nil {
				// The connection has ended; while there is input that nobody takes,
				// netpoll would call this again and again.
				return c.Close()
			}
			continue
		}
		if size <= netpoll.BinaryInplaceThreshold {
			// More frames may follow. A large one is taken alone, since what lies
			// in several nodes of the LinkBuffer is copied by each look.
			b, err := r.Peek(have)
			if err != nil {
				return err
			}
			if size, err = wire.Whole(b); err != nil {
				return c.Close()
			}
		}
		b, err := r.Next(size)
		if err != nil {
			return err
		}
		if err := s.frames(c, state, b); err != nil {
			return c.Close()
		}
		if err := r.Release(); err != nil {
			return err
		}
	}
}

func (s *server) frames(c netpoll.Connection, state *session, b []byte) error {
	if state.member != nil {
		return s.hub.Frames(state.member, b, send)
	}
	w := c.Writer()
	if _, err := w.WriteBinary(b); err != nil {
		return err
	}
	return w.Flush() // returns when the kernel has it all
}

func send(to *mux.ShardQueue, frames []byte) {
	to.Add(func() (netpoll.Writer, bool) {
		w := netpoll.NewLinkBuffer()
		_, err := w.WriteBinary(frames)
		return w, err != nil
	})
}

func main() {
	keepalive := flag.Bool("keepalive", false, "use netpoll's idle timeout, which is TCP keepalive")
	s := &server{Options: control.Parse(), start: time.Now()}
	s.keepalive = *keepalive
	s.hub = hub.New[*mux.ShardQueue](s.Work, true)
	s.hub.Copy = true // what is queued is written later
	if err := netpoll.Configure(netpoll.Config{PollerNum: 1}); err != nil {
		control.Fail(err)
	}
	l, err := netpoll.CreateListener("tcp4", fmt.Sprintf("127.0.0.1:%d", s.Port))
	if err != nil {
		control.Fail(err)
	}
	options := []netpoll.Option{netpoll.WithOnPrepare(s.prepare)}
	if s.keepalive {
		options = append(options, netpoll.WithIdleTimeout(s.Idle))
	}
	loop, err := netpoll.NewEventLoop(s.request, options...)
	if err != nil {
		control.Fail(err)
	}
	control.Announce(l.Addr().(*net.TCPAddr).Port)
	go func() { control.Fail(fmt.Errorf("netpoll's Serve returned: %w", loop.Serve(l))) }()
	control.Serve(func(r *control.Report) {
		r.Open, r.Closed, r.Verdicts = s.open.Load(), s.closed.Load(), s.verdicts.Load()
	})
}
