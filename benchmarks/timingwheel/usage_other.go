//go:build !linux

package main

import (
	"errors"
	"time"
)

type usageOf struct {
	cpu      time.Duration
	switches int64
}

func usage() (usageOf, error) { return usageOf{}, errors.New("CPU time is measured on Linux only") }

func threadCPU() time.Duration { return 0 }
