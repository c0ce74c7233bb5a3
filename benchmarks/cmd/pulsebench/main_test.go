//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/fleet"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/generator"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/result"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/lack"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

// mainEnv makes the test binary the program itself.
const mainEnv = "PULSEBENCH_TEST_MAIN"

func TestMain(m *testing.M) {
	switch {
	case fleet.IsWorker():
		generator.Main()
	case os.Getenv(mainEnv) != "":
		main()
	default:
		leak.Main(m)
	}
}

// echoServer starts a server that ends with the test, and returns its address.
func echoServer(t *testing.T) string {
	t.Helper()
	srv, err := engine.Listen(engine.Config{
		Listeners: []engine.Listener{{Addr: "tcp://127.0.0.1:0", Codec: codec.Length4(), Liveness: heartbeat.Relaxed()}},
		Limits:    engine.Limits{Loops: 1, DrainTimeout: -1},
		Handler:   engine.Handler{Message: func(c *engine.Conn, payload []byte) { _ = c.Send(payload) }},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return fmt.Sprintf("127.0.0.1:%d", srv.Port(0))
}

// commandLine runs a command line within this process.
func commandLine(t *testing.T, args ...string) (code int, out, progress string) {
	t.Helper()
	var o, p bytes.Buffer
	code = dispatch(t.Context(), args, &o, &p)
	return code, o.String(), p.String()
}

// From a run to a page: what run writes, compare and report read, and nothing in
// it names a path of this machine.
func TestFiles(t *testing.T) {
	addr, dir := echoServer(t), t.TempDir()
	var paths []string
	for _, label := range []string{"left", "right"} {
		path := filepath.Join(dir, label+".json")
		page := filepath.Join(dir, label+".html")
		code, out, progress := commandLine(t, "run", "-addr", addr, "-conns", "8", "-depth", "2", "-duration", "200ms", "-warmup", "20ms",
			"-repeat", "2", "-pause", "1ms", "-workers", "2", "-pid", fmt.Sprint(os.Getpid()), "-label", label, "-force", "-json", path, "-html", page)
		if code != statusOK {
			t.Fatalf("status %d: %s%s", code, out, progress)
		}
		for _, want := range []string{"run 2 of 2", "echoes", "server CPU", "p99.9"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in the summary:\n%s", want, out)
			}
		}
		if !strings.Contains(progress, "measuring: 8 connections") {
			t.Errorf("no progress was shown: %q", progress)
		}
		paths = append(paths, path)
		checkPage(t, page)
	}
	text, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{wd, dir, os.TempDir() + "/"} {
		if bytes.Contains(text, []byte(path)) {
			t.Errorf("the result names a path of this machine, %s", path)
		}
	}
	f, err := result.Read(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Runs) != 2 || f.Label != "left" || f.Plan.Conns != 8 || f.Machine.CPUs == 0 || f.Runs[1].Server == nil {
		t.Errorf("%+v", f)
	}

	code, out, progress := commandLine(t, "compare", paths[0], paths[1])
	if code != statusOK || !strings.Contains(out, "## right beside left") || !strings.Contains(out, "too few runs") {
		t.Errorf("compare: status %d:\n%s%s", code, out, progress)
	}
	both := filepath.Join(dir, "both.html")
	if code, _, progress := commandLine(t, "report", "-o", both, paths[0], paths[1]); code != statusOK {
		t.Fatalf("report: %s", progress)
	}
	checkPage(t, both)
}

// checkPage wants a page that is well-formed, has charts, and loads nothing.
func checkPage(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<script", "http://", "https://", "src=", "NaN", "Inf", "@import"} {
		if bytes.Contains(text, []byte(bad)) {
			t.Errorf("%s contains %q", filepath.Base(path), bad)
		}
	}
	charts := 0
	for rest := string(text); ; {
		from := strings.Index(rest, "<svg")
		if from < 0 {
			break
		}
		to := strings.Index(rest[from:], "</svg>") + from + len("</svg>")
		d := xml.NewDecoder(strings.NewReader(rest[from:to]))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("a chart is not well-formed: %v", err)
			}
		}
		if strings.Contains(rest[from:to], "aria-label") {
			charts++
		}
		rest = rest[to:]
	}
	if charts < 5 {
		t.Errorf("%s has %d charts", filepath.Base(path), charts)
	}
}

