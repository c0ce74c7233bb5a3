package engine

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// inbox holds the beginning of a frame until the rest has come. Only then, and
// while a large frame is read, does a connection own an input buffer.
type inbox struct {
	b    []byte
	need int // how many bytes the codec wants to see
}

const (
	minInbox  = 512
	minGrowth = 4 << 10
	// maxPooledInbox is the largest buffer that is kept for others.
	maxPooledInbox = 1 << 20
)

// inboxPools holds buffers by the class of their capacity.
var inboxPools [4 * 21]sync.Pool

// sizeClass returns the class of buffers that have room for size bytes, and their
// capacity: four classes between one power of two and the next, so that a frame a
// little longer than one costs a quarter more and not twice as much.
func sizeClass(size int) (class, capacity int) {
	size = max(size, minInbox)
	power := bits.Len(uint(size-1)) - 1
	quarter := 1 << power >> 2
	quarters := (size - 1<<power + quarter - 1) / quarter
	return 4*power + quarters - 1, 1<<power + quarters*quarter
}

// classCapacity is the capacity of a class.
func classCapacity(class int) int {
	power := class / 4
	return 1<<power + (class%4+1)*(1<<power>>2)
}

// keep stores what is left of the input, in in if that has room and is not far too
// large, and returns the inbox that holds it. rest may be in in's own buffer.
func (in *inbox) keep(rest []byte, need int) *inbox {
	switch old := in; {
	case old == nil:
		in = getInbox(len(rest))
		in.b = append(in.b, rest...)
	case cap(old.b) < len(rest) || cap(old.b) > 8*max(len(rest), minGrowth):
		in = getInbox(len(rest))
		in.b = append(in.b, rest...)
		old.release()
	case &rest[0] == &old.b[:1][0]:
		in.b = in.b[:len(rest)] // it was read to where it stays
	default:
		in.b = append(in.b[:0], rest...)
	}
	in.need = need
	return in
}

func getInbox(size int) *inbox {
	class, capacity := sizeClass(size)
	if class < len(inboxPools) {
		if in, _ := inboxPools[class].Get().(*inbox); in != nil {
			return in
		}
		size = capacity
	}
	return &inbox{b: make([]byte, 0, size)}
}

func (in *inbox) release() {
	size := cap(in.b)
	if size < minInbox || size > maxPooledInbox {
		return
	}
	if class, capacity := sizeClass(size); capacity == size {
		in.b = in.b[:0]
		inboxPools[class].Put(in)
	}
}

// reserve makes room to read more: up to four times what is there, up to the
// whole frame. So what a peer makes us hold grows with what it has sent, not
// with what it has announced.
func (in *inbox) reserve() {
	if len(in.b) < cap(in.b) {
		return
	}
	bigger := getInbox(min(in.need, max(4*len(in.b), minGrowth)))
	bigger.b = append(bigger.b, in.b...)
	in.b, bigger.b = bigger.b, in.b
	bigger.release()
}

// outbuf is a run of encoded frames, or the payload of one frame that is lent:
// the application's own memory, or shared by many connections.
type outbuf struct {
	b []byte
	// ends holds, for each frame, where it ends in b, shifted left by one, and
	// in the lowest bit whether it is a message that Send accepted. Of a frame
	// that goes on in the next outbuf there is none.
	ends []uint32
	lent *loan
	// own is where b comes from, if it is for one large message; nil: it is not.
	own *inbox
	// continues: the frame began in the outbuf before.
	continues bool
	// controls is where the last control frame among messages ends in b.
	controls int
	// next is the following one in Conn.pending, where the last is followed by
	// the first; otherwise nil.
	next *outbuf
}

// loan is memory that output refers to instead of copying it, and that is given
// back once the last one is through with it.
type loan struct {
	refs   atomic.Int32
	shared bool   // by many connections: its memory is accounted for by itself
	done   func() // runs once, on a loop; it must not be the application's
}

func (l *loan) drop() {
	if l.refs.Add(-1) == 0 {
		l.done()
	}
}

const (
	control = 0
	message = 1
	// maxPooledOutbuf is the largest buffer that is kept for others and that many
	// messages share.
	maxPooledOutbuf = 64 << 10
	// largeMessage is from what size on a message gets a buffer of its own, of the
	// right size. In one that is shared it would have that grow, and copied.
	largeMessage = 16 << 10
	// outbufSize is what a new buffer holds, outbufOverhead about what one
	// costs beside its bytes, and lentOverhead what one without any does.
	outbufSize     = 2048
	outbufOverhead = 256
	lentOverhead   = 128
	// maxFraming is what codecs usually add to a payload, at most.
	maxFraming = 32
)

