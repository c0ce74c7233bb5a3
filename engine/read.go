package engine

import (
	"errors"
	"fmt"
	"io"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// mostReads is how often one event reads at most, for the sake of the others. The
// loop reminds itself of the rest.
const mostReads = 4

// readInput reads what has come and delivers its frames. toEnd: there is an end, or
// urgent data, to be found behind what a read returns. Otherwise one that comes
// short has left nothing, and what comes from then on is reported (epoll(7)). (But
// where a peer passes descriptors over a Unix socket, which are not taken: what is
// behind them waits for what comes next, or for the look before a verdict.)
func (c *Conn) readInput(toEnd bool) {
	l := c.loop
	if c.phase == open && c.leftOver() && !c.goOn(c.in.b) {
		return
	}
	for range mostReads {
		space, held := c.space()
		n, err := l.core.kernel.Read(int(c.fd), space[held:])
		if n == 0 && c.in != nil && len(c.in.b) == 0 {
			c.dropInbox() // it was to be for a frame that has not come
		}
		switch {
		case err == nil:
		case !errors.Is(err, sys.EAGAIN):
			c.inputFailed(err)
			return
		case toEnd && l.core.kernel.Waiting(int(c.fd)):
			// At urgent data, Linux returns EAGAIN whatever is behind it while the thread
			// has a signal to take, and Go's scheduler sends many (tcp_recvmsg_locked).
			continue
		default:
			if c.ending != nil && c.ending.broken != nil {
				c.inputFailed(c.ending.broken) // that was all the peer had sent
			}
			return
		}
		l.heard = l.beat
		if n == 0 {
			c.inputEnded()
			return
		}
		c.heart.Read(l.beat)
		l.stats.bytesIn.Add(uint64(n))
		if c.phase == open && !c.goOn(space[:held+n]) {
			return
		}
		if held+n < len(space) && !toEnd {
			return
		}
	}
	c.remind()
}

// goOn delivers what was read, and reports whether there may be more. A pause may be
// lifted again before it has come to the poller: what it has left comes first, and
// nobody else would think of what the kernel has.
func (c *Conn) goOn(b []byte) bool {
	c.received(b)
	leftOver := c.leftOver()
	if !leftOver && !c.stopped() {
		return true
	}
	if c.ending == nil && !leftOver {
		c.remind()
	}
	return false
}

// space returns where to read to, and how many bytes are there already: the
// beginning of a frame, copied to the front of the loop's buffer, or left in
// place if the whole frame would not fit there.
//
// Where large frames follow each other, each is read straight into a buffer of its
// own: what was read to the loop's buffer would have to be copied from there. The
// buffer is as long as the latest large frame of the loop, since most are alike, but
// no longer than this connection's own latest makes likely.
func (c *Conn) space() (space []byte, held int) {
	l := c.loop
	buffer := l.readBuffer
	if c.in == nil && c.large > 0 && c.phase == open {
		size := min(l.largeFrame, classCapacity(int(c.large)-1), maxPooledInbox)
		c.in = getInbox(size)
		c.in.need = size
	}
	in := c.in
	switch {
	case in == nil || c.phase != open:
		return buffer, 0
	case in.need <= len(buffer)/2:
		return buffer, copy(buffer, in.b)
	}
	in.reserve()
	return in.b[:cap(in.b)][:min(cap(in.b), in.need)], len(in.b)
}

// frameStep is how much of a frame must come within FrameTimeout, unless its
// end does.
const frameStep = 64 << 10

// received delivers the whole frames in b and keeps what is left.
func (c *Conn) received(b []byte) {
	rest, need := c.deliver(b)
	if c.deaf() || len(rest) == 0 {
		c.dropInbox()
		if len(b) <= len(c.loop.readBuffer)/2 {
			c.large = 0
		}
		return
	}
	// What a pause has left begins to count now, also if the pause never came to the
	// poller.
	begun := c.in == nil || len(c.in.b) == 0 || len(rest) != len(b) || len(rest)/frameStep > len(c.in.b)/frameStep ||
		c.leftOver()
	c.in = c.in.keep(rest, need)
	c.large = 0
	if need > len(c.loop.readBuffer)/2 {
		class, _ := sizeClass(need)
		c.large, c.loop.largeFrame = uint8(class+1), need
	}
	if d := c.loop.core.limits.FrameTimeout; d > 0 && begun {
		if c.holding() {
			c.unguard(guardFrame) // it counts from when the frame is read on
		} else {
			c.guard(guardFrame, d)
		}
	}
}

// deaf reports whether input is no longer delivered: the connection is to end,
// and not merely because writing has failed.
func (c *Conn) deaf() bool {
	return c.ending != nil && (c.ending.now || c.ending.broken == nil) || c.state.Load()&closing != 0
}

// stopped reports whether input is not delivered now: it never will be, or is
// to wait.
func (c *Conn) stopped() bool {
	if c.ending != nil {
		return c.deaf()
	}
	return c.state.Load()&(closing|pausedByApp|pausedByWork) != 0
}

func (c *Conn) dropInbox() {
	if c.in != nil {
		c.in.release()
		c.in = nil
		c.unguard(guardFrame)
	}
}

// deliver decodes frames in place and hands them on, until there is no whole
// one left or the connection is to end. It returns what it did not use and how
// many bytes the codec wants to see.
func (c *Conn) deliver(b []byte) (rest []byte, need int) {
	h := c.profile.handler
	messages := uint64(0)
	defer func() {
		if messages > 0 {
			c.loop.stats.messagesIn.Add(messages)
			c.loop.runs++
		}
	}()
	for len(b) > 0 && !c.stopped() {
		f, n, need, err := c.codec.Decode(b)
		switch {
		case err != nil:
			reason := reasonOfError(err)
			if reason == Unknown {
				reason = ProtocolError
			}
			c.kill(reason, err)
			return nil, 0
		case n == 0 && need > len(b):
			return b, need
		case n <= 0 || n > len(b):
			c.kill(ProtocolError, fmt.Errorf("codec %T consumed %d of %d bytes and needs %d", c.codec, n, len(b), need))
			return nil, 0
		}
		b = b[n:]
		if !c.greeted {
			c.greeted = true
			c.unguard(guardFirstFrame)
		}
		switch f.Kind {
		case codec.Data:
			messages++
			if h.Message != nil {
				h.Message(c, f.Payload)
			}
		case codec.Ping, codec.Pong:
			c.heard(f, len(b) == 0)
		default:
			c.loop.stats.othersIn.Add(1)
			c.loop.runs++
			if h.Frame != nil {
				h.Frame(c, f)
			}
		}
	}
	return b, 0
}

// inputEnded serves the peer's end of stream. What was sent so far still goes
// out, and what is yet to be sent if somebody is at it.
func (c *Conn) inputEnded() {
	c.eof = true
	var err error
	if c.in != nil {
		err = fmt.Errorf("%w within a frame", io.ErrUnexpectedEOF)
	}
	switch {
	case c.ending != nil && c.ending.broken != nil:
		c.kill(c.ending.reason, c.ending.broken)
	case c.phase == open && err == nil && c.answering():
		// It is registered like a paused one when it is settled.
		if h := c.profile.handler.EOF; h != nil {
			h(c)
		}
	case c.phase == open:
		c.beginDrain(PeerClosed, err)
	case c.phase == lingering:
		c.kill(c.ending.reason, nil)
	}
}

// answering reports whether there may be more to send after the peer's end of
// stream.
func (c *Conn) answering() bool { return c.profile.handler.EOF != nil || c.working() }

func (c *Conn) inputFailed(err error) {
	if c.ending != nil && c.ending.broken != nil {
		err = c.ending.broken // the first error is the cause
	}
	c.kill(reasonOfError(err), err)
}
