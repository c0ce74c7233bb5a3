package codec_test

import (
	"math"
	"testing"

	"github.com/pulsewheel/pulsewheel/codec"
)

func TestMatchConfig(t *testing.T) {
	for _, test := range []struct {
		name  string
		field string
		codec.Match
	}{
		{"plain", "", codec.Match{Offset: 2, Value: []byte{9}}},
		{"masked", "", codec.Match{Offset: 2, Value: []byte{9}, Mask: []byte{0x0f}}},
		{"no value", "Heartbeat.Ping", codec.Match{Offset: 2}},
		{"mask alone", "Heartbeat.Ping", codec.Match{Mask: []byte{1}}},
		{"negative", "Heartbeat.Ping", codec.Match{Offset: -1, Value: []byte{9}}},
		{"last byte", "Heartbeat.Query", codec.Match{Offset: 99, Value: []byte{9}}}, // possible, but not what Query has
		{"beyond the longest frame", "Heartbeat.Ping", codec.Match{Offset: 100, Value: []byte{9}}},
		{"overflows", "Heartbeat.Ping", codec.Match{Offset: math.MaxInt, Value: []byte{9}}},
		{"mask of another length", "Heartbeat.Ping", codec.Match{Offset: 2, Value: []byte{9}, Mask: []byte{0xff, 0xff}}},
		{"never", "Heartbeat.Ping", codec.Match{Offset: 2, Value: []byte{9}, Mask: []byte{8}}},
	} {
		checkConfig(t, test.name, test.field, codec.LengthField{
			Size: 2, MaxFrame: 100,
			Heartbeat: codec.Heartbeat{Pingers: codec.Client, Ping: test.Match, Query: []byte{0, 1, 9}},
		})
	}
	checkConfig(t, "behind base 128", "Heartbeat.Ping", codec.LengthField{
		Size:      codec.Base128,
		Heartbeat: codec.Heartbeat{Pingers: codec.Client, Ping: codec.Match{Offset: 1, Value: []byte{9}}, Query: []byte{1, 9}},
	})
	checkConfig(t, "always", "LengthField.Header", codec.LengthField{
		Size: 1, Offset: 1, Strip: 2, Header: []byte{9},
		Heartbeat: codec.Heartbeat{Pingers: codec.Client, Ping: codec.Match{Offset: 0, Value: []byte{9}}, Query: []byte{9, 0}},
	})
}

func TestMatchMask(t *testing.T) {
	c := mustCodec(t, codec.LengthField{
		Size: 1,
		Heartbeat: codec.Heartbeat{
			Pingers: codec.BothSide,
			Ping:    codec.Match{Offset: 1, Value: []byte{0x10, 1}, Mask: []byte{0xf0, 0xff}},
			Pong:    codec.Match{Offset: 1, Value: []byte{0x20}, Mask: []byte{0xf0}},
			Query:   []byte{2, 0x10, 1},
			Answer:  []byte{1, 0x20},
		},
	})
	checkVectors(t, c, 256,
		vector{wire: unhex("02 10 01"), kind: codec.Ping},
		vector{wire: unhex("04 1f 01 ffff"), kind: codec.Ping},
		vector{wire: unhex("02 10 02")},
		vector{wire: unhex("01 10")}, // too short to match
		vector{wire: unhex("00")},
		vector{wire: unhex("01 2f"), kind: codec.Pong},
		vector{wire: unhex("01 30")},
	)
}
