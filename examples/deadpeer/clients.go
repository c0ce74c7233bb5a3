package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
)

// crew is the clients of one process. All of them are ordinary clients of the
// engine; what distinguishes victims comes over them.
type crew struct {
	link
	way    way
	client *engine.Client

	mu    sync.Mutex
	conns []*engine.Conn // those that were greeted
}

// mate is what a connection carries. It belongs to the connection's loop.
type mate struct {
	peer engine.ID // the server's number of it; 0: not greeted yet
	talk *engine.Timer
}

const (
	smallTalk = "lovely weather"
	question  = "are you still there?"
)

// clients connects, talks, and does as it is told.
func clients(s spec, l link) error {
	cr := &crew{link: l, way: s.Way}
	limits := engine.Limits{Loops: 1}
	if s.Way == hung {
		limits.Loops = min(s.Clients, batches)
	}
	var err error
	cr.client, err = engine.NewClient(engine.ClientConfig{
		Codec: codec.Native{}, Liveness: presets[s.Preset], Limits: limits,
		Handler: engine.Handler{Open: cr.open, Message: cr.message, Close: cr.close},
		// What goes wrong here does so on purpose, and is told over the link.
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	for i := range s.Clients {
		time.Sleep(s.Spread / time.Duration(s.Clients))
		if _, err := cr.client.Dial(context.Background(), s.Addr); err != nil {
			return fmt.Errorf("%s client %d: %w", s.Way, i, err)
		}
	}
	for o := range l.orders {
		switch {
		case o.Check:
			cr.check()
		case o.Vanish && s.Way == hung:
			cr.hang(o)
		case o.Vanish:
			cr.leave(o)
		}
	}
	return nil
}

func (cr *crew) open(c *engine.Conn) error {
	c.Set(&mate{talk: c.Loop().Every(talk, func() { _ = c.Send([]byte(smallTalk)) })})
	return nil
}

func (cr *crew) message(c *engine.Conn, payload []byte) {
	m := c.Get().(*mate)
	switch {
	case m.peer == 0:
		m.peer = engine.ID(binary.BigEndian.Uint64(payload))
		cr.mu.Lock()
		cr.conns = append(cr.conns, c)
		cr.mu.Unlock()
		cr.events <- event{Kind: connected, Peer: m.peer}
	case string(payload) == question:
		cr.events <- event{Kind: alive, Peer: m.peer}
	}
}

func (cr *crew) close(c *engine.Conn, err error) {
	m := c.Get().(*mate)
	m.talk.Stop()
	if reason := engine.ReasonOf(err); reason != engine.Local {
		cr.events <- event{Kind: left, Peer: m.peer, At: now(), Reason: reason.String()}
	}
}

func (cr *crew) greeted() []*engine.Conn {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	return cr.conns
}

// check shows that both directions of every connection still work.
func (cr *crew) check() {
	for _, c := range cr.greeted() {
		_ = c.Send([]byte(question))
	}
}

// leave ends one connection after another, as the application may.
func (cr *crew) leave(o order) {
	conns := cr.greeted()
	for i, c := range conns {
		time.Sleep(time.Until(o.at(i, len(conns))))
		_ = c.Post(func() {
			cr.events <- event{Kind: vanished, Peer: c.Get().(*mate).peer, At: now()}
			if cr.way == fin {
				_ = c.Close()
			} else {
				_ = c.Abort()
			}
		})
	}
}

// hang blocks one loop after another by a callback that never returns: their
// sockets stay open and nobody attends to them.
func (cr *crew) hang(o order) {
	loops := cr.client.Loops()
	for i, l := range loops {
		time.Sleep(time.Until(o.at(i, len(loops))))
		_ = l.Post(func() {
			for _, c := range cr.greeted() {
				if c.Loop() == l {
					cr.events <- event{Kind: vanished, Peer: c.Get().(*mate).peer, At: now()}
				}
			}
			select {}
		})
	}
}
