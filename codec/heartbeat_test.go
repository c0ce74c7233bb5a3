package codec_test

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/pulsewheel/pulsewheel/codec"
)

func TestHeartbeatConfig(t *testing.T) {
	type H = codec.Heartbeat
	ping := codec.Match{Offset: 1, Value: []byte{9}}
	pong := codec.Match{Offset: 1, Value: []byte{10}}
	query, answer := []byte{2, 9, 0}, []byte{2, 10, 0}
	tell := func(frame []byte) codec.Kind {
		if len(frame) > 1 && frame[1] == 9 {
			return codec.Ping
		}
		return codec.Data
	}
	repeat := func(dst, ping []byte) []byte { return append(dst, ping...) }
	for _, test := range []struct {
		name  string
		field string
		H
	}{
		{"none", "", H{}},
		{"beacon", "", H{Pingers: codec.BothSide, Ping: ping, Query: query}},
		{"answered", "", H{Pingers: codec.BothSide, Ping: ping, Pong: pong, Query: query, Answer: answer}},
		{"exact", "", H{Pingers: codec.BothSide, Ping: ping, Pong: pong, Query: query, Answer: answer, Exact: true}},
		{"undirected", "", H{Pingers: codec.Server, Ping: ping, Query: query, Answer: query}},
		{"function", "", H{Pingers: codec.Server, Func: tell, Query: query, AnswerFunc: repeat}},
		{"empty", "", H{Pingers: codec.Client, Empty: true, Query: []byte{0}, Answer: []byte{0}}},
		{"empty beacon", "", H{Pingers: codec.BothSide, Empty: true, Query: []byte{0}}},

		{"pingers of nothing", "Heartbeat.Pingers", H{Pingers: codec.Client}},
		{"exact of nothing", "Heartbeat.Exact", H{Exact: true}},
		{"query of nothing", "Heartbeat.Query", H{Query: query}},
		{"sequence of nothing", "Heartbeat.Sequence", H{Sequence: codec.Sequence{Size: 1}}},
		{"answer of nothing", "Heartbeat.Answer", H{Answer: answer}},
		{"echo of nothing", "Heartbeat.Echo", H{Echo: codec.Echo{Len: 1}}},
		{"function of nothing", "Heartbeat.AnswerFunc", H{AnswerFunc: repeat}},

		{"no pinger", "Heartbeat.Pingers", H{Ping: ping, Query: query}},
		{"third side", "Heartbeat.Pingers", H{Pingers: 4, Ping: ping, Query: query}},
		{"empty and function", "Heartbeat.Func", H{Pingers: codec.Client, Empty: true, Func: tell, Query: []byte{0}}},
		{"empty and match", "Heartbeat.Empty", H{Pingers: codec.Client, Empty: true, Ping: ping, Query: []byte{0}}},
		{"function and match", "Heartbeat.Func", H{Pingers: codec.Client, Func: tell, Ping: ping, Query: query}},
		{"pong alone", "Heartbeat.Ping", H{Pingers: codec.Client, Pong: pong, Query: query, Answer: answer}},
		{"bad pong", "Heartbeat.Pong", H{Pingers: codec.Client, Ping: ping, Pong: codec.Match{Offset: -1, Value: []byte{1}}, Query: query, Answer: answer}},

		{"no query", "Heartbeat.Query", H{Pingers: codec.Client, Ping: ping}},
		{"query is no frame", "Heartbeat.Query", H{Pingers: codec.Client, Ping: ping, Query: []byte{3, 9, 0}}},
		{"query is more than a frame", "Heartbeat.Query", H{Pingers: codec.Client, Ping: ping, Query: []byte{1, 9, 0}}},
		{"query is not recognised", "Heartbeat.Query", H{Pingers: codec.Client, Ping: ping, Query: []byte{1, 8}}},
		{"query is a pong", "Heartbeat.Query", H{Pingers: codec.Client, Ping: ping, Pong: pong, Query: answer, Answer: answer}},
		{"query is too large", "Heartbeat.Query", H{Pingers: codec.Client, Ping: ping, Query: append([]byte{100, 9}, make([]byte, 99)...)}},
		{"query is odd to the function", "Heartbeat.Query", H{Pingers: codec.Client, Query: query, Func: func([]byte) codec.Kind { return codec.Hello }}},

		{"sequence", "", H{Pingers: codec.Client, Ping: ping, Query: query, Sequence: codec.Sequence{Offset: 2, Size: 1}}},
		{"sequence outside", "Heartbeat.Sequence", H{Pingers: codec.Client, Ping: ping, Query: query, Sequence: codec.Sequence{Offset: 2, Size: 2}}},
		{"sequence negative", "Heartbeat.Sequence", H{Pingers: codec.Client, Ping: ping, Query: query, Sequence: codec.Sequence{Offset: -1, Size: 1}}},
		{"sequence overflows", "Heartbeat.Sequence", H{Pingers: codec.Client, Ping: ping, Query: query, Sequence: codec.Sequence{Offset: math.MaxInt, Size: 1}}},
		{"sequence without size", "Heartbeat.Sequence", H{Pingers: codec.Client, Ping: ping, Query: query, Sequence: codec.Sequence{Offset: 2}}},
		{"sequence too wide", "Heartbeat.Sequence", H{Pingers: codec.Client, Ping: ping, Query: append([]byte{9, 9}, make([]byte, 8)...), Sequence: codec.Sequence{Offset: 1, Size: 9}}},
		{"sequence masked too wide", "Heartbeat.Sequence", H{Pingers: codec.Client, Ping: ping, Query: query, Sequence: codec.Sequence{Offset: 2, Size: 1, Mask: 0x100}}},
		{"sequence over the length", "Heartbeat.Sequence", H{Pingers: codec.Client, Ping: ping, Query: query, Sequence: codec.Sequence{Size: 1}}},
		{"sequence over what is matched", "Heartbeat.Sequence", H{Pingers: codec.Client, Ping: ping, Query: query, Sequence: codec.Sequence{Offset: 1, Size: 1}}},

		{"two answers", "Heartbeat.AnswerFunc", H{Pingers: codec.Client, Ping: ping, Query: query, Answer: query, AnswerFunc: repeat}},
		{"pong but no answer", "Heartbeat.Pong", H{Pingers: codec.Client, Ping: ping, Pong: pong, Query: query}},
		{"answer is no frame", "Heartbeat.Answer", H{Pingers: codec.Client, Ping: ping, Query: query, Answer: []byte{5}}},
		{"answer is data", "Heartbeat.Answer", H{Pingers: codec.Client, Ping: ping, Query: query, Answer: answer}},
		{"answer is a ping", "Heartbeat.Pong", H{Pingers: codec.Client, Ping: ping, Pong: pong, Query: query, Answer: query}},
		{"answer function is silent", "Heartbeat.AnswerFunc", H{Pingers: codec.Client, Ping: ping, Query: query, AnswerFunc: func(dst, _ []byte) []byte { return dst }}},
		{"exact answer of another length", "Heartbeat.Answer", H{Pingers: codec.Client, Ping: ping, Query: query, Answer: []byte{1, 9}, Exact: true}},

		{"echo", "", H{Pingers: codec.Client, Ping: ping, Pong: pong, Query: query, Answer: answer, Echo: codec.Echo{From: 2, To: 2, Len: 1}}},
		{"echo without answer", "Heartbeat.Echo", H{Pingers: codec.Client, Ping: ping, Query: query, Echo: codec.Echo{From: 2, To: 2, Len: 1}}},
		{"echo beside function", "Heartbeat.Echo", H{Pingers: codec.Client, Ping: ping, Query: query, AnswerFunc: repeat, Echo: codec.Echo{From: 2, To: 2, Len: 1}}},
		{"echo of nothing", "Heartbeat.Echo", H{Pingers: codec.Client, Ping: ping, Pong: pong, Query: query, Answer: answer, Echo: codec.Echo{From: 2}}},
		{"echo negative", "Heartbeat.Echo", H{Pingers: codec.Client, Ping: ping, Pong: pong, Query: query, Answer: answer, Echo: codec.Echo{From: -1, To: 2, Len: 1}}},
		{"echo from outside", "Heartbeat.Echo", H{Pingers: codec.Client, Ping: ping, Pong: pong, Query: query, Answer: answer, Echo: codec.Echo{From: 3, To: 2, Len: 1}}},
		{"echo to outside", "Heartbeat.Echo", H{Pingers: codec.Client, Ping: ping, Pong: pong, Query: query, Answer: answer, Echo: codec.Echo{From: 2, To: 3, Len: 1}}},
		{"echo overflows", "Heartbeat.Echo", H{Pingers: codec.Client, Ping: ping, Pong: pong, Query: query, Answer: answer, Echo: codec.Echo{From: math.MaxInt, To: math.MaxInt, Len: math.MaxInt}}},
		{"echo over the length", "Heartbeat.Answer", H{Pingers: codec.Client, Ping: ping, Pong: pong, Query: query, Answer: answer, Echo: codec.Echo{From: 1, To: 0, Len: 1}}},

		{"for ever, empty", "Heartbeat.Pingers", H{Pingers: codec.BothSide, Empty: true, Query: []byte{0}, Answer: []byte{0}}},
		{"for ever, match", "Heartbeat.Pingers", H{Pingers: codec.BothSide, Ping: ping, Query: query, Answer: query}},
		{"for ever, function", "Heartbeat.Pingers", H{Pingers: codec.BothSide, Func: tell, Query: query, AnswerFunc: repeat}},
	} {
		checkConfig(t, test.name, test.field, codec.LengthField{Size: 1, MaxFrame: 100, Heartbeat: test.H})
	}
	checkConfig(t, "empty, but another query", "Heartbeat.Query", codec.LengthField{
		Size: 1, Heartbeat: H{Pingers: codec.Client, Empty: true, Query: []byte{1, 0}},
	})
	// A sequence number that makes a Pong of some answers and a Ping of others.
	checkConfig(t, "answers of two kinds", "Heartbeat.Sequence", codec.LengthField{
		Size: 1,
		Heartbeat: H{
			Pingers: codec.Client,
			Func: func(frame []byte) codec.Kind {
				if len(frame) == 3 && frame[1] == 1 && frame[2] >= 0x80 {
					return codec.Pong
				}
				return codec.Ping
			},
			Query:    []byte{2, 0, 0},
			Sequence: codec.Sequence{Offset: 2, Size: 1},
			Answer:   []byte{2, 1, 0},
			Echo:     codec.Echo{From: 2, To: 2, Len: 1},
		},
	})
}

