package codec

import "slices"

// Heartbeat says which frames of a LengthField are heartbeats, what to send as
// one, and how to answer. Its zero value says that there are none.
//
// A heartbeat is recognised in one of three ways: Empty, Ping and Pong, or
// Func. Query is what this side sends. If there is an Answer or AnswerFunc,
// pings are answered; if not they are beacons, which by arriving say all.
//
// Whether ping and pong differ is found by trying: if the answer to Query is
// recognised as a Pong they do, if it is recognised as a Ping they do not. In
// the latter case Pingers must be one side, lest two echo each other for ever.
//
// All offsets count from the first byte of the frame, its header included.
type Heartbeat struct {
	// Pingers is the side or sides that may send Query unasked.
	Pingers Side

	// Empty: a frame of the shortest length that the other fields allow is a
	// heartbeat.
	Empty bool
	// Ping and Pong tell heartbeats by bytes at a fixed place. Without Pong,
	// all that match Ping are Pings.
	Ping, Pong Match
	// Func tells heartbeats apart by any other means. It is given a whole
	// frame, valid until it returns and not to be changed, and answers Data,
	// Ping or Pong; any other kind makes the frame malformed. It is called for
	// every frame, by any goroutine, by several at once, and must not block.
	Func func(frame []byte) Kind
	// Exact: a Ping has the length of Query and a Pong the length of Answer
	// (any length with AnswerFunc). Others are malformed.
	Exact bool

	// Query is the whole frame that AppendPing sends, the length field filled
	// in. It is required wherever there is a heartbeat.
	Query []byte
	// Sequence is where in Query the stamp of a Beat goes.
	Sequence Sequence

	// Answer is the whole frame that answers a Ping.
	Answer []byte
	// Echo copies bytes of the Ping into Answer. A Ping too short to have them
	// is malformed.
	Echo Echo
	// AnswerFunc answers instead of Answer: it appends a whole frame to dst
	// and returns the extended slice. ping is the Ping's whole frame, valid
	// until it returns and not to be changed. It is called by any goroutine,
	// by several at once, and must not block.
	AnswerFunc func(dst, ping []byte) []byte
}

// Sequence is a number in a heartbeat that its answer brings back. Its byte
// order is that of the length field. The zero Sequence: there is none.
type Sequence struct {
	// Offset is the place of its first byte.
	Offset int
	// Size is its width, 1 to 8 bytes.
	Size int
	// Mask has the bits set that may be used; zero means all of them. SMPP's
	// sequence numbers have 31.
	Mask uint64
}

// Echo says which bytes of a Ping return in its answer. The zero Echo: none.
type Echo struct {
	// From is their place in the Ping, To that in the answer, Len how many
	// they are.
	From, To, Len int
}

// prepare checks a Heartbeat and puts it into c, which is complete but for it.
func (h Heartbeat) prepare(c *lengthCodec) error {
	c.beat = heartbeatCodec{
		ping:       h.Ping.clone(),
		pong:       h.Pong.clone(),
		tell:       h.Func,
		query:      slices.Clone(h.Query),
		seq:        h.Sequence,
		little:     c.little,
		answer:     slices.Clone(h.Answer),
		echo:       h.Echo,
		answerFunc: h.AnswerFunc,
		props:      Properties{Pingers: h.Pingers},
	}
	for _, step := range [...]func(*lengthCodec) error{
		h.recognition, h.sending, h.answering,
	} {
		if err := step(c); err != nil {
			return err
		}
	}
	if c.beat.by == byNothing {
		return nil
	}
	return h.rehearse(c)
}

func (h Heartbeat) recognition(c *lengthCodec) error {
	if err := h.Ping.check("Heartbeat.Ping", c); err != nil {
		return err
	}
	if err := h.Pong.check("Heartbeat.Pong", c); err != nil {
		return err
	}
	matches := len(h.Ping.Value) != 0 || len(h.Pong.Value) != 0
	switch {
	case h.Empty && h.Func != nil:
		return configError("Heartbeat.Func", "set beside Empty")
	case h.Empty && matches:
		return configError("Heartbeat.Empty", "set beside Ping or Pong")
	case h.Func != nil && matches:
		return configError("Heartbeat.Func", "set beside Ping or Pong")
	case matches && len(h.Ping.Value) == 0:
		return configError("Heartbeat.Ping", "missing beside Pong")
	case h.Empty:
		c.beat.by = byEmpty
	case h.Func != nil:
		c.beat.by = byFunc
	case matches:
		c.beat.by = byMatch
	}
	if h.Pingers > BothSide {
		return configError("Heartbeat.Pingers", "%d is no side", h.Pingers)
	}
	if c.beat.by != byNothing {
		if h.Pingers == NoSide {
			return configError("Heartbeat.Pingers", "names no side")
		}
		return nil
	}
	// What is said of a heartbeat that nothing recognises.
	for _, field := range [...]struct {
		name string
		set  bool
	}{
		{"Pingers", h.Pingers != NoSide},
		{"Exact", h.Exact},
		{"Query", len(h.Query) != 0},
		{"Sequence", h.Sequence != Sequence{}},
		{"Answer", len(h.Answer) != 0},
		{"Echo", h.Echo != Echo{}},
		{"AnswerFunc", h.AnswerFunc != nil},
	} {
		if field.set {
			return configError("Heartbeat."+field.name, "set, but neither Empty, Ping nor Func")
		}
	}
	return nil
}

