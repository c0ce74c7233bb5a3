// Package peers knows the servers that are measured against each other: how
// each is built, started and asked about itself.
//
// A peer is one folder here with one program in its framework's best idiom,
// which the head of the program explains, the wire below and the manners of
// package control. To add one, add its folder and its line in all.
//
// All of them set TCP_NODELAY and no other option that the kernel would act
// upon while data flows, run one loop, accept frames split anywhere and writes
// taken in part, and end a connection on a frame above 1 MiB. Those that read
// into a buffer of the loop read up to 64 KiB at once; those with a buffer a
// connection have 4 KiB.
//
// # The wire
//
// A frame is a 4-byte big-endian payload length, then the payload. An empty
// frame is a heartbeat: it is answered by an empty frame, whatever the work is,
// and may overtake data that waits. What happens to a frame with a payload is
// the server's work:
//
//   - echo: it is sent back.
//   - room: the first one that a connection sends names its room. Its payload is
//     the room's number, 4 bytes big-endian (anything else ends the connection),
//     and it is sent back; from then on the connection is a member. Each frame
//     after it is a message, which goes to every other member of the room, and
//     not to its sender. With 21 members a message is delivered 20 times.
//   - broadcast: it goes to every connection, its sender included. A connection
//     is one of them at the latest when a heartbeat of its own was answered.
//
// What one connection sends arrives everywhere in the order in which it was
// sent. Messages that were read together may be passed on together. What was sent
// before the end of a stream is answered (by all but netpoll, which cannot).
//
// # Silence
//
// Without an idle timeout nothing ends a silent connection, and nothing is spent
// on watching it; pulsewheel alone has its usual liveness on (peer
// pulsewheel-off has not). With one, a connection of which nothing was received
// for that long, no frame and no heartbeat, is ended within twice that time, by
// what each framework has for this purpose.
package peers

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/cc"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/netty"
)

//go:embed cfloor/floor.c
var floor string

// MaxPayload is the largest payload a peer accepts, in bytes.
const MaxPayload = 1 << 20

// Floor is the peer that all are compared with.
const Floor = "cfloor"

// References are the peers whose ratios are shown, as far as they are measured.
var References = []string{Floor, "gnet", "gnet@2"}

// defaults are measured where no list is given.
const defaults = "cfloor,gnet,gnet@2,pulsewheel"

// Detectors lists each peer with what it has to find peers that died, set to
// find them within 9 s.
const Detectors = "pulsewheel-strict,cfloor+idle=9s,gnet+idle=9s,nbio+idle=9s,netpoll+idle=9s,netpoll-keepalive+idle=9s," +
	"gev+idle=9s,evio+idle=9s,std+idle=9s,zinx+idle=9s,netty+idle=9s"

// Peer is a server that can be measured.
type Peer struct {
	Name  string
	About string
	// Work and Idle are what it is started for; the port is not used. The zero
	// value echoes.
	control.Options

	program program
	args    []string       // of its command line, before what Options ask for
	works   []control.Work // what it can do
	blind   bool           // its idle timeout leaves a live peer alone, however silent
	hasty   bool           // what a peer sent last, before the end of its stream, may go unanswered
	waits   bool           // a message waits until everyone it is for has taken it
	// warmup is for how long the program becomes faster under load.
	warmup time.Duration
	// procs is GOMAXPROCS; 0 for a program that is not written in Go.
	procs int
	// loops is how many loops it runs; 0 if that cannot be chosen.
	loops int
}

// program is what peers that differ only in their arguments share.
type program struct {
	name string
	// build returns the command line to which arguments and the port are added.
	build func(ctx context.Context, dir string) ([]string, error)
}

