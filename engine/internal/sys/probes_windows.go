package sys

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// InheritsProbes: an accepted socket has what was set on its listener.
const InheritsProbes = false

// keepalive: SIO_KEEPALIVE_VALS takes milliseconds, and the number of probes is
// the system's, 10; TCP_KEEPCNT sets it since Windows 10 1703.
var keepalive = resolution{unit: time.Millisecond, longest: (1<<31 - 1) * time.Millisecond, maxCount: 255}

// TCP_MAXRT is in seconds.
const userTimeoutUnit = time.Second

// tcpMaxRT is TCP_MAXRT of ws2ipdef.h, which package windows lacks.
const tcpMaxRT = 5

// SetProbes sets p, which Check has applied, on a socket handle. What an old
// Windows lacks, TCP_KEEPCNT and TCP_MAXRT, stays as the system has it.
func (*Kernel) SetProbes(fd int, p Probes) error {
	h := windows.Handle(fd)
	if p.Idle > 0 {
		values := windows.TCPKeepalive{
			OnOff: 1, Time: uint32(p.Idle / time.Millisecond), Interval: uint32(p.Interval / time.Millisecond),
		}
		var returned uint32
		err := windows.WSAIoctl(h, windows.SIO_KEEPALIVE_VALS, (*byte)(unsafe.Pointer(&values)), uint32(unsafe.Sizeof(values)),
			nil, 0, &returned, nil, 0)
		if err != nil {
			return os.NewSyscallError("WSAIoctl SIO_KEEPALIVE_VALS", err)
		}
		_ = windows.SetsockoptInt(h, windows.IPPROTO_TCP, windows.TCP_KEEPCNT, p.Count)
	}
	if p.UserTimeout > 0 {
		_ = windows.SetsockoptInt(h, windows.IPPROTO_TCP, tcpMaxRT, seconds(p.UserTimeout))
	}
	return nil
}
