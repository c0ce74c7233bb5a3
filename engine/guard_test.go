package engine_test

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// inTime fails if something ended before it might, or much later than it must.
func inTime(t *testing.T, srv *engine.Server, took, least, most time.Duration) {
	t.Helper()
	st := srv.Stats().Total
	if most += 20*time.Millisecond + st.Lag + st.Stalled; took < least || took > most {
		t.Errorf("ended after %v, want %v to %v", took, least, most)
	}
}

// A newcomer must get a whole frame done in time, a heartbeat will do; half of
// one will not.
func TestFirstFrame(t *testing.T) {
	const limit = 300 * time.Millisecond
	for name, x := range map[string]struct {
		said []byte
		ends bool
	}{
		"nothing":      {nil, true},
		"half a frame": {frame(t, codec.Data, []byte("hello"))[:6], true},
		"a frame":      {frame(t, codec.Data, []byte("hello")), false},
		"a heartbeat":  {frame(t, codec.Ping, nil), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cs := newCloses()
			cfg := listenOne(engine.Handler{Close: cs.note}, heartbeat.Config{})
			cfg.Admission.FirstFrame = limit
			srv := serve(t, cfg)
			peer := rawDial(t, srv)
			if x.said != nil {
				write(t, peer, x.said)
			}
			if !x.ends {
				cs.none(t, 3*limit)
				return
			}
			ce := cs.reason(t, engine.HandshakeTimeout)
			if !errors.Is(ce, os.ErrDeadlineExceeded) {
				t.Errorf("closed with %v", ce)
			}
			inTime(t, srv, ce.Evidence.Age, limit-time.Millisecond, limit)
		})
	}
}

// A frame that was begun must get on: one that trickles in, a byte at a time, is
// ended in spite of that, and one that is long and slow but gets on is not.
func TestFrameTimeout(t *testing.T) {
	const limit = time.Second
	serveWithLimit := func(t *testing.T) (*engine.Server, *closes, *atomic.Int64) {
		cs := newCloses()
		got := new(atomic.Int64)
		cfg := listenOne(engine.Handler{
			Message: func(c *engine.Conn, payload []byte) { c.Set(c.Info().Age); got.Add(int64(len(payload))) },
			Close:   cs.note,
		}, heartbeat.Config{})
		cfg.FrameTimeout = limit
		return serve(t, cfg), cs, got
	}
	t.Run("a byte at a time", func(t *testing.T) {
		t.Parallel()
		srv, cs, got := serveWithLimit(t)
		peer := rawDial(t, srv)
		whole := frame(t, codec.Data, []byte("first"))
		slow := frame(t, codec.Data, make([]byte, 1000))
		write(t, peer, append(whole, slow[0]))
		eventually(t, "the first frame is delivered", func() bool { return got.Load() == 5 })
		go func() {
			for _, b := range slow[1:] {
				if _, err := peer.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		x := cs.next(t)
		if engine.ReasonOf(x.err) != engine.FrameTimeout {
			t.Fatalf("closed with %v", x.err)
		}
		took := x.err.(*engine.CloseError).Evidence.Age - x.c.Get().(time.Duration) // since the first frame
		inTime(t, srv, took, limit-time.Millisecond, limit)
	})
	t.Run("long, slow and steady", func(t *testing.T) {
		t.Parallel()
		srv, cs, got := serveWithLimit(t)
		peer := rawDial(t, srv)
		const size = 1 << 20
		long := frame(t, codec.Data, make([]byte, size))
		for len(long) > 0 {
			n := min(len(long), 80<<10)
			write(t, peer, long[:n])
			long = long[n:]
			time.Sleep(limit / 5)
		}
		eventually(t, "the long frame is delivered", func() bool { return got.Load() == size })
		cs.none(t, limit)
	})
	t.Run("frames that are cut but not slow", func(t *testing.T) {
		t.Parallel()
		srv, cs, got := serveWithLimit(t)
		peer := rawDial(t, srv)
		f := frame(t, codec.Data, make([]byte, 100))
		stream := f[:50]
		for began := time.Now(); time.Since(began) < 4*limit; {
			write(t, peer, stream) // always ends in the middle of a frame, never of the same
			stream = append(append([]byte{}, f[50:]...), f[:50]...)
			time.Sleep(10 * time.Millisecond)
		}
		if got.Load() == 0 {
			t.Error("nothing was delivered")
		}
		cs.none(t, 0)
	})
}

// A peer that does not take its backlog as fast as it must is a slow consumer,
// found within twice the window; one that is a bit faster is not.
func TestDrainRate(t *testing.T) {
	const window, rate = 500 * time.Millisecond, 200 << 10
	for name, x := range map[string]struct {
		chunk int // read every 50 ms
		ends  bool
	}{
		"does not read": {0, true},
		"reads slowly":  {2 << 10, true},    // 40 KiB/s
		"reads enough":  {100 << 10, false}, // 2 MiB/s
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cs := newCloses()
			opened := new(conns)
			cfg := listenOne(engine.Handler{Open: opened.open, Close: cs.note}, heartbeat.Config{})
			cfg.Backlog = engine.Backlog{High: 64 << 20, DrainRate: rate, DrainWindow: window}
			cfg.SendBuffer = 128 << 10
			srv := serve(t, cfg)
			peer := rawDial(t, srv)
			if err := peer.SetReadBuffer(readBuffer); err != nil {
				t.Fatal(err)
			}
			c := opened.wait(t, 1)[0]
			stop := make(chan struct{})
			defer close(stop)
			go func() {
				buf := make([]byte, max(x.chunk, 1))
				for x.chunk > 0 {
					select {
					case <-stop:
						return
					case <-time.After(50 * time.Millisecond):
					}
					if _, err := io.ReadFull(peer, buf); err != nil {
						return
					}
				}
			}()
			began := time.Now()
			for range 16 {
				if err := c.Send(make([]byte, 1<<20-1)); err != nil && !(x.ends && errors.Is(err, net.ErrClosed)) {
					t.Fatal(err)
				}
			}
			if !x.ends {
				cs.none(t, 4*window)
				return
			}
			closed := cs.next(t)
			ce := closed.err.(*engine.CloseError)
			if ce.Reason != engine.SlowConsumer || !errors.Is(ce, os.ErrDeadlineExceeded) || ce.Diagnosis() != engine.NotReading {
				t.Errorf("closed with %v", ce)
			}
			if ce.Evidence.Unsent == 0 {
				t.Error("nothing is reported unsent")
			}
			// What the peer's kernel takes at once is above the rate for a while.
			inTime(t, srv, closed.at.Sub(began), window, 5*window)
		})
	}
}

