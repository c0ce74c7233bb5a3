// Package codec turns a byte stream into frames and back.
//
// A [Factory] is what a listener or a client is configured with. It is checked
// once, when the listener or client is made, and yields a [Codec]. A codec
// cuts the front of a buffer into a [Frame] whose [Kind] tells application
// data from heartbeats and other control frames, and appends frames to a
// buffer. [Properties] says what its heartbeat can do, so that a configuration
// in which two sides would echo each other for ever can be refused before the
// first connection.
//
// Decoding never copies and never allocates: a payload is a slice of the
// caller's buffer, valid for as long as the caller leaves that buffer alone.
// A length is checked against the configured maximum as soon as its bytes are
// there, before anyone allocates room for it. Malformed input is an error that
// wraps [ErrMalformed] or [ErrTooLarge], never a panic.
//
// [Native] is the format of this module; [LengthField] describes the many
// others that announce a frame's length in its header. Both are stateless and
// safe for concurrent use. A program's own Codec without a heartbeat can embed
// [NoHeartbeat]. Every error is an [*Error].
package codec

import (
	"errors"
	"time"
)

// Kind tells what a frame is for. Kinds from 0x80 up belong to the
// application; the rest are assigned here.
type Kind uint8

const (
	Data   Kind = iota // application payload
	Ping               // a heartbeat; whether it asks for an answer is in Properties
	Pong               // the answer to a Ping
	GoAway             // the sender is about to leave; reconnect elsewhere or later
	Close              // the sender closes after this frame
	Hello              // optional first frame: protocol version and token
	Ack                // acknowledges application data

	// AppKind is the first kind that belongs to the application.
	AppKind Kind = 0x80
)

// Frame is one decoded frame.
type Frame struct {
	Kind Kind
	// Payload is a slice of the buffer given to Decode, and shares its
	// lifetime; its capacity ends where it does. Of a Ping or Pong it is
	// whatever Beat, AppendPong and Append of the same codec need, and of no
	// meaning to others.
	Payload []byte
}

// Beat is what a heartbeat frame can carry beside its mere existence. A
// format that has no room for a field leaves it zero.
type Beat struct {
	// Stamp is an opaque number that the answer brings back: unchanged in
	// the bits of Properties.StampMask, the others lost.
	Stamp uint64
	// HasStamp reports whether the format carried a stamp.
	HasStamp bool
	// Interval announces the longest time until the sender's next frame.
	// Zero means that nothing was announced. A Pong announces nothing, even
	// where it echoes a Ping that did.
	Interval time.Duration
}

// Side is one end of a connection, or both.
type Side uint8

const (
	NoSide   Side = 0
	Client   Side = 1 << 0
	Server   Side = 1 << 1
	BothSide Side = Client | Server
)

// Properties says what a codec's heartbeat can do.
type Properties struct {
	// Pingers is the side or sides that may send a Ping unasked; NoSide means
	// that the format has no heartbeat at all.
	Pingers Side
	// Directed: a Ping and a Pong differ on the wire. Where they do not (an
	// empty frame, say) Decode reports every heartbeat as a Ping, and if
	// they are answered exactly one side may send unasked. Of a beacon, which
	// has no Pong, it is false.
	Directed bool
	// Answered: the protocol wants a Ping to be answered. Where it does not,
	// a heartbeat is a beacon.
	Answered bool
	// Stamped: an answer brings back the stamp of the ping it answers.
	Stamped bool
	// StampMask is the set of stamp bits that come back: all of them for
	// Native, the low 31 for SMPP's sequence number, none where nothing is
	// Stamped. Stamps are to be compared under it.
	StampMask uint64
}

// Codec frames one connection's byte stream. Its methods are called by that
// connection's loop; Append may be called by any goroutine, so a codec that
// keeps state for decoding must keep it apart from encoding.
type Codec interface {
	// Decode cuts one frame from the front of b.
	//
	// A whole frame was found: n > 0 bytes are consumed and need is 0.
	// More bytes are wanted: n is 0 and need > len(b) is the number of bytes
	// the buffer must hold before Decode can say more: the length of the whole
	// frame once it is known, until then that of its header or of the next
	// part of it. It never shrinks as the buffer fills, and never exceeds the
	// configured maximum: a caller may allocate it.
	// The input is malformed: err wraps ErrMalformed or ErrTooLarge, and the
	// stream cannot be decoded any further.
	Decode(b []byte) (f Frame, n, need int, err error)

	// Append appends one frame to dst and returns the extended slice. payload
	// must not overlap dst's spare capacity. On error (wrapping ErrTooLarge,
	// ErrUnsupported, or ErrMalformed for a payload that makes no frame of
	// that kind) dst is returned as it was.
	Append(dst []byte, kind Kind, payload []byte) ([]byte, error)

	// AppendPing appends a Ping with as much of beat as the format carries. It
	// is called only where Properties names the caller's side as a pinger.
	AppendPing(dst []byte, beat Beat) []byte

	// AppendPong appends the answer to a Ping, given that Ping's payload as
	// Decode returned it. It is called only where Properties says Answered.
	AppendPong(dst, ping []byte) []byte

	// Beat reads what a heartbeat carries, given its kind and payload as
	// Decode returned them.
	Beat(kind Kind, payload []byte) Beat

	// Properties says what the heartbeat of this format can do.
	Properties() Properties

	// PerConn returns the codec of one new connection. A stateless codec
	// returns itself.
	PerConn() Codec
}

// Prefixer is a Codec that can frame a large payload without copying it.
type Prefixer interface {
	Codec
	// AppendPrefix appends what a frame of that kind has before its payload,
	// if the payload as it is makes up the rest. Otherwise, and where Append
	// would fail, it returns an error, and dst as it was; Append tells the
	// cause.
	AppendPrefix(dst []byte, kind Kind, payload []byte) ([]byte, error)
}

// Factory is a codec's configuration. Codec checks it and returns the codec it
// describes, or an error that names the field at fault.
type Factory interface {
	Codec() (Codec, error)
}

var (
	// ErrMalformed is wrapped by the error for bytes that are no frame.
	ErrMalformed = errors.New("malformed frame")
	// ErrTooLarge is wrapped by the error for a frame above the configured
	// maximum or outside the range of its length field.
	ErrTooLarge = errors.New("frame too large")
	// ErrUnsupported is wrapped by Append's error for a frame the format
	// cannot express: a kind it lacks, or data that would read as a heartbeat.
	ErrUnsupported = errors.New("frame kind not supported by this codec")
	// ErrConfig is wrapped by a Factory's error for a configuration that
	// contradicts itself.
	ErrConfig = errors.New("invalid codec configuration")
)
