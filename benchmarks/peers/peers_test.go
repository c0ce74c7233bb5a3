package peers_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/cc/cctest"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

const limit = 10 * time.Second

// frames returns one frame for each payload length. The content follows from
// the seed.
func frames(seed byte, lengths ...int) []byte {
	random := rand.NewChaCha8([32]byte{seed})
	var b []byte
	for _, n := range lengths {
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		b = append(b, make([]byte, n)...)
		random.Read(b[len(b)-n:]) // never fails
	}
	return b
}

func dial(t *testing.T, r *peers.Running) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", r.Port), limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// expect reads as much as was sent and compares. Answers to heartbeats may
// overtake data that waits for a slow reader; nothing else may change places.
func expect(t *testing.T, c net.Conn, sent []byte) {
	t.Helper()
	got := make([]byte, len(sent))
	if n, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("%v after %d of %d bytes", err, n, len(sent))
	}
	gotData, gotBeats := sorted(t, got)
	data, beats := sorted(t, sent)
	if gotBeats != beats {
		t.Fatalf("%d empty frames came back, %d were sent", gotBeats, beats)
	}
	if !bytes.Equal(gotData, data) {
		t.Fatal("the echo differs from what was sent")
	}
}

// sorted takes frames apart: those with content, and how many were empty.
func sorted(t *testing.T, b []byte) (data []byte, beats int) {
	t.Helper()
	for len(b) > 0 {
		if len(b) < 4 || uint64(len(b)-4) < uint64(binary.BigEndian.Uint32(b)) {
			t.Fatal("what came back is not made of whole frames")
		}
		n := 4 + int(binary.BigEndian.Uint32(b))
		if n == 4 {
			beats++
		} else {
			data = append(data, b[:n]...)
		}
		b = b[n:]
	}
	return data, beats
}

// TestDuties holds every peer to what is expected of all of them, so that none
// is fast because it leaves something out.
func TestDuties(t *testing.T) {
	cctest.Linux(t)
	all, err := peers.Lookup("")
	if err != nil {
		t.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(p peers.Peer) bool { return strings.Contains(p.Name, "@") }) // the same programs
	servers, err := peers.Build(t.Context(), t.TempDir(), all)
	cctest.Check(t, err)
	for _, server := range servers {
		t.Run(server.Name, func(t *testing.T) {
			// The cleanup below outlives the test's context.
			r, err := server.Start(context.WithoutCancel(t.Context()), proc.AnyCPU)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { // after the connections of the subtests
				if _, err := r.WaitOpen(0); err != nil {
					t.Error(err)
				}
				if err := r.Stop(); err != nil {
					t.Error(err)
				}
			})
			t.Run("split=1B", func(t *testing.T) { splitEverywhere(t, r) })
			t.Run("split=random", func(t *testing.T) { splitAtRandom(t, r) })
			t.Run("slow-reader", func(t *testing.T) { slowReader(t, r) })
			t.Run("largest", func(t *testing.T) { largest(t, r) })
			t.Run("too-large", func(t *testing.T) { tooLarge(t, r) })
			t.Run("half-close", func(t *testing.T) { halfClose(t, r) })
			t.Run("report", func(t *testing.T) { reports(t, r) })
		})
	}
}

