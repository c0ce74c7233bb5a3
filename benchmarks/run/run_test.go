package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/cc/cctest"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// TestSmoke: one round of every workload on two servers leaves a raw file, the
// tables, charts for each, and the table in the page, none of which names this
// machine's folders.
func TestSmoke(t *testing.T) {
	cctest.Linux(t)
	dir := t.TempDir()
	page := filepath.Join(dir, "README.md")
	if err := os.WriteFile(page, []byte("before\n"+tableBegin+"old\n"+tableEnd+"after\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := config{rounds: 1, servers: "cfloor,pulsewheel", seed: 1, smoke: true, progress: io.Discard}
	cctest.Check(t, run(t.Context(), c, dir, page))

	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), dir) {
			t.Errorf("%s names a folder of this machine", name)
		}
		return string(text)
	}
	samples := make(map[string]int)
	for line := range strings.Lines(read("run.jsonl")) {
		var l struct{ Kind, Workload string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		if l.Kind == "sample" {
			samples[l.Workload]++
		}
	}
	for _, w := range workloads {
		if want := map[string]int{"growth": 8, "deadpeer": 2}; samples[w.name] != max(2, want[w.name]) {
			t.Errorf("%s has %d samples", w.name, samples[w.name])
		}
	}
	tables, text := read("run.md"), read("README.md")
	if strings.Contains(text, "old") || !strings.HasPrefix(text, "before\n") || !strings.HasSuffix(text, "after\n") {
		t.Errorf("the page is\n%s", text)
	}
	for _, w := range workloads {
		if !strings.Contains(tables, w.title) || strings.Contains(text, w.name) == w.own {
			t.Errorf("%s is in no table, or in the wrong one", w.name)
		}
		if _, err := png.Decode(strings.NewReader(read("run-" + w.name + ".png"))); err != nil {
			t.Errorf("the chart of %s: %v", w.name, err)
		}
		decoder := xml.NewDecoder(strings.NewReader(read("run-" + w.name + ".svg")))
		for {
			if _, err := decoder.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("the chart of %s: %v", w.name, err)
			}
		}
	}
}

// cancelAfter is progress that ends the run once something was measured.
type cancelAfter struct {
	word   string
	cancel context.CancelFunc
}

func (c cancelAfter) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(c.word)) {
		c.cancel()
	}
	return len(p), nil
}

