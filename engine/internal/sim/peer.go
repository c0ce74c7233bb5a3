package sim

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// Peer is the far end of a connection: a program on a machine of its own, or
// behind a scripted server, that does what a test tells it to. Set its
// callbacks before any time passes. They run one at a time, on whichever
// goroutine makes time pass, and may call everything here.
type Peer struct {
	// OnConnect follows a successful Dial.
	OnConnect func()
	// OnData receives what was read. The slice is the peer's to keep.
	OnData func(b []byte)
	// OnClose says, once, how reading ended: io.EOF, or the errno of a reset,
	// a refusal or a timeout.
	OnClose func(err error)
	// OnArrival is told how many bytes have just reached the peer's kernel,
	// whether or not the peer reads them. It must not call the simulation.
	OnArrival func(now int64, n int)
	// HalfOpen keeps the connection after the other side's FIN. Otherwise the
	// peer closes, too.
	HalfOpen bool

	// Guarded by World.mu.
	w         *World
	s         *sock
	accept    func(*Peer) // to be called first, on a server's side
	connected bool
	ended     bool // reading is over
	closed    bool // closed, reset, or vanished
	paused    bool
	frozen    bool
	scheduled bool
	unsent    fifo
	finish    finish // once unsent is sent
}

type finish uint8

const (
	goOn finish = iota
	thenCloseWrite
	thenClose
)

// Dial connects a peer on a machine of its own to "tcp://host:port".
func (w *World) Dial(addr string) *Peer { return w.DialFrom(netip.Addr{}, addr) }

// DialFrom is Dial from the machine with that address.
func (w *World) DialFrom(from netip.Addr, addr string) *Peer {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, err := sys.ParseAddr(addr)
	if err != nil {
		panic(err)
	}
	s, err := w.host(from).dial(a)
	if err != nil {
		panic(err)
	}
	s.peer = &Peer{w: w, s: s}
	return s.peer
}

// Serve accepts connections for a scripted server at "host:port". accept is
// called for each and sets the peer's callbacks.
func (w *World) Serve(addr string, accept func(*Peer)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ap := netip.MustParseAddrPort(addr)
	g, err := w.host(ap.Addr()).bind(sys.Addr{
		Network: "tcp", Address: net.JoinHostPort(ap.Addr().String(), strconv.Itoa(int(ap.Port()))),
	})
	if err != nil {
		panic(err)
	}
	g.accept = accept
}

// Unserve lets further connections to a scripted server be refused.
func (w *World) Unserve(addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ap := netip.MustParseAddrPort(addr)
	delete(w.host(ap.Addr()).ports, ap.Port())
}

// kick lets the program run soon.
func (p *Peer) kick() {
	if !p.scheduled {
		p.scheduled = true
		p.w.push(p.w.now+p.w.draw(Range{1e3, 50e3}), p)
	}
}

// act is the program's turn: connect, write, read.
func (p *Peer) act(w *World, _ entry) {
	p.scheduled = false
	s := p.s
	if p.frozen || p.closed || s.connecting {
		return
	}
	if p.accept != nil {
		accept := p.accept
		p.accept = nil
		p.connected = true
		p.call(func() { accept(p) })
	}
	if !p.connected && !s.dead {
		p.connected = true
		if p.OnConnect != nil {
			p.call(p.OnConnect)
		}
	}
	p.flush()
	for !p.paused && !p.frozen && !p.closed && !p.ended {
		b := make([]byte, min(max(s.rcv.len(), 1), 1+w.rng.IntN(16<<10)))
		n, err := s.read(b)
		if err == sys.EAGAIN {
			return
		}
		if n > 0 {
			if p.OnData != nil {
				p.call(func() { p.OnData(b[:n]) })
			}
			continue
		}
		if err == nil {
			err = io.EOF
		}
		p.end(err)
	}
}

// call leaves the world to the test for a moment.
func (p *Peer) call(f func()) {
	p.w.mu.Unlock()
	f()
	p.w.mu.Lock()
}

func (p *Peer) end(err error) {
	p.ended = true
	p.w.trace.note(p.w.now, fmt.Sprintf("%v ends: %v", p.s, err))
	if p.OnClose != nil {
		p.call(func() { p.OnClose(err) })
	}
	if !p.closed && (err != io.EOF || !p.HalfOpen) {
		p.closed = true
		p.s.close()
	}
}

func (p *Peer) flush() {
	for p.unsent.len() > 0 {
		room, err := p.s.room()
		if err == sys.EAGAIN {
			return
		}
		if err != nil {
			p.unsent.reset()
			if errno := err.(syscall.Errno); errno != sys.EPIPE {
				p.s.err = errno // for the read that follows
			}
			return
		}
		room = min(room, p.unsent.len())
		p.s.snd.b = p.unsent.popAppend(p.s.snd.b, room)
		p.s.transmit()
	}
	switch p.finish {
	case thenCloseWrite:
		_ = p.s.closeWrite()
	case thenClose:
		p.closed = true
		p.s.close()
	}
	p.finish = goOn
}

// do locks the world for f, unless the peer is closed.
func (p *Peer) do(f func()) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if !p.closed {
		f()
	}
}

// Send queues b, without limit, and writes it as the kernel takes it.
func (p *Peer) Send(b []byte) {
	p.do(func() {
		if p.finish == goOn {
			p.unsent.push(b)
			p.kick()
		}
	})
}

