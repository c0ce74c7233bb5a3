package engine

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pulsewheel/pulsewheel/codec"
)

// Group is a named set of connections that get the same messages: a room, a
// topic. Its methods may be called from any goroutine and never wait for a loop;
// what one goroutine does with a group takes effect in that order.
type Group struct {
	core *core
	name string
	// members holds, for each loop, the connections of that loop. The loop
	// owns it.
	members [][]*Conn
	size    atomic.Int64
}

// membership is a connection's place in a group.
type membership struct {
	group *Group
	at    int // in group.members of the connection's loop
}

// groups finds an engine's groups by name.
type groups struct {
	mu     sync.Mutex
	byName map[string]*Group
}

// group returns the group of that name, which it makes if there is none.
func (co *core) group(name string) *Group {
	gs := &co.groups
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.byName[name]
	if g == nil {
		g = &Group{core: co, name: name, members: make([][]*Conn, len(co.loops))}
		if gs.byName == nil {
			gs.byName = make(map[string]*Group)
		}
		gs.byName[name] = g
	}
	return g
}

// Name returns the group's name.
func (g *Group) Name() string { return g.name }

// Len returns the number of members.
func (g *Group) Len() int { return int(g.size.Load()) }

// Add makes c a member, unless it is one. A connection of another server or
// client cannot be: that is an error, as is a closed one (ErrClosed). Members
// that close leave by themselves.
func (g *Group) Add(c *Conn) error {
	if c.loop.core != g.core {
		return fmt.Errorf("engine: connection %d belongs to another server or client than group %q", c.id, g.name)
	}
	return c.Post(func() { c.join(g) })
}

// Remove ends c's membership, if there is one.
func (g *Group) Remove(c *Conn) error {
	if c.loop.core != g.core {
		return nil
	}
	return c.Post(func() { c.quit(g) })
}

// Drop makes the engine forget the group: its name can be used again, and its
// members stay connected. Broadcasts to a dropped group still reach those who
// were members before.
func (g *Group) Drop() {
	gs := &g.core.groups
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gs.byName[g.name] == g {
		delete(gs.byName, g.name)
	}
}

func (c *Conn) join(g *Group) {
	if c.phase == gone || c.memberOf(g) >= 0 {
		return
	}
	mine := &g.members[c.loop.index]
	x := c.more()
	x.groups = append(x.groups, membership{g, len(*mine)})
	*mine = append(*mine, c)
	g.size.Add(1)
}

// memberOf returns which of c's memberships is that of g, -1 if none is.
func (c *Conn) memberOf(g *Group) int {
	if c.extra == nil {
		return -1
	}
	return slices.IndexFunc(c.extra.groups, func(m membership) bool { return m.group == g })
}

func (c *Conn) quit(g *Group) {
	i := c.memberOf(g)
	if i < 0 {
		return
	}
	// The last member takes the place that becomes free.
	mine := &g.members[c.loop.index]
	at := c.extra.groups[i].at
	last := len(*mine) - 1
	moved := (*mine)[last]
	(*mine)[at] = moved
	moved.extra.groups[moved.memberOf(g)].at = at
	(*mine)[last] = nil
	*mine = (*mine)[:last]
	c.extra.groups = slices.Delete(c.extra.groups, i, i+1)
	if len(c.extra.groups) == 0 {
		c.extra.groups = nil
	}
	g.size.Add(-1)
}

// leaveGroups ends all memberships of a connection that is gone.
func (c *Conn) leaveGroups() {
	for c.extra != nil && len(c.extra.groups) > 0 {
		c.quit(c.extra.groups[len(c.extra.groups)-1].group)
	}
}

// Broadcast sends a data frame with a copy of payload to every member. It is
// encoded once, and costs one post per loop.
//
// It is ordered with other broadcasts of the same goroutine, and with its calls
// of Post, Add and Remove, but not with Send: what is sent afterwards may
// arrive before.
//
// The error is the codec's, ErrClosed once the engine is shut down, or
// ErrBacklog if Limits.Budget is used up by what waits already; then nobody gets
// the message. A member whose own backlog is at Backlog.Hard when its turn
// comes, so that it would miss the message, ends with reason SlowConsumer
// instead.
func (g *Group) Broadcast(payload []byte) error {
	b, err := g.core.newBroadcast(payload)
	if err != nil {
		return err
	}
	return b.post(func(l *Loop, f func(*Conn)) {
		for _, c := range g.members[l.index] {
			f(c)
		}
	})
}

// broadcast sends a data frame to every connection that is open.
func (co *core) broadcast(payload []byte) error {
	b, err := co.newBroadcast(payload)
	if err != nil {
		return err
	}
	return b.post(func(l *Loop, f func(*Conn)) {
		co.conns.all(func(c *Conn) bool {
			if c.loop == l && c.state.Load()&opened != 0 {
				f(c)
			}
			return true
		})
	})
}

// broadcast is one message on its way to many connections.
type broadcast struct {
	core    *core
	payload []byte  // for connections with a codec of their own
	frames  []frame // by profile, for the others
}

// frame is a message in the encoding of one codec.
type frame struct {
	profile *profile
	b       []byte
	lent    *loan
}

