package main

import (
	"context"
	"fmt"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

// Memory is the server's resident memory with all connections open less that with
// none, after a first few came and went, so that what every server loads once does
// not count.
var (
	collected = rounds.Figure{Key: "collected_bytes", Name: "memory per connection, collected", Unit: "B"}
	peak      = rounds.Figure{Key: "peak_bytes", Name: "memory per connection, peak without a forced collection", Unit: "B"}
)

// heartbeat has connections beat in their server's windows, once each. What a server
// does for connections that say nothing in between falls outside of them; of ours that
// is a look at each every 13 s, which takes less than a hundredth of a heartbeat.
func heartbeat(name string, conns int) workload {
	return workload{
		name:    name,
		title:   fmt.Sprintf("%d connections that do nothing but beat, once a second each", conns),
		work:    control.Echo,
		figures: []rounds.Figure{rounds.CPU("heartbeat"), collected, peak},
		cycles:  6, slice: time.Second / 2, conns: conns,
		entries: func(_ *tools, found []peers.Peer, smoke bool) []rounds.Entry {
			idle := load.Idle{Conns: conns, Interval: time.Second, Warmup: time.Second, Quiet: true}
			if smoke {
				idle.Conns, idle.Warmup = 20, 0
			}
			return rounds.Entries(found, func(ctx context.Context, at rounds.Site) (rounds.Session, error) {
				return startBeating(ctx, at, idle)
			})
		},
	}
}

// beating is connections that only beat, and their server's memory before them.
type beating struct {
	*load.Session
	server *peers.Running
	conns  int64
	empty  proc.Usage
	looked bool // at its memory with all connections
}

// first makes a server touch what it touches once.
var first = load.Idle{Conns: 64, Interval: time.Second}

func startBeating(ctx context.Context, at rounds.Site, idle load.Idle) (*beating, error) {
	b := &beating{server: at.Server, conns: int64(idle.Conns)}
	cold := at.Target
	cold.Warmup = 0
	s, err := at.Program.Start(ctx, at.CPU, cold, first)
	if err == nil {
		err = s.End()
	}
	if err != nil {
		return nil, fmt.Errorf("first connections: %w", err)
	}
	if _, err := at.Server.WaitOpen(0); err != nil {
		return nil, err
	}
	if b.empty, err = at.Server.Memory(); err != nil {
		return nil, err
	}
	b.Session, err = at.Program.Start(ctx, at.CPU, at.Target, idle)
	return b, err
}

// Window has the server's memory at the end of the first one, while all connections
// are open.
func (b *beating) Window(d time.Duration) (seen rounds.Seen, err error) {
	if seen.Result, err = b.Session.Window(d); err != nil || b.looked {
		return seen, err
	}
	b.looked = true
	loaded, err := b.server.Memory()
	if err != nil {
		return seen, err
	}
	report, err := b.server.Collect()
	if err != nil {
		return seen, err
	}
	if report.Verdicts != 0 || report.Open != b.conns {
		return seen, fmt.Errorf("%d verdicts, %d of %d connections open: all of them are alive", report.Verdicts, report.Open, b.conns)
	}
	after, err := b.server.Memory()
	if err != nil {
		return seen, err
	}
	perConn := func(bytes int64) float64 { return float64(bytes-b.empty.RSS) / float64(b.conns) }
	seen.Figures = map[string]float64{collected.Key: perConn(after.RSS), peak.Key: perConn(loaded.Peak)}
	return seen, nil
}
