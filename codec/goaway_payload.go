package codec

import (
	"encoding/binary"
	"time"
)

const goAwayLen = 5 // u32 retry-after, u8 reason

// GoAwayPayload is what a [GoAway] frame of Native carries:
//
//	u32 retry-after in ms | u8 reason
type GoAwayPayload struct {
	// RetryAfter is how long the peer should wait before it connects again,
	// from 0 to 49.7 days. It is rounded up to a millisecond; a negative one
	// counts as 0, a longer one as the longest.
	RetryAfter time.Duration
	// Reason says why. 0 means that nothing is said, 1 to 127 belong to this
	// module, 128 and up to the application.
	Reason uint8
}

// Append appends the payload, 5 bytes, to dst.
func (g GoAwayPayload) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, millis(g.RetryAfter))
	return append(dst, g.Reason)
}

// ParseGoAway reads the payload of a GoAway frame. Its error wraps
// ErrMalformed. Bytes beyond those it knows are ignored (see [Native]).
func ParseGoAway(payload []byte) (GoAwayPayload, error) {
	if len(payload) < goAwayLen {
		return GoAwayPayload{}, malformed("parse GoAway", "payload of %d bytes, not %d", len(payload), goAwayLen)
	}
	return GoAwayPayload{
		RetryAfter: time.Duration(binary.BigEndian.Uint32(payload)) * time.Millisecond,
		Reason:     payload[4],
	}, nil
}