// A number that comes back at another place, behind a mask, low byte first.
func TestHeartbeatSequenceMoves(t *testing.T) {
	c := mustCodec(t, codec.LengthField{
		Size:         2,
		LittleEndian: true,
		Heartbeat: codec.Heartbeat{
			Pingers:  codec.BothSide,
			Ping:     codec.Match{Offset: 2, Value: []byte{1}},
			Pong:     codec.Match{Offset: 2, Value: []byte{2}},
			Query:    unhex("0400 01 f00000"),
			Sequence: codec.Sequence{Offset: 3, Size: 3, Mask: 0xffff0f},
			Answer:   unhex("0600 02 0000 000000"),
			Echo:     codec.Echo{From: 3, To: 5, Len: 3},
		},
	})
	checkHeartbeat(t, c, codec.Properties{
		Pingers: codec.BothSide, Directed: true, Answered: true, Stamped: true, StampMask: 0xffff0f,
	}, 0x123406, unhex("0400 01 f63412"), unhex("0600 02 0000 f63412"))
	// A Ping that lacks what is to be echoed.
	checkBad(t, c, codec.DefaultMaxFrame, codec.ErrMalformed, "0300 01 f000")
}

// Only the low half of the number is echoed: the stamp does not come back.
func TestHeartbeatSequenceIsLost(t *testing.T) {
	heartbeat := codec.Heartbeat{
		Pingers:  codec.BothSide,
		Ping:     codec.Match{Offset: 1, Value: []byte{1}},
		Pong:     codec.Match{Offset: 1, Value: []byte{2}},
		Query:    unhex("03 01 0000"),
		Sequence: codec.Sequence{Offset: 2, Size: 2},
		Answer:   unhex("03 02 0000"),
	}
	for _, echo := range []codec.Echo{{}, {From: 3, To: 3, Len: 1}} {
		heartbeat.Echo = echo
		c := mustCodec(t, codec.LengthField{Size: 1, Heartbeat: heartbeat})
		if p := c.Properties(); p != (codec.Properties{Pingers: codec.BothSide, Directed: true, Answered: true}) {
			t.Errorf("properties %+v", p)
		}
		if got := c.Beat(codec.Pong, unhex("03 02 0007")); got != (codec.Beat{}) {
			t.Errorf("beat of an answer %+v", got)
		}
		if got := c.Beat(codec.Ping, unhex("03 01 0007")); got != (codec.Beat{Stamp: 7, HasStamp: true}) {
			t.Errorf("beat %+v", got)
		}
	}
}

