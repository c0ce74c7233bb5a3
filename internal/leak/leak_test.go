package leak

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

const moment = 50 * time.Millisecond

func TestGoroutineIsFound(t *testing.T) {
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { <-stop; close(done) }()
	before := Files()
	// The goroutines of this test are there, too; it is the stack that tells.
	if err := settle(before, moment); err == nil || !strings.Contains(err.Error(), "TestGoroutineIsFound.func1") {
		t.Errorf("a goroutine was left, and what was said is: %v", err)
	}
	close(stop)
	<-done
}

func TestDescriptorIsFound(t *testing.T) {
	before := Files()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if after := Files(); before > 0 && after < before+2 {
		t.Errorf("%d descriptors before a pipe was opened, %d after", before, after)
	}
	_ = r.Close()
	_ = w.Close()
	if after := Files(); after > before {
		t.Errorf("%d descriptors before a pipe was opened, %d after it was closed", before, after)
	}
}

func TestChildIsFound(t *testing.T) {
	if children() == nil && !haveChildList() {
		t.Skip("this system has no list of a process's children")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperSleep$")
	cmd.Env = append(os.Environ(), "LEAK_TEST_SLEEP=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if len(children()) == 0 {
		t.Error("a child process was not found")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func haveChildList() bool {
	_, err := os.Stat("/proc/self/task")
	return err == nil
}

// TestHelperSleep is the child of TestChildIsFound.
func TestHelperSleep(t *testing.T) {
	if os.Getenv("LEAK_TEST_SLEEP") == "" {
		t.Skip("run by TestChildIsFound in a process of its own")
	}
	time.Sleep(10 * time.Second)
}
