package engine_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// logBook is a slog.Handler that keeps what was logged.
type logBook struct {
	mu      sync.Mutex
	entries []logEntry
}

type logEntry struct {
	message string
	attrs   map[string]slog.Value
}

func (b *logBook) Enabled(context.Context, slog.Level) bool { return true }
func (b *logBook) WithAttrs([]slog.Attr) slog.Handler       { return b }
func (b *logBook) WithGroup(string) slog.Handler            { return b }

func (b *logBook) Handle(_ context.Context, r slog.Record) error {
	e := logEntry{r.Message, make(map[string]slog.Value)}
	r.Attrs(func(a slog.Attr) bool { e.attrs[a.Key] = a.Value; return true })
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries = append(b.entries, e)
	return nil
}

// of returns the entries with a message.
func (b *logBook) of(message string) (found []logEntry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.entries {
		if e.message == message {
			found = append(found, e)
		}
	}
	return found
}

const (
	blockedLoop = "a callback blocks its event loop"
	stuckTask   = "a task does not end"
)

// clockKernel is the real kernel, and counts looks at the clock: every event of
// a loop begins with one, and so does everything that the watch does.
type clockKernel struct {
	sys.Kernel
	looks atomic.Int64
}

func (k *clockKernel) Now() int64 {
	k.looks.Add(1)
	return k.Kernel.Now()
}

// blockHere is what the stack must name.
func blockHere(hold <-chan struct{}) { <-hold }

// A callback that blocks its loop is logged once, with the loop and a stack that
// names who blocks, and counted; the next one again. The other loops are not
// reported.
func TestBlockedLoopIsReported(t *testing.T) {
	ways := map[string]func(t *testing.T, c *engine.Conn, peer net.Conn, hold chan struct{}){
		"message": func(t *testing.T, _ *engine.Conn, peer net.Conn, _ chan struct{}) {
			write(t, peer, frame(t, codec.Data, []byte("block")))
		},
		"post": func(_ *testing.T, c *engine.Conn, _ net.Conn, hold chan struct{}) {
			_ = c.Loop().Post(func() { blockHere(hold) })
		},
		"timer": func(_ *testing.T, c *engine.Conn, _ net.Conn, hold chan struct{}) {
			c.Loop().AfterFunc(time.Millisecond, func() { blockHere(hold) })
		},
	}
	for name, block := range ways {
		t.Run(name, func(t *testing.T) {
			var hold atomic.Pointer[chan struct{}]
			opened, book := new(conns), new(logBook)
			cfg := listenOne(engine.Handler{
				Open: opened.open,
				Message: func(c *engine.Conn, p []byte) {
					if string(p) == "block" {
						blockHere(*hold.Load())
					}
					_ = c.Send(p)
				},
			}, heartbeat.Config{})
			cfg.Loops = 4
			cfg.BlockedAfter = 20 * time.Millisecond
			cfg.Logger = slog.New(book)
			srv := serve(t, cfg)
			peer := rawDial(t, srv)
			c := opened.wait(t, 1)[0]
			loop := c.Loop().Index()
			hello := frame(t, codec.Data, []byte("hello"))
			for round := 1; round <= 2; round++ {
				gate := make(chan struct{})
				hold.Store(&gate)
				block(t, c, peer, gate)
				named := func() (n int) {
					for _, e := range book.of(blockedLoop) {
						if strings.Contains(e.attrs["stack"].String(), "blockHere") {
							n++
							if got := e.attrs["loop"].Int64(); got != int64(loop) {
								t.Errorf("loop %d is reported, and it is loop %d that is blocked", got, loop)
							}
							if d := e.attrs["for"].Duration(); d < cfg.BlockedAfter {
								t.Errorf("reported after %v", d)
							}
						}
					}
					return n
				}
				eventually(t, "the blocked loop is reported", func() bool { return named() == round })
				time.Sleep(10 * cfg.BlockedAfter) // as many looks as that
				if n := named(); n != round {
					t.Errorf("%d reports of %d callbacks", n, round)
				}
				if n := srv.Stats().Loops[loop].Blocked; n < uint64(round) || n != uint64(countLoop(book, loop)) {
					t.Errorf("%d counted, and %d reported", n, countLoop(book, loop))
				}
				close(gate)
				write(t, peer, hello)
				if name == "message" {
					expect(t, peer, frame(t, codec.Data, []byte("block")))
				}
				expect(t, peer, hello)
			}
		})
	}
}

