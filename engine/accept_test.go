//go:build linux

package engine_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A server process of its own, with RLIMIT_NOFILE as the environment says.
// It echoes, and answers SIGUSR-like requests by lines on standard input: each
// line makes it print its Stats.
func TestMain_limitedServer(t *testing.T) {
	limit, err := strconv.ParseUint(os.Getenv("PULSEWHEEL_TEST_NOFILE"), 10, 64)
	if err != nil {
		t.Skip("run by TestFileLimit in a process of its own")
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		t.Fatal(err)
	}
	cfg := listenOne(engine.Handler{Message: echo}, heartbeat.Config{})
	cfg.MaxConns, _ = strconv.Atoi(os.Getenv("PULSEWHEEL_TEST_MAXCONNS"))
	srv, err := engine.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("listening", srv.Port(0))
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			line, _ := json.Marshal(struct {
				engine.LoopStats
				CPU time.Duration
			}{srv.Stats().Total, cpuTime()})
			fmt.Printf("stats %s\n", line)
		}
	}()
	if err := srv.Serve(ctx); err != nil {
		t.Fatal(err)
	}
}

// With RLIMIT_NOFILE at 256 and 400 clients connecting, the server neither
// exits nor spins, serves those it has, and accepts again when some leave;
// whether MaxConns keeps it from the limit, or it runs into EMFILE.
func TestFileLimit(t *testing.T) {
	for name, maxConns := range map[string]int{"MaxConns": 0, "EMFILE": -1} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestMain_limitedServer$", "-test.v")
			cmd.Env = append(os.Environ(), "PULSEWHEEL_TEST_NOFILE=256", fmt.Sprint("PULSEWHEEL_TEST_MAXCONNS=", maxConns))
			cmd.Stderr = os.Stderr
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			out := bufio.NewScanner(stdout)
			scan := func(format string, into ...any) {
				t.Helper()
				for out.Scan() {
					if n, _ := fmt.Sscanf(out.Text(), format, into...); n == len(into) {
						return
					}
				}
				t.Fatalf("the server ended: %v", out.Err())
			}
			var port int
			scan("listening %d", &port)
			type stats struct {
				engine.LoopStats
				CPU time.Duration
			}
			ask := func() (s stats) {
				t.Helper()
				if _, err := fmt.Fprintln(stdin); err != nil {
					t.Fatal(err)
				}
				for out.Scan() {
					if line := out.Bytes(); len(line) > 6 && string(line[:6]) == "stats " {
						// The map of reasons has keys of a named type.
						if err := json.Unmarshal(line[6:], &s); err != nil {
							t.Fatal(err)
						}
						return s
					}
				}
				t.Fatalf("the server ended: %v", out.Err())
				return s
			}

			const clients = 400
			all := make([]net.Conn, clients)
			for i := range all {
				c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(30 * time.Second))
				all[i] = c
				write(t, c, frame(t, codec.Data, []byte("hello"))) // the kernel takes it for those who wait
			}
			var served int64
			eventually(t, "the server has all it can have", func() bool {
				s := ask()
				served = s.Open
				return s.Parks > 0 && s.MessagesIn == uint64(s.Open)
			})
			if served < 200 || served >= 256 {
				t.Errorf("%d connections served of 256 descriptors", served)
			}
			before := ask()
			time.Sleep(time.Second)
			after := ask()
			if spent := after.CPU - before.CPU; spent > 200*time.Millisecond {
				t.Errorf("%v of CPU in a second of waiting for room", spent)
			}
			// Those it has are served.
			hello := frame(t, codec.Data, []byte("hello"))
			answered := 0
			var waiting []net.Conn
			for _, c := range all {
				_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				b := make([]byte, len(hello))
				if _, err := c.Read(b); err == nil {
					answered++
					_ = c.Close()
				} else {
					waiting = append(waiting, c)
				}
			}
			if answered < int(served) {
				t.Errorf("%d of %d were answered", answered, served)
			}
			// The others are, once there is room.
			for i, c := range waiting {
				_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
				b := make([]byte, len(hello))
				if _, err := c.Read(b); err != nil {
					t.Fatalf("%d of %d who waited: %v", i, len(waiting), err)
				}
			}
			if name == "EMFILE" && after.AcceptErrors == 0 {
				t.Error("EMFILE did not occur")
			}
		})
	}
}

// Several loops on one port share the connections, and hand them over when the
// kernel's spread is uneven.
func TestLoopsShareConnections(t *testing.T) {
	opened := new(conns)
	cfg := listenOne(engine.Handler{Open: opened.open, Message: echo}, heartbeat.Config{})
	cfg.Loops = 3
	srv := serve(t, cfg)
	const n = 300
	for range n {
		_ = rawDial(t, srv)
	}
	opened.wait(t, n)
	for _, l := range srv.Stats().Loops {
		if l.Open < n/3-40 || l.Open > n/3+40 {
			t.Errorf("a loop of three has %d of %d connections", l.Open, n)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	cfg := listenOne(engine.Handler{Message: echo}, heartbeat.Strict())
	cfg.Listeners[0].Addr = "unix://" + path
	srv, err := engine.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(context.Background()) }()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	hello := frame(t, codec.Data, []byte("hello"))
	write(t, c, hello)
	expect(t, c, hello)
	_ = c.Close()
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-done
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket's path is left: %v", err)
	}
}
