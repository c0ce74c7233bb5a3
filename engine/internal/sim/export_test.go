package sim

import (
	"runtime"

	"github.com/pulsewheel/pulsewheel/engine/internal/poll"
)

// WorldOf returns the world that k is in.
func WorldOf(k *Kernel) *World { return k.w }

// SendUrgent is send with MSG_OOB.
func SendUrgent(k *Kernel, fd int) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	s, err := k.stream("send", fd)
	if err != nil {
		return
	}
	s.urgentDue, s.urgentAt = true, s.sent+int64(s.snd.len())
	s.transmit()
}

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