// A function that blocks right behind the watch's own letter is reported, too,
// whether it was there when the letter was taken or came later.
func TestNextBlockIsReported(t *testing.T) {
	for _, later := range []bool{false, true} {
		t.Run(fmt.Sprintf("later %v", later), func(t *testing.T) {
			book := new(logBook)
			cfg := listenOne(engine.Handler{}, heartbeat.Config{})
			cfg.Loops = 1
			cfg.BlockedAfter = 200 * time.Millisecond
			cfg.Logger = slog.New(book)
			srv := serve(t, cfg)
			loop := srv.Loops()[0]
			begun, first, second := make(chan struct{}), make(chan struct{}), make(chan struct{})
			defer close(second)
			block := func() { blockHere(second) }
			_ = loop.Post(func() { close(begun); blockHere(first) })
			within(t, "the first one begins", begun)
			if later { // this is in front of the letter, and what it posts is behind it
				_ = loop.Post(func() { _ = loop.Post(block) })
			}
			eventually(t, "the first one is reported", func() bool { return len(book.of(blockedLoop)) == 1 })
			if !later {
				_ = loop.Post(block)
			}
			close(first)
			eventually(t, "the one behind it is reported", func() bool { return len(book.of(blockedLoop)) == 2 })
			if n := srv.Stats().Total.Blocked; n != 2 {
				t.Errorf("%d counted, want 2", n)
			}
		})
	}
}

func countLoop(b *logBook, loop int) (n int) {
	for _, e := range b.of(blockedLoop) {
		if e.attrs["loop"].Int64() == int64(loop) {
			n++
		}
	}
	return n
}

