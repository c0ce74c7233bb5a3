package engine_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// numbered returns a frame of size payload bytes that carries a number, and
// filler that depends on it.
func numbered(t testing.TB, number, size int) []byte {
	t.Helper()
	return frame(t, codec.Data, numberedPayload(number, size))
}

func numberedPayload(number, size int) []byte {
	b := bytes.Repeat([]byte{byte(number * 7)}, size)
	binary.BigEndian.PutUint32(b, uint32(number))
	return b
}

// isNumbered reports whether a payload is the one of that number.
func isNumbered(payload []byte, number int) bool {
	return bytes.Equal(payload, numberedPayload(number, len(payload)))
}

// While a connection is paused its peer fills the kernel's buffers and then has
// to wait, our memory does not grow and no loop spins; after Resume all of it
// is delivered in order.
func TestPauseHoldsThePeerBack(t *testing.T) {
	k := engine.NewCountingKernel()
	got, next := new(atomic.Int64), 0
	opened := new(conns)
	srv := serveOn(t, k, listenOne(engine.Handler{
		Open: func(c *engine.Conn) error {
			_ = opened.open(c)
			return c.Pause()
		},
		Message: func(_ *engine.Conn, payload []byte) {
			if !isNumbered(payload, next) {
				t.Errorf("message %d is not the next, or garbled", next)
			}
			next++
			got.Add(1)
		},
	}, heartbeat.Config{}))
	peer := rawDial(t, srv)
	c := opened.wait(t, 1)[0]

	const size, count = 16 << 10, 4000 // more than any kernel buffers hold
	sent := new(atomic.Int64)
	done := make(chan error, 1)
	go func() {
		for i := range count {
			if _, err := peer.Write(numbered(t, i, size)); err != nil {
				done <- err
				return
			}
			sent.Add(1)
		}
		done <- nil
	}()
	// It gets stuck: for half a second nothing more is taken.
	var stuck int64
	eventually(t, "the sender blocks", func() bool {
		stuck = sent.Load()
		time.Sleep(500 * time.Millisecond)
		return sent.Load() == stuck && stuck > 0
	})
	if stuck == count {
		t.Fatal("a paused connection took everything")
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	reads, began := k.Reads.Load(), cpuTime()
	time.Sleep(time.Second)
	if spent := cpuTime() - began; spent > 300*time.Millisecond {
		t.Errorf("%v of CPU in a second in which there was nothing to do", spent)
	}
	if n := k.Reads.Load() - reads; n != 0 {
		t.Errorf("a paused connection was read %d times", n)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	if n := got.Load(); n != 0 {
		t.Errorf("%d messages were delivered during the pause", n)
	}
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "everything is delivered", func() bool { return got.Load() == count })
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A stream of 8 MB that is paused and resumed 300 times, by callbacks and by
// another goroutine, loses no byte, and no message is delivered between a
// callback's Pause and the next Resume.
func TestPauseResumeLosesNothing(t *testing.T) {
	for _, loops := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d loops", loops), func(t *testing.T) {
			const size, count, cycles = 1000, 8_000, 300
			opened := new(conns)
			resumes := make(chan *engine.Conn, cycles)
			paused := new(atomic.Bool)
			next, got, pauses := 0, new(atomic.Int64), 0
			cfg := listenOne(engine.Handler{
				Open: opened.open,
				Message: func(c *engine.Conn, payload []byte) {
					if paused.Load() {
						t.Error("a message during a pause")
					}
					if !isNumbered(payload, next) {
						t.Errorf("message %d is not the next, or garbled", next)
					}
					next++
					got.Add(1)
					if next%(count/cycles) == 0 && pauses < cycles {
						pauses++
						paused.Store(true)
						if err := c.Pause(); err != nil {
							t.Error(err)
						}
						resumes <- c
					}
				},
			}, heartbeat.Config{})
			cfg.Loops = loops
			srv := serve(t, cfg)
			peer := rawDial(t, srv)
			go func() {
				for i := range count {
					if _, err := peer.Write(numbered(t, i, size)); err != nil {
						return
					}
				}
			}()
			for range cycles {
				select {
				case c := <-resumes:
					time.Sleep(time.Millisecond)
					paused.Store(false)
					if err := c.Resume(); err != nil {
						t.Fatal(err)
					}
				case <-time.After(30 * time.Second):
					t.Fatalf("no pause after message %d", got.Load())
				}
			}
			eventually(t, "everything is delivered", func() bool { return got.Load() == count })
			// One that is lifted before the loop gets to it is none.
			if n := srv.Stats().Total.Pauses; n == 0 || n > cycles {
				t.Errorf("%d pauses were counted", n)
			}
		})
	}
}

