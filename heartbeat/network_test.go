package heartbeat_test

import (
	"slices"
	"time"
)

// A network carries packets between the ends of a link: datagrams, or the
// segments of a stream that are sent again until they are acknowledged.
type network struct {
	stream bool
	flight int64    // one way
	jitter int64    // up to this much more
	point  [2]int64 // per sender, how long after sending a packet crosses the point where faults happen
	cuts   [2][]span
	slow   [2]span // what crosses meanwhile is held up until its end

	duplicate  int   // one datagram in so many comes twice; 0: none
	overtaken  int   // one datagram in so many is held up …
	overtaking int64 // … by up to this much
	spare      int   // of the messages that are sent, after so many …
	drop       int   // … so many are lost
	nat        nat

	packets   []packet // on their way, unordered
	order     int64
	senders   [2]sender
	receivers [2]receiver
}

type packet struct {
	at    int64
	order int64 // packets that arrive at once do so in this order
	to    int
	ack   bool
	seq   int64 // of a stream: its number, or the one that is awaited
	message
}

func (n *network) reset() {
	cuts := n.cuts
	*n = network{packets: n.packets[:0], senders: n.senders, receivers: n.receivers}
	for i := range n.senders {
		n.cuts[i] = cuts[i][:0]
		n.senders[i] = sender{waiting: n.senders[i].waiting[:0], timer: notime}
		n.receivers[i] = receiver{early: n.receivers[i].early[:0]}
	}
}

// rtt returns the longest round trip.
func (n *network) rtt() int64 { return 2 * (n.flight + n.jitter) }

// rto returns the retransmission timeout, that of Linux for a steady round trip.
func (n *network) rto() int64 { return int64(200*ms) + n.rtt() }

// A nat stands before one end. It lets pass what that end sends, and what comes
// back within a timeout.
type nat struct {
	inside  int // the end behind it
	timeout int64
	inbound bool // what comes in keeps the mapping, too
	strict  bool // a mapping that is forgotten does not come back
	last    int64
	dead    bool
}

// passes reports whether a packet of end i passes the NAT now.
func (l *link) passesNAT(from int) bool {
	n := &l.nat
	if n.timeout == 0 {
		return true
	}
	known := !n.dead && l.now-n.last <= n.timeout
	if !known && n.strict {
		n.dead = true
		return false
	}
	if from == n.inside || known && n.inbound {
		n.last = l.now
	}
	return known || from == n.inside
}

// send hands one message to the network.
func (l *link) send(from int, m message) {
	if l.stream {
		s := &l.senders[from]
		s.waiting = append(s.waiting, segment{s.next, m})
		s.next++
		l.transmitNew(from)
		return
	}
	if l.spare > 0 {
		l.spare--
	} else if l.drop > 0 {
		l.drop--
		if l.tracing {
			l.note("  it is lost")
		}
		return
	}
	l.emit(packet{to: 1 - from, message: m})
	if l.duplicate > 0 && l.rand.IntN(l.duplicate) == 0 {
		l.emit(packet{to: 1 - from, message: m})
	}
}

// emit sends a packet on its way, if it comes through.
func (l *link) emit(p packet) {
	from := 1 - p.to
	if from == l.nat.inside && !l.passesNAT(from) {
		l.note("  the NAT does not know it any more")
		return
	}
	crosses := l.now + l.point[from]
	for _, cut := range l.cuts[from] {
		if cut.has(crosses) {
			if l.tracing {
				l.note("  it is lost")
			}
			return
		}
	}
	p.at = l.now + l.flight
	if l.jitter > 0 {
		p.at += l.rand.Int64N(l.jitter)
	}
	if s := l.slow[from]; s.has(crosses) {
		p.at += s.to - crosses
	}
	if l.overtaken > 0 && !l.stream && l.rand.IntN(l.overtaken) == 0 {
		p.at += l.rand.Int64N(l.overtaking)
	}
	l.order++
	p.order = l.order
	l.packets = append(l.packets, p)
}

// arrive lets the kernel of an end have a packet.
func (l *link) arrive(p packet) {
	if p.to == l.nat.inside && !l.passesNAT(1-p.to) {
		l.note("the NAT before end %d does not know where to", p.to)
		return
	}
	switch {
	case l.ends[p.to].gone:
	case !l.stream:
		l.read(p.to, p.message)
	case p.ack:
		l.acknowledged(p.to, p.seq)
	default:
		l.receive(p)
	}
}

// A sender is the sending half of a TCP: RFC 6298 for when to send again, without
// fast retransmissions, which would be kinder. After a timeout only the first
// segment is sent until it is acknowledged, and then all that waits.
type sender struct {
	waiting []segment // not acknowledged, in order
	sent    int       // so many of them were sent
	next    int64
	timer   int64
	backoff uint
	lossy   bool // a timeout has passed since the last acknowledgement
}

type segment struct {
	seq int64
	message
}

// transmitNew sends what was not sent yet, if the window is open.
func (l *link) transmitNew(from int) {
	s := &l.senders[from]
	if s.lossy {
		return
	}
	for ; s.sent < len(s.waiting); s.sent++ {
		l.transmit(from, s.waiting[s.sent])
	}
}

func (l *link) transmit(from int, x segment) {
	s := &l.senders[from]
	if s.timer == notime {
		s.timer = l.now + l.rto()<<s.backoff
	}
	l.emit(packet{to: 1 - from, seq: x.seq, message: x.message})
}

// retransmit serves the retransmission timer of end i.
func (l *link) retransmit(i int) {
	s := &l.senders[i]
	s.timer = notime
	if len(s.waiting) == 0 {
		return
	}
	s.lossy = true
	s.backoff++
	if s.backoff > 30 { // for longer than any scenario lasts
		return
	}
	if l.tracing {
		l.note("the kernel of end %d sends again, and next in %v", i, time.Duration(l.rto()<<s.backoff))
	}
	l.transmit(i, s.waiting[0])
}

// acknowledged tells end i's kernel that its peer's waits for segment next.
func (l *link) acknowledged(i int, next int64) {
	s := &l.senders[i]
	n := 0
	for n < len(s.waiting) && s.waiting[n].seq < next {
		n++
	}
	if n == 0 {
		return
	}
	s.waiting = slices.Delete(s.waiting, 0, n)
	s.sent = max(0, s.sent-n)
	s.backoff = 0
	if s.lossy {
		s.lossy = false
		s.sent = 0 // the rest may be lost as well
	}
	s.timer = notime
	if len(s.waiting) > 0 {
		s.timer = l.now + l.rto()
	}
	l.transmitNew(i)
}

// A receiver is the receiving half of a TCP.
type receiver struct {
	next  int64
	early []segment // that came before others that are missing
}

func (l *link) receive(p packet) {
	r := &l.receivers[p.to]
	if p.seq >= r.next && !slices.ContainsFunc(r.early, func(x segment) bool { return x.seq == p.seq }) {
		r.early = append(r.early, segment{p.seq, p.message})
	}
	// The acknowledgement leaves before the application can answer.
	first := r.next
	for k := 0; k < len(r.early); {
		if r.early[k].seq == r.next {
			r.next++
			k = 0
			continue
		}
		k++
	}
	l.emit(packet{to: 1 - p.to, ack: true, seq: r.next})
	for seq := first; seq < r.next; seq++ {
		k := slices.IndexFunc(r.early, func(x segment) bool { return x.seq == seq })
		m := r.early[k].message
		r.early = slices.Delete(r.early, k, k+1)
		l.read(p.to, m)
	}
}
