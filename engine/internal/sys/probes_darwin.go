package sys

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// InheritsProbes: an accepted socket has what was set on its listener.
const InheritsProbes = false

// keepalive: bsd/netinet/tcp_usrreq.c takes seconds, up to 32 bits of
// milliseconds.
var keepalive = resolution{unit: time.Second, longest: 24 * time.Hour, maxCount: 127}

// TCP_RXT_CONNDROPTIME is in seconds.
const userTimeoutUnit = time.Second

// SetProbes sets p, which Check has applied (tcp(4)).
func (*Kernel) SetProbes(fd int, p Probes) error {
	var err error
	set := func(level, option, value int) {
		if err == nil {
			err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, value))
		}
	}
	if p.Idle > 0 {
		set(unix.IPPROTO_TCP, unix.TCP_KEEPALIVE, seconds(p.Idle))
		set(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds(p.Interval))
		set(unix.IPPROTO_TCP, unix.TCP_KEEPCNT, p.Count)
		set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	}
	if p.UserTimeout > 0 {
		set(unix.IPPROTO_TCP, unix.TCP_RXT_CONNDROPTIME, seconds(p.UserTimeout))
	}
	return err
}
