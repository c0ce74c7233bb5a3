package main

import (
	"os"
	"testing"

	"github.com/pulsewheel/pulsewheel/internal/leak"
)

// mainVar makes the test binary the program under test.
const mainVar = "PULSEWHEEL_DEADPEER_MAIN"

// TestMain runs the program itself where a test or the program started it as
// a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv(mainVar) != "" || os.Getenv(specVar) != "" {
		main()
		os.Exit(0)
	}
	leak.Main(m)
}
