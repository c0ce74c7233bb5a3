package sim

import (
	"fmt"
	"net/netip"
	"syscall"

	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// sock is one end of a connection, as the kernel keeps it. It outlives its
// descriptor while it has something to send.
//
// Errors, shutdowns and readiness follow Linux's tcp_recvmsg, tcp_sendmsg,
// tcp_reset and tcp_poll; loopback_linux_test.go compares them with the real
// ones.
type sock struct {
	// Set once, or when the handshake completes.
	w             *World
	id            int
	host          *host
	local, remote netip.AddrPort
	unix          bool // remote is zero
	link          *link
	other         *sock

	// Who is told: a descriptor, a scripted peer, or nobody yet or any more.
	file   *file
	peer   *Peer
	group  *group    // of an accepting side
	embryo *listener // counts it as half-open
	queued *listener // has it in its queue

	connecting bool
	dead       bool          // reset, timed out, refused or never connected
	orphan     bool          // closed by its program; the kernel goes on sending
	gone       bool          // the machine vanished: nothing is heard from it
	rebootAt   int64         // when a vanished machine begins to answer with RST; 0 is never
	err        syscall.Errno // pending, told once

	// Receiving.
	rcv     fifo
	rcvCap  int
	rcvd    int64 // bytes that arrived
	rcvdAt  int64 // when the last of them did
	told    int64 // up to which byte the other side was told it may send
	finIn   bool
	finTold bool  // read has returned it
	marked  bool  // there is urgent data,
	mark    int64 // behind so many bytes

	// Sending. A byte is in snd, then in flight, then acknowledged.
	snd      fifo
	sndCap   int
	sent     int64
	acked    int64
	edge     int64 // up to which byte the other side has room
	finOut   bool  // asked for
	finSent  bool
	finAcked bool
	noSpace  bool      // somebody wants to know when there is room
	arrival  int64     // of the last packet sent; the next one cannot overtake it
	arrived  int64     // when data last reached the other side
	heard    int64     // when something was last acknowledged
	held     []*packet // lost in an outage, with what was sent behind them

	// Urgent data: behind which byte of what is sent, whether it is yet to be sent, and
	// whether the other side has yet to read as far.
	urgentAt             int64
	urgentDue, urgentOut bool

	// Giving up on unacknowledged data.
	patience    int64 // 0 is endless
	patienceErr syscall.Errno
	watching    bool
	progress    int64 // when the oldest unacknowledged byte was sent, or the last one acknowledged
}

func (w *World) newSock(h *host) *sock {
	w.sockets++
	s := &sock{
		w: w, id: w.sockets, host: h, heard: w.now,
		rcvCap:      int(w.draw(w.cfg.Buffers)),
		sndCap:      int(w.draw(w.cfg.Buffers)),
		patience:    int64(w.cfg.UserTimeout),
		patienceErr: sys.ETIMEDOUT,
	}
	s.told = int64(s.rcvCap)
	return s
}

func (s *sock) String() string {
	what := "socket"
	if s.peer != nil {
		what = "peer"
	}
	return fmt.Sprintf("%s %d (%v to %v)", what, s.id, s.local, s.remote)
}

// link is the way between the two ends of one connection.
type link struct{ latency int64 }

func (w *World) newLink(a, b *host) *link {
	if a == b {
		return &link{w.draw(Range{5e3, 30e3})}
	}
	return &link{w.draw(w.cfg.Latency)}
}

func (l *link) delay(w *World) int64 { return l.latency + w.rng.Int64N(l.latency/2+1) }

// state is the readiness, as tcp_poll has it.
func (s *sock) state() (r readiness) {
	if s.connecting {
		return 0
	}
	if s.dead || s.finIn && s.finOut {
		r |= hup
	}
	if s.dead || s.finIn {
		r |= in | rdhup
	}
	if s.rcv.len() > 0 {
		r |= in
	}
	if s.marked {
		r |= pri
	}
	if s.dead || s.finOut || s.spacious() {
		r |= out
	} else {
		s.noSpace = true
	}
	if s.err != 0 {
		r |= errors
	}
	return r
}

// spacious reports whether there is enough room to wake a writer
// (sk_stream_is_writeable).
func (s *sock) spacious() bool { return s.sndCap-s.unacked() >= s.sndCap/3 }

// unacked is what SIOCOUTQ says.
func (s *sock) unacked() int { return s.snd.len() + int(s.sent-s.acked) }

func (s *sock) notify(r readiness) {
	s.file.notify(r)
	if s.peer != nil {
		s.peer.kick()
	}
}

// progressed tells the poller's guard against spinning that its reports serve
// a purpose.
func (s *sock) progressed() {
	if s.file != nil && s.file.reg != nil {
		s.file.reg.idle = 0
	}
}

func (s *sock) takeError() error {
	if s.err == 0 {
		return nil
	}
	err := s.err
	s.err = 0
	return err
}

// read takes what arrived, up to urgent data, which it leaves out, then tells of an
// end or an error, in the order of tcp_recvmsg: a FIN hides an error that came after
// it.
func (s *sock) read(p []byte) (int, error) {
	if s.atMark() {
		s.marked, s.other.urgentOut = false, false
	} else if s.marked {
		p = p[:min(len(p), int(s.mark-s.taken()))]
	}
	switch {
	case s.rcv.len() > 0:
		n := s.rcv.pop(p)
		s.openWindow()
		return n, nil
	case s.finIn:
		s.finTold = true
		return 0, nil
	case s.err != 0:
		return 0, s.takeError()
	case s.dead:
		return 0, nil
	}
	return 0, sys.EAGAIN
}

// taken is how many bytes were read.
func (s *sock) taken() int64 { return s.rcvd - int64(s.rcv.len()) }

func (s *sock) atMark() bool { return s.marked && s.mark == s.taken() }

// unheard reports whether there is something that the program was not told: an error,
// and, unless it has paused reading, input or the end of it.
func (s *sock) unheard(paused bool) bool {
	return s.err != 0 || !paused && (s.rcv.len() > 0 || s.finIn && !s.finTold)
}

// openWindow tells the other side that there is room again: at once if there
// was none, else when it is worth a packet.
func (s *sock) openWindow() {
	if s.dead || s.orphan || s.other == nil {
		return
	}
	edge := s.rcvd + int64(s.rcvCap-s.rcv.len())
	if s.told == s.rcvd || edge-s.told >= int64(s.rcvCap/4) {
		s.w.xmit(s, ack)
	}
}

// room tells how many bytes a write would take, or its error.
func (s *sock) room() (int, error) {
	switch {
	case s.connecting:
		return 0, sys.EAGAIN
	case s.err != 0:
		return 0, s.takeError()
	case s.finOut || s.dead:
		return 0, sys.EPIPE
	}
	if n := s.sndCap - s.unacked(); n > 0 {
		return n, nil
	}
	s.noSpace = true
	s.w.counts[cNoSpace]++
	return 0, sys.EAGAIN
}

// send takes p, for which there must be room.
func (s *sock) send(p []byte) {
	s.buffer(p)
	s.transmit()
}

func (s *sock) buffer(p []byte) { s.snd.push(p) }

// transmit puts on the wire what the other side has room for, and then the FIN.
func (s *sock) transmit() {
	if s.connecting || s.dead || s.gone {
		return
	}
	s.urge()
	for s.snd.len() > 0 && s.sent < s.edge {
		n := min(s.snd.len(), int(s.edge-s.sent), 1+s.w.rng.IntN(64<<10))
		if s.urgentDue && s.sent < s.urgentAt {
			n = min(n, int(s.urgentAt-s.sent))
		}
		s.launch()
		p := s.w.xmit(s, data)
		p.data = s.snd.popAppend(p.data[:0], n)
		s.sent += int64(n)
		if s.sent == s.edge {
			s.w.counts[cZeroWindow]++
		}
		s.urge()
	}
	if s.finOut && !s.finSent && s.snd.len() == 0 {
		s.launch()
		s.w.xmit(s, fin)
		s.finSent = true
	}
}

// urge sends urgent data, if it is its turn.
func (s *sock) urge() {
	if s.urgentDue && s.sent == s.urgentAt && s.sent < s.edge && !s.finSent {
		s.urgentDue, s.urgentOut = false, true
		s.w.xmit(s, urgent)
	}
}

// launch begins to watch over the acknowledgement of what is about to be sent.
func (s *sock) launch() {
	if !s.inFlight() {
		s.progress = s.w.now
	}
	if s.patience > 0 && !s.watching {
		s.watching = true
		s.w.push(s.w.now+s.patience, (*patience)(s))
	}
}

func (s *sock) inFlight() bool { return s.sent > s.acked || s.finSent && !s.finAcked }

// patience is the timer that ends a connection whose data is not acknowledged.
type patience sock

func (p *patience) act(w *World, _ entry) {
	s := (*sock)(p)
	s.watching = false
	if s.dead || s.gone || !s.inFlight() {
		return
	}
	if due := s.progress + s.patience; due > w.now {
		s.watching = true
		w.push(due, p)
		return
	}
	if s.patienceErr == sys.ETIMEDOUT {
		w.counts[cUserTimeout]++
	} else {
		w.counts[cUnreachable]++
	}
	s.die(s.patienceErr)
}

// keepAlive is the timer that ends an idle connection to a vanished machine.
// Unacknowledged data suspends it.
type keepAlive sock

func (p *keepAlive) act(w *World, _ entry) {
	s := (*sock)(p)
	if !s.dead && !s.gone && !s.inFlight() {
		w.counts[cKeepAlive]++
		s.die(sys.ETIMEDOUT)
	}
}

// die ends the connection with a pending error.
func (s *sock) die(errno syscall.Errno) {
	if s.dead {
		return
	}
	s.dead, s.connecting = true, false
	s.err = errno
	s.snd.reset()
	if s.embryo != nil {
		s.embryo.halfOpen--
		s.embryo = nil
	}
	s.notify(in | out | errors | hup | rdhup)
}

// closeWrite is shutdown(2) with SHUT_WR.
func (s *sock) closeWrite() error {
	if s.connecting || s.dead {
		return sys.ENOTCONN
	}
	if !s.finOut {
		s.finOut = true
		if !s.finIn {
			s.w.counts[cHalfClose]++
		}
		s.transmit()
		s.notify(out | hup)
	}
	return nil
}

// close is close(2) of the last descriptor. Input that nobody read makes it a
// reset.
func (s *sock) close() {
	switch {
	case s.dead:
	case s.connecting:
		s.dead, s.connecting = true, false
	case s.rcv.len() > 0 || s.marked:
		s.w.counts[cUnreadClose]++
		s.abort()
	default:
		s.orphan, s.finOut = true, true
		s.transmit()
	}
	s.orphan = true
}

// abort sends RST and drops everything.
func (s *sock) abort() {
	if !s.dead && !s.connecting && !s.gone {
		s.w.xmit(s, rst)
	}
	s.dead, s.connecting, s.orphan = true, false, true
	s.snd.reset()
	s.rcv.reset()
	s.marked = false
}

// vanish is what a pulled cable does: the machine hears and says nothing more.
func (s *sock) vanish() {
	s.gone = true
	if o := s.other; o != nil && s.w.cfg.KeepAlive > 0 {
		s.w.push(s.w.now+int64(s.w.cfg.KeepAlive), (*keepAlive)(o))
	}
}

// later reports r for f a moment from now, as if it had only then come true.
func (w *World) later(f *file, r readiness) {
	if r == in {
		f.echoes++
	}
	w.push(w.now+1+w.rng.Int64N(200e3), &echo{f, r})
}

type echo struct {
	f *file
	r readiness
}

func (e *echo) act(*World, entry) {
	if e.r == in {
		e.f.echoes--
	}
	e.f.notify(e.r)
}
