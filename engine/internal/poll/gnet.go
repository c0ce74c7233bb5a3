//go:build (linux && poll_opt) || darwin || freebsd || netbsd || openbsd || dragonfly

package poll

import (
	"github.com/panjf2000/gnet/v2/pkg/errors"
	"github.com/panjf2000/gnet/v2/pkg/netpoll"
)

// native is gnet's Poller with a wake-up and a timer of our own. Its Trigger
// is not used: it allocates, does not keep order past 1,024 tasks, starves I/O
// when a task posts itself, and never recovers from a Goexit.
//
// The platform files supply signals (the wake-up and the timer) and the
// translation of event flags; the build tag poll_opt chooses run and
// attachment.
type native struct {
	gnet    *netpoll.Poller
	h       Handler
	signals signals
	pool    attachments
	stopped bool
}

// Open makes a poller. It holds descriptors until Close.
func Open() (Poller, error) {
	redirectGnet()
	p := new(native)
	var err error
	if p.gnet, err = openGnet(); err != nil {
		return nil, err
	}
	if err = p.signals.open(func(fd int) error { return p.gnet.AddRead(p.attachment(fd), true) }); err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

func (p *native) AddListener(fd int) error { return p.gnet.AddRead(p.attachment(fd), edgeListeners) }
func (p *native) EdgeListeners() bool      { return edgeListeners }
func (p *native) Add(fd int) error         { return p.gnet.AddRead(p.attachment(fd), true) }
func (p *native) AddWrite(fd int) error    { return p.gnet.AddWrite(p.attachment(fd), true) }

func (p *native) Writing(fd int, on bool) error {
	if on {
		return p.gnet.ModReadWrite(p.attachment(fd), true)
	}
	return p.gnet.ModRead(p.attachment(fd), true)
}

func (p *native) Remove(fd int) error { return p.gnet.Delete(fd) }
func (p *native) Arm(at int64) error  { return p.signals.arm(at) }
func (p *native) Wake() error         { return p.signals.wake() }
func (p *native) Stop()               { p.stopped = true }

func (p *native) Run(h Handler) error {
	p.h = h
	err := p.polling()
	if p.stopped {
		return nil
	}
	return err
}

func (p *native) Close() error {
	p.signals.close()
	return p.gnet.Close()
}

// callback returns the one callback of every descriptor, in both variants of
// gnet's Poller. Polling ends only on ErrEngineShutdown; it drops other errors.
// A closure, because a method value adds a call to every event.
func (p *native) callback() netpoll.PollEventHandler {
	return func(fd int, ev netpoll.IOEvent, flags netpoll.IOFlags) error {
		if !p.signals.consume(p.h, &p.stopped, fd) {
			p.h.Ready(fd, translate(ev, flags))
			p.h.Served() // there is no telling where a batch ends
		}
		if p.stopped {
			return errors.ErrEngineShutdown
		}
		return nil
	}
}
