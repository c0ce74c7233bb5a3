package codec_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/pulsewheel/pulsewheel/codec"
)

func TestLengthFieldSizes(t *testing.T) {
	for _, test := range []struct {
		name string
		codec.LengthField
		wire string
	}{
		{"u8", codec.LengthField{Size: 1}, "03"},
		{"u16", codec.LengthField{Size: 2}, "0003"},
		{"u24", codec.LengthField{Size: 3}, "000003"},
		{"u32", codec.LengthField{Size: 4}, "00000003"},
		{"u64", codec.LengthField{Size: 8}, "0000000000000003"},
		{"u8 little", codec.LengthField{Size: 1, LittleEndian: true}, "03"},
		{"u16 little", codec.LengthField{Size: 2, LittleEndian: true}, "0300"},
		{"u24 little", codec.LengthField{Size: 3, LittleEndian: true}, "030000"},
		{"u32 little", codec.LengthField{Size: 4, LittleEndian: true}, "03000000"},
		{"u64 little", codec.LengthField{Size: 8, LittleEndian: true}, "0300000000000000"},
		{"base 128", codec.LengthField{Size: codec.Base128}, "03"},
		{"base 128 adjusted", codec.LengthField{Size: codec.Base128, Adjust: -4}, "07"},
		{"adjusted up", codec.LengthField{Size: 2, Adjust: 3}, "0000"},
		{"adjusted down", codec.LengthField{Size: 2, Adjust: -300}, "012f"},
		{"offset", codec.LengthField{Size: 2, Offset: 2, Header: []byte{7}}, "0700 0003"},
		{"marker", codec.LengthField{Size: 2, Offset: 3, Header: []byte{7}, Marker: []byte{8}, MarkerOffset: 1}, "070800 0003"},
	} {
		t.Run(test.name, func(t *testing.T) {
			wire := append(unhex(test.wire), "abc"...)
			test.Strip = codec.StripHeader
			checkVectors(t, mustCodec(t, test.LengthField), codec.DefaultMaxFrame, vector{wire: wire, payload: []byte("abc")})
			test.Header = nil
			test.Strip = 0
			checkVectors(t, mustCodec(t, test.LengthField), codec.DefaultMaxFrame, vector{wire: wire})
			test.Strip = test.Offset
			if test.Offset != 0 && len(test.Marker) == 0 {
				test.Header = wire[:1]
				checkVectors(t, mustCodec(t, test.LengthField), codec.DefaultMaxFrame, vector{wire: wire, payload: wire[test.Offset:]})
			}
		})
	}
}

