package sim

import (
	"fmt"
	"math/bits"
	"strings"
	"syscall"
	"time"
)

// trace is what happened in the order in which it happened: as a hash always,
// as text on demand.
type trace struct {
	hash uint64
	keep bool
	text strings.Builder
}

func (t *trace) mix(x uint64) {
	t.hash = bits.RotateLeft64(t.hash^x, 29) * 0x9fb21c651e98df25
}

func (t *trace) note(now int64, text string) {
	t.mix(uint64(now))
	for i := range len(text) {
		t.mix(uint64(text[i]))
	}
	if t.keep {
		fmt.Fprintf(&t.text, "%s %s\n", stamp(now), text)
	}
}

// call records one call into a kernel or poller, or one report of a poller. n
// is whatever number says most about it.
func (t *trace) call(now int64, who *Kernel, what string, fd int, n int64, err error) {
	t.mix(uint64(now))
	t.mix(uint64(who.index)<<56 | uint64(what[0])<<48 | uint64(len(what))<<40 | uint64(uint32(fd)))
	t.mix(uint64(n))
	if errno, ok := err.(syscall.Errno); ok {
		t.mix(uint64(errno))
	}
	if t.keep {
		fmt.Fprintf(&t.text, "%s %s %s %d: %d", stamp(now), who.name, what, fd, n)
		if err != nil {
			fmt.Fprintf(&t.text, " %v", err)
		}
		t.text.WriteByte('\n')
	}
}

// packet records an arrival.
func (t *trace) packet(now int64, p *packet) {
	t.mix(uint64(now))
	t.mix(uint64(p.to.id)<<8 | uint64(p.kind))
	t.mix(uint64(len(p.data)))
	if len(p.data) > 0 {
		t.mix(uint64(p.data[0]) | uint64(p.data[len(p.data)-1])<<8)
	}
	if t.keep {
		fmt.Fprintf(&t.text, "%s   %v to %v", stamp(now), p.kind, p.to)
		if len(p.data) > 0 {
			fmt.Fprintf(&t.text, ", %d bytes", len(p.data))
		}
		t.text.WriteByte('\n')
	}
}

func stamp(now int64) string { return fmt.Sprintf("%12.6f", time.Duration(now).Seconds()) }

// Note adds a line of the test's own to the trace. Callbacks may call it.
func (w *World) Note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace.note(w.now, fmt.Sprintf(format, args...))
}

// TraceHash identifies everything that happened so far. Two runs of one seed
// have the same.
func (w *World) TraceHash() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.trace.hash
}

// Trace returns what happened so far as text, if Config.Trace asked for it.
func (w *World) Trace() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.trace.text.String()
}
