//go:build !linux || !(amd64 || arm64)

package main

import (
	"errors"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
)

func main() { control.Fail(errors.New("netpoll as a peer needs Linux on amd64 or arm64")) }
