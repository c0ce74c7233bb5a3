package sys

import (
	"errors"
	"time"
)

// InheritsProbes: an accepted socket has what was set on its listener.
const InheritsProbes = false

// keepalive: OpenBSD has times for the whole system only (sysctl(2),
// net.inet.tcp.keepidle).
var keepalive resolution

const userTimeoutUnit time.Duration = 0

// SetProbes fails: Check lets nothing through.
func (*Kernel) SetProbes(int, Probes) error { return errors.ErrUnsupported }
