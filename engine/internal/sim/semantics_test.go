package sim_test

import (
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsewheel/pulsewheel/engine/internal/poll"
	"github.com/pulsewheel/pulsewheel/engine/internal/sim"
	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// kernel is what the scenarios below need of a kernel, simulated or real.
type kernel interface {
	OpenPoller() (poll.Poller, error)
	Listen(a sys.Addr, count int, o sys.Options) ([]int, sys.Addr, error)
	Accept(fd int) (int, netip.AddrPort, error)
	Connect(a sys.Addr, o sys.Options) (int, error)
	SocketError(fd int) error
	Peer(fd int) (netip.AddrPort, error)
	Read(fd int, p []byte) (int, error)
	Write(fd int, p []byte) (int, error)
	Writev(fd int, bufs [][]byte) (int, error)
	CloseWrite(fd int) error
	Close(fd int) error
	Reset(fd int) error
	Info(fd int) sys.Info
	Local(fd int) netip.AddrPort
}

// bench runs one scenario on one kernel.
type bench struct {
	testing.TB
	k kernel
	// pass lets a little time pass.
	pass func()
	// start starts a goroutine.
	start func(f func())
	// urgent sends a byte that is not part of the stream.
	urgent func(fd int)
	fds    map[int]bool
}

// scenarios say how sockets behave on Linux. They pass on the simulated kernel
// and, in loopback_linux_test.go, on the real one.
var scenarios = map[string]func(b *bench){
	"established": func(b *bench) {
		a, z := b.pair("tcp")
		b.wantRead(a, "", sys.EAGAIN)
		b.wantWrite(z, "hello", nil)
		b.wantRead(a, "hello", nil)
		b.wantRead(a, "", sys.EAGAIN)
		if n, err := b.k.Writev(a, [][]byte{[]byte("he"), []byte("llo")}); n != 5 || err != nil {
			b.Errorf("writev: %d, %v", n, err)
		}
		b.wantRead(z, "hello", nil)
		if err := b.k.SocketError(a); err != nil {
			b.Errorf("SO_ERROR: %v", err)
		}
		if peer, err := b.k.Peer(a); err != nil || peer != b.k.Local(z) {
			b.Errorf("peer %v, %v, want %v", peer, err, b.k.Local(z))
		}
	},
	"peer closes": func(b *bench) {
		a, z := b.pair("tcp")
		b.wantWrite(z, "bye", nil)
		b.close(z)
		b.wantRead(a, "bye", nil)
		b.wantRead(a, "", nil)
		b.wantRead(a, "", nil)
		b.wantWrite(a, "x", nil) // answered with RST
		b.eventually("write", sys.EPIPE, func() error { _, err := b.k.Write(a, []byte("x")); return err })
		b.wantRead(a, "", nil)
	},
	"peer half-closes": func(b *bench) {
		a, z := b.pair("tcp")
		b.closeWrite(z, nil)
		b.wantWrite(z, "x", sys.EPIPE)
		b.wantRead(a, "", nil)
		b.wantWrite(a, "answer", nil)
		b.wantRead(z, "answer", nil)
		b.closeWrite(a, nil)
		b.wantRead(z, "", nil)
		b.close(a)
		b.wantRead(z, "", nil)
	},
	"reset": func(b *bench) {
		a, z := b.pair("tcp")
		b.reset(z)
		b.wantRead(a, "", sys.ECONNRESET)
		b.wantRead(a, "", nil)
		b.wantWrite(a, "x", sys.EPIPE)
		b.closeWrite(a, sys.ENOTCONN)
		if _, err := b.k.Peer(a); err != error(sys.ENOTCONN) {
			b.Errorf("getpeername: %v", err)
		}
		if n := b.k.Info(a).Unacked; n != -1 {
			b.Errorf("Unacked is %d", n)
		}
	},
	"reset, told to a writer": func(b *bench) {
		a, z := b.pair("tcp")
		b.reset(z)
		b.eventually("write", sys.ECONNRESET, func() error { _, err := b.k.Write(a, []byte("x")); return err })
		b.wantWrite(a, "x", sys.EPIPE)
		b.wantRead(a, "", nil)
	},
	"reset, told by SO_ERROR": func(b *bench) {
		a, z := b.pair("tcp")
		b.reset(z)
		b.eventually("SO_ERROR", sys.ECONNRESET, func() error { return b.k.SocketError(a) })
		if err := b.k.SocketError(a); err != nil {
			b.Errorf("SO_ERROR was told twice: %v", err)
		}
		b.wantRead(a, "", nil)
		b.wantWrite(a, "x", sys.EPIPE)
	},
	"reset behind data": func(b *bench) {
		a, z := b.pair("tcp")
		b.wantWrite(z, "data", nil)
		b.pass()
		b.reset(z)
		b.pass()
		b.wantRead(a, "data", nil)
		b.wantRead(a, "", sys.ECONNRESET)
		b.wantRead(a, "", nil)
	},
	"reset after FIN": func(b *bench) {
		a, z := b.pair("tcp")
		b.closeWrite(z, nil)
		b.wantRead(a, "", nil)
		b.reset(z)
		b.eventually("SO_ERROR", sys.EPIPE, func() error { return b.k.SocketError(a) })
		b.wantRead(a, "", nil)
		b.wantWrite(a, "x", sys.EPIPE)
	},
	"reset after both FINs": func(b *bench) {
		a, z := b.pair("tcp")
		b.closeWrite(a, nil)
		b.wantRead(z, "", nil)
		b.closeWrite(z, nil)
		b.wantRead(a, "", nil)
		b.reset(z)
		b.pass()
		b.wantRead(a, "", nil)
		if err := b.k.SocketError(a); err != nil {
			b.Errorf("SO_ERROR: %v", err)
		}
	},
	"closed with unread input": func(b *bench) {
		a, z := b.pair("tcp")
		b.wantWrite(a, "unread", nil)
		b.pass()
		b.close(z)
		b.wantRead(a, "", sys.ECONNRESET)
		b.wantRead(a, "", nil)
	},
	"data for a closed socket": func(b *bench) {
		a, z := b.pair("tcp")
		b.close(z)
		b.pass()
		b.wantWrite(a, "late", nil)
		b.eventually("SO_ERROR", sys.EPIPE, func() error { return b.k.SocketError(a) })
	},
	"refused": func(b *bench) {
		lfd, addr := b.listen("tcp")
		b.close(lfd)
		fd, err := b.k.Connect(addr, sys.Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.fds[fd] = true
		b.eventually("SO_ERROR", syscall.ECONNREFUSED, func() error { return b.k.SocketError(fd) })
		if _, err := b.k.Peer(fd); err != error(sys.ENOTCONN) {
			b.Errorf("getpeername: %v", err)
		}
		b.wantRead(fd, "", nil)
		b.wantWrite(fd, "x", sys.EPIPE)
	},
	"address in use": func(b *bench) {
		_, addr := b.listen("tcp")
		if _, _, err := b.k.Listen(addr, 2, sys.Options{}); !errors.Is(err, syscall.EADDRINUSE) {
			b.Errorf("second listener: %v", err)
		}
	},
	"listener closes before accept": func(b *bench) {
		lfd, addr := b.listen("tcp")
		fd := b.connect(addr)
		b.pass()
		b.close(lfd)
		b.wantRead(fd, "", sys.ECONNRESET)
	},
	"nothing to accept": func(b *bench) {
		lfd, _ := b.listen("tcp")
		if _, _, err := b.k.Accept(lfd); err != error(sys.EAGAIN) {
			b.Errorf("accept: %v", err)
		}
	},
	"full buffers": func(b *bench) {
		a, z := b.pair("tcp")
		wrote := b.fill(a)
		if n := b.k.Info(a).Unacked; n <= 0 || n > wrote {
			b.Errorf("Unacked is %d after %d bytes", n, wrote)
		}
		s := b.watch(a, func(p poll.Poller) error { return errors.Join(p.Add(a), p.Writing(a, true)) })
		s.want(0)
		if n := b.drain(z, wrote); n != wrote {
			b.Errorf("wrote %d, read %d", wrote, n)
		}
		s.want(poll.Writable)
		s.do(func() error { return s.p.Writing(a, false) })
		b.eventually("all acknowledged", nil, func() error {
			if b.k.Info(a).Unacked != 0 {
				return errors.New("unacknowledged bytes")
			}
			return nil
		})
	},
	"unix: peer closes": func(b *bench) {
		a, z := b.pair("unix")
		b.wantWrite(z, "bye", nil)
		b.close(z)
		b.wantRead(a, "bye", nil)
		b.wantRead(a, "", nil)
		if peer, err := b.k.Peer(a); err != nil && err != error(sys.ENOTCONN) || peer.IsValid() {
			b.Errorf("peer %v, %v", peer, err)
		}
	},
	"unix: closed with unread input": func(b *bench) {
		a, z := b.pair("unix")
		b.wantWrite(a, "unread", nil)
		b.pass()
		b.close(z)
		b.wantRead(a, "", sys.ECONNRESET)
	},

	"events: idle": func(b *bench) {
		a, _ := b.pair("tcp")
		s := b.watch(a, func(p poll.Poller) error { return p.Add(a) })
		s.want(0)
		s.do(func() error { return s.p.Writing(a, true) })
		s.want(poll.Writable)
		s.do(func() error { return s.p.Writing(a, false) })
		s.want(0)
	},
	"events: each arrival once": func(b *bench) {
		a, z := b.pair("tcp")
		s := b.watch(a, func(p poll.Poller) error { return p.Add(a) })
		for range 2 {
			b.wantWrite(z, "x", nil)
			s.want(poll.Readable)
			s.wantNone()
		}
		b.wantRead(a, "xx", nil)
		s.wantNone()
		b.wantWrite(z, "y", nil)
		s.want(poll.Readable)
	},
	"events: interest again": func(b *bench) {
		a, z := b.pair("tcp")
		s := b.watch(a, func(p poll.Poller) error { return p.Add(a) })
		b.wantWrite(z, "x", nil)
		s.want(poll.Readable)
		s.wantNone()
		s.do(func() error { return s.p.Writing(a, true) })
		s.want(poll.Readable | poll.Writable)
		s.wantNone()
	},
	"events: FIN": func(b *bench) {
		a, z := b.pair("tcp")
		s := b.watch(a, func(p poll.Poller) error { return p.Add(a) })
		b.closeWrite(z, nil)
		s.want(poll.Readable | poll.Hangup)
		s.wantNone()
		b.closeWrite(a, nil)
		s.want(poll.Readable | poll.Hangup)
	},
	"events: reset": func(b *bench) {
		a, z := b.pair("tcp")
		s := b.watch(a, func(p poll.Poller) error { return p.Add(a) })
		b.reset(z)
		s.want(poll.Readable | poll.Hangup)
		b.wantRead(a, "", sys.ECONNRESET)
		s.wantNone()
	},
	"urgent data": func(b *bench) {
		a, z := b.pair("tcp")
		b.wantWrite(z, "before", nil)
		b.urgent(z)
		b.wantWrite(z, "after", nil)
		b.pass()
		b.wantRead(a, "before", nil)
		b.wantRead(a, "after", nil)
		b.wantRead(a, "", sys.EAGAIN)
		b.urgent(z)
		b.pass()
		b.wantRead(a, "", sys.EAGAIN)
		b.wantWrite(z, "more", nil)
		b.wantRead(a, "more", nil)
		b.urgent(z)
		b.closeWrite(z, nil)
		b.wantRead(a, "", nil)
	},
	"urgent data, unread": func(b *bench) {
		a, z := b.pair("tcp")
		b.urgent(z)
		b.pass()
		b.close(a)
		b.wantRead(z, "", sys.ECONNRESET)
	},
	"events: urgent data": func(b *bench) {
		a, z := b.pair("tcp")
		s := b.watch(a, func(p poll.Poller) error { return p.Add(a) })
		b.wantWrite(z, "before", nil)
		b.urgent(z)
		s.want(poll.Readable | poll.Hangup)
		s.wantNone()
		b.wantRead(a, "before", nil)
		s.do(func() error { return s.p.Writing(a, false) }) // it is still ahead
		s.want(poll.Readable | poll.Hangup)
		s.wantNone()
		b.wantWrite(z, "after", nil)
		s.want(poll.Readable | poll.Hangup)
		b.wantRead(a, "after", nil)
		s.do(func() error { return s.p.Writing(a, false) })
		s.wantNone()
	},
	"events: urgent data while paused": func(b *bench) {
		a, z := b.pair("tcp")
		s := b.watch(a, func(p poll.Poller) error { return errors.Join(p.Add(a), p.Pause(a)) })
		s.want(poll.Writable)
		b.urgent(z)
		b.pass()
		s.wantNone()
		s.do(func() error { return s.p.Resume(a, false) })
		s.want(poll.Readable | poll.Hangup)
	},
	"events: paused": func(b *bench) {
		a, z := b.pair("tcp")
		s := b.watch(a, func(p poll.Poller) error { return p.Add(a) })
		s.do(func() error { return s.p.Pause(a) })
		s.want(poll.Writable) // once, as for any new registration
		s.wantNone()
		b.wantWrite(z, "x", nil)
		b.pass()
		s.wantNone()
		s.do(func() error { return s.p.Resume(a, false) })
		s.want(poll.Readable)
	},
	"events: FIN while paused": func(b *bench) {
		a, z := b.pair("tcp")
		s := b.watch(a, func(p poll.Poller) error { return errors.Join(p.Add(a), p.Pause(a)) })
		s.want(poll.Writable)
		b.closeWrite(z, nil)
		s.want(poll.Writable | poll.Hangup)
		s.wantNone()
	},
	"events: reset while paused": func(b *bench) {
		a, z := b.pair("tcp")
		s := b.watch(a, func(p poll.Poller) error { return errors.Join(p.Add(a), p.Pause(a)) })
		s.want(poll.Writable)
		b.reset(z)
		s.want(poll.Writable | poll.Hangup)
		s.wantNone()
	},
	"events: connected": func(b *bench) {
		_, addr := b.listen("tcp")
		fd := b.connect(addr)
		s := b.watch(fd, func(p poll.Poller) error { return p.AddWrite(fd) })
		s.want(poll.Writable)
		s.wantNone()
		s.do(func() error { return s.p.Writing(fd, false) })
		s.want(0)
	},
	"events: refused": func(b *bench) {
		lfd, addr := b.listen("tcp")
		b.close(lfd)
		fd := b.connect(addr)
		s := b.watch(fd, func(p poll.Poller) error { return p.AddWrite(fd) })
		s.want(poll.Writable | poll.Hangup)
	},
	"events: listener": func(b *bench) {
		lfd, addr := b.listen("tcp")
		s := b.watch(lfd, func(p poll.Poller) error { return p.AddListener(lfd) })
		s.want(0)
		b.connect(addr)
		s.want(poll.Readable)
		s.want(poll.Readable) // as long as it waits
		s.do(func() error { return s.p.Remove(lfd) })
		s.want(0)
		s.do(func() error { return s.p.AddListener(lfd) })
		s.want(poll.Readable)
	},
	"events: closed": func(b *bench) {
		a, z := b.pair("tcp")
		s := b.watch(a, func(p poll.Poller) error { return p.Add(a) })
		b.wantWrite(z, "x", nil)
		s.want(poll.Readable)
		s.do(func() error { b.close(a); return nil })
		s.want(0)
	},
}

func TestSemantics(t *testing.T) {
	for name, scenario := range scenarios {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := sim.New(sim.Config{Seed: 1, Trace: true, Settle: synctest.Wait})
				k := w.Machine(sim.Machine{Name: "m"})
				b := &bench{
					TB: t, k: k, fds: make(map[int]bool),
					pass:   func() { w.RunFor(500 * time.Microsecond) },
					start:  w.Start,
					urgent: func(fd int) { sim.SendUrgent(k, fd) },
				}
				t.Cleanup(func() {
					b.cleanup()
					k.Unlink(sys.Addr{Network: "unix", Address: b.path()})
					for _, v := range w.Violations() {
						t.Error(v)
					}
					for _, leak := range w.Leaks() {
						t.Error(leak)
					}
					if t.Failed() {
						t.Log("\n" + w.Trace())
					}
				})
				scenario(b)
			})
		})
	}
}

