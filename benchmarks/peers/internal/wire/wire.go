// Package wire is the framing that the peers written in Go share where their
// framework has none of its own: a 4-byte big-endian payload length, then the
// payload. It looks at frames where they lie and copies only what was split.
package wire

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"sync"
)

const (
	// Header is the length of a frame's header, and of a heartbeat, in bytes.
	Header = 4
	// MaxPayload is the largest payload of a frame in bytes.
	MaxPayload = 1 << 20
	// ReadSize is how much is read at once, in bytes, by who reads into a buffer
	// that all connections share.
	ReadSize = 64 << 10
)

// ErrTooLarge says that a frame announced more than MaxPayload. It ends its
// connection.
var ErrTooLarge = errors.New("frame above 1 MiB")

// Size returns the whole size of the frame whose header b begins with, in bytes.
func Size(b []byte) (int, error) {
	n := binary.BigEndian.Uint32(b)
	if n > MaxPayload {
		return 0, ErrTooLarge
	}
	return Header + int(n), nil
}

// Whole returns how many bytes at the beginning of b are complete frames.
func Whole(b []byte) (int, error) {
	whole := 0
	for len(b)-whole >= Header {
		n := binary.BigEndian.Uint32(b[whole:])
		if n > MaxPayload {
			return 0, ErrTooLarge
		}
		if len(b)-whole < Header+int(n) {
			break
		}
		whole += Header + int(n)
	}
	return whole, nil
}

// Run cuts off the longest beginning of b, which is made of complete frames,
// that is all heartbeats or all data.
func Run(b []byte) (run, rest []byte, beats bool) {
	beats = binary.BigEndian.Uint32(b) == 0
	n := 0
	for n < len(b) {
		payload := binary.BigEndian.Uint32(b[n:])
		if (payload == 0) != beats {
			break
		}
		n += Header + int(payload)
	}
	return b[:n], b[n:], beats
}

// Rest puts split frames together, for who is handed what was read and gets
// nothing kept. The zero value is ready; it owns memory only while a frame is
// incomplete.
type Rest struct{ kept []byte }

// Feed takes what was read and returns the complete frames: first the one that
// had been split, if it is complete now, then those of b, where they lie. Give
// first back by [Free].
func (r *Rest) Feed(b []byte) (first, frames []byte, err error) {
	if len(r.kept) > 0 {
		if missing := Header - len(r.kept); missing > 0 {
			n := min(missing, len(b))
			r.kept = append(r.kept, b[:n]...)
			if b = b[n:]; n < missing {
				return nil, nil, nil
			}
		}
		size, err := Size(r.kept)
		if err != nil {
			return nil, nil, err
		}
		if cap(r.kept) < size {
			larger := Allocate(size)
			larger = append(larger, r.kept...)
			Free(r.kept)
			r.kept = larger
		}
		n := min(size-len(r.kept), len(b))
		r.kept = append(r.kept, b[:n]...)
		b = b[n:]
		if len(r.kept) < size {
			return nil, nil, nil
		}
		first, r.kept = r.kept, nil
	}
	whole, err := Whole(b)
	if err != nil {
		return nil, nil, err
	}
	if rest := b[whole:]; len(rest) > 0 {
		size := Header
		if len(rest) >= Header {
			if size, err = Size(rest); err != nil {
				return nil, nil, err
			}
		}
		r.kept = append(Allocate(size), rest...)
	}
	return first, b[:whole], nil
}

// Drop gives back what is kept of a connection that is gone.
func (r *Rest) Drop() {
	Free(r.kept)
	r.kept = nil
}

// pools hold buffers by their size's number of bits.
var pools [bits.UintSize]sync.Pool

// Allocate returns an empty buffer with room for size bytes, to be given back by
// [Free].
func Allocate(size int) []byte {
	class := bits.Len(uint(max(size, 64) - 1))
	if p, ok := pools[class].Get().(*[]byte); ok {
		return (*p)[:0]
	}
	return make([]byte, 0, 1<<class)
}

// Free takes back a buffer of Allocate's or Feed's, or nil.
func Free(b []byte) {
	if cap(b) > 0 {
		b = b[:0]
		pools[bits.Len(uint(cap(b)-1))].Put(&b)
	}
}
