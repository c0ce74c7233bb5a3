package generator

import (
	"bytes"
	"encoding/binary"
)

// phases is how far messages' contents are shifted against each other.
const phases = 4096

// content knows what is in a message: a stamp that names its connection and
// number, and bytes that depend on both. A payload shorter than the stamp has
// the end of it, the number's low bytes.
type content struct {
	bytes   []byte
	scratch []byte
}

const echoStamp = 8

func newContent(largest int) *content {
	c := &content{bytes: make([]byte, largest+phases), scratch: make([]byte, largest)}
	x := uint32(2463534242)
	for i := range c.bytes {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		c.bytes[i] = byte(x)
	}
	return c
}

// body is what follows the stamp in a payload of that size.
func (c *content) body(number, seq uint32, size int) []byte {
	at := (number*31 + seq) % phases
	return c.bytes[at : int(at)+size]
}

// echo returns the payload of a connection's message; it is valid until the
// next call.
func (c *content) echo(number, seq uint32, size int) []byte {
	payload := c.scratch[:size]
	var stamp [echoStamp]byte
	binary.BigEndian.PutUint32(stamp[:], number)
	binary.BigEndian.PutUint32(stamp[4:], seq)
	if size < echoStamp {
		copy(payload, stamp[echoStamp-size:])
		return payload
	}
	copy(payload, stamp[:])
	copy(payload[echoStamp:], c.body(number, seq, size-echoStamp))
	return payload
}

// isEcho reports whether a payload is that of the connection's message.
func (c *content) isEcho(payload []byte, number, seq uint32) bool {
	var stamp [echoStamp]byte
	binary.BigEndian.PutUint32(stamp[:], number)
	binary.BigEndian.PutUint32(stamp[4:], seq)
	size := len(payload)
	if size < echoStamp {
		return bytes.Equal(payload, stamp[echoStamp-size:])
	}
	return [echoStamp]byte(payload) == stamp &&
		bytes.Equal(payload[echoStamp:], c.body(number, seq, size-echoStamp))
}

// cast returns the payload of a broadcast message, which also says when it was
// due; it is valid until the next call.
func (c *content) cast(sender, seq uint32, due int64, size int) []byte {
	payload := c.scratch[:size]
	binary.BigEndian.PutUint32(payload, sender)
	binary.BigEndian.PutUint32(payload[4:], seq)
	binary.BigEndian.PutUint64(payload[8:], uint64(due))
	copy(payload[16:], c.body(sender, seq, size-16))
	return payload
}

// isCast reads a broadcast message; ok is false if its bytes are not what they
// must be.
func (c *content) isCast(payload []byte) (sender, seq uint32, due int64, ok bool) {
	if len(payload) < 16 || len(payload) > len(c.scratch) {
		return 0, 0, 0, false
	}
	sender, seq = binary.BigEndian.Uint32(payload), binary.BigEndian.Uint32(payload[4:])
	due = int64(binary.BigEndian.Uint64(payload[8:]))
	return sender, seq, due, bytes.Equal(payload[16:], c.body(sender, seq, len(payload)-16))
}
