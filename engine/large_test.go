package engine_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// Frames around the sizes at which buffers change come back whole and in order,
// however they are cut, and the end of the stream right behind a large one is no
// broken frame.
func TestLargeFrames(t *testing.T) {
	t.Parallel()
	cs := newCloses()
	cfg := listenOne(engine.Handler{Message: echo, Close: cs.note}, heartbeat.Config{})
	cfg.Backlog.High = 64 << 20
	srv := serve(t, cfg)
	for seed := range uint64(6) {
		random := rand.New(rand.NewPCG(seed, 1))
		sizes := []int{40_000, 70_000, 70_000, 70_000, 12, 70_000, 16 << 10, 16<<10 - 1, 200_000, 70_000, 65_532, 65_536}
		for range 60 {
			sizes = append(sizes, []int{20, 5_000, 33_000, 66_000, 70_000, 300_000}[random.IntN(6)]+random.IntN(9))
		}
		if seed%2 == 0 {
			sizes = append(sizes, 70_000, 70_000)
		}
		peer := rawDial(t, srv)
		failed := make(chan error, 1)
		go func() { failed <- sendCut(peer, random, sizes) }()
		header := make([]byte, 4)
		for i, size := range sizes {
			if _, err := io.ReadFull(peer, header); err != nil {
				t.Fatalf("seed %d, frame %d: %v", seed, i, err)
			}
			payload := make([]byte, int(header[0])<<16|int(header[1])<<8|int(header[2]))
			if _, err := io.ReadFull(peer, payload); err != nil || len(payload) != size || !isNumbered(payload, i) {
				t.Fatalf("seed %d, frame %d of %d bytes came back as one of %d: %v", seed, i, size, len(payload), err)
			}
		}
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
		if err := peer.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if e := cs.reason(t, engine.PeerClosed); e.Err != nil {
			t.Errorf("seed %d: the end of the stream is %v", seed, e.Err)
		}
	}
}

// sendCut sends numbered frames of those sizes in pieces of random lengths.
func sendCut(peer net.Conn, random *rand.Rand, sizes []int) error {
	var stream []byte
	for i, size := range sizes {
		payload := numberedPayload(i, size)
		stream = append(stream, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), byte(codec.Data))
		stream = append(stream, payload...)
	}
	for len(stream) > 0 {
		n := min(len(stream), []int{1, 4, 100, 40_000, 70_004, 500_000}[random.IntN(6)])
		if _, err := peer.Write(stream[:n]); err != nil {
			return err
		}
		stream = stream[n:]
	}
	return nil
}

// A large frame that stops after its first bytes has a deadline, also if one has
// come whole before.
func TestLargeFrameStops(t *testing.T) {
	t.Parallel()
	cs := newCloses()
	cfg := listenOne(engine.Handler{Message: echo, Close: cs.note}, heartbeat.Config{})
	cfg.FrameTimeout = 300 * time.Millisecond
	srv := serve(t, cfg)
	peer := rawDial(t, srv)
	whole := frame(t, codec.Data, make([]byte, 100_000))
	for range 3 {
		write(t, peer, whole)
		expect(t, peer, whole)
	}
	write(t, peer, whole[:100])
	if x := cs.next(t); engine.ReasonOf(x.err) != engine.FrameTimeout {
		t.Fatalf("closed with %v", x.err)
	}
}

// What a peer makes us hold for a frame that it does not send is in proportion to
// what it sent of it, also if it has sent a large one before.
func TestLargeFrameMemory(t *testing.T) {
	for _, sent := range []int{1, 100, 5000, 100_000, 1 << 20} {
		held := engine.Held(1<<20, make([]byte, sent))
		if held > 8*max(sent, 4<<10) {
			t.Errorf("of a frame of which %d bytes are there, %d are held", sent, held)
		}
	}
}

// A large message that the codec refuses leaves nothing behind, however often it is
// tried.
func TestRefusedLargeMessage(t *testing.T) {
	opened := new(conns)
	cfg := listenOne(engine.Handler{Open: opened.open}, heartbeat.Config{})
	cfg.Listeners[0].Codec = codec.Native{MaxPayload: 60_000}
	srv := serve(t, cfg)
	peer := rawDial(t, srv)
	c := opened.wait(t, 1)[0]
	grown := make(chan int64, 1)
	payload := make([]byte, 1<<20)
	if err := c.Post(func() { // on the loop, so that nothing is settled meanwhile
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 100 {
			if err := c.Send(payload); !errors.Is(err, codec.ErrTooLarge) {
				t.Errorf("Send says %v", err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		grown <- int64(after.HeapAlloc) - int64(before.HeapAlloc)
	}); err != nil {
		t.Fatal(err)
	}
	if n := <-grown; n > 16<<20 {
		t.Errorf("100 messages of 1 MiB that were refused take %d MiB", n>>20)
	}
	if err := c.Send([]byte("small")); err != nil {
		t.Error(err)
	}
	expect(t, peer, frame(t, codec.Data, []byte("small")))
}

// Buffers have room for what they are asked for, a quarter too much at most, and
// all buffers of a class have the same.
func TestSizeClasses(t *testing.T) {
	capacities := make(map[int]int)
	last := 0
	for size := 1; size <= 1<<21; size += 1 + size/500 {
		class, capacity := engine.SizeClass(size)
		if capacity < size || size > 512 && capacity > size+size/4+1 {
			t.Fatalf("for %d bytes there is room for %d", size, capacity)
		}
		if had := capacities[class]; had != 0 && had != capacity || class < last {
			t.Fatalf("class %d, after %d, is of %d and of %d bytes", class, last, had, capacity)
		}
		capacities[class], last = capacity, class
		if again, same := engine.SizeClass(capacity); again != class || same != capacity || engine.ClassCapacity(class) != capacity {
			t.Fatalf("%d bytes are of class %d, and its capacity of %d is of class %d", size, class, capacity, again)
		}
	}
}
