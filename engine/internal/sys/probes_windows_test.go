package sys_test

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/windows"

	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// Probes are set to what was asked for. Windows tells the times in seconds
// (TCP_KEEPIDLE and TCP_KEEPINTVL, since Windows 10 1709).
func TestProbes(t *testing.T) {
	p, note, err := sys.Probes{Idle: 5 * time.Second, Interval: 4 * time.Second, Count: 3, UserTimeout: 20 * time.Second}.Check()
	if err != nil || note != "" {
		t.Fatal(note, err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	c, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(handle uintptr) {
		if err := new(sys.Kernel).SetProbes(int(handle), p); err != nil {
			t.Fatal(err)
		}
		const maxRT = 5 // TCP_MAXRT
		for option, want := range map[int]int{windows.TCP_KEEPIDLE: 5, windows.TCP_KEEPINTVL: 4, windows.TCP_KEEPCNT: 3, maxRT: 20} {
			if got, err := windows.GetsockoptInt(windows.Handle(handle), windows.IPPROTO_TCP, option); err != nil || got != want {
				t.Errorf("option %d is %d, %v; want %d", option, got, err, want)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