// An engine on which nothing happens does nothing: once things have calmed down
// neither a loop nor the watch wakes up.
func TestIdleEngineSleeps(t *testing.T) {
	k := new(clockKernel)
	opened := new(conns)
	cfg := listenOne(engine.Handler{Open: opened.open, Message: echo}, heartbeat.Config{})
	cfg.Loops = 2
	cfg.BlockedAfter = 10 * time.Millisecond
	cfg.Logger = slog.New(slog.DiscardHandler)
	srv, err := engine.ListenOn(k, cfg)
	serving(t, srv, err)
	hello := frame(t, codec.Data, []byte("hello"))
	for range 10 {
		c := rawDial(t, srv)
		write(t, c, hello)
		expect(t, c, hello)
	}
	var done sync.WaitGroup
	for _, c := range opened.wait(t, 10) {
		done.Add(1)
		if err := c.Do(done.Done); err != nil {
			t.Fatal(err)
		}
	}
	done.Wait()
	// While there is something to watch, somebody looks.
	gate := make(chan struct{})
	if err := opened.wait(t, 10)[0].Do(func() { <-gate }); err != nil {
		t.Fatal(err)
	}
	before := k.looks.Load()
	eventually(t, "the watch looks while a task runs", func() bool { return k.looks.Load() > before+4 })
	close(gate)
	eventually(t, "a second without a look at the clock", func() bool {
		before := k.looks.Load()
		time.Sleep(time.Second)
		return k.looks.Load() == before
	})
	// And it begins again.
	before = k.looks.Load()
	gate = make(chan struct{})
	if err := opened.wait(t, 10)[1].Do(func() { <-gate }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the watch looks again", func() bool { return k.looks.Load() > before })
	close(gate)
}

// A loop that has a lot to do in short callbacks is not reported.
func TestBusyLoopIsNotReported(t *testing.T) {
	book := new(logBook)
	opened := new(conns)
	var ran atomic.Int64
	cfg := listenOne(engine.Handler{
		Open: opened.open,
		Message: func(c *engine.Conn, p []byte) {
			ran.Add(1)
			for began := time.Now(); time.Since(began) < 5*time.Millisecond; {
			}
			_ = c.Send(p)
		},
	}, heartbeat.Config{})
	cfg.Loops = 1
	cfg.BlockedAfter = 400 * time.Millisecond
	cfg.Logger = slog.New(book)
	srv := serve(t, cfg)
	hello := frame(t, codec.Data, []byte("hello"))
	stop := make(chan struct{})
	var peers sync.WaitGroup
	for range 4 {
		c := rawDial(t, srv)
		peers.Go(func() { // there is always something to do
			answer := make([]byte, len(hello))
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := c.Write(hello); err != nil {
					t.Error(err)
					return
				}
				if _, err := io.ReadFull(c, answer); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	time.Sleep(2500 * time.Millisecond) // five looks and more
	close(stop)
	peers.Wait()
	if n := len(book.of(blockedLoop)); n > 0 {
		t.Errorf("%d reports of a busy loop: %v", n, book.of(blockedLoop)[0].attrs["stack"])
	}
	if n := srv.Stats().Total.Blocked; n > 0 {
		t.Errorf("%d counted", n)
	}
	if ran.Load() < 50 {
		t.Errorf("the loop was not busy: %d messages", ran.Load())
	}
}

// Nor is a loop that has so much to do that a round takes longer than
// BlockedAfter: it is no callback that holds it up.
func TestManyEventsAreNoBlock(t *testing.T) {
	const peers, rounds, each = 300, 3, 4 * time.Millisecond
	book := new(logBook)
	opened := new(conns)
	var messages atomic.Int64
	cfg := listenOne(engine.Handler{
		Open: opened.open,
		Message: func(*engine.Conn, []byte) {
			for began := time.Now(); time.Since(began) < each; {
			}
			messages.Add(1)
		},
	}, heartbeat.Config{})
	cfg.Loops = 1
	cfg.BlockedAfter = 200 * time.Millisecond
	cfg.Logger = slog.New(book)
	srv := serve(t, cfg)
	var clients []net.Conn
	for range peers {
		clients = append(clients, rawDial(t, srv))
	}
	opened.wait(t, peers)
	hello := frame(t, codec.Data, []byte("hello"))
	for range rounds {
		for _, c := range clients {
			write(t, c, hello)
		}
		time.Sleep(peers * each / 2)
	}
	eventually(t, "all is served", func() bool { return messages.Load() == peers*rounds })
	if found := book.of(blockedLoop); len(found) > 0 {
		t.Errorf("%d reports, of a callback that takes %v: %v", len(found), each, found[0].attrs["stack"])
	}
	if n := srv.Stats().Total.Blocked; n > 0 {
		t.Errorf("%d counted", n)
	}
}

// Without BlockedAfter nobody looks.
func TestNobodyWatches(t *testing.T) {
	book, k := new(logBook), new(clockKernel)
	cfg := listenOne(engine.Handler{}, heartbeat.Config{})
	cfg.Loops = 1
	cfg.BlockedAfter = -1
	cfg.Logger = slog.New(book)
	srv, err := engine.ListenOn(k, cfg)
	serving(t, srv, err)
	hold, held := make(chan struct{}), make(chan struct{})
	_ = srv.Loops()[0].Post(func() { close(held); blockHere(hold) })
	<-held
	before := k.looks.Load()
	time.Sleep(100 * time.Millisecond)
	if n := k.looks.Load() - before; n > 0 {
		t.Errorf("%d looks", n)
	}
	close(hold)
	if n := len(book.of(blockedLoop)); n > 0 {
		t.Errorf("%d reports", n)
	}
}
