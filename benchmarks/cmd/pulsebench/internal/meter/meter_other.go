//go:build !linux

package meter

import (
	"errors"
	"fmt"
)

var errLinux = fmt.Errorf("measuring other processes needs Linux: %w", errors.ErrUnsupported)

// CPUs is the processor time that processes have used, in nanoseconds.
func CPUs([]int) (int64, error) { return 0, errLinux }

// Memories is the memory of several processes together.
func Memories([]int) (Memory, error) { return Memory{}, errLinux }

// Machine is what all processors were busy with; 0, as it cannot be told.
func Machine() int64 { return 0 }

// FileLimit is how many descriptors a process can have here.
func FileLimit() int { return 1 << 30 }
