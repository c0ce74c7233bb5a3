//go:build !linux

package main

import (
	"errors"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
)

func main() { control.Fail(errors.New("gev as a peer needs Linux")) }
