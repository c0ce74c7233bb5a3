//go:build !unix

package main

import (
	"errors"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
)

func main() { control.Fail(errors.New("pulsewheel as a peer needs Unix signals")) }
