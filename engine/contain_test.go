package engine_test

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// faulty is a server on one loop that echoes, and whose callbacks fail in the
// way and place that a message names.
type faulty struct {
	srv    *engine.Server
	closes *closes
	fail   func()
	opens  atomic.Int64
}

func newFaulty(t *testing.T, fail func()) *faulty {
	f := &faulty{closes: newCloses(), fail: fail}
	var failOpen, failClose atomic.Bool
	cfg := listenOne(engine.Handler{
		Open: func(c *engine.Conn) error {
			f.opens.Add(1)
			if failOpen.Swap(false) {
				f.fail()
			}
			return nil
		},
		Message: func(c *engine.Conn, p []byte) {
			switch string(p) {
			case "message":
				f.fail()
			case "next open":
				failOpen.Store(true)
			case "close":
				failClose.Store(true)
				_ = c.Close()
			case "post":
				_ = c.Post(f.fail)
			case "loop post":
				_ = c.Loop().Post(f.fail)
			case "timer":
				c.Loop().AfterFunc(time.Millisecond, f.fail)
			case "writable":
				big := make([]byte, 16<<10)
				for c.Send(big) == nil {
				}
			}
			_ = c.Send(p)
		},
		Frame:    func(c *engine.Conn, fr codec.Frame) { f.fail() },
		Writable: func(c *engine.Conn) { f.fail() },
		Close: func(c *engine.Conn, err error) {
			f.closes.note(c, err)
			if failClose.Swap(false) {
				f.fail()
			}
		},
	}, heartbeat.Config{})
	cfg.Loops = 1
	cfg.Backlog.High = 64 << 10
	f.srv = serve(t, cfg)
	return f
}