// Lengths that no machine could serve, or no int hold, are errors on every
// platform, before anybody is asked to make room for them.
func TestLengthFieldAbsurdLengths(t *testing.T) {
	for _, test := range []struct {
		name string
		codec.LengthField
		wire  string
		cause error
	}{
		{"u64, top bit", codec.LengthField{Size: 8}, "8000000000000000", codec.ErrTooLarge},
		{"u64, all bits", codec.LengthField{Size: 8}, "ffffffffffffffff", codec.ErrTooLarge},
		{"u64, wraps to 7", codec.LengthField{Size: 8}, "ffffffffffffffff", codec.ErrTooLarge},
		{"u64, wraps upwards", codec.LengthField{Size: 8, Adjust: 100}, "ffffffffffffffff", codec.ErrTooLarge},
		{"u64, wraps downwards", codec.LengthField{Size: 8, Adjust: -100}, "ffffffffffffffff", codec.ErrTooLarge},
		{"u64, top bit, longest frames", codec.LengthField{Size: 8, MaxFrame: codec.MaxFrame}, "8000000000000000", codec.ErrTooLarge},
		{"u64, 32 bits lost", codec.LengthField{Size: 8}, "0000000100000000", codec.ErrTooLarge},
		{"u64, an int32 more", codec.LengthField{Size: 8, MaxFrame: codec.MaxFrame}, "000000007ffffff8", codec.ErrTooLarge},
		{"u64, negative", codec.LengthField{Size: 8, Adjust: -100}, "0000000000000000", codec.ErrMalformed},
		{"u32, top bit", codec.LengthField{Size: 4}, "80000000", codec.ErrTooLarge},
		{"u32, all bits", codec.LengthField{Size: 4, MaxFrame: codec.MaxFrame}, "ffffffff", codec.ErrTooLarge},
		{"u32, negative", codec.LengthField{Size: 4, Adjust: -100}, "0000005f", codec.ErrMalformed},
		{"u32, less than the header", codec.LengthField{Size: 4, Adjust: -100}, "00000063", codec.ErrMalformed},
		{"u8, less than the trailer", codec.LengthField{Size: 1, Trailer: []byte{1, 2}}, "01", codec.ErrMalformed},
		{"u8, below the minimum", codec.LengthField{Size: 1, MinFrame: 10}, "08", codec.ErrMalformed},
		{"base 128, 63 bits", codec.LengthField{Size: codec.Base128, Base128Bytes: 9}, "ffffffffffffffff7f", codec.ErrTooLarge},
		{"base 128, 63 bits and more", codec.LengthField{Size: codec.Base128, Base128Bytes: 9, Adjust: 1 << 30, MaxFrame: 1<<30 + 100}, "ffffffffffffffff7f", codec.ErrTooLarge},
		{"base 128, 64 bits", codec.LengthField{Size: codec.Base128, Base128Bytes: 9}, "ffffffffffffffffff", codec.ErrMalformed},
		{"base 128, negative", codec.LengthField{Size: codec.Base128, Adjust: -10}, "05", codec.ErrMalformed},
		{"base 128, below the minimum", codec.LengthField{Size: codec.Base128, MinFrame: 10}, "08", codec.ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := mustCodec(t, test.LengthField)
			checkBad(t, c, codec.MaxFrame, test.cause, test.wire)
			_, _, _, err := c.Decode(unhex(test.wire))
			if e := err.(*codec.Error); test.cause == codec.ErrTooLarge && e.Length <= e.Max {
				t.Errorf("%v", err)
			}
		})
	}
	// The longest frames of all are only announced here.
	longest := mustCodec(t, codec.LengthField{Size: 8, MaxFrame: codec.MaxFrame})
	if _, _, need, err := longest.Decode(unhex("000000007ffffff7")); need != codec.MaxFrame || err != nil {
		t.Errorf("need %d, %v", need, err)
	}
	// A length that counts from far behind needs more than 31 bits of value.
	far := mustCodec(t, codec.LengthField{Size: 4, Adjust: -codec.MaxFrame, MaxFrame: codec.MaxFrame})
	if _, _, need, err := far.Decode(unhex("fffffffa")); need != codec.MaxFrame || err != nil {
		t.Errorf("need %d, %v", need, err)
	}
}

// More bytes of length than needed are accepted, and shorter again when sent.
func TestBase128Overlong(t *testing.T) {
	c := mustCodec(t, codec.LengthField{Offset: 1, Size: codec.Base128, Strip: codec.StripHeader, Header: []byte{0x30}})
	for _, wire := range []string{"30 02", "30 8200", "30 828000", "30 82808000"} {
		b := append(unhex(wire), "hi"...)
		f, n, err := decodeOne(t, c, b, codec.DefaultMaxFrame)
		if err != nil || n != len(b) || string(f.Payload) != "hi" {
			t.Errorf("%s: %v, %d, %v", wire, f, n, err)
		}
		if got, err := c.Append(nil, f.Kind, f.Payload); err != nil || string(got) != "\x30\x02hi" {
			t.Errorf("%s: % x, %v", wire, got, err)
		}
	}
	// An empty frame is empty however long it takes to say so.
	empty := mustCodec(t, codec.LengthField{Size: codec.Base128, Strip: codec.StripHeader, Heartbeat: codec.Heartbeat{
		Pingers: codec.Client, Empty: true, Query: []byte{0}, Answer: []byte{0},
	}})
	checkVectors(t, empty, codec.DefaultMaxFrame,
		vector{wire: unhex("00"), kind: codec.Ping},
		vector{wire: unhex("8000"), kind: codec.Ping},
		vector{wire: unhex("01 00"), payload: []byte{0}},
	)
}