func (b *bench) path() string {
	if _, ok := b.k.(*sim.Kernel); ok {
		return "/run/sim"
	}
	return b.TempDir() + "/s"
}

func (b *bench) listen(network string) (int, sys.Addr) {
	b.Helper()
	a := sys.Addr{Network: "tcp4", Address: "127.0.0.1:0"}
	if network == "unix" {
		a = sys.Addr{Network: "unix", Address: b.path()}
	}
	fds, bound, err := b.k.Listen(a, 1, sys.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.fds[fds[0]] = true
	return fds[0], bound
}

func (b *bench) connect(a sys.Addr) int {
	b.Helper()
	fd, err := b.k.Connect(a, sys.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.fds[fd] = true
	return fd
}

// pair returns both ends of a connection.
func (b *bench) pair(network string) (a, z int) {
	b.Helper()
	lfd, addr := b.listen(network)
	z = b.connect(addr)
	b.eventually("accept", nil, func() (err error) {
		a, _, err = b.k.Accept(lfd)
		return err
	})
	b.fds[a] = true
	b.pass()
	return a, z
}

// eventually waits until f answers as it should.
func (b *bench) eventually(what string, want error, f func() error) {
	b.Helper()
	var got error
	for range 100 {
		if got = f(); got == want {
			return
		}
		b.pass()
	}
	b.Fatalf("%s: got %v, want %v", what, got, want)
}

func (b *bench) wantRead(fd int, want string, wantErr error) {
	b.Helper()
	buf := make([]byte, 100)
	got := ""
	var err error
	for range 100 {
		var n int
		n, err = b.k.Read(fd, buf)
		got += string(buf[:n])
		if err != error(sys.EAGAIN) || wantErr == sys.EAGAIN {
			break
		}
		b.pass()
	}
	if got != want || err != wantErr && (err != nil || wantErr != nil) {
		b.Fatalf("read: %q, %v, want %q, %v", got, err, want, wantErr)
	}
}

func (b *bench) wantWrite(fd int, p string, want error) {
	b.Helper()
	n, err := b.k.Write(fd, []byte(p))
	if err != want && (err != nil || want != nil) || err == nil && n != len(p) {
		b.Fatalf("write: %d, %v, want %v", n, err, want)
	}
}

func (b *bench) closeWrite(fd int, want error) {
	b.Helper()
	if err := b.k.CloseWrite(fd); err != want && (err != nil || want != nil) {
		b.Fatalf("shutdown: %v, want %v", err, want)
	}
	b.pass()
}

func (b *bench) close(fd int) {
	b.Helper()
	delete(b.fds, fd)
	if err := b.k.Close(fd); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) reset(fd int) {
	b.Helper()
	delete(b.fds, fd)
	if err := b.k.Reset(fd); err != nil {
		b.Fatal(err)
	}
}

// fill writes until nothing more is taken.
func (b *bench) fill(fd int) (total int) {
	b.Helper()
	buf := make([]byte, 64<<10)
	for idle := 0; idle < 5; {
		n, err := b.k.Write(fd, buf)
		switch {
		case err == error(sys.EAGAIN):
			idle++
			b.pass()
		case err != nil:
			b.Fatal(err)
		default:
			idle = 0
		}
		total += n
	}
	return total
}

func (b *bench) drain(fd, want int) (total int) {
	b.Helper()
	buf := make([]byte, 64<<10)
	for idle := 0; total < want && idle < 100; {
		n, err := b.k.Read(fd, buf)
		switch {
		case err == error(sys.EAGAIN):
			idle++
			b.pass()
		case err != nil:
			b.Fatal(err)
		default:
			idle = 0
		}
		total += n
	}
	return total
}

func (b *bench) cleanup() {
	for fd := range b.fds {
		_ = b.k.Close(fd)
	}
}

// watcher watches one descriptor and remembers what its poller reports, a
// round at a time: Run, and Stop once it was woken twice, when everything that
// was ready has been reported at least once.
type watcher struct {
	b  *bench
	p  poll.Poller
	fd int

	mu      sync.Mutex
	seen    poll.Events
	rounds  int
	todo    func() error
	finish  bool
	waiting chan struct{}
	done    chan struct{}
}

func (b *bench) watch(fd int, register func(poll.Poller) error) *watcher {
	b.Helper()
	p, err := b.k.OpenPoller()
	if err != nil {
		b.Fatal(err)
	}
	if err := register(p); err != nil {
		b.Fatal(err)
	}
	s := &watcher{b: b, p: p, fd: fd, waiting: make(chan struct{}, 1), done: make(chan struct{})}
	b.start(func() {
		defer close(s.done)
		if err := p.Run(s); err != nil {
			b.Error(err)
		}
	})
	b.Cleanup(func() {
		s.mu.Lock()
		s.finish = true
		s.mu.Unlock()
		_ = p.Wake()
		b.pass()
		<-s.done
		_ = p.Close()
	})
	return s
}

func (s *watcher) Ready(fd int, ev poll.Events) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fd == s.fd {
		s.seen |= ev
	}
}

func (s *watcher) Coming(int) {}

func (s *watcher) Served() poll.Wait { return 0 }

func (s *watcher) Expired() {}

func (s *watcher) Woken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finish {
		s.p.Stop()
		return
	}
	if s.todo != nil {
		if err := s.todo(); err != nil {
			s.b.Error(err)
		}
		s.todo = nil
	}
	if s.rounds--; s.rounds > 0 {
		_ = s.p.Wake()
		return
	}
	s.waiting <- struct{}{}
}

