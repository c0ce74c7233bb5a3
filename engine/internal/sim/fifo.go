package sim

// fifo is a queue of bytes.
type fifo struct {
	b    []byte
	head int
}

func (f *fifo) len() int { return len(f.b) - f.head }

func (f *fifo) push(p []byte) {
	if f.head > 0 && len(f.b)+len(p) > cap(f.b) {
		f.b = f.b[:copy(f.b, f.b[f.head:])]
		f.head = 0
	}
	f.b = append(f.b, p...)
}

func (f *fifo) pop(p []byte) int {
	n := copy(p, f.b[f.head:])
	f.skip(n)
	return n
}

// popAppend appends the first n bytes to dst.
func (f *fifo) popAppend(dst []byte, n int) []byte {
	dst = append(dst, f.b[f.head:f.head+n]...)
	f.skip(n)
	return dst
}

func (f *fifo) skip(n int) {
	if f.head += n; f.head == len(f.b) {
		f.b, f.head = f.b[:0], 0
	}
}

func (f *fifo) reset() { f.b, f.head = nil, 0 }