func TestLengthFieldAppend(t *testing.T) {
	const b128 = codec.Base128
	for _, test := range []struct {
		name string
		codec.LengthField
		payload string
		want    string // empty: cause
		cause   error
	}{
		{"kept: the length is put right", codec.LengthField{Offset: 1, Size: 2}, "09 0000 6869", "09 0002 6869", nil},
		{"kept: whatever it says", codec.LengthField{Offset: 1, Size: 2, LittleEndian: true}, "09 eeee 6869", "09 0200 6869", nil},
		{"kept: no room for the length", codec.LengthField{Offset: 1, Size: 2}, "09 00", "", codec.ErrMalformed},
		{"kept: the trailer is no room", codec.LengthField{Offset: 1, Size: 2, Trailer: []byte{1, 2, 3}}, "09", "", codec.ErrMalformed},
		{"kept: the marker is checked", codec.LengthField{Offset: 1, Size: 1, Marker: []byte{9}}, "08 00", "", codec.ErrMalformed},
		{"kept in part: half the marker is stripped", codec.LengthField{Offset: 2, Size: 1, Strip: 1, Marker: []byte{8, 9}}, "09 00 07", "08 09 01 07", nil},
		{"kept in part: half the marker is checked", codec.LengthField{Offset: 2, Size: 1, Strip: 1, Marker: []byte{8, 9}}, "08 00 07", "", codec.ErrMalformed},
		{"kept: base 128", codec.LengthField{Offset: 1, Size: b128}, "09 02 6869", "09 02 6869", nil},
		{"kept: base 128 in more bytes", codec.LengthField{Offset: 1, Size: b128}, "09 8200 6869", "09 8200 6869", nil},
		{"kept: base 128 is checked", codec.LengthField{Offset: 1, Size: b128}, "09 03 6869", "", codec.ErrMalformed},
		{"kept: base 128 too wide", codec.LengthField{Offset: 1, Size: b128, Base128Bytes: 1}, "09 8200 6869", "", codec.ErrMalformed},
		{"kept: base 128 does not end", codec.LengthField{Offset: 1, Size: b128}, "09 82", "", codec.ErrMalformed},
		{"kept: base 128 ends in the trailer", codec.LengthField{Offset: 1, Size: b128, Trailer: []byte{1}}, "09 81", "", codec.ErrMalformed},
		{"kept: base 128 below its minimum", codec.LengthField{Size: b128, Adjust: 2}, "8000 01", "", codec.ErrMalformed},
		{"kept: nothing", codec.LengthField{Size: 1}, "", "", codec.ErrMalformed},
		{"kept: longest", codec.LengthField{Size: 1, MaxFrame: 3}, "00 6869", "02 6869", nil},
		{"kept: too long", codec.LengthField{Size: 1, MaxFrame: 3}, "00 68696a", "", codec.ErrTooLarge},
		{"kept: too short", codec.LengthField{Size: 1, MinFrame: 4}, "00 6869", "", codec.ErrMalformed},
		{"stripped: nothing", codec.LengthField{Size: 1, Strip: 1}, "", "00", nil},
		{"stripped: longest", codec.LengthField{Size: 1, Strip: 1, MaxFrame: 3}, "6869", "02 6869", nil},
		{"stripped: too long", codec.LengthField{Size: 1, Strip: 1, MaxFrame: 3}, "68696a", "", codec.ErrTooLarge},
		{"stripped: too short", codec.LengthField{Size: 1, Strip: 1, MinFrame: 4}, "6869", "", codec.ErrMalformed},
		{"stripped: type behind the length", codec.LengthField{Size: 1, Strip: 2, Adjust: 1, Header: []byte{0, 7}}, "6869", "02 07 6869", nil},
		{"stripped: base 128", codec.LengthField{Size: b128, Strip: codec.StripHeader}, "6869", "02 6869", nil},
		{"stripped: base 128 too long", codec.LengthField{Size: b128, Strip: codec.StripHeader, MaxFrame: 6}, "010203040506", "", codec.ErrTooLarge},
		{"stripped: base 128 negative", codec.LengthField{Size: b128, Strip: codec.StripHeader, Adjust: 3}, "6869", "", codec.ErrMalformed},
		{"stripped: base 128 too short", codec.LengthField{Size: b128, Strip: codec.StripHeader, MinFrame: 4}, "6869", "", codec.ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := mustCodec(t, test.LengthField)
			payload := unhex(test.payload)
			dst := []byte("x")
			got, err := c.Append(dst, codec.Data, payload)
			if !errors.Is(err, test.cause) || !bytes.Equal(got, append([]byte("x"), unhex(test.want)...)) {
				t.Fatalf("% x, %v", got, err)
			}
			if !bytes.Equal(payload, unhex(test.payload)) {
				t.Errorf("the payload was changed to % x", payload)
			}
			if err == nil {
				checkVectors(t, c, codec.DefaultMaxFrame, vector{wire: got[1:], payload: got[1+stripped(test.LengthField) : len(got)-len(test.Trailer)]})
			} else if e := err.(*codec.Error); e.Op != "append frame" {
				t.Errorf("%v is not of the step", err)
			}
		})
	}
	// At a boundary of the width a byte of payload takes two more.
	c := mustCodec(t, codec.LengthField{Size: b128, Strip: codec.StripHeader, MaxFrame: 129})
	for size, want := range map[int]error{127: nil, 128: codec.ErrTooLarge} {
		if _, err := c.Append(nil, codec.Data, make([]byte, size)); !errors.Is(err, want) {
			t.Errorf("payload of %d: %v", size, err)
		}
	}
}

