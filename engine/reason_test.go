package engine_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// quick finds a dead peer in 400 ms and a tick.
var quick = heartbeat.Config{Interval: 100 * time.Millisecond, Retry: 100 * time.Millisecond, Misses: 3}

func TestReasonPeerClosed(t *testing.T) {
	cs := newCloses()
	srv := serve(t, listenOne(engine.Handler{Close: cs.note}, heartbeat.Config{}))
	c := rawDial(t, srv)
	write(t, c, frame(t, codec.Data, []byte("bye")))
	_ = c.Close()
	if ce := cs.reason(t, engine.PeerClosed); ce.Err != nil {
		t.Errorf("cause %v, want none", ce.Err)
	}
}

func TestReasonPeerClosedWithinFrame(t *testing.T) {
	cs := newCloses()
	srv := serve(t, listenOne(engine.Handler{Close: cs.note}, heartbeat.Config{}))
	c := rawDial(t, srv)
	write(t, c, frame(t, codec.Data, []byte("truncated"))[:7])
	_ = c.Close()
	if ce := cs.reason(t, engine.PeerClosed); !errors.Is(ce, io.ErrUnexpectedEOF) {
		t.Errorf("cause %v, want io.ErrUnexpectedEOF", ce.Err)
	}
}

func TestReasonPeerReset(t *testing.T) {
	cs := newCloses()
	srv := serve(t, listenOne(engine.Handler{Close: cs.note}, heartbeat.Config{}))
	c := rawDial(t, srv)
	write(t, c, frame(t, codec.Data, []byte("bye")))
	if err := c.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if ce := cs.reason(t, engine.PeerReset); !errors.Is(ce, syscall.ECONNRESET) {
		t.Errorf("cause %v, want ECONNRESET", ce.Err)
	}
}

// What a peer had sent before its reset is delivered, although our own write
// is what meets the reset first.
func TestInputBeforeResetIsDelivered(t *testing.T) {
	cs := newCloses()
	got := make(chan string, 10)
	srv := serve(t, listenOne(engine.Handler{
		Close: cs.note,
		Message: func(c *engine.Conn, p []byte) {
			if string(p) == "first" {
				time.Sleep(50 * time.Millisecond) // the reset arrives meanwhile
			}
			_ = c.Send(p)
			got <- string(p)
		},
	}, heartbeat.Config{}))
	c := rawDial(t, srv)
	write(t, c, frame(t, codec.Data, []byte("first")))
	eventually(t, "the first message is being handled", func() bool { return srv.Stats().Total.BytesIn > 0 })
	write(t, c, frame(t, codec.Data, []byte("second")))
	_ = c.SetLinger(0)
	_ = c.Close()
	cs.reason(t, engine.PeerReset)
	if a, b := <-got, <-got; a != "first" || b != "second" {
		t.Errorf("delivered %q, %q", a, b)
	}
}

func TestReasonHeartbeatLost(t *testing.T) {
	cs := newCloses()
	srv := serve(t, listenOne(engine.Handler{Close: cs.note}, quick))
	began := time.Now()
	_ = rawDial(t, srv) // never says a word
	x := cs.next(t)
	if engine.ReasonOf(x.err) != engine.HeartbeatLost {
		t.Fatalf("closed with %v", x.err)
	}
	if !errors.Is(x.err, os.ErrDeadlineExceeded) {
		t.Errorf("%v does not wrap os.ErrDeadlineExceeded", x.err)
	}
	ev := x.err.(*engine.CloseError).Evidence
	if ev.Missed != 3 || ev.LastRead < 300*time.Millisecond {
		t.Errorf("evidence %+v", ev)
	}
	st := srv.Stats().Total
	if bound := quick.WorstCase() + st.Lag + st.Stalled + 10*time.Millisecond; ev.Age > bound {
		t.Errorf("found after %v, promised %v", ev.Age, bound)
	}
	if took := x.at.Sub(began); took < 300*time.Millisecond {
		t.Errorf("found after %v, which gives it no chance to answer", took)
	}
}

