package codec_test

import (
	"bytes"
	"testing"

	"github.com/pulsewheel/pulsewheel/codec"
)

// lines is a program's own codec: a frame is a line.
type lines struct{ codec.NoHeartbeat }

func (c lines) Codec() (codec.Codec, error) { return c, nil }
func (c lines) PerConn() codec.Codec        { return c }

func (c lines) Decode(b []byte) (f codec.Frame, n, need int, err error) {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return codec.Frame{Payload: b[:i:i]}, i + 1, 0, nil
	}
	return codec.Frame{}, 0, len(b) + 1, nil
}

func (c lines) Append(dst []byte, kind codec.Kind, payload []byte) ([]byte, error) {
	if kind != codec.Data {
		return dst, codec.ErrUnsupported
	}
	return append(append(dst, payload...), '\n'), nil
}

func TestNoHeartbeat(t *testing.T) {
	c := mustCodec(t, lines{})
	if c.Properties() != (codec.Properties{}) || c.Beat(codec.Ping, nil) != (codec.Beat{}) {
		t.Error("it claims to have a heartbeat")
	}
	dst := []byte("x")
	if got := c.AppendPong(c.AppendPing(dst, codec.Beat{}), nil); string(got) != "x" {
		t.Errorf("appended %q", got[1:])
	}
	checkSplits(t, c, []byte("one\n\ntwo\nthr"))
}
