//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

// The children of the tests' driver are this binary.
func TestMain(m *testing.M) {
	if childMain() {
		os.Exit(0)
	}
	leak.Main(m)
}

// A server that was stopped for 30 s, and then for a second in every two, ends
// none of its 5,000 live peers and all that died meanwhile, in time; so does a
// client. Without the guard both end peers that live.
func TestStall(t *testing.T) {
	s := fullCases()[1]
	s.Cycles, s.Slack = 5, 5*time.Second
	few := 500 // peers of those without the guard: one false verdict is enough
	if testing.Short() || raceEnabled {
		s.Peers, s.Doomed, s.Long, s.Cycles, s.Slack = 100, 10, 12*time.Second, 2, 10*time.Second
		few = 50
	}
	small := s
	small.Peers, small.Doomed = few, 10
	var rigs []*rig
	for _, side := range sides {
		rigs = append(rigs,
			&rig{finding: &finding{scenario: &s, Side: side, Guarded: true}, progress: io.Discard},
			&rig{finding: &finding{scenario: &small, Side: side}, progress: io.Discard})
	}
	var found []*finding
	if err := together(t.Context(), rigs); err != nil {
		t.Fatal(err)
	}
	for _, r := range rigs {
		r.finding.judge()
		found = append(found, r.finding)
	}
	for _, problem := range broken(found) {
		t.Error(problem)
	}
	for _, f := range found {
		if len(f.invariants) == 0 {
			t.Errorf("%s: nothing was judged", f.title())
		}
	}

	r := report{
		facts:    machine.Gather("benchmarks/stall", flag.NewFlagSet("", flag.ContinueOnError)),
		config:   config{cases: []scenario{s}},
		findings: found,
	}
	if text := r.markdown(); strings.Count(text, "| server |") == 0 || strings.Count(text, "| client |") == 0 {
		t.Errorf("the report is\n%s", text)
	}
	for _, line := range r.lines() {
		if _, err := json.Marshal(line); err != nil {
			t.Errorf("a line of the raw file: %v", err)
		}
	}
}

// Time for which a watcher waited for a processor is counted from the last look
// before what is asked for to the first one after it.
func TestStarved(t *testing.T) {
	f := &finding{samples: []sample{{10, 1}, {20, 3}, {30, 3}, {40, 10}}}
	for _, tt := range []struct{ from, to, want int64 }{
		{10, 20, 2}, {15, 16, 2}, {5, 45, 10}, {20, 30, 0}, {25, 35, 7}, {45, 50, 0}, {0, 5, 1},
	} {
		if got := f.starved(tt.from, tt.to); int64(got) != tt.want {
			t.Errorf("between %d and %d: %d, want %d", tt.from, tt.to, got, tt.want)
		}
	}
	if waited(os.Getpid()) < 0 {
		t.Error("this process has waited for less than no time")
	}
}

