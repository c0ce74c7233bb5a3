package engine

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// Config describes a server. It is read once, by Listen.
type Config struct {
	// Listeners are the addresses to serve; at least one.
	Listeners []Listener
	// Handler receives what happens on the connections of every listener.
	Handler Handler
	// Admission decides who may connect.
	Admission Admission
	Limits
	// Logger receives what an operator must know. Nil: slog.Default().
	Logger *slog.Logger
}

// Listener is one address and what is spoken there.
type Listener struct {
	// Addr is tcp://host:port, tcp4://, tcp6:// or unix:///path. An empty host
	// means every address, port 0 a port of the system's choice (Server.Addrs).
	Addr string
	// Codec frames the connections of this listener. Required.
	Codec codec.Factory
	// Liveness says how peers are watched. The zero value watches nothing.
	Liveness heartbeat.Config
	// Follow lets each peer say how often it is heard of.
	Follow Follow
	// KeepAlive has the kernel watch them, too. The zero value does not.
	KeepAlive KeepAlive
}

// ClientConfig describes a client. It is read once, by NewClient.
type ClientConfig struct {
	// Codec frames every connection. Required.
	Codec codec.Factory
	// Liveness says how servers are watched. The zero value watches nothing.
	Liveness heartbeat.Config
	// Follow lets each peer say how often it is heard of.
	Follow Follow
	// KeepAlive has the kernel watch them, too. The zero value does not.
	KeepAlive KeepAlive
	// Handler receives what happens on the connections.
	Handler Handler
	Limits
	// Logger receives what an operator must know. Nil: slog.Default().
	Logger *slog.Logger
}

// KeepAlive has the kernel probe idle TCP peers (RFC 9293 section 3.8.4), and
// give up on those that acknowledge nothing. It makes a verdict come sooner,
// never later, than liveness promises; what it cannot do is see an application
// that hangs, or state a bound: data under way, our own heartbeats included,
// suspends the probes, and then UserTimeout counts, give or take a
// retransmission. Connections that end by it have reason KernelTimeout, or
// Unreachable if a router said so. Unix sockets need none, and get none.
//
// Most systems count in seconds. What is rounded up, and what a system lacks, is
// logged; a probe that it does not have at all is an error of Listen or
// NewClient.
type KeepAlive struct {
	// Idle is how long nothing is received before the first probe. 0: no
	// probes.
	Idle time.Duration
	// Interval is the time between two probes. 0: as Idle.
	Interval time.Duration
	// Count is how many probes go unanswered. 0: 3.
	Count int
	// UserTimeout is how long data may go unacknowledged (RFC 5482;
	// TCP_USER_TIMEOUT, TCP_RXT_CONNDROPTIME, TCP_MAXRT). It ends a peer that
	// keeps its window closed for so long, too. 0: Idle + Interval × Count if
	// there are probes. Negative: the system's, some 15 minutes on Linux.
	UserTimeout time.Duration
}

// probes returns what is asked of the kernel.
func (k KeepAlive) probes() sys.Probes {
	p := sys.Probes{Idle: k.Idle, Interval: k.Interval, Count: k.Count, UserTimeout: max(k.UserTimeout, 0)}
	if k.Idle != 0 {
		p.Interval = cmp.Or(k.Interval, k.Idle)
		p.Count = cmp.Or(k.Count, 3)
		if k.UserTimeout == 0 {
			p.UserTimeout = p.Idle + p.Interval*time.Duration(p.Count)
		}
	}
	return p
}

