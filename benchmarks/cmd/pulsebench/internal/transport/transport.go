//go:build linux

// Package transport carries the bytes of a connection: TCP now, and whatever
// can be made of a non-blocking descriptor later (TLS, WebSocket, Unix sockets).
package transport

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrAgain means that nothing can be done before the descriptor is ready.
var ErrAgain error = unix.EAGAIN

// Transport is one connection. Its methods do not block, and belong to one
// goroutine.
type Transport interface {
	// Descriptor is to be watched for readiness.
	Descriptor() int
	// Handshake is called when the descriptor is writable or readable, until
	// it returns something else than ErrAgain: nil means that the connection
	// is established.
	Handshake() error
	// Read and Write return ErrAgain if they would have to wait; Read returns
	// io.EOF at the end of the stream.
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	// CloseWrite ends the stream to the server, and leaves the one from it.
	CloseWrite() error
	// Close ends both. Abort does so by a reset, without delivering anything.
	Close() error
	Abort() error
	// Cut makes the kernel send no packet of the connection any more, data
	// or acknowledgement; see package cut.
	Cut(mark int) error
}

// Dialer begins connections.
type Dialer interface {
	// Dial returns a connection that is under way; Handshake completes it.
	Dial() (Transport, error)
}

// TCP dials an address from several source addresses in turn, because each has
// only so many ports.
type TCP struct {
	to      unix.Sockaddr
	family  int
	sources []unix.Sockaddr // nil elements: the system's choice
	next    int
}

// NewTCP returns a Dialer to an address from those source addresses, or from
// one that the system chooses.
func NewTCP(to netip.AddrPort, sources []netip.Addr) (*TCP, error) {
	t := &TCP{family: unix.AF_INET6}
	if to.Addr().Unmap().Is4() {
		t.family = unix.AF_INET
	}
	t.to = sockaddr(to)
	for _, s := range sources {
		if s.Unmap().Is4() != (t.family == unix.AF_INET) {
			return nil, fmt.Errorf("source %v and target %v are of two families", s, to)
		}
		t.sources = append(t.sources, sockaddr(netip.AddrPortFrom(s, 0)))
	}
	if len(t.sources) == 0 {
		t.sources = []unix.Sockaddr{nil}
	}
	return t, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if ip := a.Addr().Unmap(); ip.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// Dial begins a connection from the next source address; if that has no port
// left, from one that has.
func (t *TCP) Dial() (Transport, error) {
	var err error
	for range t.sources {
		source := t.sources[t.next]
		t.next = (t.next + 1) % len(t.sources)
		var c *conn
		if c, err = t.dial(source); err == nil {
			return c, nil
		}
		if !errors.Is(err, unix.EADDRNOTAVAIL) {
			break
		}
	}
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		err = fmt.Errorf("%w: no source address has a port left; give more with -sources", err)
	}
	return nil, err
}

func (t *TCP) dial(source unix.Sockaddr) (*conn, error) {
	fd, err := unix.Socket(t.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	c := &conn{fd}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("TCP_NODELAY: %w", err)
	}
	if source != nil {
		// The port is chosen by connect, which knows the other end: a port can
		// serve once per target then.
		err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if err == nil {
			err = unix.Bind(fd, source)
		}
		if err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("bind to a source address: %w", err)
		}
	}
	if err := unix.Connect(fd, t.to); err != nil && err != unix.EINPROGRESS {
		_ = c.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

type conn struct{ fd int }

func (c *conn) Descriptor() int { return c.fd }

func (c *conn) Handshake() error {
	code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if code != 0 {
		return fmt.Errorf("connect: %w", unix.Errno(code))
	}
	return nil
}

// Read and Write tell Go's scheduler nothing: on a non-blocking socket they
// never wait, and the notice costs more than all the rest of ours. RawSyscall6
// is the innermost of Go's layers; recvfrom and sendto spare the kernel what read
// and write do for files.

func (c *conn) Read(p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(c.fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), 0, 0, 0)
		switch {
		case errno == 0 && n == 0:
			return 0, io.EOF
		case errno == 0:
			return int(n), nil
		case errno == unix.EAGAIN:
			return 0, ErrAgain
		case errno != unix.EINTR:
			return 0, errno
		}
	}
}

func (c *conn) Write(p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(c.fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_NOSIGNAL, 0, 0)
		switch {
		case errno == 0:
			return int(n), nil
		case errno == unix.EAGAIN:
			return 0, ErrAgain
		case errno != unix.EINTR:
			return 0, errno
		}
	}
}

func (c *conn) CloseWrite() error { return unix.Shutdown(c.fd, unix.SHUT_WR) }

func (c *conn) Close() error { return unix.Close(c.fd) }

func (c *conn) Abort() error {
	err := unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	return errors.Join(err, unix.Close(c.fd))
}

func (c *conn) Cut(mark int) error {
	return unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_MARK, mark)
}
