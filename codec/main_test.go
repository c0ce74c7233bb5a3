package codec_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails if a goroutine of ours is left over.
func TestMain(m *testing.M) {
	code := m.Run()
	left := leftover()
	for deadline := time.Now().Add(5 * time.Second); left != nil && time.Now().Before(deadline); left = leftover() {
		time.Sleep(time.Millisecond)
	}
	if left != nil && code == 0 {
		fmt.Fprintf(os.Stderr, "%d goroutines left over:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
		code = 1
	}
	os.Exit(code)
}

// leftover returns the stacks of all goroutines but this one, and the one that
// fuzzing starts to wait for signals.
func leftover() (left []string) {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for _, stack := range strings.Split(string(stacks), "\n\n")[1:] {
		if !strings.Contains(stack, "os/signal.loop") {
			left = append(left, stack)
		}
	}
	return left
}
