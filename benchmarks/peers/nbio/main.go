//go:build linux

// Nbio is github.com/lesismal/nbio as a peer.
//
// Its idiom, and why it is the cheapest. One poller (its documentation calls
// this NPoller), level-triggered and read synchronously (SetLTSyncRead, the
// default), so that OnData runs on the poller's own goroutine, with the
// poller's own 64 KiB buffer for all connections: no goroutine is started and
// nothing is pooled a message. Complete frames are echoed by one Write from
// where they were read; only a split one is copied. Edge-triggered modes save
// nothing here: nbio stops at a short read in either.
//
// Idle timeout: SetReadDeadline at each OnData, as the documentation of
// Conn.SetReadDeadline says; nbio ends the connection itself.
//
// Room and broadcast: Conn.Write to the others, which may be called from
// anywhere and keeps what the kernel does not take.
//
// Known and avoided: Conn.Writev loses what follows the slice that the kernel
// took in part (v1.6.8, Conn.writev). A peer that has ended its stream is closed
// with what is still to be written to it, as with most.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/lesismal/nbio"
	"github.com/lesismal/nbio/logging"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/hub"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/wire"
)

type server struct {
	control.Options
	hub *hub.Hub[*nbio.Conn]

	open, closed, verdicts atomic.Int64
}

type session struct {
	rest   wire.Rest
	member *hub.Member[*nbio.Conn]
}

func (s *server) opened(c *nbio.Conn) {
	s.open.Add(1)
	state := new(session)
	c.SetSession(state)
	if s.Work != control.Echo {
		state.member = &hub.Member[*nbio.Conn]{Conn: c}
		s.hub.Enter(state.member)
	}
	if s.Idle > 0 {
		_ = c.SetReadDeadline(time.Now().Add(s.Idle))
	}
}

func (s *server) ended(c *nbio.Conn, err error) {
	state := c.Session().(*session)
	if state.member != nil {
		s.hub.Leave(state.member)
	}
	if errors.Is(err, nbio.ErrReadTimeout) {
		s.verdicts.Add(1)
	}
	s.open.Add(-1)
	s.closed.Add(1)
}

func (s *server) data(c *nbio.Conn, b []byte) {
	if s.Idle > 0 {
		_ = c.SetReadDeadline(time.Now().Add(s.Idle))
	}
	state := c.Session().(*session)
	first, frames, err := state.rest.Feed(b)
	if err == nil && len(first) > 0 {
		err = s.frames(c, state, first)
		wire.Free(first)
	}
	if err == nil && len(frames) > 0 {
		err = s.frames(c, state, frames)
	}
	if err != nil {
		_ = c.CloseWithError(err)
	}
}

func (s *server) frames(c *nbio.Conn, state *session, b []byte) error {
	if state.member != nil {
		return s.hub.Frames(state.member, b, send)
	}
	_, err := c.Write(b)
	return err
}

// send ends a connection that cannot be written to, which nbio does itself.
func send(to *nbio.Conn, frames []byte) { _, _ = to.Write(frames) }

func main() {
	s := &server{Options: control.Parse()}
	s.hub = hub.New[*nbio.Conn](s.Work, true) // connections enter from the acceptor
	logging.Output = os.Stderr                // standard output is the driver's
	logging.SetLevel(logging.LevelWarn)
	engine := nbio.NewEngine(nbio.Config{
		Network:        "tcp4",
		Addrs:          []string{fmt.Sprintf("127.0.0.1:%d", s.Port)},
		NPoller:        1,
		ReadBufferSize: wire.ReadSize,
		// Without the keepalive that package net sets by default.
		Listen: func(network, addr string) (net.Listener, error) {
			config := net.ListenConfig{KeepAlive: -1}
			return config.Listen(context.Background(), network, addr)
		},
	})
	engine.OnOpen(s.opened)
	engine.OnClose(s.ended)
	engine.OnData(s.data)
	if err := engine.Start(); err != nil {
		control.Fail(err)
	}
	addr, err := net.ResolveTCPAddr("tcp4", engine.Addrs[0])
	if err != nil {
		control.Fail(err)
	}
	control.Announce(addr.Port)
	control.Serve(func(r *control.Report) {
		r.Open, r.Closed, r.Verdicts = s.open.Load(), s.closed.Load(), s.verdicts.Load()
	})
}
