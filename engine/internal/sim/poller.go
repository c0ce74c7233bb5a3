package sim

import (
	"syscall"
	"time"

	"github.com/pulsewheel/pulsewheel/engine/internal/poll"
)

// poller is one loop's poller. What a registration has to tell, and when, is
// in readiness.go; this file is about time, batches and goroutines.
type poller struct {
	// Set once.
	w     *World
	k     *Kernel
	index int
	fds   []int
	// baton is given to the goroutine in Run together with a batch, back is
	// given back, entered says that a goroutine took over after a Goexit.
	baton, back, entered chan struct{}

	// Guarded by w.mu.
	handler poll.Handler
	inRun   bool
	exited  bool // by a Goexit, and nobody has taken over yet
	stopped bool
	closed  bool
	owed    bool // something to see, but nobody in Run
	midway  bool // preempted in the middle of a batch
	asked   bool // Wake was called; see World.welcome

	regs  []*registration
	ready []*registration // those that may have something to tell, in order

	woken   bool
	expired bool
	dueAt   int64 // of the timer that expired
	armedAt int64
	timer   uint64 // the entry that expires; 0 if none

	turn   uint64 // the entry that begins the next turn; 0 if none
	turnAt int64
	busy   int64 // until when the last turn keeps the loop busy

	batch []report
}

// report is one entry of a batch.
type report struct {
	kind reportKind
	reg  *registration // when the batch was collected
	fd   int
	ev   poll.Events
	due  int64 // of a timer
}

type reportKind uint8

const (
	reportReady reportKind = iota
	reportWoken
	reportExpired
	reportPipe // kqueue: both come through one pipe
)

func newPoller(k *Kernel) *poller {
	return &poller{
		w: k.w, k: k, index: len(k.pollers),
		baton: make(chan struct{}), back: make(chan struct{}), entered: make(chan struct{}, 1),
	}
}

// kick begins a turn soon.
func (p *poller) kick() { p.kickAt(p.w.now + p.w.draw(p.k.cfg.Wakeup)) }

func (p *poller) kickAt(at int64) {
	if p.closed {
		return
	}
	if !p.inRun {
		p.owed = true
		return
	}
	at = max(at, p.busy, p.k.stallUntil)
	if p.turn != 0 && p.turnAt <= at {
		return
	}
	p.turnAt = at
	p.turn = p.w.push(at, (*turn)(p))
}

// turn hands a batch to the loop and waits until the loop is back.
type turn poller

func (t *turn) act(w *World, e entry) {
	p := (*poller)(t)
	if p.turn != e.seq {
		return // replaced by an earlier one
	}
	if w.nested {
		w.deferred = append(w.deferred, e)
		return
	}
	p.turn = 0
	if p.closed {
		return
	}
	if until := max(p.busy, p.k.stallUntil); until > w.now || !p.inRun {
		p.kickAt(until)
		return
	}
	if !p.midway {
		p.collect()
		if len(p.batch) == 0 {
			p.guardSleep()
			return // a poller swallows an empty wait
		}
	}
	p.midway = false
	w.running = p
	w.mu.Unlock()
	p.baton <- struct{}{}
	<-p.back
	w.mu.Lock()
	w.settle()
	if p.midway {
		p.kickAt(w.now + w.draw(Range{500, 50e3}))
		return
	}
	for p.exited && w.cfg.Settle == nil {
		w.mu.Unlock()
		p.awaitHeir()
		w.mu.Lock()
	}
	p.busy = w.now + int64(len(p.batch))*w.draw(Range{500, 5000})
	if w.chance(p.k.cfg.Faults.Hiccup) {
		w.counts[cHiccup]++
		p.busy += w.draw(Range{1e6, 30e6})
	}
	p.batch = p.batch[:0]
	if len(p.ready) > 0 || p.woken || p.expired && !p.k.cfg.Kqueue {
		p.kickAt(p.busy)
	}
	p.guardSleep()
}

// preempt takes the processor from the running loop for a moment, if that is one
// of k's and chance wills it: other loops and scripts get their turns in the
// middle of its batch. Called without w.mu, and only where a loop holds no lock
// of its own.
func (k *Kernel) preempt() {
	w := k.w
	w.mu.Lock()
	p := w.running
	if p == nil || p.k != k || w.nested || !w.chance(k.cfg.Faults.Preempt) {
		w.mu.Unlock()
		return
	}
	w.counts[cPreempt]++
	w.trace.call(w.now, k, "preempted", p.index, 0, nil)
	p.midway = true
	w.running = nil
	w.mu.Unlock()
	p.back <- struct{}{}
	<-p.baton
}

