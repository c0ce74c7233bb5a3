package sys_test

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// Probes are set to exactly what was asked for, on the socket that was dialled
// and, inherited, on the one that was accepted.
func TestProbes(t *testing.T) {
	p, note, err := sys.Probes{Idle: 5 * time.Second, Interval: 4 * time.Second, Count: 3, UserTimeout: 2500 * time.Millisecond}.Check()
	if err != nil || note != "" {
		t.Fatal(note, err)
	}
	o := sys.Options{Probes: p}
	fds, bound, err := k.Listen(sys.Addr{Network: "tcp", Address: "127.0.0.1:0"}, 2, o)
	if err != nil {
		t.Fatal(err)
	}
	for range 8 { // enough for both sockets of the port
		dialled, err := k.Connect(bound, o)
		if err != nil {
			t.Fatal(err)
		}
		accepted, _, _ := accept(t, fds)
		for what, fd := range map[string]int{"accepted": accepted, "dialled": dialled} {
			for name, x := range map[string]struct{ level, option, want int }{
				"SO_KEEPALIVE":     {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
				"TCP_KEEPIDLE":     {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 5},
				"TCP_KEEPINTVL":    {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 4},
				"TCP_KEEPCNT":      {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
				"TCP_USER_TIMEOUT": {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 2500},
			} {
				if got, err := unix.GetsockoptInt(fd, x.level, x.option); err != nil || got != x.want {
					t.Errorf("%s: %s is %d, %v; want %d", what, name, got, err, x.want)
				}
			}
		}
		_ = k.Close(dialled)
		_ = k.Close(accepted)
	}
	for _, fd := range fds {
		_ = k.Close(fd)
	}
}

// What the kernel would cut short or refuse is an error, and what it counts more
// coarsely is rounded up, which is said.
func TestProbesCheck(t *testing.T) {
	s := time.Second
	for _, bad := range []sys.Probes{
		{Idle: -s, Interval: s, Count: 1}, {Idle: s, Count: 1}, {Idle: s, Interval: s}, {Idle: s, Interval: s, Count: 128},
		{Idle: 32768 * s, Interval: s, Count: 1}, {Interval: s}, {Count: 1}, {UserTimeout: -1}, {UserTimeout: 600 * time.Hour},
	} {
		if _, _, err := bad.Check(); err == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
	p, note, err := sys.Probes{Idle: 1500 * time.Millisecond, Interval: 1, Count: 127, UserTimeout: time.Millisecond + 1}.Check()
	if err != nil {
		t.Fatal(err)
	}
	if want := (sys.Probes{Idle: 2 * s, Interval: s, Count: 127, UserTimeout: 2 * time.Millisecond}); p != want {
		t.Errorf("applied %+v, want %+v", p, want)
	}
	for _, want := range []string{"idle of 1.5s", "interval of 1ns", "user timeout of 1.000001ms"} {
		if !strings.Contains(note, want) {
			t.Errorf("the note does not tell of the %s: %q", want, note)
		}
	}
	if p, note, err := (sys.Probes{}).Check(); err != nil || note != "" || p != (sys.Probes{}) {
		t.Errorf("no probes: %+v, %q, %v", p, note, err)
	}
}
