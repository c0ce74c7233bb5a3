package engine_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// readBuffer is what peers that are to block early ask for. Much less, and the
// window stays below loopback's segment size, so that the kernel sends one
// segment per probe, every 200 ms.
const readBuffer = 256 << 10

// Many goroutines send to many connections: each one's messages arrive whole
// and in its own order.
func TestSendFromAnyGoroutine(t *testing.T) {
	const connections, senders, each = 8, 8, 300
	opened := new(conns)
	cfg := listenOne(engine.Handler{Open: opened.open}, heartbeat.Config{})
	cfg.Loops = 2
	cfg.Backlog.High = 16 << 20
	srv := serve(t, cfg)
	var received sync.WaitGroup
	for range connections {
		c := rawDial(t, srv)
		received.Go(func() {
			last := [senders]int{}
			for range senders * each {
				var b [4 + 4]byte
				if _, err := io.ReadFull(c, b[:]); err != nil {
					t.Error(err)
					return
				}
				if binary.BigEndian.Uint32(b[:]) != 4<<8 {
					t.Errorf("header % x", b[:4])
					return
				}
				sender, seq := int(b[4]), int(b[5])<<8|int(b[6])
				if seq != last[sender] {
					t.Errorf("sender %d: message %d after %d", sender, seq, last[sender])
					return
				}
				last[sender]++
			}
		})
	}
	all := opened.wait(t, connections)
	var sent sync.WaitGroup
	for s := range senders {
		sent.Go(func() {
			for seq := range each {
				for _, c := range all {
					if err := c.Send([]byte{byte(s), byte(seq >> 8), byte(seq), 0}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	sent.Wait()
	received.Wait()
}

// All that is sent during one turn leaves in one write.
func TestOneWritePerTurn(t *testing.T) {
	k := engine.NewCountingKernel()
	cfg := listenOne(engine.Handler{Message: func(c *engine.Conn, p []byte) {
		for i := range 10 {
			_ = c.Send([]byte{byte(i)})
		}
	}}, heartbeat.Config{})
	srv := serveOn(t, k, cfg)
	c := rawDial(t, srv)
	const turns = 20
	for range turns {
		var want []byte
		for i := range 10 {
			want = append(want, frame(t, codec.Data, []byte{byte(i)})...)
		}
		write(t, c, frame(t, codec.Data, nil))
		expect(t, c, want)
	}
	if writes := k.Writes.Load(); writes != turns {
		t.Errorf("%d writes for %d turns", writes, turns)
	}
}

// What is sent to others during one turn costs each of them one write.
func TestOneWritePerTurnForOthers(t *testing.T) {
	k := engine.NewCountingKernel()
	opened := new(conns)
	const n = 10
	cfg := listenOne(engine.Handler{
		Open: opened.open,
		Message: func(c *engine.Conn, p []byte) {
			for range 5 {
				for _, other := range opened.all {
					_ = other.Send(p)
				}
			}
		},
	}, heartbeat.Config{})
	cfg.Loops = 1
	srv := serveOn(t, k, cfg)
	var clients []net.Conn
	for range n {
		clients = append(clients, rawDial(t, srv))
	}
	opened.wait(t, n)
	const turns = 10
	message := frame(t, codec.Data, []byte("all"))
	for range turns {
		write(t, clients[0], message)
		for _, c := range clients {
			for range 5 {
				expect(t, c, message)
			}
		}
	}
	if writes := k.Writes.Load(); writes != turns*n {
		t.Errorf("%d writes, want %d", writes, turns*n)
	}
}

// Above the high watermark Send refuses; below the low one Writable runs; every
// message that was taken arrives, and no other.
func TestBacklog(t *testing.T) {
	writable := make(chan struct{}, 100)
	opened := new(conns)
	cfg := listenOne(engine.Handler{
		Open:     opened.open,
		Writable: func(c *engine.Conn) { writable <- struct{}{} },
	}, heartbeat.Config{})
	cfg.Backlog = engine.Backlog{High: 256 << 10, Low: 64 << 10}
	srv := serve(t, cfg)
	c := rawDial(t, srv)
	_ = c.SetReadBuffer(readBuffer)
	conn := opened.wait(t, 1)[0]

	payload := make([]byte, 1000)
	taken := 0
	var err error
	for stop := time.Now().Add(10 * time.Second); time.Now().Before(stop); {
		binary.BigEndian.PutUint32(payload, uint32(taken))
		if err = conn.Send(payload); err != nil {
			// Within one turn the pending output alone may be at the mark; the
			// kernel is full once it stays there.
			time.Sleep(20 * time.Millisecond)
			if err = conn.Send(payload); err != nil {
				break
			}
		}
		taken++
	}
	if !errors.Is(err, engine.ErrBacklog) {
		t.Fatalf("Send to a peer that does not read: %v", err)
	}
	for len(writable) > 0 {
		<-writable
	}
	for i := range taken {
		b := make([]byte, 4+len(payload))
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatalf("message %d of %d: %v", i, taken, err)
		}
		if got := binary.BigEndian.Uint32(b[4:]); int(got) != i {
			t.Fatalf("message %d in the place of %d", got, i)
		}
	}
	select {
	case <-writable:
	case <-time.After(5 * time.Second):
		t.Fatal("Writable did not run")
	}
	if err := conn.Send([]byte("again")); err != nil {
		t.Errorf("Send after Writable: %v", err)
	}
	expect(t, c, frame(t, codec.Data, []byte("again")))
}

// An answer to a ping overtakes queued data, at a frame boundary.
func TestPongOvertakesBacklog(t *testing.T) {
	opened := new(conns)
	cfg := listenOne(engine.Handler{Open: opened.open}, heartbeat.Config{})
	cfg.Backlog.High = 8 << 20
	srv := serve(t, cfg)
	c := rawDial(t, srv)
	_ = c.SetReadBuffer(readBuffer)
	conn := opened.wait(t, 1)[0]
	const size = 50_000
	sent := 0
	for conn.Send(make([]byte, size)) == nil {
		sent++
	}
	eventually(t, "the kernel is full", func() bool {
		out := srv.Stats().Total.BytesOut
		time.Sleep(30 * time.Millisecond)
		return srv.Stats().Total.BytesOut == out
	})
	ping := frame(t, codec.Ping, []byte("stamp678wait"))
	for range 3 {
		write(t, c, ping)
	}
	eventually(t, "the pings are in", func() bool { return srv.Stats().Total.PingsIn == 3 })
	data, pongs, pongAt := 0, 0, 0
	for data < sent {
		var h [4]byte
		if _, err := io.ReadFull(c, h[:]); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, int(h[0])<<16|int(h[1])<<8|int(h[2]))
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		switch codec.Kind(h[3]) {
		case codec.Data:
			if len(b) != size {
				t.Fatalf("a frame of %d bytes", len(b))
			}
			data++
		case codec.Pong:
			if string(b) != "stamp678wait" {
				t.Fatalf("answer %q", b)
			}
			pongs++
			pongAt = data
		}
	}
	if pongs != 3 {
		t.Errorf("%d answers", pongs)
	}
	if sent-pongAt < 10 {
		t.Errorf("the answers came after %d of %d messages", pongAt, sent)
	}
}

// Of a peer that vanishes with a backlog, what was not sent is counted.
func TestUnsentIsCounted(t *testing.T) {
	opened, cs := new(conns), newCloses()
	cfg := listenOne(engine.Handler{Open: opened.open, Close: cs.note}, heartbeat.Config{})
	cfg.Backlog.High = 16 << 20 // more than the kernel ever takes
	srv := serve(t, cfg)
	c := rawDial(t, srv)
	_ = c.SetReadBuffer(readBuffer)
	conn := opened.wait(t, 1)[0]
	taken := 0
	for refused := 0; refused < 5; {
		if conn.Send(make([]byte, 10_000)) == nil {
			taken++
			refused = 0
		} else {
			refused++
			time.Sleep(10 * time.Millisecond) // until the kernel takes no more either
		}
	}
	arrived := 0
	for range 10 {
		if _, err := io.ReadFull(c, make([]byte, 10_004)); err != nil {
			t.Fatal(err)
		}
		arrived++
	}
	_ = c.SetLinger(0)
	_ = c.Close()
	ev := cs.reason(t, engine.PeerReset).Evidence
	if ev.Unsent == 0 || ev.Unsent > taken-arrived {
		t.Errorf("%d messages taken, %d arrived, %d counted as unsent", taken, arrived, ev.Unsent)
	}
}

// Posts and sends of one goroutine are served in order.
func TestPostOrder(t *testing.T) {
	opened := new(conns)
	srv := serve(t, listenOne(engine.Handler{Open: opened.open}, heartbeat.Config{}))
	_ = rawDial(t, srv)
	conn := opened.wait(t, 1)[0]
	const n = 5000 // more than one batch, and more than gnet's 1,024
	var next atomic.Int64
	done := make(chan struct{})
	for i := range n {
		f := func() {
			if got := next.Add(1) - 1; got != int64(i) {
				t.Errorf("post %d ran as number %d", i, got)
			}
			if i == n-1 {
				close(done)
			}
		}
		post := conn.Post
		if i%2 == 1 {
			post = conn.Loop().Post
		}
		if err := post(f); err != nil {
			t.Fatal(err)
		}
	}
	<-done
}

// A function that posts itself again does not keep the loop from I/O.
func TestPostingForeverStarvesNobody(t *testing.T) {
	srv := serve(t, listenOne(engine.Handler{Message: echo}, heartbeat.Config{}))
	var stop atomic.Bool
	defer stop.Store(true)
	for _, l := range srv.Loops() {
		var again func()
		again = func() {
			if !stop.Load() {
				_ = l.Post(again)
			}
		}
		_ = l.Post(again)
	}
	c := rawDial(t, srv)
	for i := range 100 {
		m := frame(t, codec.Data, fmt.Append(nil, i))
		write(t, c, m)
		expect(t, c, m)
	}
}

// blocked makes a connection whose peer does not read and whose kernel buffers
// are full. Reading from the returned peer ends that.
func blocked(t *testing.T, srv *engine.Server, opened *conns) (*engine.Conn, net.Conn, int) {
	t.Helper()
	peer := rawDial(t, srv)
	_ = peer.SetReadBuffer(readBuffer)
	c := opened.wait(t, 1)[0]
	const size = 50_000
	sent := 0
	for refused := 0; refused < 3; {
		if c.Send(make([]byte, size)) == nil {
			sent++
			refused = 0
		} else {
			refused++
			time.Sleep(10 * time.Millisecond)
		}
	}
	return c, peer, sent
}

// Messages that the codec refuses leave nothing behind, however many they are.
func TestRefusedMessagesOnBlockedConnection(t *testing.T) {
	opened := new(conns)
	cfg := listenOne(engine.Handler{Open: opened.open}, heartbeat.Config{})
	cfg.Listeners[0].Codec = codec.Native{MaxPayload: 60_000}
	cfg.Loops = 1
	srv := serve(t, cfg)
	c, peer, sent := blocked(t, srv, opened)
	refused := make(chan error, 200)
	// A little room, so that Send asks the codec at all.
	for range sent / 2 {
		if _, err := io.ReadFull(peer, make([]byte, 50_004)); err != nil {
			t.Fatal(err)
		}
	}
	for range 200 {
		_ = c.Post(func() { refused <- c.Send(make([]byte, 70_000)) })
	}
	for range 200 {
		select {
		case err := <-refused:
			if !errors.Is(err, codec.ErrTooLarge) && !errors.Is(err, engine.ErrBacklog) {
				t.Fatalf("Send of an oversized message: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("the loop hangs")
		}
	}
}

// Small messages sent one event at a time to a blocked connection cost their
// bytes, not a buffer each.
func TestBacklogMemory(t *testing.T) {
	opened := new(conns)
	cfg := listenOne(engine.Handler{Open: opened.open}, heartbeat.Config{})
	cfg.Backlog.High = 8 << 20
	srv := serve(t, cfg)
	peer := rawDial(t, srv)
	_ = peer.SetReadBuffer(readBuffer)
	c := opened.wait(t, 1)[0]
	for srv.Stats().Total.BytesOut == 0 || c.Send(make([]byte, 50_000)) == nil {
		before := srv.Stats().Total.BytesOut
		_ = c.Send(make([]byte, 50_000))
		time.Sleep(5 * time.Millisecond)
		if before > 0 && srv.Stats().Total.BytesOut == before {
			break
		}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const n = 20_000
	var done sync.WaitGroup
	done.Add(n)
	for range n {
		_ = c.Post(func() { defer done.Done(); _ = c.Send([]byte("small")) })
	}
	done.Wait()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Errorf("%d messages of 5 bytes hold %d bytes", n, grown)
	}
}

// Answers keep the order of their pings, and go on for as long as the peer
// reads, even if the backlog never empties.
func TestBeatsBehindBacklog(t *testing.T) {
	opened := new(conns)
	srv := serve(t, listenOne(engine.Handler{Open: opened.open}, heartbeat.Config{}))
	c, peer, _ := blocked(t, srv, opened)
	const rounds, each = 20, 20 // 16 bytes each: more than may wait at once
	next := 0
	var asked uint64
	for range rounds {
		for range each {
			write(t, peer, frame(t, codec.Ping, fmt.Appendf(nil, "%012d", asked)))
			asked++
		}
		time.Sleep(each * 10 * time.Millisecond) // as fast as a peer is answered
		eventually(t, "the pings are in", func() bool { return srv.Stats().Total.PingsIn == asked })
		for next < int(asked) {
			var h [4]byte
			if _, err := io.ReadFull(peer, h[:]); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, int(h[0])<<16|int(h[1])<<8|int(h[2]))
			if _, err := io.ReadFull(peer, b); err != nil {
				t.Fatal(err)
			}
			if codec.Kind(h[3]) != codec.Pong {
				_ = c.Send(b) // what is read is replaced: the backlog never empties
				continue
			}
			if want := fmt.Sprintf("%012d", next); string(b) != want {
				t.Fatalf("answer %s, want %s", b, want)
			}
			next++
		}
	}
}

// Answers that wait come in the order of the questions, also when the first were
// written into one buffer with data before there was a backlog. No answer waits
// for data that was sent after that before it.
func TestAnswersKeepTheirOrder(t *testing.T) {
	big := make([]byte, 900<<10)
	for _, before := range []int{0, 1, 3} { // answers in the first buffer
		t.Run(fmt.Sprint(before), func(t *testing.T) {
			opened := new(conns)
			cfg := listenOne(engine.Handler{
				Open:    opened.open,
				Message: func(c *engine.Conn, payload []byte) { _ = c.Send(big[:len(big)-int(payload[0])]) },
			}, heartbeat.Config{})
			cfg.SendBuffer = 64 << 10
			cfg.Backlog.High = 16 << 20
			srv := serve(t, cfg)
			peer := rawDial(t, srv)
			_ = peer.SetReadBuffer(readBuffer)
			c := opened.wait(t, 1)[0]

			// One segment, so that it is one event: data, answers, and data.
			asked := 0
			ask := func() []byte {
				asked++
				return frame(t, codec.Ping, fmt.Appendf(nil, "%012d", asked))
			}
			first := frame(t, codec.Data, []byte{0})
			for range before {
				first = append(first, ask()...)
			}
			write(t, peer, append(first, frame(t, codec.Data, []byte{1})...))
			eventually(t, "there is a backlog", func() bool {
				info := make(chan engine.Info, 1)
				if c.Post(func() { info <- c.Info() }) != nil {
					t.Fatal("closed")
				}
				return (<-info).Backlog > len(big)
			})
			for range 3 {
				write(t, peer, ask())
			}
			eventually(t, "the pings are in", func() bool { return srv.Stats().Total.PingsIn == uint64(asked) })

			answered, data := 0, 0
			for answered < asked || data < 2 {
				var h [4]byte
				if _, err := io.ReadFull(peer, h[:]); err != nil {
					t.Fatal(err)
				}
				b := make([]byte, int(h[0])<<16|int(h[1])<<8|int(h[2]))
				if _, err := io.ReadFull(peer, b); err != nil {
					t.Fatal(err)
				}
				if codec.Kind(h[3]) == codec.Data {
					data++
					continue
				}
				answered++
				if want := fmt.Sprintf("%012d", answered); string(b) != want {
					t.Fatalf("answer %s, want %s", b, want)
				}
				if data > 1 {
					t.Errorf("answer %d came behind data that was sent after the first answers", answered)
				}
			}
		})
	}
}
