package engine

import (
	"math/bits"
	"sync"
)

// inbox holds the beginning of a frame until the rest has come. Only then does
// a connection own an input buffer.
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

// inboxPools holds buffers by the power of two of their capacity.
var inboxPools [21]sync.Pool

// keep stores what is left of the input, in in if that has room, and returns
// the inbox that holds it. rest may be the front of in's own buffer.
func (in *inbox) keep(rest []byte, need int) *inbox {
	if in != nil && cap(in.b) < len(rest) {
		in.release()
		in = nil
	}
	if in == nil {
		in = getInbox(len(rest))
	}
	in.b = append(in.b[:0], rest...)
	in.need = need
	return in
}

func getInbox(size int) *inbox {
	class := bits.Len(uint(max(size, minInbox) - 1))
	if class < len(inboxPools) {
		if in, _ := inboxPools[class].Get().(*inbox); in != nil {
			return in
		}
		size = 1 << class
	}
	return &inbox{b: make([]byte, 0, size)}
}

func (in *inbox) release() {
	if size := cap(in.b); size&(size-1) == 0 && size <= maxPooledInbox {
		in.b = in.b[:0]
		inboxPools[bits.Len(uint(size-1))].Put(in)
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

// outbuf is a run of encoded frames.
type outbuf struct {
	b []byte
	// ends holds, for each frame, where it ends in b, shifted left by one, and
	// in the lowest bit whether it is a message that Send accepted.
	ends []uint32
}

const (
	control = 0
	message = 1
	// maxPooledOutbuf is the largest buffer that is kept for others.
	maxPooledOutbuf = 64 << 10
)

var outbufs = sync.Pool{New: func() any { return &outbuf{b: make([]byte, 0, 2048), ends: make([]uint32, 0, 16)} }}

func getOutbuf() *outbuf { return outbufs.Get().(*outbuf) }

func (p *outbuf) release() {
	if cap(p.b) <= maxPooledOutbuf {
		p.b, p.ends = p.b[:0], p.ends[:0]
		outbufs.Put(p)
	}
}

// add enters a frame that was appended to p.b, which became b.
func (p *outbuf) add(b []byte, kind uint32) {
	p.b = b
	p.ends = append(p.ends, uint32(len(b))<<1|kind)
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
	if n == 0 {
		return 0
	}
	for _, end := range p.ends {
		if int(end>>1) >= n {
			return int(end >> 1)
		}
	}
	return len(p.b)
}
