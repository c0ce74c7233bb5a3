package codec

import (
	"bytes"
	"slices"
)

// Match is a run of bytes that tells a frame from others. A frame that ends
// before it does not match. Behind a length field of Base128, where places
// shift, use a Func.
type Match struct {
	// Offset is the place of the first byte.
	Offset int
	// Value is what stands there. Empty: nothing matches.
	Value []byte
	// Mask is as long as Value, and has the bits set that count; nil means
	// all of them.
	Mask []byte
}

func (m Match) matches(frame []byte) bool {
	if len(m.Value) == 0 || len(frame) < m.Offset+len(m.Value) {
		return false
	}
	at := frame[m.Offset : m.Offset+len(m.Value)]
	if m.Mask == nil {
		return bytes.Equal(at, m.Value)
	}
	for i, x := range at {
		if x&m.Mask[i] != m.Value[i] {
			return false
		}
	}
	return true
}

// check returns the error in a Match called name.
func (m Match) check(name string, c *lengthCodec) error {
	switch {
	case len(m.Value) == 0 && (m.Offset != 0 || len(m.Mask) != 0):
		return configError(name, "has no Value")
	case m.Offset < 0:
		return configError(name, "Offset %d is negative", m.Offset)
	case m.Offset > c.max || len(m.Value) > c.max-m.Offset:
		return configError(name, "%d bytes at %d reach beyond the longest frame of %d", len(m.Value), m.Offset, c.max)
	case m.Mask != nil && len(m.Mask) != len(m.Value):
		return configError(name, "Mask of %d bytes for a Value of %d", len(m.Mask), len(m.Value))
	case c.base128 && m.Offset+len(m.Value) > c.head:
		return configError(name, "bytes %d to %d have no fixed place behind a Base128 length", m.Offset, m.Offset+len(m.Value)-1)
	}
	for i, x := range m.Mask {
		if m.Value[i]&^x != 0 {
			return configError(name, "Value %s can never match under Mask %s", hexByte(m.Value[i]), hexByte(x))
		}
	}
	// A header that makes every frame of ours a heartbeat.
	end := m.Offset + len(m.Value)
	if end <= len(c.template) && (end <= c.offset || m.Offset >= c.head) && m.matches(c.template) {
		return configError("LengthField.Header", "makes every frame match %s", name)
	}
	return nil
}

func (m Match) clone() Match {
	m.Value, m.Mask = slices.Clone(m.Value), slices.Clone(m.Mask)
	return m
}
