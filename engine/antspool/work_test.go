package antspool_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/engine/antspool"
)

// pool makes a pool that is closed when the test ends, after its server.
func pool(t *testing.T) *antspool.Pool {
	t.Helper()
	p, err := antspool.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return p
}

// serve runs a server whose work is done on a pool, until the test ends.
func serve(t *testing.T, h engine.Handler, work engine.Work) *engine.Server {
	t.Helper()
	srv, err := engine.Listen(engine.Config{
		Listeners: []engine.Listener{{Addr: "tcp://127.0.0.1:0", Codec: codec.Native{}}},
		Handler:   h,
		Limits:    engine.Limits{Loops: 2, Work: work},
		Logger:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- srv.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, engine.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return srv
}

func dial(t *testing.T, srv *engine.Server) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(srv.Addrs()[0], "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return c.(*net.TCPConn)
}

func frame(t *testing.T, payload []byte) []byte {
	t.Helper()
	native, err := codec.Native{}.Codec()
	if err != nil {
		t.Fatal(err)
	}
	b, err := native.Append(nil, codec.Data, payload)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("in vain: %s", what)
}

// conns returns the server's connections once there are n.
func conns(t *testing.T, srv *engine.Server, n int) (all []*engine.Conn) {
	t.Helper()
	eventually(t, "everybody is connected", func() bool {
		all = all[:0]
		srv.Range(func(c *engine.Conn) bool { all = append(all, c); return true })
		return len(all) == n
	})
	return all
}

// On a pool, an Ordered handler gets each connection's messages in order and one
// at a time, loses none, and gets Close last.
func TestOrderedOnPool(t *testing.T) {
	const peers, messages = 20, 5000
	type life struct {
		next   uint32
		closed bool
	}
	ended := make(chan uint32, peers)
	srv := serve(t, engine.Ordered(engine.Handler{
		Open: func(c *engine.Conn) error { c.Set(new(life)); return nil },
		Message: func(c *engine.Conn, p []byte) {
			l := c.Get().(*life)
			if seq := binary.BigEndian.Uint32(p); seq != l.next || l.closed {
				t.Errorf("message %d, want %d; closed: %v", seq, l.next, l.closed)
			}
			l.next++
		},
		Close: func(c *engine.Conn, _ error) {
			l := c.Get().(*life)
			l.closed = true
			ended <- l.next
		},
	}), engine.Work{Pool: pool(t), Workers: 8, Queue: 64})
	for range peers {
		c := dial(t, srv)
		go func() {
			var b []byte
			for seq := range uint32(messages) {
				b = append(b, frame(t, binary.BigEndian.AppendUint32(nil, seq))...)
			}
			_, _ = c.Write(b)
			_ = c.Close()
		}()
	}
	for range peers {
		select {
		case n := <-ended:
			if n != messages {
				t.Errorf("%d of %d messages before Close", n, messages)
			}
		case <-time.After(time.Minute):
			t.Fatal("a connection did not end")
		}
	}
}

// On a pool, tasks that panic or end their goroutine close their connection, and
// everything else that was taken runs.
func TestFailingTasksOnPool(t *testing.T) {
	const peers, tasks = 20, 50
	closed := make(chan error, peers)
	srv := serve(t, engine.Handler{
		Close: func(_ *engine.Conn, err error) { closed <- err },
	}, engine.Work{Pool: pool(t), Workers: 3})
	for range peers {
		dial(t, srv)
	}
	var ran atomic.Int64
	hold := make(chan struct{})
	for i, c := range conns(t, srv, peers) {
		for task := range tasks {
			if err := c.Do(func() {
				<-hold
				ran.Add(1)
				switch {
				case task != tasks/2:
				case i%2 == 0:
					panic("as the test wants")
				default:
					runtime.Goexit()
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(hold)
	for range peers {
		select {
		case err := <-closed:
			if engine.ReasonOf(err) != engine.Panic {
				t.Error(err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("a failed task did not close its connection")
		}
	}
	eventually(t, "everything has run", func() bool {
		return ran.Load() == peers*tasks && srv.Stats().Work.Active == 0
	})
}

// With everything on the pool blocked the loops serve as before; what waits runs
// in the end, and Shutdown waits for it.
func TestBlockedPool(t *testing.T) {
	const workers, peers, tasks = 4, 12, 5
	srv := serve(t, engine.Handler{
		Message: func(c *engine.Conn, p []byte) { _ = c.Send(p) },
	}, engine.Work{Pool: pool(t), Workers: workers})
	var clients []*net.TCPConn
	for range peers {
		clients = append(clients, dial(t, srv))
	}
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	var ran atomic.Int64
	for _, c := range conns(t, srv, peers) {
		for range tasks {
			if err := c.Do(func() { <-hold; ran.Add(1) }); err != nil {
				t.Fatal(err)
			}
		}
	}
	hello := frame(t, []byte("hello"))
	for _, c := range clients {
		if _, err := c.Write(hello); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, len(hello))); err != nil {
			t.Fatalf("with all workers blocked: %v", err)
		}
	}
	eventually(t, "all workers are blocked", func() bool {
		w := srv.Stats().Work
		return w.Active == workers && w.Queued == peers*tasks-workers
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	down := make(chan error, 1)
	go func() { down <- srv.Shutdown(ctx) }()
	for _, c := range clients {
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	}
	select {
	case err := <-down:
		t.Fatalf("Shutdown did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	release()
	if err := <-down; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if n := ran.Load(); n != peers*tasks {
		t.Errorf("%d of %d tasks had run when Shutdown returned", n, peers*tasks)
	}
}

// A pool that is closed too early is done without.
func TestClosedPool(t *testing.T) {
	p, err := antspool.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	srv := serve(t, engine.Handler{}, engine.Work{Pool: p})
	dial(t, srv)
	done := make(chan struct{})
	if err := conns(t, srv, 1)[0].Do(func() { close(done) }); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Error("the task did not run")
	}
}

// With a handler that takes a millisecond and enough to do, workers on a pool
// spend 95 % of their time in it.
func TestWorkersOnPoolAreBusy(t *testing.T) {
	const workers, peers = 16, 32
	srv := serve(t, engine.Ordered(engine.Handler{
		Message: func(*engine.Conn, []byte) { time.Sleep(time.Millisecond) },
	}), engine.Work{Pool: pool(t), Workers: workers, Queue: 64})
	var input []byte
	for range 200 {
		input = append(input, frame(t, []byte("work"))...)
	}
	var writing sync.WaitGroup
	defer writing.Wait()
	for range peers {
		c := dial(t, srv)
		defer c.Close()
		writing.Go(func() {
			for {
				if _, err := c.Write(input); err != nil {
					return // closed above
				}
			}
		})
	}
	eventually(t, "there is enough to do", func() bool {
		w := srv.Stats().Work
		return w.Active == workers && w.Queued > peers*64/2
	})
	best := 0.0
	for range 10 { // the machine may have other things to do
		began, before := time.Now(), srv.Stats().Work.Busy
		time.Sleep(time.Second)
		best = max(best, float64(srv.Stats().Work.Busy-before)/float64(workers*time.Since(began)))
		if best >= 0.95 {
			t.Logf("busy for %.1f %% of the time", 100*best)
			return
		}
	}
	t.Errorf("workers were busy for %.1f %% of the time at best, want 95 %%", 100*best)
}
