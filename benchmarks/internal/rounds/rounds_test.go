package rounds_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
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

var cpu = rounds.CPU("message")

func lookup(t *testing.T, list string, put rounds.Loader) []rounds.Entry {
	t.Helper()
	found, err := peers.Lookup(list)
	if err != nil {
		t.Fatal(err)
	}
	return rounds.Entries(found, put)
}

// Ratios on made-up samples: a machine that is half as fast in every second
// round, and in every second cycle, must not show in one.
func TestPairs(t *testing.T) {
	for _, cycles := range []int{0, 4} {
		var samples []rounds.Sample
		for round := range 6 {
			for place, name := range []string{"gnet", "cfloor"} {
				cost := func(cycle int) float64 {
					c := 1000 * float64(1+round%2) * float64(1+cycle%2)
					if name == "gnet" {
						c *= 1.25
					}
					return c
				}
				v := rounds.Values{Value: cost(0)}
				for cycle := range cycles {
					v.Cycles = append(v.Cycles, cost(cycle))
				}
				samples = append(samples, rounds.Sample{Round: round, Place: place, Server: name,
					Figures: map[string]rounds.Values{cpu.Key: v}, Result: load.Result{Messages: 4, Reads: 1, Seconds: 1}})
			}
		}
		p := rounds.Plan{Rounds: 6, Entries: lookup(t, "cfloor,gnet", nil), Seed: 1}
		rows := p.Rows(samples, cpu)
		got := rows[1].Ratios[peers.Floor]
		if got.Median != 1.25 || got.Low != 1.25 || got.High != 1.25 || got.N != 6 {
			t.Errorf("gnet × floor = %+v, want 1.25 sharp", got)
		}
		if len(rows[0].Ratios) != 1 {
			t.Errorf("the floor is compared with %v, want gnet alone", rows[0].Ratios)
		}
		if want := "| 1875 |"; !strings.Contains(p.Table(cpu, rows), want) {
			t.Errorf("the table lacks %s, the median over slow and fast rounds", want)
		}
	}
}

// A figure that a sample does not have leaves a dash and a line of JSON.
func TestMissing(t *testing.T) {
	p := rounds.Plan{Rounds: 1, Entries: lookup(t, "cfloor,gnet", nil), Seed: 1, Against: []string{"gnet", "nobody"}}
	rows := p.Rows([]rounds.Sample{{Server: "cfloor"}, {Server: "gnet"}}, cpu)
	if rows[0].Ratios["gnet"].N != 0 || rows[0].Value.N != 0 || len(p.References()) != 1 {
		t.Errorf("rows %+v", rows)
	}
	if _, err := json.Marshal(rows); err != nil {
		t.Error(err)
	}
	if got := (rounds.Sample{}).Value(cpu); !math.IsNaN(got) {
		t.Errorf("value %v", got)
	}
}

// A window in which a server was not let run says nothing about it.
func TestStalled(t *testing.T) {
	sample := func(cycles ...float64) rounds.Sample {
		return rounds.Sample{Figures: map[string]rounds.Values{cpu.Key: {Value: 1, Cycles: cycles}}}
	}
	if got := sample(2, 2, 0, 9).Ratio(sample(1, 1, 1, 0), cpu); got != 2 {
		t.Errorf("ratio %v, want 2", got)
	}
	if got := sample(0).Ratio(sample(1), cpu); !math.IsNaN(got) {
		t.Errorf("ratio %v of nothing", got)
	}
}

// Every server is measured once in every round, at places that differ.
func TestMeasure(t *testing.T) {
	cctest.Linux(t)
	echo := load.Echo{Conns: 2, Depth: 1, Payload: 8}
	for _, order := range []rounds.Order{rounds.Alternating, rounds.Abreast} {
		p := rounds.Plan{Name: "rounds-test", Rounds: 4, Cycles: 3, Slice: 10 * time.Millisecond, Order: order, Seed: 1,
			Entries: lookup(t, "cfloor,pulsewheel,pulsewheel+loops=2", rounds.Mode(echo)), Figures: []rounds.Figure{cpu}, Progress: io.Discard}
		samples, _, err := p.Measure(t.Context())
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
			cycles := s.Figures[cpu.Key].Cycles
			if s.Value(cpu) <= 0 || s.Conns != echo.Conns || len(cycles) != p.Cycles {
				t.Errorf("implausible sample %+v", s)
			}
			if want := float64(len(cycles)) * p.Slice.Seconds(); s.Seconds < want {
				t.Errorf("order %v: windows of %.3f s, want at least %.3f", order, s.Seconds, want)
			}
		}
		if len(seen) != p.Rounds*len(p.Entries) || len(samples) != len(seen) {
			t.Errorf("order %v: %d samples, %d different", order, len(samples), len(seen))
		}
		if len(first) < 2 {
			t.Errorf("order %v: only %v ever came first in a round", order, first)
		}
	}
}

