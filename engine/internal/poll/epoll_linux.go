//go:build !poll_opt

package poll

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// epoll is the poller of Linux. It does what gnet's does (which is there with
// build tag poll_opt), and three things that gnet's cannot be made to do, each of
// which shows in the CPU time of a message:
//
//   - It tells where a batch ends, so that what its events have left to do is done
//     together: reading and decoding one connection after another, and then
//     writing one after another, finds the code for it in the processor's cache.
//   - It looks for more without telling Go's scheduler, which is for waiting.
//   - A pause is one call, because read interest can be dropped in place.
type epoll struct {
	fd      int
	signals signals
	stopped bool
	yield   bool // others may be waiting for the processor
	found   int  // looks in a row that found something, since others had a turn
	missed  int  // looks in a row that found nothing
	blind   int  // waits that are still to come without a look before
	events  [maxEvents]unix.EpollEvent
}

const (
	maxEvents = 256
	// mostFound is how many batches are served before other goroutines of this
	// processor have a turn.
	mostFound = 16
	// After so many looks in vain, as many waits come without one.
	mostMissed = 4
	blindWaits = 7
	// ahead is how many events before its turn one is told of as coming: one takes
	// longer than memory, and many batches have but two or three.
	ahead = 1
)

// Level-triggered: a descriptor that was not read to the end is reported again.
const (
	reading = unix.EPOLLIN
	// unread is what remains of interest in a descriptor that is not read. Edge-
	// triggered, so that it is told once: a reset as OUT|ERR|HUP|RDHUP, a FIN as
	// OUT|RDHUP.
	unread = unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET
)

// Open makes a poller. It holds descriptors until Close.
func Open() (Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	p := &epoll{fd: fd}
	if err := p.signals.open(func(fd int) error { return p.control(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN|unix.EPOLLET) }); err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

// control never waits, so that the scheduler need not know.
func (p *epoll) control(op, fd int, events uint32) error {
	ev := unix.EpollEvent{Fd: int32(fd), Events: events}
	if _, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(p.fd), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&ev)), 0, 0); errno != 0 {
		return os.NewSyscallError("epoll_ctl", errno)
	}
	return nil
}

func (p *epoll) Add(fd int) error      { return p.control(unix.EPOLL_CTL_ADD, fd, reading) }
func (p *epoll) AddWrite(fd int) error { return p.control(unix.EPOLL_CTL_ADD, fd, unread) }
func (p *epoll) Pause(fd int) error    { return p.control(unix.EPOLL_CTL_MOD, fd, unread) }
func (p *epoll) Remove(fd int) error   { return p.control(unix.EPOLL_CTL_DEL, fd, 0) }

func (p *epoll) Writing(fd int, on bool) error {
	events := uint32(reading)
	if on {
		events |= unix.EPOLLOUT
	}
	return p.control(unix.EPOLL_CTL_MOD, fd, events)
}

func (p *epoll) Resume(fd int, writing bool) error { return p.Writing(fd, writing) }
func (p *epoll) EdgeTriggered() bool               { return false }
func (p *epoll) Arm(at int64) error                { return p.signals.arm(at) }
func (p *epoll) Wake() error                       { return p.signals.wake() }
func (p *epoll) Stop()                             { p.stopped = true }

func (p *epoll) Run(h Handler) error {
	for !p.stopped {
		n, err := p.wait()
		if err != nil {
			return err
		}
		for i := range p.events[:n] {
			if next := i + ahead; next < n {
				h.Coming(int(p.events[next].Fd))
			}
			ev := &p.events[i]
			if fd := int(ev.Fd); !p.signals.consume(h, &p.stopped, fd) {
				h.Ready(fd, translateEpoll(ev.Events))
			}
			if p.stopped {
				return nil
			}
		}
		p.yield = h.Served() || p.yield
	}
	return nil
}

// wait returns how many events there are. Before it waits it looks: under load
// there is something more often than not, and since looking takes no time the
// scheduler need not know. Where looking was in vain lately, it is left out for a
// while.
func (p *epoll) wait() (n int, err error) {
	if p.blind > 0 {
		p.blind--
	} else {
		r, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), maxEvents, 0, 0, 0)
		if errno == 0 && r > 0 {
			p.missed = 0
			if p.found++; p.found >= mostFound && p.yield {
				p.found, p.yield = 0, false
				runtime.Gosched()
			}
			return int(r), nil
		}
		p.found = 0
		if p.missed++; p.missed >= mostMissed {
			p.blind = blindWaits
		}
	}
	// Who was made runnable by the last batches gets its turn first: with few
	// processors, it would otherwise wait until Go's monitor finds that this one
	// is blocked.
	if p.yield {
		p.yield = false
		runtime.Gosched()
	}
	n, err = unix.EpollWait(p.fd, p.events[:], -1)
	if err == unix.EINTR {
		return 0, nil
	}
	return max(n, 0), os.NewSyscallError("epoll_wait", err)
}

func (p *epoll) Close() error {
	p.signals.close()
	return os.NewSyscallError("close", unix.Close(p.fd))
}
