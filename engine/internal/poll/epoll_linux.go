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
//   - Where events follow each other closely it waits without telling Go's
//     scheduler (nap).
//   - A pause is one call, because read interest can be dropped in place.
type epoll struct {
	fd      int
	signals signals
	stopped bool
	next    Wait // what the handler wishes
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
	// napMillis is how long a nap is at most. A nap that is ended by an event has
	// its timer for nothing, and the kernel programs the hardware for one only if it
	// is the first that is due: not for one after the next tick, which comes every
	// 4 ms on most systems.
	napMillis = 10
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
		if n > 0 {
			p.next = h.Served() | p.next&Yield
		}
	}
	return nil
}

// wait returns how many events there are; none after a signal.
func (p *epoll) wait() (n int, err error) {
	if p.next&Yield != 0 {
		if n := p.look(); n > 0 {
			return n, nil
		}
		p.letOthers()
	}
	if p.next&Soon != 0 {
		if n := p.nap(napMillis); n > 0 {
			return n, nil
		}
	}
	n, err = unix.EpollWait(p.fd, p.events[:], -1)
	if err == unix.EINTR {
		return 0, nil
	}
	return max(n, 0), os.NewSyscallError("epoll_wait", err)
}

// look returns how many events there are now. Under load there is something more
// often than not; where looking was in vain lately, it is left out for a while.
func (p *epoll) look() int {
	if p.blind > 0 {
		p.blind--
		return 0
	}
	n := p.nap(0)
	if n == 0 {
		if p.missed++; p.missed >= mostMissed {
			p.blind = blindWaits
		}
		return 0
	}
	p.missed = 0
	if p.found++; p.found >= mostFound {
		p.letOthers()
	}
	return n
}

// nap waits for ms milliseconds at most, without telling Go's scheduler: that costs
// as much as a small message, and more where no P is idle, since Go's monitor then
// takes the P from every call that it meets. What the scheduler itself wants
// meanwhile, for a garbage collection say, it gets at once, since its signal ends a
// nap; goroutines that wait for this processor wait for the next event, or for the
// end of the nap. It returns 0 if nothing came, or on an error, which the other way
// of waiting will tell.
func (p *epoll) nap(ms uintptr) int {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), maxEvents, ms, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// letOthers gives those a turn whom the last batches made runnable: with few
// processors, they would otherwise wait for the end of a nap, or until Go's monitor
// finds that this processor is blocked.
func (p *epoll) letOthers() {
	p.found, p.next = 0, p.next&^Yield
	runtime.Gosched()
}

func (p *epoll) Close() error {
	p.signals.close()
	return os.NewSyscallError("close", unix.Close(p.fd))
}
