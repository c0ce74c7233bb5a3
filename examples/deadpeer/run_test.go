//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// program is a run of this program as a process.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout bytes.Buffer
	stderr *os.File // ends when the process and all of its children are gone
	lines  *bufio.Scanner
	said   strings.Builder
}

func launch(t *testing.T, args ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command(os.Args[0], args...)}
	stderr, inherited, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	p.stderr, p.lines = stderr, bufio.NewScanner(stderr)
	p.cmd.Env = append(os.Environ(), mainVar+"=1")
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, inherited
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
			_ = p.cmd.Wait()
		}
		stderr.Close()
	})
	return p
}

// reaches reads progress up to a phase.
func (p *program) reaches(phase string) {
	p.t.Helper()
	_ = p.stderr.SetReadDeadline(time.Now().Add(30 * time.Second))
	for p.lines.Scan() {
		p.said.WriteString(p.lines.Text() + "\n")
		if strings.Contains(p.lines.Text(), phase) {
			return
		}
	}
	p.t.Fatalf("never got to %q (%v):\n%s", phase, p.lines.Err(), p.said.String())
}

// ends waits for the end of the process and of all its children.
func (p *program) ends(limit time.Duration, status int) {
	p.t.Helper()
	began := time.Now()
	_ = p.stderr.SetReadDeadline(began.Add(limit))
	for p.lines.Scan() {
		p.said.WriteString(p.lines.Text() + "\n")
	}
	if err := p.lines.Err(); err != nil {
		p.t.Errorf("something still runs after %v: %v", limit, err)
		return
	}
	_ = p.cmd.Wait()
	if got := p.cmd.ProcessState.ExitCode(); got != status {
		p.t.Errorf("exit status %d (%v), want %d\n%s\n%s", got, p.cmd.ProcessState, status, p.said.String(), &p.stdout)
	}
}

func TestRun(t *testing.T) {
	p := launch(t, "-n", "140", "-preset", "strict", "-json")
	p.ends(2*time.Minute, 0)
	if said := p.said.String(); strings.Contains(said, "DATA RACE") {
		t.Error(said)
	}

	var r report
	in := json.NewDecoder(&p.stdout)
	if err := in.Decode(&r); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(io.MultiReader(in.Buffered(), &p.stdout)); strings.TrimSpace(string(rest)) != "" {
		t.Errorf("after the object: %q", rest)
	}
	if !r.OK || r.FalseVerdicts != 0 || r.Clients != 140 || r.Preset != "strict" || r.Took == 0 {
		t.Errorf("%+v", r)
	}
	worst := heartbeat.Strict().WorstCase()
	if r.Promise.WorstCase != millis(worst) || r.Promise.Tick != millis(heartbeat.Tick) || r.Promise.Lag <= 0 {
		t.Errorf("promise: %+v", r.Promise)
	}
	want := ways
	if said := p.said.String(); !strings.Contains(said, "no network is broken") {
		want = append(slices.Clone(ways), farWays...)
	}
	healthy := 140 - 7*len(want)
	if r.Healthy != (control{Planned: healthy, Connected: healthy, Talking: healthy, OK: true}) {
		t.Errorf("healthy: %+v", r.Healthy)
	}
	if len(r.Ways) != len(want) {
		t.Fatalf("%d ways, want %d", len(r.Ways), len(want))
	}
	for i, row := range r.Ways {
		verdicts := 0
		for reason, n := range row.Verdicts {
			verdicts += n
			if !want[i].right(reason) {
				t.Errorf("%s: verdict %s", row.Way, reason)
			}
		}
		if row.Way != want[i] || !row.OK || row.Planned != 7 || row.Vanished != 7 || verdicts != 7 {
			t.Errorf("%+v", row)
		}
		if row.P50 <= 0 || row.Max < row.P50 || row.Promised < row.Max || row.Promised < millis(worst+heartbeat.Tick) {
			t.Errorf("%s: p50 %v, max %v, promised %v", row.Way, row.P50, row.Max, row.Promised)
		}
		// The quick ways show that it was the fault which was found.
		if quick := row.Way == fin || row.Way == rst || row.Way == killed; quick != (row.P50 < millis(worst/4)) {
			t.Errorf("%s: p50 is %v", row.Way, row.P50)
		}
	}
}

// TestInterrupt presses Ctrl-C while peers are dead, stopped and hung.
func TestInterrupt(t *testing.T) {
	p := launch(t, "-n", "60", "-preset", "realtime")
	p.reaches("waiting")
	_ = p.cmd.Process.Signal(syscall.SIGINT)
	p.ends(5*time.Second, interrupted)
	if p.stdout.Len() > 0 {
		t.Errorf("it printed %q", &p.stdout)
	}
}

// TestInterruptEarly does so while clients connect.
func TestInterruptEarly(t *testing.T) {
	p := launch(t, "-n", "2000")
	p.reaches("connecting")
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	p.ends(5*time.Second, interrupted)
}

// TestKilled ends the program without giving it a chance to clean up.
func TestKilled(t *testing.T) {
	t.Cleanup(func() { // the next one cleans up
		if n, err := openNetwork(); err == nil {
			if err := n.close(); err != nil {
				t.Error(err)
			}
		}
	})
	p := launch(t, "-n", "60", "-preset", "realtime")
	p.reaches("waiting")
	_ = p.cmd.Process.Kill()
	p.ends(5*time.Second, -1)
}