// A result that the load generator was the bottleneck of is refused, and kept
// only by force, with a mark.
func TestSaturated(t *testing.T) {
	addr, path := echoServer(t), filepath.Join(t.TempDir(), "r.json")
	args := []string{"run", "-addr", addr, "-conns", "4", "-duration", "200ms", "-warmup", "0s", "-saturated", "0.0001", "-quiet", "-json", path}
	code, _, progress := commandLine(t, args...)
	if code != statusRefused || !strings.Contains(progress, "refused") {
		t.Errorf("status %d: %s", code, progress)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused result was written: %v", err)
	}
	if code, _, progress := commandLine(t, append(args, "-force")...); code != statusOK {
		t.Fatalf("with -force: status %d: %s", code, progress)
	}
	f, err := result.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if !f.Runs[0].Saturated || len(f.Runs[0].Remarks) == 0 {
		t.Errorf("the result bears no mark: %+v", f.Runs[0])
	}
}

// What is wrong with a command line is said by the name of the flag, and nothing
// is run.
func TestFlagErrors(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"run", "-addr is missing"},
		{"run -addr nowhere", "HOST:PORT"},
		{"run -addr 127.0.0.1:1 extra", `unexpected argument "extra"`},
		{"run -addr 127.0.0.1:1 -workload spin", "-workload"},
		{"run -addr 127.0.0.1:1 -protocol smtp", "-protocol"},
		{"run -addr 127.0.0.1:1 -workload open", "-rate"},
		{"run -addr 127.0.0.1:1 -depth 0", "-depth 0"},
		{"run -addr 127.0.0.1:1 -conns 0", "-conns 0"},
		{"run -addr 127.0.0.1:1 -payload 9-1", "-payload"},
		{"run -addr 127.0.0.1:1 -payload 4000000", "-payload"},
		{"run -addr 127.0.0.1:1 -duration 0s", "-duration"},
		{"run -addr 127.0.0.1:1 -pid one", "-pid"},
		{"run -addr 127.0.0.1:1 -sources here", "-sources"},
		{"run -addr 127.0.0.1:1 -rate 5", "-rate means nothing to -workload closed"},
		{"run -addr 127.0.0.1:1 -header 00", "-header describes -protocol custom"},
		{"run -addr 127.0.0.1:1 -protocol custom -heartbeat-frame xyz", "-heartbeat-frame"},
		{"run -addr 127.0.0.1:1 -workload deadpeer -vanish smoke", "-vanish"},
		{"run -addr 127.0.0.1:1 -workload deadpeer -dead 0.001", "nobody"},
		{"run -addr 127.0.0.1:1 -workload broadcast -rate 5 -payload 8", "-payload"},
		{"run -addr 127.0.0.1:1 -workload idle -protocol varint", "-heartbeat"},
		{"run -addr 127.0.0.1:1 -repeat 0", "-repeat"},
		{"run -addr 127.0.0.1:1 -nonsense", "nonsense"},
		{"compare one.json", "two result files"},
		{"report", "a result file"},
		{"calibrate -depth 0", "-depth"},
		{"calibrate -open 101", "-open"},
		{"calibrate -open 0 -depth none", "nothing to measure"},
		{"calibrate -cycles 0", "-cycles"},
		{"calibrate -servers nobody", "nobody"},
		{"dance", `no command "dance"`},
		{"", "usage"},
	} {
		code, out, progress := commandLine(t, strings.Fields(test.args)...)
		if code != statusUsage || !strings.Contains(progress, test.want) || out != "" {
			t.Errorf("pulsebench %s: status %d, want %d and something about %q:\n%s%s", test.args, code, statusUsage, test.want, progress, out)
		}
	}
	for _, args := range []string{"help", "run -h", "compare -h", "calibrate -h"} {
		if code, _, _ := commandLine(t, strings.Fields(args)...); code != statusOK {
			t.Errorf("pulsebench %s: status %d", args, code)
		}
	}
	if code, _, progress := commandLine(t, "run", "-addr", "127.0.0.1:1", "-connect-limit", "1s"); code != statusProblem || !strings.Contains(progress, "refused") {
		t.Errorf("nobody listens: status %d, %s", code, progress)
	}
}

// Files that are no results are refused by name.
func TestReadRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"empty.json": "", "other.json": `{"schema":"something/1","runs":[{}]}`, "none.json": `{"schema":"pulsebench/1"}`,
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, _, progress := commandLine(t, "report", path); code == statusOK || !strings.Contains(progress, name) {
			t.Errorf("%s: status %d, %s", name, code, progress)
		}
	}
}

// An interrupt typed at the terminal ends the run with what there is, and no
// process is left.
func TestInterrupt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "run", "-addr", echoServer(t), "-conns", "4", "-duration", "1m", "-step", "100ms", "-force", "-json", path)
	cmd.Env = append(os.Environ(), mainEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	progress, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	seen := ""
	for !strings.Contains(seen, "measuring") {
		n, err := progress.Read(buf)
		seen += string(buf[:n])
		if err != nil {
			t.Fatalf("it ended after %q: %v", seen, err)
		}
	}
	// As a terminal does: to the whole group.
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(progress)
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v: %s", err, rest)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var f result.File
	if err := json.Unmarshal(text, &f); err != nil {
		t.Fatal(err)
	}
	if len(f.Runs) != 1 || !f.Runs[0].Interrupted || f.Runs[0].Counters.Messages == 0 {
		t.Errorf("%d runs: %+v", len(f.Runs), f.Runs)
	}
	if err := syscall.Kill(-cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("something of it is still running: %v", err)
	}
}

