//go:build linux && !race && !386 && !s390x

package sys

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These calls go to the kernel without telling Go's scheduler: on a
// non-blocking socket they never wait, and the notice costs 2 to 10 % of the
// CPU of a message. What they can cost is bounded by MaxWrite and by the buffers
// that the loop reads to, 1 MiB at most. syscall.RawSyscall6 is the innermost of Go's
// layers; package unix adds two. recv and send know that it is a socket, which read
// and write find out by a longer way: 2 to 3 % of a small message. (Where a kernel
// before 4.3 has them only as parts of socketcall, io_unix.go is used.) Under the
// race detector io_unix.go takes their place, so that it sees buffers and ordering.

// ReusePort: several sockets may listen on one port, and the kernel spreads
// connections over them.
const ReusePort = true

// Read reads into p, which must not be empty. 0 without an error is the end of
// the stream.
func (*Kernel) Read(fd int, p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), 0, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// Write hands as much of p to the kernel as it takes, at most MaxWrite bytes.
func (*Kernel) Write(fd int, p []byte) (int, error) {
	if len(p) > MaxWrite {
		p = p[:MaxWrite]
	}
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_NOSIGNAL, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// Writev is Write for several slices, none empty. It takes the first MaxSlices
// of them and at most MaxWrite bytes, and changes none of them.
func (*Kernel) Writev(fd int, bufs [][]byte) (int, error) {
	var iov [MaxSlices]unix.Iovec
	n, room := 0, MaxWrite
	for _, b := range bufs {
		if n == len(iov) || room == 0 {
			break
		}
		if len(b) > room {
			b = b[:room]
		}
		iov[n].Base = unsafe.SliceData(b)
		iov[n].SetLen(len(b))
		room -= len(b)
		n++
	}
	for {
		written, _, errno := syscall.RawSyscall6(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(n), 0, 0, 0)
		if errno == 0 {
			return int(written), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// Accept takes one connection from a listener's queue.
func (*Kernel) Accept(fd int) (int, netip.AddrPort, error) {
	var sa unix.RawSockaddrInet6 // the largest of those we read
	size := uint32(unsafe.Sizeof(sa))
	for {
		nfd, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&sa)),
			uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if errno == 0 {
			return int(nfd), rawAddrPort(&sa), nil
		}
		if errno != unix.EINTR {
			return -1, netip.AddrPort{}, errno
		}
	}
}

func rawAddrPort(sa *unix.RawSockaddrInet6) netip.AddrPort {
	switch sa.Family {
	case unix.AF_INET:
		sa4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(sa4.Addr), networkOrder(sa4.Port))
	case unix.AF_INET6:
		return unmap(withZone(netip.AddrFrom16(sa.Addr), sa.Scope_id), networkOrder(sa.Port))
	}
	return netip.AddrPort{}
}

// networkOrder reads a port that the kernel stored big-endian, whatever the
// order of this machine.
func networkOrder(port uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&port))
	return uint16(b[0])<<8 | uint16(b[1])
}
