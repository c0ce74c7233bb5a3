package codec

import (
	"encoding/binary"
	"math"
	"time"
)

// DefaultMaxPayload is the largest payload that the zero Native takes, in
// bytes.
const DefaultMaxPayload = 1 << 20

const (
	nativeHeader = 4         // u24 length, u8 kind
	nativeBeat   = 12        // u64 stamp, u32 interval
	nativeLimit  = 1<<24 - 1 // what the u24 can say
)

// Native is the format of this module, ready to use as its zero value. All
// numbers are big endian:
//
//	u24 payload length | u8 kind | payload
//
//	Ping   nothing, or u64 opaque stamp, u32 interval in ms
//	Pong   the Ping's payload, verbatim
//	GoAway see [GoAwayPayload]
//	Hello  see [HelloPayload]; optional, and only as a connection's first frame
//	others the application's bytes
//
// A Ping without a payload, a header alone, is a legal bare heartbeat: it asks
// for an answer (the bare Pong) and says nothing else. It is what a client too
// small to keep a clock sends. Ping and Pong differ, both sides may ping, and
// a Pong brings the stamp back.
//
// How the format may grow: the lengths of Ping and Pong are part of it, so one
// of any other length than 0 and 12 is malformed, and so is a kind below
// [AppKind] that this package does not name. A later version that wants to say
// more in either way may do so only to a peer whose Hello carried that version.
// GoAway and Hello may be longer than what is read of them here; the rest
// belongs to a later version and is ignored.
//
// The codec neither knows nor checks where in a stream a frame stands.
type Native struct {
	// MaxPayload is the largest payload accepted and sent, in bytes, up to
	// 1<<24 - 1. Zero means DefaultMaxPayload, 1 MiB. A negative or larger
	// value is an error from Codec. Heartbeats pass whatever it says.
	MaxPayload int
}

// Codec returns the codec, or an error that wraps ErrConfig.
func (c Native) Codec() (Codec, error) {
	switch {
	case c.MaxPayload < 0:
		return nil, configError("Native.MaxPayload", "%d is negative", c.MaxPayload)
	case c.MaxPayload > nativeLimit:
		return nil, configError("Native.MaxPayload", "%d above the %d that 24 bits can say", c.MaxPayload, nativeLimit)
	case c.MaxPayload == 0:
		return &nativeCodec{max: DefaultMaxPayload}, nil
	}
	return &nativeCodec{max: c.MaxPayload}, nil
}

// nativeCodec is immutable; all connections share one.
type nativeCodec struct {
	max int // largest payload, bytes
}

func (c *nativeCodec) Decode(b []byte) (f Frame, n, need int, err error) {
	if len(b) < nativeHeader {
		return Frame{}, 0, nativeHeader, nil
	}
	head := binary.BigEndian.Uint32(b)
	size, kind := int(head>>8), Kind(head)
	if size > c.max || assigned(kind) {
		if err := c.check(opDecode, ErrMalformed, kind, size); err != nil {
			return Frame{}, 0, 0, err
		}
	}
	end := nativeHeader + size
	if len(b) < end {
		return Frame{}, 0, end, nil
	}
	return Frame{Kind: kind, Payload: b[nativeHeader:end:end]}, end, 0, nil
}

func (c *nativeCodec) Append(dst []byte, kind Kind, payload []byte) ([]byte, error) {
	if len(payload) > c.max || assigned(kind) {
		if err := c.check(opAppend, ErrUnsupported, kind, len(payload)); err != nil {
			return dst, err
		}
	}
	return appendNative(dst, kind, payload), nil
}

// AppendPrefix appends the header.
func (c *nativeCodec) AppendPrefix(dst []byte, kind Kind, payload []byte) ([]byte, error) {
	if len(payload) > c.max || assigned(kind) {
		if err := c.check(opAppend, ErrUnsupported, kind, len(payload)); err != nil {
			return dst, err
		}
	}
	return binary.BigEndian.AppendUint32(dst, uint32(len(payload))<<8|uint32(kind)), nil
}

// assigned reports whether the format itself gives the kind a meaning, or
// keeps it for one: 0x01 to 0x7f, in one comparison.
func assigned(kind Kind) bool { return kind-1 < AppKind-1 }

// check is the way off the hot path: it looks closely at what is not plain
// data of a permitted length. unknown is the cause for an unassigned kind.
func (c *nativeCodec) check(op string, unknown error, kind Kind, size int) error {
	switch {
	case kind == Ping || kind == Pong:
		if size != 0 && size != nativeBeat {
			return malformed(op, "heartbeat with a payload of %d bytes, not 0 or %d", size, nativeBeat)
		}
	case kind > Ack && kind < AppKind:
		return &Error{Op: op, Detail: "unknown kind " + hexByte(byte(kind)), Err: unknown}
	case size > c.max:
		return tooLarge(op, uint64(size), uint64(c.max))
	}
	return nil
}

func hexByte(x byte) string {
	const digits = "0123456789abcdef"
	return string([]byte{'0', 'x', digits[x>>4], digits[x&15]})
}

// appendNative expects a checked kind and length.
func appendNative(dst []byte, kind Kind, payload []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(payload))<<8|uint32(kind))
	return append(dst, payload...)
}

// AppendPing appends the bare heartbeat for the zero Beat, and otherwise one
// with stamp and interval.
func (c *nativeCodec) AppendPing(dst []byte, beat Beat) []byte {
	if beat == (Beat{}) {
		return appendNative(dst, Ping, nil)
	}
	dst = binary.BigEndian.AppendUint32(dst, nativeBeat<<8|uint32(Ping))
	dst = binary.BigEndian.AppendUint64(dst, beat.Stamp)
	return binary.BigEndian.AppendUint32(dst, millis(beat.Interval))
}

// AppendPong echoes the Ping's payload. Bytes that are no Ping's payload get
// the bare Pong, so that no legal caller can be made to emit a malformed one.
func (c *nativeCodec) AppendPong(dst, ping []byte) []byte {
	if len(ping) != nativeBeat {
		ping = nil
	}
	return appendNative(dst, Pong, ping)
}

func (c *nativeCodec) Beat(kind Kind, payload []byte) Beat {
	if len(payload) != nativeBeat {
		return Beat{}
	}
	beat := Beat{Stamp: binary.BigEndian.Uint64(payload), HasStamp: true}
	if kind == Ping {
		// In a Pong it is the reader's own announcement coming back.
		beat.Interval = time.Duration(binary.BigEndian.Uint32(payload[8:])) * time.Millisecond
	}
	return beat
}

func (c *nativeCodec) Properties() Properties {
	return Properties{
		Pingers:   BothSide,
		Directed:  true,
		Answered:  true,
		Stamped:   true,
		StampMask: math.MaxUint64,
	}
}

func (c *nativeCodec) PerConn() Codec { return c }

// millis rounds up, so that a promise is never shorter on the wire than it was
// meant. Negative durations become 0, those above 49.7 days 1<<32 - 1.
func millis(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	ms := (d-1)/time.Millisecond + 1
	return uint32(min(ms, math.MaxUint32))
}
