package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// Client dials connections that run on its loops, with the same Handler, the
// same liveness and the same reasons as a Server's.
type Client struct {
	*core
	profile *profile
	next    atomic.Uint32 // counts dials, to take the loops in turn
}

// NewClient checks cfg and starts the loops, which run until Shutdown.
func NewClient(cfg ClientConfig) (*Client, error) { return newClientOn(new(sys.Kernel), cfg) }

func newClientOn(k kernel, cfg ClientConfig) (*Client, error) {
	handler := cfg.Handler
	p, err := newProfile(cfg.Codec, cfg.Liveness, cfg.Follow, cfg.KeepAlive, codec.Client, &handler)
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	co, err := newCore(k, cfg.Limits, Admission{}, []*profile{p}, cfg.Logger)
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	co.promise(nil)
	cl := &Client{core: co, profile: p}
	return cl, cl.start()
}

var (
	errDialTimeout = fmt.Errorf("not established in time: %w", os.ErrDeadlineExceeded)
	errMaxConns    = errors.New("as many connections are open as MaxConns allows")
)

// defaultDialTimeout bounds a dial whose context has no deadline.
const defaultDialTimeout = 30 * time.Second

// dial is a connection that is being established.
type dial struct {
	addr    sys.Addr
	timeout time.Duration
	done    func(*Conn, error) // called once, on the loop
}

