package wire

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
)

// MQTT 3.1.1 (OASIS, 2014), as far as a client at QoS 0 needs it: CONNECT
// (3.1), SUBSCRIBE (3.8), PUBLISH (3.3) and PINGREQ (3.12).
//
// A broker does not echo. A connection subscribes to a topic of its own and
// publishes to it, which makes the broker send each message back to it alone;
// in a broadcast all connections of a room subscribe to the room's topic.
const (
	mqttConnack   = 2
	mqttPublish   = 3
	mqttSuback    = 9
	mqttMaxPacket = 1 + 4 + 268_435_455
	// mqttMaxKeepAlive is what its two bytes can say, in seconds.
	mqttMaxKeepAlive = 1<<16 - 1
)

type mqtt struct {
	options Options
	codec   codec.Codec
	max     int
}

func newMQTT(o Options) (Protocol, error) {
	maxFrame := o.MaxFrame
	if maxFrame == 0 {
		maxFrame = codec.DefaultMaxFrame
	}
	if maxFrame > mqttMaxPacket {
		return nil, fmt.Errorf("frames of %d bytes; a packet has at most %d", maxFrame, mqttMaxPacket)
	}
	if o.KeepAlive < 0 || o.KeepAlive > mqttMaxKeepAlive*time.Second {
		return nil, fmt.Errorf("keep-alive of %v, not 0 to %d s", o.KeepAlive, mqttMaxKeepAlive)
	}
	c, err := codec.LengthField{
		Offset: 1, Size: codec.Base128, MaxFrame: maxFrame,
		Heartbeat: codec.Heartbeat{
			Pingers: codec.Client,
			Ping:    codec.Match{Offset: 0, Value: []byte{0xc0}},
			Pong:    codec.Match{Offset: 0, Value: []byte{0xd0}},
			Exact:   true,
			Query:   []byte{0xc0, 0},
			Answer:  []byte{0xd0, 0},
		},
	}.Codec()
	if err != nil {
		return nil, err
	}
	p := &mqtt{options: o, codec: c}
	p.max = maxFrame - 1 - 4 - 2 - len(p.topic(1<<32-1))
	if p.max < 1 {
		return nil, fmt.Errorf("frames of %d bytes leave no room for a payload", maxFrame)
	}
	return p, nil
}

func (p *mqtt) MinPayload() int                   { return 1 }
func (p *mqtt) MaxPayload() int                   { return p.max }
func (p *mqtt) Heartbeats() (sent, answered bool) { return true, true }

// topic is where the connection publishes, and what it subscribes to.
func (p *mqtt) topic(number uint32) string {
	switch {
	case !p.options.Broadcast:
		return "pulsebench/" + p.options.Run + "/c" + strconv.FormatUint(uint64(number), 10)
	case p.options.Room > 0:
		return "pulsebench/" + p.options.Run + "/r" + strconv.FormatUint(uint64(number)/uint64(p.options.Room), 10)
	}
	return "pulsebench/" + p.options.Run + "/all"
}

func (p *mqtt) Session(number uint32) Session {
	return &mqttSession{mqtt: p, number: number, name: p.topic(number)}
}

type mqttSession struct {
	*mqtt
	number uint32
	name   string // the topic
}

// text appends a string as MQTT has it (1.5.3).
func text(dst []byte, s string) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(s)))
	return append(dst, s...)
}

// packet appends a packet of that first byte (2.2).
func packet(dst []byte, first byte, body []byte) []byte {
	dst = append(dst, first)
	dst = binary.AppendUvarint(dst, uint64(len(body)))
	return append(dst, body...)
}

func (s *mqttSession) Greet(dst []byte) ([]byte, bool) {
	keepAlive := uint16((s.options.KeepAlive + time.Second - 1) / time.Second)
	body := text(nil, "MQTT")
	body = append(body, 4, 2) // protocol level 4; a clean session
	body = binary.BigEndian.AppendUint16(body, keepAlive)
	body = text(body, "pulsebench-"+s.options.Run+"-"+strconv.FormatUint(uint64(s.number), 10))
	return packet(dst, 0x10, body), true
}

// subscribe appends the SUBSCRIBE that follows a CONNACK.
func (s *mqttSession) subscribe(dst []byte) []byte {
	body := text([]byte{0, 1}, s.name)        // packet identifier 1
	return packet(dst, 0x82, append(body, 0)) // QoS 0
}

func (s *mqttSession) AppendMessage(dst, payload []byte) ([]byte, error) {
	if len(payload) > s.max {
		return dst, fmt.Errorf("payload of %d bytes, above %d", len(payload), s.max)
	}
	dst = append(dst, 0x30)
	dst = binary.AppendUvarint(dst, uint64(2+len(s.name)+len(payload)))
	dst = text(dst, s.name)
	return append(dst, payload...), nil
}

func (s *mqttSession) AppendHeartbeat(dst []byte) []byte {
	return s.codec.AppendPing(dst, codec.Beat{})
}

func (s *mqttSession) Next(b []byte) (e Event, n, need int, err error) {
	f, n, need, err := s.codec.Decode(b)
	if err != nil || n == 0 {
		return Event{}, n, need, err
	}
	if f.Kind == codec.Pong {
		return Event{Kind: Answer}, n, 0, nil
	}
	kind := f.Payload[0] >> 4
	// What follows the fixed header; Decode has checked that header.
	body := f.Payload[1:]
	for body[0]&0x80 != 0 {
		body = body[1:]
	}
	body = body[1:]
	switch kind {
	case mqttPublish:
		e, err = published(f.Payload[0], body)
	case mqttConnack:
		e = Event{Kind: Asked}
		if len(body) != 2 || body[1] != 0 {
			err = fmt.Errorf("the broker refused the connection: CONNACK % x", body)
		}
	case mqttSuback:
		e = Event{Kind: Ready}
		if len(body) != 3 || body[2] != 0 {
			err = fmt.Errorf("the broker refused the subscription: SUBACK % x", body)
		}
	default:
		err = fmt.Errorf("unexpected MQTT packet of type %d", kind)
	}
	return e, n, 0, err
}

// published cuts the payload from a PUBLISH (3.3).
func published(first byte, body []byte) (Event, error) {
	if len(body) < 2 {
		return Event{}, fmt.Errorf("PUBLISH of %d bytes", len(body))
	}
	skip := 2 + int(binary.BigEndian.Uint16(body))
	if first&0x06 != 0 {
		return Event{}, fmt.Errorf("PUBLISH of QoS %d to a subscription of QoS 0", first>>1&3)
	}
	if skip > len(body) {
		return Event{}, fmt.Errorf("PUBLISH with a topic of %d bytes in %d", skip-2, len(body))
	}
	return Event{Kind: Message, Payload: body[skip:]}, nil
}

func (s *mqttSession) Reply(dst []byte, _ Event) []byte { return s.subscribe(dst) }
