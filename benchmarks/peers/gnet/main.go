//go:build unix

// Gnet is gnet.Run as a peer: one event loop, its default level-triggered
// build, in the idiom its documentation recommends. Complete frames are looked
// at in place and answered by one Write; there is no idle timeout and no timer.
package main

import (
	"encoding/binary"
	"fmt"
	"log"
	"sync/atomic"

	"github.com/panjf2000/gnet/v2"
	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
)

const (
	header     = 4
	maxPayload = 1 << 20
	readSize   = 64 << 10
)

type echo struct {
	gnet.BuiltinEventEngine

	open, closed atomic.Int64
}

func (e *echo) OnBoot(eng gnet.Engine) gnet.Action {
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

func (e *echo) OnOpen(gnet.Conn) ([]byte, gnet.Action) {
	e.open.Add(1)
	return nil, gnet.None
}

func (e *echo) OnClose(gnet.Conn, error) gnet.Action {
	e.open.Add(-1)
	e.closed.Add(1)
	return gnet.None
}

func (e *echo) OnTraffic(c gnet.Conn) gnet.Action {
	buffered := c.InboundBuffered()
	if buffered < header {
		return gnet.None
	}
	// The first header alone: a Peek of everything copies what was kept of a
	// split frame, which for a large one would happen once per read.
	b, err := c.Peek(header)
	if err != nil {
		return gnet.Close
	}
	n := binary.BigEndian.Uint32(b)
	if n > maxPayload {
		return gnet.Close
	}
	if buffered < header+int(n) {
		return gnet.None
	}
	if b, err = c.Peek(buffered); err != nil {
		return gnet.Close
	}
	whole := 0 // bytes of complete frames; an empty frame is answered like the others
	for len(b)-whole >= header {
		n := binary.BigEndian.Uint32(b[whole:])
		if n > maxPayload {
			return gnet.Close
		}
		if len(b)-whole < header+int(n) {
			break
		}
		whole += header + int(n)
	}
	if _, err := c.Write(b[:whole]); err != nil {
		return gnet.Close
	}
	_, _ = c.Discard(whole) // never 0, which would mean everything
	return gnet.None
}

// stderr keeps gnet's messages off standard output, which is the driver's.
type stderr struct{}

func (stderr) Debugf(string, ...any)          {}
func (stderr) Infof(string, ...any)           {}
func (stderr) Warnf(format string, v ...any)  { log.Printf(format, v...) }
func (stderr) Errorf(format string, v ...any) { log.Printf(format, v...) }
func (stderr) Fatalf(format string, v ...any) { log.Fatalf(format, v...) }

func main() {
	e := new(echo)
	go func() {
		err := gnet.Run(e, fmt.Sprintf("tcp4://127.0.0.1:%d", control.Port()),
			gnet.WithMulticore(false),
			gnet.WithNumEventLoop(1),
			// The loop accepts for itself; without it gnet adds a loop that
			// only accepts.
			gnet.WithReusePort(true),
			gnet.WithTCPNoDelay(gnet.TCPNoDelay),
			gnet.WithReadBufferCap(readSize),
			gnet.WithLogger(stderr{}))
		control.Fail(fmt.Errorf("gnet.Run returned: %w", err))
	}()
	control.Serve(func(r *control.Report) {
		r.Open, r.Closed = e.open.Load(), e.closed.Load()
	})
}
