package codec_test

import (
	"bytes"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
)

func TestNativeConfig(t *testing.T) {
	for _, test := range []struct {
		max  int
		want int // 0: an error
	}{
		{0, codec.DefaultMaxPayload},
		{1, 1},
		{1<<24 - 1, 1<<24 - 1},
		{1 << 24, 0},
		{math.MaxInt, 0},
		{-1, 0},
		{math.MinInt, 0},
	} {
		c, err := codec.Native{MaxPayload: test.max}.Codec()
		if test.want == 0 {
			e, _ := errors.AsType[*codec.Error](err)
			if !errors.Is(err, codec.ErrConfig) || e.Field != "Native.MaxPayload" || c != nil {
				t.Errorf("MaxPayload %d: %v, %v", test.max, c, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("MaxPayload %d: %v", test.max, err)
			continue
		}
		if _, _, need, err := c.Decode(nativeHeader(test.want, 0)); need != 4+test.want || err != nil {
			t.Errorf("MaxPayload %d: largest frame: need %d, %v", test.max, need, err)
		}
		if test.want < 1<<24-1 {
			if _, n, need, err := c.Decode(nativeHeader(test.want+1, 0)); n != 0 || need != 0 || !errors.Is(err, codec.ErrTooLarge) {
				t.Errorf("MaxPayload %d: a byte more: %d, %d, %v", test.max, n, need, err)
			}
		}
	}
}

func nativeHeader(size int, kind codec.Kind) []byte {
	return []byte{byte(size >> 16), byte(size >> 8), byte(size), byte(kind)}
}

func TestNativeVectors(t *testing.T) {
	c := mustCodec(t, codec.Native{})
	for _, test := range []struct {
		wire    string
		kind    codec.Kind
		payload string
	}{
		{"000000 00", codec.Data, ""},
		{"000003 00 616263", codec.Data, "616263"},
		{"000000 01", codec.Ping, ""},
		{"00000c 01 0102030405060708 00007530", codec.Ping, "0102030405060708 00007530"},
		{"000000 02", codec.Pong, ""},
		{"00000c 02 0102030405060708 00007530", codec.Pong, "0102030405060708 00007530"},
		{"000005 03 00001388 01", codec.GoAway, "00001388 01"},
		{"000000 04", codec.Close, ""},
		{"000005 05 0001 0001 78", codec.Hello, "0001 0001 78"},
		{"000001 06 07", codec.Ack, "07"},
		{"000001 80 07", codec.AppKind, "07"},
		{"000001 ff 07", 0xff, "07"},
	} {
		wire := unhex(test.wire)
		f, n, err := decodeOne(t, c, append(wire, "next frame"...), 4+codec.DefaultMaxPayload)
		if err != nil || n != len(wire) || f.Kind != test.kind || !bytes.Equal(f.Payload, unhex(test.payload)) {
			t.Errorf("Decode(%s) = %v, %d, %v", test.wire, f, n, err)
			continue
		}
		got, err := c.Append([]byte("x"), f.Kind, f.Payload)
		if err != nil || !bytes.Equal(got[1:], wire) {
			t.Errorf("Append(kind %d) = % x, %v, want %s", f.Kind, got, err, test.wire)
		}
	}
}

func TestNativeMalformed(t *testing.T) {
	c := mustCodec(t, codec.Native{MaxPayload: 1000})
	dst, payload := []byte("x"), make([]byte, 1<<24)
	for kind := range 256 {
		for _, size := range []int{0, 1, 5, 11, 12, 13, 24, 1000, 1001, 1<<24 - 1} {
			kind := codec.Kind(kind)
			var decode, encode error
			switch {
			case kind == codec.Ping || kind == codec.Pong:
				if size != 0 && size != 12 {
					decode, encode = codec.ErrMalformed, codec.ErrMalformed
				}
			case kind > codec.Ack && kind < codec.AppKind:
				decode, encode = codec.ErrMalformed, codec.ErrUnsupported
			case size > 1000:
				decode, encode = codec.ErrTooLarge, codec.ErrTooLarge
			}
			// A header is all it takes.
			_, n, need, err := c.Decode(nativeHeader(size, kind))
			if !errors.Is(err, decode) || err == nil && n == 0 && need != 4+size || err != nil && n+need != 0 {
				t.Errorf("kind %#x, %d bytes: n %d, need %d, %v", kind, size, n, need, err)
			}
			got, err := c.Append(dst, kind, payload[:size])
			if !errors.Is(err, encode) || err != nil && string(got) != "x" || err == nil && len(got) != 1+4+size {
				t.Errorf("append kind %#x, %d bytes: %d, %v", kind, size, len(got), err)
			}
		}
	}
}

func TestNativeHeartbeatPassesAnyMaximum(t *testing.T) {
	c := mustCodec(t, codec.Native{MaxPayload: 1})
	ping := c.AppendPing(nil, codec.Beat{Stamp: 9, HasStamp: true})
	if f, n, _, err := c.Decode(ping); n != len(ping) || f.Kind != codec.Ping || err != nil {
		t.Errorf("%v, %d, %v", f, n, err)
	}
}

func TestNativeBeat(t *testing.T) {
	c := mustCodec(t, codec.Native{})
	if p := c.Properties(); p != (codec.Properties{
		Pingers: codec.BothSide, Directed: true, Answered: true, Stamped: true, StampMask: math.MaxUint64,
	}) {
		t.Errorf("properties %+v", p)
	}
	const longest = math.MaxUint32 * time.Millisecond
	for _, test := range []struct {
		in   codec.Beat
		size int
		out  codec.Beat
	}{
		{codec.Beat{}, 0, codec.Beat{}},
		{codec.Beat{HasStamp: true}, 12, codec.Beat{HasStamp: true}},
		{codec.Beat{Stamp: math.MaxUint64}, 12, codec.Beat{Stamp: math.MaxUint64, HasStamp: true}},
		{codec.Beat{Stamp: 1 << 63, HasStamp: true, Interval: 30 * time.Second}, 12, codec.Beat{Stamp: 1 << 63, HasStamp: true, Interval: 30 * time.Second}},
		{codec.Beat{Interval: 1}, 12, codec.Beat{HasStamp: true, Interval: time.Millisecond}},
		{codec.Beat{Interval: time.Millisecond + 1}, 12, codec.Beat{HasStamp: true, Interval: 2 * time.Millisecond}},
		{codec.Beat{Interval: math.MaxInt64}, 12, codec.Beat{HasStamp: true, Interval: longest}},
		{codec.Beat{Interval: -1}, 12, codec.Beat{HasStamp: true}},
	} {
		wire := c.AppendPing([]byte("x"), test.in)
		ping, n, _, err := c.Decode(wire[1:])
		if err != nil || n != len(wire)-1 || ping.Kind != codec.Ping || len(ping.Payload) != test.size {
			t.Errorf("ping of %+v: %v, %v", test.in, ping, err)
			continue
		}
		if got := c.Beat(ping.Kind, ping.Payload); got != test.out {
			t.Errorf("beat of %+v: %+v, want %+v", test.in, got, test.out)
		}
		wire = c.AppendPong([]byte("x"), ping.Payload)
		pong, n, _, err := c.Decode(wire[1:])
		if err != nil || n != len(wire)-1 || pong.Kind != codec.Pong || !bytes.Equal(pong.Payload, ping.Payload) {
			t.Errorf("pong of %+v: %v, %v", test.in, pong, err)
			continue
		}
		want := test.out
		want.Interval = 0 // the answering side announced nothing
		if got := c.Beat(pong.Kind, pong.Payload); got != want {
			t.Errorf("beat of the pong to %+v: %+v, want %+v", test.in, got, want)
		}
	}
	for _, n := range []int{1, 11, 13, 1 << 24} {
		if got := c.AppendPong(nil, make([]byte, n)); !bytes.Equal(got, unhex("000000 02")) {
			t.Errorf("pong to a payload of %d bytes: % x", n, got[:min(len(got), 16)])
		}
	}
}

func FuzzNative(f *testing.F) {
	f.Add(uint32(0), unhex("000000 01 00000c 02 000102030405060708090a0b 000005 03 00001388 01 000003 00 616263"))
	f.Add(uint32(2), unhex("000003 00 616263"))
	f.Add(uint32(1<<24-1), unhex("ffffff 80 00"))
	f.Add(uint32(9), unhex("000001 7f 00"))
	f.Fuzz(func(t *testing.T, limit uint32, b []byte) {
		native := codec.Native{MaxPayload: int(limit % (1 << 24))}
		c := mustCodec(t, native)
		if native.MaxPayload == 0 {
			native.MaxPayload = codec.DefaultMaxPayload
		}
		b = b[:min(len(b), 400)]
		for rest := b; ; {
			frame, n, err := decodeOne(t, c, rest, 4+max(native.MaxPayload, 12))
			if n == 0 || err != nil {
				break
			}
			again, err := c.Append(nil, frame.Kind, frame.Payload)
			if err != nil || !bytes.Equal(again, rest[:n]) {
				t.Fatalf("% x becomes % x, %v", rest[:n], again, err)
			}
			if frame.Kind == codec.Ping {
				beat := c.Beat(frame.Kind, frame.Payload)
				if got := c.AppendPing(nil, beat); !bytes.Equal(got, rest[:n]) {
					t.Fatalf("% x becomes % x by way of %+v", rest[:n], got, beat)
				}
			}
			if frame.Kind == codec.GoAway {
				if g, err := codec.ParseGoAway(frame.Payload); err == nil && !bytes.Equal(g.Append(nil), frame.Payload[:5]) {
					t.Fatalf("% x becomes % x", frame.Payload, g.Append(nil))
				}
			}
			if frame.Kind == codec.Hello {
				if h, err := codec.ParseHello(frame.Payload); err == nil {
					if got, err := h.Append(nil); err != nil || !bytes.HasPrefix(frame.Payload, got) {
						t.Fatalf("% x becomes % x, %v", frame.Payload, got, err)
					}
				}
			}
			rest = rest[n:]
		}
		checkSplits(t, c, b)
	})
}
