package rounds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

// Bench is what plans are measured on: programs that are built, and processors
// that are chosen. Several plans take turns on one where all that is compared is
// to be measured in the same hour.
type Bench struct {
	// Shared says that server and load have to share a processor.
	Shared bool

	dir       string
	program   load.Program
	servers   map[string]peers.Server // by program
	serverCPU int
	loadCPU   int
}

// Open builds the load and the programs of all peers that plans on this bench
// name. The caller closes it.
func Open(ctx context.Context, name string, all []peers.Peer, progress io.Writer) (b *Bench, err error) {
	b = &Bench{servers: make(map[string]peers.Server)}
	if b.serverCPU, b.loadCPU, b.Shared, err = proc.Pair(); err != nil {
		return nil, err
	}
	if b.Shared {
		fmt.Fprintln(progress, "only one processor may be used: server and load share it")
	}
	if b.dir, err = os.MkdirTemp("", "pulsewheel-"+name+"-"); err != nil {
		return nil, err
	}
	if b.program, err = load.Build(ctx, b.dir); err != nil {
		b.Close()
		return nil, err
	}
	servers, err := peers.Build(ctx, b.dir, all)
	if err != nil {
		b.Close()
		return nil, err
	}
	for _, s := range servers {
		b.servers[s.Program()] = s
	}
	return b, nil
}

// Dir is the folder of what is built, which Close removes.
func (b *Bench) Dir() string { return b.dir }

// Close removes what was built.
func (b *Bench) Close() { _ = os.RemoveAll(b.dir) } // what is left of it is the system's to clean

// Round measures each of the plan's entries once.
func (b *Bench) Round(ctx context.Context, p Plan, round int, random *rand.Rand) ([]Sample, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	samples, err := b.measure(ctx, p, random)
	if err != nil {
		return nil, fmt.Errorf("round %d, %w", round+1, err)
	}
	for i := range samples {
		s := &samples[i]
		s.Round = round
		f := p.Figures[0]
		fmt.Fprintf(p.Progress, "round %d/%d  %-18s %10.1f %s (%s), %9d messages, server busy %3.0f %%, others %.2f CPUs\n",
			round+1, p.Rounds, s.Server, s.Value(f), f.Unit, f.Name, s.Messages, 100*s.ServerBusy(), s.Others())
	}
	return samples, nil
}

// alive is an entry whose server and load run.
type alive struct {
	Entry
	server  *peers.Running
	session Session
	seen    []Seen
}

// start starts the server of an entry, unless one before it has done so, and puts
// its load on it.
func (b *Bench) start(ctx context.Context, e Entry, before []*alive) (*alive, error) {
	s, built := b.servers[e.Peer.Program()]
	if !built {
		return nil, fmt.Errorf("%s is not built on this bench", e.Peer.Name)
	}
	s.Peer = e.Peer
	serverCPU, loadCPU := b.serverCPU, b.loadCPU
	if e.Peer.Loops() > 1 { // all that there are, and the load has to find its place among them
		serverCPU, loadCPU = proc.AnyCPU, proc.AnyCPU
	}
	a := &alive{Entry: e}
	started := slices.IndexFunc(before, func(other *alive) bool { return e.shares(other.Entry) })
	var err error
	if started >= 0 {
		a.server = before[started].server
	} else if a.server, err = s.Start(ctx, serverCPU); err != nil {
		return nil, fmt.Errorf("%s: %w", e.Name, err)
	}
	a.session, err = e.Load(ctx, Site{b.program, loadCPU, load.Target{Port: a.server.Port, PID: a.server.PID(), Warmup: e.Peer.WarmUp()}, a.server})
	if err != nil {
		if started < 0 {
			err = errors.Join(err, a.server.Stop())
		}
		return nil, fmt.Errorf("%s: %w", e.Name, err)
	}
	return a, nil
}

func (a *alive) window(p Plan) error {
	seen, err := a.session.Window(p.Slice)
	if err != nil {
		return fmt.Errorf("%s: %w", a.Name, err)
	}
	a.seen = append(a.seen, seen)
	return nil
}

// end ends a load, and its server if no entry after it is on that, too.
func (a *alive) end(after []*alive) error {
	err := a.session.End()
	if !slices.ContainsFunc(after, func(other *alive) bool { return other.server == a.server }) {
		err = errors.Join(err, a.server.Stop())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", a.Name, err)
	}
	return nil
}

// measure has all entries alive at once.
func (b *Bench) measure(ctx context.Context, p Plan, random *rand.Rand) (samples []Sample, err error) {
	var all []*alive
	defer func() {
		for i, a := range all {
			err = errors.Join(err, a.end(all[i+1:]))
		}
	}()
	for _, i := range random.Perm(len(p.Entries)) {
		a, err := b.start(ctx, p.Entries[i], all)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	for range p.Cycles {
		if p.Order == Abreast {
			errs := make([]error, len(all))
			var windows sync.WaitGroup
			for i, a := range all {
				windows.Go(func() { errs[i] = a.window(p) })
			}
			windows.Wait()
			if err := errors.Join(errs...); err != nil {
				return nil, err
			}
			continue
		}
		for _, i := range random.Perm(len(all)) {
			if err := all[i].window(p); err != nil {
				return nil, err
			}
		}
	}
	for place, a := range all {
		samples = append(samples, newSample(p, place, a))
	}
	return samples, nil
}
