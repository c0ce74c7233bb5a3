package codec_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/pulsewheel/pulsewheel/codec"
)

// prefixers are formats of every shape: those in which a payload can be framed
// in place, and those in which it cannot, because something follows it, because
// it holds the length field itself, or because its header varies.
var prefixers = map[string]struct {
	codec.Factory
	// frames tells of a payload of some length whether it must be framed in
	// place as data; nil: never.
	frames func(n int) bool
}{
	"native":         {codec.Native{}, func(n int) bool { return n <= codec.DefaultMaxPayload }},
	"native, small":  {codec.Native{MaxPayload: 100}, func(n int) bool { return n <= 100 }},
	"native, most":   {codec.Native{MaxPayload: 1<<24 - 1}, func(n int) bool { return n < 1<<24 }},
	"length4":        {codec.Length4(), func(n int) bool { return n > 0 && n <= 1<<20-4 }},
	"u8":             {codec.LengthField{Size: 1, Strip: codec.StripHeader}, func(n int) bool { return n > 0 && n <= 255 }},
	"u8, counts all": {codec.LengthField{Size: 1, Adjust: -1, Strip: codec.StripHeader}, func(n int) bool { return n > 0 && n <= 254 }},
	"u16, little":    {codec.LengthField{Size: 2, LittleEndian: true, Strip: codec.StripHeader}, func(n int) bool { return n > 0 && n <= 65535 }},
	"u24":            {codec.LengthField{Size: 3, Strip: codec.StripHeader, MaxFrame: 5000}, func(n int) bool { return n > 0 && n <= 5000-3 }},
	"u64, adjusted":  {codec.LengthField{Size: 8, Adjust: 30, Strip: codec.StripHeader, MaxFrame: 9000}, func(n int) bool { return n > 30 && n <= 9000-8 }},
	"header": {codec.LengthField{
		Offset: 3, Size: 2, Adjust: -5, Strip: 9, Header: []byte{1, 2, 3, 0, 0, 6, 7}, MinFrame: 12,
	}, func(n int) bool { return n > 3 && n <= 65535-9 }},
	"marker": {codec.LengthField{
		Offset: 4, Size: 2, Strip: codec.StripHeader, Marker: []byte{0x68, 0x69}, MarkerOffset: 1, Header: []byte{9},
	}, func(n int) bool { return n > 0 && n <= 65535 }},

	"kept":               {codec.LengthField{Size: 4}, nil},
	"kept, prefix cut":   {codec.LengthField{Offset: 2, Size: 2, Strip: 2, Header: []byte{7, 8}}, nil},
	"trailer":            {codec.LengthField{Size: 2, Trailer: []byte{0xce}, Strip: codec.StripHeader}, nil},
	"base 128":           {codec.LengthField{Size: codec.Base128, Strip: codec.StripHeader}, nil},
	"base 128, kept":     {mqtt, nil},
	"heartbeat by value": {smpp, nil},
	"bgp":                {bgp, nil},
	"amqp":               {amqp, nil},
	"iec104":             {iec104, nil},
}

// checkPrefix compares AppendPrefix with Append for one payload behind dst, and
// reports whether it framed it.
func checkPrefix(t testing.TB, c codec.Codec, dst []byte, kind codec.Kind, payload []byte) bool {
	t.Helper()
	p, ok := c.(codec.Prefixer)
	if !ok {
		t.Fatalf("%T is no Prefixer", c)
	}
	wantDst, wantPayload := bytes.Clone(dst), bytes.Clone(payload)
	whole, wholeErr := c.Append(bytes.Clone(dst), kind, payload)
	out, err := p.AppendPrefix(dst, kind, payload)
	if !bytes.Equal(dst, wantDst) || !bytes.Equal(payload, wantPayload) {
		t.Fatalf("kind %d, %d bytes: dst or payload was changed", kind, len(payload))
	}
	if err != nil {
		if len(out) != len(dst) || cap(out) != cap(dst) || !bytes.Equal(out, wantDst) {
			t.Fatalf("kind %d, %d bytes: dst is not returned as it was beside %v", kind, len(payload), err)
		}
		return false
	}
	if wholeErr != nil {
		t.Fatalf("kind %d, %d bytes: a prefix for what Append refuses: %v", kind, len(payload), wholeErr)
	}
	if got := append(bytes.Clone(out), payload...); !bytes.Equal(got, whole) {
		n := min(len(whole), len(dst)+32)
		t.Fatalf("kind %d, %d bytes: prefix % x, want the beginning of % x", kind, len(payload), out[len(dst):], whole[len(dst):n])
	}
	// Of nothing does it keep or hand out a reference: neither of the payload
	// nor of what belongs to the codec.
	prefix := bytes.Clone(out)
	for i := range payload {
		payload[i] ^= 0xff
	}
	if !bytes.Equal(out, prefix) {
		t.Fatalf("kind %d, %d bytes: the prefix changes with the payload", kind, len(payload))
	}
	for i := range payload {
		payload[i] ^= 0xff
	}
	for i := range out {
		out[i] ^= 0xff
	}
	again, err := p.AppendPrefix(wantDst, kind, payload)
	if err != nil || !bytes.Equal(again, prefix) {
		t.Fatalf("kind %d, %d bytes: after the first was written to, the second is % x, %v; want % x", kind, len(payload), again, err, prefix)
	}
	if !bytes.Equal(payload, wantPayload) {
		t.Fatalf("kind %d, %d bytes: the prefix aliases the payload", kind, len(payload))
	}
	copy(dst, wantDst)
	return true
}