// Recognised and answered by functions; the stamp comes back, as a trial shows.
func TestHeartbeatFunc(t *testing.T) {
	c := mustCodec(t, codec.LengthField{
		Size: 1,
		Heartbeat: codec.Heartbeat{
			Pingers: codec.BothSide,
			Func: func(frame []byte) codec.Kind {
				switch string(frame[1:min(len(frame), 3)]) {
				case "PI":
					return codec.Ping
				case "PO":
					return codec.Pong
				case "??":
					return codec.AppKind
				}
				return codec.Data
			},
			Query:    append([]byte{3}, "PI0"...),
			Sequence: codec.Sequence{Offset: 3, Size: 1},
			AnswerFunc: func(dst, ping []byte) []byte {
				return append(dst, 3, 'P', 'O', ping[3])
			},
		},
	})
	checkHeartbeat(t, c, codec.Properties{
		Pingers: codec.BothSide, Directed: true, Answered: true, Stamped: true, StampMask: 0xff,
	}, 'x', []byte("\x03PIx"), []byte("\x03POx"))
	checkVectors(t, c, 256,
		vector{wire: []byte("\x02hi")},
		vector{wire: []byte("\x00")},
		vector{wire: []byte("\x03PIx"), kind: codec.Ping},
		vector{wire: []byte("\x02PO"), kind: codec.Pong},
	)
	checkBad(t, c, 256, codec.ErrMalformed, "02 3f3f")
	if _, err := c.Append(nil, codec.Data, []byte("\x02??")); !errors.Is(err, codec.ErrUnsupported) {
		t.Errorf("data that Func refuses: %v", err)
	}
}

