//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package sys

import "golang.org/x/sys/unix"

// The errnos that the engine tells apart.
const (
	EAGAIN       = unix.EAGAIN
	ECONNABORTED = unix.ECONNABORTED
	ECONNRESET   = unix.ECONNRESET
	EHOSTUNREACH = unix.EHOSTUNREACH
	EMFILE       = unix.EMFILE
	ENETUNREACH  = unix.ENETUNREACH
	ENFILE       = unix.ENFILE
	ENOBUFS      = unix.ENOBUFS
	ENOMEM       = unix.ENOMEM
	ENOTCONN     = unix.ENOTCONN
	EPIPE        = unix.EPIPE
	ETIMEDOUT    = unix.ETIMEDOUT
)
