package codec

import (
	"encoding/binary"
	"math"
)

const helloHeader = 4 // u16 version, u16 token length

// HelloVersion is the version of Native that this package speaks.
const HelloVersion = 1

// HelloPayload is what a [Hello] frame of Native carries:
//
//	u16 version | u16 token length | token
type HelloPayload struct {
	// Version is the newest version of Native that the sender speaks. A side
	// that sends no Hello speaks version 1.
	Version uint16
	// Token is the application's: a credential, or what resumes a session. At
	// most 65,535 bytes. Of a parsed Hello it is a slice of the payload, and
	// shares its lifetime.
	Token []byte
}

// Append appends the payload to dst. Its error, for a token that is too long,
// wraps ErrTooLarge, and dst is then returned as it was.
func (h HelloPayload) Append(dst []byte) ([]byte, error) {
	if len(h.Token) > math.MaxUint16 {
		return dst, tooLarge("append Hello token", uint64(len(h.Token)), math.MaxUint16)
	}
	dst = binary.BigEndian.AppendUint16(dst, h.Version)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(h.Token)))
	return append(dst, h.Token...), nil
}

// ParseHello reads the payload of a Hello frame. Its error wraps ErrMalformed.
// Bytes beyond those it knows are ignored (see [Native]).
func ParseHello(payload []byte) (HelloPayload, error) {
	if len(payload) < helloHeader {
		return HelloPayload{}, malformed("parse Hello", "payload of %d bytes, not %d or more", len(payload), helloHeader)
	}
	end := helloHeader + int(binary.BigEndian.Uint16(payload[2:]))
	if len(payload) < end {
		return HelloPayload{}, malformed("parse Hello", "payload of %d bytes, not the %d that its token needs", len(payload), end)
	}
	return HelloPayload{
		Version: binary.BigEndian.Uint16(payload),
		Token:   payload[helloHeader:end:end],
	}, nil
}
