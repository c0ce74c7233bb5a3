// Package proc runs a process so that it can be measured: bound to a
// processor, heard line by line, its memory known, and certain to end.
//
// A [Process] ends when it is told to ([Process.Stop]), when the context it was
// started with does, and when this process dies, however it dies. It has its
// own process group, so that an interrupt typed at the terminal reaches only
// the driver, which then ends its children in order.
//
// Platform files supply: start, signals, Memory, CPUTime and CPUs. Only Linux has them
// all; elsewhere everything builds and Start says that it cannot.
package proc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// AnyCPU leaves a process on whatever processors this one may use.
const AnyCPU = -1

// Usage is a process's memory in bytes.
type Usage struct {
	// RSS is what is resident, shared program text included.
	RSS int64 `json:"rss"`
	// Anonymous is the part of RSS that belongs to no file: heap and stacks.
	Anonymous int64 `json:"anonymous"`
	// Peak is the highest RSS so far.
	Peak int64 `json:"peak"`
}

// Command says what to run.
type Command struct {
	Argv []string
	// Env is added to this process's environment.
	Env []string
	// CPU is the one processor to run on, or AnyCPU.
	CPU int
}

// Process is a running or ended child. Its methods may be called by any
// goroutine, except that lines have one reader at a time.
type Process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string // closed at the end of output

	stderr Tail

	done chan struct{} // closed once the process is gone
	err  error         // how it ended; valid after done

	mu     sync.Mutex
	reaped bool // its id may belong to a stranger
}

// lineLimit bounds what is kept of a child nobody listens to; more is dropped.
const lineLimit = 1024

// Start runs c until it ends or ctx does.
func Start(ctx context.Context, c Command) (*Process, error) {
	name := filepath.Base(c.Argv[0])
	cmd := exec.Command(c.Argv[0], c.Argv[1:]...)
	cmd.Env = append(os.Environ(), c.Env...)
	p := &Process{name: name, cmd: cmd, lines: make(chan string, lineLimit), done: make(chan struct{})}
	cmd.Stderr = &p.stderr
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	// Not StdoutPipe, which Wait closes under its reader.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	cmd.Stdout = w
	err = p.start(c.CPU)
	w.Close()
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(p.lines)
		defer r.Close()
		for s := bufio.NewScanner(r); s.Scan(); {
			select {
			case p.lines <- s.Text():
			default:
			}
		}
	}()
	stop := context.AfterFunc(ctx, p.kill)
	go func() {
		<-p.done
		stop()
	}()
	return p, nil
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Line returns the next line of output, waiting for it no longer than limit.
func (p *Process) Line(limit time.Duration) (string, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case line, ok := <-p.lines:
		if ok {
			return line, nil
		}
		if err := p.Wait(limit); err != nil {
			return "", err
		}
		return "", fmt.Errorf("%s ended: %w", p.name, io.ErrUnexpectedEOF)
	case <-timer.C:
		return "", fmt.Errorf("%s: no output within %v: %w", p.name, limit, os.ErrDeadlineExceeded)
	}
}

// Say writes a line to the process's standard input. A process that does not
// read holds it up once a pipe is full, so say little.
func (p *Process) Say(line string) error {
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		return fmt.Errorf("tell %s: %w", p.name, err)
	}
	return nil
}

// CloseStdin ends the process's standard input, unless the process's own end has
// done so, of which Wait knows more.
func (p *Process) CloseStdin() error {
	if err := p.stdin.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// Wait returns how the process ended, or an error if it is still there after
// limit. It does not end the process.
func (p *Process) Wait(limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.err
	case <-timer.C:
		return fmt.Errorf("%s still runs after %v: %w", p.name, limit, os.ErrDeadlineExceeded)
	}
}

// stopLimit is how long a process may take to follow a request to end.
const stopLimit = 5 * time.Second

// Stop asks the process to end and kills it if it does not. The error says
// that it had ended by itself, or how it ended badly.
func (p *Process) Stop() error {
	select {
	case <-p.done:
		return errors.Join(fmt.Errorf("%s had ended by itself", p.name), p.err)
	default:
	}
	p.terminate()
	err := p.Wait(stopLimit)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.kill()
		<-p.done
	}
	return err
}

// ended records how the process ended. It is called once, before done closes.
func (p *Process) ended(err error) {
	if err != nil {
		p.err = fmt.Errorf("%s: %w%s", p.name, err, p.stderr.Indented())
	}
}

// Tail keeps the end of what is written to it: of a process's output, that is
// where an error message is. It may be written to and read at the same time.
type Tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 4 << 10

// Write is that of io.Writer, and never fails.
func (t *Tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(b), nil
}

// Indented returns what is kept, to be put behind an error: each line on one of
// its own, indented; nothing if nothing was written.
func (t *Tail) Indented() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := bytes.TrimSpace(t.buf)
	if len(text) == 0 {
		return ""
	}
	return "\n\t" + string(bytes.ReplaceAll(text, []byte("\n"), []byte("\n\t")))
}
