// Package load runs the load generator: the C program in epoll, the head of
// whose load.c says how it works and what it checks.
//
// A [Mode] is what it does: [Echo], [Open], [Idle], [Room], [Broadcast] or [Churn]. A
// [Session] is one such load on one server. Its connections stay open until
// [Session.End], and nothing goes over them but in its windows, so that many
// servers can be loaded in turn, each for a moment, while nothing else about
// them changes.
//
// A session ends with its context; what goes wrong in it makes the next call
// fail.
package load

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/cc"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
)

//go:embed epoll/*.c
var sources embed.FS

// Program is the compiled load generator.
type Program struct{ path string }

// Build compiles the load generator into dir.
func Build(ctx context.Context, dir string) (Program, error) {
	epoll, err := fs.Sub(sources, "epoll")
	if err != nil {
		return Program{}, err
	}
	path, err := cc.BuildFrom(ctx, dir, epoll, "load.c")
	return Program{path}, err
}

// Target is the server to load.
type Target struct {
	Port int
	PID  int // its CPU clock is read at both ends of a window
	// Warmup is how long it needs before it is measured, if that is longer than
	// what the load says.
	Warmup time.Duration
}

// Mode is what a load does.
type Mode interface {
	// arguments of the program, and for how long it warms the server up.
	arguments() (args []string, warmup time.Duration)
}

// Echo asks for frames that are echoed, Depth of them under way per connection.
type Echo struct {
	Conns, Depth, Payload int
	Warmup                time.Duration
	// Window is that of [Program.Echo].
	Window time.Duration
}

// Open asks for frames that are echoed, Rate of them a second over all connections,
// whatever the answers do. What its windows count is what was due in them.
type Open struct {
	Conns, Payload int
	Rate           float64
	Warmup         time.Duration
}

// Idle asks for connections that beat once an interval each, between windows,
// too, unless it is Quiet.
type Idle struct {
	Conns            int
	Interval, Warmup time.Duration
	Quiet            bool
	// Window is that of [Program.Idle].
	Window time.Duration
}

// Room asks for messages in rooms of Members connections, Depth of them under
// way in each: a message goes to all others of its room, and when they have it,
// the next member in turn sends. Members divides Conns. Deliveries are counted.
type Room struct {
	Conns, Members, Depth, Payload int
	Warmup                         time.Duration
}

// Broadcast is the same with one room, in which the sender gets its own messages,
// too. Its windows begin and end between messages.
type Broadcast struct {
	Conns, Depth, Payload int
	Warmup                time.Duration
}

// Churn asks for connections that are made, have one message echoed, and are
// reset; AtOnce of them are under way. Such cycles are counted.
type Churn struct {
	AtOnce, Payload int
	Warmup          time.Duration
}

func (e Echo) arguments() ([]string, time.Duration) {
	return []string{"echo", "-c", strconv.Itoa(e.Conns), "-d", strconv.Itoa(e.Depth), "-s", strconv.Itoa(e.Payload)}, e.Warmup
}

func (o Open) arguments() ([]string, time.Duration) {
	return []string{"open", "-c", strconv.Itoa(o.Conns), "-R", strconv.FormatFloat(o.Rate, 'f', -1, 64), "-s", strconv.Itoa(o.Payload)}, o.Warmup
}

func (i Idle) arguments() ([]string, time.Duration) {
	args := []string{"idle", "-c", strconv.Itoa(i.Conns), "-i", seconds(i.Interval)}
	if i.Quiet {
		args = append(args, "-q")
	}
	return args, i.Warmup
}

func (r Room) arguments() ([]string, time.Duration) {
	return []string{"room", "-c", strconv.Itoa(r.Conns), "-r", strconv.Itoa(r.Members), "-d", strconv.Itoa(r.Depth),
		"-s", strconv.Itoa(r.Payload)}, r.Warmup
}

func (b Broadcast) arguments() ([]string, time.Duration) {
	return []string{"broadcast", "-c", strconv.Itoa(b.Conns), "-d", strconv.Itoa(b.Depth), "-s", strconv.Itoa(b.Payload)}, b.Warmup
}

func (c Churn) arguments() ([]string, time.Duration) {
	return []string{"churn", "-c", strconv.Itoa(c.AtOnce), "-s", strconv.Itoa(c.Payload)}, c.Warmup
}

// Result is what one window saw, or several. Every frame of it was checked.
type Result struct {
	Mode     string  `json:"mode"`
	Conns    int     `json:"conns"`
	Depth    int     `json:"depth,omitempty"`
	Payload  int     `json:"payload,omitempty"`
	Interval float64 `json:"interval_s,omitempty"`
	Warmup   float64 `json:"warmup_s"`
	Seconds  float64 `json:"seconds"`
	// Messages are echoes, heartbeats' answers, deliveries or cycles within the
	// window.
	Messages int64 `json:"messages"`
	// Reads and Writes are the load's own system calls: messages per read
	// shows how far a server's answers came in batches.
	Reads     int64 `json:"reads"`
	Writes    int64 `json:"writes"`
	ServerCPU int64 `json:"server_cpu_ns"`
	LoadCPU   int64 `json:"load_cpu_ns"`
	// MachineCPU is what all processes used, by the kernel's coarse ticks.
	MachineCPU int64 `json:"machine_cpu_ns"`
	// Of Open: the percentiles of the latency in µs, from when a message was due,
	// and of how late the load was itself. Of several windows, the latest one's.
	P50  float64 `json:"p50_us,omitempty"`
	P99  float64 `json:"p99_us,omitempty"`
	Late float64 `json:"sent_late_p99_us,omitempty"`
}

