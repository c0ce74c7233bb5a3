// Package load runs the load generator: the C program in epoll/load.c, whose
// head comment says what it sends and what it checks.
package load

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/cc"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
)

//go:embed epoll/load.c
var source string

// Program is the compiled load generator.
type Program struct{ path string }

// Build compiles the load generator into dir.
func Build(ctx context.Context, dir string) (Program, error) {
	path, err := cc.Build(ctx, dir, "load", source)
	return Program{path}, err
}

// Target is the server to load.
type Target struct {
	Port int
	PID  int // its CPU clock is read at both ends of the window
	// Warmup is how long it needs before it is measured, if that is longer than
	// what the load says.
	Warmup time.Duration
}

// Echo asks for frames that are echoed, Depth of them under way per connection.
type Echo struct {
	Conns, Depth, Payload int
	Warmup, Window        time.Duration
}

// Idle asks for connections that beat once an interval each.
type Idle struct {
	Conns                    int
	Interval, Warmup, Window time.Duration
}

// Result is what one window saw. Every frame of it was checked.
type Result struct {
	Mode     string  `json:"mode"`
	Conns    int     `json:"conns"`
	Depth    int     `json:"depth,omitempty"`
	Payload  int     `json:"payload,omitempty"`
	Interval float64 `json:"interval_s,omitempty"`
	Warmup   float64 `json:"warmup_s"`
	Seconds  float64 `json:"seconds"`
	// Messages are echoes or heartbeat answers received within the window.
	Messages int64 `json:"messages"`
	// Reads and Writes are the load's own system calls: messages per read
	// shows how far a server's answers came in batches.
	Reads     int64 `json:"reads"`
	Writes    int64 `json:"writes"`
	ServerCPU int64 `json:"server_cpu_ns"`
	LoadCPU   int64 `json:"load_cpu_ns"`
	// MachineCPU is what all processes used, by the kernel's coarse ticks.
	MachineCPU int64 `json:"machine_cpu_ns"`
}

// CPUPerMessage is the server's CPU time per message in nanoseconds.
func (r Result) CPUPerMessage() float64 { return float64(r.ServerCPU) / float64(r.Messages) }

// ServerBusy is the part of the window the server spent on its processor.
func (r Result) ServerBusy() float64 { return float64(r.ServerCPU) / 1e9 / r.Seconds }

// LoadBusy is the part of the window the load spent on its processor. Far above
// four fifths, it measures itself.
func (r Result) LoadBusy() float64 { return float64(r.LoadCPU) / 1e9 / r.Seconds }

// Others is what processes other than server and load used within the window,
// in processors. Much of it makes a figure worth little: on a processor that is
// shared, calls into the kernel are interrupted, which Go's scheduler pays for.
func (r Result) Others() float64 {
	return max(0, float64(r.MachineCPU-r.ServerCPU-r.LoadCPU)/1e9/r.Seconds)
}

// margin is what a run may take beside its window; the program's own limits
// are shorter and end it with a better message.
const margin = 60 * time.Second

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }

func (p Program) start(ctx context.Context, cpu int, mode string, t Target, conns int, warmup, window time.Duration, more ...string) (*proc.Process, error) {
	argv := append([]string{p.path, mode,
		"-p", strconv.Itoa(t.Port), "-P", strconv.Itoa(t.PID), "-c", strconv.Itoa(conns),
		"-w", seconds(warmup), "-t", seconds(window)}, more...)
	return proc.Start(ctx, proc.Command{Argv: argv, CPU: cpu})
}

func result(child *proc.Process, limit time.Duration) (Result, error) {
	var r Result
	line, err := child.Line(limit)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		return r, fmt.Errorf("load printed %q: %w", line, err)
	}
	if r.Messages == 0 {
		return r, fmt.Errorf("load counted no message within %.1f s", r.Seconds)
	}
	return r, nil
}

// Echo loads t until the window has ended and every frame has come back.
func (p Program) Echo(ctx context.Context, cpu int, t Target, e Echo) (Result, error) {
	e.Warmup = max(e.Warmup, t.Warmup)
	child, err := p.start(ctx, cpu, "echo", t, e.Conns, e.Warmup, e.Window,
		"-d", strconv.Itoa(e.Depth), "-s", strconv.Itoa(e.Payload))
	if err != nil {
		return Result{}, err
	}
	r, err := result(child, e.Warmup+e.Window+margin)
	if err != nil {
		_ = child.Stop() // err is the cause
		return r, err
	}
	return r, child.Wait(margin)
}

// Held is a load of idle connections after its window: they stay open, and go
// on beating, until Release.
type Held struct{ child *proc.Process }

// Idle loads t and returns when the window has ended.
func (p Program) Idle(ctx context.Context, cpu int, t Target, i Idle) (Result, *Held, error) {
	i.Warmup = max(i.Warmup, t.Warmup)
	child, err := p.start(ctx, cpu, "idle", t, i.Conns, i.Warmup, i.Window, "-i", seconds(i.Interval))
	if err != nil {
		return Result{}, nil, err
	}
	r, err := result(child, i.Warmup+i.Window+margin)
	if err != nil {
		_ = child.Stop() // err is the cause
		return r, nil, err
	}
	return r, &Held{child}, nil
}

// Release ends the load. The error says whether a connection was closed, or a
// heartbeat left unanswered, at any time until now.
func (h *Held) Release() error {
	if err := h.child.CloseStdin(); err != nil {
		_ = h.child.Stop()
		return fmt.Errorf("release load: %w", err)
	}
	err := h.child.Wait(margin)
	if err != nil {
		_ = h.child.Stop() // it may still be there
	}
	return err
}
