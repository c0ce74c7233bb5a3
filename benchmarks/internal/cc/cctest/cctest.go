// Package cctest is for tests that start the servers and loads of the benchmarks.
package cctest

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/cc"
)

// Linux skips the test where processes cannot be measured.
func Linux(t testing.TB) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("measuring processes needs Linux")
	}
}

// Check fails the test on err, or skips it if only a C compiler is missing.
// A build server (CI is set) has to have one.
func Check(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, cc.ErrNoCompiler) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}