// Plus is what r and another window of the same load saw together.
func (r Result) Plus(other Result) Result {
	other.Seconds += r.Seconds
	other.Messages += r.Messages
	other.Reads += r.Reads
	other.Writes += r.Writes
	other.ServerCPU += r.ServerCPU
	other.LoadCPU += r.LoadCPU
	other.MachineCPU += r.MachineCPU
	return other
}

// CPUPerMessage is the server's CPU time per message in nanoseconds.
func (r Result) CPUPerMessage() float64 { return float64(r.ServerCPU) / float64(r.Messages) }

// Rate is messages per second.
func (r Result) Rate() float64 { return float64(r.Messages) / r.Seconds }

// ServerBusy is the part of the window the server spent on its processor.
func (r Result) ServerBusy() float64 { return float64(r.ServerCPU) / 1e9 / r.Seconds }

// BusyLimit is the part of its processor above which a load is what limits the
// server: it measures itself, too.
const BusyLimit = 0.85

// LoadBusy is the part of the window the load spent on its processor, to be held
// against [BusyLimit].
func (r Result) LoadBusy() float64 { return float64(r.LoadCPU) / 1e9 / r.Seconds }

// Others is what processes other than server and load used within the window,
// in processors. Much of it makes a figure worth little: on a processor that is
// shared, calls into the kernel are interrupted, which Go's scheduler pays for.
func (r Result) Others() float64 {
	return max(0, float64(r.MachineCPU-r.ServerCPU-r.LoadCPU)/1e9/r.Seconds)
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }

// Echo loads t for one window.
func (p Program) Echo(ctx context.Context, cpu int, t Target, e Echo) (Result, error) {
	s, err := p.Start(ctx, cpu, t, e)
	if err != nil {
		return Result{}, err
	}
	r, err := s.Window(e.Window)
	return r, errors.Join(err, s.End())
}

// Idle loads t and returns when one window has ended. The connections stay, and
// go on beating, until the session's end.
func (p Program) Idle(ctx context.Context, cpu int, t Target, i Idle) (Result, *Session, error) {
	s, err := p.Start(ctx, cpu, t, i)
	if err != nil {
		return Result{}, nil, err
	}
	r, err := s.Window(i.Window)
	if err != nil {
		return r, nil, errors.Join(err, s.End())
	}
	return r, s, nil
}

// Session is a load on a server. Its methods are for one goroutine.
type Session struct {
	child *proc.Process
	err   error // has ended it
}

// margin is what the program may take beside what it was asked for; its own
// limits are shorter and end it with a better message.
const margin = 90 * time.Second

// Start puts a load on t from one processor, and returns once all its connections
// are served and t is warm.
func (p Program) Start(ctx context.Context, cpu int, t Target, m Mode) (*Session, error) {
	args, warmup := m.arguments()
	warmup = max(warmup, t.Warmup)
	argv := append([]string{p.path}, args...)
	argv = append(argv, "-p", strconv.Itoa(t.Port), "-P", strconv.Itoa(t.PID), "-w", seconds(warmup))
	child, err := proc.Start(ctx, proc.Command{Argv: argv, CPU: cpu})
	if err != nil {
		return nil, err
	}
	line, err := child.Line(warmup + margin)
	if err == nil && line != "ready" {
		err = fmt.Errorf("load printed %q instead of ready", line)
	}
	if err != nil {
		_ = child.Stop() // err is the cause
		return nil, err
	}
	return &Session{child: child}, nil
}

// Window loads the server for that long, and a little before and after it. It
// lasts until there is a message to count.
func (s *Session) Window(d time.Duration) (r Result, err error) {
	if s.err != nil {
		return r, s.err
	}
	defer func() { s.err = err }()
	// If it cannot be told anything, its end says more.
	told := s.child.Say(seconds(d))
	line, err := s.child.Line(2*d + margin)
	if err != nil {
		return r, errors.Join(err, told)
	}
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		return r, fmt.Errorf("load printed %q: %w", line, err)
	}
	return r, nil
}

// End ends the load and its connections. The error says whether a connection was
// closed, or something left unanswered, at any time until now, unless Window has
// said so.
func (s *Session) End() error {
	if s.err != nil {
		_ = s.child.Stop() // the cause is known
		return nil
	}
	err := s.child.CloseStdin()
	if err == nil {
		err = s.child.Wait(margin)
	}
	if err != nil {
		_ = s.child.Stop() // it may still be there
		return fmt.Errorf("end of the load: %w", err)
	}
	return nil
}
