package sim

import (
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/engine/internal/poll"
	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// Machine describes one machine, and how its kernel treats the process on it.
type Machine struct {
	// Name appears in the trace, in violations and in leaks.
	Name string
	// Addr is the machine's address. Zero means the next free one of 10/8.
	Addr netip.Addr
	// Kqueue gives its pollers the semantics of kqueue instead of epoll, and
	// its kernel those of BSD where they differ.
	Kqueue bool
	// MaxFiles is how many descriptors the process may have. Zero means 1024.
	MaxFiles int
	// Backlog is how many connections a listener queues, half-open ones
	// included. Zero means 128.
	Backlog int
	// TimerLate is the range of a timer's lateness. Zero means 5 to 300 µs.
	TimerLate Range
	// Wakeup is the range of the time from an event to the loop that handles
	// it. Zero means 1 to 60 µs.
	Wakeup Range
	Faults Faults
}

// Kernel is the kernel of one simulated machine. Its exported methods that
// sys.Kernel has, too, are documented there; they may be called by callbacks,
// by scripts, and by other goroutines while the world stands still.
type Kernel struct {
	// Set once.
	w     *World
	name  string
	index int
	host  *host
	cfg   Machine // Faults and MaxFiles may be changed by scripts, under w.mu

	// Guarded by w.mu.
	files      []*file // by number
	open       int
	lowest     int // no number below it is free
	pollers    []*poller
	stallUntil int64
	maxLate    int64
	accepts    []int64 // when each connection was accepted
}

// Machine adds a machine to the world.
func (w *World) Machine(m Machine) *Kernel {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.MaxFiles == 0 {
		m.MaxFiles = 1024
	}
	if m.Backlog == 0 {
		m.Backlog = 128
	}
	if m.Name == "" {
		m.Name = fmt.Sprintf("machine%d", len(w.machines))
	}
	m.TimerLate = m.TimerLate.or(5e3, 300e3)
	m.Wakeup = m.Wakeup.or(1e3, 60e3)
	k := &Kernel{w: w, name: m.Name, index: len(w.machines), host: w.host(m.Addr), cfg: m}
	k.host.kernel = k
	for range 3 {
		k.install(&file{kind: stdio})
	}
	w.machines = append(w.machines, k)
	return k
}

// Addr returns the machine's address.
func (k *Kernel) Addr() netip.Addr { return k.host.addr }

// SetFaults replaces the machine's faults.
func (k *Kernel) SetFaults(f Faults) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	k.cfg.Faults = f
}

// SetMaxFiles changes the limit of descriptors, as if another part of the
// process opened or closed some. Those above it stay open.
func (k *Kernel) SetMaxFiles(n int) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	k.cfg.MaxFiles = n
}

// Files returns how many descriptors are open, without standard input, output
// and error.
func (k *Kernel) Files() int {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	return k.open - 3
}

// Stall stops every loop of the machine for d, while its kernel goes on.
func (k *Kernel) Stall(d time.Duration) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	k.w.counts[cStall]++
	k.w.trace.note(k.w.now, fmt.Sprintf("%s stalls for %v", k.name, d))
	k.stallUntil = max(k.stallUntil, k.w.now+int64(d))
}

// MaxLate returns how late the latest report of a timer was.
func (k *Kernel) MaxLate() time.Duration {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	return time.Duration(k.maxLate)
}

// Accepts returns when each connection so far was accepted, in order.
func (k *Kernel) Accepts() []int64 {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	return append([]int64(nil), k.accepts...)
}

// Armed returns how many of the machine's pollers have a timer that is yet to
// expire, or to be reported.
func (k *Kernel) Armed() (n int) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	for _, p := range k.pollers {
		if !p.closed && (p.timer != 0 || p.expired) {
			n++
		}
	}
	return n
}

// Outage cuts the machine off for d; what is sent meanwhile arrives later.
func (k *Kernel) Outage(d time.Duration) { k.w.outage(k.host, d) }

// A file is an open file description; every descriptor here has its own.
type file struct {
	kind fileKind
	fd   int
	sock *sock
	lst  *listener
	reg  *registration // at a poller; nil if at none
	// echoes is how many reports of input are still to come, of those that a fault
	// has delayed.
	echoes int
}

type fileKind uint8

const (
	stdio fileKind = iota
	pollerFile
	streamFile
	listenerFile
)

func (f *file) String() string {
	switch f.kind {
	case streamFile:
		return f.sock.String()
	case listenerFile:
		return "listener on " + f.lst.group.addr.String()
	case pollerFile:
		return "poller"
	}
	return "standard I/O"
}

