package codec_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/pulsewheel/pulsewheel/codec"
)

// MQTT 3.1.1 (OASIS, 2014). The fixed header is a byte and a remaining length
// of up to four (section 2.2). PINGREQ (3.12) goes from client to server only,
// PINGRESP (3.13) back.
var mqtt = codec.LengthField{
	Offset:   1,
	Size:     codec.Base128,
	MaxFrame: 1 + 4 + 268_435_455,
	Heartbeat: codec.Heartbeat{
		Pingers: codec.Client,
		Ping:    codec.Match{Offset: 0, Value: []byte{0xc0}},
		Pong:    codec.Match{Offset: 0, Value: []byte{0xd0}},
		Exact:   true,
		Query:   []byte{0xc0, 0},
		Answer:  []byte{0xd0, 0},
	},
}

// SMPP 3.4 (issue 1.2, 1999). The header is command_length, which counts
// itself, command_id, command_status and sequence_number (section 3.2).
// enquire_link (4.11) goes either way; its answer has the same
// sequence_number, which uses 31 bits (5.1.4).
var smpp = codec.LengthField{
	Size:     4,
	Adjust:   -4,
	MinFrame: 16,
	MaxFrame: 128 << 10,
	Heartbeat: codec.Heartbeat{
		Pingers:  codec.BothSide,
		Ping:     codec.Match{Offset: 4, Value: []byte{0, 0, 0, 0x15}},
		Pong:     codec.Match{Offset: 4, Value: []byte{0x80, 0, 0, 0x15}},
		Exact:    true,
		Query:    unhex("00000010 00000015 00000000 00000001"),
		Sequence: codec.Sequence{Offset: 12, Size: 4, Mask: 0x7fffffff},
		Answer:   unhex("00000010 80000015 00000000 00000000"),
		Echo:     codec.Echo{From: 12, To: 12, Len: 4},
	},
}

var bgpMarker = bytes.Repeat([]byte{0xff}, 16)

// BGP-4 (RFC 4271). Section 4.1: marker of sixteen 0xff, length of the whole
// message (19 to 4096), type. KEEPALIVE (4.4) is the header alone; nobody
// answers it.
var bgp = codec.LengthField{
	Offset:   16,
	Size:     2,
	Adjust:   -18,
	Marker:   bgpMarker,
	MinFrame: 19,
	MaxFrame: 4096,
	Heartbeat: codec.Heartbeat{
		Pingers: codec.BothSide,
		Ping:    codec.Match{Offset: 18, Value: []byte{4}},
		Exact:   true, // 6.1: another length is Bad Message Length
		Query:   append(bytes.Clone(bgpMarker), 0, 19, 4),
	},
}

// AMQP 0-9-1 (2008), after the client's 8-byte protocol header (section 4.2.2).
// A frame is type, channel, size, payload and the frame-end 0xce, which size
// does not count (4.2.3); frame-max, here 128 KiB, is negotiated. Heartbeats
// (4.2.7) are of type 8 on channel 0, and nobody answers them.
var amqp = codec.LengthField{
	Offset:   3,
	Size:     4,
	Adjust:   1,
	Trailer:  []byte{0xce},
	MaxFrame: 128 << 10,
	Heartbeat: codec.Heartbeat{
		Pingers: codec.BothSide,
		Ping:    codec.Match{Offset: 0, Value: []byte{8, 0, 0}},
		Exact:   true,
		Query:   unhex("08 0000 00000000 ce"),
	},
}

// Modbus/TCP (Modbus Messaging on TCP/IP Implementation Guide 1.0b, section
// 3.1.3): transaction identifier, protocol identifier 0, length of the rest,
// unit identifier, then at least a function code. An ADU has at most 260 bytes
// (Modbus Application Protocol 1.1b3, section 4.1). It has no heartbeat.
var modbus = codec.LengthField{
	Offset:       4,
	Size:         2,
	Marker:       []byte{0, 0},
	MarkerOffset: 2,
	MinFrame:     8,
	MaxFrame:     260,
}