// TestInterrupted: what was measured until an interrupt is written, says so, and
// leaves the page alone.
func TestInterrupted(t *testing.T) {
	cctest.Linux(t)
	dir := t.TempDir()
	page := filepath.Join(dir, "README.md")
	old := "before\n" + tableBegin + "old\n" + tableEnd
	if err := os.WriteFile(page, []byte(old), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := config{rounds: 9, servers: "cfloor", workloads: "echo-64", seed: 1, smoke: true, progress: cancelAfter{" took ", cancel}}
	if err := run(ctx, c, dir, page); !errors.Is(err, context.Canceled) {
		t.Fatalf("run ends with %v", err)
	}
	tables, err := os.ReadFile(filepath.Join(dir, "run.md"))
	if err != nil || !bytes.Contains(tables, []byte("ended before its time")) {
		t.Errorf("%v, the tables are\n%s", err, tables)
	}
	if text, err := os.ReadFile(page); err != nil || string(text) != old {
		t.Errorf("%v, the page is\n%s", err, text)
	}
}

// TestMarks: a page whose table cannot be found is refused before anything is
// measured.
func TestMarks(t *testing.T) {
	for _, bad := range []string{"", tableBegin, tableEnd + tableBegin, tableBegin + tableEnd + tableBegin + tableEnd} {
		if _, err := replaceTable([]byte(bad), "new"); !errors.Is(err, errMarks) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	got, err := replaceTable([]byte("a\n"+tableBegin+tableEnd+"z\n"), "new\n")
	if err != nil || string(got) != "a\n"+tableBegin+"new\n"+tableEnd+"z\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestPlans: mistakes are found, and a server that cannot do a work is left out,
// as is a workload that has none.
func TestPlans(t *testing.T) {
	for _, bad := range []config{{}, {rounds: 1, servers: "nobody"}, {rounds: 1, workloads: "nothing"}, {rounds: 1, servers: "evio", workloads: "room"}} {
		if _, err := bad.plans(new(tools)); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
	plans, err := config{rounds: 1, servers: "cfloor,evio", workloads: "heartbeat,echo-64"}.plans(new(tools))
	if err != nil || len(plans) != 2 || plans[0].name != "heartbeat" || len(plans[1].Entries) != 2 {
		t.Errorf("plans %+v, %v", plans, err)
	}
	plans, err = config{rounds: 1, servers: "cfloor,evio"}.plans(new(tools))
	if err != nil || len(plans) != len(workloads)-1 { // scaling
		t.Errorf("%d plans, %v", len(plans), err)
	}
	for _, m := range plans {
		if m.name == "room" && len(m.Entries) != 1 {
			t.Errorf("rooms on %d servers", len(m.Entries))
		}
	}
}

// TestEstimate: the whole run takes an hour at most.
func TestEstimate(t *testing.T) {
	plans, err := config{rounds: 15}.plans(new(tools))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range plans {
		t.Logf("%s: %d entries, %v a round", m.name, len(m.Entries), m.perRound())
	}
	if got := estimate(plans); got > time.Hour || got < 20*time.Minute {
		t.Errorf("estimate %v", got)
	}
}

// made is a workload of which three servers have made-up samples.
func made(figure rounds.Figure, floor, peer, mine float64, rest ...string) *measured {
	m := &measured{workload: workload{name: "made"}, Plan: rounds.Plan{Rounds: 6, Seed: 1, Figures: []rounds.Figure{figure, p50, rounds.CPU("x")}}}
	for round := range 6 {
		for name, v := range map[string]float64{"cfloor": floor, "gnet": peer, "pulsewheel": mine} {
			m.samples = append(m.samples, rounds.Sample{Round: round, Server: name, Figures: map[string]rounds.Values{figure.Key: {Value: v * float64(1+round)}}})
		}
	}
	for _, name := range append([]string{"cfloor", "gnet", "pulsewheel"}, rest...) {
		m.Entries = append(m.Entries, rounds.Entry{Name: name})
	}
	return m
}

// TestTargets: each kind of target is judged as its words say.
func TestTargets(t *testing.T) {
	cpu := rounds.CPU("message")
	for _, c := range []struct {
		name  string
		judge func(*measured) judgement
		m     *measured
		want  string
	}{
		{"at most", atMost("cfloor", 1.1), made(cpu, 100, 1, 110), holds},
		{"above", atMost("cfloor", 1.1), made(cpu, 100, 1, 111), misses},
		{"nothing to compare with", atMost("nbio", 1.1), made(cpu, 100, 1, 111), unknown},
		{"below", belowEvery, made(cpu, 1, 100, 99, "not measured"), holds},
		{"not below", belowEvery, made(cpu, 1, 100, 100), misses},
		{"not above", notAboveBest, made(p99, 1, 100, 100), holds},
		{"above the best", notAboveBest, made(p99, 1, 100, 101), misses},
		{"memory", memory(3000), made(collected, 1, 1, 500), holds},
		{"too much", memory(420), made(collected, 1, 1, 500), misses},
		{"growth without samples", growing(100, 18_000, 1.5), made(cpu, 1, 1, 1), unknown},
	} {
		if j := c.judge(c.m); j.holds != c.want && (c.want != misses || j.holds != unsure) {
			t.Errorf("%s: %+v, want %q", c.name, j, c.want)
		}
	}
	for want, s := range map[string]stats.Summary{
		unknown: {},
		holds:   {Median: 1, Low: 0.9, High: 1.1, N: 1},
		narrow:  {Median: 1, Low: 0.9, High: 1.2, N: 1},
		misses:  {Median: 1.11, Low: 1, High: 1.2, N: 1},
	} {
		if got := verdict(s, 1.1); got != want {
			t.Errorf("%v: %q, want %q", s, got, want)
		}
	}
	for want, s := range map[string]stats.Summary{
		unknown: {},
		holds:   {Median: 0.9, Low: 0.8, High: 0.99, N: 1},
		unsure:  {Median: 0.9, Low: 0.8, High: 1, N: 1},
		misses:  {Median: 1, Low: 0.9, High: 1.2, N: 1},
	} {
		if got := below(s); got != want {
			t.Errorf("%v: %q, want %q", s, got, want)
		}
	}
	for _, target := range targets {
		if !slices.ContainsFunc(workloads, func(w workload) bool { return w.name == target.workload }) {
			t.Errorf("no workload %s", target.workload)
		}
	}
}

// TestOutcome: what pulsebench's documented JSON says of peers that died comes
// into the table, and what it refuses is an error.
func TestOutcome(t *testing.T) {
	var o outcome
	text := `{"seconds": 2, "saturated": true, "client": {"cpu_share": [0.9]}, "server": {"cpus": 0.5}, "dead_peer": {"false_verdicts": 1, "skipped": ["cut: not root"],
		"ways": [{"way": "silent", "vanished": 10, "found": 10, "p50_s": 9.1, "p99_s": 9.9, "max_s": 10}, {"way": "deaf", "vanished": 4, "found": 0}]}}`
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	seen, err := o.detections("deadpeer", 20)
	if err != nil {
		t.Fatal(err)
	}
	if seen.LoadCPU != 1.8e9 || seen.ServerCPU != 1e9 || len(seen.Notes) != 2 || seen.Notes[0] != saturated {
		t.Errorf("seen %+v", seen)
	}
	m := &measured{workload: workload{name: "deadpeer"}, Plan: rounds.Plan{Rounds: 1, Entries: []rounds.Entry{{Name: "pulsewheel-strict"}}}}
	s := rounds.Sample{Server: "pulsewheel-strict", Figures: make(map[string]rounds.Values)}
	for key, v := range seen.Figures {
		s.Figures[key] = rounds.Values{Value: v}
	}
	m.samples = []rounds.Sample{s}
	if want := "| 9.10 / 9.90 / 10.00 |  |  | 100 % not found | 1 |"; !strings.Contains(deadPeerTable(m), want) {
		t.Errorf("the table lacks %q:\n%s", want, deadPeerTable(m))
	}
	if j := detection(m); j.holds != misses {
		t.Errorf("a false verdict is judged %+v", j)
	}
	if _, err := (outcome{Problems: []string{"nothing"}}).detections("deadpeer", 20); err == nil {
		t.Error("a run without dead peers has a result")
	}
}
