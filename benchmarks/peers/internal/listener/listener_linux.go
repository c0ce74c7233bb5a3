// Package listener finds the listening socket of frameworks that do not hand it
// out, so that a peer can say which port the system chose, and set TCP_NODELAY
// where a framework accepts without: on Linux a connection inherits it from its
// listener.
package listener

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Wait returns the port of this process's listening TCP socket, and sets
// TCP_NODELAY for the connections it will accept. It waits for a framework that
// listens in the background, no longer than limit.
func Wait(limit time.Duration) (port int, err error) {
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		port, err = find()
		if err == nil || time.Now().After(deadline) {
			return port, err
		}
	}
}

var errNone = errors.New("no listening socket in this process")

func find() (int, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0, fmt.Errorf("list descriptors: %w", err)
	}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// The one that the list was read by is gone; it and others are no sockets.
		if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
			continue
		}
		name, err := unix.Getsockname(fd)
		if err != nil {
			return 0, fmt.Errorf("getsockname: %w", err)
		}
		addr, ok := name.(*unix.SockaddrInet4)
		if !ok {
			return 0, fmt.Errorf("listener has address %T", name)
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return 0, fmt.Errorf("TCP_NODELAY on the listener: %w", err)
		}
		return addr.Port, nil
	}
	return 0, errNone
}
