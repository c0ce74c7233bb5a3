//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package sys

import (
	"errors"
	"net/netip"
	"os"

	"github.com/panjf2000/gnet/v2/pkg/socket"
	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/engine/internal/clock"
	"github.com/pulsewheel/pulsewheel/engine/internal/poll"
)

// Now returns the engine's monotonic time in nanoseconds.
func (*Kernel) Now() int64 { return clock.Now() }

// OpenPoller makes a poller over epoll or kqueue.
func (*Kernel) OpenPoller() (poll.Poller, error) { return poll.Open() }

// Listen opens count sockets that listen on one address, and returns them with
// the address they are bound to. More than one needs ReusePort.
//
// The first socket is bound without SO_REUSEPORT, so that a port in use is
// EADDRINUSE even if its owner would share it; the option is set afterwards,
// which admits our own further sockets.
func (k *Kernel) Listen(a Addr, count int, o Options) (fds []int, bound Addr, err error) {
	defer func() {
		if err != nil {
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
			fds = nil
		}
	}()
	if a.Network == "unix" {
		fd, _, err := socket.UnixSocket(a.Network, a.Address, true, o.buffers(), nil)
		if err != nil {
			return nil, a, err
		}
		return []int{fd}, a, nil
	}
	options := []socket.Option[int]{
		{SetSockOpt: socket.SetReuseAddr, Opt: 1},
		// Linux and FreeBSD let accepted sockets inherit it.
		{SetSockOpt: socket.SetNoDelay, Opt: 1},
	}
	options = append(options, o.tcp()...)
	fd, _, err := socket.TCPSocket(a.Network, a.Address, true, options, nil)
	if errors.Is(err, unix.EAFNOSUPPORT) && a.Network == "tcp" {
		// A machine without IPv6.
		a.Network = "tcp4"
		fd, _, err = socket.TCPSocket(a.Network, a.Address, true, options, nil)
	}
	if err != nil {
		return nil, a, err
	}
	fds = append(fds, fd)
	if err = k.SetProbes(fd, o.Probes); err != nil {
		return fds, a, err
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return fds, a, os.NewSyscallError("getsockname", err)
	}
	bound = a.withPort(addrPort(local).Port())
	if count == 1 {
		return fds, bound, nil
	}
	if err = socket.SetReuseport(fd, 1); err != nil {
		return fds, bound, err
	}
	options = append(options, socket.Option[int]{SetSockOpt: socket.SetReuseport, Opt: 1})
	for len(fds) < count {
		if fd, _, err = socket.TCPSocket(bound.Network, bound.Address, true, options, nil); err != nil {
			return fds, bound, err
		}
		fds = append(fds, fd)
		if err = k.SetProbes(fd, o.Probes); err != nil {
			return fds, bound, err
		}
	}
	return fds, bound, nil
}

// Waiting reports whether somebody waits in a listener's queue, or whether a
// connection has something to read: data, its end, or an error.
func (*Kernel) Waiting(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return err == nil && n > 0
		}
	}
}

// Connect begins to connect to a literal address. Whether it succeeded is told
// by SocketError once the descriptor is writable.
func (k *Kernel) Connect(a Addr, o Options) (fd int, err error) {
	if a.Network == "unix" {
		fd, _, err = socket.UnixSocket(a.Network, a.Address, false, o.buffers(), nil)
	} else {
		options := append(o.tcp(), socket.Option[int]{SetSockOpt: socket.SetNoDelay, Opt: 1})
		fd, _, err = socket.TCPSocket(a.Network, a.Address, false, options, nil)
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return -1, err
	}
	if a.Network != "unix" {
		if err := k.SetProbes(fd, o.Probes); err != nil {
			_ = unix.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

// buffers returns the options that every kind of socket has.
func (o Options) buffers() (options []socket.Option[int]) {
	if o.SendBuffer > 0 {
		options = append(options, socket.Option[int]{SetSockOpt: socket.SetSendBuffer, Opt: o.SendBuffer})
	}
	if o.ReceiveBuffer > 0 {
		options = append(options, socket.Option[int]{SetSockOpt: socket.SetRecvBuffer, Opt: o.ReceiveBuffer})
	}
	return options
}

// tcp returns the options of a TCP socket.
func (o Options) tcp() []socket.Option[int] {
	options := o.buffers()
	if o.NotSent > 0 {
		options = append(options, socket.Option[int]{SetSockOpt: setNotSent, Opt: o.NotSent})
	}
	return options
}

// SocketError reads and clears SO_ERROR. The caller keeps it: after it was
// read once, read(2) answers 0, and a reset looks like a FIN.
func (*Kernel) SocketError(fd int) error {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if n != 0 {
		return unix.Errno(n)
	}
	return nil
}

// Peer returns the address of the other end; zero for a Unix socket.
func (*Kernel) Peer(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return addrPort(sa), nil
}

// Local returns the address of our end; zero for a Unix socket.
func (*Kernel) Local(fd int) netip.AddrPort {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(sa)
}

// CloseWrite sends our FIN after what is queued in the kernel.
func (*Kernel) CloseWrite(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) }

// Close frees the descriptor. The kernel goes on sending what it has, unless
// there is unread input: then it resets.
func (*Kernel) Close(fd int) error { return unix.Close(fd) }

// Reset frees the descriptor and sends RST; what the kernel had queued is
// lost (socket(7), SO_LINGER with a timeout of zero).
func (*Kernel) Reset(fd int) error {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	return unix.Close(fd)
}

// Unlink removes a Unix socket's path. Other addresses leave nothing behind.
func (*Kernel) Unlink(a Addr) {
	if a.Network == "unix" {
		_ = unix.Unlink(a.Address)
	}
}

// MaxFiles returns the soft limit of descriptors, RLIMIT_NOFILE.
func (*Kernel) MaxFiles() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || uint64(limit.Cur) > 1<<30 {
		return 1 << 30
	}
	return int(limit.Cur)
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return unmap(withZone(netip.AddrFrom16(sa.Addr), sa.ZoneId), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