// stripped counts the bytes before the payload, in a frame whose Base128
// length takes one.
func stripped(l codec.LengthField) int {
	if l.Strip == codec.StripHeader {
		return l.Offset + 1
	}
	return l.Strip
}

// draw makes a configuration of fuzzed bytes. Any byte means something, and
// many of the configurations are sound.
type draw []byte

func (d *draw) int(low, high int) int {
	if len(*d) == 0 {
		return low
	}
	x := int((*d)[0])
	*d = (*d)[1:]
	return low + x%(high-low+1)
}

func (d *draw) bytes(high int) []byte {
	n := min(d.int(0, high), len(*d))
	b := (*d)[:n]
	*d = (*d)[n:]
	return b
}

func (d *draw) config() codec.LengthField {
	l := codec.LengthField{
		Size:         []int{1, 2, 3, 4, 8, codec.Base128, codec.Base128, 5}[d.int(0, 7)],
		Offset:       d.int(0, 4),
		LittleEndian: d.int(0, 1) == 1,
		Adjust:       d.int(-6, 6),
		Strip:        d.int(-1, 8),
		MinFrame:     max(0, d.int(-10, 10)),
		MaxFrame:     max(0, d.int(-100, 100)),
		Marker:       d.bytes(2),
		Trailer:      d.bytes(2),
	}
	if l.Size == codec.Base128 {
		l.Base128Bytes = d.int(0, 9)
	}
	if len(l.Marker) != 0 {
		l.MarkerOffset = d.int(0, 3)
	}
	if l.Strip != 0 && len(l.Marker) == 0 {
		l.Header = d.bytes(3)
	}
	return l
}