// A peer that resets while it is paused is noticed at once, and what it had sent
// before is delivered first.
func TestResetDuringPause(t *testing.T) {
	const count = 20
	cs := newCloses()
	opened := new(conns)
	got := 0
	srv := serve(t, listenOne(engine.Handler{
		Open: func(c *engine.Conn) error { _ = opened.open(c); return c.Pause() },
		Message: func(_ *engine.Conn, payload []byte) {
			if !isNumbered(payload, got) {
				t.Errorf("message %d is not the next, or garbled", got)
			}
			got++
		},
		Close: func(c *engine.Conn, err error) {
			if got != count {
				t.Errorf("%d of %d messages were delivered before Close", got, count)
			}
			cs.note(c, err)
		},
	}, heartbeat.Config{}))
	peer := rawDial(t, srv)
	opened.wait(t, 1)
	for i := range count {
		write(t, peer, numbered(t, i, 1000))
	}
	time.Sleep(50 * time.Millisecond) // all of it is in the kernel
	cs.none(t, 50*time.Millisecond)
	if err := peer.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	_ = peer.Close()
	if ce := cs.reason(t, engine.PeerReset); !errors.Is(ce, syscall.ECONNRESET) {
		t.Errorf("cause %v, want ECONNRESET", ce.Err)
	}
}

// The end of a paused peer's stream is seen after Resume, behind what it sent.
func TestEndDuringPause(t *testing.T) {
	cs := newCloses()
	opened := new(conns)
	got := new(atomic.Int64)
	srv := serve(t, listenOne(engine.Handler{
		Open:    func(c *engine.Conn) error { _ = opened.open(c); return c.Pause() },
		Message: func(*engine.Conn, []byte) { got.Add(1) },
		Close:   cs.note,
	}, heartbeat.Config{}))
	peer := rawDial(t, srv)
	c := opened.wait(t, 1)[0]
	write(t, peer, numbered(t, 0, 100))
	_ = peer.Close()
	cs.none(t, 200*time.Millisecond)
	if got.Load() != 0 {
		t.Error("a message during a pause")
	}
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	cs.reason(t, engine.PeerClosed)
	if got.Load() != 1 {
		t.Errorf("%d messages were delivered", got.Load())
	}
	if err := c.Pause(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Pause of a closed connection: %v", err)
	}
	if err := c.Resume(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Resume of a closed connection: %v", err)
	}
}

// The silence of a peer that is not listened to does not count against it; once
// it is read again it counts, and a dead one is found.
func TestPauseAndLiveness(t *testing.T) {
	cs := newCloses()
	opened := new(conns)
	srv := serve(t, listenOne(engine.Handler{
		Open:  func(c *engine.Conn) error { _ = opened.open(c); return c.Pause() },
		Close: cs.note,
	}, quick))
	peer := rawDial(t, srv) // never answers
	go func() { _, _ = io.Copy(io.Discard, peer) }()
	c := opened.wait(t, 1)[0]
	cs.none(t, 4*quick.WorstCase())
	resumed := time.Now()
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	x := cs.next(t)
	if engine.ReasonOf(x.err) != engine.HeartbeatLost {
		t.Fatalf("closed with %v", x.err)
	}
	st := srv.Stats().Total
	if took, most := x.at.Sub(resumed), quick.WorstCase()+20*time.Millisecond+st.Lag+st.Stalled; took > most {
		t.Errorf("found %v after the pause, want at most %v", took, most)
	}
}

// Close of a paused connection is as orderly as any: what the peer sent and
// nobody read does not stand between us and its end of stream.
func TestCloseDuringPause(t *testing.T) {
	cs := newCloses()
	opened := new(conns)
	cfg := listenOne(engine.Handler{Open: func(c *engine.Conn) error { _ = opened.open(c); return c.Pause() }, Close: cs.note}, heartbeat.Config{})
	cfg.Linger = 30 * time.Second
	srv := serve(t, cfg)
	peer := rawDial(t, srv)
	c := opened.wait(t, 1)[0]
	for i := range 10 {
		write(t, peer, numbered(t, i, 1000))
	}
	if err := c.Send([]byte("farewell")); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	expect(t, peer, frame(t, codec.Data, []byte("farewell")))
	if n, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("after the farewell: %d, %v", n, err)
	}
	_ = peer.Close()
	if ce := cs.reason(t, engine.Local); ce.Err != nil {
		t.Errorf("ended with %v", ce)
	}
}

