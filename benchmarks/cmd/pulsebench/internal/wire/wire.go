// Package wire is what pulsebench knows about protocols: how a message, a
// heartbeat and a greeting are written, and what it is that came back.
//
// Framing is package codec's; what is added here is a client's part of a
// conversation. A protocol that needs more than presets and flags can say is
// added as a Protocol, as mqtt.go does; one that needs another way to carry
// bytes (TLS, WebSocket) is a transport.Dialer.
package wire

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
)

// Kind says what came from the server.
type Kind uint8

const (
	Nothing Kind = iota // a frame that asks for nothing and answers nothing
	Message             // application data
	Answer              // the answer to a heartbeat
	Asked               // a frame that wants Reply
	Ready               // the greeting is complete
)

// Event is one frame from the server. Its Payload is a slice of what Next was
// given.
type Event struct {
	Kind    Kind
	Payload []byte
}

// Session is the client's part of one connection's conversation. It belongs to
// one goroutine.
type Session interface {
	// Greet appends what a client says first. If wait, messages have to wait
	// for Ready.
	Greet(dst []byte) (out []byte, wait bool)
	// AppendMessage appends a message with that payload.
	AppendMessage(dst, payload []byte) ([]byte, error)
	// AppendHeartbeat appends a heartbeat. It is called only if the Protocol
	// has one.
	AppendHeartbeat(dst []byte) []byte
	// Next cuts one frame from the front of b, as codec.Codec's Decode does:
	// n bytes of it, or n is 0 and need bytes have to be there first.
	Next(b []byte) (e Event, n, need int, err error)
	// Reply appends the answer to an event of kind Asked.
	Reply(dst []byte, e Event) []byte
}

// Protocol makes sessions. It may be used by several goroutines.
type Protocol interface {
	// Session is that of the connection with that number. Numbers are unique
	// within a run.
	Session(number uint32) Session
	// Heartbeats says whether a client may send heartbeats, and whether the
	// server answers them.
	Heartbeats() (sent, answered bool)
	// MaxPayload is the largest payload of a message, in bytes.
	MaxPayload() int
	// MinPayload is the smallest.
	MinPayload() int
}

// Options names a protocol, or describes one.
type Options struct {
	// Name is a preset, or Custom.
	Name string `json:"name"`
	// Run tells runs on one broker apart. Room is how many connections are in
	// a room in a broadcast, all of them if 0: they share an MQTT topic, or
	// name their room in a greeting.
	Run       string        `json:"run,omitempty"`
	Broadcast bool          `json:"broadcast,omitempty"`
	Room      int           `json:"room,omitempty"`
	KeepAlive time.Duration `json:"keep_alive_ns,omitempty"`
	// MaxFrame bounds frames in both directions, in bytes.
	MaxFrame int `json:"max_frame,omitempty"`
	// Format describes a Custom protocol.
	Format *Format `json:"format,omitempty"`
}

// Rooms reports whether connections can say which room they are in.
func (o Options) Rooms() bool {
	return o.Name == "mqtt" || o.Name == Custom && o.Format != nil && strings.Contains(o.Format.Greeting, "{room}")
}

// Custom is the Name of a protocol that Format describes.
const Custom = "custom"

// Format describes frames that announce their length. Bytes are in hexadecimal;
// blanks in them do not matter.
type Format struct {
	Offset       int    `json:"offset"`
	Size         int    `json:"size"` // 1, 2, 3, 4 or 8 bytes; -1: base 128
	LittleEndian bool   `json:"little_endian,omitempty"`
	Adjust       int    `json:"adjust,omitempty"`
	Header       string `json:"header,omitempty"`
	Trailer      string `json:"trailer,omitempty"`
	// Heartbeat is the whole frame a client sends, Answer the server's; without
	// an answer heartbeats are beacons.
	Heartbeat string `json:"heartbeat,omitempty"`
	Answer    string `json:"answer,omitempty"`
	// Greeting is what a client sends first, after which it awaits so many
	// frames. {room} and {conn} in it stand for the numbers of the connection's
	// room and its own, four bytes each, big endian.
	Greeting       string `json:"greeting,omitempty"`
	GreetingFrames int    `json:"greeting_frames,omitempty"`
}