// awaitHeir waits for the goroutine that calls Run after a Goexit. It is on its
// way, so real time is no luck here.
func (p *poller) awaitHeir() {
	late := time.NewTimer(10 * time.Second)
	defer late.Stop()
	select {
	case <-p.entered:
	case <-late.C:
		p.w.mu.Lock()
		p.w.violation("%s: nobody called Run again after a Goexit in loop %d", p.k.name, p.index)
		p.exited = false
		p.w.mu.Unlock()
	}
}

// collect fills the batch.
func (p *poller) collect() {
	w, f := p.w, &p.k.cfg.Faults
	p.batch = p.batch[:0]
	p.collectReady()
	if w.chance(f.SpuriousHint) && len(p.regs) > 0 {
		w.counts[cSpuriousHint]++
		reg := p.regs[w.rng.IntN(len(p.regs))]
		p.batch = append(p.batch, report{kind: reportReady, reg: reg, fd: reg.f.fd, ev: reg.spurious(w)})
	}
	if p.k.cfg.Kqueue {
		if p.woken {
			p.insert(report{kind: reportPipe})
			p.woken = false
		}
	} else {
		if p.woken {
			p.insert(report{kind: reportWoken})
			p.woken = false
		}
		if p.expired {
			p.insert(report{kind: reportExpired, due: p.dueAt})
			p.expired = false
		}
	}
	if w.chance(f.Shuffle) {
		w.rng.Shuffle(len(p.batch), func(i, j int) { p.batch[i], p.batch[j] = p.batch[j], p.batch[i] })
	}
	if len(p.batch) > 0 {
		w.trace.call(w.now, p.k, "turn", p.index, int64(len(p.batch)), nil)
	}
}

// insert puts r at a random place of the batch.
func (p *poller) insert(r report) {
	i := p.w.rng.IntN(len(p.batch) + 1)
	p.batch = append(p.batch, report{})
	copy(p.batch[i+1:], p.batch[i:])
	p.batch[i] = r
}

func (p *poller) Run(h poll.Handler) error {
	w := p.w
	w.mu.Lock()
	switch {
	case p.closed:
		w.violation("%s: Run of a closed poller", p.k.name)
		w.mu.Unlock()
		return syscall.EBADF
	case p.inRun:
		w.violation("%s: Run of a poller that is in Run", p.k.name)
		w.mu.Unlock()
		return syscall.EBUSY
	}
	p.handler = h
	p.inRun = true
	p.owed = true
	w.expected = true
	if p.exited {
		p.exited = false
		select {
		case p.entered <- struct{}{}:
		default:
		}
	}
	w.mu.Unlock()
	for {
		<-p.baton
		if !p.handle() {
			return nil
		}
	}
}

// handle calls the handler for each report of the batch, and reports whether
// there will be another one. Whatever ends the goroutine, the driver gets its
// baton back.
func (p *poller) handle() (more bool) {
	w := p.w
	finished := false
	defer func() {
		w.mu.Lock()
		w.running = nil // here, because the heir of a Goexit does not wait for the driver
		if !finished {
			// The rest of the batch is lost, as it is with a real poller.
			w.counts[cGoexit]++
			w.trace.call(w.now, p.k, "goexit", p.index, 0, nil)
			p.exited = true
		}
		if !more {
			p.inRun = false
		}
		w.mu.Unlock()
		p.back <- struct{}{}
	}()
	for i := range p.batch {
		if i > 0 {
			p.k.preempt()
		}
		p.deliver(&p.batch[i])
		w.mu.Lock()
		stopped := p.stopped
		w.mu.Unlock()
		if stopped {
			finished = true
			return false
		}
	}
	p.k.preempt()
	p.handler.Served()
	finished = true
	return true
}

func (p *poller) deliver(r *report) {
	w := p.w
	w.mu.Lock()
	switch r.kind {
	case reportReady:
		switch f := p.k.files[r.fd]; {
		case f == nil:
			w.counts[cStaleEvent]++
		case f.reg != r.reg:
			w.counts[cReusedEvent]++
		default:
			p.guard(r.reg)
		}
		w.trace.call(w.now, p.k, "ready", r.fd, int64(r.ev), nil)
		w.mu.Unlock()
		p.handler.Ready(r.fd, r.ev)
	case reportWoken:
		w.trace.call(w.now, p.k, "woken", p.index, 0, nil)
		w.mu.Unlock()
		p.handler.Woken()
	case reportExpired:
		p.late(r)
		w.mu.Unlock()
		p.handler.Expired()
	case reportPipe:
		// Only now is the pipe emptied, of what was written since, too.
		expired := p.expired
		p.expired, p.woken = false, false
		if expired {
			r.due = p.dueAt
			p.late(r)
		}
		w.trace.call(w.now, p.k, "woken", p.index, 0, nil)
		w.mu.Unlock()
		if expired {
			p.handler.Expired()
		}
		w.mu.Lock()
		stopped := p.stopped
		w.mu.Unlock()
		if !stopped {
			p.handler.Woken()
		}
	}
}