// What nobody did, judged: each forged mistake is noticed, and an honest finding
// is not.
func TestJudgeNotices(t *testing.T) {
	s := fullCases()[1]
	s.Peers, s.Doomed = 100, 10
	const second = int64(time.Second)
	honest := func() *finding {
		doomed := func(name string, last int64) groupReport {
			return groupReport{Name: name, Opened: 10, Closed: 10, First: last - second, Last: last,
				Reasons: map[string]int{"HeartbeatLost": 10}, Diagnoses: map[string]int{"application hung": 10}}
		}
		f := &finding{scenario: &s, Side: "server", Guarded: true, stops: []span{{100 * second, 130 * second}, {131 * second, 132 * second}}}
		f.died = [numOfGroups]int64{dieInLong: 115 * second, dieInShort: 131*second + second/2}
		groups := []groupReport{{Name: "live", Opened: 100}, doomed("long", 139*second), doomed("short", 141*second)}
		f.AfterLong = partyReport{Groups: []groupReport{{}, {}, {}}, Stalled: []time.Duration{29 * time.Second}, StallExcess: []time.Duration{0}}
		f.AfterShort = f.AfterLong
		f.End = partyReport{Groups: groups, Stalled: []time.Duration{30 * time.Second}, StallExcess: []time.Duration{0}}
		for range 10 {
			f.Awake = append(f.Awake, moment{For: pace, Pings: 40})
		}
		f.PeersEnd = partyReport{Groups: []groupReport{{Name: "live", Opened: 100}}}
		return f
	}
	for name, forge := range map[string]func(f *finding){
		"":                               func(*finding) {},
		"no false verdict":               func(f *finding) { f.End.Groups[live].Closed = 1 },
		"the live peers bear it":         func(f *finding) { f.PeersEnd.Groups[0].Closed = 1 },
		"everybody doomed in the long":   func(f *finding) { f.End.Groups[dieInLong].Closed = 9 },
		"short stop is ended in time":    func(f *finding) { f.End.Groups[dieInShort].Last += 5 * second },
		"long stop is ended in time":     func(f *finding) { f.End.Groups[dieInLong].Last += 5 * second },
		"is ended before that":           func(f *finding) { f.End.Groups[dieInLong].First = 114 * second },
		"the reason is a verdict":        func(f *finding) { f.End.Groups[dieInLong].Reasons = map[string]int{"PeerReset": 10} },
		"an application that hangs":      func(f *finding) { f.End.Groups[dieInShort].Diagnoses = map[string]int{"host gone": 10} },
		"has noticed the long stop":      func(f *finding) { f.AfterLong.Stalled[0] = 10 * time.Second },
		"queries stay spread":            func(f *finding) { f.Awake[0].Pings = 1000 },
		"too many to be answered":        func(f *finding) { f.PeersEnd.PingsIgnored = 1 },
		"the guard there are false verd": func(f *finding) { f.Guarded = false },
	} {
		f := honest()
		forge(f)
		f.judge()
		problems := strings.Join(broken([]*finding{f}), "\n")
		if name == "" && problems != "" {
			t.Errorf("an honest finding: %s", problems)
		}
		if !strings.Contains(problems, name) {
			t.Errorf("%q was not noticed: %q", name, problems)
		}
	}
}

// Time for which a watcher was stopped counts as far as it lies within what is
// asked for.
func TestStopped(t *testing.T) {
	f := &finding{stops: []span{{10, 20}, {30, 40}}}
	for _, tt := range []struct{ from, to, want int64 }{
		{0, 10, 0}, {0, 15, 5}, {0, 100, 20}, {12, 18, 6}, {15, 35, 10}, {20, 30, 0}, {40, 50, 0}, {35, 20, 0},
	} {
		if got := f.stopped(tt.from, tt.to); int64(got) != tt.want {
			t.Errorf("between %d and %d: %d, want %d", tt.from, tt.to, got, tt.want)
		}
	}
}

// Cases that would prove nothing are refused, and those that are there are not.
func TestCases(t *testing.T) {
	for _, s := range append(fullCases(), smokeCases()...) {
		if err := s.check(); err != nil {
			t.Error(err)
		}
		if s.Name == backstopName && s.Watch.WorstCase() != fullCases()[0].Watch.WorstCase() {
			t.Errorf("%s has a bound of %v", s.Name, s.Watch.WorstCase())
		}
	}
	impatient := fullCases()[0]
	impatient.Patient = impatient.Watch
	if impatient.check() == nil {
		t.Error("impatient peers are accepted")
	}
	if _, err := choose(fullCases(), "strict,no-such-case"); err == nil {
		t.Error("an unknown case is accepted")
	}
	if got, err := choose(fullCases(), "strict-IdleRead-9s"); err != nil || len(got) != 1 || got[0].Name != backstopName {
		t.Errorf("chosen %v (%v)", got, err)
	}
}

// Nothing is left of a run that was told to stop, even of processes that are
// stopped themselves; the package's TestMain looks for them.
func TestInterrupt(t *testing.T) {
	s := smokeCases()[0]
	s.Peers, s.Doomed, s.Long = 5, 1, 20*time.Second
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stopped := make(chan struct{})
	progress := writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), "stopped for") {
			select {
			case <-stopped:
			default:
				close(stopped)
			}
		}
		return len(p), nil
	})
	go func() {
		<-stopped
		cancel()
	}()
	r := &rig{finding: &finding{scenario: &s, Side: "client", Guarded: true}, progress: progress}
	began := time.Now()
	err := together(ctx, []*rig{r})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted run ended with %v", err)
	}
	if took := time.Since(began); took > s.Long {
		t.Errorf("it took %v to end", took)
	}
	for _, c := range r.all {
		if err := c.Wait(time.Second); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
