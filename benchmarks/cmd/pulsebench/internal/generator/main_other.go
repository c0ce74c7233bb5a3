//go:build !linux

package generator

import (
	"fmt"
	"os"
)

// Main says that load can only be generated on Linux.
func Main() {
	fmt.Fprintln(os.Stderr, "pulsebench: generating load needs Linux")
	os.Exit(1)
}
