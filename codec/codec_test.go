package codec_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/pulsewheel/pulsewheel/codec"
)

// unhex reads hexadecimal bytes; blanks are ignored.
func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic(err)
	}
	return b
}

func mustCodec(t testing.TB, f codec.Factory) codec.Codec {
	t.Helper()
	c, err := f.Codec()
	if err != nil {
		t.Fatalf("Codec: %v", err)
	}
	return c
}

// kinds of error that Decode may return.
func cause(err error) error {
	for _, cause := range []error{codec.ErrMalformed, codec.ErrTooLarge, codec.ErrUnsupported, codec.ErrConfig} {
		if errors.Is(err, cause) {
			return cause
		}
	}
	return err
}

func sameFrame(a, b codec.Frame) bool {
	return a.Kind == b.Kind && bytes.Equal(a.Payload, b.Payload)
}

func clone(f codec.Frame) codec.Frame {
	f.Payload = bytes.Clone(f.Payload)
	return f
}

// decodeOne decodes the front of b and checks what the contract says of every
// prefix of b: need exceeds what is there, never shrinks, never exceeds max,
// and an error once seen stays.
func decodeOne(t testing.TB, c codec.Codec, b []byte, max int) (codec.Frame, int, error) {
	t.Helper()
	f, n, need, err := c.Decode(b)
	if n != 0 && (err != nil || need != 0) || n == 0 && err != nil && need != 0 || n < 0 || n > len(b) {
		t.Fatalf("Decode(% x) = n %d, need %d, err %v", b, n, need, err)
	}
	if err == nil && n == 0 && (need <= len(b) || need > max) {
		t.Fatalf("Decode(% x): need %d of at most %d, has %d", b, need, max, len(b))
	}
	if n > max {
		t.Fatalf("Decode(% x): n %d of at most %d", b, n, max)
	}
	if n != 0 && cap(f.Payload) != len(f.Payload) {
		t.Fatalf("payload of %d bytes has capacity %d: it reaches into the next frame", len(f.Payload), cap(f.Payload))
	}
	last, failed := 0, false
	for i := range b {
		pf, pn, pneed, perr := c.Decode(b[:i])
		switch {
		case n != 0 && i >= n:
			if pn != n || perr != nil || !sameFrame(f, pf) {
				t.Fatalf("Decode(% x) = %v, n %d, err %v; with %d bytes more %v, n %d", b[:i], pf, pn, perr, len(b)-i, f, n)
			}
		case perr != nil:
			if err == nil || cause(err) != cause(perr) {
				t.Fatalf("Decode(% x): %v; with %d bytes more %v", b[:i], perr, len(b)-i, err)
			}
			failed = true
		case failed:
			t.Fatalf("Decode(% x) forgot its error", b[:i])
		case pn != 0:
			t.Fatalf("Decode(% x): n %d; with %d bytes more n %d", b[:i], pn, len(b)-i, n)
		case pneed <= i || pneed > max || pneed < last || n != 0 && pneed > n || err == nil && n == 0 && pneed > need:
			t.Fatalf("Decode(% x): need %d after %d, at most %d; with %d bytes more n %d, need %d", b[:i], pneed, last, max, len(b)-i, n, need)
		default:
			last = pneed
		}
	}
	return f, n, err
}

// stream reads chunks as an engine does: it keeps the tail, and asks again when
// as much as was needed is there.
func stream(c codec.Codec, chunks ...[]byte) (frames []codec.Frame, err error) {
	c = c.PerConn()
	var buf []byte
	want := 0
	for _, chunk := range chunks {
		buf = append(buf, chunk...)
		for len(buf) > 0 && len(buf) >= want {
			f, n, need, err := c.Decode(buf)
			if err != nil {
				return frames, err
			}
			if want = need; n == 0 {
				break
			}
			frames = append(frames, clone(f))
			buf = bytes.Clone(buf[n:]) // a slice that outlives its buffer shows up
		}
	}
	return frames, nil
}

// checkSplits cuts b in two at every byte, and into single bytes, and compares
// the frames.
func checkSplits(t testing.TB, c codec.Codec, b []byte) {
	t.Helper()
	want, wantErr := stream(c, b)
	compare := func(how string, got []codec.Frame, err error) {
		t.Helper()
		if cause(err) != cause(wantErr) || len(got) != len(want) {
			t.Fatalf("%s: %d frames, error %v; in one piece %d, %v", how, len(got), err, len(want), wantErr)
		}
		for i := range got {
			if !sameFrame(got[i], want[i]) {
				t.Fatalf("%s: frame %d is %v; in one piece %v", how, i, got[i], want[i])
			}
		}
	}
	single := make([][]byte, len(b))
	for i := range b {
		got, err := stream(c, b[:i], b[i:])
		compare(fmt.Sprintf("split at %d", i), got, err)
		single[i] = b[i : i+1]
	}
	got, err := stream(c, single...)
	compare("byte by byte", got, err)
}