// Dial connects to tcp://host:port, tcp4://, tcp6:// or unix:///path, and
// returns after Handler.Open ran. A host with several addresses is tried
// address by address. A context without a deadline is given 30 s.
//
// The error names the address and wraps the cause: of a refused connection
// syscall.ECONNREFUSED, of one that took too long ctx's error. Dial waits, for
// Open among others, so it must not be called in a callback.
func (cl *Client) Dial(ctx context.Context, addr string) (*Conn, error) {
	a, err := sys.ParseAddr(addr)
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultDialTimeout)
		defer cancel()
	}
	targets, err := resolve(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("engine: dial %v: %w", a, err)
	}
	var failures []error
	for i, target := range targets {
		c, err := cl.dialOne(ctx, target, share(ctx, len(targets)-i))
		if err == nil {
			return c, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("engine: %w", errors.Join(failures...))
}

// resolve looks up an address's host.
func resolve(ctx context.Context, a sys.Addr) ([]sys.Addr, error) {
	if a.Network == "unix" {
		return []sys.Addr{a}, nil
	}
	host, port, err := net.SplitHostPort(a.Address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return []sys.Addr{a}, nil
	}
	network := map[string]string{"tcp": "ip", "tcp4": "ip4", "tcp6": "ip6"}[a.Network]
	ips, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
	if err != nil {
		return nil, err
	}
	number, err := net.DefaultResolver.LookupPort(ctx, a.Network, port)
	if err != nil {
		return nil, err
	}
	targets := make([]sys.Addr, len(ips))
	for i, ip := range ips {
		targets[i] = sys.Addr{Network: a.Network, Address: netip.AddrPortFrom(ip.Unmap(), uint16(number)).String()}
	}
	return targets, nil
}

// share returns how long one of n addresses may take: its part of the time
// that is left, but two seconds if there are as many.
func share(ctx context.Context, n int) time.Duration {
	deadline, _ := ctx.Deadline()
	left := time.Until(deadline)
	return min(left, max(left/time.Duration(n), 2*time.Second))
}

// dialOne connects to a literal address and waits for it, but not for longer
// than ctx: a connection that is established later is aborted.
func (cl *Client) dialOne(ctx context.Context, a sys.Addr, timeout time.Duration) (*Conn, error) {
	type result struct {
		c   *Conn
		err error
	}
	got := make(chan result, 1)
	var decided atomic.Bool
	cancel := cl.begin(&dial{addr: a, timeout: timeout, done: func(c *Conn, err error) {
		if !decided.Swap(true) {
			got <- result{c, err}
		} else if c != nil {
			_ = c.Abort()
		}
	}})
	select {
	case r := <-got:
		return r.c, r.err
	case <-ctx.Done():
	}
	if decided.Swap(true) {
		r := <-got
		return r.c, r.err
	}
	cancel()
	return nil, fmt.Errorf("dial %v: %w", a, ctx.Err())
}

// begin starts a dial on the next loop, and returns how to give it up.
func (cl *Client) begin(d *dial) (cancel func()) {
	l := cl.loops[int(cl.next.Add(1)%uint32(len(cl.loops)))]
	var c *Conn // owned by the loop
	if !l.mail.post(letter{f: func() { c = l.connect(d, cl.profile) }}) {
		d.done(nil, fmt.Errorf("dial %v: %w", d.addr, ErrClosed))
		return func() {}
	}
	return func() {
		l.mail.post(letter{f: func() {
			if c != nil && c.phase == connecting {
				c.kill(Local, context.Canceled)
				l.finish(c)
			}
		}})
	}
}

// connect begins to establish a connection. It returns nil if that failed at
// once.
func (l *Loop) connect(d *dial, p *profile) *Conn {
	refuse := func(err error) *Conn {
		d.done(nil, fmt.Errorf("dial %v: %w", d.addr, err))
		return nil
	}
	if l.draining {
		return refuse(ErrClosed)
	}
	if !l.core.reserve() {
		return refuse(errMaxConns)
	}
	fd, err := l.core.kernel.Connect(d.addr, l.core.limits.socketOptions(p))
	if err != nil {
		l.core.unreserve()
		return refuse(err)
	}
	l.load.Add(1)
	c := l.newConn(fd, netip.AddrPort{}, p)
	if c == nil {
		return refuse(errMaxConns)
	}
	if err := l.poller.AddWrite(fd); err != nil {
		l.discard(c)
		return refuse(err)
	}
	c.more().dial = d
	c.timer = l.arm(l.tickOf(l.now+int64(d.timeout)), uint32(fd))
	return c
}

// takeDial returns the dial that c is the result of, once.
func (c *Conn) takeDial() (d *dial) {
	if c.extra != nil {
		d, c.extra.dial = c.extra.dial, nil
	}
	return d
}

// established serves the first event of an outgoing connection: it is there,
// or has failed.
func (c *Conn) established() {
	l := c.loop
	if err := l.core.kernel.SocketError(int(c.fd)); err != nil {
		c.kill(reasonOfError(err), err)
		return
	}
	remote, err := l.core.kernel.Peer(int(c.fd))
	if err != nil {
		if errors.Is(err, sys.ENOTCONN) {
			return // a hint that was wrong
		}
		c.kill(reasonOfError(err), err)
		return
	}
	if err := l.poller.Resume(int(c.fd), false); err != nil {
		c.kill(Unknown, err)
		return
	}
	c.remote = remote
	if c.timer != 0 {
		l.wheel.Stop(c.timer)
		c.timer = 0
	}
	d := c.takeDial()
	l.runs++ // whoever waits for it
	defer func() {
		if c.ending != nil && c.ending.now {
			d.done(nil, fmt.Errorf("dial %v: %w", d.addr, &CloseError{Reason: c.ending.reason, Err: c.ending.err}))
		} else {
			d.done(c, nil)
		}
	}()
	l.enter(c)
}

// Shutdown tells each server that we leave where the codec can, delivers what
// was sent, and closes every connection with reason Shutdown; those that remain
// when ctx ends are reset, and ctx's error is returned.
func (cl *Client) Shutdown(ctx context.Context) error { return cl.shutdown(ctx) }

// Conn returns the open connection with that ID, or nil.
func (cl *Client) Conn(id ID) *Conn { return cl.lookup(id) }

// Identified returns the open connection whose peer has that identity
// (Conn.Identify), or nil.
func (cl *Client) Identified(key string) *Conn { return cl.byIdentity(key) }

// Range calls f for every connection that is open, as Server.Range does.
func (cl *Client) Range(f func(*Conn) bool) { cl.each(f) }

// Group returns the group of that name, which it makes if there is none. It
// exists until Group.Drop.
func (cl *Client) Group(name string) *Group { return cl.group(name) }

// Broadcast sends a data frame to every connection that is open. What is said of
// Group.Broadcast holds.
func (cl *Client) Broadcast(payload []byte) error { return cl.broadcast(payload) }

// Explain tells why a connection is held to be alive, its next deadlines and what
// would end it; of the thousand or so that ended last, what did. It waits for the
// connection's loop, but not for longer than ctx, so it must not be called in a
// callback. The error is ctx's, or says that the ID is unknown.
func (cl *Client) Explain(ctx context.Context, id ID) (*Explanation, error) {
	return cl.explain(ctx, id)
}

// Promises returns what the configuration promises about dead servers and live
// ones.
func (cl *Client) Promises() []Promise { return slices.Clone(cl.promises) }

// Stats returns what the loops have counted. It is cheap, and waits for none
// of them.
func (cl *Client) Stats() Stats { return cl.stats() }

// Loops returns the loops, for work that belongs to no connection.
func (cl *Client) Loops() []*Loop { return cl.loops }