// preset is a protocol that needs nothing but its name.
type preset struct {
	name, about string
	make        func(Options) (Protocol, error)
}

// presets are listed in the order in which they are explained.
var presets = []preset{
	{"length4", "payload length in 4 bytes, big endian; the empty frame is the heartbeat and its answer", func(o Options) (Protocol, error) {
		format := codec.Length4()
		return frames(format, &format, o)
	}},
	{"native", "this project's own format: 3-byte length, kind; pings are answered by pongs", func(o Options) (Protocol, error) {
		return frames(codec.Native{MaxPayload: max(o.MaxFrame-nativeHeader, 0)}, nil, o)
	}},
	{"length2", "payload length in 2 bytes, big endian; no heartbeat", func(o Options) (Protocol, error) {
		format := codec.LengthField{Size: 2, Strip: codec.StripHeader}
		return frames(format, &format, o)
	}},
	{"varint", "payload length as a base-128 number, as protobuf's delimited messages; no heartbeat", func(o Options) (Protocol, error) {
		format := codec.LengthField{Size: codec.Base128, Strip: codec.StripHeader}
		return frames(format, &format, o)
	}},
	{"iec104", "IEC 60870-5-104: TESTFR act and con as heartbeats", func(o Options) (Protocol, error) {
		format := codec.LengthField{
			Offset: 1, Size: 1, Marker: []byte{0x68}, MinFrame: 6, MaxFrame: 255, Strip: 2, Header: []byte{0x68},
			Heartbeat: codec.Heartbeat{
				Pingers: codec.BothSide,
				Ping:    codec.Match{Offset: 2, Value: []byte{0x43}},
				Pong:    codec.Match{Offset: 2, Value: []byte{0x83}},
				Query:   []byte{0x68, 4, 0x43, 0, 0, 0},
				Answer:  []byte{0x68, 4, 0x83, 0, 0, 0},
				Exact:   true,
			},
		}
		o.MaxFrame = 0 // the format has its own
		return frames(format, &format, o)
	}},
	{"mqtt", "MQTT 3.1.1, QoS 0: echo by publishing to a topic of the connection's own", newMQTT},
}

// nativeHeader is what codec.Native puts before a payload.
const nativeHeader = 4

// Presets returns the names of protocols and what they are.
func Presets() (names, abouts []string) {
	for _, p := range presets {
		names, abouts = append(names, p.name), append(abouts, p.about)
	}
	return names, abouts
}

// New returns the protocol that o names or describes.
func New(o Options) (Protocol, error) {
	if o.Name == Custom {
		return custom(o)
	}
	i := slices.IndexFunc(presets, func(p preset) bool { return p.name == o.Name })
	if i < 0 {
		names, _ := Presets()
		return nil, fmt.Errorf("no protocol %q; there are %s, and %s", o.Name, strings.Join(names, ", "), Custom)
	}
	p, err := presets[i].make(o)
	if err != nil {
		return nil, fmt.Errorf("protocol %s: %w", o.Name, err)
	}
	return p, nil
}