// Plans that cannot be are refused.
func TestRefused(t *testing.T) {
	good := rounds.Plan{Rounds: 1, Cycles: 1, Slice: time.Millisecond, Figures: []rounds.Figure{cpu}, Progress: io.Discard}
	for _, spoil := range []func(*rounds.Plan){
		func(p *rounds.Plan) { p.Rounds = 0 },
		func(p *rounds.Plan) { p.Cycles = 0 },
		func(p *rounds.Plan) { p.Slice = 0 },
		func(p *rounds.Plan) { p.Figures = nil },
		func(p *rounds.Plan) { p.Entries = lookup(t, "cfloor,cfloor", nil) },
		func(p *rounds.Plan) { p.Entries = oneProcess(lookup(t, "cfloor,gnet", nil)) },
		func(p *rounds.Plan) {
			p.Entries, p.Order = oneProcess(lookup(t, "cfloor,cfloor", nil)), rounds.Abreast
			p.Entries[1].Name = "again"
		},
	} {
		p := good
		spoil(&p)
		if _, _, err := p.Measure(t.Context()); err == nil {
			t.Errorf("%+v is accepted", p)
		}
	}
}

func oneProcess(entries []rounds.Entry) []rounds.Entry {
	for i := range entries {
		entries[i].Process = "one"
	}
	return entries
}

// Entries that share a process load the same one, a new one in each round, which
// ends after all their loads have, whatever becomes of these.
func TestOneProcess(t *testing.T) {
	cctest.Linux(t)
	cause := errors.New("cause")
	for _, broken := range []error{nil, cause} {
		pids := make(map[int]int)
		p := rounds.Plan{Name: "rounds-test", Rounds: 2, Cycles: 2, Slice: 10 * time.Millisecond, Seed: 1,
			Entries: oneProcess(lookup(t, "cfloor,cfloor,cfloor", nil)), Figures: []rounds.Figure{cpu}, Progress: io.Discard}
		put := rounds.Mode(load.Echo{Conns: 2, Depth: 1, Payload: 8})
		for i := range p.Entries {
			p.Entries[i].Name = string(rune('a' + i))
			p.Entries[i].Load = func(ctx context.Context, at rounds.Site) (rounds.Session, error) {
				pids[at.Target.PID]++
				if broken != nil && pids[at.Target.PID] == 2 {
					return nil, broken
				}
				return put(ctx, at)
			}
		}
		samples, _, err := p.Measure(t.Context())
		if broken == nil {
			cctest.Check(t, err)
			if len(samples) != 6 || len(pids) != 2 {
				t.Errorf("%d samples of processes %v, want 6 of 2", len(samples), pids)
			}
			continue
		}
		if !errors.Is(err, broken) {
			t.Errorf("a load that cannot be put on a process that has one: %v", err)
		}
	}
}

// failing is a load whose window, or end, fails.
type failing struct {
	rounds.Session
	window, end error
}

func (f failing) Window(d time.Duration) (rounds.Seen, error) {
	seen, err := f.Session.Window(d)
	return seen, errors.Join(err, f.window)
}

func (f failing) End() error { return errors.Join(f.Session.End(), f.end) }

// What goes wrong on one server ends everything, and says whose it was.
func TestFailure(t *testing.T) {
	cctest.Linux(t)
	cause := errors.New("cause")
	for _, order := range []rounds.Order{rounds.Alternating, rounds.Abreast} {
		for _, f := range []failing{{window: cause}, {end: cause}} {
			p := rounds.Plan{Name: "rounds-test", Rounds: 1, Cycles: 2, Slice: 5 * time.Millisecond, Order: order, Seed: 1,
				Entries: lookup(t, "cfloor,cfloor+idle=9s", rounds.Mode(load.Echo{Conns: 2, Depth: 1, Payload: 8})),
				Figures: []rounds.Figure{cpu}, Progress: io.Discard}
			put := p.Entries[1].Load
			p.Entries[1].Load = func(ctx context.Context, at rounds.Site) (rounds.Session, error) {
				s, err := put(ctx, at)
				return failing{s, f.window, f.end}, err
			}
			_, _, err := p.Measure(t.Context())
			if !errors.Is(err, cause) {
				cctest.Check(t, err)
			}
			if !errors.Is(err, cause) || !strings.Contains(err.Error(), "cfloor+idle=9s: ") {
				t.Errorf("order %v: %v", order, err)
			}
		}
	}
}