// state is the file's readiness in terms of epoll.
func (f *file) state() readiness {
	switch f.kind {
	case streamFile:
		return f.sock.state()
	case listenerFile:
		if len(f.lst.queue) > 0 {
			return in
		}
	}
	return 0
}

// notify tells a poller what may have changed.
func (f *file) notify(r readiness) {
	if f != nil && f.reg != nil {
		f.reg.poller.notify(f.reg, r)
	}
}

// full reports whether no further n descriptors may be opened.
func (k *Kernel) full(n int) bool { return k.open+n > k.cfg.MaxFiles }

// install gives f the lowest free number, as every Unix does, so that numbers
// are reused at once.
func (k *Kernel) install(f *file) int {
	fd := k.lowest
	for fd < len(k.files) && k.files[fd] != nil {
		fd++
	}
	if fd == len(k.files) {
		k.files = append(k.files, nil)
	} else {
		k.w.counts[cFDReuse]++
	}
	k.files[fd] = f
	f.fd = fd
	k.lowest = fd + 1
	k.open++
	return fd
}

func (k *Kernel) uninstall(fd int) {
	f := k.files[fd]
	if f.reg != nil {
		f.reg.poller.forget(f.reg)
	}
	k.files[fd] = nil
	k.lowest = min(k.lowest, fd)
	k.open--
}

// lookup returns the file behind fd if it is of that kind. Anything else is a
// violation: the engine used a descriptor that is not its own.
func (k *Kernel) lookup(what string, fd int, kind fileKind) (*file, error) {
	f, err := k.own(what, fd)
	if err == nil && f.kind != kind {
		k.w.violation("%s: %s of descriptor %d, which is %v", k.name, what, fd, f)
		return nil, syscall.ENOTSOCK
	}
	return f, err
}

// own is lookup for a descriptor of any kind.
func (k *Kernel) own(what string, fd int) (*file, error) {
	if fd < 0 || fd >= len(k.files) || k.files[fd] == nil {
		k.w.violation("%s: %s of descriptor %d, which is not open", k.name, what, fd)
		return nil, syscall.EBADF
	}
	f := k.files[fd]
	if r := k.w.running; r != nil && f.reg != nil && f.reg.poller != r {
		k.w.violation("%s: %s of descriptor %d by loop %d, but it belongs to loop %d",
			k.name, what, fd, r.index, f.reg.poller.index)
	}
	return f, nil
}

// stream begins a call on a connection.
func (k *Kernel) stream(what string, fd int) (*sock, error) {
	f, err := k.lookup(what, fd, streamFile)
	if err != nil {
		return nil, err
	}
	return f.sock, nil
}

func (k *Kernel) traced(what string, fd, n int, err error) {
	k.w.trace.call(k.w.now, k, what, fd, int64(n), err)
}

func (k *Kernel) Now() int64 { return k.w.Now() }

func (k *Kernel) MaxFiles() int {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	return k.cfg.MaxFiles
}

func (k *Kernel) Random() uint32 {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	return k.w.rng.Uint32()
}

func (k *Kernel) OpenPoller() (poll.Poller, error) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	n := 4 // epoll, the eventfd of gnet's Poller, ours, and a timerfd
	if k.cfg.Kqueue {
		n = 3 // kqueue and a pipe
	}
	if k.full(n) {
		return nil, syscall.EMFILE
	}
	if k.w.chance(k.cfg.Faults.OpenFails) {
		k.w.counts[cOpenFails]++
		return nil, syscall.EMFILE
	}
	p := newPoller(k)
	for range n {
		p.fds = append(p.fds, k.install(&file{kind: pollerFile}))
	}
	k.pollers = append(k.pollers, p)
	k.traced("open poller", p.index, n, nil)
	return p, nil
}

// Pool runs an engine's tasks in the world: one at a time, soon, and in an order
// that the seed decides.
type Pool struct{ w *World }

// Pool returns a pool of workers.
func (w *World) Pool() Pool { return Pool{w} }

// Go runs f on a goroutine of its own, because f may end it.
func (p Pool) Go(f func()) error {
	p.w.mu.Lock()
	wait := p.w.draw(workerWait)
	p.w.mu.Unlock()
	p.w.After(time.Duration(wait), func() { p.w.Start(f) })
	return nil
}

// workerWait is how long it takes until a worker runs.
var workerWait = Between(0, 500*time.Microsecond)

// SetProbes does nothing: the world's kernels probe as Config says.
func (k *Kernel) SetProbes(int, sys.Probes) error { return nil }