// A panic in each callback closes one connection and nothing else; so does a
// Goexit, which ends the loop's goroutine.
func TestFailingCallbacks(t *testing.T) {
	ways := map[string]func(){
		"panic":  func() { panic("as the test wants") },
		"goexit": runtime.Goexit,
	}
	for way, fail := range ways {
		t.Run(way, func(t *testing.T) {
			f := newFaulty(t, fail)
			bystander := rawDial(t, f.srv)
			hello := frame(t, codec.Data, []byte("hello"))
			alive := func(t *testing.T) {
				t.Helper()
				write(t, bystander, hello)
				expect(t, bystander, hello)
			}
			alive(t)
			for _, place := range []string{"message", "post", "writable"} {
				t.Run(place, func(t *testing.T) {
					c := rawDial(t, f.srv)
					write(t, c, frame(t, codec.Data, []byte(place)))
					go func() { _, _ = c.WriteTo(discard{}) }()
					ce := f.closes.reason(t, engine.Panic)
					if way == "panic" && !strings.Contains(ce.Error(), "as the test wants") {
						t.Errorf("the error does not say why: %v", ce)
					}
					alive(t)
				})
			}
			t.Run("frame", func(t *testing.T) {
				c := rawDial(t, f.srv)
				write(t, c, frame(t, codec.AppKind, nil))
				f.closes.reason(t, engine.Panic)
				alive(t)
			})
			t.Run("open", func(t *testing.T) {
				write(t, bystander, frame(t, codec.Data, []byte("next open")))
				expect(t, bystander, frame(t, codec.Data, []byte("next open")))
				_ = rawDial(t, f.srv)
				f.closes.reason(t, engine.Panic)
				alive(t)
			})
			t.Run("close", func(t *testing.T) {
				c := rawDial(t, f.srv)
				write(t, c, frame(t, codec.Data, []byte("close")))
				_ = c.CloseWrite()
				f.closes.reason(t, engine.Local)
				alive(t)
			})
			for _, place := range []string{"loop post", "timer"} {
				t.Run(place, func(t *testing.T) {
					before := f.srv.Stats().Total.Panics
					c := rawDial(t, f.srv)
					write(t, c, frame(t, codec.Data, []byte(place)))
					expect(t, c, frame(t, codec.Data, []byte(place)))
					eventually(t, "the failure is counted", func() bool { return f.srv.Stats().Total.Panics == before+1 })
					alive(t)
					f.closes.none(t, 10*time.Millisecond) // it belonged to no connection
					_ = c.Close()
					f.closes.reason(t, engine.PeerClosed)
				})
			}
		})
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// A Goexit in a callback loses no queued Send, Post or Close of any other
// connection.
func TestGoexitLosesNothing(t *testing.T) {
	const n = 300
	opened, cs := new(conns), newCloses()
	cfg := listenOne(engine.Handler{
		Open:  opened.open,
		Close: cs.note,
	}, heartbeat.Config{})
	cfg.Loops = 1
	srv := serve(t, cfg)
	var clients []net.Conn
	for range n {
		clients = append(clients, rawDial(t, srv))
	}
	all := opened.wait(t, n)
	byPort := make(map[uint16]*engine.Conn)
	for _, c := range all {
		byPort[c.RemoteAddr().Port()] = c
	}
	var posted atomic.Int64
	loop := all[0].Loop()
	// While the loop is held up, fill its mailbox with failures among work.
	hold := make(chan struct{})
	_ = loop.Post(func() { <-hold })
	victims := 0
	for i, cl := range clients {
		c := byPort[uint16(cl.LocalAddr().(*net.TCPAddr).Port)]
		if i%10 == 5 {
			victims++
			_ = c.Post(runtime.Goexit)
			continue
		}
		if err := c.Send([]byte{byte(i), byte(i >> 8)}); err != nil {
			t.Fatal(err)
		}
		_ = c.Post(func() { posted.Add(1) })
		if i%10 == 7 {
			_ = c.Close()
		}
		if i%50 == 9 {
			_ = loop.Post(runtime.Goexit)
		}
	}
	close(hold)
	closing := 0
	for i, cl := range clients {
		switch {
		case i%10 == 5:
			continue
		case i%10 == 7:
			closing++
		}
		expect(t, cl, frame(t, codec.Data, []byte{byte(i), byte(i >> 8)}))
		if i%10 == 7 {
			if _, err := cl.Read(make([]byte, 1)); err == nil {
				t.Fatal("Close was lost")
			}
			_ = cl.Close()
		}
	}
	eventually(t, "all posted functions have run", func() bool { return posted.Load() == int64(n-victims) })
	got := map[engine.Reason]int{}
	for range victims + closing {
		got[engine.ReasonOf(cs.next(t).err)]++
	}
	if got[engine.Panic] != victims || got[engine.Local] != closing {
		t.Errorf("closed: %v, want %d Panic and %d Local", got, victims, closing)
	}
	cs.none(t, 20*time.Millisecond)
}

// A handler that sends to, closes and re-enters every other connection while
// it holds the application's own mutex never deadlocks and sees no callback
// inside a call.
func TestNoCallbackInsideCall(t *testing.T) {
	const n = 40
	var (
		mu     sync.Mutex // the application's
		room   = map[engine.ID]*engine.Conn{}
		inside = map[*engine.Loop]*atomic.Bool{}
		srv    *engine.Server
		nested atomic.Int64
	)
	enter := func(c *engine.Conn) func() {
		mu.Lock()
		flag := inside[c.Loop()]
		if flag == nil {
			flag = new(atomic.Bool)
			inside[c.Loop()] = flag
		}
		mu.Unlock()
		if flag.Swap(true) {
			nested.Add(1)
		}
		return func() { flag.Store(false) }
	}
	cs := newCloses()
	cfg := listenOne(engine.Handler{
		Open: func(c *engine.Conn) error {
			defer enter(c)()
			mu.Lock()
			defer mu.Unlock()
			room[c.ID()] = c
			for _, other := range room {
				_ = other.Send([]byte("someone came"))
			}
			return nil
		},
		Message: func(c *engine.Conn, p []byte) {
			defer enter(c)()
			mu.Lock()
			defer mu.Unlock()
			for _, other := range room {
				_ = other.Send(p)
				_ = other.Post(func() { mu.Lock(); _ = len(room); mu.Unlock() })
				other.Set(other.Get())
				if string(p) == "all out" && other != c {
					_ = other.Close()
					_ = other.Abort()
				}
			}
			srv.Range(func(other *engine.Conn) bool { _ = other.Send(p); return true })
			_ = srv.Stats()
			_ = srv.Conn(c.ID())
		},
		Writable: func(c *engine.Conn) { defer enter(c)() },
		Close: func(c *engine.Conn, err error) {
			defer enter(c)()
			mu.Lock()
			defer mu.Unlock()
			delete(room, c.ID())
			for _, other := range room {
				_ = other.Send([]byte("someone left"))
			}
			cs.note(c, err)
		},
	}, heartbeat.Config{})
	cfg.Loops = 3
	cfg.Backlog.High = 4 << 10
	ready := make(chan struct{})
	message := cfg.Handler.Message
	cfg.Handler.Message = func(c *engine.Conn, p []byte) { <-ready; message(c, p) }
	srv = serve(t, cfg)
	close(ready)
	var clients []net.Conn
	for range n {
		c := rawDial(t, srv)
		clients = append(clients, c)
		go func() { _, _ = c.WriteTo(discard{}) }()
	}
	eventually(t, "everyone is in the room", func() bool { mu.Lock(); defer mu.Unlock(); return len(room) == n })
	for i, c := range clients {
		for j := range 20 {
			write(t, c, frame(t, codec.Data, fmt.Appendf(nil, "%d/%d", i, j)))
		}
	}
	write(t, clients[0], frame(t, codec.Data, []byte("all out")))
	for range n - 1 {
		cs.reason(t, engine.Local)
	}
	if n := nested.Load(); n > 0 {
		t.Errorf("%d callbacks ran inside another", n)
	}
	if r := srv.Stats().Total; r.Panics > 0 {
		t.Errorf("%d panics", r.Panics)
	}
	_ = clients[0].Close()
	if ce := cs.next(t); errors.Is(ce.err, nil) {
		t.Error("Close got no error")
	}
}
