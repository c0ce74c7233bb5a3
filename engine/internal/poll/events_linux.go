package poll

import "golang.org/x/sys/unix"

func translateEpoll(ev uint32) (out Events) {
	if ev&(unix.EPOLLIN|unix.EPOLLPRI) != 0 {
		out |= Readable
	}
	if ev&unix.EPOLLOUT != 0 {
		out |= Writable
	}
	if ev&(unix.EPOLLERR|unix.EPOLLHUP|unix.EPOLLRDHUP|unix.EPOLLPRI) != 0 {
		out |= Hangup
	}
	return out
}