// IEC 60870-5-104 (2006), clause 5: start 0x68, length of the APDU from 4 to
// 253, four octets of control field. TESTFR act and con are U-format: 0x43 and
// 0x83 (figure 8). Either station may test (5.2).
var iec104 = codec.LengthField{
	Offset:   1,
	Size:     1,
	Marker:   []byte{0x68},
	MinFrame: 2 + 4,
	MaxFrame: 2 + 253,
	Heartbeat: codec.Heartbeat{
		Pingers: codec.BothSide,
		Ping:    codec.Match{Offset: 2, Value: []byte{0x43}},
		Pong:    codec.Match{Offset: 2, Value: []byte{0x83}},
		Exact:   true,
		Query:   unhex("68 04 43 00 00 00"),
		Answer:  unhex("68 04 83 00 00 00"),
	},
}

// vector is one frame on the wire.
type vector struct {
	wire    []byte
	kind    codec.Kind
	payload []byte // nil: the whole frame
}

// checkVectors decodes the vectors one by one and as one stream, in pieces and
// whole, and encodes them again.
func checkVectors(t *testing.T, c codec.Codec, max int, vectors ...vector) {
	t.Helper()
	var all []byte
	for _, v := range vectors {
		want := codec.Frame{Kind: v.kind, Payload: v.payload}
		if v.payload == nil {
			want.Payload = v.wire
		}
		f, n, err := decodeOne(t, c, append(bytes.Clone(v.wire), "next frame"...), max)
		if err != nil || n != len(v.wire) || !sameFrame(f, want) {
			t.Errorf("Decode(% x) = kind %d % x, %d, %v", v.wire, f.Kind, f.Payload, n, err)
			continue
		}
		got, err := c.Append([]byte("x"), v.kind, f.Payload)
		if err != nil || !bytes.Equal(got[1:], v.wire) {
			t.Errorf("Append(kind %d) = % x, %v, want % x", v.kind, got, err, v.wire)
		}
		all = append(all, v.wire...)
	}
	checkSplits(t, c, all)
}

// checkHeartbeat compares what is sent and answered with what the
// specification has.
func checkHeartbeat(t *testing.T, c codec.Codec, want codec.Properties, stamp uint64, ping, pong []byte) {
	t.Helper()
	if got := c.Properties(); got != want {
		t.Errorf("properties %+v, want %+v", got, want)
	}
	sent := codec.Beat{Stamp: stamp, HasStamp: stamp != 0}
	wire := c.AppendPing([]byte("x"), sent)
	if !bytes.Equal(wire[1:], ping) {
		t.Fatalf("ping % x, want % x", wire[1:], ping)
	}
	f, n, _, err := c.Decode(wire[1:])
	if err != nil || n != len(ping) || f.Kind != codec.Ping {
		t.Fatalf("ping: %v, %d, %v", f, n, err)
	}
	if got := c.Beat(f.Kind, f.Payload); got != sent {
		t.Errorf("beat %+v, want %+v", got, sent)
	}
	if !want.Answered {
		return
	}
	wire = c.AppendPong([]byte("x"), f.Payload)
	if !bytes.Equal(wire[1:], pong) {
		t.Fatalf("pong % x, want % x", wire[1:], pong)
	}
	kind := codec.Ping
	if want.Directed {
		kind = codec.Pong
	}
	f, n, _, err = c.Decode(wire[1:])
	if err != nil || n != len(pong) || f.Kind != kind {
		t.Fatalf("pong: %v, %d, %v", f, n, err)
	}
	if got := c.Beat(f.Kind, f.Payload); got != sent {
		t.Errorf("beat of the answer %+v, want %+v", got, sent)
	}
}