// all lists the peers.
func all() []Peer {
	gnet := goProgram("gnet")
	netpoll := goProgram("netpoll")
	pulsewheel := goProgram("pulsewheel")
	onlyEcho := []control.Work{control.Echo}
	return []Peer{
		{Name: Floor, About: "one epoll loop in C", program: program{"floor", func(ctx context.Context, dir string) ([]string, error) {
			path, err := cc.Build(ctx, dir, "floor", floor)
			return []string{path}, err
		}}, works: control.Works},
		{Name: "gnet", About: "gnet.Run v2.10.0, one loop", program: gnet, works: control.Works, procs: 1},
		{Name: "gnet-opt", About: "the same with its build tags poll_opt and gc_opt",
			program: goProgram("gnet", "poll_opt", "gc_opt"), works: control.Works, procs: 1},
		{Name: "nbio", About: "lesismal/nbio v1.6.8, one poller", program: goProgram("nbio"), works: control.Works, procs: 1},
		{Name: "netpoll", About: "cloudwego/netpoll v0.7.2, one poller and its pool of goroutines",
			program: netpoll, works: control.Works, hasty: true, procs: 1},
		{Name: "netpoll-keepalive", About: "the same with its own idle timeout, which is TCP keepalive",
			program: netpoll, args: []string{"-keepalive"}, works: control.Works, blind: true, hasty: true, procs: 1},
		{Name: "gev", About: "Allenxuxu/gev v0.5.0, one loop and one that accepts", program: goProgram("gev"), works: control.Works, procs: 1},
		{Name: "evio", About: "tidwall/evio v1.0.8, one loop", program: goProgram("evio"), works: onlyEcho, procs: 1},
		{Name: "std", About: "a goroutine per connection, bufio", program: goProgram("std"), works: control.Works, procs: 1},
		{Name: "zinx", About: "aceld/zinx v1.2.8, two goroutines per connection", program: goProgram("zinx"), works: control.Works, waits: true, procs: 1},
		{Name: "netty", About: "Netty 4.1, one event loop, LengthFieldBasedFrameDecoder",
			program: program{"netty", netty.Build}, works: control.Works, warmup: 8 * time.Second},
		{Name: "pulsewheel", About: "this project: one loop, LengthField codec, heartbeat.Relaxed, Send, GOMAXPROCS=2",
			program: pulsewheel, works: control.Works, procs: 2, loops: 1},
		{Name: "pulsewheel-strict", About: "the same with heartbeat.Strict",
			program: pulsewheel, args: []string{"-liveness", "strict"}, works: control.Works, procs: 2, loops: 1},
		{Name: "pulsewheel-off", About: "the same without liveness",
			program: pulsewheel, args: []string{"-liveness", "off"}, works: control.Works, procs: 2, loops: 1},
	}
}

// Lookup returns the peers of a comma-separated list, in its order; an empty
// list means the defaults, "all" every peer there is and "detectors" [Detectors].
// NAME@N is a Go server with GOMAXPROCS=N instead of 1 (pulsewheel: 2), NAME+idle=DURATION one
// with an idle timeout, and NAME+loops=N one with N loops instead of one, which
// has GOMAXPROCS=N unless that is given, and is not to be bound to one processor
// ([Peer.Loops]).
//
// GOMAXPROCS matters to a server that makes its system calls through package
// syscall: while Go's scheduler has no idle P, its monitor takes the P from
// every call it meets, some thousand times a second, and with an idle one it
// leaves them alone. Pulsewheel's loop does not tell the scheduler of its short
// waits if there is a P that it leaves to others. The processor a server is bound to
// stays one either way.
func Lookup(list string) ([]Peer, error) {
	if list == "" {
		list = defaults
	}
	var found []Peer
	for item := range strings.SplitSeq(list, ",") {
		switch item {
		case "all":
			found = append(found, all()...)
			continue
		case "detectors":
			detectors, err := Lookup(Detectors)
			if err != nil {
				return nil, err
			}
			found = append(found, detectors...)
			continue
		}
		p, err := one(item)
		if err != nil {
			return nil, err
		}
		found = append(found, p)
	}
	return found, nil
}

func one(item string) (Peer, error) {
	all := all()
	rest, options, _ := strings.Cut(item, "+")
	name, procs, changed := strings.Cut(rest, "@")
	i := slices.IndexFunc(all, func(p Peer) bool { return p.Name == name })
	if i < 0 {
		var names []string
		for _, p := range all {
			names = append(names, p.Name)
		}
		return Peer{}, fmt.Errorf("no server %q; there are %s", name, strings.Join(names, ", "))
	}
	p := all[i]
	p.Name = item
	if options != "" || strings.HasSuffix(item, "+") {
		for option := range strings.SplitSeq(options, "+") {
			if err := p.set(option); err != nil {
				return Peer{}, fmt.Errorf("server %q: %w", item, err)
			}
		}
	}
	if changed {
		n, err := strconv.Atoi(procs)
		if err != nil || n < 1 || p.procs == 0 {
			return Peer{}, fmt.Errorf("server %q: after @ comes GOMAXPROCS of a server written in Go", item)
		}
		p.procs = n
		p.About += ", GOMAXPROCS=" + procs
	}
	return p, nil
}

// set does what comes after a plus.
func (p *Peer) set(option string) error {
	key, value, _ := strings.Cut(option, "=")
	switch key {
	case "idle":
		d, err := time.ParseDuration(value)
		if err != nil || d < time.Second {
			return errors.New("after idle= comes a duration of at least 1s")
		}
		p.Idle = d
		p.About += ", idle timeout " + value
	case "loops":
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || p.loops == 0 {
			return errors.New("after loops= comes a number, of a server whose loops can be chosen")
		}
		p.loops, p.procs = n, n
		p.args = append(slices.Clone(p.args), "-loops", value)
		p.About += fmt.Sprintf(", but %d loops", n)
	default:
		return fmt.Errorf("%q is neither idle= nor loops=", option)
	}
	return nil
}

