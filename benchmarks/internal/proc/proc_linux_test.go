package proc_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

const limit = 10 * time.Second

// parentEnv makes the test binary a parent that waits to be killed.
const parentEnv = "PROC_TEST_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(parentEnv) != "" {
		p, err := proc.Start(context.Background(), proc.Command{Argv: []string{"sleep", "60"}, CPU: proc.AnyCPU})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(p.PID())
		_ = p.Wait(time.Minute)
		os.Exit(0)
	}
	leak.Main(m)
}

func shell(t *testing.T, cpu int, script string) *proc.Process {
	t.Helper()
	p, err := proc.Start(t.Context(), proc.Command{Argv: []string{"sh", "-c", script}, Env: []string{"COLOUR=green"}, CPU: cpu})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Who ends a process that has ended learns how it ended, and not that its input is
// closed.
func TestCloseStdinAfterEnd(t *testing.T) {
	p := shell(t, proc.AnyCPU, `exit 7`)
	for range 2 {
		if err := p.Wait(limit); err == nil || !strings.Contains(err.Error(), "exit status 7") {
			t.Errorf("Wait = %v", err)
		}
		if err := p.CloseStdin(); err != nil {
			t.Error(err)
		}
	}
}

func TestLinesAndEnd(t *testing.T) {
	p := shell(t, proc.AnyCPU, `echo $COLOUR; read x; echo "end of input"; echo broken >&2; exit 7`)
	if line, err := p.Line(limit); line != "green" || err != nil {
		t.Fatalf("Line = %q, %v", line, err)
	}
	if err := p.CloseStdin(); err != nil {
		t.Fatal(err)
	}
	if line, err := p.Line(limit); line != "end of input" || err != nil {
		t.Fatalf("Line = %q, %v", line, err)
	}
	_, err := p.Line(limit)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || !strings.Contains(err.Error(), "broken") {
		t.Errorf("after the end Line returned %v, want exit status 7 and what was said about it", err)
	}
	if err := p.Stop(); err == nil {
		t.Error("Stop of a process that had failed returned nil")
	}
}

func TestLineTimesOut(t *testing.T) {
	p := shell(t, proc.AnyCPU, "exec sleep 60")
	if _, err := p.Line(10 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Line = %v", err)
	}
	if err := p.Stop(); err == nil || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("Stop = %v, want an end by SIGTERM", err)
	}
	if !gone(p.PID()) {
		t.Error("the process is still there")
	}
}

func TestContextEndsGroup(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p, err := proc.Start(ctx, proc.Command{Argv: []string{"sh", "-c", "sleep 60 & echo $!; wait"}, CPU: proc.AnyCPU})
	if err != nil {
		t.Fatal(err)
	}
	line, err := p.Line(limit)
	if err != nil {
		t.Fatal(err)
	}
	grandchild, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := p.Wait(limit); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Wait = %v, want an end by SIGKILL", err)
	}
	waitGone(t, grandchild)
}

func TestOwnDeathEndsChild(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), parentEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	waitGone(t, child)
}

// gone reports whether a process is no more, or nothing but an entry that its
// parent has not collected yet.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(limit); !gone(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			_ = unix.Kill(pid, unix.SIGKILL)
			t.Fatalf("process %d outlived its parent", pid)
		}
	}
}

func TestAffinity(t *testing.T) {
	before, err := proc.CPUs()
	if err != nil {
		t.Fatal(err)
	}
	server, load, shared, err := proc.Pair()
	if err != nil || shared != (len(before) == 1) || shared != (server == load) {
		t.Fatalf("Pair = %d, %d, %v, %v of processors %v", server, load, shared, err, before)
	}
	p := shell(t, load, "grep Cpus_allowed_list /proc/self/status")
	line, err := p.Line(limit)
	if err != nil {
		t.Fatal(err)
	}
	if want := "Cpus_allowed_list:\t" + strconv.Itoa(load); line != want {
		t.Errorf("child may run on %q, want %q", line, want)
	}
	if err := p.Wait(limit); err != nil {
		t.Error(err)
	}
	after, err := proc.CPUs()
	if err != nil || len(after) != len(before) {
		t.Errorf("processors of this process were %v, now %v (%v)", before, after, err)
	}
}

func TestMemory(t *testing.T) {
	p := shell(t, proc.AnyCPU, "read x")
	u, err := p.Memory()
	if err != nil {
		t.Fatal(err)
	}
	if u.Anonymous <= 0 || u.RSS < u.Anonymous || u.Peak < u.RSS {
		t.Errorf("implausible memory %+v", u)
	}
	if err := p.CloseStdin(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait(limit) // read fails at the end of input
	if _, err := p.Memory(); err == nil {
		t.Error("an ended process has memory")
	}
}

// A suspended process does nothing, and goes on where it was.
// TestCPUTime: it grows while the process is busy, and belongs to it alone.
func TestCPUTime(t *testing.T) {
	p := shell(t, proc.AnyCPU, `while :; do :; done`)
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		used, err := p.CPUTime()
		if err != nil {
			t.Fatal(err)
		}
		if used > 20*time.Millisecond {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a busy process has used %v", used)
		}
	}
	if err := p.Stop(); err == nil {
		t.Error("a shell that was told to end says that all was well")
	}
	if _, err := p.CPUTime(); err == nil {
		t.Error("a process that ended has a clock")
	}
}

func TestSuspend(t *testing.T) {
	p := shell(t, proc.AnyCPU, "echo ready; read x; echo on")
	if _, err := p.Line(limit); err != nil {
		t.Fatal(err)
	}
	if err := p.Suspend(); err != nil {
		t.Fatal(err)
	}
	if err := p.CloseStdin(); err != nil {
		t.Fatal(err)
	}
	if line, err := p.Line(100 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a suspended process says %q (%v)", line, err)
	}
	if err := p.Continue(); err != nil {
		t.Fatal(err)
	}
	if line, err := p.Line(limit); line != "on" || err != nil {
		t.Errorf("after Continue: %q, %v", line, err)
	}
	if err := p.Wait(limit); err != nil {
		t.Error(err)
	}
}

func TestStartFails(t *testing.T) {
	_, err := proc.Start(t.Context(), proc.Command{Argv: []string{filepath.Join(t.TempDir(), "nothing")}, CPU: proc.AnyCPU})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Start = %v", err)
	}
}
