//go:build !linux

package fleet

import (
	"errors"
	"fmt"
	"os/exec"
)

// startOn would start a process on one processor.
func startOn(*exec.Cmd, int) error {
	return fmt.Errorf("generating load needs Linux: %w", errors.ErrUnsupported)
}
