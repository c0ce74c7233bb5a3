//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package poll

import (
	"errors"
	"os"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2/pkg/netpoll"
	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/engine/internal/clock"
)

// gnet's kqueue Poller cannot drop read interest (its Delete does nothing), so a
// listener that is parked would spin if it were level-triggered.
const edgeListeners = true

// Pause only adds interest in writing: the caller ignores what else is reported.
func (p *native) Pause(fd int) error { return p.gnet.AddWrite(p.attachment(fd), true) }

// Resume adds the interest in reading again. That reports what has come
// meanwhile, and is what a connection being established has been lacking.
func (p *native) Resume(fd int, writing bool) error {
	if err := p.gnet.AddRead(p.attachment(fd), true); err != nil || writing {
		return err
	}
	if err := p.gnet.ModRead(p.attachment(fd), true); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

func translate(ev netpoll.IOEvent, flags netpoll.IOFlags) (out Events) {
	switch {
	case netpoll.IsReadEvent(ev):
		out = Readable
	case netpoll.IsWriteEvent(ev):
		out = Writable
	}
	if netpoll.IsErrorEvent(ev, flags) {
		out |= Hangup
	}
	return out
}

// signals is a pipe to ourselves, written by Wake and by a Go timer.
type signals struct {
	pipe    [2]int
	opened  bool
	expired atomic.Bool
	// closed keeps a late timer from writing to a descriptor that is no
	// longer ours.
	closed chan struct{}
	done   chan struct{}
	armed  chan int64
}

// open makes it, and has watch watch its reading end edge-triggered.
func (s *signals) open(watch func(fd int) error) error {
	if err := unix.Pipe(s.pipe[:]); err != nil {
		return os.NewSyscallError("pipe", err)
	}
	s.opened = true
	for _, fd := range s.pipe {
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, true); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	if err := watch(s.pipe[0]); err != nil {
		return err
	}
	s.closed, s.done, s.armed = make(chan struct{}), make(chan struct{}), make(chan int64, 1)
	go s.runTimer()
	return nil
}

// runTimer owns the Go timer. A goroutine, and not time.AfterFunc, because
// close must be able to wait until nobody writes to the pipe any more.
func (s *signals) runTimer() {
	defer close(s.done)
	timer := time.NewTimer(0)
	<-timer.C
	for {
		select {
		case at := <-s.armed:
			timer.Reset(time.Duration(at - clock.Now()))
		case <-timer.C:
			s.expired.Store(true)
			_ = s.wake()
		case <-s.closed:
			timer.Stop()
			return
		}
	}
}

// consume tells h what an event of fd means, if fd is the pipe. A handler that
// stops the poller is not called again.
func (s *signals) consume(h Handler, stopped *bool, fd int) bool {
	if fd != s.pipe[0] {
		return false
	}
	// Emptied, so that the pipe never fills. What is written from here on is a
	// new edge.
	var sink [64]byte
	for {
		n, err := unix.Read(fd, sink[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n < len(sink) {
			break
		}
	}
	if s.expired.Swap(false) {
		h.Expired()
	}
	if !*stopped {
		h.Woken()
	}
	return true
}

func (s *signals) wake() error {
	for {
		// EAGAIN means a full pipe, which is a wake-up in itself.
		if _, err := unix.Write(s.pipe[1], []byte{1}); err != unix.EINTR {
			if err == unix.EAGAIN {
				return nil
			}
			return os.NewSyscallError("write", err)
		}
	}
}

func (s *signals) arm(at int64) error {
	// The latest time replaces one that runTimer has not taken yet.
	select {
	case <-s.armed:
	default:
	}
	s.armed <- at
	return nil
}

func (s *signals) close() {
	if s.closed != nil {
		close(s.closed)
		<-s.done
	}
	if s.opened {
		_ = unix.Close(s.pipe[0])
		_ = unix.Close(s.pipe[1])
	}
}
