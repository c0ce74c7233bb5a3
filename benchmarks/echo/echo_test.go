package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/cc/cctest"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/results"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

// driverEnv makes the test binary the driver itself.
const driverEnv = "ECHO_TEST_DRIVER"

func TestMain(m *testing.M) {
	if os.Getenv(driverEnv) != "" {
		main()
		return
	}
	leak.Main(m)
}

func TestSmoke(t *testing.T) {
	cctest.Linux(t)
	found, err := peers.Lookup("")
	if err != nil {
		t.Fatal(err)
	}
	c := config{Plan: rounds.Plan{Name: "echo", Rounds: 2, Cycles: smokeCycles, Slice: smokeSlice, Seed: 1,
		Entries: rounds.Entries(found, rounds.Mode(smokeLoad)), Figures: figures, Progress: io.Discard}, load: smokeLoad}
	samples, shared, err := c.Measure(t.Context())
	cctest.Check(t, err)
	if len(samples) != c.Rounds*len(found) {
		t.Fatalf("%d samples of %d servers in %d rounds", len(samples), len(found), c.Rounds)
	}
	for _, s := range samples {
		if s.Value(figures[0]) <= 0 || s.Seconds < smokeCycles*smokeSlice.Seconds() || s.Conns != smokeLoad.Conns {
			t.Errorf("implausible sample %+v", s)
		}
	}

	r := newReport(c, samples, shared, machine.Gather("benchmarks/echo", flag.NewFlagSet("", flag.ContinueOnError)))
	dir := t.TempDir()
	if err := results.Write(dir, "echo", r.lines(), r.markdown()); err != nil {
		t.Fatal(err)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"echo.jsonl", "echo.md"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range found {
			if !bytes.Contains(text, []byte(p.Name)) {
				t.Errorf("%s lacks %s", name, p.Name)
			}
		}
		for _, path := range []string{wd, os.TempDir() + "/"} {
			if bytes.Contains(text, []byte(path)) {
				t.Errorf("%s names a path of this machine, %s", name, path)
			}
		}
		if name == "echo.jsonl" {
			for line := range bytes.Lines(text) {
				if !json.Valid(line) {
					t.Errorf("no JSON: %s", line)
				}
			}
		}
	}
}

// TestInterrupt: nothing of a measurement is left once its driver was told to stop.
func TestInterrupt(t *testing.T) {
	cctest.Linux(t)
	_, err := load.Build(t.Context(), t.TempDir())
	cctest.Check(t, err)

	tmp := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-servers=cfloor", "-n=1", "-conns=20", "-slice=25s", "-out=none")
	cmd.Env = append(os.Environ(), driverEnv+"=1", "TMPDIR="+tmp)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for len(below(t, tmp)) < 2 { // server and load
		if ctx.Err() != nil {
			t.Fatal("the driver started no server and load")
		}
		time.Sleep(time.Millisecond)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	told := time.Now()
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("the driver ended with %v, want exit status 1", err)
	}
	if took := time.Since(told); took > 10*time.Second {
		t.Errorf("the driver took %v to end", took)
	}
	if left := below(t, tmp); len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// below lists the processes whose program lies in dir.
func below(t *testing.T, dir string) (found []string) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if exe, err := os.Readlink(link); err == nil && strings.HasPrefix(exe, dir) {
			found = append(found, exe)
		}
	}
	return found
}
