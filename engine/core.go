package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// core is what a Server and a Client have in common: the loops, the table of
// their connections, and how they end.
type core struct {
	kernel kernel
	limits Limits
	log    *slog.Logger
	loops  []*Loop
	conns  table
	// profiles are those of all connections, and promises what they promise.
	profiles   []*profile
	promises   []Promise
	admission  admission
	workers    workers
	groups     groups
	identities identities
	watch      watch
	ended      obituaries

	held    atomic.Int64 // memory of output that waits, towards Limits.Budget
	open    atomic.Int64 // connections, those being established included
	starved atomic.Bool  // a listener is parked until there is room under MaxConns

	running  sync.WaitGroup // loops whose goroutine has not ended for good
	mu       sync.Mutex
	started  bool
	stopping bool
	stopped  chan struct{} // closed when every loop has ended and freed what it had
	failed   chan error    // the first loop's failure
}

func newCore(k kernel, limits Limits, adm Admission, profiles []*profile, log *slog.Logger) (*core, error) {
	limits, err := limits.withDefaults(k.MaxFiles())
	adm, err2 := adm.withDefaults()
	if err = errors.Join(err, err2); err == nil {
		err = errors.Join(limits.checkPingRate(profiles), limits.Outage.check(profiles), limits.checkTick(profiles))
	}
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.Default()
	}
	co := &core{
		kernel: k, limits: limits, log: log,
		profiles: profiles,
		stopped:  make(chan struct{}), failed: make(chan error, 1),
	}
	co.admission.Admission = adm
	co.admission.init()
	co.workers.core = co
	co.watch.core = co
	for _, p := range profiles {
		if p.note != "" {
			co.report(slog.LevelInfo, "KeepAlive is not applied as configured", "note", p.note)
		}
	}
	for i := range limits.Loops {
		l, err := newLoop(co, i)
		if err != nil {
			co.release()
			return nil, fmt.Errorf("loop %d: %w", i, err)
		}
		co.loops = append(co.loops, l)
	}
	return co, nil
}

// release frees what loops hold that were never started.
func (co *core) release() {
	for _, l := range co.loops {
		l.release()
	}
}

// start runs the loops, once.
func (co *core) start() error {
	co.mu.Lock()
	defer co.mu.Unlock()
	switch {
	case co.stopping:
		return ErrClosed
	case co.started:
		return errors.New("engine: already serving")
	}
	co.started = true
	co.running.Add(len(co.loops))
	go func() {
		co.running.Wait()
		co.workers.close()
		co.watch.close()
		close(co.stopped)
	}()
	for _, l := range co.loops {
		go l.run(false)
	}
	return nil
}

// blockedGrace is how long shutdown waits, beyond its context, for a loop that
// a callback holds up.
const blockedGrace = time.Second

// shutdown ends every connection, gracefully until ctx ends, and then the
// loops. It may be called more than once, and returns when all is freed.
func (co *core) shutdown(ctx context.Context) error {
	linger := co.limits.Linger
	if deadline, ok := ctx.Deadline(); ok {
		linger = time.Until(deadline) + blockedGrace // it is ctx that decides
	}
	if !co.beginShutdown(linger) {
		return nil
	}
	for _, l := range co.loops {
		select {
		case <-l.empty:
		case <-co.stopped:
		case <-ctx.Done():
		}
	}
	for _, l := range co.loops {
		l.mail.post(letter{f: l.stop})
	}
	select {
	case <-co.stopped:
		return ctx.Err()
	case <-ctx.Done():
	}
	select {
	case <-co.stopped:
		return ctx.Err()
	case <-time.After(blockedGrace):
		if work := co.workers.stats(); work.Active > 0 {
			n := work.Active + work.Queued
			return fmt.Errorf("engine: %d tasks have not ended; their workers will when they return: %w", n, ctx.Err())
		}
		return fmt.Errorf("engine: a callback blocks its loop, which will end when it returns: %w", ctx.Err())
	}
}

// beginShutdown makes every loop let go of its listeners and drain its
// connections, each for as long as linger. It returns false if there is nothing
// to wait for.
func (co *core) beginShutdown(linger time.Duration) bool {
	co.mu.Lock()
	defer co.mu.Unlock()
	first := !co.stopping
	co.stopping = true
	if !co.started {
		if first {
			co.release()
			close(co.stopped)
		}
		return false
	}
	if first {
		for _, l := range co.loops {
			l.mail.post(letter{f: func() { l.drain(linger) }})
		}
	}
	return true
}

// makeRoom resumes the listeners that wait for room under MaxConns.
func (co *core) makeRoom() {
	if co.starved.Load() && co.starved.CompareAndSwap(true, false) {
		for _, l := range co.loops {
			l.mail.post(letter{f: l.resumeStarved})
		}
	}
}

// report logs. It survives a panic in the application's slog.Handler, which
// would otherwise end the process from within a loop.
func (co *core) report(level slog.Level, msg string, args ...any) {
	defer func() { _ = recover() }()
	co.log.Log(context.Background(), level, msg, args...)
}

// reserve takes a place under MaxConns, if there is one.
func (co *core) reserve() bool {
	if co.open.Add(1) > int64(co.limits.MaxConns) {
		co.open.Add(-1)
		return false
	}
	return true
}

// unreserve gives a place back, and tells the listeners that wait for one.
func (co *core) unreserve() {
	co.open.Add(-1)
	co.makeRoom()
}

// leastLoaded returns the loop with the fewest connections, given that l has
// got one more: l itself unless it is well ahead, so that connections stay
// where the kernel put them while that does no harm.
func (co *core) leastLoaded(l *Loop) *Loop {
	if len(co.loops) == 1 {
		return l
	}
	least := l
	for _, other := range co.loops {
		if other.load.Load() < least.load.Load() {
			least = other
		}
	}
	if n := least.load.Load(); l.load.Load() > n+n/8+8 {
		return least
	}
	return l
}

// lookup finds an open connection by its ID.
func (co *core) lookup(id ID) *Conn {
	if c := co.conns.at(id.slot()); c != nil && c.id == id && c.state.Load()&opened != 0 {
		return c
	}
	return nil
}

// each calls f for the connections that are open now, until it returns false.
func (co *core) each(f func(*Conn) bool) {
	co.conns.all(func(c *Conn) bool {
		return c.state.Load()&opened == 0 || f(c)
	})
}

// listener is one listening socket of one loop.
type listener struct {
	fd      int
	addr    sys.Addr
	profile *profile

	// Owned by the loop.
	parked  bool
	starved bool          // parked until there is room under MaxConns
	retry   *Timer        // the next look for idle connections that make room
	backoff time.Duration // the latest wait after a lack of resources; 0: none
	single  int           // events that are to take one connection only
}
