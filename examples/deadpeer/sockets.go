package main

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
)

// socket is a client that does not use the engine, because no proper client
// behaves like a deaf or a silent one.
type socket struct {
	net.Conn
	link
	codec codec.Codec
	peer  engine.ID // the server's number of it; 0: not greeted yet
}

// sockets connects deaf clients now and silent ones when the time has come.
func sockets(s spec, l link) error {
	var all []*socket
	for range s.Clients {
		if s.Way == silent {
			break
		}
		time.Sleep(s.Spread / time.Duration(s.Clients))
		c, err := open(s.Addr, l)
		if err != nil {
			return err
		}
		all = append(all, c)
		// To be deaf and not dead it must be heard within every Interval.
		go c.chatter(min(talk, presets[s.Preset].Interval/2))
		go c.listen()
	}
	for o := range l.orders {
		for i := range s.Clients {
			time.Sleep(time.Until(o.at(i, s.Clients)))
			if s.Way == deaf {
				_ = all[i].SetReadDeadline(time.Now())
				continue
			}
			c, err := open(s.Addr, l)
			if err != nil {
				return err
			}
			at := now() // it says nothing from the beginning
			go func() {
				if c.greeting() == nil {
					l.events <- event{Kind: vanished, Peer: c.peer, At: at}
				}
			}()
		}
	}
	return nil
}

func open(addr string, l link) (*socket, error) {
	c, err := net.Dial("tcp", strings.TrimPrefix(addr, "tcp://"))
	if err != nil {
		return nil, err
	}
	format, err := codec.Native{}.Codec()
	return &socket{Conn: c, link: l, codec: format}, err
}

// chatter talks for as long as anyone takes it.
func (s *socket) chatter(period time.Duration) {
	message, _ := s.codec.Append(nil, codec.Data, []byte(smallTalk))
	for range time.Tick(period) {
		if _, err := s.Write(message); err != nil {
			return
		}
	}
}

// listen answers the server's heartbeats, until it goes deaf.
func (s *socket) listen() {
	if s.greeting() != nil {
		return
	}
	s.events <- event{Kind: connected, Peer: s.peer}
	for {
		f, err := s.frame()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.events <- event{Kind: vanished, Peer: s.peer, At: now()}
			return
		case err != nil:
			s.events <- event{Kind: left, Peer: s.peer, At: now(), Reason: err.Error()}
			return
		case f.Kind == codec.Ping:
			_, _ = s.Write(s.codec.AppendPong(nil, f.Payload))
		}
	}
}

// greeting reads the server's first message.
func (s *socket) greeting() error {
	for s.peer == 0 {
		f, err := s.frame()
		if err != nil {
			return err
		}
		if f.Kind == codec.Data {
			s.peer = engine.ID(binary.BigEndian.Uint64(f.Payload))
		}
	}
	return nil
}

// frame reads one frame, asking the codec how much to read.
func (s *socket) frame() (codec.Frame, error) {
	var b []byte
	for {
		f, _, need, err := s.codec.Decode(b)
		if err != nil || need == 0 {
			return f, err
		}
		have := len(b)
		b = append(b, make([]byte, need-have)...)
		if _, err := io.ReadFull(s, b[have:]); err != nil {
			return f, err
		}
	}
}
