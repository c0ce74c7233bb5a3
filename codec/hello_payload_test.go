package codec_test

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/pulsewheel/pulsewheel/codec"
)

func TestHelloPayload(t *testing.T) {
	for _, test := range []struct {
		in   codec.HelloPayload
		wire string
	}{
		{codec.HelloPayload{}, "0000 0000"},
		{codec.HelloPayload{Version: codec.HelloVersion, Token: []byte("abc")}, "0001 0003 616263"},
	} {
		wire, err := test.in.Append([]byte("x"))
		if err != nil || !bytes.Equal(wire[1:], unhex(test.wire)) {
			t.Errorf("%+v: % x, %v, want %s", test.in, wire[1:], err, test.wire)
		}
		for _, more := range []string{"", "more"} {
			got, err := codec.ParseHello(append(wire[1:], more...))
			if got.Version != test.in.Version || !bytes.Equal(got.Token, test.in.Token) || cap(got.Token) != len(got.Token) || err != nil {
				t.Errorf("parse % x: %+v, %v", wire[1:], got, err)
			}
		}
		for n := range len(wire) - 1 {
			if _, err := codec.ParseHello(wire[1 : 1+n]); !errors.Is(err, codec.ErrMalformed) {
				t.Errorf("parse % x: %v", wire[1:1+n], err)
			}
		}
	}
}

func TestHelloTokenLimit(t *testing.T) {
	longest := codec.HelloPayload{Token: make([]byte, math.MaxUint16)}
	wire, err := longest.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := codec.ParseHello(wire); err != nil || len(got.Token) != math.MaxUint16 {
		t.Errorf("longest token: %d bytes, %v", len(got.Token), err)
	}
	longest.Token = append(longest.Token, 0)
	if dst, err := longest.Append([]byte("x")); !errors.Is(err, codec.ErrTooLarge) || string(dst) != "x" {
		t.Errorf("a byte more: %d bytes, %v", len(dst), err)
	}
}
