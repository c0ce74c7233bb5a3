package sys

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// InheritsProbes: an accepted socket has what was set on its listener.
const InheritsProbes = true

// keepalive has the limits of net/ipv4/tcp.c: MAX_TCP_KEEPIDLE,
// MAX_TCP_KEEPINTVL and MAX_TCP_KEEPCNT.
var keepalive = resolution{unit: time.Second, longest: 32767 * time.Second, maxCount: 127}

const userTimeoutUnit = time.Millisecond

// SetProbes sets p, which Check has applied (tcp(7)).
func (*Kernel) SetProbes(fd int, p Probes) error {
	var err error
	set := func(level, option, value int) {
		if err == nil {
			err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, value))
		}
	}
	if p.Idle > 0 {
		set(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds(p.Idle))
		set(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds(p.Interval))
		set(unix.IPPROTO_TCP, unix.TCP_KEEPCNT, p.Count)
		set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	}
	if p.UserTimeout > 0 {
		set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(p.UserTimeout/time.Millisecond))
	}
	return err
}