// A peer that only answers lives.
func TestAnsweringPeerLives(t *testing.T) {
	cs := newCloses()
	patient := quick
	patient.Retry = time.Second // this test may be late, too
	srv := serve(t, listenOne(engine.Handler{Close: cs.note}, patient))
	c := rawDial(t, srv)
	pings := 0
	for began := time.Now(); pings < 10 || time.Since(began) < 1500*time.Millisecond; {
		var header [4]byte
		if _, err := io.ReadFull(c, header[:]); err != nil {
			t.Fatal(err)
		}
		payload := make([]byte, int(header[0])<<16|int(binary.BigEndian.Uint16(header[1:])))
		if _, err := io.ReadFull(c, payload); err != nil {
			t.Fatal(err)
		}
		if codec.Kind(header[3]) != codec.Ping {
			t.Fatalf("kind %d", header[3])
		}
		pings++
		write(t, c, frame(t, codec.Pong, payload))
	}
	cs.none(t, 50*time.Millisecond)
	_ = c.Close()
	if ce := cs.reason(t, engine.PeerClosed); ce.Evidence.RTT == 0 || ce.Evidence.RTT > time.Second {
		t.Errorf("round trip time %v", ce.Evidence.RTT)
	}
}

// A peer that goes on sending but answers no query is deaf.
func TestReasonDeaf(t *testing.T) {
	cs := newCloses()
	srv := serve(t, listenOne(engine.Handler{Close: cs.note}, quick))
	c := rawDial(t, srv)
	began := time.Now()
	message := frame(t, codec.Data, []byte("la la la"))
	for len(cs.ch) == 0 && time.Since(began) < 5*time.Second {
		if _, err := c.Write(message); err != nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	x := cs.next(t)
	if engine.ReasonOf(x.err) != engine.Deaf {
		t.Fatalf("closed with %v", x.err)
	}
	st, took := srv.Stats().Total, x.err.(*engine.CloseError).Evidence.Age
	if bound := quick.WorstCase() + st.Lag + st.Stalled + 10*time.Millisecond; took > bound {
		t.Errorf("found after %v, promised %v", took, bound)
	}
}

func TestReasonIdle(t *testing.T) {
	cs := newCloses()
	srv := serve(t, listenOne(engine.Handler{Close: cs.note}, heartbeat.Config{IdleRead: time.Second}))
	c := rawDial(t, srv)
	for range 20 {
		write(t, c, frame(t, codec.Data, []byte("still here")))
		time.Sleep(60 * time.Millisecond)
	}
	cs.none(t, time.Millisecond)
	cs.reason(t, engine.Idle)
}

func TestReasonProtocolError(t *testing.T) {
	cs := newCloses()
	srv := serve(t, listenOne(engine.Handler{Close: cs.note}, heartbeat.Config{}))
	c := rawDial(t, srv)
	write(t, c, []byte{0, 0, 0, 0x7f}) // a kind that nobody assigned
	if ce := cs.reason(t, engine.ProtocolError); !errors.Is(ce, codec.ErrMalformed) {
		t.Errorf("cause %v", ce.Err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
}

func TestReasonFrameTooLarge(t *testing.T) {
	cs := newCloses()
	cfg := listenOne(engine.Handler{Close: cs.note}, heartbeat.Config{})
	cfg.Listeners[0].Codec = codec.Native{MaxPayload: 1000}
	srv := serve(t, cfg)
	c := rawDial(t, srv)
	write(t, c, []byte{0xff, 0xff, 0xff, 0}) // 16 MiB announced, none sent
	if ce := cs.reason(t, engine.FrameTooLarge); !errors.Is(ce, codec.ErrTooLarge) {
		t.Errorf("cause %v", ce.Err)
	}
}

func TestReasonLocal(t *testing.T) {
	cs := newCloses()
	srv := serve(t, listenOne(engine.Handler{
		Close: cs.note,
		Message: func(c *engine.Conn, p []byte) {
			_ = c.Send([]byte("last words"))
			if err := c.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if err := c.Close(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("second Close: %v", err)
			}
			if err := c.Send(nil); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Send after Close: %v", err)
			}
		},
	}, heartbeat.Config{}))
	c := rawDial(t, srv)
	write(t, c, frame(t, codec.Data, nil))
	expect(t, c, frame(t, codec.Data, []byte("last words")))
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the last words: %v, want EOF", err)
	}
	_ = c.Close()
	ce := cs.reason(t, engine.Local)
	if ce.Err != nil || ce.Evidence.Unsent != 0 || ce.Evidence.Unacked > 0 {
		t.Errorf("%v %+v", ce, ce.Evidence)
	}
}

func TestAbortResets(t *testing.T) {
	cs := newCloses()
	srv := serve(t, listenOne(engine.Handler{
		Close:   cs.note,
		Message: func(c *engine.Conn, p []byte) { _ = c.Abort() },
	}, heartbeat.Config{}))
	c := rawDial(t, srv)
	write(t, c, frame(t, codec.Data, nil))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v, want ECONNRESET", err)
	}
	cs.reason(t, engine.Local)
}

