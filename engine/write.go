package engine

import (
	"errors"
	"slices"

	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

const (
	// maxBeats bounds the heartbeats that wait behind a full kernel buffer, in
	// bytes.
	maxBeats = 4 << 10
	// maxFlush bounds what one flush writes, for the sake of the others.
	maxFlush = 1 << 20
)

// backlog is what the kernel did not take, oldest first.
type backlog struct {
	bufs  []*outbuf
	off   int // bytes of bufs[0] that the kernel has
	bytes int // that it has not
	// beats is the one of bufs that holds heartbeats, and nothing else; nil:
	// none does.
	beats *outbuf
	iov   [][]byte
}

func (b *backlog) push(p *outbuf) {
	b.bufs = append(b.bufs, p)
	b.bytes += len(p.b)
}

// pushBeat appends a heartbeat behind those that wait, or puts it at the next
// frame boundary, before the data. It is left out where too many wait: a peer
// that does not read needs no more of them.
func (b *backlog) pushBeat(encode func(dst []byte) []byte) {
	if p := b.beats; p != nil {
		if before := len(p.b); before < maxBeats {
			p.add(encode(p.b), control)
			b.bytes += len(p.b) - before
		}
		return
	}
	p := getOutbuf()
	p.add(encode(p.b), control)
	if len(p.b) == 0 {
		p.release()
		return
	}
	b.bytes += len(p.b)
	b.beats = p
	first := b.bufs[0]
	cut := first.boundary(b.off)
	at := 1
	switch {
	case cut == 0:
		at = 0
	case cut < len(first.b):
		// The rest of the first buffer gets one of its own. A copy, but one a
		// heartbeat, not one a message.
		rest := getOutbuf()
		rest.b = append(rest.b, first.b[cut:]...)
		whole := 0
		for _, end := range first.ends {
			if int(end>>1) > cut {
				rest.ends = append(rest.ends, end-uint32(cut)<<1)
			} else {
				whole++
			}
		}
		first.b, first.ends = first.b[:cut], first.ends[:whole]
		b.bufs = slices.Insert(b.bufs, 1, rest)
		if cut == b.off { // all of it is written
			first.release()
			b.bufs = slices.Delete(b.bufs, 0, 1)
			b.off, at = 0, 0
		}
	}
	b.bufs = slices.Insert(b.bufs, at, p)
}

// slices returns what is to be written.
func (b *backlog) slices() [][]byte {
	b.iov = b.iov[:0]
	off := b.off
	for i, p := range b.bufs {
		if i == sys.MaxSlices {
			break
		}
		b.iov = append(b.iov, p.b[off:])
		off = 0
	}
	return b.iov
}

// written drops n bytes from the front, and counts the frames that end there.
func (b *backlog) written(n int) (frames int) {
	b.bytes -= n
	done := 0
	for n > 0 {
		p := b.bufs[done]
		to := min(b.off+n, len(p.b))
		frames += p.frames(b.off, to)
		n -= to - b.off
		b.off = to
		if to == len(p.b) {
			if p == b.beats {
				b.beats = nil
			}
			p.release()
			b.off = 0
			done++
		}
	}
	b.bufs = slices.Delete(b.bufs, 0, done)
	return frames
}

// messages counts those that were not wholly written.
func (b *backlog) messages() (n int) {
	off := b.off
	for _, p := range b.bufs {
		n += p.messages(off)
		off = 0
	}
	return n
}

func (b *backlog) release() {
	for _, p := range b.bufs {
		p.release()
	}
	b.bufs = nil
}

// flush writes what was sent. On an error what was not written stays in the
// backlog, to be counted.
func (c *Conn) flush() error {
	b := c.backlog
	if b != nil && c.blocked {
		return nil // what was sent goes on collecting in one buffer
	}
	c.mu.Lock()
	p, starved := c.pending, c.starved
	c.pending = nil
	c.mu.Unlock()
	if p != nil && len(p.b) == 0 { // the codec refused what was to go in
		p.release()
		p = nil
	}

	if b == nil {
		if p == nil {
			return nil
		}
		n, err := c.loop.core.kernel.Write(int(c.fd), p.b)
		if n == len(p.b) {
			c.wrote(n, len(p.ends))
			p.release()
			if starved {
				c.noteRoom()
			}
			return nil
		}
		b = &backlog{}
		c.backlog = b
		b.push(p)
		if err == nil {
			c.wrote(n, b.written(n))
		} else if errors.Is(err, sys.EAGAIN) {
			c.blocked = true
		} else {
			return err
		}
	} else if p != nil {
		b.push(p)
	}
	if err := c.writeBacklog(b); err != nil {
		return err
	}
	return c.watchWriting()
}

// writeBacklog writes until the kernel takes no more, or the others' turn has
// come.
func (c *Conn) writeBacklog(b *backlog) error {
	total := 0
	for !c.blocked && b.bytes > 0 {
		if total >= maxFlush {
			c.schedule()
			break
		}
		n, err := c.loop.core.kernel.Writev(int(c.fd), b.slices())
		if err != nil {
			if !errors.Is(err, sys.EAGAIN) {
				return err
			}
			c.blocked = true
			break
		}
		total += n
		c.wrote(n, b.written(n))
	}
	if b.bytes == 0 {
		c.backlog = nil
	}
	c.mu.Lock()
	c.queued = int32(b.bytes)
	starved := c.starved
	c.mu.Unlock()
	if starved {
		c.noteRoom()
	}
	return nil
}

// wrote notes that the kernel took n bytes.
func (c *Conn) wrote(n, frames int) {
	c.heart.Wrote(c.loop.beat)
	c.loop.stats.bytesOut.Add(uint64(n))
	c.loop.stats.framesOut.Add(uint64(frames))
}

// watchWriting asks for reports of room to write while there is a backlog.
func (c *Conn) watchWriting() error {
	want := c.backlog != nil
	if want == c.writing {
		return nil
	}
	c.writing = want
	if c.paused {
		return nil // its registration is for writing already
	}
	return c.loop.poller.Writing(int(c.fd), want)
}

// noteRoom runs Writable once the backlog has fallen below the low watermark.
func (c *Conn) noteRoom() {
	c.mu.Lock()
	size := int(c.queued)
	if c.pending != nil {
		size += len(c.pending.b)
	}
	room := c.starved && size < c.loop.core.limits.Backlog.Low && c.state.Load()&closing == 0 && c.ending == nil
	if room {
		c.starved = false
	}
	c.mu.Unlock()
	if h := c.profile.handler.Writable; room && h != nil {
		c.loop.call(c, func() { h(c) })
	}
}

// sendBeat queues a heartbeat, which encode appends: ahead of data that waits
// already.
func (c *Conn) sendBeat(encode func(dst []byte) []byte) {
	if c.backlog != nil {
		c.backlog.pushBeat(encode)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock() // even if an application's codec panics
	if c.state.Load()&closing != 0 {
		return
	}
	if c.pending == nil {
		c.pending = getOutbuf()
	}
	c.pending.add(encode(c.pending.b), control)
}
