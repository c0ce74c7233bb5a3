//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package sys_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

var k sys.Kernel

// listen opens count sockets on a port of the system's choice.
func listen(t *testing.T, network string, count int) (fds []int, bound sys.Addr) {
	t.Helper()
	addr := sys.Addr{Network: network, Address: "127.0.0.1:0"}
	if network == "tcp6" {
		addr.Address = "[::1]:0"
	}
	fds, bound, err := k.Listen(addr, count, sys.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, fd := range fds {
			_ = k.Close(fd)
		}
	})
	return fds, bound
}

// accept waits for a connection on any of the sockets.
func accept(t *testing.T, fds []int) (fd, at int, remote netip.AddrPort) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for i, lfd := range fds {
			fd, remote, err := k.Accept(lfd)
			if err == nil {
				return fd, i, remote
			}
			if !errors.Is(err, sys.EAGAIN) {
				t.Fatal(err)
			}
		}
	}
	t.Fatal("no connection")
	return
}

func dial(t *testing.T, bound sys.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", bound.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestAcceptTellsTheAddress(t *testing.T) {
	for _, network := range []string{"tcp", "tcp4", "tcp6"} {
		t.Run(network, func(t *testing.T) {
			fds, bound := listen(t, network, 1)
			c := dial(t, bound)
			fd, _, remote := accept(t, fds)
			defer k.Close(fd)
			if remote.String() != c.LocalAddr().String() {
				t.Errorf("remote %v, want %v", remote, c.LocalAddr())
			}
			if peer, err := k.Peer(fd); err != nil || peer != remote {
				t.Errorf("Peer: %v, %v", peer, err)
			}
			if local := k.Local(fd); local.String() != c.RemoteAddr().String() {
				t.Errorf("Local: %v, want %v", local, c.RemoteAddr())
			}
		})
	}
}

// Several sockets of ours share a port, and the kernel spreads connections.
func TestListenShares(t *testing.T) {
	if !sys.ReusePort {
		t.Skip("this system does not spread connections over the sockets of a port")
	}
	fds, bound := listen(t, "tcp", 3)
	got := make([]int, len(fds))
	for range 60 {
		dial(t, bound)
		fd, at, _ := accept(t, fds)
		got[at]++
		_ = k.Close(fd)
	}
	for i, n := range got {
		if n == 0 {
			t.Errorf("socket %d of %d got none of 60 connections: %v", i, len(fds), got)
		}
	}
	// A port in use stays an error, even though its owner would share it.
	if more, _, err := k.Listen(bound, 1, sys.Options{}); err == nil {
		_ = k.Close(more[0])
		t.Error("a stranger was admitted to the port")
	}
	if more, _, err := k.Listen(bound, 2, sys.Options{}); err == nil {
		_ = k.Close(more[0])
		_ = k.Close(more[1])
		t.Error("two strangers were admitted to the port")
	}
}

func TestReadWrite(t *testing.T) {
	fds, bound := listen(t, "tcp", 1)
	c := dial(t, bound)
	fd, _, _ := accept(t, fds)
	defer k.Close(fd)
	b := make([]byte, 100)
	if n, err := k.Read(fd, b); !errors.Is(err, sys.EAGAIN) {
		t.Errorf("read of nothing: %d, %v", n, err)
	}
	_, _ = c.Write([]byte("hello"))
	var n int
	var err error = sys.EAGAIN
	for deadline := time.Now().Add(5 * time.Second); errors.Is(err, sys.EAGAIN) && time.Now().Before(deadline); {
		n, err = k.Read(fd, b)
	}
	if err != nil || string(b[:n]) != "hello" {
		t.Errorf("read %q, %v", b[:n], err)
	}

	// More slices than one call takes, of which none is changed.
	var bufs [][]byte
	var want []byte
	for i := range 2000 {
		bufs = append(bufs, fmt.Appendf(nil, "<%d>", i))
		want = append(want, bufs[i]...)
	}
	rest := bufs
	for len(rest) > 0 {
		n, err := k.Writev(fd, rest)
		if err != nil {
			t.Fatal(err)
		}
		for n > 0 {
			if n < len(rest[0]) {
				t.Fatal("a short write of next to nothing")
			}
			n -= len(rest[0])
			rest = rest[1:]
		}
	}
	if !bytes.Equal(bytes.Join(bufs, nil), want) {
		t.Error("Writev changed its slices")
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what arrived differs: %v", err)
	}

	_ = c.Close()
	for err = sys.EAGAIN; errors.Is(err, sys.EAGAIN); {
		n, err = k.Read(fd, b)
	}
	if n != 0 || err != nil {
		t.Errorf("at the end of the stream: %d, %v", n, err)
	}
}

// One write takes MaxWrite bytes at most, so that a raw call is short.
func TestWriteIsBounded(t *testing.T) {
	fds, bound := listen(t, "tcp", 1)
	c := dial(t, bound)
	go func() { _, _ = io.Copy(io.Discard, c) }()
	fd, _, _ := accept(t, fds)
	defer k.Close(fd)
	big := make([]byte, 4*sys.MaxWrite)
	if n, err := k.Write(fd, big); err != nil || n > sys.MaxWrite {
		t.Errorf("Write: %d, %v", n, err)
	}
	if n, err := k.Writev(fd, [][]byte{big, big}); err == nil && n > sys.MaxWrite {
		t.Errorf("Writev: %d, %v", n, err)
	}
}

func TestConnect(t *testing.T) {
	fds, bound := listen(t, "tcp", 1)
	fd, err := k.Connect(bound, sys.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close(fd)
	server, _, remote := accept(t, fds)
	defer k.Close(server)
	if err := k.SocketError(fd); err != nil {
		t.Error(err)
	}
	if local := k.Local(fd); local != remote {
		t.Errorf("our end is %v, the server sees %v", local, remote)
	}
	if _, err := k.Connect(sys.Addr{Network: "tcp", Address: "127.0.0.1:port"}, sys.Options{}); err == nil {
		t.Error("connected to a port that is no number")
	}
}

func TestReset(t *testing.T) {
	fds, bound := listen(t, "tcp", 1)
	c := dial(t, bound)
	fd, _, _ := accept(t, fds)
	if err := k.Reset(fd); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, sys.ECONNRESET) {
		t.Errorf("read: %v, want ECONNRESET", err)
	}
}

func TestParseAddr(t *testing.T) {
	for s, ok := range map[string]bool{
		"tcp://:7000": true, "tcp4://1.2.3.4:5": true, "tcp6://[::1]:0": true, "unix:///run/x": true, "unix://x": true,
		"": false, ":7000": false, "tcp://": false, "tcp://host": false, "udp://:1": false, "unix://": false, "TCP://:1": false,
	} {
		if a, err := sys.ParseAddr(s); (err == nil) != ok {
			t.Errorf("%q: %v, %v", s, a, err)
		} else if err == nil && a.String() != s {
			t.Errorf("%q became %q", s, a)
		}
	}
}