// turn lets the poller report at least once what is ready.
func (s *watcher) turn() (seen poll.Events) {
	s.mu.Lock()
	s.rounds = 3
	s.mu.Unlock()
	_ = s.p.Wake()
	s.b.pass()
	<-s.waiting
	s.mu.Lock()
	defer s.mu.Unlock()
	seen, s.seen = s.seen, 0
	return seen
}

// do runs f, if any, on the goroutine in Run, and forgets what was seen before.
func (s *watcher) do(f func() error) {
	s.mu.Lock()
	s.todo = func() error {
		s.seen = 0
		if f == nil {
			return nil
		}
		return f()
	}
	s.rounds = 1
	s.mu.Unlock()
	_ = s.p.Wake()
	s.b.pass()
	<-s.waiting
}

// want waits until one turn reports just that. Earlier turns may hold what was
// reported before it came true.
func (s *watcher) want(want poll.Events) {
	s.b.Helper()
	var got poll.Events
	for range 100 {
		if got = s.turn(); got == want {
			return
		}
	}
	s.b.Fatalf("events %03b, want %03b", got, want)
}

// wantNone insists that nothing was reported since the last turn.
func (s *watcher) wantNone() {
	s.b.Helper()
	if got := s.turn(); got != 0 {
		s.b.Fatalf("events %03b, want none", got)
	}
}
