package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/netty"
)

// defaultServers has each server with the GOMAXPROCS that suits it better, gnet with
// both: that varies with the workload.
const defaultServers = "cfloor,gnet,gnet@2,gnet-opt@2,nbio@2,netpoll,gev@2,evio@2,std,zinx,pulsewheel"

// fewServers are those of workloads in which each takes seconds a round.
var fewServers = []string{peers.Floor, "gnet", "gnet@2", "std", ours}

// slowServer joins the default servers where it can be built, in some workloads
// only: it takes seconds to become as fast as it gets.
const slowServer = "netty"

type config struct {
	rounds             int
	servers, workloads string // "": the defaults
	seed               uint64
	smoke              bool
	progress           io.Writer
}

// measured is a workload, who it is put on, and what came of it.
type measured struct {
	workload
	rounds.Plan
	samples []rounds.Sample
}

// plans returns what is to be measured with these tools. A server whose framework
// cannot do a work is left out there.
func (c config) plans(t *tools) (plans []*measured, err error) {
	if c.rounds < 1 {
		return nil, fmt.Errorf("%d rounds asked for", c.rounds)
	}
	list := c.servers
	if list == "" {
		list = defaultServers
	}
	all, err := peers.Lookup(list)
	if err != nil {
		return nil, err
	}
	chosen := workloads
	if c.workloads != "" {
		chosen = nil
		for name := range strings.SplitSeq(c.workloads, ",") {
			i := slices.IndexFunc(workloads, func(w workload) bool { return w.name == name })
			if i < 0 {
				return nil, fmt.Errorf("no workload %q", name)
			}
			chosen = append(chosen, workloads[i])
		}
	}
	for _, w := range chosen {
		able, err := c.able(w, all)
		if err != nil {
			return nil, err
		}
		m := &measured{workload: w, Plan: rounds.Plan{Name: w.name, Rounds: c.rounds, Cycles: w.cycles, Slice: w.slice, Order: w.order,
			Seed: c.seed, Figures: w.figures, Against: w.against, Entries: w.entries(t, able, c.smoke), Progress: c.progress}}
		if w.share > 0 {
			m.Rounds = int(math.Ceil(w.share * float64(c.rounds)))
		}
		if c.smoke {
			m.Cycles, m.Slice = min(m.Cycles, 2), min(m.Slice, smokeSlice)
		}
		switch {
		case len(m.Entries) > 0:
			plans = append(plans, m)
		case c.workloads != "":
			return nil, fmt.Errorf("none of these servers can do %s", w.name)
		}
	}
	if len(plans) == 0 {
		return nil, errors.New("nothing to measure")
	}
	return plans, nil
}

// smokeSlice is long enough for a message of each workload on a busy machine.
const smokeSlice = 100 * time.Millisecond

// able are the servers that can do a workload, doing its work.
func (c config) able(w workload, all []peers.Peer) (able []peers.Peer, err error) {
	if w.slow && c.servers == "" && !c.smoke && netty.Find() == nil {
		slow, err := peers.Lookup(slowServer)
		if err != nil {
			return nil, err
		}
		all = slices.Concat(all, slow)
	}
	for _, p := range all {
		if w.few && c.servers == "" && !slices.Contains(fewServers, p.Name) {
			continue
		}
		if p, err := p.For(w.work); err == nil {
			able = append(able, p)
		}
	}
	return able, nil
}

// estimate is about how long all rounds take, for somebody who has to decide
// whether to wait. Of a workload with E entries of N connections, C cycles and
// windows of S, a round takes
//
//	E × (0.15 s to start and end a server and its load + 0.1 ms × N + warm-ups)
//	+ C × E × (1.2 S + 5 ms + 10 µs × N), since a window begins with a fifth of its length
//	  and ends with all that is under way
//
// With default servers this makes rounds of about 175 s, 45 minutes for 15:
//
//	echo-64 with netty's 8 s of warm-up 20, echo-64-depth-1, -4k, -64k, room, churn 7 to 12 each, echo-10k-conns 38,
//	broadcast 12, heartbeat 25, open 18, scaling 3 s; growth 15 s in every second, deadpeer 32 s in every fifth round
func estimate(plans []*measured) (total time.Duration) {
	for _, m := range plans {
		total += time.Duration(m.Rounds) * m.perRound()
	}
	return total
}