// Limits bounds an engine and sets its pace. The zero value is fit for use.
type Limits struct {
	// Loops is the number of event loops. 0: GOMAXPROCS. At most 255. While events
	// come thick and fast, loops on Linux wait without giving their P back to Go's
	// scheduler, but leave one of the process's Ps to other goroutines. So a single
	// loop on a single processor takes less of it with GOMAXPROCS=2 than with 1.
	Loops int
	// MaxConns is how many connections are open at a time. Those above it wait
	// in the kernel's queue of the listener, and an outgoing one is refused.
	// 0: RLIMIT_NOFILE less a reserve for the rest of the program. Negative:
	// no limit but the system's.
	MaxConns int
	// Tick is the resolution of every deadline: none is early, all are late by
	// less than a tick plus the loop's own lag. 0: 10 ms. At least 1 ms.
	Tick time.Duration
	// Backlog bounds the output that waits for a peer to read.
	Backlog Backlog
	// Budget bounds, in bytes, the memory of all output together that the
	// kernel has not taken. Where it is used up, connections that have a
	// backlog get no more: Send returns ErrBacklog. Those whose peers read are
	// not touched. 0: 256 MiB. Negative: no limit.
	Budget int64
	// SendBuffer and ReceiveBuffer are the kernel's buffers of a connection, in
	// bytes (socket(7), SO_SNDBUF and SO_RCVBUF; Linux doubles them for its own
	// use). 0: the system's, which on Linux grow to several MiB.
	SendBuffer, ReceiveBuffer int
	// NotSent is how much the kernel holds that it has not sent yet (tcp(7),
	// TCP_NOTSENT_LOWAT; Linux and macOS). Beyond it what is sent waits with
	// us, where heartbeats overtake it. 0: 128 KiB. Negative: the system's
	// choice, which is no limit.
	NotSent int
	// Work bounds what Conn.Do and Ordered may cost.
	Work Work
	// FrameTimeout is how long a frame that was begun may take to get on by
	// 64 KiB, or to its end. Then the connection ends with reason
	// FrameTimeout. 0: 30 s. Negative: no limit.
	FrameTimeout time.Duration
	// MaxPause is for how long a connection's input may be left unread, by
	// Pause or because its work queue is full, and for how long it may stay open
	// after the peer's end of stream. A peer that dies meanwhile is found that
	// much later. 0: 1 minute. Negative: no limit.
	MaxPause time.Duration
	// BlockedAfter is how long a callback may keep its loop from serving
	// anybody else before that is logged, with the stack. 0: 1 s. Negative:
	// nobody looks, for stuck tasks (Work.Stuck) neither.
	BlockedAfter time.Duration
	// Linger is how long Close may take to deliver what was sent before it and
	// to see the peer's own end of stream; then the connection is reset. 0: 5 s.
	Linger time.Duration
	// DrainTimeout is how long Serve lets connections end after its context
	// did. 0: 10 s. Negative: they are reset at once.
	DrainTimeout time.Duration
	// RunDown is how many connections a second Shutdown tells to go away and
	// closes, so that they do not all come back elsewhere at once; the others
	// are served until it is their turn. 0: all at once.
	RunDown int
	// RetryAfter is what a Shutdown asks peers to wait before they connect
	// again, where the codec can tell them.
	RetryAfter time.Duration
	// PingRate is how many pings a second are sent at most while peers answer.
	// Where more fall due at once, after an outage, say, some are sent earlier,
	// never later, so that they part. That works as long as there is a quarter to
	// spare: beyond it, some are sent when they are due. The queries that follow
	// an unanswered one are not counted. MaxConns connections must not need more,
	// each with a ping per Interval or Speak. 0: no limit; the first pings of
	// connections that are opened at once are spread over the interval even so.
	PingRate int
	// Outage keeps a failure of our own network from ending everybody at once.
	Outage Outage
	// StallCap is how much of every two minutes the loop may be found stalled
	// (stopped, starved, or held up by a handler, for more than 50 ms or a Tick)
	// without that time counting against its peers. 0: one minute. Negative: stalls count against peers.
	StallCap time.Duration
}

// Backlog bounds one connection's output, in bytes.
type Backlog struct {
	// High: at or above it Send returns ErrBacklog. One message may go over it,
	// and what other goroutines send while the loop hands as much to the kernel
	// comes on top. 0: 1 MiB. At most 512 MiB.
	High int
	// Low: once the backlog falls below it after an ErrBacklog,
	// Handler.Writable runs. 0: a quarter of High.
	Low int
	// Hard: where a broadcast finds that much or more, it is not dropped, but
	// the connection ends with reason SlowConsumer. 0: twice High.
	Hard int
	// DrainRate is how many bytes a second a peer must take while there is a
	// backlog, on average over DrainWindow. One that does not ends with reason
	// SlowConsumer, within twice DrainWindow. 0: anything at all.
	DrainRate int
	// DrainWindow: see DrainRate. 0: 1 minute. Negative: a peer may be as slow
	// as it likes.
	DrainWindow time.Duration
}

// leastDrain is how many bytes must be taken within a DrainWindow.
func (b *Backlog) leastDrain() int {
	return max(int(float64(b.DrainRate)*b.DrainWindow.Seconds()), 1)
}

