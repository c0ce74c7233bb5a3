package engine

import (
	"net/netip"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// ListenOn is Listen on another kernel.
func ListenOn(k kernel, cfg Config) (*Server, error) { return listenOn(k, cfg) }

// NewClientOn is NewClient on another kernel.
func NewClientOn(k kernel, cfg ClientConfig) (*Client, error) { return newClientOn(k, cfg) }

// CountingKernel is the real kernel, and counts calls.
type CountingKernel struct {
	sys.Kernel
	Writes atomic.Int64
	Reads  atomic.Int64
}

// NewCountingKernel returns the real kernel with its counters at zero.
func NewCountingKernel() *CountingKernel { return new(CountingKernel) }

func (k *CountingKernel) Read(fd int, p []byte) (int, error) {
	k.Reads.Add(1)
	return k.Kernel.Read(fd, p)
}

func (k *CountingKernel) Write(fd int, p []byte) (int, error) {
	k.Writes.Add(1)
	return k.Kernel.Write(fd, p)
}

func (k *CountingKernel) Writev(fd int, bufs [][]byte) (int, error) {
	k.Writes.Add(1)
	return k.Kernel.Writev(fd, bufs)
}

// ConnSize is the size of a Conn in bytes.
const ConnSize = unsafe.Sizeof(Conn{})

// HistogramOf counts durations as a loop does.
func HistogramOf(ds []time.Duration) *Histogram {
	var h histogram
	for _, d := range ds {
		h.note(d)
	}
	out := h.snapshot()
	return &out
}

// Bucket is the token bucket of Admission.Rate alone.
type Bucket struct{ a admission }

// NewBucket returns a full bucket.
func NewBucket(rate, burst int) (*Bucket, error) {
	a, err := Admission{Rate: rate, Burst: burst}.withDefaults()
	if err != nil {
		return nil, err
	}
	b := new(Bucket)
	b.a.Admission = a
	b.a.init()
	return b, nil
}

// Burst returns how many the bucket holds.
func (b *Bucket) Burst() int { return b.a.Burst }

// Take asks for one at a time in ns, and returns how long to wait.
func (b *Bucket) Take(now int64) time.Duration { return b.a.take(now) }

// GiveBack undoes Take.
func (b *Bucket) GiveBack() { b.a.giveBack() }

// PrefixOf returns what connections from an address count under.
func PrefixOf(remote netip.AddrPort) netip.Prefix { return prefixOf(remote) }

// Where the fields of a Conn stand by whose places its cache lines can be told.
const (
	HeartOffset = unsafe.Offsetof(Conn{}.heart)
	InOffset    = unsafe.Offsetof(Conn{}.in)
	CodecOffset = unsafe.Offsetof(Conn{}.codec)
	ValueOffset = unsafe.Offsetof(Conn{}.value)
)

// Held returns the size of the buffer that keeps the beginning of a frame which
// was read into one for a frame of that size.
func Held(size int, rest []byte) int {
	in := getInbox(size)
	n := copy(in.b[:cap(in.b)], rest)
	return cap(in.keep(in.b[:n], size).b)
}

// SizeClass is the class of a buffer's size.
func SizeClass(size int) (class, capacity int) { return sizeClass(size) }

// ClassCapacity is the size of a class's buffers.
func ClassCapacity(class int) int { return classCapacity(class) }
