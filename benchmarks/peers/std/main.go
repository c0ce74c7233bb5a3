//go:build linux

// Std is Go's own way as a peer: a goroutine per connection over package net.
//
// Its idiom, and why it is the cheapest. One bufio.Reader of the default 4 KiB
// a connection; complete frames are looked at in place (Peek) and echoed by one
// Write straight from there, so that no bufio.Writer is needed and nothing is
// copied. A frame larger than the reader goes into a buffer of a pool, which
// bufio fills without a copy of its own. The runtime's poller is edge-triggered,
// and its loops are Go's scheduler.
//
// Idle timeout: SetReadDeadline before each read that may block, as package
// net's documentation of Conn says ("an idle timeout can be implemented by
// repeatedly extending the deadline after successful Read or Write calls").
//
// Room and broadcast: a Write may block for as long as its peer does not read,
// so nobody writes for others. What a connection is to get is appended to its
// buffer, and a goroutine that exists only meanwhile writes it, everything
// that came together in one Write. Goroutines that are ready wait for those
// that still append, which makes it cheaper than a Write by each sender.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/hub"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/wire"
)

// backlog is how much may wait for a connection, in bytes. It is above what any
// load keeps under way.
const backlog = 64 << 20

type server struct {
	control.Options
	hub *hub.Hub[*conn]

	open, closed, verdicts atomic.Int64
}

// conn is a connection. What stands under mu is used where others write to it.
type conn struct {
	net.Conn
	server *server
	member *hub.Member[*conn]

	mu       sync.Mutex
	out      []byte
	flushing bool
	ended    bool // nothing more is read: closed by whoever is last
	broken   bool
}

func (s *server) serve(c *conn) {
	s.open.Add(1)
	if s.Work != control.Echo {
		c.member = &hub.Member[*conn]{Conn: c}
		s.hub.Enter(c.member)
	}
	err := c.read(bufio.NewReader(c.Conn))
	if c.member != nil {
		s.hub.Leave(c.member)
	}
	c.end()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.verdicts.Add(1)
	}
	s.open.Add(-1)
	s.closed.Add(1)
}

// read serves frames until the stream ends or breaks.
func (c *conn) read(r *bufio.Reader) error {
	for {
		buffered := r.Buffered()
		if buffered >= wire.Header {
			b, _ := r.Peek(buffered) // it is there
			size, err := wire.Size(b)
			if err != nil {
				return err
			}
			if size > r.Size() {
				if err := c.large(r, size); err != nil {
					return err
				}
				continue
			}
			if size <= buffered {
				whole, err := wire.Whole(b)
				if err != nil {
					return err
				}
				if err := c.frames(b[:whole]); err != nil {
					return err
				}
				_, _ = r.Discard(whole) // it is there
				continue
			}
		}
		if err := c.extend(); err != nil {
			return err
		}
		if _, err := r.Peek(buffered + 1); err != nil { // one read, of whatever there is
			return err
		}
	}
}

// large serves a frame that does not fit into the reader.
func (c *conn) large(r *bufio.Reader, size int) error {
	b := wire.Allocate(size)[:size]
	defer wire.Free(b)
	for have := 0; have < size; {
		if err := c.extend(); err != nil {
			return err
		}
		n, err := r.Read(b[have:])
		if have += n; err != nil {
			return err
		}
	}
	return c.frames(b)
}

func (c *conn) extend() error {
	if c.server.Idle == 0 {
		return nil
	}
	return c.SetReadDeadline(time.Now().Add(c.server.Idle))
}

func (c *conn) frames(b []byte) error {
	if c.member != nil {
		return c.server.hub.Frames(c.member, b, (*conn).send)
	}
	_, err := c.Write(b)
	return err
}

// send has frames written by a goroutine of c's own.
func (c *conn) send(frames []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken {
		return
	}
	if len(c.out)+len(frames) > backlog {
		c.broken = true
		_ = c.Close() // its reader and writer notice
		return
	}
	c.out = append(c.out, frames...)
	if !c.flushing {
		c.flushing = true
		go c.flush()
	}
}

func (c *conn) flush() {
	var spare []byte
	for {
		c.mu.Lock()
		b := c.out
		if len(b) == 0 || c.broken {
			c.flushing = false
			if c.ended {
				_ = c.Close()
			}
			c.mu.Unlock()
			return
		}
		c.out = spare[:0]
		c.mu.Unlock()
		if _, err := c.Write(b); err != nil {
			c.mu.Lock()
			c.broken = true
			c.mu.Unlock()
			_ = c.Close()
		}
		spare = b
	}
}

// end closes the connection once what waits for it is written.
func (c *conn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if !c.flushing {
		_ = c.Close()
	}
}

func main() {
	s := &server{Options: control.Parse()}
	s.hub = hub.New[*conn](s.Work, true)
	// Without the keepalive that package net sets by default.
	config := net.ListenConfig{KeepAlive: -1}
	l, err := config.Listen(context.Background(), "tcp4", fmt.Sprintf("127.0.0.1:%d", s.Port))
	if err != nil {
		control.Fail(err)
	}
	control.Announce(l.Addr().(*net.TCPAddr).Port)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				control.Fail(err) // the measurement is void
			}
			go s.serve(&conn{Conn: c, server: s})
		}
	}()
	control.Serve(func(r *control.Report) {
		r.Open, r.Closed, r.Verdicts = s.open.Load(), s.closed.Load(), s.verdicts.Load()
	})
}