// outbufs holds buffers with room of their own, lentbufs those without.
var (
	outbufs  = sync.Pool{New: func() any { return &outbuf{b: make([]byte, 0, outbufSize), ends: make([]uint32, 0, 16)} }}
	lentbufs = sync.Pool{New: func() any { return &outbuf{ends: make([]uint32, 0, 1)} }}
)

func getOutbuf() *outbuf { return outbufs.Get().(*outbuf) }

// getLent returns an outbuf for b, which belongs to lent. What ends in it is a
// message.
func getLent(b []byte, lent *loan) *outbuf {
	p := lentbufs.Get().(*outbuf)
	p.lent = lent
	p.add(b, message)
	return p
}

// getLarge returns an empty outbuf for one message of about size bytes, with a
// buffer that input uses, too.
func getLarge(size int) *outbuf {
	p := lentbufs.Get().(*outbuf)
	p.own = getInbox(size)
	p.b = p.own.b
	return p
}

func (p *outbuf) release() {
	p.next = nil
	if own := p.own; own != nil {
		own.b = p.b[:0]
		own.release()
		*p = outbuf{ends: p.ends[:0]}
		lentbufs.Put(p)
		return
	}
	if lent := p.lent; lent != nil {
		*p = outbuf{ends: p.ends[:0]}
		lentbufs.Put(p)
		lent.drop()
		return
	}
	if cap(p.b) <= maxPooledOutbuf {
		p.b, p.ends, p.controls = p.b[:0], p.ends[:0], 0
		outbufs.Put(p)
	}
}

// cost is about how much memory p keeps from others, by what it holds and not by
// what its buffer could hold: that depends on who had it before (see fitted).
// What many share is accounted for once, by whoever lends it.
func (p *outbuf) cost() int {
	switch {
	case p.own != nil:
		return cap(p.b) + lentOverhead
	case p.lent == nil:
		return max(len(p.b), outbufSize) + outbufOverhead
	case p.lent.shared:
		return lentOverhead
	}
	return len(p.b) + lentOverhead
}

// fitted returns p, or a copy of it if its buffer is far too large for what it
// holds: what is to wait shall not keep a buffer that others could use.
func (p *outbuf) fitted() *outbuf {
	if p.lent != nil || p.own != nil || cap(p.b) <= 4*max(len(p.b), outbufSize) {
		return p
	}
	q := &outbuf{
		b:    append(make([]byte, 0, max(len(p.b), outbufSize)), p.b...),
		ends: append(make([]uint32, 0, max(len(p.ends), 16)), p.ends...),

		controls: p.controls,
	}
	p.release()
	return q
}

// add enters a frame that was appended to p.b, which became b.
func (p *outbuf) add(b []byte, kind uint32) {
	p.b = b
	p.ends = append(p.ends, uint32(len(b))<<1|kind)
}

// addControl enters a control frame like add, so that those that follow find
// their place behind it.
func (p *outbuf) addControl(b []byte) {
	p.add(b, control)
	p.controls = len(b)
}

// frames counts the frames that end within b[from:to], to included.
func (p *outbuf) frames(from, to int) (count int) {
	for _, end := range p.ends {
		if at := int(end >> 1); at > from && at <= to {
			count++
		}
	}
	return count
}

// messages counts the messages that end after the first n bytes.
func (p *outbuf) messages(n int) (count int) {
	for _, end := range p.ends {
		if int(end>>1) > n {
			count += int(end & 1)
		}
	}
	return count
}

// boundary returns where the frame that the n-th byte belongs to ends; n
// itself if a frame ends there.
func (p *outbuf) boundary(n int) int {
	if n == 0 && !p.continues {
		return 0
	}
	for _, end := range p.ends {
		if int(end>>1) >= n {
			return int(end >> 1)
		}
	}
	return len(p.b)
}

// outbufRing is what was sent since the last flush, as its last outbuf; nil:
// nothing. It takes one word, because idle connections have one, too.
type outbufRing struct{ last *outbuf }

func (r *outbufRing) append(p *outbuf) {
	if r.last == nil {
		p.next = p
	} else {
		p.next = r.last.next
		r.last.next = p
	}
	r.last = p
}

// writable returns the outbuf that a frame can be appended to.
func (r *outbufRing) writable() *outbuf {
	if r.last == nil || r.last.lent != nil || r.last.own != nil {
		r.append(getOutbuf())
	}
	return r.last
}

// messages counts those that wait.
func (r *outbufRing) messages() (n int) {
	if r.last == nil {
		return 0
	}
	for p := r.last.next; ; p = p.next {
		if n += p.messages(0); p == r.last {
			return n
		}
	}
}

// each calls f for every outbuf, first to last; f may release it or keep it.
func (r *outbufRing) each(f func(*outbuf)) {
	if r.last == nil {
		return
	}
	p := r.last.next
	r.last.next = nil
	for p != nil {
		next := p.next
		p.next = nil
		f(p)
		p = next
	}
	r.last = nil
}