func TestReasonShutdown(t *testing.T) {
	cs := newCloses()
	opened := new(conns)
	srv := serve(t, listenOne(engine.Handler{Open: opened.open, Close: cs.note}, heartbeat.Config{}))
	c := rawDial(t, srv)
	held := opened.wait(t, 1)[0]
	if err := held.Send([]byte("before")); err != nil {
		t.Fatal(err)
	}
	go func() { // a peer that ends its stream when we do
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	began := time.Now()
	if err := srv.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("Shutdown took %v", took)
	}
	if ce := cs.reason(t, engine.Shutdown); ce.Evidence.Unsent != 0 {
		t.Errorf("%d messages unsent", ce.Evidence.Unsent)
	}
	for what, err := range map[string]error{"Send": held.Send(nil), "Close": held.Close(), "Post": held.Post(func() {})} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after the end: %v", what, err)
		}
	}
	if srv.Conn(held.ID()) != nil {
		t.Error("a closed connection is still found")
	}
}

// Shutdown whose context ends resets who does not leave.
func TestShutdownDeadline(t *testing.T) {
	cs := newCloses()
	opened := new(conns)
	srv := serve(t, listenOne(engine.Handler{Open: opened.open, Close: cs.note}, heartbeat.Config{}))
	c := rawDial(t, srv) // never reads, never closes
	_ = c
	opened.wait(t, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if took := time.Since(began); took > 4*time.Second { // without a deadline, Linger
		t.Errorf("Shutdown took %v", took)
	}
	cs.reason(t, engine.Shutdown)
}

// A peer that does not read does not hold up Close for longer than Linger, and
// what it did not get is counted.
func TestCloseLinger(t *testing.T) {
	cs := newCloses()
	cfg := listenOne(engine.Handler{
		Close: cs.note,
		Message: func(c *engine.Conn, p []byte) {
			big := make([]byte, 64<<10)
			for c.Send(big) == nil {
			}
			_ = c.Close()
		},
	}, heartbeat.Config{})
	cfg.Linger = 300 * time.Millisecond
	cfg.Backlog.High = 16 << 20
	srv := serve(t, cfg)
	c := rawDial(t, srv)
	_ = c.SetReadBuffer(readBuffer)
	write(t, c, frame(t, codec.Data, nil))
	ce := cs.reason(t, engine.Local)
	if ce.Evidence.Unsent == 0 || ce.Evidence.Unacked <= 0 {
		t.Errorf("evidence %+v: nothing lost?", ce.Evidence)
	}
	if !errors.Is(ce, os.ErrDeadlineExceeded) {
		t.Errorf("cause %v", ce.Err)
	}
}

func TestClientSeesReasons(t *testing.T) {
	cs := newCloses()
	srv := serve(t, listenOne(engine.Handler{Message: func(c *engine.Conn, p []byte) {
		switch string(p) {
		case "close":
			_ = c.Close()
		case "abort":
			_ = c.Abort()
		}
	}}, heartbeat.Config{}))
	cl := client(t, engine.ClientConfig{Codec: codec.Native{}, Handler: engine.Handler{Close: cs.note}})
	for order, want := range map[string]engine.Reason{"close": engine.PeerClosed, "abort": engine.PeerReset} {
		if err := dial(t, cl, srv.Addrs()[0]).Send([]byte(order)); err != nil {
			t.Fatal(err)
		}
		cs.reason(t, want)
	}
}

func TestDialRefused(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	cl := client(t, engine.ClientConfig{Codec: codec.Native{}})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if c, err := cl.Dial(ctx, "tcp://"+addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v, %v; want ECONNREFUSED", c, err)
	}
	eventually(t, "no connection is open after a refused dial", func() bool { return cl.Stats().Total.Open == 0 })
	if _, err := cl.Dial(ctx, "udp://127.0.0.1:1"); err == nil {
		t.Error("an unknown scheme was dialled")
	}
}
