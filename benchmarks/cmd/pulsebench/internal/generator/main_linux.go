package generator

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
)

// Main is a worker process: it follows the conversation of package spec on
// standard input and output, and returns when that is over.
func Main() {
	// An interrupt typed at the terminal reaches the whole group; the parent
	// decides what becomes of it.
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "pulsebench worker:", err)
		os.Exit(1)
	}
}

func run(input io.Reader, output io.Writer) error {
	lines := bufio.NewReader(input)
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	var plan spec.Spec
	if err := json.Unmarshal(line, &plan); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	notes := &notebook{encoder: json.NewEncoder(output)}
	raiseFileLimit()
	// The loop keeps its thread: what is set for it stays with it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	g, err := newGenerator(plan, notes)
	if err != nil {
		notes.write(spec.Note{Failed: err.Error()})
		return nil
	}
	var finished atomic.Bool
	released := make(chan struct{})
	go func() {
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				if finished.Load() {
					close(released)
					return
				}
				os.Exit(1) // nobody is there any more
			}
			var o spec.Order
			if json.Unmarshal(line, &o) == nil {
				g.order(o)
			}
		}
	}()
	defer g.close()
	share, err := g.run()
	if err != nil {
		notes.write(spec.Note{Failed: err.Error()})
		return nil
	}
	// The connections stay, so that the server's memory can be looked at, until
	// the parent has done so.
	finished.Store(true)
	notes.write(spec.Note{Share: share})
	<-released
	return nil
}

// notebook writes notes from any goroutine.
type notebook struct {
	mu      sync.Mutex
	encoder *json.Encoder
}

func (n *notebook) write(note spec.Note) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.encoder.Encode(note) != nil {
		os.Exit(1) // nobody is there any more
	}
}

// raiseFileLimit takes as many descriptors as are to be had.
func raiseFileLimit() {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	}
}