func (k *Kernel) Listen(a sys.Addr, count int, _ sys.Options) (fds []int, bound sys.Addr, err error) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	if a.Network == "unix" {
		count = 1
	}
	if k.full(count) {
		return nil, a, syscall.EMFILE
	}
	g, err := k.host.bind(a)
	if err != nil {
		return nil, a, err
	}
	for range count {
		l := &listener{group: g, kernel: k}
		l.file = &file{kind: listenerFile, lst: l}
		g.listeners = append(g.listeners, l)
		fds = append(fds, k.install(l.file))
	}
	k.traced("listen", fds[0], count, nil)
	return fds, g.addr, nil
}

func (k *Kernel) Accept(fd int) (int, netip.AddrPort, error) {
	k.preempt()
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	nfd, remote, err := k.accept(fd)
	k.traced("accept", fd, nfd, err)
	return nfd, remote, err
}

func (k *Kernel) accept(fd int) (int, netip.AddrPort, error) {
	f, err := k.lookup("accept", fd, listenerFile)
	if err != nil {
		return -1, netip.AddrPort{}, err
	}
	l := f.lst
	if len(l.queue) == 0 {
		return -1, netip.AddrPort{}, sys.EAGAIN
	}
	if k.full(1) {
		// The connection stays queued, and the listener readable.
		k.w.counts[cAcceptMFile]++
		return -1, netip.AddrPort{}, sys.EMFILE
	}
	for _, fault := range [...]struct {
		perMille int
		counter  counter
		errno    syscall.Errno
	}{
		{k.cfg.Faults.AcceptAgain, cAcceptAgain, sys.EAGAIN},
		{k.cfg.Faults.AcceptNFile, cAcceptNFile, sys.ENFILE},
		{k.cfg.Faults.AcceptNoBufs, cAcceptNoBufs, sys.ENOBUFS},
		{k.cfg.Faults.AcceptNoMem, cAcceptNoMem, sys.ENOMEM},
	} {
		if k.w.chance(fault.perMille) {
			k.w.counts[fault.counter]++
			k.w.later(f, in)
			return -1, netip.AddrPort{}, fault.errno
		}
	}
	s := l.queue[0]
	l.queue = append(l.queue[:0], l.queue[1:]...)
	s.queued = nil
	if s.dead && k.cfg.Kqueue || k.w.chance(k.cfg.Faults.AcceptAborted) {
		k.w.counts[cAcceptAborted]++
		s.abort()
		return -1, netip.AddrPort{}, sys.ECONNABORTED
	}
	if f.reg != nil {
		f.reg.idle = 0
	}
	k.accepts = append(k.accepts, k.w.now)
	return k.installSocket(s), s.remote, nil
}

// Waiting reports whether a listener's queue has somebody, or a connection something
// to read.
func (k *Kernel) Waiting(fd int) bool {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	f, err := k.own("poll", fd)
	return err == nil && f.state()&(in|always) != 0
}

func (k *Kernel) installSocket(s *sock) int {
	s.file = &file{kind: streamFile, sock: s}
	return k.install(s.file)
}

func (k *Kernel) Connect(a sys.Addr, _ sys.Options) (int, error) {
	k.preempt()
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	fd, err := k.connect(a)
	k.traced("connect", fd, 0, err)
	return fd, err
}

func (k *Kernel) connect(a sys.Addr) (int, error) {
	if k.full(1) {
		return -1, sys.EMFILE
	}
	if k.w.chance(k.cfg.Faults.ConnectFails) {
		k.w.counts[cConnectFails]++
		if k.w.chance(500) {
			return -1, sys.ENETUNREACH
		}
		return -1, syscall.EADDRNOTAVAIL
	}
	s, err := k.host.dial(a)
	if err != nil {
		return -1, err
	}
	return k.installSocket(s), nil
}

func (k *Kernel) SocketError(fd int) error {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	s, err := k.stream("getsockopt", fd)
	if err != nil {
		return err
	}
	err = s.takeError()
	k.traced("error", fd, 0, err)
	return err
}

func (k *Kernel) Peer(fd int) (netip.AddrPort, error) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	s, err := k.stream("getpeername", fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if s.connecting || s.dead {
		return netip.AddrPort{}, sys.ENOTCONN
	}
	return s.remote, nil
}

