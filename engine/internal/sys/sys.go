// Package sys is the engine's one place for socket calls and options.
//
// [Kernel] gathers them behind methods, so that the simulated kernel of
// package sim can stand in its place. Every descriptor it hands out is
// non-blocking and close-on-exec. Calls interrupted by a signal are repeated
// here; every other errno is returned as it is, so that the engine can tell
// what it means.
//
// The platform files supply: read, write, writev and accept (io_*.go), the
// kernel's view of a connection (info_*.go), and whether several listeners may
// share a port (ReusePort).
package sys

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Kernel is the real operating system.
type Kernel struct{}

// MaxWrite is how many bytes one Write or Writev hands to the kernel at most.
// Where the call is made without telling Go's scheduler, it holds the
// processor for as long as the copy takes: 92 µs at this size.
const MaxWrite = 256 << 10

// MaxSlices is how many slices one Writev takes at most; the kernel refuses
// more than 1,024 (writev(2), IOV_MAX).
const MaxSlices = 64

// Info is what the kernel knows of a connection. It is read once, at a
// verdict.
type Info struct {
	// Unacked is how many bytes of ours the peer's kernel has not
	// acknowledged; -1 where the system does not tell.
	Unacked int
	// RTT is the kernel's smoothed round trip time; 0 where it is unknown.
	RTT time.Duration
	// Retransmits counts the retransmissions of the oldest unacknowledged
	// segment, in a row, and RTO is how long the kernel now waits for an
	// acknowledgement before the next; 0 where they are unknown.
	Retransmits int
	RTO         time.Duration
	// LastAck is how long ago the peer's kernel last acknowledged anything; 0
	// where it is unknown.
	LastAck time.Duration
	// InFlight is how many segments are sent and not acknowledged, NotSent how
	// many bytes the kernel has not sent yet; 0 where they are unknown.
	InFlight, NotSent int
}

// Options are set on a socket before its first byte; accepted ones inherit them
// from their listener. Zero leaves a value to the system.
type Options struct {
	SendBuffer, ReceiveBuffer int // bytes
	// NotSent bounds what is queued in the kernel and not sent yet, in bytes;
	// only TCP has it, and not every system.
	NotSent int
	// Probes are a TCP socket's, applied by Check. Where the system lets accepted
	// sockets inherit nothing (InheritsProbes), SetProbes sets them again.
	Probes Probes
}

// Addr is a parsed listening or dialling address.
type Addr struct {
	Network string // tcp, tcp4, tcp6 or unix
	Address string // host:port, or the socket's path
}

func (a Addr) String() string { return a.Network + "://" + a.Address }

// ParseAddr splits "tcp://host:port", "tcp4://…", "tcp6://…" or
// "unix:///path". It looks up no name.
func ParseAddr(s string) (Addr, error) {
	network, address, ok := strings.Cut(s, "://")
	if !ok {
		return Addr{}, fmt.Errorf("address %q: no scheme (want tcp://host:port, tcp4://, tcp6:// or unix:///path)", s)
	}
	switch network {
	case "tcp", "tcp4", "tcp6":
		if _, _, err := net.SplitHostPort(address); err != nil {
			return Addr{}, fmt.Errorf("address %q: %w", s, err)
		}
	case "unix":
		if address == "" {
			return Addr{}, fmt.Errorf("address %q: no path", s)
		}
	default:
		return Addr{}, fmt.Errorf("address %q: unknown scheme %q (want tcp, tcp4, tcp6 or unix)", s, network)
	}
	return Addr{Network: network, Address: address}, nil
}

// Random returns a random number.
func (*Kernel) Random() uint32 { return rand.Uint32() }

// withPort returns a with the port that the system chose.
func (a Addr) withPort(port uint16) Addr {
	host, _, _ := net.SplitHostPort(a.Address)
	a.Address = net.JoinHostPort(host, fmt.Sprint(port))
	return a
}

// unmap turns the IPv4-mapped addresses of a dual-stack socket into IPv4.
func unmap(ip netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(ip.Unmap(), port) }