// custom makes a protocol of flags.
func custom(o Options) (Protocol, error) {
	f := o.Format
	if f == nil {
		return nil, fmt.Errorf("protocol %s: nothing describes it", Custom)
	}
	var bytes [4][]byte
	for i, field := range [...]struct{ name, text string }{
		{"header", f.Header}, {"trailer", f.Trailer}, {"heartbeat-frame", f.Heartbeat}, {"heartbeat-answer", f.Answer},
	} {
		b, err := unhex(field.text)
		if err != nil {
			return nil, fmt.Errorf("protocol %s: -%s %q: %w", Custom, field.name, field.text, err)
		}
		bytes[i] = b
	}
	header, trailer, query, answer := bytes[0], bytes[1], bytes[2], bytes[3]
	greeting, err := parseGreeting(f.Greeting, o.Room)
	if err != nil {
		return nil, fmt.Errorf("protocol %s: -greeting %q: %w", Custom, f.Greeting, err)
	}
	if len(answer) > 0 && len(query) == 0 {
		return nil, fmt.Errorf("protocol %s: -heartbeat-answer without -heartbeat-frame", Custom)
	}
	if f.GreetingFrames < 0 || f.GreetingFrames > 0 && greeting == nil {
		return nil, fmt.Errorf("protocol %s: -greeting-frames %d without -greeting", Custom, f.GreetingFrames)
	}
	format := codec.LengthField{
		Offset: f.Offset, Size: f.Size, LittleEndian: f.LittleEndian, Adjust: f.Adjust,
		Strip: codec.StripHeader, Header: header, Trailer: trailer,
	}
	// The header may go on behind the length field.
	if behind := len(header) - f.Offset - f.Size; f.Size > 0 && behind > 0 {
		format.Strip = len(header)
		format.MinFrame = len(header) + len(trailer)
	}
	if f.Size == codec.Base128 && len(header) > f.Offset {
		return nil, fmt.Errorf("protocol %s: a header cannot go on behind a base-128 length", Custom)
	}
	if len(query) > 0 {
		format.Heartbeat = byBytes(query, answer)
	}
	p, err := frames(format, &format, o)
	if err != nil {
		return nil, fmt.Errorf("protocol %s: %w", Custom, err)
	}
	p.greeting, p.awaited = greeting, f.GreetingFrames
	if greeting != nil {
		p.shared = nil
	}
	return p, nil
}

// unhex reads hexadecimal digits with blanks among them.
func unhex(text string) ([]byte, error) {
	return hex.DecodeString(strings.Join(strings.Fields(text), ""))
}

// greeting is what a client says first: constant bytes, and numbers between
// them.
type greeting []greetingPart

type greetingPart struct {
	bytes []byte
	// number returns what follows the bytes, given the connection's number;
	// nil: nothing.
	number func(conn uint32) uint32
}

// parseGreeting reads hexadecimal digits and placeholders; nil of nothing.
func parseGreeting(text string, room int) (greeting, error) {
	var g greeting
	for text != "" {
		constant, rest, placed := strings.Cut(text, "{")
		b, err := unhex(constant)
		if err != nil {
			return nil, err
		}
		part := greetingPart{bytes: b}
		if placed {
			var name string
			if name, rest, placed = strings.Cut(rest, "}"); !placed {
				return nil, fmt.Errorf("{ without }")
			}
			switch name {
			case "conn":
				part.number = func(conn uint32) uint32 { return conn }
			case "room":
				part.number = func(conn uint32) uint32 {
					if room == 0 {
						return 0 // all are in one
					}
					return conn / uint32(room)
				}
			default:
				return nil, fmt.Errorf("no placeholder {%s}; there are {room} and {conn}", name)
			}
		}
		g = append(g, part)
		text = rest
	}
	return g, nil
}

func (g greeting) append(dst []byte, conn uint32) []byte {
	for _, part := range g {
		dst = append(dst, part.bytes...)
		if part.number != nil {
			dst = binary.BigEndian.AppendUint32(dst, part.number(conn))
		}
	}
	return dst
}

// byBytes recognises heartbeats by being exactly those bytes.
func byBytes(query, answer []byte) codec.Heartbeat {
	return codec.Heartbeat{
		Pingers: codec.Client, Query: query, Answer: answer,
		Func: func(frame []byte) codec.Kind {
			switch {
			case slices.Equal(frame, query):
				return codec.Ping
			case len(answer) > 0 && slices.Equal(frame, answer):
				return codec.Pong
			}
			return codec.Data
		},
	}
}

