package codec

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

// lengthCodec is a checked LengthField. It is immutable; all connections share
// one. Lengths are in bytes, and "frame" is all of it, header and trailer.
type lengthCodec struct {
	// The length field.
	offset  int  // bytes before it
	size    int  // its bytes; base128: its least bytes, 1
	wide    int  // its most bytes
	head    int  // offset + size: what Decode wants to see first
	base128 bool // its width varies
	little  bool

	// What it may say. A frame's length is the value + base, with base128 also
	// + the width of the field.
	base     int64
	lo, span uint64 // the legal values are lo to lo+span; not for base128
	min      int    // LengthField.MinFrame
	grow     int    // bytes that every frame has behind the length field
	short    int    // the shortest frame: least(size)
	max      int    // the longest frame

	// What stands around a payload.
	kept     bool   // the length field is part of the payload
	strip    int    // bytes before the payload; base128 and not kept: head, or more
	template []byte // what Append puts there; base128 and not kept: up to the length field
	marker   []byte
	markerAt int
	trailer  []byte
	// Nothing but its length can make a frame a heartbeat, and there is no
	// trailer: the short way through Decode.
	plain bool
	// And a header of fixed width, marker included, is all there is beside the
	// payload: the short way through Append.
	simple bool

	beat heartbeatCodec
}

// least returns the length of the shortest frame whose length field takes w
// bytes.
func (c *lengthCodec) least(w int) int {
	return max(c.offset+w+c.grow, c.min)
}

func (c *lengthCodec) PerConn() Codec { return c }

func (c *lengthCodec) Properties() Properties { return c.beat.props }

func (c *lengthCodec) Decode(b []byte) (f Frame, n, need int, err error) {
	if len(b) < c.head {
		return Frame{}, 0, c.head, nil
	}
	if len(c.marker) != 0 && !c.marked(b) {
		return Frame{}, 0, 0, c.unmarked(opDecode, b)
	}
	if c.base128 {
		return c.decode128(b)
	}
	v := c.value(b[c.offset:])
	// One comparison for both ends. What passes fits an int: it is at most max.
	if v-c.lo > c.span {
		return Frame{}, 0, 0, c.badLength(v, c.size)
	}
	length := int(int64(v) + c.base)
	if len(b) < length {
		return Frame{}, 0, length, nil
	}
	if c.plain && length != c.short {
		return Frame{Kind: Data, Payload: b[c.strip:length:length]}, length, 0, nil
	}
	return c.cut(b[:length:length], c.strip, length == c.short)
}

// decode128 is Decode for a length field of varying width.
func (c *lengthCodec) decode128(b []byte) (f Frame, n, need int, err error) {
	v, w := c.value128(b[c.offset:])
	switch {
	case w == 0:
		return Frame{}, 0, len(b) + 1, nil
	case w < 0:
		return Frame{}, 0, 0, malformed(opDecode, "length field of more than %d bytes", c.wide)
	}
	// limits made sure that even the widest field leaves lo <= hi.
	base, least := c.base+int64(w), c.least(w)
	if v < uint64(int64(least)-base) || v > uint64(int64(c.max)-base) {
		return Frame{}, 0, 0, c.badLength(v, w)
	}
	length := int(int64(v) + base)
	if len(b) < length {
		return Frame{}, 0, length, nil
	}
	strip := c.strip
	if !c.kept {
		strip = c.offset + w
	}
	return c.cut(b[:length:length], strip, length == least)
}

// cut makes a Frame of the bytes of a whole one. empty: it is as short as a
// frame can be.
func (c *lengthCodec) cut(frame []byte, strip int, empty bool) (f Frame, n, need int, err error) {
	if len(c.trailer) != 0 && !bytes.HasSuffix(frame, c.trailer) {
		return Frame{}, 0, 0, c.untrailed(frame)
	}
	if c.beat.by != byNothing {
		if kind := c.beat.kind(frame, empty); kind != Data {
			if err := c.beat.check(kind, frame); err != nil {
				return Frame{}, 0, 0, err
			}
			return Frame{Kind: kind, Payload: frame}, len(frame), 0, nil
		}
	}
	end := len(frame) - len(c.trailer)
	return Frame{Kind: Data, Payload: frame[strip:end:end]}, len(frame), 0, nil
}