func (m *measured) perRound() (d time.Duration) {
	entries, conns := time.Duration(len(m.Entries)), time.Duration(m.conns)
	d = entries * (150*time.Millisecond + conns*100*time.Microsecond + warmup)
	window := m.Slice*6/5 + 5*time.Millisecond + conns*10*time.Microsecond
	if m.order == rounds.Abreast { // what pulsebench puts on them needs nobody warm
		return d + window + detectLimit
	}
	d += time.Duration(m.Cycles) * entries * window
	for _, e := range m.Entries {
		d += e.Peer.WarmUp()
	}
	return d
}

// measure runs all rounds. Shared says that server and load had to share a
// processor.
func measure(ctx context.Context, c config, t *tools, plans []*measured) (shared bool, err error) {
	var all []peers.Peer
	pulsebench, paced := false, false
	for _, m := range plans {
		for _, e := range m.Entries {
			all = append(all, e.Peer)
		}
		pulsebench = pulsebench || slices.Contains(throughPulsebench, m.name)
		paced = paced || m.name == atRate
	}
	floor, err := peers.Lookup(peers.Floor)
	if err != nil {
		return false, err
	}
	bench, err := rounds.Open(ctx, "run", append(all, floor...), c.progress)
	if err != nil {
		return false, err
	}
	defer bench.Close()
	if pulsebench {
		if err := t.build(ctx, bench.Dir()); err != nil {
			return bench.Shared, err
		}
	}
	random := rand.New(rand.NewPCG(c.seed, 0))
	if paced {
		if err := t.pace(ctx, c, bench, floor, random); err != nil {
			return bench.Shared, err
		}
	}
	if !c.smoke {
		fmt.Fprintf(c.progress, "about %v from now\n", estimate(plans).Round(time.Minute))
	}
	for round := range c.rounds {
		for _, i := range random.Perm(len(plans)) {
			m := plans[i]
			if round >= m.Rounds {
				continue
			}
			began := time.Now()
			samples, err := bench.Round(ctx, m.Plan, round, random)
			if err != nil {
				// After an interrupt, that is the cause of whatever failed.
				return bench.Shared, fmt.Errorf("%s: %w", m.name, cmp.Or(ctx.Err(), err))
			}
			m.samples = append(m.samples, samples...)
			fmt.Fprintf(c.progress, "%s took %v\n", m.name, time.Since(began).Round(100*time.Millisecond))
		}
	}
	return bench.Shared, nil
}

// throughPulsebench are the workloads that need the program.
var throughPulsebench = []string{"deadpeer"}

// atRate is the workload that needs a rate.
const atRate = "open"

// pace measures what the floor does in a closed loop, from which the rate of the
// open loop follows: with one message under way on each connection, since there
// are hardly ever two of them in an open loop, and messages that come together
// cost half as much.
func (t *tools) pace(ctx context.Context, c config, bench *rounds.Bench, floor []peers.Peer, random *rand.Rand) error {
	if c.smoke {
		t.rate = 2000
		return nil
	}
	p := rounds.Plan{Name: "pace", Rounds: 1, Cycles: 10, Slice: 200 * time.Millisecond, Figures: []rounds.Figure{rate},
		Entries:  rounds.Entries(floor, rounds.Mode(load.Echo{Conns: 1000, Depth: 1, Payload: 64, Warmup: warmup})),
		Progress: c.progress}
	samples, err := bench.Round(ctx, p, 0, random)
	if err != nil {
		return fmt.Errorf("the floor's closed loop: %w", err)
	}
	t.rate = capacity * samples[0].Value(rate)
	return nil
}
