package engine_test

import (
	"bytes"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// sendUrgent sends a byte that is not part of the stream.
func sendUrgent(t *testing.T, peer *net.TCPConn) {
	t.Helper()
	raw, err := peer.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) { err = unix.Send(int(fd), []byte("!"), unix.MSG_OOB) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
}

// wantBoth waits for what was sent before urgent data and after it.
func wantBoth(t *testing.T, got <-chan string) {
	t.Helper()
	for _, want := range []string{"before", "after"} {
		select {
		case p := <-got:
			if p != want {
				t.Fatalf("got %q, want %q", p, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%q did not come", want)
		}
	}
}

// A read ends at urgent data (tcp(7)), and so comes short although there is more. It
// is read all the same, be it on an event or after a pause.
func TestUrgentData(t *testing.T) {
	for name, hold := range map[string]func(c *engine.Conn) (release func()){
		"event": func(c *engine.Conn) func() { return holdLoop(t, c) },
		"pause": func(c *engine.Conn) func() {
			if err := c.Pause(); err != nil {
				t.Error(err)
			}
			return func() { _ = c.Resume() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			var opened conns
			got := make(chan string, 2)
			srv := serve(t, listenOne(engine.Handler{
				Open:    opened.open,
				Message: func(_ *engine.Conn, p []byte) { got <- string(p) },
			}, heartbeat.Config{}))
			peer := rawDial(t, srv)
			release := hold(opened.wait(t, 1)[0])
			write(t, peer, frame(t, codec.Data, []byte("before")))
			sendUrgent(t, peer)
			write(t, peer, frame(t, codec.Data, []byte("after")))
			time.Sleep(20 * time.Millisecond) // so that one read finds all of it
			release()
			wantBoth(t, got)
		})
	}
}

// signalStorm sends every thread of the process the signal by which Go's scheduler
// interrupts, all the time, until the test ends.
func signalStorm(t *testing.T) {
	t.Helper()
	ended := make(chan struct{})
	var end atomic.Bool
	go func() {
		defer close(ended)
		for !end.Load() {
			threads, err := os.ReadDir("/proc/self/task")
			if err != nil {
				t.Error(err)
				return
			}
			for range 100 {
				for _, thread := range threads {
					if tid, _ := strconv.Atoi(thread.Name()); tid != unix.Gettid() {
						_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG) // it may have ended
					}
				}
			}
		}
	}()
	t.Cleanup(func() {
		end.Store(true)
		<-ended
	})
}

// While a signal waits for a thread, a read at urgent data finds nothing, whatever is
// behind it.
func TestUrgentDataInterrupted(t *testing.T) {
	const rounds = 1000
	for name, onMessage := range map[string]func(c *engine.Conn){
		"event": func(*engine.Conn) {},
		"pause": func(c *engine.Conn) {
			if err := c.Pause(); err != nil {
				t.Error(err)
			}
			if err := c.Post(func() { _ = c.Resume() }); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan string, 2)
			srv := serve(t, listenOne(engine.Handler{
				Message: func(c *engine.Conn, p []byte) { onMessage(c); got <- string(p) },
			}, heartbeat.Config{}))
			peer := rawDial(t, srv)
			before, after := frame(t, codec.Data, []byte("before")), frame(t, codec.Data, []byte("after"))
			signalStorm(t)
			for range rounds {
				write(t, peer, before)
				sendUrgent(t, peer)
				write(t, peer, after)
				wantBoth(t, got)
			}
		})
	}
}

// An end that is told of together with more data than one event reads is found
// behind it, without a deadline's or a write's help.
func TestEndBehindMuch(t *testing.T) {
	// As many messages take more reads than one event makes; the peer can send them
	// while nobody reads once earlier ones have made the kernel widen its window.
	const much, earlier = 300, 32000
	for name, x := range map[string]struct {
		begin func(c *engine.Conn)
		end   func(t *testing.T, peer *net.TCPConn)
		want  engine.Reason
	}{
		"end of stream": {end: func(t *testing.T, peer *net.TCPConn) { _ = peer.CloseWrite() }, want: engine.PeerClosed},
		"reset": {end: func(t *testing.T, peer *net.TCPConn) {
			time.Sleep(50 * time.Millisecond) // until everything has arrived
			_ = peer.SetLinger(0)
			_ = peer.Close()
		}, want: engine.PeerReset},
		"end of stream behind urgent data": {end: func(t *testing.T, peer *net.TCPConn) {
			sendUrgent(t, peer)
			_ = peer.CloseWrite()
		}, want: engine.PeerClosed},
		"end of stream after Close": {
			begin: func(c *engine.Conn) { _ = c.Close() },
			end:   func(t *testing.T, peer *net.TCPConn) { _ = peer.CloseWrite() }, want: engine.Local,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var opened conns
			var got atomic.Int64
			closes := newCloses()
			cfg := listenOne(engine.Handler{
				Open:    opened.open,
				Message: func(*engine.Conn, []byte) { got.Add(1) },
				Close:   closes.note,
			}, heartbeat.Config{})
			cfg.Linger = 30 * time.Second
			srv := serve(t, cfg)
			peer := rawDial(t, srv)
			c := opened.wait(t, 1)[0]
			one := frame(t, codec.Data, make([]byte, 1000))
			write(t, peer, bytes.Repeat(one, earlier))
			eventually(t, "all messages came", func() bool { return got.Load() == earlier })

			release := holdLoop(t, c)
			if x.begin != nil {
				x.begin(c)
			}
			write(t, peer, bytes.Repeat(one, much))
			x.end(t, peer)
			time.Sleep(50 * time.Millisecond) // so that one event tells of all of it
			began := time.Now()
			release()
			closes.reason(t, x.want)
			if took := time.Since(began); took > cfg.Linger/2 {
				t.Errorf("the end was found after %v", took)
			}
			if n := got.Load() - earlier; x.begin == nil && n != much {
				t.Errorf("%d of %d messages came", n, much)
			}
		})
	}
}
