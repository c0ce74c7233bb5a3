package main

import (
	"time"

	"github.com/pulsewheel/pulsewheel/engine"
)

// ledger is what is known of every peer.
type ledger struct {
	planned map[way]int
	peers   map[engine.ID]*peer
	samples []event       // the server's counters, in order
	lag     time.Duration // the latest that a timer of the server's ever ran

	connected, vanished, found, alive int // counts of peers
}

// peer is a client's connection, as client and server tell. Times are Unix
// times in ns, 0 for what did not happen.
type peer struct {
	way      way // empty: no client knows it
	from     *process
	vanished int64
	closed   int64  // by the server
	reason   string // the server's
	left     string // why the client lost the connection, though it stayed
	leftAt   int64
	alive    bool // was answered at the end

	// Of the server's loop, at the close.
	loop    int
	stalled time.Duration
}

func newLedger(planned map[way]int) *ledger {
	return &ledger{planned: planned, peers: make(map[engine.ID]*peer)}
}

func (l *ledger) peer(id engine.ID) *peer {
	p := l.peers[id]
	if p == nil {
		p = &peer{}
		l.peers[id] = p
	}
	return p
}

// note enters an event. Client and server tell theirs in any order.
func (l *ledger) note(m message) {
	for _, s := range m.Loops {
		l.lag = max(l.lag, s.Lag)
	}
	if m.Kind == sample {
		l.samples = append(l.samples, m.event)
		return
	}
	p := l.peer(m.Peer)
	if m.from.Way != "" {
		p.way, p.from = m.from.Way, m.from
	}
	switch m.Kind {
	case connected:
		l.connected++
	case vanished:
		l.vanish(p, m.At)
	case closed:
		p.closed, p.reason = m.At, m.Reason
		p.loop, p.stalled = m.Loop, m.Loops[0].Stalled
		if p.vanished != 0 {
			l.found++
		}
	case left:
		p.left, p.leftAt = m.Reason, m.At
	case alive:
		p.alive = true
		l.alive++
	}
}

func (l *ledger) vanish(p *peer, at int64) {
	p.vanished = at
	l.vanished++
	if p.closed != 0 {
		l.found++
	}
}

// struck enters that a whole process vanished.
func (l *ledger) struck(by *process, at int64) {
	for _, p := range l.peers {
		if p.from == by {
			l.vanish(p, at)
		}
	}
}

// stalls returns how much time p's loop has lost between its fault and its
// close, or up to a sampling more.
func (l *ledger) stalls(p *peer) time.Duration {
	var before time.Duration
	for _, s := range l.samples {
		if s.At > p.vanished {
			break
		}
		before = s.Loops[p.loop].Stalled
	}
	return p.stalled - before
}
