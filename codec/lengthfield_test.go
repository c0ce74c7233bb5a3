package codec_test

import (
	"errors"
	"math"
	"testing"

	"github.com/pulsewheel/pulsewheel/codec"
)

// checkConfig wants an error that names field, or none.
func checkConfig(t *testing.T, name, field string, l codec.LengthField) {
	t.Helper()
	c, err := l.Codec()
	if field == "" {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return
	}
	e, ok := errors.AsType[*codec.Error](err)
	if !ok || !errors.Is(err, codec.ErrConfig) || c != nil {
		t.Errorf("%s: %v, %v", name, c, err)
		return
	}
	if e.Field != field || e.Detail == "" {
		t.Errorf("%s: %v, want one about %s", name, err, field)
	}
}

func TestLengthFieldConfig(t *testing.T) {
	type L = codec.LengthField
	const b128 = codec.Base128
	for _, test := range []struct {
		name  string
		field string
		L
	}{
		{"zero", "LengthField.Size", L{}},
		{"size 5", "LengthField.Size", L{Size: 5}},
		{"size 9", "LengthField.Size", L{Size: 9}},
		{"size -2", "LengthField.Size", L{Size: -2}},
		{"size 1", "", L{Size: 1}},
		{"size 3", "", L{Size: 3}},
		{"size 8", "", L{Size: 8}},
		{"size 8, longest", "", L{Size: 8, MaxFrame: codec.MaxFrame}},
		{"base 128", "", L{Size: b128}},
		{"base 128 bytes", "", L{Size: b128, Base128Bytes: 9}},
		{"base 128 bytes, many", "LengthField.Base128Bytes", L{Size: b128, Base128Bytes: 10}},
		{"base 128 bytes, negative", "LengthField.Base128Bytes", L{Size: b128, Base128Bytes: -1}},
		{"base 128 bytes, but fixed", "LengthField.Base128Bytes", L{Size: 4, Base128Bytes: 4}},

		{"negative offset", "LengthField.Offset", L{Size: 4, Offset: -1}},
		{"largest offset", "", L{Size: 4, Offset: codec.MaxHeader}},
		{"offset too large", "LengthField.Offset", L{Size: 4, Offset: codec.MaxHeader + 1}},
		{"offset overflows", "LengthField.Offset", L{Size: 4, Offset: math.MaxInt}},

		{"adjust overflows", "LengthField.Adjust", L{Size: 4, Adjust: math.MinInt}},
		{"adjust swallows all", "LengthField.Adjust", L{Size: 1, Adjust: -256}},
		{"adjust swallows all but nothing", "", L{Size: 1, Adjust: -255}},
		{"adjust above the maximum", "LengthField.MaxFrame", L{Size: 1, Adjust: 100, MaxFrame: 100}},
		{"adjust at the maximum", "", L{Size: 1, Adjust: 99, MaxFrame: 100}},
		{"largest adjust", "LengthField.MaxFrame", L{Size: 1, Adjust: math.MaxInt32}},

		{"marker", "", L{Size: 1, Offset: 3, Marker: []byte{1, 2}, MarkerOffset: 1}},
		{"marker, negative offset", "LengthField.MarkerOffset", L{Size: 1, Offset: 3, Marker: []byte{1}, MarkerOffset: -1}},
		{"marker offset alone", "LengthField.MarkerOffset", L{Size: 1, Offset: 3, MarkerOffset: 1}},
		{"marker in the length field", "LengthField.Marker", L{Size: 1, Offset: 3, Marker: []byte{1, 2}, MarkerOffset: 2}},
		{"marker behind the length field", "LengthField.Marker", L{Size: 1, Marker: []byte{1}, MarkerOffset: 1}},
		{"marker overflows", "LengthField.Marker", L{Size: 1, Offset: 3, Marker: []byte{1}, MarkerOffset: math.MaxInt}},
		{"long trailer", "LengthField.Trailer", L{Size: 1, Trailer: make([]byte, codec.MaxHeader+1)}},

		{"minimum, negative", "LengthField.MinFrame", L{Size: 1, MinFrame: -1}},
		{"minimum above maximum", "LengthField.MinFrame", L{Size: 1, MinFrame: 101, MaxFrame: 100}},
		{"minimum above what a byte says", "LengthField.MinFrame", L{Size: 1, MinFrame: 257}},
		{"minimum is all there is", "", L{Size: 1, MinFrame: 256}},

		{"maximum, negative", "LengthField.MaxFrame", L{Size: 4, MaxFrame: -1}},
		{"maximum a byte can say", "", L{Size: 1, MaxFrame: 256}},
		{"maximum a byte cannot say", "LengthField.MaxFrame", L{Size: 1, MaxFrame: 257}},
		{"maximum two bytes cannot say", "LengthField.MaxFrame", L{Size: 2, Adjust: -2, MaxFrame: 65536}},
		{"maximum three bytes can say", "", L{Size: 3, MaxFrame: 3 + 1<<24 - 1}},
		{"maximum three bytes cannot say", "LengthField.MaxFrame", L{Size: 3, MaxFrame: 3 + 1<<24}},
		{"maximum base 128 can say", "", L{Size: b128, Base128Bytes: 1, MaxFrame: 128}},
		{"maximum base 128 cannot say", "LengthField.MaxFrame", L{Size: b128, Base128Bytes: 1, MaxFrame: 129}},
		{"maximum base 128 in nine bytes", "", L{Size: b128, Base128Bytes: 9, MaxFrame: codec.MaxFrame}},
		{"maximum below the header", "LengthField.MaxFrame", L{Size: 4, Offset: 4, MaxFrame: 7}},
		{"maximum is the header", "", L{Size: 4, Offset: 4, MaxFrame: 8}},
		{"maximum below the trailer", "LengthField.MaxFrame", L{Size: 4, Trailer: []byte{1}, MaxFrame: 4}},
		{"maximum below the widest header", "LengthField.MaxFrame", L{Size: b128, MaxFrame: 3}},

		{"strip, negative", "LengthField.Strip", L{Size: 4, Strip: -2}},
		{"strip the field", "", L{Size: 4, Strip: 4}},
		{"strip into the field", "LengthField.Strip", L{Size: 4, Offset: 2, Strip: 3}},
		{"strip up to the field", "", L{Size: 4, Offset: 2, Strip: 2}},
		{"strip more than the header", "LengthField.Strip", L{Size: 4, Strip: 5}},
		{"strip more, behind Adjust", "", L{Size: 4, Strip: 5, Adjust: 1}},
		{"strip more, behind MinFrame", "", L{Size: 4, Strip: 5, MinFrame: 5}},
		{"strip the trailer", "LengthField.Strip", L{Size: 4, Strip: 5, MinFrame: 5, Trailer: []byte{1}}},
		{"strip too much", "LengthField.Strip", L{Size: 4, Strip: codec.MaxHeader + 1, MinFrame: 1 << 17}},
		{"strip base 128", "", L{Size: b128, Offset: 1, Strip: codec.StripHeader}},
		{"strip before base 128", "", L{Size: b128, Offset: 1, Strip: 1}},
		{"strip a number of base 128", "LengthField.Strip", L{Size: b128, Offset: 1, Strip: 2}},

		{"header", "", L{Size: 1, Offset: 2, Strip: 3, Header: []byte{1, 2, 0}}},
		{"header longer than stripped", "LengthField.Header", L{Size: 1, Offset: 2, Strip: 3, Header: []byte{1, 2, 0, 4}}},
		{"header but nothing stripped", "LengthField.Header", L{Size: 1, Offset: 2, Header: []byte{1}}},
		{"header over base 128", "LengthField.Header", L{Size: b128, Offset: 1, Strip: codec.StripHeader, Header: []byte{1, 2}}},
		{"header agrees with marker", "", L{Size: 1, Offset: 3, Strip: 3, Marker: []byte{5, 6}, MarkerOffset: 1, Header: []byte{1, 5}}},
		{"header against marker", "LengthField.Header", L{Size: 1, Offset: 3, Strip: 3, Marker: []byte{5, 6}, MarkerOffset: 1, Header: []byte{1, 5, 7}}},
	} {
		checkConfig(t, test.name, test.field, test.L)
	}
	if math.MaxInt > codec.MaxFrame {
		checkConfig(t, "maximum above int32", "LengthField.MaxFrame", L{Size: 8, MaxFrame: math.MaxInt})
	}
}

// The configuration may be changed once the codec is made.
func TestLengthFieldCopies(t *testing.T) {
	l := codec.Length4()
	l.Trailer = []byte{7}
	l.Header = []byte{0}
	l.Heartbeat.Query = []byte{0, 0, 0, 1, 7}
	l.Heartbeat.Answer = []byte{0, 0, 0, 1, 7}
	c := mustCodec(t, l)
	for _, b := range [][]byte{l.Trailer, l.Header, l.Heartbeat.Query, l.Heartbeat.Answer} {
		b[0] = 0xee
	}
	checkVectors(t, c, codec.DefaultMaxFrame,
		vector{wire: unhex("00000002 01 07"), payload: []byte{1}},
		vector{wire: unhex("00000001 07"), kind: codec.Ping},
	)
	checkHeartbeat(t, c, codec.Properties{Pingers: codec.Client, Answered: true}, 0, unhex("00000001 07"), unhex("00000001 07"))
}
