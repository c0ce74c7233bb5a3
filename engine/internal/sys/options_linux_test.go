package sys_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// What is asked of a listener's and a dialler's sockets holds for the accepted
// one and the dialled one, before their first byte.
func TestOptions(t *testing.T) {
	const size, notSent = 100_000, 30_000
	o := sys.Options{SendBuffer: size, ReceiveBuffer: size, NotSent: notSent}
	for _, network := range []string{"tcp", "tcp4", "tcp6"} {
		address := "127.0.0.1:0"
		if network == "tcp6" {
			address = "[::1]:0"
		}
		fds, bound, err := k.Listen(sys.Addr{Network: network, Address: address}, 2, o)
		if err != nil {
			t.Fatal(err)
		}
		dialled, err := k.Connect(bound, o)
		if err != nil {
			t.Fatal(err)
		}
		accepted, _, _ := accept(t, fds)
		for what, fd := range map[string]int{"accepted": accepted, "dialled": dialled} {
			get := func(level, option int) int {
				n, err := unix.GetsockoptInt(fd, level, option)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			// The kernel doubles a buffer for its own use (socket(7)).
			if n := get(unix.SOL_SOCKET, unix.SO_SNDBUF); n != 2*size {
				t.Errorf("%s, %s: SO_SNDBUF is %d", network, what, n)
			}
			if n := get(unix.SOL_SOCKET, unix.SO_RCVBUF); n != 2*size {
				t.Errorf("%s, %s: SO_RCVBUF is %d", network, what, n)
			}
			if n := get(unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); n != notSent {
				t.Errorf("%s, %s: TCP_NOTSENT_LOWAT is %d", network, what, n)
			}
		}
		for _, fd := range append(fds, dialled, accepted) {
			_ = k.Close(fd)
		}
	}
	// Unix sockets have buffers, and nothing of TCP.
	path := t.TempDir() + "/socket"
	fds, bound, err := k.Listen(sys.Addr{Network: "unix", Address: path}, 1, o)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close(fds[0])
	fd, err := k.Connect(bound, o)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close(fd)
	if n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF); err != nil || n != 2*size {
		t.Errorf("unix: SO_SNDBUF is %d, %v", n, err)
	}
}
