package main

import (
	"context"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
)

type config struct {
	rounds.Plan
	load load.Echo
}

// measure runs all rounds. Shared says that server and load had to share a
// processor.
func measure(ctx context.Context, c config) (samples []rounds.Sample, shared bool, err error) {
	return c.Measure(ctx, func(ctx context.Context, program load.Program, cpu int, t load.Target) (load.Result, error) {
		return program.Echo(ctx, cpu, t, c.load)
	})
}
