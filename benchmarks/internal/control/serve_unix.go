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

// signals come from the driver.
var signals = make(chan os.Signal, 4)

// hear keeps signals for Serve. It is called before the port is announced, since
// a driver may signal right after it, and what comes earlier is lost.
func hear() { signal.Notify(signals, syscall.SIGUSR1, syscall.SIGTERM, syscall.SIGINT) }

// Serve answers signals until one says to end, then returns. The report's
// Goroutines are counted here; counts fills in the rest, on the goroutine that
// called Serve.
func Serve(counts func(*Report)) {
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
