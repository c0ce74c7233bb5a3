package wire_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/wire"
)

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Every protocol can frame each payload it claims to take, and finds it again
// however the bytes are cut.
func TestPayloadLimits(t *testing.T) {
	names, _ := wire.Presets()
	for _, name := range names {
		p, err := wire.New(wire.Options{Name: name, Run: "r"})
		if err != nil {
			t.Fatal(err)
		}
		s := p.Session(7)
		for _, n := range []int{p.MinPayload(), (p.MinPayload() + p.MaxPayload()) / 2, p.MaxPayload()} {
			payload := bytes.Repeat([]byte{0xa5}, n)
			frame, err := s.AppendMessage([]byte("x"), payload)
			if err != nil {
				t.Errorf("%s: payload of %d bytes: %v", name, n, err)
				continue
			}
			frame = frame[1:]
			for cut := 0; cut < min(len(frame), 8); cut++ {
				if _, m, need, err := s.Next(frame[:cut]); m != 0 || need <= cut || err != nil {
					t.Errorf("%s: %d bytes of a frame: %d consumed, %d needed, %v", name, cut, m, need, err)
				}
			}
			e, m, _, err := s.Next(append(frame, "next"...))
			if err != nil || m != len(frame) || e.Kind != wire.Message || !bytes.Equal(e.Payload, payload) {
				t.Errorf("%s: payload of %d bytes came back as kind %d of %d bytes, %v", name, n, e.Kind, len(e.Payload), err)
			}
		}
		if _, err := s.AppendMessage(nil, make([]byte, p.MaxPayload()+1)); err == nil {
			t.Errorf("%s: a payload above the maximum was framed", name)
		}
	}
}

// A format given by flags writes exactly the bytes that it describes.
func TestCustom(t *testing.T) {
	p, err := wire.New(wire.Options{Name: wire.Custom, Format: &wire.Format{
		Offset: 2, Size: 2, LittleEndian: true, Adjust: 1, Header: "ca fe 0000 07", Trailer: "ce",
		Heartbeat: "cafe 0100 09 ce", Answer: "cafe 0100 0a ce",
		Greeting: "68 69", GreetingFrames: 2,
	}})
	if err != nil {
		t.Fatal(err)
	}
	s := p.Session(0)
	if out, wait := s.Greet(nil); string(out) != "hi" || !wait {
		t.Errorf("greeting %q, wait %v", out, wait)
	}
	// cafe, length without header (2+2) and trailer but for Adjust, kind 07.
	frame, err := s.AppendMessage(nil, []byte("abc"))
	if want := unhex(t, "cafe 0400 07 616263 ce"); err != nil || !bytes.Equal(frame, want) {
		t.Fatalf("message % x, %v, want % x", frame, err, want)
	}
	for i, want := range []wire.Kind{wire.Nothing, wire.Ready, wire.Message} {
		if e, n, _, err := s.Next(frame); err != nil || n != len(frame) || e.Kind != want {
			t.Errorf("frame %d: kind %d, %d bytes, %v, want kind %d", i, e.Kind, n, err, want)
		}
	}
	if got := s.AppendHeartbeat(nil); !bytes.Equal(got, unhex(t, "cafe 0100 09 ce")) {
		t.Errorf("heartbeat % x", got)
	}
	if e, _, _, err := s.Next(unhex(t, "cafe 0100 0a ce")); err != nil || e.Kind != wire.Answer {
		t.Errorf("the answer is of kind %d, %v", e.Kind, err)
	}
	if sent, answered := p.Heartbeats(); !sent || !answered {
		t.Errorf("heartbeats: sent %v, answered %v", sent, answered)
	}
}

// A greeting says whose it is.
func TestGreeting(t *testing.T) {
	p, err := wire.New(wire.Options{Name: wire.Custom, Room: 5, Format: &wire.Format{Size: 4, Greeting: "00000008 {room}{conn} ff", GreetingFrames: 1}})
	if err != nil {
		t.Fatal(err)
	}
	for number, want := range map[uint32]string{0: "00000008 00000000 00000000 ff", 4: "00000008 00000000 00000004 ff", 13: "00000008 00000002 0000000d ff"} {
		if got, _ := p.Session(number).Greet(nil); !bytes.Equal(got, unhex(t, want)) {
			t.Errorf("connection %d greets with % x, want %s", number, got, want)
		}
	}
}

// What makes no protocol is refused, and the flag at fault is named.
func TestNewRefuses(t *testing.T) {
	for want, o := range map[string]wire.Options{
		"no protocol":       {Name: "smoke signals"},
		"describes":         {Name: wire.Custom},
		"-heartbeat-frame":  {Name: wire.Custom, Format: &wire.Format{Size: 4, Heartbeat: "0g"}},
		"-heartbeat-answer": {Name: wire.Custom, Format: &wire.Format{Size: 4, Answer: "00000000"}},
		"-greeting-frames":  {Name: wire.Custom, Format: &wire.Format{Size: 4, GreetingFrames: 1}},
		"{roof}":            {Name: wire.Custom, Format: &wire.Format{Size: 4, Greeting: "00{roof}"}},
		"{ without }":       {Name: wire.Custom, Format: &wire.Format{Size: 4, Greeting: "00{room"}},
		"LengthField.Size":  {Name: wire.Custom, Format: &wire.Format{Size: 5}},
		"keep-alive":        {Name: "mqtt", KeepAlive: 1 << 50},
	} {
		if _, err := wire.New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want something about %q", o, err, want)
		}
	}
}

// The bytes of an MQTT conversation are those of the specification's figures.
func TestMQTT(t *testing.T) {
	p, err := wire.New(wire.Options{Name: "mqtt", Run: "r", KeepAlive: 1500e6})
	if err != nil {
		t.Fatal(err)
	}
	s := p.Session(3)
	greeting, wait := s.Greet(nil)
	connect := append(unhex(t, "10 1a 0004 4d515454 04 02 0002 000e"), "pulsebench-r-3"...)
	if !wait || !bytes.Equal(greeting, connect) {
		t.Errorf("CONNECT % x, want % x", greeting, connect)
	}
	e, n, _, err := s.Next(unhex(t, "20 02 00 00"))
	if err != nil || n != 4 || e.Kind != wire.Asked {
		t.Fatalf("CONNACK: kind %d, %d bytes, %v", e.Kind, n, err)
	}
	subscribe := append(unhex(t, "82 14 0001 000f"), "pulsebench/r/c3\x00"...)
	if got := s.Reply(nil, e); !bytes.Equal(got, subscribe) {
		t.Errorf("SUBSCRIBE % x, want % x", got, subscribe)
	}
	if e, _, _, err := s.Next(unhex(t, "90 03 0001 00")); err != nil || e.Kind != wire.Ready {
		t.Errorf("SUBACK: kind %d, %v", e.Kind, err)
	}
	if e, _, _, err := s.Next(unhex(t, "d0 00")); err != nil || e.Kind != wire.Answer {
		t.Errorf("PINGRESP: kind %d, %v", e.Kind, err)
	}
	for name, bad := range map[string]string{
		"refused connection": "20 02 00 05", "refused subscription": "90 03 0001 80",
		"QoS 1": "32 05 0001 61 0001", "a topic beyond the end": "30 03 0005 61", "an empty PUBLISH": "30 00",
		"an unknown packet": "40 02 0001", "an empty CONNACK": "20 00",
	} {
		if _, _, _, err := s.Next(unhex(t, bad)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