func TestCodecsAreSharedSafely(t *testing.T) {
	for _, factory := range []codec.Factory{codec.Native{}, codec.Length4(), mqtt, smpp, amqp} {
		c := mustCodec(t, factory)
		if c.PerConn() != c {
			t.Errorf("%T: PerConn is not the codec itself", c)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for i := range 100 {
					buf := c.AppendPing(nil, codec.Beat{Stamp: uint64(i), HasStamp: true})
					ping, n, _, err := c.Decode(buf)
					if err != nil || n != len(buf) || ping.Kind != codec.Ping {
						t.Errorf("%T: a ping of its own: %v, %d, %v", c, ping, n, err)
						return
					}
					if c.Properties().Answered {
						c.AppendPong(nil, ping.Payload)
					}
				}
			})
		}
		wg.Wait()
	}
}

func TestNoAllocs(t *testing.T) {
	payload := bytes.Repeat([]byte{1}, 64)
	smppPDU := append(unhex("00000050 00000004 00000000 00000002"), payload...)
	amqpFrame := append(unhex("01 0001 00000040"), payload...)
	mqttPacket := append(unhex("30 40"), payload...)
	for name, test := range map[string]struct {
		factory codec.Factory
		data    []byte
	}{
		"native":  {codec.Native{}, payload},
		"length4": {codec.Length4(), payload},
		"mqtt":    {mqtt, mqttPacket},
		"smpp":    {smpp, smppPDU},
		"amqp":    {amqp, amqpFrame},
	} {
		t.Run(name, func(t *testing.T) {
			c := mustCodec(t, test.factory)
			frame, err := c.Append(nil, codec.Data, test.data)
			if err != nil {
				t.Fatal(err)
			}
			ping := c.AppendPing(nil, codec.Beat{Stamp: 7, HasStamp: true})
			pingFrame, _, _, err := c.Decode(ping)
			if err != nil {
				t.Fatal(err)
			}
			var buf [256]byte
			for what, f := range map[string]func(){
				"Decode":         func() { c.Decode(frame) },
				"Decode part":    func() { c.Decode(frame[:len(frame)-1]) },
				"Decode ping":    func() { c.Decode(ping) },
				"Append":         func() { c.Append(buf[:0], codec.Data, test.data) },
				"Append ping":    func() { c.Append(buf[:0], codec.Ping, pingFrame.Payload) },
				"AppendPing":     func() { c.AppendPing(buf[:0], codec.Beat{Stamp: 7, HasStamp: true}) },
				"AppendPong":     func() { c.AppendPong(buf[:0], pingFrame.Payload) },
				"Beat":           func() { c.Beat(codec.Ping, pingFrame.Payload) },
				"Properties":     func() { c.Properties() },
				"PerConn":        func() { c.PerConn() },
				"Decode nothing": func() { c.Decode(nil) },
			} {
				if n := testing.AllocsPerRun(100, f); n != 0 {
					t.Errorf("%s: %v allocations", what, n)
				}
			}
		})
	}
}

// An error must cost the same whatever the peer claims and however much it sent.
func TestErrorsCostNoInput(t *testing.T) {
	huge := bytes.Repeat([]byte{0xff}, 1<<20)
	for _, factory := range []codec.Factory{codec.Native{}, codec.Length4(), mqtt, bgp, amqp, iec104, codec.LengthField{Size: 8}} {
		c := mustCodec(t, factory)
		if _, _, _, err := c.Decode(huge); err == nil {
			t.Errorf("%+v: no error", factory)
		}
		const runs = 1000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			c.Decode(huge)
		}
		runtime.ReadMemStats(&after)
		if n := (after.TotalAlloc - before.TotalAlloc) / runs; n > 1024 {
			t.Errorf("%+v: a failing Decode of 1 MiB allocates %d bytes", factory, n)
		}
	}
}

// benchmarked are the codecs of the benchmarks.
var benchmarked = []struct {
	name    string
	factory codec.Factory
}{
	{"native", codec.Native{}},
	{"length4", codec.Length4()},
	{"base128", codec.LengthField{Size: codec.Base128, Strip: codec.StripHeader}},
}

func BenchmarkDecode(b *testing.B) {
	for _, test := range benchmarked {
		b.Run("codec="+test.name+"/payload=64B", func(b *testing.B) {
			c := mustCodec(b, test.factory)
			frame, err := c.Append(nil, codec.Data, make([]byte, 64))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, n, _, err := c.Decode(frame); n != len(frame) || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, test := range benchmarked {
		b.Run("codec="+test.name+"/payload=64B", func(b *testing.B) {
			c := mustCodec(b, test.factory)
			dst, payload := make([]byte, 0, 128), make([]byte, 64)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Append(dst, codec.Data, payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