// All backlogs together stay within the budget, those whose peers read are not
// touched by it, and who was refused is told when there is room.
func TestBudget(t *testing.T) {
	const deaf, budget = 20, 4 << 20
	opened := new(conns)
	writable := make(chan *engine.Conn, 100)
	cfg := listenOne(engine.Handler{
		Open:     opened.open,
		Message:  echo,
		Writable: func(c *engine.Conn) { writable <- c },
	}, heartbeat.Config{})
	cfg.Budget = budget
	cfg.SendBuffer = 64 << 10
	srv := serve(t, cfg)
	var peers []*net.TCPConn
	for range deaf {
		peers = append(peers, rawDial(t, srv))
	}
	all := opened.wait(t, deaf)
	const size = 32 << 10
	message := make([]byte, size)
	refused := make(map[*engine.Conn]bool)
	for round := 0; len(refused) < deaf; round++ {
		if round > 10_000 {
			t.Fatal("the budget is never used up")
		}
		for _, c := range all {
			switch err := c.Send(message); err {
			case nil:
			case engine.ErrBacklog:
				refused[c] = true
			default:
				t.Fatal(err)
			}
		}
		passLoops(t, srv) // which count what they are to write
	}
	// Above it come the last message of each, and the rounding of buffers.
	if held := srv.Stats().Held; held < budget/2 || held > 2*budget {
		t.Errorf("%d bytes are held, the budget is %d", held, budget)
	}
	healthy := rawDial(t, srv)
	for range 100 {
		write(t, healthy, frame(t, codec.Data, message))
		expect(t, healthy, frame(t, codec.Data, message))
	}
	for _, p := range peers {
		go func() { _, _ = io.Copy(io.Discard, p) }()
	}
	for len(refused) > 0 {
		select {
		case c := <-writable:
			delete(refused, c)
		case <-time.After(20 * time.Second):
			t.Fatalf("%d connections were not told of room", len(refused))
		}
	}
	eventually(t, "nothing is held any more", func() bool { return srv.Stats().Held == 0 })
}

// A pause lifts no deadline for good, whatever it meets on its way to the loop.
func TestPausesKeepDeadlines(t *testing.T) {
	message := frame(t, codec.Data, []byte("message"))
	t.Run("one that has passed and was not served", func(t *testing.T) {
		const limit = 40 * time.Millisecond // to be late by less is no stall
		cs, opened := newCloses(), new(conns)
		begun, done := make(chan struct{}), make(chan struct{})
		cfg := listenOne(engine.Handler{Open: opened.open, Close: cs.note}, heartbeat.Config{})
		cfg.Loops, cfg.Admission.FirstFrame = 1, limit
		srv := serve(t, cfg)
		rawDial(t, srv)
		c := opened.wait(t, 1)[0]
		c.Loop().AfterFunc(0, func() { close(begun); <-done })
		within(t, "the timer", begun)
		_ = c.Pause() // the poller tells of it before it tells of the timer
		time.Sleep(2 * limit)
		close(done)
		time.Sleep(limit)
		_ = c.Resume()
		cs.reason(t, engine.HandshakeTimeout)
	})
	t.Run("one of a frame behind a pause that was lifted at once", func(t *testing.T) {
		cs, opened := newCloses(), new(conns)
		var paused *engine.Conn
		cfg := listenOne(engine.Handler{
			Open: opened.open, Close: cs.note,
			Message: func(c *engine.Conn, _ []byte) {
				if paused == nil {
					paused = c
					_ = c.Pause()
				} else {
					_ = paused.Resume() // in the same batch: the poller never knew
				}
			},
		}, heartbeat.Config{})
		cfg.Loops, cfg.FrameTimeout = 1, 100*time.Millisecond
		srv := serve(t, cfg)
		one, other := rawDial(t, srv), rawDial(t, srv)
		release := holdLoop(t, opened.wait(t, 2)[0])
		write(t, one, append(message, message[:5]...))
		time.Sleep(20 * time.Millisecond)
		write(t, other, message)
		time.Sleep(20 * time.Millisecond)
		release()
		cs.reason(t, engine.FrameTimeout)
	})
}
