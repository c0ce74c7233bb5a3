package sim

import (
	"math/bits"
	"slices"
	"syscall"

	"github.com/pulsewheel/pulsewheel/engine/internal/poll"
)

// readiness is what a descriptor has to tell, in the terms of epoll(7).
type readiness uint8

const (
	in readiness = 1 << iota
	out
	errors
	hup
	rdhup
	pri

	always  = errors | hup     // reported whether asked for or not
	reading = in | pri | rdhup // of a connection
)

// registration is one descriptor at one poller.
//
// With epoll, interest is its event mask, and edge says EPOLLET, which only a
// listener lacks. With kqueue, interest holds in and out for its two filters, which
// are always edge-triggered (EV_CLEAR), and active those that have something to
// report.
type registration struct {
	poller   *poller
	f        *file
	place    int // in poller.regs
	interest readiness
	edge     bool
	active   readiness
	listed   bool // in poller.ready
	paused   bool // what comes is to wait, but for a reset
	idle     int  // reports since something came of one
}

// notify is the kernel's wake-up: something about the file changed that may
// make r true.
func (p *poller) notify(reg *registration, r readiness) {
	if p.k.cfg.Kqueue {
		active := readiness(0)
		if r&(in|rdhup|hup|errors) != 0 {
			active |= in
		}
		if r&(out|hup|errors) != 0 {
			active |= out
		}
		if active &= reg.interest; active == 0 {
			return
		}
		reg.active |= active
	} else if r&(reg.interest|always) == 0 {
		return
	}
	p.list(reg)
	p.kick()
}

func (p *poller) list(reg *registration) {
	if !reg.listed {
		reg.listed = true
		p.ready = append(p.ready, reg)
	}
}

// collectReady moves what is ready into the batch, or a part of it.
func (p *poller) collectReady() {
	for _, reg := range p.ready {
		for _, ev := range reg.told(p.k.cfg.Kqueue) {
			if ev != 0 {
				p.batch = append(p.batch, report{kind: reportReady, reg: reg, fd: reg.f.fd, ev: ev})
			}
		}
	}
	w := p.w
	if n := len(p.batch); n > 1 && w.chance(p.k.cfg.Faults.SmallBatch) {
		w.counts[cSmallBatch]++
		w.rng.Shuffle(n, func(i, j int) { p.batch[i], p.batch[j] = p.batch[j], p.batch[i] })
		p.batch = p.batch[:1+w.rng.IntN(n-1)]
	}
	for i := range p.batch {
		p.batch[i].reg.reported(p.k.cfg.Kqueue, p.batch[i].ev)
	}
	p.ready = slices.DeleteFunc(p.ready, func(reg *registration) bool {
		reg.listed = reg.pending(p.k.cfg.Kqueue)
		return !reg.listed
	})
}

// told is what reg has to tell: one event of epoll, or one for each filter of
// kqueue.
func (reg *registration) told(kqueue bool) (ev [2]poll.Events) {
	r := reg.f.state()
	if !kqueue {
		ev[0] = translate(r & (reg.interest | always))
		return ev
	}
	if reg.active&in != 0 && r&in != 0 {
		ev[0] = poll.Readable
		if r&(rdhup|hup) != 0 {
			ev[0] |= poll.Hangup // EV_EOF
		}
	}
	if reg.active&out != 0 && r&out != 0 {
		ev[1] = poll.Writable
		if r&hup != 0 {
			ev[1] |= poll.Hangup
		}
	}
	return ev
}

func translate(r readiness) (ev poll.Events) {
	if r&(in|pri) != 0 {
		ev |= poll.Readable
	}
	if r&out != 0 {
		ev |= poll.Writable
	}
	if r&(errors|hup|rdhup|pri) != 0 {
		ev |= poll.Hangup
	}
	return ev
}

// reported takes note that a batch holds ev: an edge is told once.
func (reg *registration) reported(kqueue bool, ev poll.Events) {
	switch {
	case !kqueue:
		if reg.edge {
			reg.listed = false
		}
	case ev&poll.Readable != 0:
		reg.active &^= in
	default:
		reg.active &^= out
	}
}

// pending reports whether reg stays in the ready list.
func (reg *registration) pending(kqueue bool) bool {
	r := reg.f.state()
	if kqueue {
		return reg.active&r != 0
	}
	return reg.listed && r&(reg.interest|always) != 0
}

// spurious is an event for which there is no cause.
func (reg *registration) spurious(w *World) poll.Events {
	wanted := translate(reg.interest&(in|out)) | poll.Hangup
	if ev := poll.Events(w.rng.IntN(int(poll.Hangup)<<1)) & wanted; ev != 0 {
		return ev
	}
	return poll.Events(1) << bits.TrailingZeros8(uint8(wanted))
}

// look reports what is true already, as epoll_ctl and kevent do when interest
// is added or changed.
func (p *poller) look(reg *registration, filters readiness) {
	r := reg.f.state()
	if p.k.cfg.Kqueue {
		if reg.active |= filters & r & (in | out); reg.active != 0 {
			p.list(reg)
			p.kick()
		}
	} else if r&(reg.interest|always) != 0 {
		p.list(reg)
		p.kick()
	}
}

