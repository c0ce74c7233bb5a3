//go:build freebsd || netbsd || dragonfly

package sys

import (
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// InheritsProbes: an accepted socket has what was set on its listener.
const InheritsProbes = false

// keepalive: seconds, but on DragonFly, which counts milliseconds (tcp(4)).
var keepalive = resolution{unit: keepaliveUnit(), longest: 24 * time.Hour, maxCount: 127}

func keepaliveUnit() time.Duration {
	if runtime.GOOS == "dragonfly" {
		return time.Millisecond
	}
	return time.Second
}

// These systems have no user timeout.
const userTimeoutUnit time.Duration = 0

// SetProbes sets p, which Check has applied (tcp(4)).
func (*Kernel) SetProbes(fd int, p Probes) error {
	if p.Idle == 0 {
		return nil
	}
	var err error
	set := func(level, option, value int) {
		if err == nil {
			err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, value))
		}
	}
	set(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(p.Idle/keepalive.unit))
	set(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(p.Interval/keepalive.unit))
	set(unix.IPPROTO_TCP, unix.TCP_KEEPCNT, p.Count)
	set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	return err
}