// splitEverywhere sends byte by byte, with TCP_NODELAY, which Go sets.
func splitEverywhere(t *testing.T, r *peers.Running) {
	c := dial(t, r)
	stream := frames(1, 0, 1, 0, 3, 64, 0, 0, 300)
	for i := range stream {
		if _, err := c.Write(stream[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, c, stream)
}

func splitAtRandom(t *testing.T, r *peers.Running) {
	random := rand.New(rand.NewPCG(2, 2))
	c := dial(t, r)
	var lengths []int
	for range 200 {
		lengths = append(lengths, []int{0, 1, 64, 5_000, 70_000}[random.IntN(5)])
	}
	stream := frames(2, lengths...)
	written := make(chan error, 1)
	go func() {
		for rest := stream; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN([]int{6, 100, 90_000}[random.IntN(3)]))
			if _, err := c.Write(rest[:n]); err != nil {
				written <- err
				return
			}
			rest = rest[n:]
		}
		written <- nil
	}()
	expect(t, c, stream)
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// slowReader lets answers pile up until the server's writes are taken in part
// or not at all.
func slowReader(t *testing.T, r *peers.Running) {
	c := dial(t, r)
	var lengths []int
	for range 30 { // more than a socket may hold of what is not read
		lengths = append(lengths, 200_000, 0, 10)
	}
	stream := frames(3, lengths...)
	written := make(chan error, 1)
	go func() {
		_, err := c.Write(stream)
		written <- err
	}()
	time.Sleep(100 * time.Millisecond) // being slow is the point
	expect(t, c, stream)
	if err := <-written; err != nil {
		t.Error(err)
	}
}

func largest(t *testing.T, r *peers.Running) {
	c := dial(t, r)
	stream := frames(4, 10, peers.MaxPayload, 0, peers.MaxPayload, 10)
	written := make(chan error, 1)
	go func() {
		_, err := c.Write(stream)
		written <- err
	}()
	expect(t, c, stream)
	if err := <-written; err != nil {
		t.Error(err)
	}
}

func tooLarge(t *testing.T, r *peers.Running) {
	before, after := dial(t, r), dial(t, r)
	for _, c := range []net.Conn{before, after} {
		// The second offence hides behind a frame that is fine.
		stream := frames(5, 10)
		if c == before {
			stream = nil
		}
		stream = binary.BigEndian.AppendUint32(stream, peers.MaxPayload+1)
		if _, err := c.Write(append(stream, 1, 2, 3)); err != nil {
			t.Fatal(err)
		}
		_, err := io.Copy(io.Discard, c)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Error("a frame above the limit did not end its connection")
		}
	}
	alive := dial(t, r)
	beat := frames(0, 0)
	if _, err := alive.Write(beat); err != nil {
		t.Fatal(err)
	}
	expect(t, alive, beat)
}

// halfClose: what was asked before the end of the stream is still answered.
func halfClose(t *testing.T, r *peers.Running) {
	c := dial(t, r)
	stream := frames(6, 64, 0, 64)
	if _, err := c.Write(stream); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	expect(t, c, stream)
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the answers came %d bytes, %v; want the end", n, err)
	}
}

func reports(t *testing.T, r *peers.Running) {
	before, err := r.Collect()
	if err != nil {
		t.Fatal(err)
	}
	beat := frames(0, 0)
	for range 3 {
		c := dial(t, r)
		if _, err := c.Write(beat); err != nil {
			t.Fatal(err)
		}
		expect(t, c, beat)
	}
	report, err := r.WaitOpen(3) // those of earlier subtests may still be closing
	if err != nil {
		t.Fatal(err)
	}
	if report.Verdicts != 0 || report.Goroutines > 16 || report.Closed < before.Closed {
		t.Errorf("report %+v", report)
	}
}

func TestLookup(t *testing.T) {
	names := func(list string) (s []string) {
		found, err := peers.Lookup(list)
		if err != nil {
			t.Fatalf("%q: %v", list, err)
		}
		for _, p := range found {
			s = append(s, p.Name)
		}
		return s
	}
	if got := names("gnet@3,cfloor"); len(got) != 2 || got[0] != "gnet@3" || got[1] != "cfloor" {
		t.Errorf("Lookup = %v", got)
	}
	if got := names(""); len(got) == 0 || got[0] != peers.Floor {
		t.Errorf("the defaults are %v", got)
	}
	for _, bad := range []string{"nobody", "gnet,", "gnet@0", "gnet@x", "cfloor@2"} {
		if _, err := peers.Lookup(bad); err == nil {
			t.Errorf("Lookup(%q) found something", bad)
		}
	}
}
