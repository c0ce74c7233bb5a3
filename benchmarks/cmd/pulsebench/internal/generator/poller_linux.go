package generator

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller is epoll with a wake-up for other goroutines. Events carry the index
// of a connection, and its turn, which tells the connections apart that have
// had this index one after another.
type poller struct {
	fd, wakeup int
	events     [1024]unix.EpollEvent
	// coarse: the kernel has no epoll_pwait2 (before 5.11).
	coarse bool
}

const wakeIndex = -1

func newPoller() (*poller, error) {
	// The least slack: the kernel may wake us late by 50 µs otherwise.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	p := &poller{fd: -1, wakeup: -1}
	var err error
	if p.fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	if p.wakeup, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		p.close()
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err := p.add(p.wakeup, wakeIndex, 0, unix.EPOLLIN|unix.EPOLLET); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *poller) close() {
	for _, fd := range []int{p.fd, p.wakeup} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

func (p *poller) add(fd int, index, turn int32, events uint32) error {
	e := unix.EpollEvent{Events: events, Fd: index, Pad: turn}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

func (p *poller) change(fd int, index, turn int32, events uint32) error {
	e := unix.EpollEvent{Events: events, Fd: index, Pad: turn}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, fd, &e); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// wake makes wait return. It may be called by any goroutine.
func (p *poller) wake() {
	_, _ = unix.Write(p.wakeup, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// forever is a wait without an end.
const forever = int64(1) << 62

// wait returns the events that are there, waiting for one no longer than ns
// nanoseconds.
func (p *poller) wait(ns int64) ([]unix.EpollEvent, error) {
	for !p.coarse {
		// 64 bits each on every architecture, unlike unix.Timespec.
		var limit *[2]int64
		if ns < forever {
			ns = max(ns, 0)
			limit = &[2]int64{ns / 1e9, ns % 1e9}
		}
		n, _, errno := syscall.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])),
			uintptr(len(p.events)), uintptr(unsafe.Pointer(limit)), 0, 0)
		switch errno {
		case 0:
			return p.events[:n], nil
		case unix.EINTR:
			return nil, nil
		case unix.ENOSYS:
			p.coarse = true
		default:
			return nil, fmt.Errorf("epoll_pwait2: %w", errno)
		}
	}
	// Rounded down: the last millisecond before a due time is spent awake.
	ms := -1
	if ns < forever {
		ms = int(min(max(ns, 0)/1e6, 1<<30))
	}
	n, err := unix.EpollWait(p.fd, p.events[:], ms)
	switch err {
	case nil:
		return p.events[:n], nil
	case unix.EINTR:
		return nil, nil
	}
	return nil, fmt.Errorf("epoll_wait: %w", err)
}