func (h Heartbeat) sending(c *lengthCodec) error {
	if c.beat.by == byNothing {
		return nil
	}
	seq := h.Sequence
	switch {
	case len(h.Query) == 0:
		return configError("Heartbeat.Query", "missing")
	case seq == Sequence{}:
		return nil
	case seq.Size < 1 || seq.Size > 8:
		return configError("Heartbeat.Sequence", "Size %d, not 1 to 8", seq.Size)
	case seq.Offset < 0 || seq.Offset > len(h.Query)-seq.Size:
		return configError("Heartbeat.Sequence", "%d bytes at %d, outside a Query of %d", seq.Size, seq.Offset, len(h.Query))
	}
	all := ^uint64(0) >> (64 - 8*seq.Size)
	if seq.Mask&^all != 0 {
		return configError("Heartbeat.Sequence", "Mask %#x exceeds %d bytes", seq.Mask, seq.Size)
	}
	if seq.Mask == 0 {
		c.beat.seq.Mask = all
	}
	return nil
}

func (h Heartbeat) answering(c *lengthCodec) error {
	answered := len(h.Answer) != 0 || h.AnswerFunc != nil
	switch {
	case len(h.Answer) != 0 && h.AnswerFunc != nil:
		return configError("Heartbeat.AnswerFunc", "set beside Answer")
	case len(h.Pong.Value) != 0 && !answered:
		return configError("Heartbeat.Pong", "set, but neither Answer nor AnswerFunc")
	case h.Echo != Echo{} && len(h.Answer) == 0:
		return configError("Heartbeat.Echo", "set without Answer")
	case h.Echo.From < 0 || h.Echo.To < 0 || h.Echo.Len < 0 || h.Echo != Echo{} && h.Echo.Len == 0:
		return configError("Heartbeat.Echo", "%d bytes from %d to %d", h.Echo.Len, h.Echo.From, h.Echo.To)
	case h.Echo.From > len(h.Query)-h.Echo.Len:
		return configError("Heartbeat.Echo", "%d bytes from %d, outside a Query of %d", h.Echo.Len, h.Echo.From, len(h.Query))
	case h.Echo.To > len(h.Answer)-h.Echo.Len:
		return configError("Heartbeat.Echo", "%d bytes to %d, outside an Answer of %d", h.Echo.Len, h.Echo.To, len(h.Answer))
	}
	c.beat.props.Answered = answered
	if h.Exact {
		c.beat.pingLen, c.beat.pongLen = len(h.Query), len(h.Answer)
	}
	return nil
}

// rehearse sends, answers and reads back heartbeats, to see that what the
// fields say of each other is true, and to learn what need not be said.
func (h Heartbeat) rehearse(c *lengthCodec) error {
	b := &c.beat
	b.seqPong = b.seq.Offset
	if b.echo.Len != 0 {
		b.seqPong += b.echo.To - b.echo.From
	}
	pongs, comesBack := 0, b.seq.Size != 0 && b.seqPong >= 0
	// The bare template first; then stamps that turn every usable bit on and off.
	probes := []Beat{{}}
	if b.seq.Size != 0 {
		for _, stamp := range [...]uint64{1<<64 - 1, 0, 0x5555555555555555, 0x0123456789abcdef} {
			probes = append(probes, Beat{Stamp: stamp, HasStamp: true})
		}
	}
	for i, probe := range probes {
		field := "Heartbeat.Query"
		if i > 0 {
			field = "Heartbeat.Sequence"
		}
		ping := c.AppendPing(nil, probe)
		switch kind, err := c.whole(ping); {
		case err != nil:
			return configError(field, "% x is no frame: %v", ping[:min(len(ping), 32)], err)
		case kind != Ping:
			return configError(field, "% x is not recognised as a Ping", ping[:min(len(ping), 32)])
		}
		if !b.props.Answered {
			continue
		}
		field = "Heartbeat.Answer"
		if h.AnswerFunc != nil {
			field = "Heartbeat.AnswerFunc"
		}
		pong := c.AppendPong(nil, ping)
		kind, err := c.whole(pong)
		switch {
		case err != nil:
			return configError(field, "% x is no frame: %v", pong[:min(len(pong), 32)], err)
		case kind == Data:
			return configError(field, "% x is not recognised as a heartbeat", pong[:min(len(pong), 32)])
		case kind == Pong:
			pongs++
		case len(h.Pong.Value) != 0:
			return configError("Heartbeat.Pong", "the answer % x is taken for a Ping", pong[:min(len(pong), 32)])
		}
		if i > 0 && comesBack {
			at := b.seqPong
			if kind == Ping {
				at = b.seq.Offset // where Beat looks, having no means to tell
			}
			comesBack = len(pong) >= at+b.seq.Size &&
				readUint(pong[at:at+b.seq.Size], b.little)&b.seq.Mask == probe.Stamp&b.seq.Mask
		}
	}
	if !b.props.Answered {
		return nil
	}
	switch {
	case pongs == len(probes):
		b.props.Directed = true
	case pongs != 0:
		return configError("Heartbeat.Sequence", "some answers are taken for Pings, some for Pongs")
	case h.Pingers == BothSide:
		return configError("Heartbeat.Pingers", "both sides, but an answer looks like a Ping: they would echo each other for ever")
	}
	if comesBack {
		b.props.Stamped, b.props.StampMask = true, b.seq.Mask
	}
	return nil
}

// whole returns the kind of a frame that must be one and nothing more.
func (c *lengthCodec) whole(frame []byte) (Kind, error) {
	f, n, need, err := c.Decode(frame)
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, malformed(opDecode, "it has %d bytes of %d", len(frame), need)
	case n != len(frame):
		return 0, malformed(opDecode, "it has %d bytes, and then %d more", n, len(frame)-n)
	}
	return f.Kind, nil
}
