//go:build linux || darwin

package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// setNotSent sets TCP_NOTSENT_LOWAT (tcp(7)).
func setNotSent(fd, bytes int) error {
	return os.NewSyscallError("setsockopt TCP_NOTSENT_LOWAT",
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes))
}
