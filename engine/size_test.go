package engine_test

import (
	"io"
	"reflect"
	"runtime"
	"testing"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A connection's own memory stays within its size class. What a timer looks at
// stands in the first two cache lines, and what an event touches in the second and
// third, lastRead and lastWrite of its liveness among it.
func TestConnSize(t *testing.T) {
	const line = 64
	if size := engine.ConnSize; size != 4*line {
		t.Errorf("a Conn takes %d bytes", size)
	}
	lastRead, _ := reflect.TypeFor[heartbeat.State]().FieldByName("lastRead")
	if at := engine.HeartOffset + lastRead.Offset; at != line {
		t.Errorf("lastRead stands at %d", at)
	}
	if engine.InOffset != line+16 || engine.CodecOffset != 2*line || engine.ValueOffset != 3*line {
		t.Errorf("in stands at %d, codec at %d, value at %d", engine.InOffset, engine.CodecOffset, engine.ValueOffset)
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
