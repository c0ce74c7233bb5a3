package engine

import (
	"errors"
	"fmt"
	"os"
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
	cost  int // about the memory of bufs
	// taken is how many bytes the kernel took since the drain rate was looked
	// at, and unacked how many it then had; 0: nobody asked.
	taken, unacked int
	// beats is the one of bufs that holds heartbeats, and nothing else; nil:
	// none does.
	beats *outbuf
	// controls is the last of the others that holds control frames, which were
	// sent before there was a backlog; nil: none does.
	controls *outbuf
	iov      [][]byte
}

func (b *backlog) push(p *outbuf) {
	if len(p.b) == 0 { // the codec refused what was to go in
		p.release()
		return
	}
	p = p.fitted()
	b.bufs = append(b.bufs, p)
	b.bytes += len(p.b)
	b.cost += p.cost()
	if p.controls > 0 {
		b.controls = p
	}
}

// pushBeat appends a heartbeat behind those that wait, or puts it at the next
// frame boundary, before the data. It is left out where too many wait: a peer
// that does not read needs no more of them.
func (b *backlog) pushBeat(encode func(dst []byte) []byte) {
	if p := b.beats; p != nil {
		if before := len(p.b); before < maxBeats {
			b.cost -= p.cost()
			p.add(encode(p.b), control)
			b.cost += p.cost()
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
	b.cost += p.cost()
	b.beats = p
	at, from := 0, b.off
	if b.controls != nil {
		if at = slices.Index(b.bufs, b.controls); at > 0 {
			from = 0
		}
		from = max(from, b.controls.controls)
	}
	b.bufs = slices.Insert(b.bufs, b.boundary(at, from), p)
}

// boundary returns before which of bufs a frame can go in, as early as possible
// but not before byte from of bufs[at], and makes it so that one ends there.
func (b *backlog) boundary(at, from int) int {
	p := b.bufs[at]
	cut := p.boundary(from)
	switch {
	case cut == 0:
		return at
	case cut < len(p.b):
		// The rest of the buffer gets one of its own. A copy, but one a
		// heartbeat, not one a message.
		rest := getOutbuf()
		rest.b = append(rest.b, p.b[cut:]...)
		whole := 0
		for _, end := range p.ends {
			if int(end>>1) > cut {
				rest.ends = append(rest.ends, end-uint32(cut)<<1)
			} else {
				whole++
			}
		}
		b.cost -= p.cost()
		p.b, p.ends = p.b[:cut], p.ends[:whole]
		b.cost += p.cost()
		b.bufs = slices.Insert(b.bufs, at+1, rest)
		b.cost += rest.cost()
		if at == 0 && cut == b.off { // all of it is written
			b.cost -= p.cost()
			if p == b.controls {
				b.controls = nil
			}
			p.release()
			b.bufs = slices.Delete(b.bufs, 0, 1)
			b.off = 0
			return 0
		}
		return at + 1
	}
	for at++; at < len(b.bufs) && b.bufs[at].continues; at++ {
	}
	return at
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
	b.taken += n
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
			if p == b.controls {
				b.controls = nil
			}
			b.cost -= p.cost()
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
	sent, starved := c.pending, c.starved
	c.pending = outbufRing{}
	c.queued = 0 // what the kernel does not take is counted again below
	c.mu.Unlock()

	if b == nil {
		p := sent.last
		if p == nil {
			return nil
		}
		if p.next == p && len(p.b) > 0 { // one buffer, as nearly always
			n, err := c.loop.core.kernel.Write(int(c.fd), p.b)
			if n == len(p.b) {
				c.wrote(n, len(p.ends))
				p.release()
				if starved {
					c.noteRoom()
				}
				return nil
			}
			p.next = nil
			sent.last = nil
			return c.taken(p, n, err)
		}
	}
	if b == nil {
		b = &backlog{}
	}
	sent.each(b.push)
	if len(b.bufs) == 0 {
		return nil // the codec refused all of it
	}
	return c.writeBacklog(b)
}

// taken begins a backlog with what the kernel did not take of p: it took n bytes,
// or gave err.
func (c *Conn) taken(p *outbuf, n int, err error) error {
	b := &backlog{}
	b.push(p)
	if err == nil {
		c.wrote(n, b.written(n))
	} else if errors.Is(err, sys.EAGAIN) {
		c.blocked = true
	} else {
		c.backlog = b
		return err
	}
	return c.writeBacklog(b)
}

// writeBacklog writes until the kernel takes no more, or the others' turn has
// come.
func (c *Conn) writeBacklog(b *backlog) (err error) {
	c.backlog = b
	total := 0
	for !c.blocked && b.bytes > 0 {
		if total >= maxFlush {
			c.schedule()
			break
		}
		n, e := c.loop.core.kernel.Writev(int(c.fd), b.slices())
		if e != nil {
			if errors.Is(e, sys.EAGAIN) {
				c.blocked = true
			} else {
				err = e
			}
			break
		}
		total += n
		c.wrote(n, b.written(n))
	}
	if b.bytes == 0 {
		c.backlog = nil
		c.unguard(guardDrain)
	} else if err == nil {
		c.watchDrain(b)
	}
	c.account(b)
	if err != nil {
		return err
	}
	return c.watchWriting()
}

// account enters what a flush has left into the connection's backlog and into
// the engine's, and runs Writable if there is room again.
func (c *Conn) account(b *backlog) {
	c.mu.Lock()
	c.queued += int32(b.bytes)
	held := int32(0)
	if b.bytes > 0 {
		// What was sent meanwhile is counted by its bytes.
		held = int32(min(int(c.queued)-b.bytes+b.cost, maxHeld))
	}
	c.loop.core.held.Add(int64(held - c.held))
	c.held = held
	starved := c.starved
	c.mu.Unlock()
	if starved {
		c.noteRoom()
	}
}

// watchDrain begins to look whether the peer takes its backlog fast enough.
func (c *Conn) watchDrain(b *backlog) {
	limits := &c.loop.core.limits.Backlog
	if limits.DrainWindow > 0 && !c.guarded(guardDrain) {
		b.taken = 0
		c.guard(guardDrain, limits.DrainWindow)
	}
}

// drainOverdue looks whether the peer has taken enough of its backlog. What the
// kernel takes from us comes in large pieces with long breaks, so before a
// verdict it is what the peer has acknowledged that counts, over one more
// window.
func (c *Conn) drainOverdue() {
	b := c.backlog
	if b == nil {
		return
	}
	limits := &c.loop.core.limits.Backlog
	progress := b.taken
	unacked := c.loop.core.kernel.Info(int(c.fd)).Unacked
	if progress < limits.leastDrain() && (b.unacked > 0 || unacked < 0) {
		progress += b.unacked - max(unacked, 0)
		if progress < limits.leastDrain() {
			c.hard = true
			c.kill(SlowConsumer, fmt.Errorf("the peer took %d bytes in %v: %w", max(progress, 0), limits.DrainWindow, os.ErrDeadlineExceeded))
			return
		}
	}
	b.unacked = unacked // so that a peer that stops is found in the window that follows
	c.watchDrain(b)
}

// errHard is why a connection ends that cannot take a broadcast.
var errHard = fmt.Errorf("its backlog left no room for a broadcast: %w", ErrBacklog)

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
	co := c.loop.core
	c.mu.Lock()
	room := c.starved && int(c.queued) < co.limits.Backlog.Low && c.state.Load()&closing == 0 && c.ending == nil &&
		(c.queued == 0 || co.held.Load() < co.limits.Budget)
	if room {
		c.starved = false
	}
	c.mu.Unlock()
	if h := c.profile.handler.Writable; room && h != nil {
		c.loop.call(c, func() { h(c) })
	}
}

// sendBeat sends a heartbeat, which encode appends: at once if nothing waits to be
// written and alone says that nothing is about to be sent with it, otherwise behind
// what was sent since the last flush, or ahead of data that waits already.
func (c *Conn) sendBeat(encode func(dst []byte) []byte, alone bool) {
	if c.backlog != nil {
		c.backlog.pushBeat(encode)
		return
	}
	if b := c.encodeBeat(encode, alone); len(b) > 0 {
		c.writeBeat(b)
	}
}

// encodeBeat returns a heartbeat that is to be written at once, in the loop's
// buffer if that has room. It queues one that is not, and returns nil.
func (c *Conn) encodeBeat(encode func(dst []byte) []byte, alone bool) []byte {
	c.mu.Lock()
	defer c.mu.Unlock() // even if an application's codec panics
	switch {
	case c.state.Load()&closing != 0:
		return nil
	case alone && c.pending.last == nil && c.ending == nil:
		return encode(c.loop.beatBuffer[:0])
	}
	p := c.pending.writable()
	before := len(p.b)
	p.addControl(encode(p.b))
	c.queued += int32(len(p.b) - before)
	return nil
}

// writeBeat writes a heartbeat, with nothing before it. What the kernel does not
// take waits.
func (c *Conn) writeBeat(b []byte) {
	n, err := c.loop.core.kernel.Write(int(c.fd), b)
	if n == len(b) {
		c.wrote(n, 1)
		return
	}
	p := getOutbuf()
	p.addControl(append(p.b, b...))
	if err := c.taken(p, n, err); err != nil {
		c.outputFailed(err)
	}
}
