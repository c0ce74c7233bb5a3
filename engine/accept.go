package engine

import (
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

const (
	acceptBatch = 64 // connections per event
	// singleAccepts is how many events take one connection each after one that
	// found no second: an accept in vain costs nearly as much as one that is not,
	// and who waits is reported again, unless the poller's listeners are
	// edge-triggered.
	singleAccepts = 7
	minBackoff    = 5 * time.Millisecond
	maxBackoff    = time.Second
)

// watchListeners begins to wait for connections, before the loop runs.
func (l *Loop) watchListeners() error {
	for _, ln := range l.listeners {
		if err := l.poller.AddListener(ln.fd); err != nil {
			return err
		}
	}
	return nil
}

// accept takes what waits in a listener's queue. more tells that it took as
// many as it may at a time.
func (l *Loop) accept(ln *listener) (more bool) {
	if ln.parked || ln.fd < 0 {
		return false
	}
	admission := &l.core.admission
	most := acceptBatch
	if ln.single > 0 && !l.poller.EdgeListeners() && !l.draining {
		ln.single--
		most = 1
	}
	for taken := range most {
		if !l.core.reserve() && !(l.evict(ln) && l.core.reserve()) {
			l.parkStarved(ln)
			return false
		}
		if wait := admission.take(l.now); wait > 0 && !l.draining {
			l.core.unreserve()
			l.parkFor(ln, wait)
			return false
		}
		fd, remote, err := l.core.kernel.Accept(ln.fd)
		if err == nil {
			ln.backoff = 0
			if l.admit(fd, remote) {
				l.place(fd, remote, ln.profile)
			}
			continue
		}
		l.core.unreserve()
		admission.giveBack()
		switch {
		case errors.Is(err, sys.EAGAIN):
			if taken == 1 {
				ln.single = singleAccepts
			}
			return false
		case errors.Is(err, sys.EMFILE), errors.Is(err, sys.ENFILE), errors.Is(err, sys.ENOBUFS), errors.Is(err, sys.ENOMEM):
			if l.evict(ln) {
				l.stats.acceptErrors.Add(1)
				continue
			}
			l.parkForResources(ln, err)
			return false
		}
		// The errors of a connection that is gone again are reported by accept,
		// too (accept(2)); none of them is a reason to stop serving the others.
		l.stats.acceptErrors.Add(1)
	}
	if l.poller.EdgeListeners() {
		l.mail.post(letter{f: func() { l.accept(ln) }})
	}
	return true
}

// place opens a connection on this loop, or on one that has far fewer.
func (l *Loop) place(fd int, remote netip.AddrPort, p *profile) {
	l.load.Add(1)
	target := l
	if !l.draining {
		target = l.core.leastLoaded(l)
	}
	if target == l {
		l.adopt(fd, remote, p)
		return
	}
	l.load.Add(-1)
	target.load.Add(1)
	if !target.mail.post(letter{f: func() { target.adopt(fd, remote, p) }}) {
		target.load.Add(-1)
		_ = l.core.kernel.Close(fd)
		l.core.admission.leave(remote)
		l.core.unreserve()
	}
}

// adopt makes a Conn of a descriptor for which a place under MaxConns and in
// the loop's load was taken.
func (l *Loop) adopt(fd int, remote netip.AddrPort, p *profile) {
	c := l.newConn(fd, remote, p)
	if c == nil {
		return
	}
	if err := l.poller.Add(fd); err != nil {
		l.core.report(slog.LevelWarn, "cannot watch a connection", "err", err)
		l.discard(c)
		return
	}
	if !sys.InheritsProbes && remote.IsValid() {
		if err := l.core.kernel.SetProbes(fd, p.probes); err != nil {
			l.core.report(slog.LevelWarn, "cannot set the kernel's probes", "err", err)
		}
	}
	l.enter(c)
}

// parkForResources stops accepting for a while: 5 ms at first, up to a second.
// The connections that wait stay in the kernel's queue.
func (l *Loop) parkForResources(ln *listener, err error) {
	l.stats.acceptErrors.Add(1)
	if ln.backoff == 0 {
		l.core.report(slog.LevelWarn, "cannot accept connections for lack of resources; trying again", "addr", ln.addr.String(), "err", err)
	}
	ln.backoff = min(max(2*ln.backoff, minBackoff), maxBackoff)
	l.parkFor(ln, ln.backoff)
}

// parkFor stops accepting for a while.
func (l *Loop) parkFor(ln *listener, d time.Duration) {
	l.park(ln)
	l.AfterFunc(d, func() { l.unpark(ln); l.accept(ln) })
}

// parkStarved stops accepting until a connection ends, or one has been idle for
// long enough to make room.
func (l *Loop) parkStarved(ln *listener) {
	ln.starved = true
	l.park(ln)
	if d := l.core.admission.EvictIdle; d > 0 {
		if ln.retry != nil {
			ln.retry.Stop()
		}
		ln.retry = l.AfterFunc(min(d, maxBackoff), l.resumeStarved)
	}
	l.core.starved.Store(true)
	if l.core.open.Load() < int64(l.core.limits.MaxConns) {
		// The last connection that could have told us ended before it could.
		l.core.makeRoom()
	}
}

// resumeStarved accepts again now that there may be room.
func (l *Loop) resumeStarved() {
	// First all are watched again: a Goexit in Open must strand none.
	for _, ln := range l.listeners {
		if ln.starved {
			ln.starved = false
			l.unpark(ln)
		}
	}
	for _, ln := range l.listeners {
		l.accept(ln)
	}
}

func (l *Loop) park(ln *listener) {
	ln.parked = true
	l.stats.parks.Add(1)
	if err := l.poller.Remove(ln.fd); err != nil {
		l.core.report(slog.LevelError, "cannot park a listener", "addr", ln.addr.String(), "err", err)
	}
}

func (l *Loop) unpark(ln *listener) {
	if !ln.parked || ln.fd < 0 {
		return
	}
	ln.parked = false
	if err := l.poller.AddListener(ln.fd); err != nil {
		l.core.report(slog.LevelError, "cannot resume a listener", "addr", ln.addr.String(), "err", err)
		ln.parked = true
		l.AfterFunc(maxBackoff, func() { l.unpark(ln); l.accept(ln) })
	}
}

// closeListener frees a listener's descriptor, once.
func (l *Loop) closeListener(ln *listener) {
	if ln.fd >= 0 {
		_ = l.core.kernel.Close(ln.fd)
		l.core.kernel.Unlink(ln.addr)
		ln.fd = -1
	}
}