func (p *poller) forget(reg *registration) {
	last := len(p.regs) - 1
	p.regs[reg.place] = p.regs[last]
	p.regs[reg.place].place = reg.place
	p.regs[last] = nil
	p.regs = p.regs[:last]
	if reg.listed {
		p.ready = slices.DeleteFunc(p.ready, func(r *registration) bool { return r == reg })
	}
	reg.f.reg = nil
}

// control begins a call about one descriptor. It locks the world.
func (p *poller) control(what string, fd int) (*file, error) {
	if err := p.enter(what); err != nil {
		return nil, err
	}
	k := p.k
	k.traced(what, fd, p.index, nil)
	if fd < 0 || fd >= len(k.files) || k.files[fd] == nil {
		k.w.violation("%s: %s of descriptor %d, which is not open", k.name, what, fd)
		return nil, syscall.EBADF
	}
	f := k.files[fd]
	if f.kind != streamFile && f.kind != listenerFile {
		k.w.violation("%s: %s of descriptor %d, which is %v", k.name, what, fd, f)
		return nil, syscall.EPERM
	}
	if f.reg != nil && f.reg.poller != p {
		k.w.violation("%s: %s of descriptor %d at poller %d, but it is at %d", k.name, what, fd, p.index, f.reg.poller.index)
		return nil, syscall.EEXIST
	}
	return f, nil
}

func (p *poller) register(f *file, interest readiness, edge bool) error {
	if f.reg != nil && !p.k.cfg.Kqueue {
		p.w.violation("%s: descriptor %d is watched already", p.k.name, f.fd)
		return syscall.EEXIST
	}
	reg := f.reg
	if reg == nil {
		reg = &registration{poller: p, f: f, place: len(p.regs)}
		f.reg = reg
		p.regs = append(p.regs, reg)
	}
	if p.k.cfg.Kqueue {
		reg.interest |= interest & (in | out)
	} else {
		reg.interest = interest
	}
	reg.edge = edge
	p.look(reg, interest)
	return nil
}

func (p *poller) AddListener(fd int) error {
	return p.add("AddListener", fd, listenerFile, in, false)
}

func (p *poller) Add(fd int) error { return p.add("Add", fd, streamFile, reading, true) }

func (p *poller) add(what string, fd int, kind fileKind, interest readiness, edge bool) error {
	f, err := p.control(what, fd)
	defer p.w.mu.Unlock()
	if err != nil {
		return err
	}
	if f.kind != kind {
		p.w.violation("%s: %s of descriptor %d, which is %v", p.k.name, what, fd, f)
		return syscall.EINVAL
	}
	return p.register(f, interest, edge)
}

func (p *poller) AddWrite(fd int) error {
	f, err := p.control("AddWrite", fd)
	defer p.w.mu.Unlock()
	if err != nil {
		return err
	}
	return p.register(f, out|rdhup, true)
}

func (p *poller) Writing(fd int, on bool) error {
	f, err := p.control("Writing", fd)
	defer p.w.mu.Unlock()
	if err != nil {
		return err
	}
	return p.writing(f, on)
}

func (p *poller) writing(f *file, on bool) error {
	reg := f.reg
	if p.k.cfg.Kqueue {
		switch {
		case on:
			return p.register(f, out, true)
		case reg == nil || reg.interest&out == 0:
			return syscall.ENOENT
		}
		reg.interest &^= out
		reg.active &^= out
		return nil
	}
	if reg == nil {
		p.w.violation("%s: Writing of descriptor %d, which is not watched", p.k.name, f.fd)
		return syscall.ENOENT
	}
	reg.interest, reg.edge = reading, true
	if on {
		reg.interest |= out
	}
	p.look(reg, reg.interest)
	return nil
}

func (p *poller) Pause(fd int) error {
	f, err := p.control("Pause", fd)
	defer p.w.mu.Unlock()
	switch {
	case err != nil:
		return err
	case p.k.cfg.Kqueue: // interest in reading cannot be dropped
	case f.reg == nil:
		p.w.violation("%s: Pause of descriptor %d, which is not watched", p.k.name, fd)
		return syscall.ENOENT
	default:
		p.forget(f.reg)
	}
	err = p.register(f, out|rdhup, true)
	f.reg.paused = true
	return err
}

func (p *poller) Resume(fd int, writing bool) error {
	f, err := p.control("Resume", fd)
	defer p.w.mu.Unlock()
	if err != nil {
		return err
	}
	if f.reg != nil {
		f.reg.paused = false
	}
	if p.k.cfg.Kqueue {
		if err := p.register(f, in, true); err != nil || writing || f.reg.interest&out == 0 {
			return err
		}
	}
	return p.writing(f, writing)
}

func (p *poller) Remove(fd int) error {
	f, err := p.control("Remove", fd)
	defer p.w.mu.Unlock()
	if err != nil || p.k.cfg.Kqueue {
		return err
	}
	if f.reg == nil {
		p.w.violation("%s: Remove of descriptor %d, which is not watched", p.k.name, fd)
		return syscall.ENOENT
	}
	p.forget(f.reg)
	return nil
}

func (p *poller) EdgeListeners() bool { return p.k.cfg.Kqueue }
