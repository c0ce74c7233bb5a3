package engine_test

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sort"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/engine/internal/sim"
	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
	"github.com/pulsewheel/pulsewheel/heartbeat"
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
	peerMute    // never sends a whole frame
	peerRandom  // sends random bytes
	peerSipper  // reads little by little
	peerHeld    // has itself paused, and then does what one must notice
	lastKind
)

var simKindNames = [lastKind]string{
	"healthy", "silent", "trickler", "closer", "half-closer", "unread closer", "resetter", "stubborn", "vanisher",
	"rebooter", "unreachable", "frozen", "napper", "deaf", "unreading", "malformed", "too large", "cut off", "fleeing",
	"outage", "bulk", "staller", "mute", "random", "sipper", "held",
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
	castsIn  simCastsIn
	frames   uint32 // frames of kind simFrame received
	bytesIn  int64  // of messages and those frames
	sent     uint32
	bytes    int64   // sent
	ends     []int64 // where each message ends in them
	answers  bool    // answers heartbeats
	within   bool    // a frame, of which the rest is to come
	held     []byte  // what may only be sent after that
	reading  bool    // reads to the end, whatever comes
	finished bool    // does not send any more
	junk     bool    // what it sends is random
	ended    error
	arrivals []simArrival // of bytes at its kernel

	from      netip.Addr // where it comes from; zero: from where nobody else does
	unwelcome bool       // Allow refuses it
	probes    bool       // it came to see whether there is room

	allowed   simReasons
	badSince  int64         // since when a verdict is due; 0: it is not
	stalledAt int64         // since when a frame is not continued; 0: it is
	finAt     int64         // when it ended its stream
	resetAt   int64         // when it reset the connection
	tasksThen int           // that were given by then
	pausedFor time.Duration // for which it, or its link, stood still
}