// heartbeat adds one whose Query and Answer are frames of l.
func (d *draw) heartbeat(l codec.LengthField) codec.Heartbeat {
	c, err := l.Codec()
	if err != nil {
		return codec.Heartbeat{}
	}
	query, err := c.Append(nil, codec.Data, d.bytes(12))
	if err != nil {
		return codec.Heartbeat{}
	}
	h := codec.Heartbeat{Pingers: codec.Side(d.int(1, 3)), Query: query, Exact: d.int(0, 1) == 1}
	at := min(d.int(0, 7), len(query)-1)
	switch d.int(0, 3) {
	case 0:
		h.Empty = true
	case 1:
		h.Ping = codec.Match{Offset: at, Value: query[at : at+1]}
	case 2:
		h.Ping = codec.Match{Offset: at, Value: query[at : at+1], Mask: []byte{0xff}}
	case 3:
		x := query[at]
		h.Func = func(frame []byte) codec.Kind {
			switch {
			case len(frame) <= at:
				return codec.Data
			case frame[at] == x:
				return codec.Ping
			case frame[at] == x+1:
				return codec.Pong
			case frame[at] == 0xee:
				return codec.Close
			}
			return codec.Data
		}
	}
	switch d.int(0, 2) {
	case 1:
		h.Answer = query
	case 2:
		h.Answer = bytes.Clone(query)
		h.Answer[at]++
		if h.Func == nil && !h.Empty {
			h.Pong = codec.Match{Offset: at, Value: h.Answer[at : at+1]}
		}
	}
	if d.int(0, 1) == 1 {
		h.Sequence = codec.Sequence{Offset: d.int(0, 7), Size: d.int(1, 8), Mask: uint64(d.int(0, 1) * 0x7f)}
		if h.Answer != nil {
			h.Echo = codec.Echo{From: h.Sequence.Offset, To: d.int(0, 7), Len: h.Sequence.Size}
		}
	}
	return h
}

func FuzzLengthField(f *testing.F) {
	f.Add([]byte{3}, unhex("00000000 00000003 616263"))
	f.Add([]byte{5, 1, 0, 6, 0, 0, 0, 0, 0, 4}, unhex("30 03 616263 30 8300 616263 c0 00"))
	f.Add([]byte{1, 1, 0, 3, 0, 0, 0, 1, 0x68}, unhex("68 0006 616263"))
	f.Add([]byte{0, 0, 0, 6, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4, 0, 0, 1, 1, 2, 0}, unhex("04 01020304 04 02020304 01 00"))
	f.Add([]byte{0, 0, 0, 6, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1}, unhex("00 01 02"))
	f.Add([]byte{4, 0, 1, 0, 0, 0, 0, 0, 0}, unhex("ffffffffffffffff"))
	f.Fuzz(func(t *testing.T, config, b []byte) {
		d := draw(config)
		l := d.config()
		l.Heartbeat = d.heartbeat(l)
		c, err := l.Codec()
		if err != nil {
			e, ok := errors.AsType[*codec.Error](err)
			if !ok || e.Err != codec.ErrConfig || e.Field == "" || c != nil {
				t.Fatalf("%+v: %#v", l, err)
			}
			if l.Heartbeat.Query == nil {
				return
			}
			l.Heartbeat = codec.Heartbeat{}
			c = mustCodec(t, l) // it was sound without
		}
		limit := l.MaxFrame
		if limit == 0 {
			limit = codec.DefaultMaxFrame
		}
		checkHeartbeatHolds(t, c)
		b = b[:min(len(b), 200)]
		for rest := b; ; {
			frame, n, err := decodeOne(t, c, rest, limit)
			if n == 0 || err != nil {
				break
			}
			checkEncode(t, c, l, frame, rest[:n])
			rest = rest[n:]
		}
		checkSplits(t, c, b)

		// And the other way: what is encoded comes back.
		if wire, err := c.Append(nil, codec.Data, b); err == nil {
			frame, n, err := decodeOne(t, c, wire, limit)
			if err != nil || n != len(wire) || frame.Kind != codec.Data || len(frame.Payload) != len(b) {
				t.Fatalf("%+v: % x as % x becomes %v, %d, %v", l, b, wire, frame, n, err)
			}
			if l.Strip != 0 && l.Strip > l.Offset && !bytes.Equal(frame.Payload, b) {
				t.Fatalf("%+v: % x as % x becomes % x", l, b, wire, frame.Payload)
			}
		} else if e := err.(*codec.Error); e.Op != "append frame" {
			t.Fatalf("%v is not of the step", err)
		}
	})
}

