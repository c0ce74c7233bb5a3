package sys

import (
	"time"

	"golang.org/x/sys/unix"
)

// Info asks the kernel for its view of a connection, in two calls: TCP_INFO
// (tcp(7)) and SIOCOUTQ.
func (*Kernel) Info(fd int) Info {
	info := Info{Unacked: -1}
	if t, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
		info.RTT = time.Duration(t.Rtt) * time.Microsecond
		info.Retransmits = int(t.Retransmits)
		info.RTO = time.Duration(t.Rto) * time.Microsecond
		info.LastAck = time.Duration(t.Last_ack_recv) * time.Millisecond
		info.InFlight = int(t.Unacked)
		info.NotSent = int(t.Notsent_bytes)
		if t.State == tcpClose {
			return info // the queue is gone, and with it what it held
		}
	}
	if n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ); err == nil {
		info.Unacked = n
	}
	return info
}

// tcpClose is TCP_CLOSE of the kernel's include/net/tcp_states.h.
const tcpClose = 7
