package engine_test

import (
	"errors"
	"net/netip"
	"runtime"
	"time"

	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// admission draws who may connect to the server.
func (l *simLife) admission() (d engine.Admission) {
	if l.pick(4) == 0 {
		d.FirstFrame = []time.Duration{300 * time.Millisecond, 800 * time.Millisecond}[l.pick(2)]
	}
	if l.pick(5) == 0 {
		d.PerPrefix = 1 + l.pick(4)
	}
	if l.pick(5) == 0 {
		d.Rate, d.Burst = 10+l.pick(60), l.pick(5)
	}
	if l.pick(5) == 0 {
		d.Allow = l.allow
	}
	if l.pick(5) == 0 {
		d.EvictIdle = 100*time.Millisecond + l.wait(500*time.Millisecond)
	}
	return d
}

// allow is Admission.Allow.
func (l *simLife) allow(remote netip.AddrPort) error {
	defer l.server.enter("Allow")()
	n := l.byAddr[remote]
	if n == nil || !n.unwelcome {
		return nil
	}
	switch n.key % 8 {
	case 0:
		l.seen["door: Allow panics"]++
		l.server.failures++
		panic("in Allow")
	case 1:
		if simAllowMayExit {
			l.seen["door: Allow ends its goroutine"]++
			l.server.failures++
			runtime.Goexit()
		}
	}
	l.seen["door: Allow refuses"]++
	return errors.New("not you")
}

const simAllowMayExit = true

// crowdAddr is the address of a machine from which several peers come.
func (l *simLife) crowdAddr() netip.Addr {
	return netip.AddrFrom4([4]byte{10, 100, 0, byte(1 + l.pick(2))})
}

// checkRoom checks that there was room for s, which has just been opened.
func (a *simApp) checkRoom(s *simConn) {
	l := a.l
	open := len(a.open)
	if a.ordered { // Close may be yet to run
		open = int(a.engine.Stats().Total.Open)
	}
	if a.maxConns > 0 && open > a.maxConns {
		l.problem("%s: %d connections are open, MaxConns is %d", a.name, open, a.maxConns)
	}
	if s.peer != nil && s.peer.unwelcome {
		l.problem("%s: %v was let in, which Allow refuses", a.name, s.peer)
	}
	if most := a.door.PerPrefix; most > 0 && !a.ordered {
		if n := a.openFrom(s.c.RemoteAddr().Addr()); s.c.RemoteAddr().IsValid() && n > most {
			l.problem("%s: %d connections from one prefix, PerPrefix is %d", a.name, n, most)
		}
	}
}

// openFrom counts the open connections from an address.
func (a *simApp) openFrom(addr netip.Addr) (n int) {
	for _, s := range a.open {
		if s.c.RemoteAddr().Addr() == addr {
			n++
		}
	}
	return n
}

// probePrefix sends one more peer from an address that several come from, when
// all is quiet: it is let in if and only if there is room.
func (l *simLife) probePrefix() {
	a := l.server
	addr := l.crowdAddr()
	l.w.After(l.active+3*time.Second, func() {
		for _, n := range l.peers {
			if n.from == addr && n.conn == nil && n.ended == nil {
				return // it may come in first
			}
		}
		n := &simPeer{l: l, app: a, kind: peerSilent, codec: l.codec.PerConn(), key: l.newKey(), from: addr, probes: true}
		l.connect(n)
		before := a.openFrom(addr)
		l.w.After(500*time.Millisecond+time.Duration(l.lateness()), func() {
			after := a.openFrom(addr)
			if n.conn != nil {
				after--
			}
			switch most := a.door.PerPrefix; {
			case n.conn != nil && before >= most && after >= most:
				l.problem("%v was let in, the %dth from its prefix", n, before+1)
			case n.conn == nil && n.ended != nil && before < most && after < most && l.w.Counts()["accept: ECONNABORTED"] == 0:
				l.problem("%v was turned away, the %dth from its prefix", n, before+1)
			case n.conn == nil && n.ended != nil:
				l.seen["door: one too many from its prefix"]++
			case n.conn != nil:
				l.seen["door: one more from its prefix"]++
			}
		})
	})
}

// checkRate checks that no more connections were accepted than Rate permits.
func (l *simLife) checkRate() {
	d := &l.server.door
	if d.Rate == 0 {
		return
	}
	burst := d.Burst
	if burst == 0 {
		burst = max(d.Rate/10, 1)
	}
	step := int64(time.Second) / int64(d.Rate)
	at := l.kServer.Accepts()
	slack := l.behind() + int64(3*time.Millisecond)
	for i := range at {
		for j := i; j < len(at); j++ {
			if n, most := j-i+1, burst+int((at[j]-at[i]+slack)/step); n > most {
				l.problem("%d connections were accepted within %v, want at most %d", n, time.Duration(at[j]-at[i]), most)
				return
			}
		}
	}
	if len(at) > burst {
		l.seen["door: rate limit"]++
	}
}

// evictable reports whether s may have been the one to make room.
func (s *simConn) evictable(ce *engine.CloseError) bool {
	a := s.app
	l := a.l
	idle := ce.Evidence.LastRead
	if s.pause.held { // since when nobody knows whether it is idle
		idle = min(idle, time.Duration(s.pause.since-s.heard()))
	}
	if a.door.EvictIdle == 0 || idle < a.door.EvictIdle-time.Duration(l.behind()) {
		return false
	}
	l.seen["door: evicted"]++
	if !l.crowd {
		return true
	}
	// Nobody in a crowd sends heartbeats. The engine notes that a peer was heard when
	// it reads, and we when its message is handled, which may be that much later.
	slack := int64(10*time.Millisecond) + l.behind()
	for _, other := range a.open {
		if other.c.Loop() == s.c.Loop() && other.peer != nil && other.eofAt == 0 && !other.marked && other.unread(l.w.Now()) == 0 && other.heard()+slack < s.heard() {
			l.problem("%s: %d was evicted, idle for %v, and not %d, which is for %v longer",
				a.name, s.key, ce.Evidence.LastRead, other.key, time.Duration(s.heard()-other.heard()))
		}
	}
	return true
}

// heard returns when s was opened, or last got a message.
func (s *simConn) heard() int64 { return max(s.openedAt, s.heardAt) }

// gather makes a crowd: more idle connections than room, on one loop, and then
// some more.
func (l *simLife) gather() {
	for i := range 26 + l.pick(10) {
		n := &simPeer{l: l, app: l.server, kind: peerSilent, codec: l.codec.PerConn(), key: l.newKey()}
		l.w.After(time.Duration(i)*40*time.Millisecond, func() {
			l.connect(n)
			n.p.After(l.wait(400*time.Millisecond), func() {
				if !n.finished {
					n.put(n.frame(orderNothing, simHeader))
				}
			})
		})
	}
}

// checkTurnedAway checks that whoever had to go before it was served had to for
// a reason.
func (l *simLife) checkTurnedAway(n *simPeer) {
	a := l.server
	if n.app != a || n.conn != nil || !n.p.Connected() {
		return
	}
	switch {
	case n.unwelcome:
		if n.ended != error(sys.ECONNRESET) && n.wellBehaved() && !l.waiting(n) {
			l.problem("%v was not reset, although Allow refuses it", n)
		}
	case n.ended == nil || !n.wellBehaved() || l.w.Counts()["accept: ECONNABORTED"] > 0:
	case a.door.PerPrefix > 0 && n.from.IsValid():
		if l.fromPrefix(n.from) <= a.door.PerPrefix {
			l.problem("%v was turned away, although never so many came from its prefix", n)
		}
		l.seen["door: PerPrefix refuses"]++
	default:
		l.problem("%v was turned away", n)
	}
}

// checkWaiting checks that nobody waits for a place that somebody has who has been
// idle for long.
func (l *simLife) checkWaiting(n *simPeer) {
	a := l.server
	now := l.w.Now()
	if n.app != a || a.door.EvictIdle == 0 || !n.p.Connected() || !n.wellBehaved() || n.conn != nil || n.ended != nil {
		return
	}
	enough := int64(a.door.EvictIdle+2*time.Second) + l.lateness()
	for _, s := range a.open {
		if s.peer == nil || s.marked || s.eofAt != 0 || s.unread(now) != 0 {
			continue
		}
		// Whatever comes counts, not only messages: heartbeats, or a frame byte by byte.
		if last := max(s.heard(), s.peer.p.LastArrival()); now-last > enough {
			l.problem("%v waits for the place of %d, which has been idle for %v", n, s.key, time.Duration(now-s.heard()))
			return
		}
	}
}

// fromPrefix counts the peers that ever came from an address.
func (l *simLife) fromPrefix(addr netip.Addr) (count int) {
	for _, n := range l.peers {
		if n.from == addr {
			count++
		}
	}
	return count
}

// waiting reports whether n may be in the queue of a listener for good.
func (l *simLife) waiting(*simPeer) bool {
	a := l.server
	return a.maxConns > 0 && len(a.open) >= a.maxConns || l.full(a)
}

// checkDismissal checks that Shutdown does not end connections faster than it
// may.
func (a *simApp) checkDismissal(s *simConn) {
	now := a.l.w.Now()
	if !a.shut || a.limits.RunDown == 0 || s.err.Reason != engine.Shutdown || s.openedAt >= a.shutAt || now >= a.patience {
		return
	}
	loop := s.c.Loop()
	a.dismissed[loop]++
	rate := float64(a.limits.RunDown) / float64(len(a.engine.Loops()))
	if most := int(time.Duration(now-a.shutAt).Seconds()*rate) + 1; a.dismissed[loop] > most {
		a.l.problem("%s: loop %d has dismissed %d connections within %v, want at most %d",
			a.name, loop.Index(), a.dismissed[loop], time.Duration(now-a.shutAt), most)
	}
	a.l.seen["run-down: dismissed"]++
}

// runDownTime is how long a run-down may take.
func (a *simApp) runDownTime() time.Duration {
	if a.limits.RunDown == 0 {
		return 0
	}
	return time.Duration(len(a.open)*len(a.engine.Loops())) * time.Second / time.Duration(a.limits.RunDown)
}
