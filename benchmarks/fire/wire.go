//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"time"

	"golang.org/x/sys/unix"
)

// A message says who sent it, as its how-manieth, and what the receiver is to
// do. The rest is filler that depends on both, so that a byte of another message
// or connection shows.
//
//	u64 sender | u32 number | i64 stamp | u8 order | u32 argument | filler
//
// What clients send has the client's own key for a sender. What the server
// sends has the connection's ID, and a broadcast the sender castSender.
const messageHeader = 25

// castSender is the sender of all broadcasts; they have numbers of their own.
const castSender = 1<<64 - 1

type message struct {
	sender uint64
	number uint32
	stamp  int64 // an answer has that of its question
	order  order
	arg    uint32
	size   int
}

// order is what a message asks the server to do. The server's own messages have
// orderNothing.
type order uint8

const (
	orderNothing    order = iota
	orderEcho             // answer with a message of argument bytes
	orderBurst            // answer with so many messages
	orderFlood            // answer with so many of 4 KiB, as there is room for them
	orderOwned            // answer with a message of argument bytes that is lent, not copied
	orderPost             // answer from a posted function
	orderTask             // answer from a task, after so many milliseconds
	orderBlock            // block the handler for so many milliseconds, then answer
	orderPause            // stop reading for so many milliseconds, after answering
	orderJoin             // answer, and get broadcasts from now on
	orderLeave            // get no more of them, and answer
	orderCast             // broadcast a message of argument bytes
	orderClose            // answer and close
	orderAbort            // answer and abort
	orderPanic            // panic in the handler
	orderGoexit           // end the goroutine in the handler
	orderPostPanic        // panic in a posted function
	orderTaskPanic        // panic in a task
	orderTaskGoexit       // end the goroutine in a task
	orderNever            // a task that does not end before the run does
	orderBlockLoop        // block the event loop for so many milliseconds, then answer
	lastOrder
)

// maxMessage is the largest message that is ever sent.
const maxMessage = 48 << 10

// filler is where filler is cut from; it has no short period.
var filler = func() []byte {
	b := make([]byte, 1<<16+maxMessage)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}()

func (m *message) filler() []byte {
	at := int((m.sender*7919 + uint64(m.number)*104729) & (1<<16 - 1))
	return filler[at : at+m.size-messageHeader]
}

// append encodes m.
func (m *message) append(b []byte) []byte {
	m.size = min(max(m.size, messageHeader), maxMessage)
	b = binary.BigEndian.AppendUint64(b, m.sender)
	b = binary.BigEndian.AppendUint32(b, m.number)
	b = binary.BigEndian.AppendUint64(b, uint64(m.stamp))
	b = append(b, byte(m.order))
	b = binary.BigEndian.AppendUint32(b, m.arg)
	return append(b, m.filler()...)
}

func decode(b []byte) (m message, err error) {
	if len(b) < messageHeader || len(b) > maxMessage {
		return m, fmt.Errorf("a message of %d bytes", len(b))
	}
	m = message{
		sender: binary.BigEndian.Uint64(b),
		number: binary.BigEndian.Uint32(b[8:]),
		stamp:  int64(binary.BigEndian.Uint64(b[12:])),
		order:  order(b[20]),
		arg:    binary.BigEndian.Uint32(b[21:]),
		size:   len(b),
	}
	if !bytes.Equal(b[messageHeader:], m.filler()) {
		return m, fmt.Errorf("message %d of sender %d is garbled", m.number, m.sender)
	}
	return m, nil
}

// stream is one sender's messages as one receiver sees them: their numbers
// count up without a gap, from 0, or for broadcasts from wherever the receiver
// joined.
type stream struct {
	sender uint64
	begun  bool
	next   uint32
	count  uint32
}

func (s *stream) receive(m message, from0 bool) error {
	if !s.begun {
		s.begun, s.sender = true, m.sender
		if !from0 {
			s.next = m.number
		}
	}
	switch {
	case m.sender != s.sender:
		return fmt.Errorf("a message of sender %d among those of %d", m.sender, s.sender)
	case m.number != s.next:
		return fmt.Errorf("message %d of sender %d where %d was due", m.number, m.sender, s.next)
	}
	s.next++
	s.count++
	return nil
}

// now is the machine's monotonic clock, which all processes share. Go reads it
// without a system call, but does not tell where it began.
func now() int64 { return clockBase + int64(time.Since(clockStart)) }

var clockStart, clockBase = func() (time.Time, int64) {
	var t unix.Timespec
	start := time.Now()
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return start, t.Nano()
}()

// histogram counts durations in buckets of 6 %, from a microsecond on.
type histogram [bucketCount]uint32

const bucketCount = 16 * 28 // up to 134 s

func bucketOf(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	if us < 16 {
		return int(us)
	}
	shift := bits.Len64(us) - 5
	return min(16*shift+int(us>>shift), bucketCount-1)
}

// bucketEnd is the upper end of a bucket.
func bucketEnd(i int) time.Duration {
	if i < 32 {
		return time.Duration(i+1) * time.Microsecond
	}
	shift := i/16 - 1
	return time.Duration(uint64(i-16*shift+1)<<shift) * time.Microsecond
}

func (h *histogram) note(d time.Duration) { h[bucketOf(d)]++ }

func (h *histogram) add(other *histogram) {
	for i, n := range other {
		h[i] += n
	}
}

func (h *histogram) count() (n uint64) {
	for _, x := range h {
		n += uint64(x)
	}
	return n
}

// quantile returns the least duration that a share q of all is not above, to
// within a bucket; 0 of nothing.
func (h *histogram) quantile(q float64) time.Duration {
	total := h.count()
	if total == 0 {
		return 0
	}
	rank := uint64(q * float64(total))
	var seen uint64
	for i, x := range h {
		if seen += uint64(x); seen > rank {
			return bucketEnd(i)
		}
	}
	return h.largest()
}

func (h *histogram) largest() time.Duration {
	for i := bucketCount - 1; i >= 0; i-- {
		if h[i] > 0 {
			return bucketEnd(i)
		}
	}
	return 0
}

// sparse is a histogram as it is written: bucket and count in turn.
type sparse []uint32

func (h *histogram) sparse() (s sparse) {
	for i, n := range h {
		if n > 0 {
			s = append(s, uint32(i), n)
		}
	}
	return s
}

func (s sparse) histogram() *histogram {
	var h histogram
	for i := 0; i+1 < len(s); i += 2 {
		if s[i] < bucketCount {
			h[s[i]] += s[i+1]
		}
	}
	return &h
}
