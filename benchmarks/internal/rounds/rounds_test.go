package rounds_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/cc/cctest"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// Ratios on made-up samples: a machine that is half as fast in every second
// round must not show in one.
func TestPairs(t *testing.T) {
	found, err := peers.Lookup("cfloor,gnet")
	if err != nil {
		t.Fatal(err)
	}
	var samples []rounds.Sample
	for round := range 6 {
		slow := float64(1 + round%2)
		for place, name := range []string{"gnet", "cfloor"} {
			cpu := 1000 * slow
			if name == "gnet" {
				cpu *= 1.25
			}
			samples = append(samples, rounds.Sample{Round: round, Place: place, Server: name, CPU: cpu,
				Result: load.Result{Messages: 4, Reads: 1, Seconds: 1}})
		}
	}
	p := rounds.Plan{Rounds: 6, Peers: found, Seed: 1}
	rows := p.Rows(samples)
	got := rows[1].Ratios[peers.Floor]
	if got.Median != 1.25 || got.Low != 1.25 || got.High != 1.25 || got.N != 6 {
		t.Errorf("gnet × floor = %+v, want 1.25 sharp", got)
	}
	if len(rows[0].Ratios) != 1 {
		t.Errorf("the floor is compared with %v, want gnet alone", rows[0].Ratios)
	}
	if want := "| 1875 |"; !strings.Contains(p.Table("message", rows), want) {
		t.Errorf("the table lacks %s, the median over slow and fast rounds", want)
	}
}

// Every server is measured once in every round, at places that differ.
func TestMeasure(t *testing.T) {
	cctest.Linux(t)
	found, err := peers.Lookup("cfloor,pulsewheel")
	if err != nil {
		t.Fatal(err)
	}
	p := rounds.Plan{Name: "rounds-test", Rounds: 6, Seed: 1, Peers: found, Progress: io.Discard}
	echo := load.Echo{Conns: 2, Depth: 1, Payload: 8, Window: 20 * time.Millisecond}
	samples, _, err := p.Measure(t.Context(), func(ctx context.Context, program load.Program, cpu int, to load.Target) (load.Result, error) {
		return program.Echo(ctx, cpu, to, echo)
	})
	cctest.Check(t, err)
	type turn struct {
		round  int
		server string
	}
	seen := make(map[turn]bool)
	first := make(map[string]bool)
	for _, s := range samples {
		seen[turn{s.Round, s.Server}] = true
		if s.Place == 0 {
			first[s.Server] = true
		}
		if s.CPU <= 0 || s.Conns != echo.Conns {
			t.Errorf("implausible sample %+v", s)
		}
	}
	if len(seen) != p.Rounds*len(found) || len(samples) != len(seen) {
		t.Errorf("%d samples, %d different", len(samples), len(seen))
	}
	if len(first) != len(found) {
		t.Errorf("only %v ever came first in a round", first)
	}
	if _, _, err := (rounds.Plan{Peers: found}).Measure(t.Context(), nil); err == nil {
		t.Error("no round at all is accepted")
	}
}
