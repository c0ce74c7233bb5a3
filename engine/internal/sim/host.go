package sim

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// host is what has an address: a machine with a Kernel, or a scripted peer.
type host struct {
	w         *World
	addr      netip.Addr
	kernel    *Kernel // nil for a scripted one
	ports     map[uint16]*group
	paths     map[string]*group // Unix sockets
	lastPort  uint16            // last ephemeral port handed out
	cutUntil  int64             // packets arrive after this time
	unplugged bool              // packets never arrive
}

// host returns the host with that address, or a new one with the next free
// address if addr is zero.
func (w *World) host(addr netip.Addr) *host {
	for !addr.IsValid() {
		w.nextIP++
		a := netip.AddrFrom4([4]byte{10, byte(w.nextIP >> 16), byte(w.nextIP >> 8), byte(w.nextIP)})
		if w.hosts[a] == nil {
			addr = a
		}
	}
	h := w.hosts[addr]
	if h == nil {
		h = &host{w: w, addr: addr, lastPort: 32767}
		w.hosts[addr] = h
	}
	return h
}

func (w *World) outage(h *host, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[cOutage]++
	w.trace.note(w.now, fmt.Sprintf("%v is cut off for %v", h.addr, d))
	h.cutUntil = max(h.cutUntil, w.now+int64(d))
}

// group is the listeners of one address: several where SO_REUSEPORT spreads
// connections over them.
type group struct {
	host      *host
	addr      sys.Addr
	port      uint16
	listeners []*listener
	accept    func(*Peer) // of a scripted server, which has no listeners
}

// listener is one listening socket.
type listener struct {
	group    *group
	kernel   *Kernel
	file     *file
	queue    []*sock // established, not accepted
	halfOpen int
	closed   bool
}

func (h *host) bind(a sys.Addr) (*group, error) {
	g := &group{host: h, addr: a}
	if a.Network == "unix" {
		if h.paths[a.Address] != nil {
			return nil, syscall.EADDRINUSE
		}
		if h.paths == nil {
			h.paths = make(map[string]*group)
		}
		h.paths[a.Address] = g
		return g, nil
	}
	name, service, err := net.SplitHostPort(a.Address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, err
	}
	if ip, err := netip.ParseAddr(name); name != "" && (err != nil || !h.owns(ip) && !ip.IsUnspecified()) {
		return nil, syscall.EADDRNOTAVAIL
	}
	g.port = uint16(port)
	if g.port == 0 {
		g.port = h.ephemeral()
	}
	if h.ports[g.port] != nil {
		return nil, syscall.EADDRINUSE
	}
	if h.ports == nil {
		h.ports = make(map[uint16]*group)
	}
	h.ports[g.port] = g
	g.addr.Address = net.JoinHostPort(name, strconv.Itoa(int(g.port)))
	return g, nil
}

func (h *host) owns(ip netip.Addr) bool { return ip == h.addr || ip.IsLoopback() }

func (h *host) ephemeral() uint16 {
	for {
		if h.lastPort++; h.lastPort < 32768 {
			h.lastPort = 32768
		}
		if h.ports[h.lastPort] == nil {
			return h.lastPort
		}
	}
}

// dial begins to connect.
func (h *host) dial(a sys.Addr) (*sock, error) {
	s := h.w.newSock(h)
	s.connecting = true
	try := &attempt{from: s}
	target := h
	if a.Network == "unix" {
		s.unix = true
		if try.path = a.Address; h.paths[a.Address] == nil {
			return nil, syscall.ENOENT
		}
	} else {
		addr, err := netip.ParseAddrPort(a.Address)
		if err != nil {
			return nil, fmt.Errorf("connect %v: %w", a, err)
		}
		local := h.addr
		if addr.Addr().IsLoopback() {
			local = addr.Addr()
		}
		s.local = netip.AddrPortFrom(local, h.ephemeral())
		s.remote = addr
		try.port = addr.Port()
		if !h.owns(addr.Addr()) {
			if target = h.w.hosts[addr.Addr()]; target == nil {
				target = &host{w: h.w, addr: addr.Addr(), unplugged: true}
			}
		}
	}
	try.to = target
	s.link = h.w.newLink(h, target)
	h.w.push(h.w.now+s.link.delay(h.w), try)
	return s, nil
}

// attempt is a SYN on its way.
type attempt struct {
	from  *sock
	to    *host
	port  uint16
	path  string
	tries int
}

// How often a SYN is sent (tcp(7), tcp_syn_retries).
const maxAttempts = 7

func (a *attempt) act(w *World, _ entry) {
	s := a.from
	if !s.connecting || s.gone || s.orphan {
		return
	}
	if a.to.unplugged || s.host.unplugged || max(a.to.cutUntil, s.host.cutUntil) > w.now {
		a.again(w)
		return
	}
	g := a.to.ports[a.port]
	if a.path != "" {
		g = a.to.paths[a.path]
	}
	var l *listener
	if g != nil && g.accept == nil {
		if l = g.choose(w); l == nil {
			g = nil
		} else if len(l.queue)+l.halfOpen >= l.kernel.cfg.Backlog {
			w.counts[cBacklogFull]++
			a.again(w)
			return
		}
	}
	if g == nil {
		w.push(w.now+s.link.delay(w), &refusal{s})
		return
	}
	t := w.newSock(a.to)
	t.local, t.remote, t.unix = s.remote, s.local, s.unix
	t.link, t.other = s.link, s
	t.edge = int64(s.rcvCap)
	t.embryo, t.group = l, g
	if l != nil {
		l.halfOpen++
	}
	w.xmit(t, synAck)
}

// again repeats the SYN after 1 s, 2 s, 4 s and so on (RFC 6298, 5).
func (a *attempt) again(w *World) {
	if a.tries++; a.tries == maxAttempts {
		a.from.die(sys.ETIMEDOUT)
		return
	}
	w.push(w.now+int64(time.Second)<<(a.tries-1), a)
}

type refusal struct{ s *sock }

func (r *refusal) act(w *World, _ entry) {
	if r.s.connecting && !r.s.gone {
		w.counts[cRefused]++
		r.s.die(syscall.ECONNREFUSED)
	}
}

func (g *group) choose(w *World) *listener {
	if len(g.listeners) == 0 {
		return nil
	}
	return g.listeners[w.rng.IntN(len(g.listeners))]
}

// established puts s, whose handshake is complete, into the listener's queue.
func (l *listener) established(s *sock) {
	l.halfOpen--
	s.embryo = nil
	if l.closed {
		s.abort()
		return
	}
	l.queue = append(l.queue, s)
	s.queued = l
	l.file.notify(in)
}

// close resets what was not accepted.
func (l *listener) close() {
	l.closed = true
	g := l.group
	for i, other := range g.listeners {
		if other == l {
			g.listeners = append(g.listeners[:i], g.listeners[i+1:]...)
			break
		}
	}
	if len(g.listeners) == 0 && g.addr.Network != "unix" {
		delete(g.host.ports, g.port)
	}
	for _, s := range l.queue {
		s.abort()
	}
	l.queue = nil
}
