package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/cc/cctest"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// TestSmoke: one round of every workload on two servers leaves a raw file, the
// tables, a chart for each, and the table in the page, none of which names this
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
	samples := 0
	for line := range strings.Lines(read("run.jsonl")) {
		var l struct{ Kind, Workload string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		if l.Kind == "sample" {
			samples++
		}
	}
	if samples != 2*len(workloads) {
		t.Errorf("%d samples of 2 servers and %d workloads", samples, len(workloads))
	}
	tables, text := read("run.md"), read("README.md")
	if strings.Contains(text, "old") || !strings.HasPrefix(text, "before\n") || !strings.HasSuffix(text, "after\n") {
		t.Errorf("the page is\n%s", text)
	}
	for _, w := range workloads {
		if !strings.Contains(tables, w.title) || !strings.Contains(text, w.name) {
			t.Errorf("%s is in no table", w.name)
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

// TestPlans: mistakes are found, and a server that cannot do a work is left out.
func TestPlans(t *testing.T) {
	for _, bad := range []config{{}, {rounds: 1, servers: "nobody"}, {rounds: 1, workloads: "nothing"}} {
		if _, err := bad.plans(); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
	plans, err := config{rounds: 1, servers: "cfloor,evio", workloads: "heartbeat,echo-64"}.plans()
	if err != nil || len(plans) != 2 || plans[0].name != "heartbeat" || len(plans[1].Peers) != 2 {
		t.Errorf("plans %+v, %v", plans, err)
	}
}