// Work bounds what the connections of an engine have their workers do.
type Work struct {
	// Workers is how many tasks run at a time. 0: 256. At most 65,536.
	Workers int
	// Pool supplies their goroutines; see package antspool. Nil: each is
	// started when there is something to do, and ends when there is nothing.
	Pool Pool
	// Queue is how many tasks of one connection may wait: above it Do returns
	// ErrBusy, and Ordered stops reading. 0: 256.
	Queue int
	// Bytes is how many bytes of payload one connection's messages may hold
	// that wait in Ordered; one message may go over it. 0: 1 MiB.
	Bytes int
	// Stuck is how long a task may run before it is logged, with its stack, and
	// counted as stuck. 0: 10 s. Negative: for ever.
	Stuck time.Duration
}

const (
	defaultTick     = 10 * time.Millisecond
	defaultHigh     = 1 << 20
	maxHigh         = 1 << 29 // with one message above it, within an int32
	defaultLinger   = 5 * time.Second
	defaultDrain    = 10 * time.Second
	defaultStallCap = time.Minute
	stallWindow     = 2 * time.Minute
	maxLoops        = 255

	defaultBudget       = 256 << 20
	maxHeld             = 1<<31 - 1
	maxSocketBuffer     = 1 << 30
	defaultNotSent      = 128 << 10
	defaultFrameTimeout = 30 * time.Second
	defaultMaxPause     = time.Minute
	defaultBlockedAfter = time.Second
	defaultDrainWindow  = time.Minute
	defaultWorkers      = 256
	maxWorkers          = 1 << 16
	defaultQueue        = 256
	defaultQueueBytes   = 1 << 20
	defaultStuck        = 10 * time.Second
)

// withDefaults returns l as the engine applies it, or what is wrong with it.
// files is the limit of descriptors.
func (l Limits) withDefaults(files int) (Limits, error) {
	var errs []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	refuse(l.Loops < 0 || l.Loops > maxLoops, "Loops is %d, want 0 to %d", l.Loops, maxLoops)
	l.Loops = cmp.Or(l.Loops, min(runtime.GOMAXPROCS(0), maxLoops))

	refuse(l.Tick != 0 && l.Tick < time.Millisecond, "Tick is %v, want at least 1ms", l.Tick)
	l.Tick = cmp.Or(l.Tick, defaultTick)

	refuse(l.Backlog.High < 0 || l.Backlog.High > maxHigh, "Backlog.High is %d, want 0 to %d", l.Backlog.High, maxHigh)
	l.Backlog.High = cmp.Or(l.Backlog.High, defaultHigh)
	refuse(l.Backlog.Low < 0 || l.Backlog.Low > l.Backlog.High,
		"Backlog.Low is %d, want 0 to High (%d)", l.Backlog.Low, l.Backlog.High)
	l.Backlog.Low = cmp.Or(l.Backlog.Low, max(l.Backlog.High/4, 1))
	refuse(l.Backlog.Hard != 0 && (l.Backlog.Hard < l.Backlog.High || l.Backlog.Hard > 2*maxHigh),
		"Backlog.Hard is %d, want High (%d) to %d", l.Backlog.Hard, l.Backlog.High, 2*maxHigh)
	l.Backlog.Hard = cmp.Or(l.Backlog.Hard, 2*l.Backlog.High)
	refuse(l.Backlog.DrainRate < 0, "Backlog.DrainRate is %d, want at least 0", l.Backlog.DrainRate)
	l.Backlog.DrainWindow = cmp.Or(l.Backlog.DrainWindow, defaultDrainWindow)
	if l.Budget = cmp.Or(l.Budget, defaultBudget); l.Budget < 0 {
		l.Budget = math.MaxInt64
	}
	refuse(l.SendBuffer < 0 || l.SendBuffer > maxSocketBuffer, "SendBuffer is %d, want 0 to %d", l.SendBuffer, maxSocketBuffer)
	refuse(l.ReceiveBuffer < 0 || l.ReceiveBuffer > maxSocketBuffer, "ReceiveBuffer is %d, want 0 to %d", l.ReceiveBuffer, maxSocketBuffer)
	refuse(l.NotSent > maxSocketBuffer, "NotSent is %d, want at most %d", l.NotSent, maxSocketBuffer)
	l.NotSent = max(cmp.Or(l.NotSent, defaultNotSent), 0)

	refuse(l.Work.Workers < 0 || l.Work.Workers > maxWorkers, "Work.Workers is %d, want 0 to %d", l.Work.Workers, maxWorkers)
	l.Work.Workers = cmp.Or(l.Work.Workers, defaultWorkers)
	refuse(l.Work.Queue < 0, "Work.Queue is %d, want at least 0", l.Work.Queue)
	l.Work.Queue = cmp.Or(l.Work.Queue, defaultQueue)
	refuse(l.Work.Bytes < 0, "Work.Bytes is %d, want at least 0", l.Work.Bytes)
	l.Work.Bytes = cmp.Or(l.Work.Bytes, defaultQueueBytes)
	l.Work.Stuck = cmp.Or(l.Work.Stuck, defaultStuck)

	l.FrameTimeout = cmp.Or(l.FrameTimeout, defaultFrameTimeout)
	l.MaxPause = cmp.Or(l.MaxPause, defaultMaxPause)
	l.BlockedAfter = cmp.Or(l.BlockedAfter, defaultBlockedAfter)
	refuse(l.RunDown < 0, "RunDown is %d, want at least 0", l.RunDown)
	refuse(l.RetryAfter < 0, "RetryAfter is %v, want at least 0", l.RetryAfter)

	refuse(l.PingRate < 0, "PingRate is %d, want at least 0", l.PingRate)
	refuse(l.Linger < 0, "Linger is %v, want at least 0", l.Linger)
	l.Linger = cmp.Or(l.Linger, defaultLinger)
	l.DrainTimeout = cmp.Or(l.DrainTimeout, defaultDrain)
	l.StallCap = cmp.Or(l.StallCap, defaultStallCap)
	refuse(l.StallCap > stallWindow, "StallCap is %v, want at most %v", l.StallCap, stallWindow)

	switch {
	case l.MaxConns == 0:
		// What a program holds beside its connections: pollers, listeners,
		// files, its own clients.
		l.MaxConns = max(files-max(files/16, 32), 1)
	case l.MaxConns < 0:
		l.MaxConns = int(^uint(0) >> 1)
	}
	return l, errors.Join(errs...)
}

