package engine_test

import (
	"fmt"
	"io"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/engine/internal/sim"
	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// simKind is a way to behave.
type simKind int

const (
	peerHealthy simKind = iota
	peerSilent          // answers heartbeats, says nothing
	peerTrickler
	peerCloser
	peerHalfCloser
	peerUnreadCloser
	peerResetter
	peerStubborn // never ends its side
	peerVanisher
	peerRebooter
	peerUnreachable
	peerFrozen
	peerNapper // frozen for less than Tolerance
	peerDeaf
	peerUnreading // stops reading for good
	peerMalformed
	peerTooLarge
	peerCutOff  // ends within a frame
	peerFleeing // gone before it is accepted
	peerOutage  // cut off for less than Tolerance
	peerBulk    // sends so much at once that a loop must take turns
	peerStaller // begins a frame and never ends it
	lastKind
)

var simKindNames = [lastKind]string{
	"healthy", "silent", "trickler", "closer", "half-closer", "unread closer", "resetter", "stubborn", "vanisher",
	"rebooter", "unreachable", "frozen", "napper", "deaf", "unreading", "malformed", "too large", "cut off", "fleeing",
	"outage", "bulk", "staller",
}

// simPeer is a scripted peer that speaks the codec.
type simPeer struct {
	l     *simLife
	app   *simApp // the engine it talks to
	kind  simKind
	p     *sim.Peer
	codec codec.Codec
	key   uint32
	conn  *simConn // its far end, once that is open

	buf      []byte
	in       simStream
	frames   uint32 // frames of kind simFrame received
	sent     uint32
	answers  bool   // answers heartbeats
	within   bool   // a frame, of which the rest is to come
	held     []byte // what may only be sent after that
	reading  bool   // reads to the end, whatever comes
	finished bool   // does not send any more
	ended    error

	allowed  simReasons
	badSince int64 // since when a verdict is due; 0: it is not
}

func (n *simPeer) String() string {
	return fmt.Sprintf("%s peer %d, received %d, ended %v", simKindNames[n.kind], n.key, n.in.next, n.ended)
}

// start makes n behave on p, which is being connected or was just accepted.
func (n *simPeer) start(p *sim.Peer) {
	n.p = p
	n.reading = true
	n.answers = n.kind != peerDeaf
	p.OnData = n.data
	p.OnClose = func(err error) {
		n.ended = err
		n.finished = true
	}
	n.l.seen["peer: "+simKindNames[n.kind]]++
}

// run begins the peer's life, once it is connected.
func (n *simPeer) run() {
	l, p := n.l, n.p
	liveness := n.app.liveness
	tolerance := liveness.Tolerance()
	life := 1 + l.wait(l.active)
	n.beat()
	switch n.kind {
	case peerHealthy, peerResetter, peerVanisher, peerRebooter, peerUnreachable, peerFrozen, peerNapper, peerCloser,
		peerHalfCloser, peerUnreadCloser, peerOutage, peerStubborn, peerUnreading:
		n.chat(l.active)
	}
	switch n.kind {
	case peerBulk:
		var b []byte
		for len(b) < int(l.buffers.Min)*3/4 {
			b = append(b, n.frame(orderNothing, 32<<10)...)
		}
		l.kServer.Stall(50 * time.Millisecond) // until all of it has arrived
		l.spent += int64(50 * time.Millisecond)
		p.Send(b)
	case peerTrickler:
		n.trickle(n.frame(orderEcho, simHeader+l.pick(40)), 3)
	case peerCloser:
		p.After(life, func() { n.finish(); p.Close() })
	case peerHalfCloser:
		p.After(life, func() {
			if l.pick(2) == 0 {
				// What it is to get waits for a while.
				p.Send(n.frame(orderFlood, simHeader))
				p.Pause()
				l.w.After(l.wait(300e6), p.Resume)
			}
			n.finish()
			p.CloseWrite()
		})
	case peerUnreadCloser:
		p.After(life, func() {
			n.reading = false
			p.Pause()
			p.Send(n.frame(orderBurst, simHeader))
			n.finish()
			p.After(l.wait(100e6), p.Close)
		})
	case peerResetter:
		p.After(life, func() {
			n.finish()
			n.reading = false
			n.allowed |= reasons(engine.PeerReset)
			p.Reset()
		})
	case peerStubborn:
		p.HalfOpen = true
		if l.pick(2) == 0 {
			p.Every(200*time.Millisecond, func() {
				if l.busy() {
					p.Send(n.frame(orderNothing, simHeader))
				}
			})
		}
	case peerVanisher:
		p.After(life, func() { n.bad(); p.Vanish() })
	case peerRebooter:
		p.After(life, func() {
			n.bad()
			n.allowed |= reasons(engine.PeerReset)
			p.Reboot(l.wait(3e9))
		})
	case peerUnreachable:
		p.After(life, func() {
			n.bad()
			n.allowed |= reasons(engine.Unreachable)
			errno := sys.EHOSTUNREACH
			if l.pick(2) == 0 {
				errno = sys.ENETUNREACH
			}
			p.Unreachable(errno, l.wait(2e9))
		})
	case peerFrozen:
		p.After(life, func() { n.bad(); p.Freeze() })
	case peerNapper:
		if tolerance > 0 {
			nap := min(tolerance, l.active)
			p.After(life, func() {
				p.Freeze()
				l.w.After(l.wait(nap), p.Thaw)
			})
		}
	case peerOutage:
		if tolerance > 0 && l.cfg.UserTimeout == 0 {
			outage := min(tolerance, l.active)
			p.After(life, func() { p.Outage(l.wait(outage)) })
		}
	case peerDeaf:
		n.bad()
		n.reading = true
		p.Every(max(liveness.Interval/2, 100*time.Millisecond), func() { p.Send(n.frame(orderNothing, simHeader)) })
	case peerUnreading:
		p.After(life, func() {
			n.bad()
			p.Pause()
			p.Send(n.frame(orderFlood, simHeader))
		})
	case peerMalformed:
		p.After(life, func() {
			n.finish()
			n.allowed |= reasons(engine.ProtocolError, engine.PeerReset)
			if l.lengthField {
				n.allowed |= reasons(engine.FrameTooLarge)
				p.Send([]byte{0xff, 1, 2, 3, 4})
			} else {
				p.Send([]byte{0, 0, 1, 0x7f, 0})
			}
		})
	case peerTooLarge:
		p.After(life, func() {
			n.finish()
			n.allowed |= reasons(engine.FrameTooLarge, engine.PeerReset)
			p.Send([]byte{0xff, 0xff, 0xff, 0, 1})
		})
	case peerStaller:
		p.After(life, func() {
			f := n.frame(orderEcho, simHeader+100)
			n.sent--
			n.bad()
			n.reading = true
			p.Send(f[:1+l.pick(len(f)-1)])
		})
	case peerCutOff:
		p.After(life, func() {
			f := n.frame(orderEcho, simHeader+100)
			n.sent--
			n.finish()
			p.Send(f[:1+l.pick(len(f)-1)])
			p.CloseWrite()
		})
	}
}

// beat makes the peer send heartbeats of its own, where the engine waits for
// them and cannot ask.
func (n *simPeer) beat() {
	liveness, props := n.app.liveness, n.l.codecProps
	every := liveness.Interval / 4
	switch {
	case liveness.IdleRead > 0 && liveness.Interval == 0:
		every = liveness.IdleRead / 4
	case n.app.name == "client" && !props.Directed:
		return // it is the engine that asks
	case props.Directed && (n.kind == peerSilent || n.l.pick(3) > 0):
		return // it is asked
	}
	if every == 0 || n.kind == peerDeaf {
		return
	}
	n.p.Every(every+1, func() {
		n.heartbeat(n.codec.AppendPing(nil, codec.Beat{}))
	})
}

// finish notes that the peer says no more and ends the connection.
func (n *simPeer) finish() {
	n.finished = true
	n.allowed |= reasons(engine.PeerClosed, engine.PeerReset)
}

// bad notes that from now on a verdict is due.
func (n *simPeer) bad() {
	n.finished = true
	n.reading = false
	n.badSince = n.l.w.Now()
	n.allowed |= reasons(engine.HeartbeatLost, engine.Deaf, engine.Idle, engine.FrameTimeout, engine.SlowConsumer)
	if n.l.cfg.UserTimeout > 0 || n.l.cfg.KeepAlive > 0 {
		n.allowed |= reasons(engine.KernelTimeout)
	}
}

// frame encodes the next message.
func (n *simPeer) frame(order simOrder, size int) []byte {
	m := simMessage{sender: n.key, number: n.sent, order: order, arg: uint32(n.l.pick(1 << 20)), size: size}
	n.sent++
	b, err := n.codec.Append(nil, codec.Data, m.encode())
	if err != nil {
		n.l.problem("peer: %v", err)
	}
	return b
}

// chat sends some messages within d.
func (n *simPeer) chat(d time.Duration) {
	l := n.l
	for range 1 + l.pick(8) {
		n.p.After(l.wait(d), func() {
			if n.finished || !l.busy() {
				return
			}
			var b []byte
			for range 1 + l.pick(4) {
				size := simHeader + l.pick(200)
				if l.pick(15) == 0 {
					size = l.bigSize()
				}
				b = append(b, n.frame(l.order(), size)...)
			}
			n.p.Send(b)
		})
	}
}

// trickle sends b a few bytes at a time, and then some more frames.
func (n *simPeer) trickle(b []byte, more int) {
	if n.finished {
		return
	}
	if len(b) == 0 {
		n.within = false
		n.p.Send(n.held)
		n.held = nil
		if more == 0 {
			return
		}
		b = n.frame(orderEcho, simHeader+n.l.pick(40))
		more--
	}
	n.within = true
	k := 1 + n.l.pick(min(len(b), 9))
	n.p.Send(b[:k])
	n.p.After(n.l.wait(30e6), func() { n.trickle(b[k:], more) })
}

// heartbeat sends b, at the next boundary between frames.
func (n *simPeer) heartbeat(b []byte) {
	switch {
	case n.finished:
	case n.within:
		n.held = append(n.held, b...)
	default:
		n.p.Send(b)
	}
}

// data decodes what was read, answers heartbeats and checks messages.
func (n *simPeer) data(b []byte) {
	l := n.l
	n.buf = append(n.buf, b...)
	for len(n.buf) > 0 {
		f, used, _, err := n.codec.Decode(n.buf)
		if err != nil {
			l.problem("%v cannot decode what it got: %v", n, err)
			n.buf = nil
			return
		}
		if used == 0 {
			return
		}
		switch f.Kind {
		case codec.Ping:
			// Where pings and answers look alike, only the client asks.
			if n.answers && l.codecProps.Answered && (l.codecProps.Directed || n.app.name == "client") {
				n.heartbeat(n.codec.AppendPong(nil, f.Payload))
			}
		case codec.Data:
			m, err := decodeSimMessage(f.Payload)
			if err == nil {
				err = n.in.receive(m)
			}
			if err == nil && n.conn != nil && n.conn.key != m.sender {
				err = fmt.Errorf("a message of connection %d, but %d is its far end", m.sender, n.conn.key)
			}
			if err != nil {
				l.problem("%v: %v", n, err)
				n.buf = nil
				return
			}
		case simFrame:
			n.frames++
		case codec.GoAway:
			l.seen["peer: told to go away"]++
		}
		n.buf = n.buf[used:]
	}
}

// wellBehaved reports whether nothing the peer did may end the connection.
func (n *simPeer) wellBehaved() bool { return n.allowed == 0 && n.badSince == 0 }

// sawEnd reports whether the peer has read everything that the engine's kernel
// sent, up to the FIN.
func (n *simPeer) sawEnd() bool { return n.reading && n.ended == io.EOF }

// verdictDue reports whether what the peer does wrong must be found.
func (n *simPeer) verdictDue() bool {
	if n.badSince == 0 || n.app.liveness.WorstCase() == 0 {
		return false
	}
	if n.kind == peerDeaf {
		l := n.app.liveness
		return l.Interval > 0 && l.Confirm >= 0 && (n.l.codecProps.Directed || n.app.name == "client")
	}
	return true
}
