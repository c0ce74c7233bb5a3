//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
)

// client is the child that dies: one host's connections to all detectors. It
// answers heartbeats, suspects nobody, and talks where its detector says so.
type client struct {
	*engine.Client

	answers atomic.Int64

	mu   sync.Mutex
	left map[engine.Reason]int
}

// mate is what a connection carries. It belongs to the connection's loop.
type mate struct{ talk *engine.Timer }

func newClient() *client { return &client{left: make(map[engine.Reason]int)} }

// Calls is a number of connections to one address.
type Calls struct {
	Addr  string
	Count int
	Talk  time.Duration // how often each says something; 0: never
}

// parallel is how many connections are established at a time.
const parallel = 16

// Connect establishes connections.
func (c *client) Connect(to []Calls, _ *None) (err error) {
	if c.Client == nil {
		c.Client, err = engine.NewClient(engine.ClientConfig{
			Codec: codec.Native{},
			// A small buffer, so that who does not read closes its window soon.
			Limits:  engine.Limits{Loops: 1, ReceiveBuffer: 4 << 10, MaxPause: -1, Backlog: engine.Backlog{DrainWindow: -1}},
			Logger:  slog.New(slog.NewTextHandler(io.Discard, nil)),
			Handler: engine.Handler{Message: c.message, Close: c.closed},
		})
		if err != nil {
			return err
		}
	}
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	places := make(chan struct{}, parallel)
	for _, x := range to {
		for range x.Count {
			places <- struct{}{}
			wg.Go(func() {
				defer func() { <-places }()
				conn, err := c.Dial(context.Background(), x.Addr)
				if err != nil {
					failed.Store(&err)
				} else if x.Talk > 0 {
					_ = conn.Post(func() {
						talk := conn.Loop().Every(x.Talk, func() { _ = conn.Send([]byte("lovely weather")) })
						conn.Set(&mate{talk})
					})
				}
			})
		}
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (c *client) message(conn *engine.Conn, payload []byte) {
	switch {
	case bytes.Equal(payload, question):
		c.answers.Add(1)
	case bytes.Equal(payload, shout):
		_ = conn.Send(shout)
	}
}

// Leave resets all connections, and returns when they are gone.
func (c *client) Leave(_ None, _ *None) error {
	c.Range(func(conn *engine.Conn) bool {
		_ = conn.Abort()
		return true
	})
	for deadline := time.Now().Add(answerLimit); ; time.Sleep(10 * time.Millisecond) {
		if open := c.Stats().Total.Open; open == 0 {
			return nil
		} else if time.Now().After(deadline) {
			return fmt.Errorf("%d connections are still open", open)
		}
	}
}

func (c *client) closed(conn *engine.Conn, err error) {
	if m, ok := conn.Get().(*mate); ok {
		m.talk.Stop()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left[engine.ReasonOf(err)]++
}

// Still stops reading, and talking, too, if mute. It returns when that is done.
func (c *client) Still(mute bool, _ *None) error {
	var all sync.WaitGroup
	c.Range(func(conn *engine.Conn) bool {
		all.Add(1)
		if conn.Post(func() {
			defer all.Done()
			_ = conn.Pause()
			if m, ok := conn.Get().(*mate); ok && mute {
				m.talk.Stop()
			}
		}) != nil {
			all.Done()
		}
		return true
	})
	all.Wait()
	return nil
}

// Health is how well the connections are.
type Health struct {
	Asked, Answered int
	Left            map[engine.Reason]int // of those that ended
}

// answerLimit is how long the server may take to answer.
const answerLimit = 10 * time.Second

// Ask asks the server something on each connection.
func (c *client) Ask(_ None, h *Health) error {
	before := c.answers.Load()
	c.Range(func(conn *engine.Conn) bool {
		if conn.Send(question) == nil {
			h.Asked++
		}
		return true
	})
	for deadline := time.Now().Add(answerLimit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if h.Answered = int(c.answers.Load() - before); h.Answered == h.Asked {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h.Left = maps.Clone(c.left)
	if h.Asked == 0 && len(h.Left) == 0 {
		return fmt.Errorf("there are no connections")
	}
	return nil
}