// socketOptions returns what is set on the sockets of a profile.
func (l *Limits) socketOptions(p *profile) sys.Options {
	return sys.Options{SendBuffer: l.SendBuffer, ReceiveBuffer: l.ReceiveBuffer, NotSent: l.NotSent, Probes: p.probes}
}

// profile is what a listener's or a client's connections have in common,
// checked and ready for use.
type profile struct {
	// What a heartbeat needs comes first, within a cache line.
	plan    *heartbeat.Plan
	handler *Handler
	follow  Follow
	format  codec.Properties
	traits  heartbeat.Traits

	codec   codec.Codec
	shared  bool     // by all connections
	plans   sync.Map // *heartbeat.Plan by the interval that peers announce
	planned atomic.Int64
	probes  sys.Probes
	note    string // what of the probes is not as it was asked for
}

func newProfile(f codec.Factory, liveness heartbeat.Config, follow Follow, keepAlive KeepAlive, side codec.Side, h *Handler) (*profile, error) {
	if f == nil {
		return nil, errors.New("no Codec")
	}
	c, err := f.Codec()
	if err != nil {
		return nil, err
	}
	props := c.Properties()
	traits := heartbeat.Traits{
		MayPing:     props.Pingers&side != 0,
		PeerMayPing: props.Pingers&^side != 0,
		Directed:    props.Directed,
		Answered:    props.Answered,
		Stamped:     props.Stamped,
	}
	plan, err := liveness.Plan(traits)
	if err != nil {
		return nil, err
	}
	if err := follow.check(liveness, traits); err != nil {
		return nil, err
	}
	probes, note, err := keepAlive.probes().Check()
	if err != nil {
		return nil, fmt.Errorf("KeepAlive: %w", err)
	}
	return &profile{
		codec: c, shared: sameCodec(c), format: props, traits: traits, plan: plan, follow: follow,
		probes: probes, note: note, handler: h,
	}, nil
}

// sameCodec reports whether a codec is its own PerConn: it has no state.
func sameCodec(c codec.Codec) (same bool) {
	defer func() { _ = recover() }() // an application's codec may panic, or be incomparable
	return c == c.PerConn()
}

// parseListeners checks what can be checked before anything is opened.
func parseListeners(listeners []Listener, h *Handler) ([]sys.Addr, []*profile, error) {
	if len(listeners) == 0 {
		return nil, nil, errors.New("no Listeners")
	}
	addrs := make([]sys.Addr, len(listeners))
	profiles := make([]*profile, len(listeners))
	for i, l := range listeners {
		var err error
		if addrs[i], err = sys.ParseAddr(l.Addr); err != nil {
			return nil, nil, err
		}
		if profiles[i], err = newProfile(l.Codec, l.Liveness, l.Follow, l.KeepAlive, codec.Server, h); err != nil {
			return nil, nil, fmt.Errorf("listener %s: %w", l.Addr, err)
		}
	}
	return addrs, profiles, nil
}
