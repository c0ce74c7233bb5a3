package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// Server serves the listeners of one Config.
type Server struct {
	*core
	addrs []sys.Addr
}

// Listen checks cfg, and opens and binds everything it asks for. The error
// names what is wrong: a contradiction in the configuration, an unknown scheme,
// a busy port. Then nothing stays open. No goroutine runs before Serve.
func Listen(cfg Config) (*Server, error) { return listenOn(new(sys.Kernel), cfg) }

func listenOn(k kernel, cfg Config) (*Server, error) {
	srv, err := listen(k, cfg)
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	return srv, nil
}

func listen(k kernel, cfg Config) (*Server, error) {
	handler := cfg.Handler
	addrs, profiles, err := parseListeners(cfg.Listeners, &handler)
	if err != nil {
		return nil, err
	}
	co, err := newCore(k, cfg.Limits, cfg.Admission, profiles, cfg.Logger)
	if err != nil {
		return nil, err
	}
	srv := &Server{core: co, addrs: addrs}
	for i := range addrs {
		count := 1
		if sys.ReusePort && addrs[i].Network != "unix" {
			count = len(co.loops)
		}
		fds, bound, err := k.Listen(addrs[i], count, co.limits.socketOptions(profiles[i]))
		if err != nil {
			co.release()
			return nil, fmt.Errorf("listen on %v: %w", addrs[i], err)
		}
		srv.addrs[i] = bound
		for j, fd := range fds {
			l := co.loops[j]
			l.listeners = append(l.listeners, &listener{fd: fd, addr: bound, profile: profiles[i]})
		}
	}
	for _, l := range co.loops {
		if err := l.watchListeners(); err != nil {
			co.release()
			return nil, err
		}
	}
	co.promise(srv.Addrs())
	return srv, nil
}

// Serve runs the loops until ctx ends, then shuts down within
// Config.DrainTimeout and returns nil. It returns an error if a loop fails, or
// ErrClosed if the server was shut down by Shutdown.
func (s *Server) Serve(ctx context.Context) error {
	if err := s.start(); err != nil {
		return err
	}
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-s.failed:
	case <-s.stopped:
		select {
		case failure = <-s.failed:
			return failure
		default:
			return ErrClosed
		}
	}
	drain, cancel := context.WithTimeout(context.Background(), max(s.limits.DrainTimeout, 0))
	defer cancel()
	if err := s.shutdown(drain); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		failure = errors.Join(failure, err)
	}
	return failure
}

// Shutdown stops accepting, tells each peer to go away where the codec can,
// delivers what was sent, and closes every connection with reason Shutdown;
// those that remain when ctx ends are reset, and ctx's error is returned.
// Nothing of the server is left when it returns, unless a callback blocks.
func (s *Server) Shutdown(ctx context.Context) error { return s.shutdown(ctx) }

// Addrs returns the addresses that are served, as scheme://host:port, with
// the ports that the system chose, in the order of Config.Listeners.
func (s *Server) Addrs() []string {
	addrs := make([]string, len(s.addrs))
	for i, a := range s.addrs {
		addrs[i] = a.String()
	}
	return addrs
}

// Port returns the port of listener i; 0 for a Unix socket.
func (s *Server) Port(i int) uint16 {
	_, port, _ := net.SplitHostPort(s.addrs[i].Address)
	n, _ := strconv.ParseUint(port, 10, 16)
	return uint16(n)
}

// Conn returns the open connection with that ID, or nil.
func (s *Server) Conn(id ID) *Conn { return s.lookup(id) }

// Identified returns the open connection whose peer has that identity
// (Conn.Identify), or nil.
func (s *Server) Identified(key string) *Conn { return s.byIdentity(key) }

// Range calls f for every connection that is open, on the caller's goroutine
// and holding no lock, until f returns false. Connections that open or close
// meanwhile may or may not be met.
func (s *Server) Range(f func(*Conn) bool) { s.each(f) }

// Group returns the group of that name, which it makes if there is none. It
// exists until Group.Drop.
func (s *Server) Group(name string) *Group { return s.group(name) }

// Broadcast sends a data frame to every connection that is open. What is said of
// Group.Broadcast holds.
func (s *Server) Broadcast(payload []byte) error { return s.broadcast(payload) }

// Explain tells why a connection is held to be alive, its next deadlines and what
// would end it; of the thousand or so that ended last, what did. It waits for the
// connection's loop, but not for longer than ctx, so it must not be called in a
// callback. The error is ctx's, or says that the ID is unknown.
func (s *Server) Explain(ctx context.Context, id ID) (*Explanation, error) {
	return s.explain(ctx, id)
}

// Promises returns what the configuration of each listener promises about dead
// peers and live ones.
func (s *Server) Promises() []Promise { return slices.Clone(s.promises) }

// Stats returns what the loops have counted. It is cheap, and waits for none
// of them.
func (s *Server) Stats() Stats { return s.stats() }

// Loops returns the loops, for work that belongs to no connection.
func (s *Server) Loops() []*Loop { return s.loops }