// A pause has a maximum.
func TestMaxPause(t *testing.T) {
	cs := newCloses()
	cfg := listenOne(engine.Handler{
		Open:  func(c *engine.Conn) error { return c.Pause() },
		Close: cs.note,
	}, heartbeat.Config{})
	cfg.MaxPause = 300 * time.Millisecond
	srv := serve(t, cfg)
	began := time.Now()
	rawDial(t, srv)
	if ce := cs.reason(t, engine.Overloaded); !errors.Is(ce, os.ErrDeadlineExceeded) {
		t.Errorf("cause %v", ce.Err)
	}
	if took := time.Since(began); took < cfg.MaxPause {
		t.Errorf("ended after %v", took)
	}
}

// After the peer's end of stream a connection with an EOF handler stays open for
// what is yet to be sent, and ends with the peer's reason when it is closed.
func TestHalfClose(t *testing.T) {
	cs := newCloses()
	ended := make(chan *engine.Conn, 1)
	live := quick
	live.Retry = time.Second // this test may be late, too
	srv := serve(t, listenOne(engine.Handler{
		EOF:   func(c *engine.Conn) { ended <- c },
		Close: cs.note,
	}, live))
	peer := rawDial(t, srv)
	write(t, peer, frame(t, codec.Data, []byte("question")))
	if err := peer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c := <-ended
	cs.none(t, 2*live.WorstCase()) // it cannot answer queries any more, and need not
	if err := c.Send([]byte("late answer")); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	var answer []byte
	for {
		var header [4]byte
		if _, err := io.ReadFull(peer, header[:]); err != nil {
			if err != io.EOF {
				t.Error(err)
			}
			break
		}
		payload := make([]byte, int(binary.BigEndian.Uint32(header[:])>>8))
		if _, err := io.ReadFull(peer, payload); err != nil {
			t.Fatal(err)
		}
		if codec.Kind(header[3]) == codec.Data {
			answer = payload
		}
	}
	if string(answer) != "late answer" {
		t.Errorf("the peer got %q", answer)
	}
	if ce := cs.reason(t, engine.PeerClosed); ce.Evidence.Unsent != 0 {
		t.Errorf("ended with %v", ce)
	}
}

// A half-closed peer that resets is noticed, and one that only waits does so no
// longer than MaxPause.
func TestHalfCloseEnds(t *testing.T) {
	for name, want := range map[string]engine.Reason{"reset": engine.PeerReset, "wait": engine.PeerClosed} {
		t.Run(name, func(t *testing.T) {
			cs := newCloses()
			ended := make(chan *engine.Conn, 1)
			cfg := listenOne(engine.Handler{EOF: func(c *engine.Conn) { ended <- c }, Close: cs.note}, heartbeat.Config{})
			if name == "wait" {
				cfg.MaxPause = 200 * time.Millisecond
			}
			srv := serve(t, cfg)
			peer := rawDial(t, srv)
			if err := peer.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			<-ended
			if name == "reset" {
				if err := peer.SetLinger(0); err != nil {
					t.Fatal(err)
				}
				_ = peer.Close()
			}
			cs.reason(t, want)
		})
	}
}

// What a task has to say after the peer's end of stream is delivered.
func TestTaskAnswersAfterEnd(t *testing.T) {
	cs := newCloses()
	sawEnd := make(chan struct{})
	srv := serve(t, listenOne(engine.Handler{
		Message: func(c *engine.Conn, _ []byte) {
			if err := c.Do(func() {
				<-sawEnd
				if err := c.Send([]byte("answer")); err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Error(err)
			}
		},
		Close: cs.note,
	}, heartbeat.Config{}))
	peer := rawDial(t, srv)
	write(t, peer, frame(t, codec.Data, []byte("question")))
	if err := peer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	cs.none(t, 200*time.Millisecond)
	close(sawEnd)
	expect(t, peer, frame(t, codec.Data, []byte("answer")))
	if n, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the answer: %d, %v", n, err)
	}
	cs.reason(t, engine.PeerClosed)
}
