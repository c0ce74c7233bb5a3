package codec

import (
	"bytes"
	"math"
	"slices"
)

const (
	// Base128 is the LengthField.Size of a length in groups of seven bits, the
	// lowest first, each byte but the last with its top bit set: the remaining
	// length of MQTT 3.1.1 (section 2.2.3), the varint of protobuf.
	Base128 = -1

	// StripHeader is the LengthField.Strip of everything up to and including
	// the length field, however wide that is.
	StripHeader = -1

	// DefaultMaxFrame is the longest frame that a LengthField takes which does
	// not say MaxFrame, in bytes, header and trailer included.
	DefaultMaxFrame = 1 << 20
)

const (
	// maxHeader bounds what stands around a payload, in bytes.
	maxHeader = 1<<16 - 1
	// maxFrame bounds every frame: it has to fit an int on any platform.
	maxFrame = math.MaxInt32

	defaultBase128Bytes = 4 // as MQTT has it
	maxBase128Bytes     = 9 // 63 bits
)

// LengthField describes a format whose header announces the length of the
// frame. Unless Size is Base128, a frame looks like this:
//
//	| Offset bytes | Size bytes: length field | … | Trailer |
//	  with Marker
//
//	frame length = Offset + Size + value of the length field + Adjust
//
// With Base128 the number of bytes that the length field takes stands in the
// place of Size.
//
// It is its own Factory. Codec copies what it needs, so that the slices may be
// changed afterwards. Frames of the kinds Data, Ping and Pong are all it has:
// Append refuses others, and also data that the peer would take for a
// heartbeat (ErrUnsupported). The payload of a Ping or Pong is its whole
// frame, from the first byte to the last, whatever Strip says.
type LengthField struct {
	// Offset is the number of bytes before the length field, 0 to 65,535.
	Offset int
	// Size is the width of the length field: 1, 2, 3, 4 or 8 bytes, or
	// Base128. There is no default.
	Size int
	// Base128Bytes is the most bytes a Base128 length may take, 1 to 9. Zero
	// means 4, MQTT's limit. It must be zero with any other Size. A length in
	// more bytes than it needs is accepted; Append uses as few as it can.
	Base128Bytes int
	// LittleEndian is the byte order of the length field and of
	// Heartbeat.Sequence. The default is big endian.
	LittleEndian bool
	// Adjust is added to the value of the length field, in bytes. It is
	// negative where the length counts the header (SMPP: -4), positive where
	// it leaves out something behind the field (AMQP's frame-end: 1).
	Adjust int

	// Strip is the number of leading bytes that are not part of a payload.
	// Zero keeps them all. It must not cut through the length field, and not
	// exceed the header, which is what every frame has before its trailer.
	// With Base128 it is at most Offset, or StripHeader.
	//
	// Append writes the length field in either case: in front of the payload
	// where it is stripped; where it is kept over whatever the payload has in
	// its place. Only a kept Base128 length is checked instead, since putting
	// it right could move all that follows.
	Strip int
	// Header is what Append writes for the stripped bytes, at most Strip of
	// them (at most Offset with Base128). Missing ones are zero; Marker and
	// length field are filled in.
	Header []byte
	// Marker is a constant that stands MarkerOffset bytes from the start of
	// every frame, before the length field: BGP's sixteen 0xff, the 0x68 of
	// IEC 60870-5-104, Modbus's protocol identifier. A frame without it is
	// malformed, which is seen before its length is believed.
	Marker       []byte
	MarkerOffset int
	// Trailer is a constant that ends every frame, such as AMQP's 0xce. It is
	// counted in the frame length, checked, never part of a data payload, and
	// added by Append.
	Trailer []byte

	// MinFrame is the shortest frame, in bytes, header and trailer included.
	// What the other fields demand applies anyway; zero adds nothing to it.
	// A shorter frame is malformed.
	MinFrame int
	// MaxFrame is the longest frame, in bytes, header and trailer included, at
	// most 1<<31 - 1 and what the length field can express. A longer one is
	// ErrTooLarge, as soon as its header is there. Zero means DefaultMaxFrame,
	// or what the length field can express if that is less.
	MaxFrame int

	// Heartbeat says which frames are heartbeats. Zero: none.
	Heartbeat Heartbeat
}