// value reads a length field of fixed width.
func (c *lengthCodec) value(b []byte) uint64 {
	if c.size == 4 && !c.little {
		return uint64(binary.BigEndian.Uint32(b))
	}
	return readUint(b[:c.size], c.little)
}

// value128 reads a base-128 length and its width. The width is 0 if b ends
// before it, and -1 if it is wider than permitted.
func (c *lengthCodec) value128(b []byte) (v uint64, w int) {
	for i, x := range b[:min(len(b), c.wide)] {
		v |= uint64(x&0x7f) << (7 * i)
		if x < 0x80 {
			return v, i + 1
		}
	}
	if len(b) >= c.wide {
		return 0, -1
	}
	return 0, 0
}

// marked reports whether a frame starts as it must. It needs head bytes.
func (c *lengthCodec) marked(frame []byte) bool {
	return bytes.Equal(frame[c.markerAt:c.markerAt+len(c.marker)], c.marker)
}

// badLength is the error for a length field of w bytes that says v.
func (c *lengthCodec) badLength(v uint64, w int) error {
	base := c.base
	if c.base128 {
		base += int64(w)
	}
	// Below 0 or above what 64 bits hold, the sum is of no use.
	length, carry := bits.Add64(v, uint64(base), 0)
	if base < 0 && carry == 0 {
		return malformed(opDecode, "length field says %d, %d less than nothing", v, -(int64(v) + base))
	}
	if base >= 0 && carry != 0 {
		length = math.MaxUint64
	}
	if length > uint64(c.max) {
		return tooLarge(opDecode, length, uint64(c.max))
	}
	return malformed(opDecode, "length %d, minimum %d", length, c.least(w))
}

func (c *lengthCodec) unmarked(op string, frame []byte) error {
	// The longest marker is 64 KiB; eight bytes are enough to know it by.
	got := frame[c.markerAt : c.markerAt+len(c.marker)]
	return malformed(op, "% x, not the marker % x", got[:min(len(got), 8)], c.marker[:min(len(got), 8)])
}

func (c *lengthCodec) untrailed(frame []byte) error {
	got := frame[len(frame)-len(c.trailer):]
	return malformed(opDecode, "ends in % x, not in % x", got[:min(len(got), 8)], c.trailer[:min(len(got), 8)])
}

func (c *lengthCodec) Append(dst []byte, kind Kind, payload []byte) ([]byte, error) {
	if kind == Data && c.simple {
		// The short way: what Decode finds to be longer than the shortest frame is
		// data, and there is nothing but the payload to go in.
		if length := len(c.template) + len(payload); length > c.short && length <= c.max {
			return append(c.appendHeader(dst, length), payload...), nil
		}
	}
	switch kind {
	case Data:
		out, err := c.appendData(dst, payload)
		if err != nil {
			return dst, err
		}
		if c.beat.by != byNothing {
			frame := out[len(dst):]
			if c.beat.kind(frame, c.empty(frame)) != Data {
				return dst, unsupported(opAppend, "data of %d bytes would read as a heartbeat", len(payload))
			}
		}
		return out, nil
	case Ping, Pong:
		if c.beat.by == byNothing {
			return dst, unsupported(opAppend, "no heartbeat is configured")
		}
		f, n, _, err := c.Decode(payload)
		switch {
		case err != nil:
			err.(*Error).Op = opAppend
			return dst, err
		case n != len(payload) || n == 0:
			return dst, malformed(opAppend, "a heartbeat's payload is its whole frame, not %d bytes", len(payload))
		case f.Kind != kind:
			return dst, unsupported(opAppend, "kind %d, but the frame is one of kind %d", kind, f.Kind)
		}
		return append(dst, payload...), nil
	}
	return dst, unsupported(opAppend, "kind %d", kind)
}