// checkBad wants a cause as soon as all of the bytes are there.
func checkBad(t *testing.T, c codec.Codec, max int, cause error, wires ...string) {
	t.Helper()
	for _, wire := range wires {
		b := unhex(wire)
		if _, _, err := decodeOne(t, c, b, max); !errors.Is(err, cause) {
			t.Errorf("Decode(%s): %v, want %v", wire, err, cause)
		}
		if _, _, _, err := c.Decode(b[:len(b)-1]); err != nil {
			t.Errorf("Decode(%s) fails a byte early: %v", wire, err)
		}
	}
}

func TestMQTT(t *testing.T) {
	c := mustCodec(t, mqtt)
	checkVectors(t, c, mqtt.MaxFrame,
		// 3.1: CONNECT with the variable header of figure 3.6, which its flags
		// (0xce) oblige to five strings.
		vector{wire: unhex("10 19 00044d515454 04 ce 000a 000161 000162 000163 000164 000165")},
		vector{wire: unhex("20 02 00 00")},                                   // 3.2 CONNACK
		vector{wire: unhex("c0 00"), kind: codec.Ping},                       // 3.12 PINGREQ
		vector{wire: unhex("d0 00"), kind: codec.Pong},                       // 3.13 PINGRESP
		vector{wire: unhex("30 07 0003612f62 6869")},                         // 3.3 PUBLISH a/b, figure 3.10 without an identifier
		vector{wire: append(unhex("30 c102 0001 61"), make([]byte, 318)...)}, // 2.2.3: 321 is c1 02
		vector{wire: unhex("e0 00")},                                         // 3.14 DISCONNECT
	)
	checkHeartbeat(t, c, codec.Properties{Pingers: codec.Client, Directed: true, Answered: true}, 0, unhex("c000"), unhex("d000"))
	// 2.2.3, table 2.4: the ranges of one to four bytes.
	for _, test := range []struct {
		wire   string
		length int
	}{
		{"30 01", 1},
		{"30 7f", 127},
		{"30 8001", 128},
		{"30 ff7f", 16_383},
		{"30 808001", 16_384},
		{"30 ffff7f", 2_097_151},
		{"30 80808001", 2_097_152},
		{"30 ffffff7f", 268_435_455},
	} {
		b := unhex(test.wire)
		if _, _, need, err := c.Decode(b); need != len(b)+test.length || err != nil {
			t.Errorf("%s: need %d, %v, want %d", test.wire, need, err, len(b)+test.length)
		}
	}
	checkBad(t, c, mqtt.MaxFrame, codec.ErrMalformed,
		"30 80808080", // a fifth byte of length
		"c0 01 00",    // PINGREQ and PINGRESP are two bytes
		"d0 02 0000",
	)
}

func TestSMPP(t *testing.T) {
	c := mustCodec(t, smpp)
	checkVectors(t, c, smpp.MaxFrame,
		// 3.2.2: the sample bind_transmitter PDU.
		vector{wire: unhex(`0000002f 00000002 00000000 00000001
			53 4d 50 50 33 54 45 53 54 00 73 65 63 72 65 74 30 38 00 53 55 42 4d 49 54 31 00 00 01 01 00`)},
		vector{wire: unhex("00000011 80000002 00000000 00000001 00")}, // 4.1.2 bind_transmitter_resp
		vector{wire: unhex("00000010 00000015 00000000 00000002"), kind: codec.Ping},
		vector{wire: unhex("00000010 80000015 00000000 00000002"), kind: codec.Pong},
		vector{wire: unhex("00000010 00000006 00000000 00000003")}, // 4.2 unbind
		vector{wire: unhex("00000010 80000000 00000003 00000000")}, // 4.3 generic_nack
	)
	checkHeartbeat(t, c, codec.Properties{
		Pingers: codec.BothSide, Directed: true, Answered: true, Stamped: true, StampMask: 0x7fffffff,
	}, 0x12345678, unhex("00000010 00000015 00000000 12345678"), unhex("00000010 80000015 00000000 12345678"))

	// A stamp wider than the field keeps its low 31 bits; without one the
	// template's 1 stands, since 5.1.4 does not permit 0.
	ping := c.AppendPing(nil, codec.Beat{Stamp: 1<<63 | 0x89abcdef})
	if got := c.Beat(codec.Ping, ping).Stamp; got != 0x09abcdef {
		t.Errorf("stamp %#x", got)
	}
	ping = c.AppendPing(nil, codec.Beat{})
	if got := c.Beat(codec.Ping, ping).Stamp; got != 1 {
		t.Errorf("no stamp: %#x", got)
	}
	checkBad(t, c, smpp.MaxFrame, codec.ErrMalformed,
		"00000000", "00000003", "00000004", "0000000f",
		"00000011 00000015 00000000 00000002 00", // enquire_link has no body
	)
	checkBad(t, c, smpp.MaxFrame, codec.ErrTooLarge, "00020001", "ffffffff")
}

