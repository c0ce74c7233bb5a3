package engine_test

import (
	"io"
	"runtime"
	"testing"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A connection's own memory stays within its size class, and what a timer looks
// at in two cache lines, what an event does in three.
func TestConnSize(t *testing.T) {
	if size := engine.ConnSize; size > 256 {
		t.Errorf("a Conn takes %d bytes", size)
	}
	const line = 64
	if engine.HeartOffset != 0 || engine.LoopOffset >= 2*line || engine.HeldOffset >= 3*line {
		t.Errorf("in a Conn, heart stands at %d, loop at %d, held at %d", engine.HeartOffset, engine.LoopOffset, engine.HeldOffset)
	}
}

// An echoed message and an answered heartbeat allocate nothing.
func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget on purpose")
	}
	srv := serve(t, listenOne(engine.Handler{Message: echo}, heartbeat.Relaxed()))
	c := rawDial(t, srv)
	data := frame(t, codec.Data, make([]byte, 64))
	ping := frame(t, codec.Ping, make([]byte, 12))
	answer := make([]byte, max(len(data), len(ping)))
	exchange := func(b []byte) {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, answer[:len(b)]); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range map[string][]byte{"data": data, "ping": ping} {
		warm, n := 100, 2000
		if name == "ping" {
			warm, n = 10, 90 // as many as are answered at once
		}
		for range warm {
			exchange(b)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range n {
			exchange(b)
		}
		runtime.ReadMemStats(&after)
		// The pools of buffers may be emptied by a collection meanwhile.
		if per := float64(after.Mallocs-before.Mallocs) / float64(n); per > 0.1 {
			t.Errorf("%s: %.2f allocations a frame", name, per)
		}
	}
}