// checkEncode encodes a decoded frame, and decodes it again.
func checkEncode(t *testing.T, c codec.Codec, l codec.LengthField, frame codec.Frame, wire []byte) {
	t.Helper()
	again, err := c.Append(nil, frame.Kind, frame.Payload)
	if frame.Kind != codec.Data || l.Strip == 0 {
		// All of the frame is there.
		if err != nil || !bytes.Equal(again, wire) {
			t.Fatalf("%+v: % x becomes % x, %v", l, wire, again, err)
		}
		return
	}
	if err != nil {
		// What was stripped made it data, or long enough.
		told := l.Heartbeat.Func != nil || len(l.Heartbeat.Ping.Value) != 0 || l.Heartbeat.Empty
		overlong := l.Size == codec.Base128 && l.Strip == codec.StripHeader
		if !(told && errors.Is(err, codec.ErrUnsupported)) && !(overlong && errors.Is(err, codec.ErrMalformed)) {
			t.Fatalf("%+v: % x of % x: %v", l, frame.Payload, wire, err)
		}
		return
	}
	second, n, _, err := c.Decode(again)
	if err != nil || n != len(again) || !sameFrame(frame, second) {
		t.Fatalf("%+v: % x becomes % x: %v, then %v, %v", l, wire, again, frame, second, err)
	}
	if !(l.Size == codec.Base128 && l.Strip == codec.StripHeader) && len(again) != len(wire) {
		t.Fatalf("%+v: % x becomes % x", l, wire, again)
	}
}

// checkHeartbeatHolds plays a heartbeat of a codec that passed its checks.
func checkHeartbeatHolds(t *testing.T, c codec.Codec) {
	t.Helper()
	p := c.Properties()
	if p.Pingers == codec.NoSide {
		if p != (codec.Properties{}) {
			t.Fatalf("properties %+v", p)
		}
		return
	}
	if p.Answered && !p.Directed && p.Pingers == codec.BothSide || p.Stamped != (p.StampMask != 0) || !p.Answered && p.Stamped {
		t.Fatalf("properties %+v", p)
	}
	for _, stamp := range []uint64{0, 1, 0x80, 1<<63 | 0x1234} {
		wire := c.AppendPing(nil, codec.Beat{Stamp: stamp, HasStamp: true})
		ping, n, _, err := c.Decode(wire)
		if err != nil || n != len(wire) || ping.Kind != codec.Ping {
			t.Fatalf("ping % x: %v, %d, %v", wire, ping, n, err)
		}
		if !p.Answered {
			continue
		}
		wire = c.AppendPong(nil, ping.Payload)
		pong, n, _, err := c.Decode(wire)
		if err != nil || n != len(wire) || p.Directed != (pong.Kind == codec.Pong) || pong.Kind == codec.Data {
			t.Fatalf("answer % x: %v, %d, %v", wire, pong, n, err)
		}
		if beat := c.Beat(pong.Kind, pong.Payload); p.Stamped && beat != (codec.Beat{Stamp: stamp & p.StampMask, HasStamp: true}) {
			t.Fatalf("stamp %#x came back as %+v under %#x", stamp, beat, p.StampMask)
		}
	}
}
