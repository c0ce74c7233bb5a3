//go:build unix

package echo_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const patience = 10 * time.Second

// Frames as they stand on the wire, written out by hand.
var frames = map[string]struct{ hello, ping, pong string }{
	"native":  {"00000500" + "68656c6c6f", "00000001", "00000002"},
	"length4": {"00000005" + "68656c6c6f", "00000000", "00000000"},
}

// program is one of the two, running.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	lines  *bufio.Reader // standard output
	stderr output
}

// output collects what one goroutine writes while another looks at it.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// start runs a program, which is killed if the test does not end it.
func start(t *testing.T, stdin io.Reader, name string, args ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command(filepath.Join(bin, name), args...)}
	p.cmd.Stdin = stdin
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewReader(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.cmd.Process.Kill()
			p.cmd.Wait()
		}
	})
	return p
}

// exits waits for the end of the program, and returns the rest of its output.
func (p *program) exits(code int) string {
	p.t.Helper()
	alarm := time.AfterFunc(patience, func() { p.cmd.Process.Kill() })
	defer alarm.Stop()
	rest, _ := io.ReadAll(p.lines)
	p.cmd.Wait()
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Fatalf("%v: exit status %d (%v), want %d; it said\n%s", p.cmd.Args, got, p.cmd.ProcessState, code, &p.stderr)
	}
	return string(rest)
}

// says waits until the program has logged something.
func (p *program) says(text string) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(p.stderr.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%v: never logged %q; it said\n%s", p.cmd.Args, text, &p.stderr)
		}
	}
}

// server runs the server on a free port.
func server(t *testing.T, format string) (p *program, addr string) {
	t.Helper()
	p = start(t, nil, "server", "-addr", "tcp://127.0.0.1:0", "-codec", format)
	line, err := p.lines.ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("the server printed %q (%v): %s", line, err, &p.stderr)
	}
	return p, addr
}

func eachFormat(t *testing.T, test func(t *testing.T, format string)) {
	for format := range frames {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			test(t, format)
		})
	}
}

func TestLines(t *testing.T) {
	eachFormat(t, func(t *testing.T, format string) {
		srv, addr := server(t, format)
		c := start(t, strings.NewReader("one\ntwo\nthree\n"), "client", "-addr", addr, "-codec", format)
		if got, want := c.exits(0), "one\ntwo\nthree\n"; got != want {
			t.Errorf("echoes are %q, want %q", got, want)
		}
		c.says("connection closed: Local")
		srv.says("connection closed: PeerClosed")

		c = start(t, nil, "client", "-addr", addr, "-codec", format, "-n", "1000")
		if got, want := c.exits(0), strings.Repeat("hello\n", 1000); got != want {
			t.Errorf("%d bytes of echoes, want %d", len(got), len(want))
		}
		srv.cmd.Process.Signal(syscall.SIGTERM)
		srv.exits(0)
	})
}

// TestServerLeaves ends the server under a client that waits for input, and
// the client at the terminal.
func TestServerLeaves(t *testing.T) {
	srv, addr := server(t, "native")
	quiet, typist := net.Pipe()
	defer typist.Close()
	c := start(t, quiet, "client", "-addr", addr)
	other := start(t, nil, "client", "-addr", addr, "-n", "1000000000000")
	for _, p := range []*program{c, other} {
		if p == c {
			io.WriteString(typist, "hello\n")
		}
		if line, _ := p.lines.ReadString('\n'); line != "hello\n" {
			t.Fatalf("echo is %q", line)
		}
	}
	other.cmd.Process.Signal(syscall.SIGINT)
	other.exits(0)
	srv.cmd.Process.Signal(syscall.SIGINT)
	srv.exits(0)
	srv.says("connection closed: Shutdown")
	c.says("connection closed: PeerClosed")
	quiet.Close()
	c.exits(1)
}

func TestMistakes(t *testing.T) {
	for _, tt := range []struct{ program, arg, value, says string }{
		{"server", "-codec", "morse", `"morse"`},
		{"client", "-codec", "morse", `"morse"`},
		{"server", "-addr", "127.0.0.1:7000", "no scheme"},
		{"client", "-addr", "tcp://127.0.0.1:1", "127.0.0.1:1"},
	} {
		p := start(t, nil, tt.program, tt.arg, tt.value)
		p.exits(1)
		p.says(tt.says)
	}
}

// raw is the other side of a program's connection, byte by byte.
type raw struct {
	t *testing.T
	net.Conn
}

