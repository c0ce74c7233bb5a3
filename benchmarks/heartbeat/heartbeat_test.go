package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/cc/cctest"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// Both parts in small: every server answers, every silent connection is found
// and no other, and the report shows them.
func TestSmoke(t *testing.T) {
	cctest.Linux(t)
	found, err := peers.Lookup("")
	if err != nil {
		t.Fatal(err)
	}
	found = slices.DeleteFunc(found, func(p peers.Peer) bool { return strings.Contains(p.Name, "@") }) // the same programs
	c := config{Plan: rounds.Plan{Name: "heartbeat", Rounds: 1, Cycles: 1, Slice: smokeSlice, Seed: 1, Figures: figures,
		Entries: rounds.Entries(found, rounds.Mode(smokeLoad)), Progress: io.Discard}, load: smokeLoad, tracking: smokeTracking}
	r := report{config: c, facts: machine.Gather("benchmarks/heartbeat", flag.NewFlagSet("", flag.ContinueOnError))}
	r.samples, r.shared, err = c.Measure(t.Context())
	cctest.Check(t, err)
	if r.tracked, err = trackAll(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	r.rows = c.Rows(r.samples, figures[0])
	if len(r.samples) != len(found) {
		t.Fatalf("%d samples of %d servers", len(r.samples), len(found))
	}
	for _, s := range r.samples {
		if s.Value(figures[0]) <= 0 || s.Messages == 0 || s.Conns != smokeLoad.Conns {
			t.Errorf("implausible sample %+v", s)
		}
	}
	text := r.markdown()
	for _, p := range found {
		if !strings.Contains(text, "| "+p.Name+":") {
			t.Errorf("the table lacks %s", p.Name)
		}
	}
	if !strings.Contains(text, "to the floor:") || !strings.Contains(text, "| 2000 | 1m0s |") {
		t.Errorf("the report is\n%s", text)
	}
	for _, line := range r.lines() {
		if _, err := json.Marshal(line); err != nil {
			t.Error(err)
		}
	}
}

// The simulation tracks: who falls silent is found within a tick of the
// deadline, nobody else is given up, and nothing is allocated meanwhile. Both
// where deadlines are spread and where they come together.
func TestTracking(t *testing.T) {
	for _, opened := range []time.Duration{patience, time.Second} {
		got, err := track(t.Context(), smokeTracking, opened, 1)
		if err != nil {
			t.Fatal(err)
		}
		if got.Found != smokeTracking.Silent || got.Wrong != 0 || got.Late < 0 || got.Late > tick {
			t.Errorf("opened within %v: %d of %d silent ones found, the last %v late; %d wrong", opened, got.Found, smokeTracking.Silent, got.Late, got.Wrong)
		}
		// Each connection's timer fires about once a deadline.
		rounds := got.Window.Seconds() / patience.Seconds()
		if least, most := 0.9*rounds*float64(got.Conns), 1.5*rounds*float64(got.Conns); float64(got.Fired) < least || float64(got.Fired) > most {
			t.Errorf("opened within %v: %d timers fired, want %.0f to %.0f", opened, got.Fired, least, most)
		}
		reads := got.Window.Seconds() / traffic.Seconds() * float64(got.Conns)
		if least := 0.95 * reads; float64(got.Reads) < least || float64(got.Reads) > reads {
			t.Errorf("opened within %v: %d reads, want %.0f to %.0f", opened, got.Reads, least, reads)
		}
		if got.Calls == 0 || got.Longest <= 0 || got.CPU <= 0 || got.Busiest < got.CPU {
			t.Errorf("opened within %v: implausible cost %+v", opened, got)
		}
		if perFire := float64(got.Mallocs) / float64(got.Fired); perFire > 0.01 {
			t.Errorf("opened within %v: %d allocations in the window", opened, got.Mallocs)
		}
	}
}

// A run that was told to stop stops.
func TestTrackingInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := track(ctx, smokeTracking, time.Second, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("track = %v", err)
	}
}

// The words for a ratio are those that its interval deserves.
func TestVerdict(t *testing.T) {
	for want, s := range map[string]stats.Summary{
		"and the whole interval is":                           {Median: 1.1, Low: 1, High: 1.15},
		"and the whole interval is above":                     {Median: 1.3, Low: 1.16, High: 1.4},
		"and the median is, but not the whole interval":       {Median: 1.1, Low: 1, High: 1.2},
		"and the median is above, but not the whole interval": {Median: 1.16, Low: 1, High: 1.2},
	} {
		if got := verdict(s); got != want {
			t.Errorf("%v: %q, want %q", s, got, want)
		}
	}
}

// BenchmarkHeartbeat reports what the driver does, through package testing: CPU
// per heartbeat with 15,000 connections, one a second each. One iteration takes
// seconds; run it with -benchtime=1x.
func BenchmarkHeartbeat(b *testing.B) {
	cctest.Linux(b)
	found, err := peers.Lookup("")
	if err != nil {
		b.Fatal(err)
	}
	beat := load.Idle{Conns: 15000, Interval: time.Second, Warmup: time.Second, Quiet: true}
	for _, p := range found {
		b.Run("server="+p.Name+"/conns="+strconv.Itoa(beat.Conns), func(b *testing.B) {
			c := rounds.Plan{Name: "heartbeat", Rounds: b.N, Cycles: 1, Slice: 2 * time.Second, Figures: figures,
				Entries: rounds.Entries([]peers.Peer{p}, rounds.Mode(beat)), Progress: io.Discard}
			samples, _, err := c.Measure(b.Context())
			cctest.Check(b, err)
			b.ReportMetric(c.Rows(samples, figures[0])[0].Value.Median, "cpu-ns/heartbeat")
			b.ReportMetric(0, "ns/op") // the window's length says nothing
		})
	}
}

// BenchmarkTracking reports what tracking a million connections takes.
func BenchmarkTracking(b *testing.B) {
	for b.Loop() {
		t, err := track(b.Context(), fullTracking, patience, 1)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(ms(t.perSecond()), "cpu-ms/s")
		b.ReportMetric(ms(t.CPU), "timers-cpu-ms/s")
		b.ReportMetric(ms(t.Longest), "longest-call-ms")
		b.ReportMetric(0, "ns/op")
	}
}
