//go:build !poll_opt

package poll

import (
	"os"
	"runtime"
	"sync/atomic"
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
	next    Wait // what the handler knows
	blind   int  // waits that are still to come without a look before
	missed  int  // looks in a row that found nothing
	napper  bool // it has one of the places for those who nap
	refused int  // waits that are still to come without asking for one
	overdue int  // how often others were overdue since they had a turn
	events  [maxEvents]unix.EpollEvent
}

const (
	maxEvents = 256
	// mostMissed is after how many looks in a row that found nothing, and after each
	// further one, blindWaits waits come without a look.
	mostMissed = 4
	blindWaits = 7
	// napMillis is how long a nap is at most. A nap that is ended by an event has
	// its timer for nothing, and the kernel programs the hardware for one only if it
	// is the first that is due: mostly not for one after the next tick, which comes
	// every 1 to 10 ms.
	napMillis = 10
	// patience is how often others are overdue until a poller that naps lets them:
	// every time, the scheduler wakes a thread to look for more to run.
	patience = 10
	// askAgain is how many waits after it was refused a poller asks for a place again.
	askAgain = 64
	// ahead is how many events before its turn one is told of as coming: one takes
	// longer than memory, and many batches have but two or three.
	ahead = 1
)

// nappers counts the pollers of the process that have a place.
var nappers atomic.Int32

// Connections are edge-triggered. Level-triggered, the kernel looks at each of a batch
// once more in the next wait, to see whether there is still something to read: with a
// socket's memory far away, two per cent of a small message. A listener is
// level-triggered: an accept that leaves none waiting is then followed by no other.
const (
	reading = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET
	// unread is what remains of interest in a descriptor that is not read: a reset
	// is told as OUT|ERR|HUP|RDHUP, a FIN as OUT|RDHUP.
	unread    = unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET
	listening = unix.EPOLLIN
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

func (p *epoll) AddListener(fd int) error { return p.control(unix.EPOLL_CTL_ADD, fd, listening) }
func (p *epoll) EdgeListeners() bool      { return false }
func (p *epoll) Add(fd int) error         { return p.control(unix.EPOLL_CTL_ADD, fd, reading) }
func (p *epoll) AddWrite(fd int) error    { return p.control(unix.EPOLL_CTL_ADD, fd, unread) }
func (p *epoll) Pause(fd int) error       { return p.control(unix.EPOLL_CTL_MOD, fd, unread) }
func (p *epoll) Remove(fd int) error      { return p.control(unix.EPOLL_CTL_DEL, fd, 0) }

func (p *epoll) Writing(fd int, on bool) error {
	events := uint32(reading)
	if on {
		events |= unix.EPOLLOUT
	}
	return p.control(unix.EPOLL_CTL_MOD, fd, events)
}

func (p *epoll) Resume(fd int, writing bool) error { return p.Writing(fd, writing) }
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
			p.next = h.Served() | p.next&(Ran|Overdue)
		}
	}
	return nil
}

// wait returns how many events there are; none after a signal.
func (p *epoll) wait() (n int, err error) {
	switch {
	case p.next&Soon != 0 && p.mayNap():
		// Others have a P that nobody naps on, which makes it less urgent.
		if p.next&Overdue != 0 {
			if p.overdue++; p.overdue >= patience {
				p.letOthers()
			}
			p.next &^= Overdue
		}
		if n := p.nap(napMillis); n > 0 {
			return n, nil
		}
	case p.next&(Ran|Overdue) != 0:
		// Who was made runnable by the last batches gets its turn first: it would
		// otherwise wait until Go's monitor finds that this P is blocked.
		if n := p.look(); n > 0 {
			if p.next&Overdue != 0 {
				p.letOthers()
			}
			return n, nil
		}
		p.letOthers()
	}
	p.leave()
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
	if n > 0 {
		p.missed = 0
	} else if p.missed++; p.missed >= mostMissed {
		p.blind = blindWaits
	}
	return n
}

// nap waits for ms milliseconds at most, without telling Go's scheduler: telling it
// costs as much as a small message, and more where no P is idle, since Go's monitor
// then takes the P from every call that it meets. What the scheduler itself wants
// meanwhile, for a garbage collection say, it gets at once, since its signal ends a
// nap (unless such signals are turned off: then at the end of it). It returns 0 if
// nothing came, or on an error, which the other way of waiting will tell.
func (p *epoll) nap(ms uintptr) int {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), maxEvents, ms, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// mayNap takes a place for those who nap, unless the poller has one. Who naps holds
// its P, so there is a place for each P but one: on that others run, and the
// scheduler finds out what the network has for goroutines that wait for it. With
// one P nobody naps.
func (p *epoll) mayNap() bool {
	switch {
	case p.napper:
		return true
	case p.refused > 0:
		p.refused--
		return false
	}
	if p.napper = int(nappers.Add(1)) < runtime.GOMAXPROCS(0); !p.napper {
		nappers.Add(-1)
		p.refused = askAgain
	}
	return p.napper
}

// leave gives the place back.
func (p *epoll) leave() {
	if p.napper {
		p.napper = false
		nappers.Add(-1)
	}
}

// letOthers gives other goroutines a turn on this processor.
func (p *epoll) letOthers() {
	p.next, p.overdue = p.next&^(Ran|Overdue), 0
	if p.napper && int(nappers.Load()) >= runtime.GOMAXPROCS(0) {
		p.leave() // there are fewer Ps than there were
	}
	runtime.Gosched()
}

func (p *epoll) Close() error {
	p.leave()
	p.signals.close()
	return os.NewSyscallError("close", unix.Close(p.fd))
}
