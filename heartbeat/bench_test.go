package heartbeat_test

import (
	"testing"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// BenchmarkState: what liveness costs the loop. A message read costs Read; the
// rest comes once an interval.
func BenchmarkState(b *testing.B) {
	p := planFor(b, heartbeat.Relaxed(), directed)
	b.Run("op=Read", func(b *testing.B) {
		var s heartbeat.State
		for i := range b.N {
			s.Read(int64(i))
		}
	})
	b.Run("op=Poll/due=no", func(b *testing.B) {
		var s heartbeat.State
		s.Start(p, 0, full)
		for b.Loop() {
			s.Poll(p, 1)
		}
	})
	b.Run("op=Poll+Answer/due=yes", func(b *testing.B) {
		var s heartbeat.State
		s.Start(p, 0, full)
		now := int64(0)
		for b.Loop() {
			now += int64(p.Announce()) + 1
			if a, _ := s.Poll(p, now); a != heartbeat.Ping {
				b.Fatal(a)
			}
			s.Wrote(now)
			s.Answer(p, now+1, s.Stamp(), true)
		}
	})
}
