package engine

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
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
}

// ClientConfig describes a client. It is read once, by NewClient.
type ClientConfig struct {
	// Codec frames every connection. Required.
	Codec codec.Factory
	// Liveness says how servers are watched. The zero value watches nothing.
	Liveness heartbeat.Config
	// Handler receives what happens on the connections.
	Handler Handler
	Limits
	// Logger receives what an operator must know. Nil: slog.Default().
	Logger *slog.Logger
}

// Limits bounds an engine and sets its pace. The zero value is fit for use.
type Limits struct {
	// Loops is the number of event loops. 0: GOMAXPROCS. At most 255.
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
	// Linger is how long Close may take to deliver what was sent before it and
	// to see the peer's own end of stream; then the connection is reset. 0: 5 s.
	Linger time.Duration
	// DrainTimeout is how long Serve lets connections end after its context
	// did. 0: 10 s. Negative: they are reset at once.
	DrainTimeout time.Duration
	// StallCap is how much of every two minutes the loop may be found stalled
	// (stopped, starved, or held up by a handler) without that time counting
	// against its peers. 0: one minute. Negative: stalls count against peers.
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

// profile is what a listener's or a client's connections have in common,
// checked and ready for use.
type profile struct {
	codec   codec.Codec
	format  codec.Properties
	plan    *heartbeat.Plan
	handler *Handler
}

func newProfile(f codec.Factory, liveness heartbeat.Config, side codec.Side, h *Handler) (*profile, error) {
	if f == nil {
		return nil, errors.New("no Codec")
	}
	c, err := f.Codec()
	if err != nil {
		return nil, err
	}
	props := c.Properties()
	plan, err := liveness.Plan(heartbeat.Traits{
		MayPing:     props.Pingers&side != 0,
		PeerMayPing: props.Pingers&^side != 0,
		Directed:    props.Directed,
		Answered:    props.Answered,
		Stamped:     props.Stamped,
	})
	if err != nil {
		return nil, err
	}
	return &profile{codec: c, format: props, plan: plan, handler: h}, nil
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
		if profiles[i], err = newProfile(l.Codec, l.Liveness, codec.Server, h); err != nil {
			return nil, nil, fmt.Errorf("listener %s: %w", l.Addr, err)
		}
	}
	return addrs, profiles, nil
}
