package codec_test

import (
	"bytes"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
)

func TestGoAwayPayload(t *testing.T) {
	const longest = math.MaxUint32 * time.Millisecond
	for _, test := range []struct {
		in   codec.GoAwayPayload
		wire string
		out  time.Duration
	}{
		{codec.GoAwayPayload{}, "00000000 00", 0},
		{codec.GoAwayPayload{RetryAfter: 30 * time.Second, Reason: 2}, "00007530 02", 30 * time.Second},
		{codec.GoAwayPayload{RetryAfter: 1, Reason: 255}, "00000001 ff", time.Millisecond},
		{codec.GoAwayPayload{RetryAfter: -time.Second}, "00000000 00", 0},
		{codec.GoAwayPayload{RetryAfter: longest}, "ffffffff 00", longest},
		{codec.GoAwayPayload{RetryAfter: math.MaxInt64}, "ffffffff 00", longest},
	} {
		wire := test.in.Append([]byte("x"))
		if !bytes.Equal(wire[1:], unhex(test.wire)) {
			t.Errorf("%+v: % x, want %s", test.in, wire[1:], test.wire)
		}
		// What a later version adds is ignored.
		for _, more := range []string{"", "more"} {
			got, err := codec.ParseGoAway(append(wire[1:], more...))
			if want := (codec.GoAwayPayload{RetryAfter: test.out, Reason: test.in.Reason}); got != want || err != nil {
				t.Errorf("parse % x: %+v, %v, want %+v", wire[1:], got, err, want)
			}
		}
	}
	for n := range 5 {
		if _, err := codec.ParseGoAway(make([]byte, n)); !errors.Is(err, codec.ErrMalformed) {
			t.Errorf("parse %d bytes: %v", n, err)
		}
	}
}