func (p *poller) late(r *report) {
	p.k.maxLate = max(p.k.maxLate, p.w.now-r.due)
	p.w.trace.call(p.w.now, p.k, "expired", p.index, p.w.now-r.due, nil)
}

// guard finds a loop that spins: a descriptor that is reported again and again,
// and nothing comes of it.
func (p *poller) guard(reg *registration) {
	const patience = 3000
	if reg.idle++; reg.idle == patience {
		p.w.violation("%s: loop %d spins: %v was reported %d times in vain", p.k.name, p.index, reg.f, patience)
	}
}

// guardSleep finds a loop that goes to sleep over input: it was told, will not be
// told again, and has not looked. A timer or a verdict may make it look later, which
// is luck, or the end of a connection that was alive.
func (p *poller) guardSleep() {
	if !p.w.cfg.Prompt || !p.inRun || p.owed || p.asked || p.turn != 0 {
		return // it has something to do
	}
	for _, reg := range p.regs {
		if reg.f.kind == streamFile && reg.f.echoes == 0 && reg.f.sock.unheard(reg.paused) {
			p.w.violation("%s: loop %d sleeps, and has not heard all of %v", p.k.name, p.index, reg.f)
		}
	}
}

func (p *poller) Stop() {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if p.w.running != p {
		p.w.violation("%s: Stop of loop %d from outside its Run", p.k.name, p.index)
	}
	p.stopped = true
	p.w.trace.call(p.w.now, p.k, "stop", p.index, 0, nil)
}

func (p *poller) Close() error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if p.closed {
		p.w.violation("%s: Close of a closed poller", p.k.name)
		return syscall.EBADF
	}
	if p.inRun {
		p.w.violation("%s: Close of poller %d during Run", p.k.name, p.index)
	}
	p.closed = true
	for _, reg := range p.regs {
		reg.f.reg = nil
	}
	p.regs, p.ready = nil, nil
	for _, fd := range p.fds {
		p.k.uninstall(fd)
	}
	p.w.trace.call(p.w.now, p.k, "close poller", p.index, 0, nil)
	return nil
}

// Wake may be called by any goroutine, at any time. It takes effect when the
// running loop has given the baton back, so that a goroutine that runs beside
// the loop leaves no trace of when it did.
func (p *poller) Wake() error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if p.closed {
		p.w.violation("%s: Wake of closed poller %d", p.k.name, p.index)
		return syscall.EBADF
	}
	p.asked = true
	p.w.expected = true
	return nil
}

func (p *poller) Arm(at int64) error {
	if err := p.enter("Arm"); err != nil {
		p.w.mu.Unlock()
		return err
	}
	defer p.w.mu.Unlock()
	p.w.trace.call(p.w.now, p.k, "arm", p.index, at-p.w.now, nil)
	if !p.k.cfg.Kqueue {
		// timerfd_settime forgets an expiry that was not collected yet. The
		// pipe that stands for kqueue's timer does not.
		p.expired = false
	}
	p.armedAt = max(at, p.w.now)
	p.timer = p.w.push(p.armedAt+p.w.draw(p.k.cfg.TimerLate), (*expiry)(p))
	return nil
}

type expiry poller

func (x *expiry) act(_ *World, e entry) {
	p := (*poller)(x)
	if p.timer != e.seq || p.closed {
		return
	}
	p.timer = 0
	p.expired, p.dueAt = true, p.armedAt
	p.woken = p.woken || p.k.cfg.Kqueue // through the same pipe
	p.kickAt(p.w.now)
}

// enter begins a call that only the goroutine in Run may make, or anyone while
// nobody is there. It locks the world.
func (p *poller) enter(what string) error {
	p.w.mu.Lock()
	if p.closed {
		p.w.violation("%s: %s of closed poller %d", p.k.name, what, p.index)
		return syscall.EBADF
	}
	if p.inRun && p.w.running != p {
		p.w.violation("%s: %s of poller %d from outside its Run", p.k.name, what, p.index)
	}
	return nil
}
