// Package fleet runs workers: this program again, as processes of their own, so
// that neither a limit of descriptors nor one processor bounds the load.
package fleet

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
)

// environment makes this program a worker.
const environment = "PULSEBENCH_WORKER"

// IsWorker reports whether this process is to be a worker: main then calls
// generator.Main.
func IsWorker() bool { return os.Getenv(environment) != "" }

// AnyCPU leaves a worker on whatever processors this process may use.
const AnyCPU = -1

// Worker is a worker process.
type Worker struct {
	Index int
	cmd   *exec.Cmd
	stdin io.WriteCloser
	tail  proc.Tail
	ended chan struct{}
	err   error // valid after ended

	mu sync.Mutex // of stdin
}

// Heard is a note and the worker it came from. The last one of each worker has
// Ended set, and Err if it ended badly.
type Heard struct {
	Worker int
	Note   spec.Note
	Ended  bool
	Err    error
}

// Start starts a worker with its plan on one processor, or on AnyCPU. What it
// says goes to heard until it has ended; somebody must listen.
func Start(plan spec.Spec, cpu int, heard chan<- Heard) (*Worker, error) {
	fail := func(err error) (*Worker, error) { return nil, fmt.Errorf("start worker: %w", err) }
	self, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	w := &Worker{Index: plan.Worker.Index, cmd: exec.Command(self), ended: make(chan struct{})}
	w.cmd.Stderr = &w.tail
	// With one P, Go's monitor would take it away from every wait for events.
	w.cmd.Env = append(os.Environ(), environment+"=1", "GOMAXPROCS=2")
	if w.stdin, err = w.cmd.StdinPipe(); err != nil {
		return fail(err)
	}
	// Not StdoutPipe, which Wait closes under its reader.
	r, out, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	w.cmd.Stdout = out
	err = startOn(w.cmd, cpu)
	out.Close()
	if err != nil {
		r.Close()
		w.stdin.Close()
		return fail(err)
	}
	go w.listen(r, heard)
	if err := w.say(plan); err != nil {
		w.Kill()
		return fail(err)
	}
	return w, nil
}

func (w *Worker) listen(r *os.File, heard chan<- Heard) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		var note spec.Note
		if err := json.Unmarshal(line, &note); err != nil {
			note.Failed = fmt.Sprintf("worker %d said what is no note: %v", w.Index, err)
		}
		heard <- Heard{Worker: w.Index, Note: note}
	}
	r.Close()
	if err := w.cmd.Wait(); err != nil {
		w.err = fmt.Errorf("worker %d: %w%s", w.Index, err, w.tail.Indented())
	}
	close(w.ended)
	heard <- Heard{Worker: w.Index, Ended: true, Err: w.err}
}

func (w *Worker) say(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err = w.stdin.Write(append(line, '\n'))
	return err
}

// Order tells a worker what to do. One that has ended is not told.
func (w *Worker) Order(o spec.Order) {
	if err := w.say(o); err != nil && !errors.Is(err, os.ErrClosed) {
		_ = w.cmd.Process.Kill() // it does not listen; its end says why
	}
}

// Release makes a worker end that has nothing more to say.
func (w *Worker) Release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.stdin.Close()
}

// Kill ends a worker at once.
func (w *Worker) Kill() {
	w.Release()
	_ = w.cmd.Process.Kill()
}

// Wait waits until the worker has ended, no longer than limit; then it is
// killed.
func (w *Worker) Wait(limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-w.ended:
	case <-timer.C:
		w.Kill()
		<-w.ended
	}
}
