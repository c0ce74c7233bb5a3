package codec

// heartbeatCodec is a checked Heartbeat, part of a lengthCodec and as immutable.
type heartbeatCodec struct {
	by         by
	ping, pong Match
	tell       func(frame []byte) Kind

	query   []byte
	seq     Sequence // Mask is never zero if there is one
	seqPong int      // its place in a Pong
	little  bool

	answer     []byte
	echo       Echo
	answerFunc func(dst, ping []byte) []byte

	// The lengths that Exact demands; 0: any.
	pingLen, pongLen int

	props Properties
}

// by is how a heartbeat is recognised.
type by uint8

const (
	byNothing by = iota
	byEmpty
	byMatch
	byFunc
)

// kind tells heartbeats from data. empty: the frame is as short as can be.
func (h *heartbeatCodec) kind(frame []byte, empty bool) Kind {
	switch h.by {
	case byEmpty:
		if empty {
			return Ping
		}
	case byMatch:
		if h.ping.matches(frame) {
			return Ping
		}
		if h.pong.matches(frame) {
			return Pong
		}
	case byFunc:
		return h.tell(frame)
	}
	return Data
}

// check returns what is wrong with a frame that is not Data.
func (h *heartbeatCodec) check(kind Kind, frame []byte) error {
	want := h.pingLen
	switch kind {
	case Ping:
		if end := h.echo.From + h.echo.Len; len(frame) < end {
			return malformed(opDecode, "heartbeat of %d bytes ends before what is to be echoed, at %d", len(frame), end)
		}
	case Pong:
		want = h.pongLen
	default:
		return malformed(opDecode, "Heartbeat.Func found kind %d", kind)
	}
	if want != 0 && len(frame) != want {
		return malformed(opDecode, "heartbeat of %d bytes, not %d", len(frame), want)
	}
	return nil
}

// AppendPing appends Query with the stamp in its Sequence, if there is one. A
// Beat without a stamp leaves Query as it is.
func (c *lengthCodec) AppendPing(dst []byte, b Beat) []byte {
	h := &c.beat
	at := len(dst) + h.seq.Offset
	dst = append(dst, h.query...)
	if h.seq.Size != 0 && (b.HasStamp || b.Stamp != 0) {
		field := dst[at : at+h.seq.Size]
		old := readUint(field, h.little)
		writeUint(field, old&^h.seq.Mask|b.Stamp&h.seq.Mask, h.little)
	}
	return dst
}

// AppendPong appends the answer to a Ping.
func (c *lengthCodec) AppendPong(dst, ping []byte) []byte {
	h := &c.beat
	if h.answerFunc != nil {
		return h.answerFunc(dst, ping)
	}
	at := len(dst) + h.echo.To
	dst = append(dst, h.answer...)
	if h.echo.Len != 0 && len(ping) >= h.echo.From+h.echo.Len {
		copy(dst[at:], ping[h.echo.From:h.echo.From+h.echo.Len])
	}
	return dst
}

// Beat reads the sequence number.
func (c *lengthCodec) Beat(kind Kind, payload []byte) Beat {
	h := &c.beat
	at := h.seq.Offset
	if kind == Pong {
		at = h.seqPong
		if !h.props.Stamped {
			return Beat{}
		}
	}
	if h.seq.Size == 0 || len(payload) < at+h.seq.Size {
		return Beat{}
	}
	return Beat{Stamp: readUint(payload[at:at+h.seq.Size], h.little) & h.seq.Mask, HasStamp: true}
}