// Loops is how many loops p runs. A server with more than one needs as many
// processors to show it.
func (p Peer) Loops() int { return max(1, p.loops) }

// For returns p doing work, or an error if its framework cannot.
func (p Peer) For(work control.Work) (Peer, error) {
	if !slices.Contains(p.works, work) {
		return Peer{}, fmt.Errorf("%s can do no %s; the head of its program says why", p.Name, work)
	}
	p.Work = work
	return p, nil
}

// Watches says whether p's idle timeout ends connections whose peer is there but
// silent.
func (p Peer) Watches() bool { return !p.blind }

// Program names the program that p is, with whatever arguments.
func (p Peer) Program() string { return p.program.name }

// AnswersLast says whether p answers all that a peer sent before it ended its
// stream.
func (p Peer) AnswersLast() bool { return !p.hasty }

// Patient says that a connection that does not read holds up nobody else.
func (p Peer) Patient() bool { return !p.waits }

// WarmUp is for how long p has to be loaded before it is as fast as it gets, since
// what runs it compiles while it runs.
func (p Peer) WarmUp() time.Duration { return p.warmup }

// goProgram is the program in the folder of that name. It is built like any
// program of its users: no profile, no linker flags, and no tags but those that
// the peer is about.
func goProgram(folder string, tags ...string) program {
	const path = "github.com/pulsewheel/pulsewheel/benchmarks/peers/"
	name := strings.Join(append([]string{folder}, tags...), "-")
	return program{name, func(ctx context.Context, dir string) ([]string, error) {
		to := filepath.Join(dir, name)
		// A checkout without history cannot be stamped, and need not be.
		cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-tags", strings.Join(tags, ","), "-o", to, path+folder)
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s: %w\n%s", name, err, strings.TrimSpace(string(out)))
		}
		return []string{to}, nil
	}}
}

// Server is a peer ready to be started.
type Server struct {
	Peer
	argv []string
}

// Build builds peers into dir.
func Build(ctx context.Context, dir string, peers []Peer) ([]Server, error) {
	servers := make([]Server, len(peers))
	built := make(map[string][]string) // peers share programs
	for i, p := range peers {
		if built[p.program.name] == nil {
			argv, err := p.program.build(ctx, dir)
			if err != nil {
				return nil, err
			}
			built[p.program.name] = argv
		}
		servers[i] = Server{Peer: p, argv: built[p.program.name]}
	}
	return servers, nil
}

// replyLimit is how long a server may take to start or to answer a signal: a
// collection of many connections on a slow machine.
const replyLimit = 20 * time.Second

// Running is a server that listens.
type Running struct {
	*proc.Process
	Port int
}

// Start starts the server on a port of its choice and on one processor.
func (s Server) Start(ctx context.Context, cpu int) (*Running, error) {
	c := proc.Command{Argv: slices.Concat(s.argv, s.args, s.Options.Arguments(), []string{"0"}), CPU: cpu}
	if s.procs > 0 {
		c.Env = []string{fmt.Sprintf("GOMAXPROCS=%d", s.procs)}
	}
	child, err := proc.Start(ctx, c)
	if err != nil {
		return nil, err
	}
	r := &Running{Process: child}
	line, err := child.Line(replyLimit)
	if err == nil {
		if _, scan := fmt.Sscanf(line, control.Announcement, &r.Port); scan != nil {
			err = fmt.Errorf("%s printed %q instead of its port", s.Name, line)
		}
	}
	if err != nil {
		_ = child.Stop() // err is the cause
		return nil, err
	}
	return r, nil
}

// Collect makes the server give back the memory it does not use, and returns
// what it says about itself.
func (r *Running) Collect() (control.Report, error) {
	var report control.Report
	if err := r.Process.Collect(); err != nil {
		return report, err
	}
	line, err := r.Line(replyLimit)
	if err != nil {
		return report, err
	}
	if err := json.Unmarshal([]byte(line), &report); err != nil {
		return report, fmt.Errorf("report %q: %w", line, err)
	}
	return report, nil
}

// WaitOpen collects until the server has noticed that n connections are open.
func (r *Running) WaitOpen(n int64) (control.Report, error) {
	for deadline := time.Now().Add(replyLimit); ; time.Sleep(5 * time.Millisecond) {
		report, err := r.Collect()
		if err != nil || report.Open == n {
			return report, err
		}
		if time.Now().After(deadline) {
			return report, fmt.Errorf("server holds %d connections, not %d", report.Open, n)
		}
	}
}
