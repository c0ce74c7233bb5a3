package main

import (
	"flag"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/cc/cctest"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestSmoke(t *testing.T) {
	cctest.Linux(t)
	found, err := peers.Lookup("")
	if err != nil {
		t.Fatal(err)
	}
	found = slices.DeleteFunc(found, func(p peers.Peer) bool { return strings.Contains(p.Name, "@") }) // the same programs
	c := config{rounds: 1, load: smokeLoad, peers: found, progress: io.Discard}
	samples, shared, err := measure(t.Context(), c)
	cctest.Check(t, err)
	if len(samples) != len(found) {
		t.Fatalf("%d samples of %d servers", len(samples), len(found))
	}
	for _, s := range samples {
		if s.Verdicts != 0 || s.Messages == 0 || s.Collected.RSS <= 0 || s.Goroutines > 16 {
			t.Errorf("implausible sample %+v", s)
		}
	}
	r := report{
		facts:   machine.Gather("benchmarks/idle", flag.NewFlagSet("", flag.ContinueOnError)),
		config:  c,
		shared:  shared,
		samples: samples,
	}
	for _, p := range found {
		if !strings.Contains(r.markdown(), "| "+p.Name+":") {
			t.Errorf("the table lacks %s", p.Name)
		}
	}
}

// BenchmarkIdle reports what the driver does, through package testing: memory
// and goroutines with 15,000 connections that beat every 10 s. One iteration
// takes half a minute; run it with -benchtime=1x.
func BenchmarkIdle(b *testing.B) {
	cctest.Linux(b)
	found, err := peers.Lookup("")
	if err != nil {
		b.Fatal(err)
	}
	idle := load.Idle{Conns: 15000, Interval: 10 * time.Second, Warmup: time.Second, Window: 10 * time.Second}
	for _, p := range found {
		b.Run("server="+p.Name+"/conns="+strconv.Itoa(idle.Conns), func(b *testing.B) {
			c := config{rounds: b.N, load: idle, peers: []peers.Peer{p}, progress: io.Discard}
			samples, _, err := measure(b.Context(), c)
			cctest.Check(b, err)
			s := samples[len(samples)-1]
			b.ReportMetric(s.residentPerConn(), "B/conn")
			b.ReportMetric(s.peakPerConn(), "peak-B/conn")
			b.ReportMetric(float64(s.Goroutines), "goroutines")
			b.ReportMetric(s.CPUPerMessage(), "cpu-ns/heartbeat")
			b.ReportMetric(float64(s.Verdicts), "verdicts")
			b.ReportMetric(0, "ns/op") // the window's length says nothing
		})
	}
}
