package engine

import (
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
