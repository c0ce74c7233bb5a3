package engine

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Admission decides who may connect, and who makes room. It is a server's. The
// zero value lets everyone in up to Limits.MaxConns.
type Admission struct {
	// Allow is asked about each peer before anything is allocated for it; an
	// error resets the connection. It runs on a loop, any of them, and must not
	// block. For Unix sockets it gets the zero AddrPort. Nil allows everyone.
	Allow func(remote netip.AddrPort) error
	// PerPrefix is how many connections may be open at a time from one address
	// prefix, /32 of IPv4 and /64 of IPv6, which is what one customer has. Those
	// above it are reset. Unix sockets are not counted. 0: no limit.
	PerPrefix int
	// Rate is how many connections are accepted a second, all loops together.
	// Those above it wait in the kernel's queue of the listener, so established
	// connections are served meanwhile. 0: no limit.
	Rate int
	// Burst is how many are accepted at once after a pause. 0: a tenth of Rate,
	// at least 1.
	Burst int
	// FirstFrame is how long after it was accepted a connection may take to
	// send its first frame, of any kind, heartbeats included. Then it ends with
	// reason HandshakeTimeout. 0: no limit.
	FirstFrame time.Duration
	// EvictIdle lets the connections of which nothing was heard for longest make
	// room when MaxConns is reached or descriptors run out, if that is at least
	// this long. They end with reason Overloaded. 0: newcomers wait instead.
	EvictIdle time.Duration
}

func (a Admission) withDefaults() (Admission, error) {
	var errs []error
	for _, x := range []struct {
		name     string
		negative bool
	}{
		{"PerPrefix", a.PerPrefix < 0}, {"Rate", a.Rate < 0}, {"Burst", a.Burst < 0},
		{"FirstFrame", a.FirstFrame < 0}, {"EvictIdle", a.EvictIdle < 0},
	} {
		if x.negative {
			errs = append(errs, fmt.Errorf("field %s of Admission is negative", x.name))
		}
	}
	if a.Rate > maxRate {
		errs = append(errs, fmt.Errorf("field Rate of Admission is %d, want at most %d", a.Rate, maxRate))
	}
	if a.Burst == 0 {
		a.Burst = max(a.Rate/10, 1)
	}
	return a, errors.Join(errs...)
}

const maxRate = 1_000_000_000

// admission applies an Admission. All loops share it.
type admission struct {
	Admission
	due atomic.Int64 // when the next connection is due if they came at Rate

	mu       sync.Mutex
	prefixes map[netip.Prefix]int // nil: they are not counted
}

func (a *admission) init() {
	if a.PerPrefix > 0 {
		a.prefixes = make(map[netip.Prefix]int)
	}
}

// take asks for one more connection under Rate, and returns 0, or how long to
// wait: the generic cell rate algorithm (ITU-T I.371), a token bucket in one
// word.
func (a *admission) take(now int64) (wait time.Duration) {
	if a.Rate == 0 {
		return 0
	}
	step := int64(time.Second) / int64(a.Rate)
	burst := step * min(int64(a.Burst)-1, math.MaxInt64/4/step)
	for {
		due := a.due.Load()
		if early := due - now - burst; early > 0 {
			return time.Duration(early)
		}
		if a.due.CompareAndSwap(due, max(due, now)+step) {
			return 0
		}
	}
}

// giveBack undoes take: nobody was there.
func (a *admission) giveBack() {
	if a.Rate != 0 {
		a.due.Add(-int64(time.Second) / int64(a.Rate))
	}
}

// enter counts a connection under its prefix. It returns false if there are
// enough.
func (a *admission) enter(remote netip.AddrPort) bool {
	if a.prefixes == nil {
		return true
	}
	p := prefixOf(remote)
	if !p.IsValid() {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.prefixes[p] >= a.PerPrefix {
		return false
	}
	a.prefixes[p]++
	return true
}

// leave undoes enter.
func (a *admission) leave(remote netip.AddrPort) {
	if a.prefixes == nil {
		return
	}
	p := prefixOf(remote)
	if !p.IsValid() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.prefixes[p]--; a.prefixes[p] <= 0 {
		delete(a.prefixes, p)
	}
}

func prefixOf(remote netip.AddrPort) netip.Prefix {
	ip := remote.Addr()
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.WithZone("").Prefix(bits) // the zero Prefix for a Unix socket
	return p
}

// admit asks whether an accepted descriptor may become a connection. If not it is
// reset, and gives its place under MaxConns back; a Goexit in Allow is a no.
func (l *Loop) admit(fd int, remote netip.AddrPort) (ok bool) {
	defer func() {
		if !ok {
			l.stats.refused.Add(1)
			_ = l.core.kernel.Reset(fd)
			l.core.unreserve()
		}
	}()
	a := &l.core.admission
	allowed := a.Allow == nil
	if !allowed {
		l.call(nil, func() { allowed = a.Allow(remote) == nil })
	}
	return allowed && a.enter(remote)
}

// evictBatch is how many connections make room at a time: finding them takes a
// look at all.
const evictBatch = 16

var errEvicted = errors.New("it was idle for longest when room was needed")

// evict makes room if somebody waits for it: the loop's connections that have
// been idle for longest end, and it returns true. If it has none, the other loops
// are asked; what they free is told to listeners that wait.
func (l *Loop) evict(ln *listener) bool {
	if l.core.admission.EvictIdle == 0 || !l.core.kernel.Waiting(ln.fd) {
		return false
	}
	if l.evictIdlest(evictBatch) {
		return true
	}
	for _, other := range l.core.loops {
		if other != l {
			other.mail.post(letter{f: func() { other.evictIdlest(max(evictBatch/len(l.core.loops), 1)) }})
		}
	}
	return false
}

// evictIdlest ends up to n connections, and reports whether there were any.
func (l *Loop) evictIdlest(n int) bool {
	least := l.core.admission.EvictIdle
	idlest := make([]*Conn, 0, n+1) // the idlest first
	l.core.conns.all(func(c *Conn) bool {
		if c.loop != l || c.phase != open || c.ending != nil {
			return true
		}
		c.excusePause()
		if time.Duration(l.beat-c.heart.LastRead()) < least {
			return true
		}
		at, _ := slices.BinarySearchFunc(idlest, c, func(a, b *Conn) int {
			return int(min(max(a.heart.LastRead()-b.heart.LastRead(), -1), 1))
		})
		if at < n {
			idlest = slices.Insert(idlest, at, c)
			idlest = idlest[:min(len(idlest), n)]
		}
		return true
	})
	for _, c := range idlest {
		l.stats.evicted.Add(1)
		c.kill(Overloaded, errEvicted)
		l.finish(c)
	}
	return len(idlest) > 0
}
