package poll

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/engine/internal/clock"
)

// signals is an eventfd and a timerfd. Both are registered edge-triggered and
// never read: every write and every expiry is a new edge (epoll(7)), and an
// eventfd's counter outlasts the machine.
type signals struct {
	wakeFD, timerFD int
	opened          bool
}

// open makes both, and has watch watch them edge-triggered.
func (s *signals) open(watch func(fd int) error) (err error) {
	if s.wakeFD, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	if s.timerFD, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		_ = unix.Close(s.wakeFD)
		return os.NewSyscallError("timerfd_create", err)
	}
	s.opened = true
	if err = watch(s.wakeFD); err != nil {
		return err
	}
	return watch(s.timerFD)
}

// consume tells h what an event of fd means, if fd is one of them.
func (s *signals) consume(h Handler, _ *bool, fd int) bool {
	switch fd {
	case s.wakeFD:
		h.Woken()
	case s.timerFD:
		h.Expired()
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