// empty reports whether a well-formed frame is as short as a frame can be.
func (c *lengthCodec) empty(frame []byte) bool {
	w := c.size
	if c.base128 {
		_, w = c.value128(frame[c.offset:])
	}
	return len(frame) == c.least(w)
}

// appendData appends a frame around payload, whatever Decode would make of it.
func (c *lengthCodec) appendData(dst, payload []byte) ([]byte, error) {
	length := len(c.template) + len(c.trailer)
	if len(payload) > c.max-length {
		return dst, tooLarge(opAppend, uint64(length)+uint64(len(payload)), uint64(c.max))
	}
	length += len(payload)
	w := c.size
	var v uint64 // what the length field is to say
	switch {
	case c.base128 && c.kept:
		// Its width is known once it is read, below.
	case c.base128:
		adjust := c.base - int64(c.offset)
		v = uint64(int64(len(payload)+len(c.trailer)) - adjust)
		if int64(v) < 0 {
			return dst, malformed(opAppend, "length %d, minimum %d", length+w, c.least(w))
		}
		if w = width128(v); w > c.max-length {
			return dst, tooLarge(opAppend, uint64(length)+uint64(w), uint64(c.max))
		}
		length += w
	default:
		v = uint64(int64(length) - c.base)
	}
	if length < c.least(w) {
		return dst, malformed(opAppend, "length %d, minimum %d", length, c.least(w))
	}

	out := slices.Grow(dst, length)
	out = append(out, c.template...)
	if c.base128 && !c.kept {
		out = binary.AppendUvarint(out, v)
	}
	out = append(out, payload...)
	out = append(out, c.trailer...)
	frame := out[len(dst):]

	if len(c.marker) != 0 && !c.marked(frame) {
		return dst, c.unmarked(opAppend, frame)
	}
	if !c.base128 {
		writeUint(frame[c.offset:c.head], v, c.little)
	} else if c.kept {
		v, w := c.value128(frame[c.offset : len(frame)-len(c.trailer)])
		if w <= 0 || length < c.least(w) || v != uint64(int64(length)-c.base-int64(w)) {
			return dst, malformed(opAppend, "the payload's length field is not that of a frame of %d bytes", length)
		}
	}
	return out, nil
}

// errNoPrefix is AppendPrefix's for frames that are more than a header of fixed
// width and the payload.
var errNoPrefix = &Error{Op: opAppend, Detail: "not a header and the payload", Err: ErrUnsupported}

// AppendPrefix appends the header of a data frame, where that is all there is
// beside the payload.
func (c *lengthCodec) AppendPrefix(dst []byte, kind Kind, payload []byte) ([]byte, error) {
	if kind != Data || !c.simple || len(payload) > c.max-len(c.template) || len(c.template)+len(payload) <= c.short {
		return dst, errNoPrefix // too large, too small, or a heartbeat
	}
	return c.appendHeader(dst, len(c.template)+len(payload)), nil
}

// appendHeader appends the header of a simple codec's frame of that length.
func (c *lengthCodec) appendHeader(dst []byte, length int) []byte {
	dst = append(dst, c.template...)
	header := dst[len(dst)-len(c.template):]
	if v := uint64(int64(length) - c.base); c.size == 4 && !c.little {
		binary.BigEndian.PutUint32(header[c.offset:], uint32(v))
	} else {
		writeUint(header[c.offset:c.head], v, c.little)
	}
	return dst
}

// width128 returns the number of bytes of a base-128 number.
func width128(v uint64) int { return max(1, (bits.Len64(v)+6)/7) }

// readUint reads a number of len(b) bytes, at most 8.
func readUint(b []byte, little bool) (v uint64) {
	if little {
		for i := len(b) - 1; i >= 0; i-- {
			v = v<<8 | uint64(b[i])
		}
		return v
	}
	for _, x := range b {
		v = v<<8 | uint64(x)
	}
	return v
}

// writeUint fills b, at most 8 bytes, with the low bytes of v.
func writeUint(b []byte, v uint64, little bool) {
	for i := range b {
		at := i
		if !little {
			at = len(b) - 1 - i
		}
		b[at] = byte(v >> (8 * i))
	}
}