func dial(t *testing.T, addr string) raw {
	t.Helper()
	c, err := net.DialTimeout("tcp", strings.TrimPrefix(addr, "tcp://"), patience)
	if err != nil {
		t.Fatal(err)
	}
	return newRaw(t, c)
}

func newRaw(t *testing.T, c net.Conn) raw {
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return raw{t, c}
}

func (r raw) send(text string) {
	r.t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.Write(b); err != nil {
		r.t.Fatal(err)
	}
}

// frame reads one frame; both formats have a header of four bytes.
func (r raw) frame(format string) string {
	r.t.Helper()
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		r.t.Fatal("waiting for a frame: ", err)
	}
	size := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
	if format == "length4" {
		size = size<<8 | int(head[3])
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		r.t.Fatal("waiting for a payload: ", err)
	}
	return hex.EncodeToString(append(head, payload...))
}

// TestServerOnTheWire says hello and pings, cut in two, and reads the answers.
func TestServerOnTheWire(t *testing.T) {
	eachFormat(t, func(t *testing.T, format string) {
		_, addr := server(t, format)
		c := dial(t, addr)
		f := frames[format]
		c.send(f.hello[:10])
		c.send(f.hello[10:] + f.ping + f.hello)
		var got []string
		for len(got) < 3 {
			// A native server pings, too.
			if frame := c.frame(format); !strings.HasPrefix(frame, "00000c01") {
				got = append(got, frame)
			}
		}
		want := []string{f.hello, f.pong, f.hello}
		slices.Sort(got) // an answer may overtake data
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

// TestLength4ServerIsQuiet: where only the client pings, a server that is not
// spoken to says nothing, and one empty frame brings exactly one back.
func TestLength4ServerIsQuiet(t *testing.T) {
	t.Parallel()
	_, addr := server(t, "length4")
	c := dial(t, addr)
	for range 3 {
		c.send("00000000")
		if got := c.frame("length4"); got != "00000000" {
			t.Fatalf("the answer to an empty frame is %s", got)
		}
	}
	c.SetReadDeadline(time.Now().Add(3 * time.Second)) // longer than an Interval
	if n, err := c.Read(make([]byte, 16)); n != 0 || err == nil {
		t.Errorf("read %d bytes (%v) that nobody asked for", n, err)
	}
}

// client runs the client against this test.
func client(t *testing.T, format string) raw {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	stdin, typist := net.Pipe()
	p := start(t, stdin, "client", "-addr", "tcp://"+ln.Addr().String(), "-codec", format)
	t.Cleanup(func() {
		typist.Close()
		p.cmd.Process.Kill()
		stdin.Close()
	})
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return newRaw(t, c)
}

// TestClientPings: the client asks by itself, and goes on as long as it is
// answered.
func TestClientPings(t *testing.T) {
	eachFormat(t, func(t *testing.T, format string) {
		c := client(t, format)
		f := frames[format]
		for range 2 {
			ping := c.frame(format)
			switch {
			case format == "length4" && ping == f.ping:
				c.send(f.pong)
			case format == "native" && strings.HasPrefix(ping, "00000c01"):
				c.send("00000c02" + ping[8:])
			default:
				t.Fatalf("the client sent %s, want a ping", ping)
			}
		}
	})
}

// TestLength4ClientDoesNotAnswer: a hundred empty frames are not answered by a
// hundred; what comes is the client's own pings, at most one an Interval.
func TestLength4ClientDoesNotAnswer(t *testing.T) {
	t.Parallel()
	c := client(t, "length4")
	c.send(strings.Repeat("00000000", 100))
	c.SetReadDeadline(time.Now().Add(3 * time.Second))
	got, _ := io.ReadAll(c)
	if !bytes.Equal(got, make([]byte, len(got))) || len(got)%4 != 0 || len(got) > 2*4 {
		t.Errorf("the client sent %x, want one or two empty frames of its own", got)
	}
}

// TestNativeAnswersVerbatim: the client answers a ping with the ping's payload.
func TestNativeAnswersVerbatim(t *testing.T) {
	t.Parallel()
	c := client(t, "native")
	const payload = "0123456789abcdef00000000"
	c.send("00000c01" + payload)
	got := c.frame("native")
	for strings.HasPrefix(got, "00000c01") {
		got = c.frame("native")
	}
	if got != "00000c02"+payload {
		t.Errorf("the answer is %s", got)
	}
}
