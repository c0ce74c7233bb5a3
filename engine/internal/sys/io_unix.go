//go:build (linux && (race || 386 || s390x)) || darwin || freebsd || netbsd || openbsd || dragonfly

package sys

import (
	"net/netip"
	"runtime"

	"github.com/panjf2000/gnet/v2/pkg/socket"
	"golang.org/x/sys/unix"
)

// ReusePort: only Linux spreads connections over the sockets of one port;
// elsewhere the last one bound, or any, gets them all.
const ReusePort = runtime.GOOS == "linux"

// Read reads into p, which must not be empty. 0 without an error is the end of
// the stream.
func (*Kernel) Read(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		if err == nil {
			return n, nil
		}
		if err != unix.EINTR {
			return 0, err
		}
	}
}

// Write hands as much of p to the kernel as it takes, at most MaxWrite bytes.
func (*Kernel) Write(fd int, p []byte) (int, error) {
	if len(p) > MaxWrite {
		p = p[:MaxWrite]
	}
	for {
		n, err := unix.Write(fd, p)
		if err == nil {
			return n, nil
		}
		if err != unix.EINTR {
			return 0, err
		}
	}
}

// Writev writes slice after slice until the kernel takes no more: writev is not
// published for every Unix. It changes none of the slices.
func (k *Kernel) Writev(fd int, bufs [][]byte) (int, error) {
	total := 0
	for i, b := range bufs {
		if i == MaxSlices || total >= MaxWrite {
			break
		}
		n, err := k.Write(fd, b)
		total += n
		if err != nil && total == 0 {
			return 0, err
		}
		if err != nil || n < len(b) {
			// An error will be met again by the next write.
			break
		}
	}
	return total, nil
}

// Accept takes one connection from a listener's queue.
func (*Kernel) Accept(fd int) (int, netip.AddrPort, error) {
	for {
		nfd, sa, err := socket.Accept(fd)
		if err == nil {
			if runtime.GOOS != "linux" {
				_ = socket.SetNoDelay(nfd, 1) // fails on a Unix socket, which needs none
			}
			return nfd, addrPort(sa), nil
		}
		if errno, ok := err.(unix.Errno); ok && errno != unix.EINTR {
			return -1, netip.AddrPort{}, errno
		} else if !ok {
			return -1, netip.AddrPort{}, err
		}
	}
}
