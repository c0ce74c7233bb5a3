package sim

import (
	"runtime"

	"github.com/pulsewheel/pulsewheel/engine/internal/poll"
)

// WorldOf returns the world that k is in.
func WorldOf(k *Kernel) *World { return k.w }

// AwaitRun waits until a goroutine is in p's Run. Worlds with a Settle need no
// such thing.
func AwaitRun(p poll.Poller) {
	for q := p.(*poller); ; runtime.Gosched() {
		q.w.mu.Lock()
		in := q.inRun
		q.w.mu.Unlock()
		if in {
			return
		}
	}
}