// Length4 is the plainest format that has a heartbeat, and the one of this
// module's examples: the payload's length in four bytes, big endian, then the
// payload. An empty frame is the heartbeat; only the client sends it unasked,
// and the server answers with the same. Frames of up to DefaultMaxFrame, so
// payloads of up to four bytes less; an empty payload cannot be sent as data.
func Length4() LengthField {
	return LengthField{
		Size:  4,
		Strip: StripHeader,
		Heartbeat: Heartbeat{
			Pingers: Client,
			Empty:   true,
			Query:   []byte{0, 0, 0, 0},
			Answer:  []byte{0, 0, 0, 0},
		},
	}
}

// Codec checks the configuration and returns the codec, or an error that wraps
// ErrConfig and names the field. It tries the heartbeat out, and so may call
// Heartbeat.Func and Heartbeat.AnswerFunc.
func (l LengthField) Codec() (Codec, error) {
	c := &lengthCodec{
		offset:   l.Offset,
		little:   l.LittleEndian,
		marker:   slices.Clone(l.Marker),
		markerAt: l.MarkerOffset,
		trailer:  slices.Clone(l.Trailer),
	}
	// In this order: each step relies on the fields before it.
	for _, step := range [...]func(*lengthCodec) error{
		l.length, l.constants, l.limits, l.strip, l.header,
	} {
		if err := step(c); err != nil {
			return nil, err
		}
	}
	if err := l.Heartbeat.prepare(c); err != nil {
		return nil, err
	}
	c.plain = len(c.trailer) == 0 && (c.beat.by == byNothing || c.beat.by == byEmpty)
	c.simple = c.plain && !c.base128 && len(c.template) >= max(c.head, c.markerAt+len(c.marker))
	return c, nil
}

// length checks what describes the length field.
func (l LengthField) length(c *lengthCodec) error {
	switch l.Size {
	case 1, 2, 3, 4, 8:
		c.size, c.wide = l.Size, l.Size
	case Base128:
		c.size, c.wide = 1, l.Base128Bytes
		c.base128 = true
		if l.Base128Bytes == 0 {
			c.wide = defaultBase128Bytes
		}
	default:
		return configError("LengthField.Size", "%d, not 1, 2, 3, 4, 8 or Base128", l.Size)
	}
	switch {
	case l.Base128Bytes != 0 && l.Size != Base128:
		return configError("LengthField.Base128Bytes", "%d, but Size is not Base128", l.Base128Bytes)
	case l.Base128Bytes < 0 || l.Base128Bytes > maxBase128Bytes:
		return configError("LengthField.Base128Bytes", "%d, not 1 to %d", l.Base128Bytes, maxBase128Bytes)
	case l.Offset < 0 || l.Offset > maxHeader:
		return configError("LengthField.Offset", "%d, not 0 to %d", l.Offset, maxHeader)
	case l.Adjust < -maxFrame || l.Adjust > maxFrame:
		return configError("LengthField.Adjust", "%d, beyond %d", l.Adjust, maxFrame)
	}
	c.head = l.Offset + c.size
	c.base = int64(l.Offset) + int64(l.Adjust)
	if !c.base128 {
		c.base += int64(l.Size)
	}
	return nil
}

// constants checks what every frame begins and ends with.
func (l LengthField) constants(c *lengthCodec) error {
	switch {
	case l.MarkerOffset < 0:
		return configError("LengthField.MarkerOffset", "%d is negative", l.MarkerOffset)
	case l.MarkerOffset != 0 && len(l.Marker) == 0:
		return configError("LengthField.MarkerOffset", "%d, but there is no Marker", l.MarkerOffset)
	case l.MarkerOffset > l.Offset || len(l.Marker) > l.Offset-l.MarkerOffset:
		return configError("LengthField.Marker", "%d bytes at %d reach beyond the %d before the length field",
			len(l.Marker), l.MarkerOffset, l.Offset)
	case len(l.Trailer) > maxHeader:
		return configError("LengthField.Trailer", "%d bytes, more than %d", len(l.Trailer), maxHeader)
	}
	c.grow = max(l.Adjust, len(l.Trailer), 0)
	return nil
}

