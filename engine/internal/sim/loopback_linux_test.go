package sim_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// The same scenarios on the real kernel: what the simulation claims is so.
func TestSemanticsOfLinux(t *testing.T) {
	for name, scenario := range scenarios {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &bench{
				TB: t, k: new(sys.Kernel), fds: make(map[int]bool),
				// Loopback delivers within the call; conditions that take
				// longer are waited for by repetition.
				pass:  func() { time.Sleep(2 * time.Millisecond) },
				start: func(f func()) { go f() },
				urgent: func(fd int) {
					if err := unix.Send(fd, []byte("!"), unix.MSG_OOB); err != nil {
						t.Error(err)
					}
				},
			}
			defer b.cleanup()
			scenario(b)
		})
	}
}
