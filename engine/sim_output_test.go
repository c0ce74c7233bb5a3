package engine_test

import (
	"errors"
	"fmt"
	"net"

	"github.com/pulsewheel/pulsewheel/engine"
)

// sendOwned lends the engine a payload, which is overwritten as soon as it is
// given back: where it is still needed then, the receiver finds it garbled.
func (s *simConn) sendOwned(size int, arg uint32) {
	a := s.app
	l := a.l
	m := simMessage{sender: s.key, number: s.accepted, order: orderNothing, arg: arg, size: size}
	payload := m.encode()
	taken, released := false, false
	release := func() {
		defer a.enter("release")()
		switch {
		case !taken:
			l.problem("%s: a payload was released that SendOwned refused", a.name)
		case released:
			l.problem("%s: a payload of %d was released twice", a.name, s.key)
		}
		released = true
		s.returned++
		for i := range payload {
			payload[i] = 0xdb
		}
		if l.pick(50) == 0 {
			l.seen["app: release panics"]++
			a.failures++
			panic("in a release")
		}
	}
	if l.pick(10) == 0 {
		release = nil
	}
	var err error
	a.call("SendOwned", func() { err = s.c.SendOwned(payload, release) })
	if taken = s.sent("SendOwned", m, err); taken && release != nil {
		s.lent++
	}
}

// outstanding is at least what waits for the kernel on our side, in bytes; less
// than 0: nobody knows.
func (s *simConn) outstanding() int64 {
	out := s.bytesOut + s.due.unknown + simSlack
	switch far := s.app.l.farEnd(s); {
	case s.peer != nil:
		return out - s.peer.bytesIn
	case far != nil:
		return out - far.bytesIn
	}
	return -1
}

// simSlack is how many bytes of heartbeats, and of other things that the engine
// sends by itself, may wait.
const simSlack = 5 << 10

// refused checks that there was reason for an ErrBacklog.
func (s *simConn) refused() {
	a := s.app
	s.starved = true
	n := s.outstanding()
	if n < 0 || n >= int64(a.limits.Backlog.High) {
		return
	}
	if a.limits.Budget > 0 && a.engine.Stats().Held >= a.limits.Budget {
		a.l.seen["app: out of budget"]++
		return
	}
	a.l.problem("%s: ErrBacklog for %d, of whose output at most %d bytes wait", a.name, s.key, n)
}

// probe finds out exactly when Send refuses: between two functions that were
// posted one after the other the output is flushed, so that what is left then is
// the backlog.
func (s *simConn) probe() {
	a := s.app
	l := a.l
	before := int64(0)
	s.post(func() { before = s.bytesOut })
	s.post(func() {
		if s.closed || s.told || s.marked || s.bytesOut != before || a.shut {
			return
		}
		backlog := s.c.Info().Backlog
		budget := a.limits.Budget
		spent := budget > 0 && backlog > 0 && a.engine.Stats().Held >= budget
		m := simMessage{sender: s.key, number: s.accepted, size: simHeader}
		var err error
		a.call("Send", func() { err = s.c.Send(m.encode()) })
		want := backlog >= a.limits.Backlog.High || spent
		if got := errors.Is(err, engine.ErrBacklog); got != want && !errors.Is(err, net.ErrClosed) {
			l.problem("%s: Send to %d: %v, with a backlog of %d bytes, and %d of all held", a.name, s.key, err, backlog, a.engine.Stats().Held)
		}
		if held := a.engine.Stats().Held; held < int64(backlog) {
			l.problem("%s: %d bytes are held, and %d wait for %d alone", a.name, held, backlog, s.key)
		}
		if most := 2*max(a.limits.Backlog.High, a.limits.Backlog.Hard) + 128<<10; backlog > most {
			l.problem("%s: a backlog of %d bytes", a.name, backlog)
		}
		switch {
		case spent:
			l.seen["probe: out of budget"]++
		case want:
			l.seen["probe: backlog is full"]++
		}
		s.sent("Send", m, err)
	})
}

// simGroup is a group, or all connections of an engine. Its broadcasts have a
// sender of their own.
type simGroup struct {
	app   *simApp
	key   uint32
	group *engine.Group // nil: all connections
	sent  uint32
	last  [4]int // sizes of the last broadcasts
}

func (a *simApp) newGroup(name string) *simGroup {
	g := &simGroup{app: a, key: a.l.newKey()}
	if name != "" {
		a.call("Group", func() { g.group = a.engine.Group(name) })
		if n := g.group.Len(); n != 0 {
			a.l.problem("%s: a new group has %d members", a.name, n)
		}
	}
	a.l.casts[g.key] = g
	a.l.groups = append(a.l.groups, g)
	return g
}

// prepare makes the groups, once there is an engine.
func (a *simApp) prepare() {
	a.everyone = a.newGroup("")
	for _, name := range []string{"red", "blue"} {
		a.groups = append(a.groups, a.newGroup(name))
	}
}

// recent is how many bytes of broadcasts may be under way to a connection that
// was not open when they were sent.
func (g *simGroup) recent() (n int64) {
	for _, size := range g.last {
		n += int64(size)
	}
	return n
}