// framed is a protocol that a codec says everything about.
type framed struct {
	codec    codec.Codec
	prefixer codec.Prefixer // nil if it has none, or one for each connection
	beat     codec.Properties
	min, max int // payload
	greeting greeting
	awaited  int // frames that answer the greeting
	// shared is the session of all connections, where none has a state.
	shared *conversation
}

// frames makes a protocol of a codec. format is the factory again, if it is one
// whose largest frame can be set.
func frames(factory codec.Factory, format *codec.LengthField, o Options) (*framed, error) {
	if format != nil {
		if o.MaxFrame > 0 {
			format.MaxFrame = o.MaxFrame
		}
		factory = *format
	}
	c, err := factory.Codec()
	if err != nil {
		return nil, err
	}
	p := &framed{codec: c, beat: c.Properties()}
	if c.PerConn() == c {
		p.prefixer, _ = c.(codec.Prefixer)
	}
	if err := p.measure(o.MaxFrame); err != nil {
		return nil, err
	}
	if c.PerConn() == c {
		p.shared = &conversation{framed: p, codec: c}
	}
	return p, nil
}

// measure finds the smallest and the largest payload by trying.
func (p *framed) measure(maxFrame int) error {
	fits := func(n int) bool {
		_, err := p.codec.Append(nil, codec.Data, make([]byte, n))
		return err == nil
	}
	for p.min = 1; !fits(p.min); p.min++ {
		if p.min == 64 {
			return fmt.Errorf("no payload of 1 to 64 bytes makes a frame")
		}
	}
	low, high := p.min, max(maxFrame, codec.DefaultMaxFrame)
	for low < high {
		middle := (low + high + 1) / 2
		if fits(middle) {
			low = middle
		} else {
			high = middle - 1
		}
	}
	p.max = low
	return nil
}

func (p *framed) MinPayload() int { return p.min }
func (p *framed) MaxPayload() int { return p.max }

func (p *framed) Heartbeats() (sent, answered bool) {
	sent = p.beat.Pingers&codec.Client != 0
	return sent, sent && p.beat.Answered
}

func (p *framed) Session(number uint32) Session {
	if p.shared != nil {
		return p.shared
	}
	return &conversation{framed: p, codec: p.codec.PerConn(), number: number, awaited: p.awaited}
}

// conversation is the Session of a framed protocol.
type conversation struct {
	*framed
	codec   codec.Codec
	number  uint32
	awaited int
}

func (s *conversation) Greet(dst []byte) ([]byte, bool) {
	return s.greeting.append(dst, s.number), s.awaited > 0
}

func (s *conversation) AppendMessage(dst, payload []byte) ([]byte, error) {
	if s.prefixer != nil {
		// The shorter way, where a frame is a header and the payload.
		if out, err := s.prefixer.AppendPrefix(dst, codec.Data, payload); err == nil {
			return append(out, payload...), nil
		}
	}
	return s.codec.Append(dst, codec.Data, payload)
}

func (s *conversation) AppendHeartbeat(dst []byte) []byte {
	return s.codec.AppendPing(dst, codec.Beat{})
}

func (s *conversation) Next(b []byte) (e Event, n, need int, err error) {
	f, n, need, err := s.codec.Decode(b)
	if err != nil || n == 0 {
		return Event{}, n, need, err
	}
	e.Payload = f.Payload
	switch f.Kind {
	case codec.Data:
		e.Kind = Message
	case codec.Pong:
		e.Kind = Answer
	case codec.Ping:
		switch {
		case !s.beat.Answered: // a beacon
		case !s.beat.Directed && s.beat.Pingers == codec.Client:
			e.Kind = Answer
		default:
			e.Kind = Asked
		}
	}
	if s.awaited > 0 {
		if e.Kind == Asked {
			return e, n, 0, nil
		}
		if s.awaited--; s.awaited == 0 {
			return Event{Kind: Ready}, n, 0, nil
		}
		return Event{}, n, 0, nil
	}
	return e, n, 0, nil
}

func (s *conversation) Reply(dst []byte, e Event) []byte {
	return s.codec.AppendPong(dst, e.Payload)
}
