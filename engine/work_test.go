package engine_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"reflect"
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

// within waits for a channel to be closed or to bring something.
func within[T any](t testing.TB, what string, ch <-chan T) (x T) {
	t.Helper()
	select {
	case x = <-ch:
	case <-time.After(30 * time.Second):
		t.Fatalf("in vain: %s", what)
	}
	return x
}

// connOf finds the server's end of a peer's connection.
func connOf(t testing.TB, srv *engine.Server, peer net.Conn) (found *engine.Conn) {
	t.Helper()
	eventually(t, "the connection is open", func() bool {
		srv.Range(func(c *engine.Conn) bool {
			if c.RemoteAddr().String() == peer.LocalAddr().String() {
				found = c
			}
			return found == nil
		})
		return found != nil
	})
	// Its Open has run, too.
	opened := make(chan struct{})
	if err := found.Loop().Post(func() { close(opened) }); err != nil {
		t.Fatal(err)
	}
	within(t, "the loop", opened)
	return found
}

// do gives a connection a task that must be taken.
func do(t testing.TB, c *engine.Conn, task func()) {
	t.Helper()
	if err := c.Do(task); err != nil {
		t.Fatalf("Do: %v", err)
	}
}

// orderOfTasks checks the order in which one connection's tasks run. Its fields
// are plain: the race detector tells if two tasks run at a time.
type orderOfTasks struct {
	last [2]int // of each source of tasks
	ran  int
}

func (o *orderOfTasks) note(t *testing.T, source, seq int) {
	if o.last[source]++; seq != o.last[source] {
		t.Errorf("source %d: task %d ran as its %dth", source, seq, o.last[source])
		o.last[source] = seq
	}
	o.ran++
}