func TestHeartbeatAppend(t *testing.T) {
	dst := []byte("x")
	for _, test := range []struct {
		name    string
		factory codec.Factory
		kind    codec.Kind
		payload string
		want    error
	}{
		{"ping", iec104, codec.Ping, "68 04 43 00 00 00", nil},
		{"pong", iec104, codec.Pong, "68 04 83 00 00 00", nil},
		{"ping as pong", iec104, codec.Pong, "68 04 43 00 00 00", codec.ErrUnsupported},
		{"ping as data", iec104, codec.Data, "68 04 43 00 00 00", codec.ErrUnsupported},
		{"data as ping", iec104, codec.Ping, "68 04 01 00 00 00", codec.ErrUnsupported},
		{"no frame as ping", iec104, codec.Ping, "", codec.ErrMalformed},
		{"part of a ping", iec104, codec.Ping, "68 04 43 00 00", codec.ErrMalformed},
		{"more than a ping", iec104, codec.Ping, "68 04 43 00 00 00 00", codec.ErrMalformed},
		{"ping of a wrong length", iec104, codec.Ping, "68 05 43 00 00 00 00", codec.ErrMalformed},
		{"such a ping as data", iec104, codec.Data, "68 05 43 00 00 00 00", codec.ErrUnsupported},
		{"ping too large", iec104, codec.Ping, "68 ff", codec.ErrTooLarge},
		{"no heartbeat", modbus, codec.Ping, "1501 0000 0006 ff 03 006b 0003", codec.ErrUnsupported},
		{"undirected pong", codec.Length4(), codec.Pong, "00000000", codec.ErrUnsupported},
		{"kind", iec104, codec.Close, "", codec.ErrUnsupported},
		{"application's kind", iec104, codec.AppKind, "68 04 01 00 00 00", codec.ErrUnsupported},
	} {
		c := mustCodec(t, test.factory)
		got, err := c.Append(dst, test.kind, unhex(test.payload))
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		want := []byte("x")
		if test.want == nil {
			want = append(want, unhex(test.payload)...)
		} else if e, ok := errors.AsType[*codec.Error](err); !ok || e.Op != "append frame" {
			t.Errorf("%s: %v is not of the step", test.name, err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: % x", test.name, got)
		}
	}
}
