// Package peers knows the servers that are measured against each other: how
// each is built, started and asked about itself.
//
// A peer is one folder here with one program, which keeps the wire of
// cfloor/floor.c and the manners of package control. To add one, add its
// folder and its line in [All].
//
// All of them set TCP_NODELAY and no other option that the kernel would act
// upon while data flows, run one loop, read up to 64 KiB at once, accept
// frames split anywhere and writes taken in part, and end a connection on a
// frame above 1 MiB.
package peers

import (
	"context"
	_ "embed"
	"encoding/json"
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

// Peer is a server that can be measured.
type Peer struct {
	Name  string
	About string
	// build returns the command line to which the port is added.
	build func(ctx context.Context, dir string) ([]string, error)
	// procs is GOMAXPROCS; 0 for a program that is not written in Go.
	procs int
}

// all lists the peers.
func all() []Peer {
	return []Peer{
		{Name: Floor, About: "one epoll loop in C", build: func(ctx context.Context, dir string) ([]string, error) {
			path, err := cc.Build(ctx, dir, "floor", floor)
			return []string{path}, err
		}},
		goPeer("gnet", "gnet.Run v2.10.0, one loop, no idle timeout"),
		goPeer("pulsewheel", "this project: one loop, LengthField codec, heartbeat.Relaxed, Send"),
	}
}

// Lookup returns the peers of a comma-separated list, in its order; an empty
// list means the defaults. NAME@N is a Go server with GOMAXPROCS=N instead of 1.
//
// This matters to a server that makes its system calls through package
// syscall: while Go's scheduler has no idle P, its monitor takes the P from
// every call it meets, some thousand times a second, and with an idle one it
// leaves them alone. The processor a server is bound to stays one either way.
func Lookup(list string) ([]Peer, error) {
	if list == "" {
		list = defaults
	}
	var found []Peer
	for item := range strings.SplitSeq(list, ",") {
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
	name, procs, changed := strings.Cut(item, "@")
	i := slices.IndexFunc(all, func(p Peer) bool { return p.Name == name })
	if i < 0 {
		var names []string
		for _, p := range all {
			names = append(names, p.Name)
		}
		return Peer{}, fmt.Errorf("no server %q; there are %s", name, strings.Join(names, ", "))
	}
	p := all[i]
	if changed {
		n, err := strconv.Atoi(procs)
		if err != nil || n < 1 || p.procs == 0 {
			return Peer{}, fmt.Errorf("server %q: after @ comes GOMAXPROCS of a server written in Go", item)
		}
		p.Name, p.procs = item, n
		p.About += ", GOMAXPROCS=" + procs
	}
	return p, nil
}

// goPeer is a peer written in Go, in the folder of its name. It is built like
// any program of its users: no tags, no profile, no linker flags.
func goPeer(name, about string) Peer {
	const path = "github.com/pulsewheel/pulsewheel/benchmarks/peers/"
	return Peer{Name: name, About: about, procs: 1,
		build: func(ctx context.Context, dir string) ([]string, error) {
			to := filepath.Join(dir, name)
			// A checkout without history cannot be stamped, and need not be.
			cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", to, path+name)
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
	built := make(map[string][]string) // NAME and NAME@N are one program
	for i, p := range peers {
		name, _, _ := strings.Cut(p.Name, "@")
		if built[name] == nil {
			argv, err := p.build(ctx, dir)
			if err != nil {
				return nil, err
			}
			built[name] = argv
		}
		servers[i] = Server{Peer: p, argv: built[name]}
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
	c := proc.Command{Argv: append(s.argv[:len(s.argv):len(s.argv)], "0"), CPU: cpu}
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