// cast sends a message to all members.
func (g *simGroup) cast(size int) {
	a := g.app
	m := simMessage{sender: g.key, number: g.sent, order: orderNothing, size: size}
	payload := m.encode()
	var err error
	broadcast := a.engine.Broadcast
	if g.group != nil {
		broadcast = g.group.Broadcast
	}
	a.call("Broadcast", func() { err = broadcast(payload) })
	clear(payload) // Broadcast has encoded it
	switch {
	case err == nil:
		g.sent++
		copy(g.last[1:], g.last[:])
		g.last[0] = m.wire()
		for _, s := range a.open {
			if g.group == nil || s.member(g) >= 0 {
				s.due.add(g, m)
				s.bytesOut += int64(m.wire())
			}
		}
	case errors.Is(err, engine.ErrBacklog):
		a.l.seen["broadcast: out of budget"]++
		if held := a.engine.Stats().Held; a.limits.Budget <= 0 || held < a.limits.Budget {
			a.l.problem("%s: ErrBacklog for a broadcast while %d bytes are held", a.name, held)
		}
	case !errors.Is(err, net.ErrClosed) || !a.shut:
		a.l.problem("%s: Broadcast: %v", a.name, err)
	}
}

// drop makes the engine forget the group, and a new one takes its name.
func (g *simGroup) drop() {
	a := g.app
	for i := range a.groups {
		if a.groups[i] == g {
			a.call("Drop", g.group.Drop)
			a.groups[i] = a.newGroup(g.group.Name())
			a.l.seen["group: dropped"]++
		}
	}
}

func (s *simConn) member(g *simGroup) int {
	for i, other := range s.joined {
		if other == g {
			return i
		}
	}
	return -1
}

func (s *simConn) join(g *simGroup) {
	var err error
	s.app.call("Add", func() { err = g.group.Add(s.c) })
	switch {
	case err == nil && s.member(g) < 0:
		s.joined = append(s.joined, g)
	case err != nil && !errors.Is(err, net.ErrClosed):
		s.app.l.problem("%s: Add: %v", s.app.name, err)
	}
}

func (s *simConn) quit(g *simGroup) {
	var err error
	s.app.call("Remove", func() { err = g.group.Remove(s.c) })
	switch i := s.member(g); {
	case err == nil && i >= 0:
		s.joined = append(s.joined[:i], s.joined[i+1:]...)
	case err != nil && !errors.Is(err, net.ErrClosed):
		s.app.l.problem("%s: Remove: %v", s.app.name, err)
	}
}

// checkMembers checks how many members the groups have when all is quiet.
func (a *simApp) checkMembers() {
	for _, g := range a.l.groups {
		if g.app != a || g.group == nil {
			continue
		}
		n := 0
		for _, s := range a.open {
			if s.member(g) >= 0 {
				n++
			}
		}
		if got := g.group.Len(); got != n {
			a.l.problem("%s: group %q has %d members, want %d", a.name, g.group.Name(), got, n)
		}
	}
}

// simDue is the broadcasts that were sent to a connection, and have not been
// received at its far end.
type simDue struct {
	list    []simCast
	total   int
	unknown int64                // bytes of those that were under way when it was opened
	from    map[*simGroup]uint32 // of all that were sent to all, the first that it must get
}

type simCast struct {
	g      *simGroup
	number uint32
}

func (s *simConn) opensBroadcasts() {
	g := s.app.everyone
	s.due.from = map[*simGroup]uint32{g: g.sent}
	s.due.unknown = g.recent()
	s.due.total = min(int(g.sent), len(g.last))
}

func (d *simDue) add(g *simGroup, m simMessage) {
	d.list = append(d.list, simCast{g, m.number})
	d.total++
}

// received takes note that a broadcast has arrived.
func (d *simDue) received(g *simGroup, number uint32) error {
	for i, c := range d.list {
		if c.g != g {
			continue
		}
		if c.number == number {
			d.list = append(d.list[:i], d.list[i+1:]...)
			return nil
		}
		if from, all := d.from[g]; !all || number >= from {
			return fmt.Errorf("broadcast %d of group %d where %d was due", number, g.key, c.number)
		}
		break
	}
	if from, all := d.from[g]; all && number < from {
		return nil // it was under way when the connection was opened
	}
	return fmt.Errorf("broadcast %d of group %d, which was not due", number, g.key)
}

// simCastsIn is the broadcasts that were received at one end of a connection.
type simCastsIn struct {
	next  map[*simGroup]uint32
	count uint32
	early []simCast // that came before anybody knew from where
}

// receive checks a broadcast that came from the connection from, if that is
// known.
func (in *simCastsIn) receive(g *simGroup, m simMessage, from *simConn) error {
	if in.next == nil {
		in.next = make(map[*simGroup]uint32)
	}
	if next, ok := in.next[g]; ok && (m.number < next || g.group == nil && m.number != next) {
		return fmt.Errorf("broadcast %d of group %d where %d was due", m.number, g.key, next)
	}
	in.next[g] = m.number + 1
	in.count++
	in.early = append(in.early, simCast{g, m.number})
	if from == nil {
		return nil
	}
	for _, c := range in.early {
		if from.app != c.g.app {
			return fmt.Errorf("a broadcast of %s's on a connection to %s", c.g.app.name, from.app.name)
		}
		if err := from.due.received(c.g, c.number); err != nil {
			return err
		}
	}
	in.early = in.early[:0]
	return nil
}