// SendUrgent sends urgent data behind what is queued, unless a machine with kqueue
// is at the other end, or has yet to read as far as earlier urgent data, which it
// would then find among the rest.
func (p *Peer) SendUrgent() {
	p.do(func() {
		s := p.s
		if p.finish != goOn || s.dead || s.connecting || s.urgentDue || s.urgentOut {
			return
		}
		if k := s.other.host.kernel; k == nil || k.cfg.Kqueue {
			return
		}
		s.urgentDue, s.urgentAt = true, s.sent+int64(s.snd.len()+p.unsent.len())
		p.kick()
	})
}

// CloseWrite sends FIN behind what is queued, and goes on reading.
func (p *Peer) CloseWrite() { p.do(func() { p.finish = max(p.finish, thenCloseWrite); p.kick() }) }

// Close closes once what is queued is written. Unread input makes it a reset.
func (p *Peer) Close() { p.do(func() { p.finish = thenClose; p.kick() }) }

// Reset sends RST at once; what was on its way is lost.
func (p *Peer) Reset() {
	p.do(func() {
		p.closed = true
		p.s.abort()
	})
}

// Pause stops reading: once the buffers are full the window is closed.
func (p *Peer) Pause() { p.do(func() { p.paused = true }) }

// Resume undoes Pause.
func (p *Peer) Resume() { p.do(func() { p.paused = false; p.kick() }) }

// Sip reads once, at most n bytes, paused or not.
func (p *Peer) Sip(n int) {
	p.do(func() {
		if p.frozen || p.ended || !p.connected {
			return
		}
		b := make([]byte, n)
		n, err := p.s.read(b)
		switch {
		case n > 0:
			if p.OnData != nil {
				p.call(func() { p.OnData(b[:n]) })
			}
		case err == nil:
			p.end(io.EOF)
		case err != sys.EAGAIN:
			p.end(err)
		}
	})
}

// Freeze stops the program, as SIGSTOP does: its kernel still acknowledges.
func (p *Peer) Freeze() { p.do(func() { p.frozen = true; p.w.counts[cFreeze]++ }) }

// Thaw undoes Freeze.
func (p *Peer) Thaw() { p.do(func() { p.frozen = false; p.kick() }) }

// Vanish pulls the cable for good. Nobody is told.
func (p *Peer) Vanish() {
	p.do(func() {
		p.w.counts[cVanish]++
		p.w.trace.note(p.w.now, fmt.Sprintf("%v vanishes", p.s))
		p.closed = true
		p.s.vanish()
	})
}

// Unreachable is Vanish where a router knows: the other side gets that errno
// once data of its own was unacknowledged for d.
func (p *Peer) Unreachable(errno syscall.Errno, d time.Duration) {
	p.Vanish()
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if o := p.s.other; o != nil {
		o.patience, o.patienceErr = int64(d), errno
		if o.inFlight() {
			o.launch()
		}
	}
}

// Reboot is Vanish, and after d the machine is back and answers with RST what
// it knows nothing of.
func (p *Peer) Reboot(d time.Duration) {
	p.Vanish()
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.counts[cReboot]++
	p.s.rebootAt = p.w.now + int64(d)
	p.w.push(p.s.rebootAt, (*reboot)(p.s))
}

// reboot answers what was sent while the machine was down, and is sent again.
type reboot sock

func (r *reboot) act(w *World, _ entry) {
	if s := (*sock)(r); s.other != nil && s.other.inFlight() {
		w.xmit(s, rst)
	}
}

// Outage cuts the peer's machine off for d; what is sent meanwhile arrives
// later.
func (p *Peer) Outage(d time.Duration) { p.w.outage(p.s.host, d) }

// After runs f once d has passed, like a callback, if the peer is still there
// and not frozen then.
func (p *Peer) After(d time.Duration, f func()) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.push(p.w.now+int64(d), &alarm{p, f, 0})
}

// Every runs f every d from now on, as long as the peer is there. While it is
// frozen it misses its turns.
func (p *Peer) Every(d time.Duration, f func()) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.push(p.w.now+int64(d), &alarm{p, f, int64(d)})
}

type alarm struct {
	p     *Peer
	f     func()
	every int64 // 0: once
}

func (a *alarm) act(w *World, _ entry) {
	if a.p.closed {
		return
	}
	if a.every > 0 {
		w.push(w.now+a.every, a)
	}
	if !a.p.frozen {
		a.p.call(a.f)
	}
}

// Connected reports whether the connection was established.
func (p *Peer) Connected() bool {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.connected
}

// Queued reports whether the connection waits in a listener's queue: the other
// side's kernel knows of it, its program does not yet.
func (p *Peer) Queued() bool {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.connected && p.s.other != nil && p.s.other.queued != nil
}

// Closed reports whether this side is closed, or the machine gone.
func (p *Peer) Closed() bool {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.closed
}

// LastArrival returns when data of the peer's last reached the other side; 0 if
// none ever did. A kernel delivers what it has even after its program froze.
func (p *Peer) LastArrival() int64 {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.s.arrived
}

// Delivered returns how many bytes of ours have reached the other side's kernel.
// What has can be read there, even after a reset.
func (p *Peer) Delivered() int64 {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if p.s.other == nil {
		return 0
	}
	return p.s.other.rcvd
}

// Local returns the peer's own address, by which an engine knows it.
func (p *Peer) Local() netip.AddrPort { return p.s.local }

// Unsent returns how many bytes of ours the other side's kernel has not
// acknowledged.
func (p *Peer) Unsent() int {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.unsent.len() + p.s.unacked()
}
