package engine_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// A simulated message says who sent it, as its how-manieth, and what the
// receiver is to do. The rest is filler that depends on both, so that a byte
// of another message or connection shows.
//
//	u32 sender | u32 number | u8 order | u32 argument | filler
const simHeader = 13

type simMessage struct {
	sender, number uint32
	order          simOrder
	arg            uint32
	size           int
}

// simOrder is what a message asks the receiving application to do.
type simOrder uint8

const (
	orderNothing simOrder = iota
	orderEcho
	orderBurst
	orderBroadcast
	orderClose
	orderAbort
	orderCloseOther
	orderAbortOther
	orderPost
	orderPanic
	orderGoexit
	orderBig
	orderTimer
	orderOther
	orderSlow
	orderPostPanic
	orderPostGoexit
	orderFlood
	orderLoopPost
	orderSequence
	orderLookup
	orderControl
	orderPause
	orderPauses
	orderOwned
	orderDo
	orderChain
	orderJoin
	orderLeave
	orderCast
	orderCastAll
	orderProbe
	lastOrder
)

var simOrderNames = [lastOrder]string{
	"nothing", "echo", "burst", "broadcast", "close", "abort", "close another", "abort another", "post", "panic",
	"Goexit", "big answer", "timer", "send to another", "slow handler", "panic in a post", "Goexit in a post",
	"flood", "post to the loop", "order of posts", "look up", "application frame", "pause", "pause and resume", "lent payload",
	"tasks", "chain of tasks", "join a group", "leave a group", "broadcast to a group", "broadcast to all", "probe for room",
}

// simFiller is where filler is cut from; it has no short period.
var simFiller = func() []byte {
	b := make([]byte, 1<<16)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}()

func (m simMessage) filler(yield func([]byte) bool) {
	at := int(m.sender*7919+m.number*104729) & (len(simFiller) - 1)
	for left := m.size - simHeader; left > 0; at = 0 {
		b := simFiller[at:min(len(simFiller), at+left)]
		if !yield(b) {
			return
		}
		left -= len(b)
	}
}

// wire is the length of a message as a frame of either codec.
func (m simMessage) wire() int { return m.size + 4 }

func (m simMessage) encode() []byte {
	b := make([]byte, simHeader, m.size)
	binary.BigEndian.PutUint32(b, m.sender)
	binary.BigEndian.PutUint32(b[4:], m.number)
	b[8] = byte(m.order)
	binary.BigEndian.PutUint32(b[9:], m.arg)
	for f := range m.filler {
		b = append(b, f...)
	}
	return b
}

func decodeSimMessage(b []byte) (m simMessage, err error) {
	if len(b) < simHeader {
		return m, fmt.Errorf("a message of %d bytes", len(b))
	}
	m = simMessage{
		sender: binary.BigEndian.Uint32(b),
		number: binary.BigEndian.Uint32(b[4:]),
		order:  simOrder(b[8]),
		arg:    binary.BigEndian.Uint32(b[9:]),
		size:   len(b),
	}
	rest := b[simHeader:]
	for f := range m.filler {
		if !bytes.Equal(rest[:len(f)], f) {
			return m, fmt.Errorf("message %d of sender %d is garbled", m.number, m.sender)
		}
		rest = rest[len(f):]
	}
	return m, nil
}

// simStream is one direction of a connection, as the receiver sees it: all
// messages have one sender, and their numbers count up from 0.
type simStream struct {
	sender uint32 // 0: none was heard
	next   uint32
}

func (s *simStream) receive(m simMessage) error {
	if s.sender == 0 {
		s.sender = m.sender
	}
	switch {
	case m.sender != s.sender:
		return fmt.Errorf("a message of sender %d among those of %d", m.sender, s.sender)
	case m.number != s.next:
		return fmt.Errorf("message %d of sender %d where %d was due", m.number, m.sender, s.next)
	}
	s.next++
	return nil
}
