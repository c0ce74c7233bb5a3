package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/wire"
)

func stream(lengths ...int) []byte {
	var b []byte
	for i, n := range lengths {
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		b = append(b, bytes.Repeat([]byte{byte(i + 1)}, n)...)
	}
	return b
}

// TestFeed: however a stream is cut, what comes out is the stream, in whole
// frames, and nothing is kept at its end.
func TestFeed(t *testing.T) {
	want := stream(0, 1, 0, 3, 5_000, 0, 0, 64, 300, 4)
	random := rand.New(rand.NewPCG(1, 1))
	for round := range 2_000 {
		most := 1 + round%400
		var rest wire.Rest
		var got []byte
		for left := want; len(left) > 0; {
			n := min(len(left), 1+random.IntN(most))
			piece := bytes.Clone(left[:n])
			left = left[n:]
			first, frames, err := rest.Feed(piece)
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range [][]byte{first, frames} {
				if whole, err := wire.Whole(part); err != nil || whole != len(part) {
					t.Fatalf("%d of %d bytes are whole frames, %v", whole, len(part), err)
				}
			}
			got = append(append(got, first...), frames...)
			wire.Free(first)
			clear(piece) // the reader's buffer is used again
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("round %d: %d bytes came out, %d went in, or they differ", round, len(got), len(want))
		}
	}
}

// TestTooLarge: a frame above the limit is found wherever its header is cut.
func TestTooLarge(t *testing.T) {
	bad := binary.BigEndian.AppendUint32(stream(5), wire.MaxPayload+1)
	for cut := range bad {
		var rest wire.Rest
		_, _, err := rest.Feed(bad[:cut])
		if err != nil {
			t.Fatalf("cut at %d: %v before the header was complete", cut, err)
		}
		if _, _, err = rest.Feed(bad[cut:]); !errors.Is(err, wire.ErrTooLarge) {
			t.Errorf("cut at %d: %v", cut, err)
		}
		rest.Drop()
	}
	largest := stream(wire.MaxPayload)
	if whole, err := wire.Whole(largest); err != nil || whole != len(largest) {
		t.Errorf("the largest frame: %d, %v", whole, err)
	}
}

// TestRun: runs end where heartbeats begin and where they end.
func TestRun(t *testing.T) {
	rest := stream(0, 0, 3, 1, 0, 2)
	for i, want := range []struct {
		frames []byte
		beats  bool
	}{{stream(0, 0), true}, {rest[8:20], false}, {stream(0), true}, {rest[24:], false}} {
		run, after, beats := wire.Run(rest)
		if !bytes.Equal(run, want.frames) || beats != want.beats {
			t.Errorf("run %d is % x, heartbeats %v", i, run, beats)
		}
		rest = after
	}
	if len(rest) > 0 {
		t.Errorf("% x is left", rest)
	}
}

// TestAllocate: a buffer that was given back is not handed out too small.
func TestAllocate(t *testing.T) {
	for _, size := range []int{1, 64, 65, 4096, 4100, wire.Header + wire.MaxPayload} {
		for range 4 {
			b := wire.Allocate(size)
			if len(b) != 0 || cap(b) < size {
				t.Fatalf("for %d bytes came %d with room for %d", size, len(b), cap(b))
			}
			wire.Free(b)
		}
	}
	wire.Free(nil)
}