// Workers end with their parent, however it ends.
func TestParentDies(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "run", "-addr", echoServer(t), "-conns", "4", "-workers", "2", "-duration", "1m", "-step", "100ms")
	cmd.Env = append(os.Environ(), mainEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	progress, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for seen := ""; !strings.Contains(seen, "measuring"); {
		n, err := progress.Read(buf)
		seen += string(buf[:n])
		if err != nil {
			t.Fatalf("it ended after %q: %v", seen, err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	group := -cmd.Process.Pid
	for deadline := time.Now().Add(10 * time.Second); !errors.Is(syscall.Kill(group, 0), syscall.ESRCH); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			_ = syscall.Kill(group, syscall.SIGKILL)
			t.Fatal("workers outlived their parent")
		}
	}
}

// Calibration works from one end to the other. What it finds on a busy machine
// in a fifth of a second means nothing.
func TestCalibrateSmoke(t *testing.T) {
	dir := t.TempDir()
	code, out, progress := commandLine(t, "calibrate", "-smoke", "-servers", "cfloor", "-depth", "2", "-seed", "1", "-out", dir)
	if strings.Contains(progress, "no C compiler") {
		lack.Skip(t, progress)
	}
	// One is of what the server can do, from which the open loop's rate follows.
	if code != statusOK || !strings.Contains(out, "| cfloor | open, ") || !strings.Contains(out, "| cfloor | closed, depth 2 |") ||
		strings.Count(progress, "round 1/1") != 5 {
		t.Errorf("status %d:\n%s%s", code, out, progress)
	}
	text, err := os.ReadFile(filepath.Join(dir, "calibrate.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var modes []string
	for line := range bytes.Lines(text) {
		var l struct {
			Kind string
			Data rounds.Sample
		}
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		if l.Kind != "sample" {
			continue
		}
		modes = append(modes, l.Data.Mode)
		if r := l.Data; r.Conns != 20 || strings.Contains(r.Server, "depth 2") != (r.Depth == 2) || r.Payload != 64 || r.Messages == 0 || r.Value(serverCPU) <= 0 || len(r.Figures[serverCPU.Key].Cycles) != 3 {
			t.Errorf("implausible sample %+v", r)
		}
	}
	if slices.Sort(modes); !slices.Equal(modes, []string{"echo", "open", ours, ours}) {
		t.Errorf("samples of %q", modes)
	}
}

// What is near enough is only said of a whole interval.
func TestVerdict(t *testing.T) {
	c := calibration{tolerance: 3}
	for _, test := range []struct {
		low, high float64
		n         int
		want      string
	}{
		{0.98, 1.02, 15, "yes"},
		{1.01, 1.02, 15, "yes"},
		{0.98, 1.04, 15, "not shown"},
		{0.9, 1.1, 15, "not shown"},
		{1.04, 1.05, 15, "**no**"},
		{0.9, 0.96, 15, "**no**"},
		{0, 0, 0, "not shown"},
	} {
		if got := c.judge(stats.Summary{Low: test.low, High: test.high, N: test.n}); got != test.want {
			t.Errorf("[%g, %g] of %d: %s, want %s", test.low, test.high, test.n, got, test.want)
		}
	}
}

// A load that is at its limit is no measure of anything.
func TestLoadLimit(t *testing.T) {
	c := calibration{tolerance: 3}
	for _, busy := range []float64{0.5, 0.9} {
		m := c.closed(peers.Peer{Name: "server"}, 1)
		for round := range 5 {
			for _, name := range []string{inC, ours} {
				s := rounds.Sample{Round: round, Server: m.under(name), Figures: map[string]rounds.Values{}}
				for _, f := range m.plan.Figures {
					s.Figures[f.Key] = rounds.Values{Value: 1}
				}
				s.Seconds, s.Messages, s.LoadCPU = 1, 1, int64(1e9*busy)
				m.samples = append(m.samples, s)
			}
		}
		want := map[bool]string{true: limited, false: agreed}[busy > load.BusyLimit]
		if got := c.verdict(m); got != want {
			t.Errorf("load busy for %g: %s, want %s", busy, got, want)
		}
		if _, agree := c.table([]*matter{m}, false); agree != (want == agreed) {
			t.Errorf("load busy for %g: agree %v", busy, agree)
		}
	}
}
