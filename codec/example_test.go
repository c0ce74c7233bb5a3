package codec_test

import (
	"fmt"
	"log"

	"github.com/pulsewheel/pulsewheel/codec"
)

// A client pings, and the server's loop takes the frames apart.
func ExampleNative() {
	c, err := codec.Native{}.Codec()
	if err != nil {
		log.Fatal(err)
	}
	var wire []byte
	wire, _ = c.Append(wire, codec.Data, []byte("hello"))
	wire = c.AppendPing(wire, codec.Beat{Stamp: 42, HasStamp: true})

	var answers []byte
	for len(wire) > 0 {
		frame, n, need, err := c.Decode(wire)
		if err != nil {
			log.Fatal(err) // the connection cannot go on
		}
		if n == 0 {
			fmt.Printf("read on until there are %d bytes\n", need)
			break
		}
		switch frame.Kind {
		case codec.Data:
			fmt.Printf("data %q\n", frame.Payload)
		case codec.Ping:
			fmt.Println("ping", c.Beat(frame.Kind, frame.Payload).Stamp)
			answers = c.AppendPong(answers, frame.Payload)
		}
		wire = wire[n:]
	}
	fmt.Printf("answers % x\n", answers)
	// Output:
	// data "hello"
	// ping 42
	// answers 00 00 0c 02 00 00 00 00 00 00 00 2a 00 00 00 00
}

// SMPP 3.4: the length counts its own four bytes, and the answer to an
// enquire_link has the sequence number of the request.
func ExampleLengthField() {
	smpp := codec.LengthField{
		Size:     4,
		Adjust:   -4,
		MinFrame: 16,
		MaxFrame: 128 << 10,
		Heartbeat: codec.Heartbeat{
			Pingers:  codec.BothSide,
			Ping:     codec.Match{Offset: 4, Value: []byte{0, 0, 0, 0x15}},
			Pong:     codec.Match{Offset: 4, Value: []byte{0x80, 0, 0, 0x15}},
			Query:    []byte{0, 0, 0, 16, 0, 0, 0, 0x15, 0, 0, 0, 0, 0, 0, 0, 1},
			Sequence: codec.Sequence{Offset: 12, Size: 4, Mask: 0x7fffffff},
			Answer:   []byte{0, 0, 0, 16, 0x80, 0, 0, 0x15, 0, 0, 0, 0, 0, 0, 0, 0},
			Echo:     codec.Echo{From: 12, To: 12, Len: 4},
		},
	}
	c, err := smpp.Codec()
	if err != nil {
		log.Fatal(err)
	}
	ping := c.AppendPing(nil, codec.Beat{Stamp: 7, HasStamp: true})
	frame, _, _, err := c.Decode(ping)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("enquire_link      % x\n", ping)
	fmt.Printf("enquire_link_resp % x\n", c.AppendPong(nil, frame.Payload))
	fmt.Printf("%+v\n", c.Properties())

	// A mistake is found when the codec is made.
	smpp.Heartbeat.Echo.To = 13
	_, err = smpp.Codec()
	fmt.Println(err)
	// Output:
	// enquire_link      00 00 00 10 00 00 00 15 00 00 00 00 00 00 00 07
	// enquire_link_resp 00 00 00 10 80 00 00 15 00 00 00 00 00 00 00 07
	// {Pingers:3 Directed:true Answered:true Stamped:true StampMask:2147483647}
	// configure: invalid codec configuration: Heartbeat.Echo: 4 bytes to 13, outside an Answer of 16
}

func ExampleLength4() {
	c, err := codec.Length4().Codec()
	if err != nil {
		log.Fatal(err)
	}
	data, _ := c.Append(nil, codec.Data, []byte("hello"))
	fmt.Printf("data      % x\n", data)
	fmt.Printf("heartbeat % x\n", c.AppendPing(nil, codec.Beat{}))

	_, _, _, err = c.Decode([]byte("GET / HTTP/1.1\r\n"))
	fmt.Println(err)
	// Output:
	// data      00 00 00 05 68 65 6c 6c 6f
	// heartbeat 00 00 00 00
	// decode frame: frame too large: length 1195725860, maximum 1048576
}
