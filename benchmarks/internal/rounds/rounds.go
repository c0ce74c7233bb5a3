// Package rounds measures servers beside each other, so that they can be
// compared: each is a process of its own, bound to one processor, and loaded from
// another.
//
// Machines are not the same from one second to the next, least of all those that
// are shared: what a server takes for a message varies by 15 % and more, for
// reasons outside of it, and servers measured one after the other for seconds
// each get different machines. So all servers of a [Plan] are alive at once in a
// round, each with a load of its own, quiet but for windows of milliseconds which
// they are given in turn; in a cycle each has one, in random order. A cycle is so
// short that it is one machine for all of them. The ratio of two servers in a
// round is the median of their ratios within its cycles; what the table shows is
// the median over the rounds, in each of which every server is a new process, and
// the interval is over these.
//
// Loads are compared in the same way, on one process that all of them have their
// connections to ([Entry.Process]).
//
// What takes long, and little of a processor, is measured at the same time
// ([Abreast]).
package rounds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

// Order says how the servers of a round share its time.
type Order int

const (
	// Alternating has all of them alive, and one window at a time.
	Alternating Order = iota
	// Abreast has the windows of a cycle at the same time.
	Abreast
)

// Plan says who is measured, and how often.
type Plan struct {
	// Name is that of the driver, or of the workload.
	Name   string
	Rounds int
	// Cycles is how many windows a server has in a round, and Slice how long each
	// is.
	Cycles int
	Slice  time.Duration
	Order  Order
	// Seed is that of the order within rounds, and of the bootstrap.
	Seed    uint64
	Entries []Entry
	// Figures is what is looked at; the first is the one in progress lines.
	Figures []Figure
	// Against names the entries that others are compared with, as far as they are
	// there; by default those that package peers refers to.
	Against  []string
	Progress io.Writer
}

// Entry is one server under one load.
type Entry struct {
	Name  string
	About string
	Peer  peers.Peer
	Load  Loader
	// Process names the server's process. Entries of the same name load one and the
	// same in turn, so that only their loads differ. Empty: it has one of its own.
	Process string
}

// Loader puts a load on a server and returns once it is ready for windows. What
// it returns ends with ctx.
type Loader func(ctx context.Context, at Site) (Session, error)

// Site is where a load is wanted.
type Site struct {
	Program load.Program
	CPU     int // to load from
	Target  load.Target
	Server  *peers.Running
}

// Session is a load, quiet outside of its windows.
type Session interface {
	Window(d time.Duration) (Seen, error)
	// End ends it and says whether all was well until now. A failed Window is
	// followed by End, too.
	End() error
}

// Seen is what a window saw.
type Seen struct {
	load.Result
	// Figures are those that do not follow from the Result, by key.
	Figures map[string]float64
	// Notes are what has to be known to judge it.
	Notes []string
}

// Figure is what servers are compared by. Less is better.
type Figure struct {
	Key  string // in files
	Name string
	Unit string
	// More says that more is better.
	More bool
	// Of is its value for a window, or all of a round's; nil if Seen has it.
	Of func(load.Result) float64
}

// CPU is the server's time per message, or what else is counted.
func CPU(message string) Figure {
	return Figure{Key: "cpu_ns", Name: "CPU per " + message, Unit: "ns", Of: load.Result.CPUPerMessage}
}

// Entries puts the same load on all these peers.
func Entries(all []peers.Peer, put Loader) (entries []Entry) {
	for _, p := range all {
		entries = append(entries, Entry{Name: p.Name, About: p.About, Peer: p, Load: put})
	}
	return entries
}

// Mode is a loader of package load.
func Mode(m load.Mode) Loader {
	return func(ctx context.Context, at Site) (Session, error) {
		s, err := at.Program.Start(ctx, at.CPU, at.Target, m)
		if err != nil {
			return nil, err
		}
		return windows{s}, nil
	}
}

type windows struct{ *load.Session }

func (w windows) Window(d time.Duration) (Seen, error) {
	r, err := w.Session.Window(d)
	seen := Seen{Result: r}
	if r.P99 > 0 {
		seen.Figures = map[string]float64{"p50_us": r.P50, "p99_us": r.P99}
	}
	return seen, err
}

// check says what cannot be measured.
func (p Plan) check() error {
	switch {
	case p.Rounds < 1:
		return fmt.Errorf("%d rounds asked for", p.Rounds)
	case p.Slice <= 0 || p.Cycles < 1:
		return fmt.Errorf("%d windows of %v asked for", p.Cycles, p.Slice)
	case len(p.Figures) == 0:
		return errors.New("no figure asked for")
	}
	for i, e := range p.Entries {
		for _, other := range p.Entries[:i] {
			switch {
			case other.Name == e.Name:
				return fmt.Errorf("%s is there twice", e.Name)
			case !e.shares(other):
			case other.Peer.Name != e.Peer.Name:
				return fmt.Errorf("%s and %s are to be one process", other.Peer.Name, e.Peer.Name)
			case p.Order == Abreast:
				return fmt.Errorf("%s and %s load one process at the same time", other.Name, e.Name)
			}
		}
	}
	return nil
}

// shares says whether two entries load the same process.
func (e Entry) shares(other Entry) bool { return e.Process != "" && e.Process == other.Process }

// Measure runs all rounds. Shared says that server and load had to share a
// processor.
func (p Plan) Measure(ctx context.Context) (samples []Sample, shared bool, err error) {
	if err := p.check(); err != nil {
		return nil, false, err
	}
	var all []peers.Peer
	for _, e := range p.Entries {
		all = append(all, e.Peer)
	}
	b, err := Open(ctx, p.Name, all, p.Progress)
	if err != nil {
		return nil, false, err
	}
	defer b.Close()
	random := rand.New(rand.NewPCG(p.Seed, 0))
	for round := range p.Rounds {
		more, err := b.Round(ctx, p, round, random)
		if err != nil {
			return nil, b.Shared, err
		}
		samples = append(samples, more...)
	}
	return samples, b.Shared, nil
}
