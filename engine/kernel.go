package engine

import (
	"net/netip"

	"github.com/pulsewheel/pulsewheel/engine/internal/poll"
	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// kernel is everything the engine asks of the operating system: sys.Kernel, or
// the simulated one of package sim, in which a whole engine runs in virtual
// time. The methods are documented there.
type kernel interface {
	Now() int64
	OpenPoller() (poll.Poller, error)

	Listen(a sys.Addr, count int, o sys.Options) (fds []int, bound sys.Addr, err error)
	Waiting(fd int) bool
	Accept(fd int) (nfd int, remote netip.AddrPort, err error)
	Connect(a sys.Addr, o sys.Options) (fd int, err error)
	SetProbes(fd int, p sys.Probes) error
	SocketError(fd int) error
	Peer(fd int) (netip.AddrPort, error)

	Read(fd int, p []byte) (int, error)
	Write(fd int, p []byte) (int, error)
	Writev(fd int, bufs [][]byte) (int, error)
	CloseWrite(fd int) error
	Close(fd int) error
	Reset(fd int) error

	Info(fd int) sys.Info
	Local(fd int) netip.AddrPort
	Unlink(a sys.Addr)
	MaxFiles() int
	// Random spreads the first pings of connections opened together.
	Random() uint32
}

var _ kernel = (*sys.Kernel)(nil)