func TestBGP(t *testing.T) {
	c := mustCodec(t, bgp)
	message := func(s string) []byte { return append(bytes.Clone(bgpMarker), unhex(s)...) }
	checkVectors(t, c, bgp.MaxFrame,
		vector{wire: message("001d 01 04 fe09 00b4 c0a8000f 00")}, // 4.2 OPEN: version 4, AS 65033, hold time 180
		vector{wire: message("0013 04"), kind: codec.Ping},        // 4.4 KEEPALIVE
		vector{wire: message("0017 02 0000 0000")},                // 4.3 UPDATE: End-of-RIB (RFC 4724, section 2)
		vector{wire: message("0015 03 04 00")},                    // 4.5 NOTIFICATION: hold timer expired
	)
	checkHeartbeat(t, c, codec.Properties{Pingers: codec.BothSide}, 0, message("0013 04"), nil)
	const marker = "ffffffffffffffffffffffffffffffff"
	checkBad(t, c, bgp.MaxFrame, codec.ErrMalformed, // 6.1
		"fffffffffffffffffffffffffffffffe 0013",
		marker+"0000", marker+"0012",
		marker+"0014 04 00", // KEEPALIVE of 20 octets
	)
	checkBad(t, c, bgp.MaxFrame, codec.ErrTooLarge, marker+"1001", marker+"ffff")

	// The marker says nothing: strip it, and Append puts it back.
	stripped := bgp
	stripped.Strip = 16
	checkVectors(t, mustCodec(t, stripped), bgp.MaxFrame,
		vector{wire: message("0017 02 0000 0000"), payload: unhex("0017 02 0000 0000")},
		vector{wire: message("0013 04"), kind: codec.Ping},
	)
}

func TestAMQP(t *testing.T) {
	c := mustCodec(t, amqp)
	checkVectors(t, c, amqp.MaxFrame,
		// 1.4.2.6: connection.tune-ok, channel-max 2047, frame-max 131072, heartbeat 60.
		vector{wire: unhex("01 0000 0000000c 000a 001f 07ff 00020000 003c ce"), payload: unhex("01 0000 0000000c 000a 001f 07ff 00020000 003c")},
		vector{wire: unhex("08 0000 00000000 ce"), kind: codec.Ping},
		vector{wire: unhex("03 0001 00000005 68656c6c6f ce"), payload: unhex("03 0001 00000005 68656c6c6f")},
		// 4.2.7: not on channel 0, and so for the application to refuse (501).
		vector{wire: unhex("08 0001 00000000 ce"), payload: unhex("08 0001 00000000")},
	)
	checkHeartbeat(t, c, codec.Properties{Pingers: codec.BothSide}, 0, unhex("08 0000 00000000 ce"), nil)
	checkBad(t, c, amqp.MaxFrame, codec.ErrMalformed,
		"01 0000 00000001 00 00",
		"08 0000 00000001 00 ce",
	)
	checkBad(t, c, amqp.MaxFrame, codec.ErrTooLarge, "01 0000 0001fff9", "01 0000 ffffffff")

	// Body frames of one channel, stripped.
	body := amqp
	body.Strip = codec.StripHeader
	body.Header = []byte{3, 0, 1}
	checkVectors(t, mustCodec(t, body), amqp.MaxFrame,
		vector{wire: unhex("03 0001 00000005 68656c6c6f ce"), payload: []byte("hello")},
		vector{wire: unhex("03 0001 00000000 ce"), payload: []byte{}},
	)
}

