package codec_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/pulsewheel/pulsewheel/codec"
)

func TestErrorText(t *testing.T) {
	native := mustCodec(t, codec.Native{MaxPayload: 100})
	length4 := mustCodec(t, codec.Length4())
	decode := func(c codec.Codec, s string) error {
		_, _, _, err := c.Decode(unhex(s))
		return err
	}
	_, unsupported := length4.Append(nil, codec.GoAway, nil)
	_, config := codec.Native{MaxPayload: -1}.Codec()
	for _, test := range []struct {
		err  error
		want string
	}{
		{decode(native, "000065 00"), "decode frame: frame too large: length 101, maximum 100"},
		{decode(native, "000000 45"), "decode frame: malformed frame: unknown kind 0x45"},
		{decode(length4, "ffffffff"), "decode frame: frame too large: length 4294967299, maximum 1048576"},
		{unsupported, "append frame: frame kind not supported by this codec: kind 3"},
		{config, "configure: invalid codec configuration: Native.MaxPayload: -1 is negative"},
		{&codec.Error{}, ""},
	} {
		if got := fmt.Sprint(test.err); got != test.want {
			t.Errorf("got  %q\nwant %q", got, test.want)
		}
	}
}

func TestErrorCarriesNumbers(t *testing.T) {
	c := mustCodec(t, codec.LengthField{Size: 8, MaxFrame: 1000})
	_, _, _, err := c.Decode(unhex("80000000 00000000"))
	e, ok := errors.AsType[*codec.Error](fmt.Errorf("close: %w", err))
	if !ok || e.Length != 1<<63+8 || e.Max != 1000 || !errors.Is(err, codec.ErrTooLarge) {
		t.Errorf("error %#v", e)
	}
}