// simArrival is some bytes that have come.
type simArrival struct {
	at int64
	n  int
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
	if n.app.limits.Backlog.DrainWindow > 0 {
		p.OnArrival = func(now int64, k int) { n.arrivals = append(n.arrivals, simArrival{now, k}) }
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
	if n.app.door.FirstFrame > 0 && n.kind != peerMute {
		n.heartbeat(n.codec.AppendPing(nil, codec.Beat{}))
	}
	switch n.kind {
	case peerHealthy, peerResetter, peerVanisher, peerRebooter, peerUnreachable, peerFrozen, peerNapper, peerCloser,
		peerHalfCloser, peerUnreadCloser, peerOutage, peerStubborn, peerUnreading, peerSipper, peerHeld:
		n.chat(l.active)
	}
	switch n.kind {
	case peerBulk:
		var frames [][]byte
		size := 32 << 10 // read to buffers of their own, or several at a time
		if l.pick(2) == 0 {
			size = 8 << 10
		}
		for total := 0; total < int(l.buffers.Min)*3/4; total += size {
			frames = append(frames, n.frame(orderNothing, size))
		}
		l.kServer.Stall(50 * time.Millisecond) // until all of it has arrived
		l.spent += int64(50 * time.Millisecond)
		n.put(frames...)
		if l.pick(2) == 0 {
			n.finish() // an end behind more than one event reads
			p.CloseWrite()
		}
	case peerTrickler:
		if l.aside.IntN(2) == 0 {
			n.runTogether(l.w.Now() + int64(l.active))
		} else {
			n.trickle(n.frame(orderEcho, simHeader+l.pick(40)), 3)
		}
	case peerCloser:
		p.After(life, func() { n.finish(); p.Close() })
	case peerHalfCloser:
		p.After(life, func() {
			if l.pick(2) == 0 {
				n.leaveWaiting()
			}
			if l.pick(2) == 0 {
				n.put(n.frame(orderDo, simHeader))
			}
			n.finish()
			p.CloseWrite()
			if l.pick(3) == 0 {
				p.After(l.wait(200e6), n.reset)
			}
		})
	case peerUnreadCloser:
		p.After(life, func() {
			n.reading = false
			p.Pause()
			n.put(n.frame(orderBurst, simHeader))
			n.finish()
			p.After(l.wait(100e6), p.Close)
		})
	case peerResetter:
		p.After(life, func() {
			n.finish()
			n.reset()
		})
	case peerStubborn:
		p.HalfOpen = true
		if l.pick(2) == 0 {
			p.Every(200*time.Millisecond, func() {
				if l.busy() {
					n.put(n.frame(orderNothing, simHeader))
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
			nap := l.wait(min(tolerance, l.active))
			p.After(life, func() {
				n.standsStill(nap)
				p.Freeze()
				l.w.After(nap, p.Thaw)
			})
		}
	case peerOutage:
		if tolerance > 0 && l.cfg.UserTimeout == 0 {
			outage := l.wait(min(tolerance, l.active))
			p.After(life, func() {
				n.standsStill(2*outage + 400*time.Millisecond) // until TCP tries again
				p.Outage(outage)
			})
		}
	case peerDeaf:
		n.bad()
		n.reading = true
		p.Every(max(liveness.Interval/2, 100*time.Millisecond), func() { n.put(n.frame(orderNothing, simHeader)) })
	case peerUnreading:
		p.After(life, func() {
			n.bad()
			p.Pause()
			n.put(n.frame(orderFlood, simHeader))
			for range l.pick(4) {
				n.put(n.frame([]simOrder{orderFlood, orderCast, orderCastAll, orderProbe, orderOwned}[l.pick(5)], simHeader))
			}
			l.w.After(100*time.Millisecond, n.expectDrain)
		})
	case peerMalformed:
		p.After(life, func() {
			if n.app.liveness != (heartbeat.Config{}) && l.pick(2) == 0 {
				n.leaveWaiting()
				// A heartbeat among it.
				n.heartbeat(n.codec.AppendPing(nil, codec.Beat{}))
			}
		})
		p.After(life+l.wait(100e6), func() {
			n.finish()
			n.allowed |= reasons(engine.ProtocolError, engine.PeerReset)
			if l.lengthField {
				n.allowed |= reasons(engine.FrameTooLarge)
				n.raw([]byte{0xff, 1, 2, 3, 4})
			} else {
				n.raw([]byte{0, 0, 1, 0x7f, 0})
			}
		})
	case peerTooLarge:
		p.After(life, func() {
			n.finish()
			n.allowed |= reasons(engine.FrameTooLarge, engine.PeerReset)
			n.raw([]byte{0xff, 0xff, 0xff, 0, 1})
		})
	case peerStaller:
		p.After(life, func() {
			if l.buffers.Min >= 16<<10 && l.aside.IntN(2) == 0 {
				n.put(n.frame(orderNothing, 40<<10)) // read into a buffer of its own, as what follows may be
				p.After(200*time.Millisecond, n.stall)
			} else {
				n.stall()
			}
		})
	case peerMute:
		n.bad()
		n.reading = true
		n.allowed |= reasons(engine.HandshakeTimeout)
		if l.pick(2) == 0 {
			n.stall()
		}
	case peerRandom:
		p.After(life, n.babble)
	case peerSipper:
		n.allowed |= reasons(engine.HeartbeatLost, engine.Deaf, engine.Idle)
		n.reading = false
		p.Pause()
		each := 64 + l.pick(2000)
		p.Every(time.Duration(20+l.pick(80))*time.Millisecond, func() { p.Sip(each) })
		for range l.pick(3) {
			p.After(l.wait(l.active), func() {
				if !n.finished {
					n.put(n.frame([]simOrder{orderFlood, orderCast, orderCastAll, orderProbe}[l.pick(4)], simHeader))
				}
			})
		}
	case peerHeld:
		p.After(life, n.hold)
	case peerCutOff:
		p.After(life, func() {
			f := n.frame(orderEcho, simHeader+100)
			n.sent--
			n.finish()
			n.raw(f[:1+l.pick(len(f)-1)])
			p.CloseWrite()
		})
	}
}

// stall begins a frame, and sends no more of it, or a byte now and then.
func (n *simPeer) stall() {
	l, p := n.l, n.p
	var before []byte
	if n.kind == peerStaller && l.pick(3) == 0 {
		before = n.frame(orderPause, simHeader)
		n.ends = append(n.ends, n.bytes+int64(len(before)))
	}
	f := n.frame(orderEcho, simHeader+l.pick(300))
	n.sent--
	n.bad()
	n.reading = true
	n.stalledAt = l.w.Now()
	cut := 1 + l.pick(len(f)-1)
	if l.pick(2) == 0 {
		n.raw(append(before, f[:cut]...))
		return
	}
	n.raw(append(before, f[0]))
	l.seen["peer: a byte at a time"]++
	rest := f[1 : len(f)-1]
	every := 1 + l.wait(200*time.Millisecond)
	var drip func()
	drip = func() {
		if len(rest) > 0 {
			n.raw(rest[:1])
			rest = rest[1:]
			p.After(every, drip)
		}
	}
	p.After(every, drip)
}

// babble sends random bytes.
func (n *simPeer) babble() {
	l := n.l
	n.junk = true
	n.bad()
	n.reading = true
	n.allowed |= reasons(engine.ProtocolError, engine.FrameTooLarge, engine.PeerClosed, engine.PeerReset)
	b := make([]byte, 1+l.pick(300))
	for i := range b {
		b[i] = byte(l.pick(256))
	}
	if l.pick(2) == 0 { // a length that is not absurd
		clear(b[:min(len(b), 2)])
	}
	n.raw(b)
	if l.pick(3) == 0 {
		n.p.After(l.wait(100e6), n.p.Close)
	}
}

// hold has itself paused, and then goes on in one of the ways that somebody has
// to notice who does not read.
func (n *simPeer) hold() {
	l, p := n.l, n.p
	if n.finished {
		return
	}
	n.put(n.frame(orderPause, simHeader))
	p.After(10*time.Millisecond+l.wait(60*time.Millisecond), func() {
		if n.finished {
			return
		}
		what := l.pick(5)
		if n.conn != nil && n.conn.pause.held {
			l.seen["paused: the peer "+[]string{"resets", "ends its stream", "vanishes", "floods", "waits"}[what]]++
		}
		n.put(n.frame(orderEcho, simHeader), n.frame(orderEcho, simHeader+l.pick(2000)))
		switch what {
		case 0:
			p.After(l.wait(20*time.Millisecond), func() {
				n.finish()
				n.reset()
			})
		case 1:
			n.finish()
			p.CloseWrite()
		case 2:
			n.bad()
			p.Vanish()
		case 3:
			for size := 0; size < 60<<10; size += 4 << 10 {
				n.put(n.frame(orderEcho, 4<<10))
			}
		}
	})
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
	if every == 0 || n.kind == peerDeaf || n.kind == peerMute {
		return
	}
	n.p.Every(every+1, func() {
		n.heartbeat(n.codec.AppendPing(nil, codec.Beat{}))
	})
}

// finish notes that the peer says no more and ends the connection.
func (n *simPeer) finish() {
	n.finished = true
	n.finAt = n.l.w.Now()
	if n.conn != nil {
		n.tasksThen = n.conn.tasks
	}
	n.allowed |= reasons(engine.PeerClosed, engine.PeerReset)
}

// reset ends the connection at once.
func (n *simPeer) reset() {
	n.reading = false
	n.resetAt = n.l.w.Now()
	n.p.Reset()
}

// bad notes that from now on a verdict is due.
func (n *simPeer) bad() {
	n.finished = true
	n.reading = false
	n.badSince = n.l.w.Now()
	n.allowed |= reasons(engine.HeartbeatLost, engine.Deaf, engine.Idle, engine.FrameTimeout)
	if n.l.cfg.UserTimeout > 0 || n.l.cfg.KeepAlive > 0 {
		n.allowed |= reasons(engine.KernelTimeout)
	}
}

// leaveWaiting asks for a flood, and reads nothing of it for a while.
func (n *simPeer) leaveWaiting() {
	n.put(n.frame(orderFlood, simHeader))
	n.p.Pause()
	d := n.l.wait(300e6)
	n.standsStill(d)
	n.l.w.After(d, n.p.Resume)
}

// standsStill notes that what the peer is to send or to read takes d longer.
func (n *simPeer) standsStill(d time.Duration) {
	n.pausedFor += d
	if limit := n.app.frameTimeout(); n.pausedFor >= limit-100*time.Millisecond {
		n.allowed |= reasons(engine.FrameTimeout)
	}
	if first := n.app.door.FirstFrame; first > 0 && n.pausedFor >= first-100*time.Millisecond {
		n.allowed |= reasons(engine.HandshakeTimeout)
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

// put sends messages.
func (n *simPeer) put(frames ...[]byte) {
	var b []byte
	for _, f := range frames {
		b = append(b, f...)
		n.ends = append(n.ends, n.bytes+int64(len(b)))
	}
	n.raw(b)
}

// raw sends bytes.
func (n *simPeer) raw(b []byte) {
	n.bytes += int64(len(b))
	n.p.Send(b)
	if l := n.l; l.urgent && l.aside.IntN(8) == 0 {
		n.p.SendUrgent()
	}
}

// delivered returns how many of its messages have reached the engine's kernel
// whole.
func (n *simPeer) delivered() uint32 {
	got := n.p.Delivered()
	return uint32(sort.Search(len(n.ends), func(i int) bool { return n.ends[i] > got }))
}

// chat sends some messages within d.
func (n *simPeer) chat(d time.Duration) {
	l := n.l
	for range 1 + l.pick(8) {
		n.p.After(l.wait(d), func() {
			if n.finished || !l.busy() {
				return
			}
			var frames [][]byte
			for range 1 + l.pick(4) {
				size := simHeader + l.pick(200)
				if l.pick(15) == 0 {
					size = l.bigSize()
				}
				frames = append(frames, n.frame(l.order(), size))
			}
			n.put(frames...)
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
		n.ends = append(n.ends, n.bytes)
		n.raw(n.held)
		n.held = nil
		if more == 0 {
			return
		}
		b = n.frame(orderEcho, simHeader+n.l.pick(40))
		more--
	}
	n.within = true
	k := 1 + n.l.pick(min(len(b), 9))
	n.raw(b[:k])
	n.p.After(n.l.wait(30e6), func() { n.trickle(b[k:], more) })
}

// runTogether sends frames in pieces that end within a frame: until then there is
// always the beginning of one, and none takes long.
func (n *simPeer) runTogether(until int64) {
	l := n.l
	n.within = true
	var b []byte // what is still to be sent of whole frames
	var send func()
	send = func() {
		if n.finished {
			return
		}
		for len(b) < 60 {
			b = append(b, n.held...)
			n.held = nil
			b = append(b, n.frame(orderEcho, simHeader+l.aside.IntN(40))...)
			n.ends = append(n.ends, n.bytes+int64(len(b)))
		}
		if l.w.Now() > until {
			n.within = false
			n.raw(b)
			return
		}
		k := 1 + l.aside.IntN(40)
		if slices.Contains(n.ends, n.bytes+int64(k)) {
			k++
		}
		n.raw(b[:k])
		b = b[k:]
		n.p.After(time.Duration(1+l.aside.Int64N(100e6)), send)
	}
	send()
}

// heartbeat sends b, at the next boundary between frames.
func (n *simPeer) heartbeat(b []byte) {
	switch {
	case n.finished:
	case n.within:
		n.held = append(n.held, b...)
	default:
		n.raw(b)
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
			if err := n.message(f.Payload); err != nil {
				l.problem("%v: %v", n, err)
				n.buf = nil
				return
			}
			n.bytesIn += int64(used)
		case simFrame:
			n.frames++
			n.bytesIn += int64(used)
		case codec.GoAway:
			l.seen["peer: told to go away"]++
			if g, err := codec.ParseGoAway(f.Payload); err != nil || g.RetryAfter != n.app.limits.RetryAfter {
				l.problem("%v is told to come back after %v (%v), want %v", n, g.RetryAfter, err, n.app.limits.RetryAfter)
			}
		}
		n.buf = n.buf[used:]
	}
}

func (n *simPeer) message(payload []byte) error {
	m, err := decodeSimMessage(payload)
	if err != nil {
		return err
	}
	if g := n.l.casts[m.sender]; g != nil {
		return n.castsIn.receive(g, m, n.conn)
	}
	if err := n.in.receive(m); err != nil {
		return err
	}
	if n.conn != nil && n.conn.key != m.sender {
		return fmt.Errorf("a message of connection %d, but %d is its far end", m.sender, n.conn.key)
	}
	return nil
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
