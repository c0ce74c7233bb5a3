package netns

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/internal/lack"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func newNet(t *testing.T) *Net {
	t.Helper()
	if err := Permitted(); err != nil {
		lack.Skip(t, err)
	}
	n, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *Net) mustAdd(t *testing.T, host string) {
	t.Helper()
	if _, err := n.AddHost(host); err != nil {
		t.Fatal(err)
	}
}

// connect returns both ends of a connection between two hosts.
func connect(t *testing.T, n *Net, from, to string) (client, server net.Conn) {
	t.Helper()
	var ln net.Listener
	if err := n.within(to, func() (err error) {
		ln, err = net.Listen("tcp4", ":0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	address := fmt.Sprintf("%v:%d", n.Addr(to), ln.Addr().(*net.TCPAddr).Port)
	if err := n.within(from, func() (err error) {
		client, err = net.DialTimeout("tcp4", address, 5*time.Second)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// passes reports whether a byte gets through, or how it does not.
func passes(from, to net.Conn, limit time.Duration) error {
	if _, err := from.Write([]byte("x")); err != nil {
		return err
	}
	_ = to.SetReadDeadline(time.Now().Add(limit))
	_, err := to.Read(make([]byte, 1))
	return err
}

const (
	soon   = 5 * time.Second
	awhile = 300 * time.Millisecond
)

// Each fault stops what it is meant to stop, and nothing of another host's.
func TestFaults(t *testing.T) {
	n := newNet(t)
	n.mustAdd(t, "server")
	n.mustAdd(t, "bystander")
	bystander, facing := connect(t, n, "bystander", "server")
	lost := os.ErrDeadlineExceeded
	for _, tt := range []struct {
		name     string
		prepare  func(host string) error
		strike   func(host string) error
		from, to error // what becomes of a byte from the host, and to it
	}{
		{"cut", nil, func(h string) error { return n.Break(h, Cut) }, lost, lost},
		{"cut_from", nil, func(h string) error { return n.Break(h, CutFrom) }, lost, nil},
		{"cut_to", nil, func(h string) error { return n.Break(h, CutTo) }, nil, lost},
		{"host_unreachable", nil, func(h string) error { return n.Break(h, HostUnreachable) }, lost, lost},
		{"net_unreachable", nil, func(h string) error { return n.Break(h, NetUnreachable) }, lost, lost},
		{"forgotten", n.Translate, func(string) error { return n.Forget() }, lost, lost},
		{"unplugged", nil, n.Unplug, lost, lost},
		{"rebooted", n.AddTwin, n.Reboot, lost, syscall.ECONNRESET},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n.mustAdd(t, tt.name)
			if tt.prepare != nil {
				if err := tt.prepare(tt.name); err != nil {
					t.Fatal(err)
				}
			}
			client, server := connect(t, n, tt.name, "server")
			if err := errors.Join(passes(client, server, soon), passes(server, client, soon)); err != nil {
				t.Fatalf("before the fault: %v", err)
			}
			if err := tt.strike(tt.name); err != nil {
				t.Fatal(err)
			}
			limit := func(want error) time.Duration {
				if want == nil {
					return soon
				}
				return awhile
			}
			if err := passes(client, server, limit(tt.from)); !errors.Is(err, tt.from) {
				t.Errorf("from the host: %v, want %v", err, tt.from)
			}
			if tt.to == syscall.ECONNRESET {
				_, _ = server.Write([]byte("x"))
				_ = server.SetReadDeadline(time.Now().Add(soon))
				if _, err := server.Read(make([]byte, 1)); !errors.Is(err, tt.to) {
					t.Errorf("to the host: %v, want %v", err, tt.to)
				}
			} else if err := passes(server, client, limit(tt.to)); !errors.Is(err, tt.to) {
				t.Errorf("to the host: %v, want %v", err, tt.to)
			}
			if err := errors.Join(passes(bystander, facing, soon), passes(facing, bystander, soon)); err != nil {
				t.Errorf("a bystander: %v", err)
			}
		})
	}
}

// A fault can be mended.
func TestMend(t *testing.T) {
	n := newNet(t)
	n.mustAdd(t, "a")
	n.mustAdd(t, "b")
	client, server := connect(t, n, "a", "b")
	if err := n.Break("a", Cut); err != nil {
		t.Fatal(err)
	}
	if err := passes(client, server, awhile); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("cut: %v", err)
	}
	if err := n.Mend("a", Cut); err != nil {
		t.Fatal(err)
	}
	if err := passes(client, server, 4*soon); err != nil { // by a retransmission
		t.Errorf("mended: %v", err)
	}
}

// A command runs where it is meant to, and says what it says when it fails.
func TestRun(t *testing.T) {
	n := newNet(t)
	n.mustAdd(t, "a")
	if err := n.Run("a", "", "ip", "route", "get", "10.0.1.1"); err != nil {
		t.Error(err)
	}
	if err := n.Run("a", "", "ip", "link", "show", "nowhere"); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a command that fails: %v", err)
	}
	argv := n.Command("a", "ip", "-o", "address", "show", "dev", "eth0")
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil || !strings.Contains(string(out), "10.0.1.2/24") {
		t.Errorf("%v: %s", err, out)
	}
}

// What a killed process has left is removed, and what a living one has is not.
func TestStrays(t *testing.T) {
	mine := newNet(t)
	child := exec.Command(os.Args[0], "-test.run=^TestHelperStray$")
	child.Env = append(os.Environ(), "NETNS_TEST_STRAY=1")
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Wait() }() // until then it is a zombie
	out, err := io.ReadAll(stdout)
	name, _, _ := strings.Cut(string(out), "\n")
	if err != nil || !strings.HasPrefix(name, namePrefix) {
		t.Fatalf("the child left %q: %v", out, err)
	}
	if _, err := os.Stat(folder + "/" + name); err != nil {
		t.Fatalf("the child left nothing: %v", err)
	}
	// Its files are closed a moment before it is dead. WNOWAIT leaves it a zombie.
	if err := unix.Waitid(unix.P_PID, child.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	newNet(t)
	if _, err := os.Stat(folder + "/" + name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a stray namespace is still there: %v", err)
	}
	if _, err := os.Stat(folder + "/" + mine.name("")); err != nil {
		t.Errorf("a namespace in use was removed: %v", err)
	}
}

// TestHelperStray is the child of TestStrays: it dies without removing anything.
func TestHelperStray(t *testing.T) {
	if os.Getenv("NETNS_TEST_STRAY") == "" {
		t.Skip("run by TestStrays in a process of its own")
	}
	n, err := New()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(n.name(""))
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