// limits settles the shortest and the longest frame.
func (l LengthField) limits(c *lengthCodec) error {
	// The largest value of the length field. 1<<62 stands for "more than
	// any frame"; it leaves room for the sums below.
	largest := int64(1) << 62
	if c.base128 {
		largest = min(largest, 1<<(7*c.wide)-1)
	} else if l.Size < 8 {
		largest = 1<<(8*l.Size) - 1
	}
	express := int64(l.Offset) + int64(c.wide) + largest + int64(l.Adjust)
	least := int64(l.Offset) + int64(c.wide) + int64(c.grow)

	switch {
	case l.MinFrame < 0:
		return configError("LengthField.MinFrame", "%d is negative", l.MinFrame)
	case l.MaxFrame < 0:
		return configError("LengthField.MaxFrame", "%d is negative", l.MaxFrame)
	case l.MaxFrame > maxFrame:
		return configError("LengthField.MaxFrame", "%d, above %d", l.MaxFrame, maxFrame)
	case express < least:
		return configError("LengthField.Adjust", "%d: the longest frame would have %d bytes, the shortest %d",
			l.Adjust, express, least)
	case int64(l.MaxFrame) > express:
		return configError("LengthField.MaxFrame", "%d, above the %d that the length field can express", l.MaxFrame, express)
	}
	longest := int64(l.MaxFrame)
	if longest == 0 {
		longest = min(DefaultMaxFrame, express)
	}
	switch {
	case longest < least:
		return configError("LengthField.MaxFrame", "%d, below the %d of header and trailer", longest, least)
	case longest < int64(l.MinFrame):
		return configError("LengthField.MinFrame", "%d, above the maximum of %d", l.MinFrame, longest)
	}
	c.min, c.max = l.MinFrame, int(longest)
	c.short = c.least(c.size)
	c.lo, c.span = uint64(int64(c.short)-c.base), uint64(c.max-c.short)
	return nil
}

// strip settles what Decode removes.
func (l LengthField) strip(c *lengthCodec) error {
	c.kept = l.Strip >= 0 && l.Strip <= l.Offset
	header := c.short - len(l.Trailer)
	switch {
	case c.kept:
		c.strip = l.Strip
	case l.Strip == StripHeader:
		c.strip = c.head
	case l.Strip < 0:
		return configError("LengthField.Strip", "%d is negative", l.Strip)
	case c.base128:
		return configError("LengthField.Strip", "%d: with Base128 at most Offset (%d), or StripHeader", l.Strip, l.Offset)
	case l.Strip < c.head:
		return configError("LengthField.Strip", "%d cuts through the length field, bytes %d to %d", l.Strip, l.Offset, c.head-1)
	case l.Strip > header || l.Strip > maxHeader:
		return configError("LengthField.Strip", "%d, more than the header of %d bytes", l.Strip, min(header, maxHeader))
	default:
		c.strip = l.Strip
	}
	return nil
}

// header builds what Append puts before a payload.
func (l LengthField) header(c *lengthCodec) error {
	size := c.strip
	if c.base128 && !c.kept {
		size = l.Offset // the length field follows it
	}
	if len(l.Header) > size {
		return configError("LengthField.Header", "%d bytes, but %d are stripped", len(l.Header), size)
	}
	c.template = make([]byte, size)
	copy(c.template, l.Header)
	if l.MarkerOffset < size {
		copy(c.template[l.MarkerOffset:], l.Marker)
	}
	end := min(len(l.Header), l.MarkerOffset+len(l.Marker))
	if !bytes.Equal(l.Header[:end], c.template[:end]) {
		return configError("LengthField.Header", "contradicts Marker")
	}
	return nil
}
