//go:build unix

package control

import (
	"encoding/json"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
)

// Serve answers signals until one says to end, then returns. The report's
// Goroutines are counted here; counts fills in the rest, on the goroutine that
// called Serve.
func Serve(counts func(*Report)) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGTERM, syscall.SIGINT)
	lines := json.NewEncoder(os.Stdout)
	for s := range signals {
		if s != syscall.SIGUSR1 {
			return
		}
		// Twice, because what a sync.Pool holds survives one collection.
		runtime.GC()
		runtime.GC()
		debug.FreeOSMemory()
		report := Report{Goroutines: runtime.NumGoroutine()}
		counts(&report)
		if lines.Encode(report) != nil {
			return // nobody listens any more
		}
	}
}