// A million tasks of a hundred connections, given from callbacks and from other
// goroutines: each connection's run one at a time, and those of each source in
// its order, however often the queue was full.
func TestDoKeepsOrder(t *testing.T) {
	const connections, each = 100, 5000 // of each of two sources
	type app struct {
		order     orderOfTasks
		given     int // by the callbacks
		pending   int
		waits     bool // to try again
		exhausted chan struct{}
	}
	var refused atomic.Int64
	var pump func(c *engine.Conn)
	pump = func(c *engine.Conn) {
		a := c.Get().(*app)
		for a.pending > 0 && !a.waits {
			seq := a.given + 1
			err := c.Do(func() { a.order.note(t, 0, seq) })
			if errors.Is(err, engine.ErrBusy) {
				refused.Add(1)
				a.waits = true
				c.Loop().AfterFunc(time.Millisecond, func() {
					_ = c.Post(func() { a.waits = false; pump(c) })
				})
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			a.pending--
			if a.given = seq; seq == each {
				close(a.exhausted)
			}
		}
	}
	opened := new(conns)
	cfg := listenOne(engine.Handler{
		Open: func(c *engine.Conn) error {
			c.Set(&app{exhausted: make(chan struct{})})
			return opened.open(c)
		},
		Message: func(c *engine.Conn, _ []byte) {
			c.Get().(*app).pending++
			pump(c)
		},
	}, heartbeat.Config{})
	cfg.Loops = 2
	cfg.Tick = time.Millisecond // in which callbacks try again
	cfg.Work.Queue = 64
	srv := serve(t, cfg)
	all := make([]byte, 0, each*4)
	for range each {
		all = append(all, frame(t, codec.Data, nil)...)
	}
	var sources sync.WaitGroup
	for range connections {
		c := rawDial(t, srv)
		sources.Go(func() {
			if _, err := c.Write(all); err != nil {
				t.Error(err)
			}
		})
	}
	connected := opened.wait(t, connections)
	for _, c := range connected {
		a := c.Get().(*app)
		sources.Go(func() {
			for seq := 1; seq <= each; seq++ {
				task := func() { a.order.note(t, 1, seq) }
				err := c.Do(task)
				for ; errors.Is(err, engine.ErrBusy); err = c.Do(task) {
					refused.Add(1)
					time.Sleep(100 * time.Microsecond)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	sources.Wait()
	for _, c := range connected {
		within(t, "the callbacks have given all their tasks", c.Get().(*app).exhausted)
	}
	var ended sync.WaitGroup
	for _, c := range connected {
		ended.Add(1)
		task := ended.Done
		err := c.Do(task)
		for ; errors.Is(err, engine.ErrBusy); err = c.Do(task) {
			refused.Add(1)
			time.Sleep(time.Millisecond)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ended.Wait()
	for _, c := range connected {
		if n := c.Get().(*app).order.ran; n != 2*each {
			t.Errorf("%d of %d tasks ran", n, 2*each)
		}
	}
	eventually(t, "no worker is left", func() bool { return srv.Stats().Work.Active == 0 })
	w := srv.Stats().Work
	if want := uint64(connections * (2*each + 1)); w.Done != want || w.Queued != 0 {
		t.Errorf("%d tasks done and %d queued, want %d and none", w.Done, w.Queued, want)
	}
	if w.Refused != uint64(refused.Load()) {
		t.Errorf("%d refusals counted, and %d were given", w.Refused, refused.Load())
	}
}

// With a handler that takes a millisecond and enough to do, workers spend 95 %
// of their time in it.
func TestWorkersAreBusy(t *testing.T) {
	const workers, connections = 16, 32
	cfg := listenOne(engine.Ordered(engine.Handler{
		Message: func(*engine.Conn, []byte) { time.Sleep(time.Millisecond) },
	}), heartbeat.Config{})
	cfg.Work.Workers = workers
	cfg.Work.Queue = 64
	srv := serve(t, cfg)
	var input []byte
	for range 200 {
		input = append(input, frame(t, codec.Data, []byte("work"))...)
	}
	var peers sync.WaitGroup
	var all []net.Conn
	for range connections {
		c := rawDial(t, srv)
		all = append(all, c)
		peers.Go(func() {
			for {
				if _, err := c.Write(input); err != nil {
					return // closed below
				}
			}
		})
	}
	defer peers.Wait()
	defer func() {
		for _, c := range all {
			_ = c.Close()
		}
	}()
	eventually(t, "there is enough to do", func() bool {
		w := srv.Stats().Work
		return w.Active == workers && w.Queued > connections*64/2
	})
	best := 0.0
	for range 10 { // the machine may have other things to do
		began := time.Now()
		before := srv.Stats().Work
		time.Sleep(time.Second)
		after := srv.Stats().Work
		busy := float64(after.Busy-before.Busy) / float64(workers*time.Since(began))
		best = max(best, busy)
		tasks := after.Done - before.Done
		t.Logf("busy for %.1f %% of a second: %d tasks of %v", 100*busy, tasks, (after.Busy-before.Busy)/time.Duration(max(tasks, 1)))
		if busy > 1.5 { // what was begun before the second counts, too
			t.Errorf("workers were busy for %.1f %% of the time", 100*busy)
		}
		if atLeast := time.Duration(tasks) * time.Millisecond; after.Busy-before.Busy < atLeast {
			t.Errorf("busy for %v with tasks of %v", after.Busy-before.Busy, atLeast)
		}
		if best >= 0.95 {
			return
		}
	}
	t.Errorf("workers were busy for %.1f %% of the time at best, want 95 %%", 100*best)
}

// A connection with thousands of tasks keeps another one's single task waiting
// for a turn and not for all of them, be they short or long. There is one worker.
func TestWorkIsFair(t *testing.T) {
	for name, test := range map[string]struct {
		queued int
		task   func()
	}{
		"short": {5000, func() {}},
		"long":  {200, func() { time.Sleep(2 * time.Millisecond) }},
	} {
		t.Run(name, func(t *testing.T) {
			const others, at = 5, 50
			queued := test.queued
			opened := new(conns)
			cfg := listenOne(engine.Handler{Open: opened.open}, heartbeat.Config{})
			cfg.Work.Workers = 1
			cfg.Work.Queue = queued
			srv := serve(t, cfg)
			for range 1 + others {
				_ = rawDial(t, srv)
			}
			all := opened.wait(t, 1+others)
			hold, done := make(chan struct{}), make(chan struct{})
			do(t, all[0], func() { <-hold })
			eventually(t, "the worker waits", func() bool { return srv.Stats().Work.Queued == 0 })
			ran := 0 // by the one worker only
			waited := make([]int, 0, others)
			for i := range queued {
				do(t, all[0], func() {
					test.task()
					if ran++; i == at {
						for _, other := range all[1:] {
							do(t, other, func() { waited = append(waited, ran-at-1) })
						}
					}
					if i == queued-1 {
						close(done)
					}
				})
			}
			close(hold)
			within(t, "all tasks have run", done)
			if len(waited) != others {
				t.Fatalf("%d of %d others had their turn before the end", len(waited), others)
			}
			for i, n := range waited {
				if n > 50 {
					t.Errorf("connection %d had to wait for %d tasks of another one", i, n)
				}
				if name == "long" && n > 5 { // a turn is 1 ms, and the task in which that passes
					t.Errorf("connection %d had to wait for %d long tasks of another one", i, n)
				}
			}
		})
	}
}

// A queue at its limit refuses, from wherever Do is called, and what was taken
// runs. Its connection and others are served meanwhile.
func TestBusyQueue(t *testing.T) {
	const limit = 8
	var ran atomic.Int64
	count := func() { ran.Add(1) }
	opened := new(conns)
	inCallback := make(chan error, 1)
	cfg := listenOne(engine.Handler{
		Open: opened.open,
		Message: func(c *engine.Conn, p []byte) {
			if string(p) == "do" {
				inCallback <- c.Do(count)
			}
			_ = c.Send(p)
		},
	}, heartbeat.Config{})
	cfg.Loops = 1
	cfg.Work.Queue = limit
	srv := serve(t, cfg)
	peer, other := rawDial(t, srv), rawDial(t, srv)
	c := connOf(t, srv, peer)
	hold := make(chan struct{})
	do(t, c, func() { <-hold })
	eventually(t, "the task runs", func() bool { return srv.Stats().Work.Queued == 0 })
	for range limit {
		do(t, c, count)
	}
	for range 3 {
		if err := c.Do(count); !errors.Is(err, engine.ErrBusy) {
			t.Errorf("Do with a full queue: %v", err)
		}
	}
	write(t, peer, frame(t, codec.Data, []byte("do")))
	if err := within(t, "the callback", inCallback); !errors.Is(err, engine.ErrBusy) {
		t.Errorf("Do in a callback with a full queue: %v", err)
	}
	expect(t, peer, frame(t, codec.Data, []byte("do")))
	hello := frame(t, codec.Data, []byte("hello"))
	for _, p := range []net.Conn{peer, other, peer, other} {
		write(t, p, hello)
		expect(t, p, hello)
	}
	done := make(chan struct{})
	do(t, connOf(t, srv, other), func() { close(done) })
	within(t, "another connection's task", done)
	if n := ran.Load(); n != 0 {
		t.Errorf("%d tasks ran behind one that has not ended", n)
	}
	close(hold)
	eventually(t, "all that was taken has run", func() bool { return srv.Stats().Work.Done == 1+limit+1 })
	if n := ran.Load(); n != limit {
		t.Errorf("%d tasks ran, and %d were taken", n, limit)
	}
	if n := srv.Stats().Work.Refused; n != 4 {
		t.Errorf("%d refusals, want 4", n)
	}
	do(t, c, count) // there is room again
}

// stream is what a peer writes in the tests below: numbered messages of a size,
// of which each byte depends on its place.
func streamMessage(t testing.TB, seq, size int) []byte {
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(i*7 + seq)
	}
	binary.BigEndian.PutUint32(p, uint32(seq))
	return frame(t, codec.Data, p)
}

func checkStreamMessage(p []byte, seq, size int) error {
	if len(p) != size || int(binary.BigEndian.Uint32(p)) != seq {
		return fmt.Errorf("message %d of %d bytes, want %d of %d", binary.BigEndian.Uint32(p), len(p), seq, size)
	}
	for i := 4; i < size; i++ {
		if p[i] != byte(i*7+seq) {
			return fmt.Errorf("byte %d of message %d differs", i, seq)
		}
	}
	return nil
}

// Ordered stops reading above Queue messages, and above Bytes; the peer has to
// wait, nothing spins, and our memory is bounded. Then reading goes on, and of
// 8 MB not a byte is lost.
func TestOrderedPausesReading(t *testing.T) {
	const total = 8 << 20
	for name, test := range map[string]struct{ size, queue, bytes, waiting int }{
		"queue":       {1 << 10, 16, 1 << 30, 16},
		"bytes":       {4 << 10, 1 << 20, 64 << 10, 16},
		"one message": {256 << 10, 1 << 20, 1, 1},
		"queue of 1":  {4 << 10, 1, 1 << 30, 1},
	} {
		t.Run(name, func(t *testing.T) {
			messages := total / test.size
			hold, got := make(chan struct{}), 0
			end := make(chan error, 1)
			var srv *engine.Server
			var most atomic.Int64
			k := engine.NewCountingKernel()
			cfg := listenOne(engine.Ordered(engine.Handler{
				Message: func(c *engine.Conn, p []byte) {
					if got == 0 {
						<-hold
					}
					if err := checkStreamMessage(p, got, test.size); err != nil {
						t.Error(err)
					}
					if got++; got%(messages/64+1) == 0 {
						time.Sleep(2 * time.Millisecond) // now and then the queue fills up
					}
					most.Store(max(most.Load(), int64(srv.Stats().Work.Queued)))
				},
				Close: func(_ *engine.Conn, err error) { end <- err },
			}), heartbeat.Config{})
			cfg.Work.Queue, cfg.Work.Bytes = test.queue, test.bytes
			cfg.ReceiveBuffer = readBuffer
			ready := make(chan struct{})
			cfg.Handler.Open = func(*engine.Conn) error { <-ready; return nil }
			srv = serveOn(t, k, cfg)
			close(ready)
			peer := rawDial(t, srv)
			_ = peer.SetWriteBuffer(readBuffer)
			written := make(chan error, 1)
			go func() {
				for seq := range messages {
					if _, err := peer.Write(streamMessage(t, seq, test.size)); err != nil {
						written <- err
						return
					}
				}
				written <- peer.CloseWrite()
			}()
			eventually(t, "reading is paused, and nothing spins", func() bool {
				before := k.Reads.Load()
				time.Sleep(100 * time.Millisecond)
				return srv.Stats().Total.Pauses > 0 && k.Reads.Load() == before
			})
			in := srv.Stats().Total.BytesIn
			if n := srv.Stats().Total.MessagesIn; n != uint64(1+test.waiting) && n != uint64(test.waiting) {
				t.Errorf("%d messages taken before the pause, want %d", n, 1+test.waiting)
			}
			// Beyond what waits, our own buffers.
			if limit := uint64((2+test.waiting)*(test.size+4) + 256<<10); in > limit {
				t.Errorf("%d bytes read before the pause, want at most %d", in, limit)
			}
			select {
			case err := <-written:
				t.Fatalf("the peer did not have to wait: %v", err)
			default:
			}
			close(hold)
			if err := within(t, "the peer has written all", written); err != nil {
				t.Fatal(err)
			}
			var ce *engine.CloseError
			if err := within(t, "Close", end); !errors.As(err, &ce) || ce.Reason != engine.PeerClosed || ce.Err != nil {
				t.Errorf("closed with %v", err)
			}
			if got != messages {
				t.Errorf("%d of %d messages were handled", got, messages)
			}
			if n := most.Load(); n > int64(test.waiting+2) { // Close, and one that a worker is about to take
				t.Errorf("%d tasks waited, want at most %d", n, test.waiting)
			}
			if w := srv.Stats().Work; w.Queued != 0 || w.Refused != 0 {
				t.Errorf("at the end: %+v", w)
			}
		})
	}
}

// A queue that stays full for MaxPause ends its connection with Overloaded. What
// was taken is still handled, and then Close.
func TestQueueFullForTooLong(t *testing.T) {
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	var got atomic.Int64
	end := make(chan error, 1)
	cfg := listenOne(engine.Ordered(engine.Handler{
		Message: func(*engine.Conn, []byte) { <-hold; got.Add(1) },
		Close:   func(_ *engine.Conn, err error) { end <- err },
	}), heartbeat.Config{})
	cfg.Work.Queue = 4
	cfg.MaxPause = 300 * time.Millisecond
	srv := serve(t, cfg)
	peer := rawDial(t, srv)
	began := time.Now()
	for range 20 {
		write(t, peer, frame(t, codec.Data, []byte("work")))
	}
	_, _ = io.Copy(io.Discard, peer) // until it is ended
	if took := time.Since(began); took < cfg.MaxPause {
		t.Errorf("ended after %v", took)
	}
	select {
	case err := <-end:
		t.Fatalf("Close ran before what had been taken: %v", err)
	default:
	}
	taken := srv.Stats().Total.MessagesIn
	release()
	if err := within(t, "Close", end); engine.ReasonOf(err) != engine.Overloaded || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("closed with %v", err)
	}
	if n := got.Load(); n != int64(taken) || n > int64(cfg.Work.Queue)+1 {
		t.Errorf("%d of %d messages were handled", n, taken)
	}
}

// A pause that a worker lifts while the loop is still at the event that caused it
// strands no frame: rounds of a few frames are answered, however short the pause.
func TestPauseLiftedAtOnce(t *testing.T) {
	for name, test := range map[string]struct{ rounds, size int }{
		"read together":    {2000, 1},
		"one frame a read": {300, 64<<10 - 4}, // which leaves nothing in our buffer
	} {
		t.Run(name, func(t *testing.T) {
			const frames = 4
			cfg := listenOne(engine.Ordered(engine.Handler{
				Message: func(c *engine.Conn, p []byte) { _ = c.Send(p[:1]) },
			}), heartbeat.Config{})
			cfg.Work.Queue = 1
			srv := serve(t, cfg)
			var b, want []byte
			for i := range frames {
				b = append(b, frame(t, codec.Data, bytes.Repeat([]byte{byte(i)}, test.size))...)
				want = append(want, frame(t, codec.Data, []byte{byte(i)})...)
			}
			var peers sync.WaitGroup
			for range 4 {
				peer := rawDial(t, srv)
				peers.Go(func() {
					answer := make([]byte, len(want))
					for round := range test.rounds {
						_ = peer.SetDeadline(time.Now().Add(20 * time.Second))
						if _, err := peer.Write(b); err != nil {
							t.Error(err)
							return
						}
						if n, err := io.ReadFull(peer, answer); err != nil || !bytes.Equal(answer, want) {
							t.Errorf("round %d: %d of %d bytes are answered: %v", round, n, len(want), err)
							return
						}
					}
				})
			}
			peers.Wait()
		})
	}
}

// The same when the peer's end of stream is right behind the frames, which are
// large enough for it to take a moment to put aside what a pause leaves of them.
func TestPauseLiftedAtEndOfStream(t *testing.T) {
	const rounds, frames, size = 300, 30, 1000
	ended := make(chan error, 4*rounds)
	cfg := listenOne(engine.Ordered(engine.Handler{
		Message: func(c *engine.Conn, p []byte) { _ = c.Send(p[:1]) },
		Close:   func(_ *engine.Conn, err error) { ended <- err },
	}), heartbeat.Config{})
	cfg.Work.Queue = 1
	srv := serve(t, cfg)
	var b, want []byte
	for i := range frames {
		b = append(b, frame(t, codec.Data, bytes.Repeat([]byte{byte(i)}, size))...)
		want = append(want, frame(t, codec.Data, []byte{byte(i)})...)
	}
	var peers sync.WaitGroup
	for range 4 {
		peers.Go(func() {
			for range rounds {
				peer, err := net.Dial("tcp", srv.Addrs()[0][len("tcp://"):])
				if err != nil {
					t.Error(err)
					return
				}
				_ = peer.SetDeadline(time.Now().Add(20 * time.Second))
				_, _ = peer.Write(b)
				_ = peer.(*net.TCPConn).CloseWrite()
				answer, err := io.ReadAll(peer)
				_ = peer.Close()
				if err != nil || !bytes.Equal(answer, want) {
					t.Errorf("%d of %d bytes are answered: %v", len(answer), len(want), err)
					return
				}
			}
		})
	}
	peers.Wait()
	for range 4 * rounds {
		if t.Failed() {
			break
		}
		if err := within(t, "Close", ended); errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	}
}

// All callbacks of an Ordered handler but Open run on workers, in the order of
// the stream and one at a time, and may block without holding up the loop.
func TestOrderedCallbacks(t *testing.T) {
	var loop atomic.Bool // held while the loop can serve nobody
	var mu sync.Mutex
	var calls []string
	note := func(what string, args ...any) {
		time.Sleep(time.Millisecond) // it blocks
		if loop.Load() {
			t.Errorf("%s ran on the loop", what)
		}
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, fmt.Sprintf(what, args...))
	}
	end := make(chan struct{})
	cfg := listenOne(engine.Ordered(engine.Handler{
		Open: func(c *engine.Conn) error {
			c.Set(new(int))
			return nil
		},
		Message: func(c *engine.Conn, p []byte) {
			note("message %s", p)
			if string(p) == "fill" {
				for c.Send(make([]byte, 32<<10)) == nil {
				}
			}
		},
		Frame:    func(_ *engine.Conn, f codec.Frame) { note("frame %d %s", f.Kind-codec.AppKind, f.Payload) },
		Writable: func(*engine.Conn) { note("writable") },
		EOF:      func(c *engine.Conn) { note("eof"); _ = c.Send([]byte("bye")); _ = c.Close() },
		Close: func(_ *engine.Conn, err error) {
			note("close %v", engine.ReasonOf(err))
			close(end)
		},
	}), heartbeat.Config{})
	cfg.Loops = 1
	cfg.Backlog.High = 1 << 20
	srv := serve(t, cfg)
	peer := rawDial(t, srv)
	want := []string{}
	for i := range 50 {
		write(t, peer, frame(t, codec.Data, fmt.Append(nil, i)))
		write(t, peer, frame(t, codec.AppKind+codec.Kind(i), fmt.Append(nil, "f", i)))
		want = append(want, fmt.Sprint("message ", i), fmt.Sprint("frame ", i, " f", i))
	}
	write(t, peer, frame(t, codec.Data, []byte("fill")))
	want = append(want, "message fill", "writable", "eof", "close PeerClosed")
	eventually(t, "the backlog is full", func() bool { return srv.Stats().Held > 0 })
	held := make(chan struct{})
	_ = srv.Loops()[0].Post(func() {
		loop.Store(true)
		time.Sleep(time.Millisecond)
		loop.Store(false)
		close(held)
	})
	within(t, "the loop", held)
	// Read to the end, which follows ours once Writable has run.
	var rest []byte
	var err error
	read := make(chan struct{})
	go func() {
		defer close(read)
		rest, err = io.ReadAll(peer)
	}()
	eventually(t, "Writable runs", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return calls[len(calls)-1] == "writable"
	})
	_ = peer.CloseWrite()
	within(t, "the end", read)
	if err != nil || !strings.HasSuffix(string(rest), string(frame(t, codec.Data, []byte("bye")))) {
		t.Errorf("the answer to the end of stream did not arrive: %v", err)
	}
	within(t, "Close", end)
	if got := strings.Join(calls, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("calls:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
}

// A panic or a Goexit in a task closes its connection. What else was taken runs,
// its own and others', and no worker is lost.
func TestFailingTasks(t *testing.T) {
	const victims, tasks = 20, 30
	for way, fail := range map[string]func(){
		"panic":  func() { panic("as the test wants") },
		"goexit": runtime.Goexit,
	} {
		t.Run(way, func(t *testing.T) {
			opened, cs, book := new(conns), newCloses(), new(logBook)
			cfg := listenOne(engine.Handler{Open: opened.open, Message: echo, Close: cs.note}, heartbeat.Config{})
			cfg.Work.Workers = 2 // fewer than failures
			cfg.Logger = slog.New(book)
			srv := serve(t, cfg)
			bystander := rawDial(t, srv)
			spared := connOf(t, srv, bystander)
			for range victims {
				_ = rawDial(t, srv)
			}
			all := opened.wait(t, victims+1)
			hold := make(chan struct{})
			for range cfg.Work.Workers { // so that everything is taken before anything runs
				c := rawDial(t, srv)
				do(t, connOf(t, srv, c), func() { <-hold })
			}
			var ran atomic.Int64
			count := func() { ran.Add(1) }
			for _, c := range all {
				for i := range tasks {
					switch {
					case i == tasks/2 && c != spared:
						do(t, c, func() { count(); fail() })
					default:
						do(t, c, count)
					}
				}
			}
			close(hold)
			for range victims {
				ce := cs.reason(t, engine.Panic)
				if way == "panic" && !strings.Contains(ce.Error(), "as the test wants") {
					t.Errorf("the error does not say why: %v", ce)
				}
			}
			taken := int64(victims+1) * tasks
			eventually(t, "all that was taken has run", func() bool { return ran.Load() == taken })
			eventually(t, "all workers are done", func() bool {
				w := srv.Stats().Work
				return w.Active == 0 && w.Queued == 0
			})
			if n := srv.Stats().Work.Done; n != uint64(taken)+uint64(cfg.Work.Workers) {
				t.Errorf("%d tasks counted as done, want %d", n, taken+int64(cfg.Work.Workers))
			}
			if n := srv.Stats().Total.Panics; n != victims {
				t.Errorf("%d failures counted, want %d", n, victims)
			}
			for _, e := range book.of("a task failed") {
				if !strings.Contains(e.attrs["stack"].String(), "TestFailingTasks") {
					t.Errorf("the stack does not show where: %v", e.attrs["stack"])
				}
			}
			if n := len(book.of("a task failed")); n != victims {
				t.Errorf("%d failures logged, want %d", n, victims)
			}
			hello := frame(t, codec.Data, []byte("hello"))
			write(t, bystander, hello)
			expect(t, bystander, hello)
			// Both workers are there still.
			var both sync.WaitGroup
			both.Add(2)
			for _, c := range []*engine.Conn{spared, connOf(t, srv, rawDial(t, srv))} {
				do(t, c, func() { both.Done(); both.Wait() })
			}
			both.Wait()
			cs.none(t, 10*time.Millisecond)
		})
	}
}

// In an Ordered handler, a failing callback closes its connection, and Close
// still runs last; a Close that fails harms nobody.
func TestFailingOrderedCallbacks(t *testing.T) {
	for way, fail := range map[string]func(){
		"panic":  func() { panic("as the test wants") },
		"goexit": runtime.Goexit,
	} {
		t.Run(way, func(t *testing.T) {
			cs := newCloses()
			cfg := listenOne(engine.Ordered(engine.Handler{
				Message: func(c *engine.Conn, p []byte) {
					if string(p) == "fail" {
						fail()
					}
					_ = c.Send(p)
				},
				Close: func(c *engine.Conn, err error) { cs.note(c, err); fail() },
			}), heartbeat.Config{})
			cfg.Work.Workers = 1
			srv := serve(t, cfg)
			bystander := rawDial(t, srv)
			hello := frame(t, codec.Data, []byte("hello"))
			for range 10 {
				c := rawDial(t, srv)
				write(t, c, append(frame(t, codec.Data, []byte("fail")), hello...))
				cs.reason(t, engine.Panic)
				write(t, bystander, hello)
				expect(t, bystander, hello)
			}
			eventually(t, "all failures are counted", func() bool { return srv.Stats().Total.Panics == 20 })
			_ = bystander.Close()
			cs.reason(t, engine.PeerClosed)
			cs.none(t, 10*time.Millisecond)
		})
	}
}

// neverReturns is what the stack of a stuck task must name.
func neverReturns(hold <-chan struct{}) { <-hold }

// A task that does not end is counted as stuck, and logged once, with its
// connection and a stack that names it; in a program with many goroutines, too.
func TestStuckTask(t *testing.T) {
	for _, crowd := range []int{0, 6000} {
		t.Run(fmt.Sprintf("%d goroutines", crowd), func(t *testing.T) {
			hold := make(chan struct{})
			var others sync.WaitGroup
			for range crowd {
				others.Go(func() { <-hold })
			}
			defer others.Wait()
			release := sync.OnceFunc(func() { close(hold) })
			defer release()
			book, opened := new(logBook), new(conns)
			cfg := listenOne(engine.Handler{Open: opened.open, Message: echo}, heartbeat.Config{})
			cfg.Work.Stuck = 50 * time.Millisecond
			cfg.BlockedAfter = 20 * time.Millisecond
			cfg.Logger = slog.New(book)
			srv := serve(t, cfg)
			peer := rawDial(t, srv)
			_ = rawDial(t, srv)
			c := connOf(t, srv, peer)
			other := opened.wait(t, 2)[0]
			if other == c {
				other = opened.wait(t, 2)[1]
			}
			do(t, c, func() { neverReturns(hold) })
			eventually(t, "the task is counted", func() bool { return srv.Stats().Work.Stuck == 1 })
			eventually(t, "the task is logged", func() bool { return len(book.of(stuckTask)) > 0 })
			for range 20 { // others' tasks come and go
				done := make(chan struct{})
				do(t, other, func() { close(done) })
				within(t, "another task", done)
				time.Sleep(10 * time.Millisecond)
			}
			logged := book.of(stuckTask)
			if len(logged) != 1 {
				t.Errorf("logged %d times", len(logged))
			}
			e := logged[0].attrs
			if id := e["conn"].Uint64(); id != uint64(c.ID()) {
				t.Errorf("connection %#x is named, and it is %#x", id, c.ID())
			}
			if e["for"].Duration() < cfg.Work.Stuck {
				t.Errorf("stuck for %v", e["for"].Duration())
			}
			if !strings.Contains(e["stack"].String(), "neverReturns") {
				t.Errorf("the stack does not name the task: %q", e["stack"])
			}
			release()
			eventually(t, "it is stuck no more", func() bool { return srv.Stats().Work.Stuck == 0 })
			eventually(t, "21 tasks are done", func() bool { return srv.Stats().Work.Done == 21 })
			// The next one is another one.
			again := make(chan struct{})
			do(t, c, func() { neverReturns(again) })
			eventually(t, "the next one is logged", func() bool { return len(book.of(stuckTask)) == 2 })
			close(again)
		})
	}
}

// With every worker blocked, loops serve as before, and what waits runs once one
// is free.
func TestAllWorkersBlocked(t *testing.T) {
	const workers, waiting, tasks = 4, 10, 5
	opened := new(conns)
	cfg := listenOne(engine.Handler{Open: opened.open, Message: echo}, heartbeat.Config{})
	cfg.Loops = 1
	cfg.Work.Workers = workers
	srv := serve(t, cfg)
	var peers []net.Conn
	for range workers + waiting {
		peers = append(peers, rawDial(t, srv))
	}
	all := opened.wait(t, workers+waiting)
	hold := make(chan struct{})
	for _, c := range all[:workers] {
		do(t, c, func() { <-hold })
	}
	eventually(t, "all workers are blocked", func() bool { return srv.Stats().Work.Queued == 0 })
	var ran atomic.Int64
	for range tasks {
		for _, c := range all {
			do(t, c, func() { ran.Add(1) })
		}
	}
	hello := frame(t, codec.Data, []byte("hello"))
	for range 3 {
		for _, p := range peers {
			write(t, p, hello)
			expect(t, p, hello)
		}
	}
	newcomer := rawDial(t, srv)
	write(t, newcomer, hello)
	expect(t, newcomer, hello)
	if w := srv.Stats().Work; ran.Load() != 0 || w.Active != workers || w.Queued != tasks*len(all) {
		t.Errorf("%d tasks ran meanwhile: %+v", ran.Load(), w)
	}
	close(hold)
	eventually(t, "all tasks have run", func() bool { return ran.Load() == int64(tasks*len(all)) })
}

// Ordered's Close runs exactly once and last, after every message that was
// received, however the connection ends.
func TestOrderedCloseIsLast(t *testing.T) {
	const rounds, messages = 20, 40
	ways := []string{"fin", "reset", "close", "abort", "panic", "goexit"}
	type life struct {
		way      string
		got      int
		closed   int
		received atomic.Int64 // by the loop
	}
	ended := make(chan *life, 1000)
	ordered := engine.Ordered(engine.Handler{
		Message: func(c *engine.Conn, p []byte) {
			l := c.Get().(*life)
			l.way = ways[p[1]]
			if l.got == 0 {
				time.Sleep(2 * time.Millisecond) // the end comes while there is work
			}
			if l.closed > 0 {
				t.Errorf("%s: a message after Close", l.way)
			}
			if int(p[0]) != l.got {
				t.Errorf("%s: message %d, want %d", l.way, p[0], l.got)
			}
			l.got++
		},
		Close: func(c *engine.Conn, err error) {
			l := c.Get().(*life)
			if err == nil {
				t.Error("Close got no error")
			}
			if l.closed++; l.closed == 1 {
				ended <- l
			}
		},
	})
	// What Ordered makes of the handler, and a look at what it is given.
	h := ordered
	h.Open = func(c *engine.Conn) error { c.Set(new(life)); return nil }
	h.Message = func(c *engine.Conn, p []byte) {
		l := c.Get().(*life)
		l.received.Add(1)
		way := ways[p[1]]
		ordered.Message(c, p)
		clear(p) // the payload was copied
		if l.received.Load() == messages {
			switch way {
			case "close":
				_ = c.Close()
			case "abort":
				_ = c.Abort()
			case "panic":
				panic("as the test wants")
			case "goexit":
				runtime.Goexit()
			}
		}
	}
	cfg := listenOne(h, heartbeat.Config{})
	cfg.Loops = 2
	cfg.Work.Queue = 8
	srv := serve(t, cfg)
	for range rounds {
		for i, way := range ways {
			var all []byte
			for seq := range messages {
				all = append(all, frame(t, codec.Data, []byte{byte(seq), byte(i)})...)
			}
			peer := rawDial(t, srv)
			write(t, peer, all)
			switch way {
			case "fin":
				_ = peer.Close()
			case "reset":
				_ = peer.SetLinger(0)
				_ = peer.Close()
			case "close":
				go func() { _, _ = io.Copy(io.Discard, peer); _ = peer.Close() }()
			}
		}
	}
	for range rounds * len(ways) {
		l := within(t, "Close", ended)
		if n := int(l.received.Load()); l.got != n || n != messages {
			t.Errorf("%s: %d messages received, %d handled before Close, want %d", l.way, n, l.got, messages)
		}
	}
	eventually(t, "all is done", func() bool { return srv.Stats().Work.Active == 0 })
	if n := srv.Stats().Work.Done; n != uint64(rounds*len(ways)*(messages+1)) {
		t.Errorf("%d tasks done, want %d", n, rounds*len(ways)*(messages+1))
	}
}

// No task runs after an Ordered Close, whoever gives tasks while the connection
// ends; and what was taken runs.
func TestDoWhileClosing(t *testing.T) {
	const rounds = 300
	type life struct {
		ran, late, closed atomic.Int64
	}
	ended := make(chan *life, rounds)
	cfg := listenOne(engine.Ordered(engine.Handler{
		Open: func(c *engine.Conn) error { c.Set(new(life)); return nil },
		Close: func(c *engine.Conn, _ error) {
			l := c.Get().(*life)
			l.closed.Add(1)
			ended <- l
		},
	}), heartbeat.Config{})
	cfg.Loops = 1
	srv := serve(t, cfg)
	var taken atomic.Int64
	late := int64(0)
	for range rounds {
		peer := rawDial(t, srv)
		c := connOf(t, srv, peer)
		l := c.Get().(*life)
		var givers sync.WaitGroup
		for range 16 {
			givers.Go(func() {
				for {
					switch err := c.Do(func() {
						l.ran.Add(1)
						if l.closed.Load() > 0 {
							l.late.Add(1)
						}
					}); {
					case err == nil:
						taken.Add(1)
					case errors.Is(err, engine.ErrBusy):
						runtime.Gosched()
					default:
						return
					}
				}
			})
		}
		_ = peer.SetLinger(0)
		_ = peer.Close()
		givers.Wait()
		within(t, "Close", ended)
		eventually(t, "all tasks are done", func() bool { return srv.Stats().Work.Active == 0 })
		late += l.late.Load()
		if n := l.closed.Load(); n != 1 {
			t.Fatalf("Close ran %d times", n)
		}
	}
	if late > 0 {
		t.Errorf("%d tasks ran after Close", late)
	}
	if n := srv.Stats().Work.Done; n != uint64(taken.Load())+rounds {
		t.Errorf("%d tasks done, and %d were taken", n, taken.Load()+rounds)
	}
}

// Once Close has been called nothing is taken.
func TestDoAfterClose(t *testing.T) {
	inClose := make(chan error, 1)
	opened := new(conns)
	task := func() { t.Error("a task ran after Close") }
	srv := serve(t, listenOne(engine.Handler{
		Open:  opened.open,
		Close: func(c *engine.Conn, _ error) { inClose <- c.Do(task) },
	}, heartbeat.Config{}))
	_ = rawDial(t, srv).Close()
	if err := within(t, "Close", inClose); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("Do in Close: %v", err)
	}
	if err := opened.wait(t, 1)[0].Do(task); !errors.Is(err, engine.ErrClosed) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("Do after Close: %v", err)
	}
	if w := srv.Stats().Work; w.Done != 0 || w.Queued != 0 || w.Refused != 0 {
		t.Errorf("%+v", w)
	}
}

// A connection whose peer has ended its stream stays open until its tasks are
// done, so that their answers arrive, and then ends by itself.
func TestTasksAfterEndOfStream(t *testing.T) {
	const tasks = 10
	cs := newCloses()
	var ran atomic.Int64
	cfg := listenOne(engine.Handler{
		Message: func(c *engine.Conn, p []byte) {
			for i := range tasks {
				_ = c.Do(func() {
					time.Sleep(5 * time.Millisecond)
					_ = c.Send([]byte{byte(i)})
					time.Sleep(5 * time.Millisecond) // the loop has sent it by then
					ran.Add(1)
				})
			}
		},
		Close: cs.note,
	}, heartbeat.Config{})
	cfg.MaxPause = -1
	srv := serve(t, cfg)
	peer := rawDial(t, srv)
	write(t, peer, frame(t, codec.Data, []byte("answer")))
	_ = peer.CloseWrite()
	for i := range tasks {
		expect(t, peer, frame(t, codec.Data, []byte{byte(i)}))
	}
	if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the last answer: %v", err)
	}
	cs.reason(t, engine.PeerClosed)
	if n := ran.Load(); n != tasks {
		t.Errorf("it ended with %d of %d tasks done", n, tasks)
	}
}

// Nor does it stay open for longer than MaxPause, if a task does not end.
func TestBlockedTaskAfterEndOfStream(t *testing.T) {
	cs := newCloses()
	hold := make(chan struct{})
	defer close(hold)
	cfg := listenOne(engine.Handler{
		Message: func(c *engine.Conn, p []byte) { _ = c.Do(func() { <-hold }) },
		Close:   cs.note,
	}, heartbeat.Config{})
	cfg.MaxPause = 300 * time.Millisecond
	srv := serve(t, cfg)
	peer := rawDial(t, srv)
	began := time.Now()
	write(t, peer, frame(t, codec.Data, []byte("block")))
	_ = peer.CloseWrite()
	cs.reason(t, engine.PeerClosed)
	if took := time.Since(began); took < cfg.MaxPause {
		t.Errorf("it ended after %v, with a task at work", took)
	}
}

// Shutdown waits for the tasks that were taken, those that wait included.
func TestShutdownWaitsForTasks(t *testing.T) {
	const connections, tasks = 3, 5
	opened, cs := new(conns), newCloses()
	cfg := listenOne(engine.Handler{Open: opened.open, Close: cs.note}, heartbeat.Config{})
	cfg.Work.Workers = 2
	srv := serve(t, cfg)
	for range connections {
		c := rawDial(t, srv)
		go func() { _, _ = io.Copy(io.Discard, c); _ = c.Close() }()
	}
	hold := make(chan struct{})
	var ran atomic.Int64
	for _, c := range opened.wait(t, connections) {
		for range tasks {
			do(t, c, func() { <-hold; ran.Add(1) })
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	down := make(chan error, 1)
	go func() { down <- srv.Shutdown(ctx) }()
	for range connections {
		cs.reason(t, engine.Shutdown) // that does not wait
	}
	select {
	case err := <-down:
		t.Fatalf("Shutdown did not wait for tasks: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := opened.all[0].Do(func() { t.Error("a task ran that was given after Close") }); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("Do during Shutdown: %v", err)
	}
	close(hold)
	if err := within(t, "Shutdown returns", down); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if n := ran.Load(); n != connections*tasks {
		t.Errorf("%d of %d tasks had run when Shutdown returned", n, connections*tasks)
	}
	if w := srv.Stats().Work; w.Active != 0 || w.Queued != 0 {
		t.Errorf("after Shutdown: %+v", w)
	}
}

// Nothing that was taken runs after Shutdown has returned, whoever gives tasks
// meanwhile.
func TestDoDuringShutdown(t *testing.T) {
	for range 100 {
		cs := newCloses()
		srv := serve(t, listenOne(engine.Handler{Close: cs.note}, heartbeat.Config{}))
		peer := rawDial(t, srv)
		c := connOf(t, srv, peer)
		var taken atomic.Int64
		var givers sync.WaitGroup
		for range 8 {
			givers.Go(func() {
				for {
					switch err := c.Do(func() {}); {
					case err == nil:
						taken.Add(1)
					case errors.Is(err, engine.ErrBusy):
						runtime.Gosched()
					default:
						return
					}
				}
			})
		}
		leaveWhenTold([]net.Conn{peer})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err := srv.Shutdown(ctx)
		w := srv.Stats().Work
		cancel()
		if err != nil {
			t.Fatalf("Shutdown: %v", err)
		}
		givers.Wait()
		if w.Active != 0 || w.Queued != 0 || int64(w.Done) != taken.Load() {
			t.Fatalf("%d tasks taken; when Shutdown had returned: %+v", taken.Load(), w)
		}
	}
}

// A Shutdown whose context ends says how many tasks have not ended, be they at
// work or waiting. They run to their end.
func TestShutdownNamesTasks(t *testing.T) {
	for name, test := range map[string]struct{ connections, each int }{
		"at work":     {3, 1},
		"and waiting": {3, 4},
	} {
		t.Run(name, func(t *testing.T) {
			opened := new(conns)
			cfg := listenOne(engine.Handler{Open: opened.open}, heartbeat.Config{})
			srv := serve(t, cfg)
			for range test.connections {
				_ = rawDial(t, srv)
			}
			hold := make(chan struct{})
			var ran atomic.Int64
			total := test.connections * test.each
			for _, c := range opened.wait(t, test.connections) {
				for range test.each {
					do(t, c, func() { <-hold; ran.Add(1) })
				}
			}
			eventually(t, "tasks are at work", func() bool { return srv.Stats().Work.Queued == total-test.connections })
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			err := srv.Shutdown(ctx)
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), fmt.Sprintf(" %d tasks ", total)) {
				t.Errorf("Shutdown with %d tasks that have not ended: %v", total, err)
			}
			close(hold)
			eventually(t, "they run to their end", func() bool { return ran.Load() == int64(total) })
		})
	}
}

// poolFunc is a Pool.
type poolFunc func(func()) error

func (p poolFunc) Go(f func()) error { return p(f) }

// Workers run on what the Pool supplies; where it fails, on goroutines of our
// own, and nothing that was taken is lost.
func TestWorkPool(t *testing.T) {
	const connections, tasks = 20, 50
	var asked atomic.Int64
	for name, pool := range map[string]poolFunc{
		"supplies": func(f func()) error { asked.Add(1); go f(); return nil },
		"fails":    func(func()) error { asked.Add(1); return errors.New("no goroutine today") },
		"fails now and then": func(f func()) error {
			if asked.Add(1)%2 == 0 {
				return errors.New("no goroutine today")
			}
			go f()
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			asked.Store(0)
			opened := new(conns)
			cfg := listenOne(engine.Handler{Open: opened.open}, heartbeat.Config{})
			cfg.Work.Pool = pool
			cfg.Work.Workers = 3
			srv := serve(t, cfg)
			for range connections {
				_ = rawDial(t, srv)
			}
			var running, most, ran atomic.Int64
			for _, c := range opened.wait(t, connections) {
				for i := range tasks {
					do(t, c, func() {
						most.Store(max(most.Load(), running.Add(1)))
						defer running.Add(-1)
						defer ran.Add(1)
						if i%10 == 3 {
							time.Sleep(100 * time.Microsecond)
						}
						if i == tasks-1 { // it ends the connection
							runtime.Goexit()
						}
					})
				}
			}
			eventually(t, "all tasks have run", func() bool { return ran.Load() == connections*tasks })
			if n := most.Load(); n > 3 {
				t.Errorf("%d tasks at a time, with 3 workers", n)
			}
			if asked.Load() == 0 {
				t.Error("the pool was never asked")
			}
			eventually(t, "all workers are done", func() bool { return srv.Stats().Work.Active == 0 })
		})
	}
}

// Ordered leaves no callback out.
func TestOrderedIsWhole(t *testing.T) {
	var whole engine.Handler
	fields := reflect.ValueOf(&whole).Elem()
	for i := range fields.NumField() {
		fields.Field(i).Set(reflect.MakeFunc(fields.Field(i).Type(), func([]reflect.Value) []reflect.Value { return nil }))
	}
	ordered := reflect.ValueOf(engine.Ordered(whole))
	for i := range ordered.NumField() {
		if ordered.Field(i).IsNil() {
			t.Errorf("%s is lost", ordered.Type().Field(i).Name)
		}
	}
	none := reflect.ValueOf(engine.Ordered(engine.Handler{}))
	for i := range none.NumField() {
		if !none.Field(i).IsNil() {
			t.Errorf("%s comes from nowhere", none.Type().Field(i).Name)
		}
	}
}