func (k *Kernel) Local(fd int) netip.AddrPort {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	s, err := k.stream("getsockname", fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return s.local
}

func (k *Kernel) Read(fd int, p []byte) (int, error) {
	k.preempt()
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	s, err := k.stream("read", fd)
	if err != nil {
		return 0, err
	}
	if len(p) == 0 {
		k.w.violation("%s: read of descriptor %d into an empty buffer", k.name, fd)
	}
	n, err := k.read(s, p)
	k.traced("read", fd, n, err)
	if n > 0 {
		s.progressed()
	}
	return n, err
}

func (k *Kernel) read(s *sock, p []byte) (int, error) {
	if s.atMark() && k.w.chance(k.cfg.Faults.Interrupted) {
		k.w.counts[cInterrupted]++
		return 0, sys.EAGAIN
	}
	// What has been there for a while cannot be as if it came later, and nothing
	// comes after a reset.
	const moment = int64(time.Millisecond)
	if have := min(len(p), s.rcv.len()); have > 0 && k.w.now-s.rcvdAt < moment && !s.dead {
		if k.w.chance(k.cfg.Faults.AgainRead) {
			k.w.counts[cAgainRead]++
			k.w.later(s.file, in)
			return 0, sys.EAGAIN
		}
		if have > 1 && k.w.chance(k.cfg.Faults.ShortRead) {
			k.w.counts[cShortRead]++
			k.w.later(s.file, in)
			p = p[:1+k.w.rng.IntN(have-1)]
		}
	}
	return s.read(p)
}

func (k *Kernel) Write(fd int, p []byte) (int, error) {
	k.preempt()
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	s, err := k.stream("write", fd)
	if err != nil {
		return 0, err
	}
	if len(p) == 0 {
		k.w.violation("%s: write of nothing to descriptor %d", k.name, fd)
	}
	room, err := k.room(s, len(p))
	if err == nil {
		s.send(p[:room])
	}
	k.traced("write", fd, room, err)
	return room, err
}

func (k *Kernel) Writev(fd int, bufs [][]byte) (int, error) {
	k.preempt()
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	s, err := k.stream("writev", fd)
	if err != nil {
		return 0, err
	}
	if len(bufs) > sys.MaxSlices {
		bufs = bufs[:sys.MaxSlices]
	}
	want := 0
	for _, b := range bufs {
		if len(b) == 0 {
			k.w.violation("%s: writev of an empty slice to descriptor %d", k.name, fd)
		}
		want += len(b)
	}
	room, err := k.room(s, want)
	if err == nil {
		left := room
		for _, b := range bufs {
			b = b[:min(len(b), left)]
			s.buffer(b)
			left -= len(b)
		}
		s.transmit()
	}
	k.traced("writev", fd, room, err)
	return room, err
}

// room tells how many of want bytes a write takes, or what it answers instead.
func (k *Kernel) room(s *sock, want int) (int, error) {
	room, err := s.room()
	if err != nil {
		return 0, err
	}
	if k.w.chance(k.cfg.Faults.AgainWrite) {
		k.w.counts[cAgainWrite]++
		k.w.later(s.file, out)
		return 0, sys.EAGAIN
	}
	want = min(want, sys.MaxWrite)
	if room < want {
		k.w.counts[cNoSpace]++
		s.noSpace = true
		want = room
	}
	if want > 1 && k.w.chance(k.cfg.Faults.ShortWrite) {
		k.w.counts[cShortWrite]++
		k.w.later(s.file, out)
		want = 1 + k.w.rng.IntN(want-1)
	}
	s.progressed()
	return want, nil
}

func (k *Kernel) CloseWrite(fd int) error {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	s, err := k.stream("shutdown", fd)
	if err == nil {
		err = s.closeWrite()
	}
	k.traced("shutdown", fd, 0, err)
	return err
}

func (k *Kernel) Close(fd int) error {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	k.traced("close", fd, 0, nil)
	if fd >= 0 && fd < len(k.files) && k.files[fd] != nil && k.files[fd].kind == listenerFile {
		f, err := k.lookup("close", fd, listenerFile)
		if err != nil {
			return err
		}
		k.uninstall(fd)
		f.lst.close()
		return nil
	}
	s, err := k.stream("close", fd)
	if err != nil {
		return err
	}
	k.uninstall(fd)
	s.file = nil
	s.close()
	return nil
}

func (k *Kernel) Reset(fd int) error {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	k.traced("reset", fd, 0, nil)
	s, err := k.stream("reset", fd)
	if err != nil {
		return err
	}
	k.uninstall(fd)
	s.file = nil
	s.abort()
	return nil
}

func (k *Kernel) Info(fd int) sys.Info {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	s, err := k.stream("getsockopt", fd)
	if err != nil || s.connecting {
		return sys.Info{Unacked: -1}
	}
	info := sys.Info{
		Unacked: s.unacked(),
		RTT:     time.Duration(2 * s.link.latency),
		LastAck: time.Duration(k.w.now - s.heard),
	}
	if s.dead {
		info.Unacked = -1
	}
	k.traced("info", fd, info.Unacked, nil)
	return info
}

func (k *Kernel) Unlink(a sys.Addr) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	if a.Network == "unix" {
		delete(k.host.paths, a.Address)
	}
}