func TestModbusTCP(t *testing.T) {
	c := mustCodec(t, modbus)
	checkVectors(t, c, modbus.MaxFrame,
		// Modbus Application Protocol 1.1b3, section 6.3: read holding registers 108 to 110.
		vector{wire: unhex("1501 0000 0006 ff 03 006b 0003")},
		vector{wire: unhex("1501 0000 0009 ff 03 06 022b 0000 0064")},
		vector{wire: unhex("1502 0000 0003 ff 83 02")}, // section 7: exception
	)
	if p := c.Properties(); p != (codec.Properties{}) {
		t.Errorf("properties %+v", p)
	}
	checkBad(t, c, modbus.MaxFrame, codec.ErrMalformed, "1501 0001 0006", "1501 0000 0000", "1501 0000 0001")
	checkBad(t, c, modbus.MaxFrame, codec.ErrTooLarge, "1501 0000 00ff", "1501 0000 ffff")
}

func TestIEC104(t *testing.T) {
	c := mustCodec(t, iec104)
	checkVectors(t, c, iec104.MaxFrame,
		vector{wire: unhex("68 04 07 00 00 00")},                               // STARTDT act
		vector{wire: unhex("68 04 0b 00 00 00")},                               // STARTDT con
		vector{wire: unhex("68 04 43 00 00 00"), kind: codec.Ping},             // TESTFR act
		vector{wire: unhex("68 04 83 00 00 00"), kind: codec.Pong},             // TESTFR con
		vector{wire: unhex("68 0e 00 00 00 00 64 01 06 00 01 00 00 00 00 14")}, // I-format, C_IC_NA_1 act
		vector{wire: unhex("68 04 01 00 02 00")},                               // S-format
	)
	checkHeartbeat(t, c, codec.Properties{Pingers: codec.BothSide, Directed: true, Answered: true}, 0,
		unhex("68 04 43 00 00 00"), unhex("68 04 83 00 00 00"))
	checkBad(t, c, iec104.MaxFrame, codec.ErrMalformed, "67 04", "68 03", "68 00", "68 05 43 00 00 00 00")
	checkBad(t, c, iec104.MaxFrame, codec.ErrTooLarge, "68 fe", "68 ff")
}

func TestLength4(t *testing.T) {
	c := mustCodec(t, codec.Length4())
	checkVectors(t, c, codec.DefaultMaxFrame,
		vector{wire: unhex("00000005 68656c6c6f"), payload: []byte("hello")},
		vector{wire: unhex("00000000"), kind: codec.Ping},
		vector{wire: unhex("00000001 00"), payload: []byte{0}},
	)
	checkHeartbeat(t, c, codec.Properties{Pingers: codec.Client, Answered: true}, 0, unhex("00000000"), unhex("00000000"))
	checkBad(t, c, codec.DefaultMaxFrame, codec.ErrTooLarge, "000ffffd", "80000000", "ffffffff")
	if _, _, need, err := c.Decode(unhex("000ffffc")); need != codec.DefaultMaxFrame || err != nil {
		t.Errorf("longest frame: need %d, %v", need, err)
	}
	if dst, err := c.Append([]byte("x"), codec.Data, nil); !errors.Is(err, codec.ErrUnsupported) || string(dst) != "x" {
		t.Errorf("empty data: % x, %v", dst, err)
	}
	for size, want := range map[int]error{codec.DefaultMaxFrame - 4: nil, codec.DefaultMaxFrame - 3: codec.ErrTooLarge} {
		if _, err := c.Append(nil, codec.Data, make([]byte, size)); !errors.Is(err, want) {
			t.Errorf("data of %d bytes: %v", size, err)
		}
	}
}
