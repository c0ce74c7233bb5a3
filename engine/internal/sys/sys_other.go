//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package sys

import (
	"errors"
	"net/netip"
	"syscall"

	"github.com/pulsewheel/pulsewheel/engine/internal/clock"
	"github.com/pulsewheel/pulsewheel/engine/internal/poll"
)

// ReusePort: several sockets may listen on one port.
const ReusePort = false

// The errnos that the engine tells apart, as far as the system has them.
const (
	EAGAIN       = syscall.EAGAIN
	ECONNABORTED = syscall.ECONNABORTED
	ECONNRESET   = syscall.ECONNRESET
	EHOSTUNREACH = syscall.EHOSTUNREACH
	EMFILE       = syscall.EMFILE
	ENETUNREACH  = syscall.ENETUNREACH
	ENFILE       = syscall.ENFILE
	ENOBUFS      = syscall.ENOBUFS
	ENOMEM       = syscall.ENOMEM
	ENOTCONN     = syscall.ENOTCONN
	EPIPE        = syscall.EPIPE
	ETIMEDOUT    = syscall.ETIMEDOUT
)

// errSystem answers every call here: Listen and OpenPoller come first, so an
// engine never gets further on a system without epoll and kqueue.
var errSystem = errors.Join(errors.New("no epoll or kqueue on this system"), errors.ErrUnsupported)

func (*Kernel) Now() int64                       { return clock.Now() }
func (*Kernel) OpenPoller() (poll.Poller, error) { return poll.Open() }
func (*Kernel) Listen(a Addr, _ int, _ Options) ([]int, Addr, error) {
	return nil, a, errSystem
}
func (*Kernel) Connect(Addr, Options) (int, error)      { return -1, errSystem }
func (*Kernel) SocketError(int) error                   { return errSystem }
func (*Kernel) Peer(int) (netip.AddrPort, error)        { return netip.AddrPort{}, errSystem }
func (*Kernel) Local(int) netip.AddrPort                { return netip.AddrPort{} }
func (*Kernel) Read(int, []byte) (int, error)           { return 0, errSystem }
func (*Kernel) Write(int, []byte) (int, error)          { return 0, errSystem }
func (*Kernel) Writev(int, [][]byte) (int, error)       { return 0, errSystem }
func (*Kernel) Accept(int) (int, netip.AddrPort, error) { return -1, netip.AddrPort{}, errSystem }
func (*Kernel) Waiting(int) bool                        { return false }
func (*Kernel) CloseWrite(int) error                    { return errSystem }
func (*Kernel) Close(int) error                         { return errSystem }
func (*Kernel) Reset(int) error                         { return errSystem }
func (*Kernel) Unlink(Addr)                             {}
func (*Kernel) MaxFiles() int                           { return 1 << 30 }
func (*Kernel) Info(int) Info                           { return Info{Unacked: -1} }