// A prefix with the payload behind it is the frame that Append makes, byte for
// byte, or there is none and dst is as it was: for any payload, kind and dst.
// Where a payload can be framed in place, it is.
func TestAppendPrefix(t *testing.T) {
	for name, test := range prefixers {
		t.Run(name, func(t *testing.T) {
			c := mustCodec(t, test.Factory)
			r := rand.New(rand.NewPCG(1, 2))
			framed := 0
			check := func(n int) {
				payload := make([]byte, n)
				for i := range min(n, 64) {
					payload[i] = byte(r.Uint32())
				}
				dst := make([]byte, r.IntN(20), 20+r.IntN(200))
				for i := range dst {
					dst[i] = byte(r.Uint32())
				}
				if r.IntN(4) == 0 {
					dst = dst[:len(dst):len(dst)] // no room
				}
				ok := checkPrefix(t, c, dst, codec.Data, payload)
				if want := test.frames != nil && test.frames(n); ok != want {
					t.Fatalf("%d bytes are framed in place: %v, want %v", n, ok, want)
				}
				if ok {
					framed++
				}
				if n > 0 && n < 1000 {
					// The payload may be the front of a larger buffer, and dst its end.
					buf := make([]byte, n+100)
					copy(buf, payload)
					checkPrefix(t, c, buf[n:n+3:n+60], codec.Data, buf[:n:n])
				}
				for _, kind := range []codec.Kind{codec.Ping, codec.Pong, codec.GoAway, codec.Hello, 0x45, codec.AppKind, codec.AppKind + 1} {
					if n < 2000 {
						checkPrefix(t, c, dst, kind, payload)
					}
				}
			}
			edges := []int{0, 1, 2, 3, 4, 11, 12, 13, 99, 100, 101, 255, 256, 4992, 4997, 4998, 8992, 8993, 65526, 65527, 65535, 65536, 1<<20 - 4, 1<<20 - 3, 1 << 20, 1<<20 + 1}
			if name == "native, most" {
				edges = append(edges, 1<<24-1, 1<<24)
			}
			for _, n := range edges {
				check(n)
			}
			for range 2000 {
				check(r.IntN(1 << r.IntN(12)))
			}
			if (framed > 0) != (test.frames != nil) {
				t.Errorf("%d payloads were framed in place", framed)
			}
		})
	}
}

// The same for formats that nobody thought of.
func TestAppendPrefixOfRandomFormats(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	framed, formats := 0, 0
	var last codec.LengthField
	defer func() {
		if t.Failed() {
			t.Logf("format %+v", last)
		}
	}()
	for formats < 3000 {
		l := codec.LengthField{
			Offset:       r.IntN(6),
			Size:         []int{1, 2, 3, 4, 8, codec.Base128}[r.IntN(6)],
			LittleEndian: r.IntN(2) == 0,
			Adjust:       r.IntN(20) - 10,
			MinFrame:     r.IntN(20),
			Strip:        []int{codec.StripHeader, codec.StripHeader, 0, r.IntN(12)}[r.IntN(4)],
		}
		if r.IntN(2) == 0 {
			l.MaxFrame = 20 + r.IntN(2000)
		}
		if r.IntN(3) == 0 {
			l.Header = []byte{1, 2, 3, 4, 5, 6, 7, 8}[:r.IntN(8)]
		}
		if r.IntN(4) == 0 {
			l.Marker, l.MarkerOffset = []byte{0xaa, 0xbb}[:1+r.IntN(2)], r.IntN(5)
		}
		if r.IntN(5) == 0 {
			l.Trailer = []byte{0xce}
		}
		c, err := l.Codec()
		if err != nil {
			continue
		}
		formats++
		last = l
		for range 20 {
			payload := make([]byte, r.IntN(300))
			for i := range payload {
				payload[i] = byte(r.Uint32())
			}
			if checkPrefix(t, c, make([]byte, r.IntN(5), 64), codec.Data, payload) {
				framed++
			}
		}
	}
	if framed < 1000 {
		t.Errorf("only %d payloads were framed in place", framed)
	}
}

// Framing in place costs no allocation where dst has room.
func TestAppendPrefixAllocates(t *testing.T) {
	for _, factory := range []codec.Factory{codec.Native{}, codec.Length4()} {
		p := mustCodec(t, factory).(codec.Prefixer)
		payload := make([]byte, 100_000)
		var buf [64]byte
		if n := testing.AllocsPerRun(100, func() {
			if _, err := p.AppendPrefix(buf[:0], codec.Data, payload); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%T: %v allocations", factory, n)
		}
	}
}
