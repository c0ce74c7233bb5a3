package engine

import (
	"errors"
	"sync"
)

// identities finds an engine's connections by who their peers are.
type identities struct {
	mu    sync.Mutex
	conns map[string]*Conn
	keys  map[ID]string
}

var errReplaced = errors.New("a newer connection of the same identity took its place")

// Identify names the peer: an account, a device, whatever the application knows
// it by once it has introduced itself. A client that comes back before its old
// connection is known to be dead would have two; the newer one wins. If another
// open connection of this server or client has that identity it is returned, and
// ends with reason Replaced once what was sent to it is delivered, or after
// Limits.Linger if nobody takes it. A last word to it must be sent before: see
// Server.Identified.
//
// A connection has one identity at a time, until it is closed; the latest counts.
// The end of a replaced one, whatever its reason, does not touch its successor.
func (c *Conn) Identify(key string) (replaced *Conn, err error) {
	if c.state.Or(identified)&opened == 0 {
		return nil, ErrClosed
	}
	ids := &c.loop.core.identities
	ids.mu.Lock()
	ids.forget(c)
	if ids.conns == nil {
		ids.conns, ids.keys = make(map[string]*Conn), make(map[ID]string)
	}
	if replaced = ids.conns[key]; replaced != nil {
		ids.forget(replaced)
	}
	ids.conns[key] = c
	ids.keys[c.id] = key
	if c.state.Load()&opened == 0 { // it has ended meanwhile, and may have looked before it was entered
		ids.forget(c)
		err = ErrClosed
	}
	ids.mu.Unlock()
	if replaced != nil {
		replaced.loop.mail.post(letter{c: replaced, f: func() { replaced.beginDrain(Replaced, errReplaced) }})
	}
	return replaced, err
}

// forget ends c's identity, if it has one. The caller holds mu.
func (ids *identities) forget(c *Conn) {
	if key, ok := ids.keys[c.id]; ok {
		delete(ids.keys, c.id)
		delete(ids.conns, key)
	}
}

// leave is forget for a connection that is gone.
func (ids *identities) leave(c *Conn) {
	if c.state.Load()&identified != 0 {
		ids.mu.Lock()
		ids.forget(c)
		ids.mu.Unlock()
	}
}

// byIdentity returns the connection of that identity, or nil.
func (co *core) byIdentity(key string) *Conn {
	co.identities.mu.Lock()
	defer co.identities.mu.Unlock()
	return co.identities.conns[key]
}