func (co *core) newBroadcast(payload []byte) (*broadcast, error) {
	if len(payload) > maxHigh {
		return nil, fmt.Errorf("engine: message of %d bytes: %w", len(payload), codec.ErrTooLarge)
	}
	if co.held.Load() >= co.limits.Budget {
		return nil, ErrBacklog
	}
	b := &broadcast{core: co}
	for _, p := range co.profiles {
		if !p.shared {
			if b.payload == nil {
				b.payload = append([]byte{}, payload...)
			}
			continue
		}
		encoded, err := p.codec.Append(nil, codec.Data, payload)
		if err != nil {
			return nil, err
		}
		size := int64(cap(encoded))
		lent := &loan{shared: true, done: func() { co.held.Add(-size) }}
		b.frames = append(b.frames, frame{p, encoded, lent})
	}
	return b, nil
}

// post makes every loop distribute the message among those that members yields.
func (b *broadcast) post(members func(l *Loop, f func(*Conn))) error {
	loops := b.core.loops
	for _, f := range b.frames {
		b.core.held.Add(int64(cap(f.b)))
		f.lent.refs.Store(int32(len(loops)))
	}
	posted := 0
	for _, l := range loops {
		if l.mail.post(letter{f: func() { b.distribute(l, members) }}) {
			posted++
		} else {
			b.drop()
		}
	}
	if posted == 0 {
		return ErrClosed
	}
	return nil
}

// drop gives back a loop's share.
func (b *broadcast) drop() {
	for _, f := range b.frames {
		f.lent.drop()
	}
}

// distribute gives the message to this loop's members. Where nothing follows it in
// the batch of letters, it goes straight to those who can take it; otherwise it is
// entered into their output, so that several leave in one write.
func (b *broadcast) distribute(l *Loop, members func(l *Loop, f func(*Conn))) {
	defer b.drop()
	last := l.batchNext == len(l.batch)
	list := l.members[:0]
	members(l, func(c *Conn) { list = append(list, c) })
	l.members = list
	defer clear(list)
	for i, c := range list {
		if next := i + ahead; next < len(list) {
			l.touch(list[next])
		}
		l.stats.broadcasts.Add(1)
		if last && c.pass(b) {
			continue
		}
		taken := true
		if c.profile.shared {
			taken = c.offer(b)
		} else {
			l.call(c, func() { taken = c.offer(b) }) // its codec is the application's
		}
		if !taken {
			c.hard = true
			c.kill(SlowConsumer, errHard)
		}
		l.soil(c)
	}
}

// soil puts c among the connections to be settled, unless it will be anyway.
func (l *Loop) soil(c *Conn) {
	if c.state.Load()&scheduled == 0 {
		c.state.Or(scheduled)
		l.dirty = append(l.dirty, c)
	}
}

// pass writes a broadcast without entering it into the connection's output, if
// nothing is there that it would overtake. What the kernel does not take waits.
func (c *Conn) pass(b *broadcast) bool {
	f := b.frame(c.profile)
	if f == nil || c.phase != open || c.ending != nil || c.backlog != nil || c.state.Load()&(scheduled|closing) != 0 {
		return false
	}
	c.mu.Lock()
	free := c.pending.last == nil && !c.starved
	c.mu.Unlock()
	if !free {
		return false
	}
	n, err := c.loop.core.kernel.Write(int(c.fd), f.b)
	if n == len(f.b) {
		c.wrote(n, 1)
		return true
	}
	f.lent.refs.Add(1)
	if err := c.taken(getLent(f.b, f.lent), n, err); err != nil {
		c.outputFailed(err)
		c.loop.soil(c)
	}
	return true
}

// frame returns the message in the encoding of a profile's connections; nil if each
// has its own.
func (b *broadcast) frame(p *profile) *frame {
	for i := range b.frames {
		if b.frames[i].profile == p {
			return &b.frames[i]
		}
	}
	return nil
}

// copyBelow is the size of frames that are cheaper to copy into the buffer of
// each connection than to refer to.
const copyBelow = 512

// offer enters a broadcast into the pending output. It returns false if the
// connection cannot take it.
func (c *Conn) offer(b *broadcast) (taken bool) {
	c.mu.Lock()
	defer c.mu.Unlock() // even if an application's codec panics
	switch {
	case c.state.Load()&closing != 0:
		return true // it ends anyway
	case int(c.queued) >= c.loop.core.limits.Backlog.Hard:
		return false
	}
	if f := b.frame(c.profile); f != nil {
		if len(f.b) < copyBelow {
			p := c.pending.writable()
			p.add(append(p.b, f.b...), message)
			c.queue(len(f.b), len(f.b))
			return true
		}
		f.lent.refs.Add(1)
		c.pending.append(getLent(f.b, f.lent))
		c.queue(len(f.b), lentOverhead)
		return true
	}
	p := c.pending.writable()
	encoded, err := c.codec.Append(p.b, codec.Data, b.payload)
	if err != nil {
		return true // the codec of this connection has no words for it
	}
	size := len(encoded) - len(p.b)
	p.add(encoded, message)
	c.queue(size, size)
	return true
}
