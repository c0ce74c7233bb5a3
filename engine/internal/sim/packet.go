package sim

import "github.com/pulsewheel/pulsewheel/engine/internal/sys"

// packet is what travels between two sockets.
type packet struct {
	from, to *sock
	kind     packetKind
	data     []byte
	acked    int64 // bytes received
	edge     int64 // bytes there is room for, counted from the beginning
	fin      bool  // FIN received
}

type packetKind uint8

const (
	synAck packetKind = iota
	handshakeAck
	data
	ack
	fin
	rst
	urgent
)

func (k packetKind) String() string {
	return [...]string{"SYN ACK", "handshake ACK", "data", "ACK", "FIN", "RST", "urgent data"}[k]
}

// xmit sends a packet to the other end, behind those sent before.
func (w *World) xmit(s *sock, kind packetKind) *packet {
	var p *packet
	if n := len(w.freePackets); n > 0 {
		p = w.freePackets[n-1]
		w.freePackets = w.freePackets[:n-1]
	} else {
		p = new(packet)
	}
	s.told = s.rcvd + int64(s.rcvCap-s.rcv.len())
	*p = packet{
		from: s, to: s.other, kind: kind, data: p.data[:0],
		acked: s.rcvd, edge: s.told, fin: s.finIn,
	}
	s.arrival = max(s.arrival, w.now+s.link.delay(w))
	w.push(s.arrival, p)
	return p
}

func (w *World) free(p *packet) {
	const most = 1024
	if len(w.freePackets) < most {
		p.from, p.to = nil, nil
		w.freePackets = append(w.freePackets, p)
	}
}

func (p *packet) act(w *World, _ entry) {
	s := p.from
	if len(s.held) > 0 {
		s.held = append(s.held, p)
	} else if cut := p.cutUntil(); cut > w.now {
		s.held = append(s.held, p)
		s.retransmit(cut)
	} else {
		p.arrive(w)
	}
}

// cutUntil returns when the way is open, or was last shut.
func (p *packet) cutUntil() int64 {
	if p.from.host == p.to.host {
		return 0
	}
	return max(p.from.host.cutUntil, p.to.host.cutUntil)
}

// retransmit schedules the first retransmission that passes, of a packet that
// was lost now: RTO, 3 RTO, 7 RTO and so on from now (RFC 6298, 5.5). What was
// sent behind it arrives with it.
func (s *sock) retransmit(cut int64) {
	at, rto := s.w.now, 200e6+2*s.link.latency
	for at <= cut {
		at += rto
		rto *= 2
	}
	s.w.push(at, (*recovery)(s))
}

type recovery sock

func (r *recovery) act(w *World, _ entry) {
	s := (*sock)(r)
	if cut := s.held[0].cutUntil(); cut > w.now {
		s.retransmit(cut)
		return
	}
	held := s.held
	s.held = nil
	for _, p := range held {
		p.arrive(w)
	}
}

func (p *packet) arrive(w *World) {
	from, to := p.from, p.to
	defer w.free(p)
	switch {
	case from.host.unplugged || to.host.unplugged:
	case to.gone:
		if to.rebootAt != 0 && w.now >= to.rebootAt && p.kind != rst {
			w.xmit(to, rst) // from a machine that knows nothing of this connection
		}
	default:
		w.trace.packet(w.now, p)
		to.receive(p)
	}
}

func (s *sock) receive(p *packet) {
	w := s.w
	switch p.kind {
	case synAck:
		if !s.connecting {
			s.other = p.from
			w.xmit(s, rst)
			return
		}
		s.connecting = false
		s.other = p.from
		s.edge = p.edge
		s.heard = w.now
		w.xmit(s, handshakeAck)
		s.notify(out)
		s.transmit()
		return
	case rst:
		s.reset()
		return
	case handshakeAck:
		if s.embryo != nil {
			s.embryo.established(s)
		} else if s.group.accept != nil && !s.dead {
			s.peer = &Peer{w: w, s: s, accept: s.group.accept}
			s.peer.kick()
		}
		return
	}
	if s.dead {
		// The connection is unknown here by now.
		if p.kind != ack {
			w.xmit(s, rst)
		}
		return
	}
	s.heard = w.now
	if p.acked > s.acked || p.fin && s.finSent && !s.finAcked {
		s.progress = w.now
	}
	s.acked = max(s.acked, p.acked)
	s.edge = max(s.edge, p.edge)
	s.finAcked = s.finAcked || p.fin && s.finSent
	s.transmit()
	if s.noSpace && s.spacious() && !s.finOut {
		s.noSpace = false
		s.notify(out)
	}
	switch p.kind {
	case data:
		if s.orphan {
			w.counts[cLateData]++
			s.abort()
			return
		}
		s.rcv.push(p.data)
		s.rcvd += int64(len(p.data))
		s.rcvdAt = w.now
		p.from.arrived = w.now
		if s.peer != nil && s.peer.OnArrival != nil {
			s.peer.OnArrival(w.now, len(p.data))
		}
		w.xmit(s, ack)
		s.notify(in)
	case urgent:
		if s.orphan {
			s.abort()
			return
		}
		w.counts[cUrgent]++
		s.marked, s.mark = true, s.rcvd
		s.notify(in | pri)
	case fin:
		s.finIn = true
		w.xmit(s, ack)
		s.notify(in | rdhup | hup)
	}
}

// reset is tcp_reset: what arrived can still be read, what was to be sent is
// lost.
func (s *sock) reset() {
	switch {
	case s.dead:
	case s.finIn && s.finOut && s.finAcked:
		// Closed in both directions (TIME_WAIT): nothing to tell.
	case s.finIn && !s.finOut:
		s.w.counts[cBrokenPipe]++
		s.die(sys.EPIPE)
	case s.connecting:
		s.die(sys.ECONNRESET)
	default:
		s.w.counts[cReset]++
		s.die(sys.ECONNRESET)
	}
}
