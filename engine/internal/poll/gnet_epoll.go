//go:build linux

package poll

import (
	"encoding/binary"
	"os"

	"github.com/panjf2000/gnet/v2/pkg/netpoll"
	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/engine/internal/clock"
)

// Level-triggered: a descriptor that was not read to the end is reported again.
const edgeTriggered = false

// Pause registers anew, edge-triggered and for writing only. What remains of
// interest is then reported without spinning: a reset arrives as
// OUT|ERR|HUP|RDHUP, a FIN as OUT|RDHUP. Modifying in place would re-arm
// reading, because both of gnet's modifications include it.
func (p *native) Pause(fd int) error {
	if err := p.gnet.Delete(fd); err != nil {
		return err
	}
	return p.gnet.AddWrite(p.attachment(fd), true)
}

func (p *native) Resume(fd int, writing bool) error { return p.Writing(fd, writing) }

func translate(ev netpoll.IOEvent, _ netpoll.IOFlags) (out Events) {
	if ev&(unix.EPOLLIN|unix.EPOLLPRI) != 0 {
		out |= Readable
	}
	if ev&unix.EPOLLOUT != 0 {
		out |= Writable
	}
	if ev&(unix.EPOLLERR|unix.EPOLLHUP|unix.EPOLLRDHUP) != 0 {
		out |= Hangup
	}
	return out
}

// signals is an eventfd and a timerfd. Both are registered edge-triggered and
// never read: every write and every expiry is a new edge (epoll(7)), and an
// eventfd's counter outlasts the machine.
type signals struct {
	wakeFD, timerFD int
	opened          bool
}

func (s *signals) open(p *native) (err error) {
	if s.wakeFD, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	if s.timerFD, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		_ = unix.Close(s.wakeFD)
		return os.NewSyscallError("timerfd_create", err)
	}
	s.opened = true
	if err = p.gnet.AddRead(p.attachment(s.wakeFD), true); err != nil {
		return err
	}
	return p.gnet.AddRead(p.attachment(s.timerFD), true)
}

func (s *signals) consume(p *native, fd int) bool {
	switch fd {
	case s.wakeFD:
		p.h.Woken()
	case s.timerFD:
		p.h.Expired()
	default:
		return false
	}
	return true
}

var one = binary.NativeEndian.AppendUint64(nil, 1)

func (s *signals) wake() error {
	for {
		// EAGAIN means a counter at its maximum, which is a wake-up in itself.
		if _, err := unix.Write(s.wakeFD, one); err != unix.EINTR {
			if err == unix.EAGAIN {
				return nil
			}
			return os.NewSyscallError("write", err)
		}
	}
}

func (s *signals) arm(at int64) error {
	// Zero would disarm the timer; the first nanosecond has passed long since.
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(clock.Kernel(at), 1))}
	return os.NewSyscallError("timerfd_settime",
		unix.TimerfdSettime(s.timerFD, unix.TFD_TIMER_ABSTIME, &spec, nil))
}

func (s *signals) close() {
	if s.opened {
		_ = unix.Close(s.wakeFD)
		_ = unix.Close(s.timerFD)
	}
}
