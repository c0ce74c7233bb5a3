package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

// workload is one way to load servers, and what is learnt from it.
type workload struct {
	name  string // of files and in tables
	title string
	work  control.Work

	figures []rounds.Figure
	order   rounds.Order
	cycles  int
	slice   time.Duration
	against []string // see [rounds.Plan]
	// entries puts the load on what is measured of these servers; smoke asks for as
	// little as shows that it works.
	entries func(t *tools, found []peers.Peer, smoke bool) []rounds.Entry
	// slow says that it has a server, too, that must be warm first (see slowServer).
	slow bool
	// few says that of the default servers only those are measured whose figures have
	// something to be measured against, because each takes seconds a round.
	few bool
	// own says that its entries are not one for each server, so that it has no
	// column in the summary.
	own bool
	// share is the part of all rounds that it takes, if not all.
	share float64
	// conns is how many connections one entry has, for the estimate.
	conns int
	// table is in place of the usual tables.
	table func(m *measured) string
}

// Windows. A message takes a server 1 to 10 µs, so 30 ms are thousands of
// them, and still short beside what a machine does to its guests. With more
// connections a window is longer, so that each is served in it; a broadcast to
// 10,000 takes nearly 100 ms.
const (
	cycles = 12
	slice  = 30 * time.Millisecond

	cyclesOfMany = 5
	sliceOfMany  = 150 * time.Millisecond
)

// workloads lists them in the order of the tables.
var workloads = []workload{
	slowly(echo("echo-64", 1000, 4, 64, cycles, slice)),
	echo("echo-64-depth-1", 1000, 1, 64, cycles, slice),
	echo("echo-4k", 1000, 4, 4<<10, cycles, slice),
	echo("echo-64k", 200, 2, 64<<10, cycles, slice),
	echo("echo-10k-conns", 10_000, 1, 64, 8, sliceOfMany),
	room("room", 48, 21),
	few(broadcast("broadcast", 10_000)),
	churn("churn", 64),
	few(heartbeat("heartbeat", 15_000)),
	open(atRate, 1000),
	deadPeer("deadpeer", 200),
	growth("growth", 100, 1_000, 10_000, 18_000),
	scaling("scaling", 1000),
}

// warmup is for how long each server is loaded before its first window.
const warmup = 100 * time.Millisecond

func few(w workload) workload {
	w.few = true
	return w
}

func slowly(w workload) workload {
	w.slow = true
	return w
}

// everyone puts a mode on every server, a small one in a smoke run.
func everyone(full, small load.Mode) func(*tools, []peers.Peer, bool) []rounds.Entry {
	return func(_ *tools, found []peers.Peer, smoke bool) []rounds.Entry {
		if smoke {
			return rounds.Entries(found, rounds.Mode(small))
		}
		return rounds.Entries(found, rounds.Mode(full))
	}
}

func echo(name string, conns, depth, payload, cycles int, slice time.Duration) workload {
	return workload{
		name:    name,
		title:   fmt.Sprintf("Echo of %d B over %d connections, %d under way on each", payload, conns, depth),
		work:    control.Echo,
		figures: []rounds.Figure{rounds.CPU("message")},
		cycles:  cycles, slice: slice, conns: conns,
		entries: everyone(load.Echo{Conns: conns, Depth: depth, Payload: payload, Warmup: warmup},
			load.Echo{Conns: 20, Depth: depth, Payload: payload}),
	}
}

func room(name string, rooms, members int) workload {
	return workload{
		name: name,
		title: fmt.Sprintf("%d rooms of %d members, one message of 64 B at a time in each, which goes to the %d others",
			rooms, members, members-1),
		work:    control.Room,
		figures: []rounds.Figure{rounds.CPU("delivery")},
		cycles:  cycles, slice: slice, conns: rooms * members,
		entries: everyone(load.Room{Conns: rooms * members, Members: members, Depth: 1, Payload: 64, Warmup: warmup},
			load.Room{Conns: 9, Members: 3, Depth: 1, Payload: 64}),
	}
}

func broadcast(name string, conns int) workload {
	return workload{
		name:    name,
		title:   fmt.Sprintf("Broadcasts of 64 B to %d connections, one at a time", conns),
		work:    control.Broadcast,
		figures: []rounds.Figure{rounds.CPU("delivery")},
		cycles:  cyclesOfMany, slice: sliceOfMany, conns: conns,
		entries: everyone(load.Broadcast{Conns: conns, Depth: 1, Payload: 64, Warmup: warmup},
			load.Broadcast{Conns: 20, Depth: 1, Payload: 64}),
	}
}

func churn(name string, atOnce int) workload {
	return workload{
		name:    name,
		title:   fmt.Sprintf("Connections that are made, have 64 B echoed and are reset, %d at a time", atOnce),
		work:    control.Echo,
		figures: []rounds.Figure{rounds.CPU("cycle")},
		cycles:  cycles, slice: slice, conns: atOnce,
		entries: everyone(load.Churn{AtOnce: atOnce, Payload: 64, Warmup: warmup},
			load.Churn{AtOnce: 4, Payload: 64}),
	}
}

var (
	p99 = rounds.Figure{Key: "p99_us", Name: "99th percentile of the latency", Unit: "µs"}
	p50 = rounds.Figure{Key: "p50_us", Name: "median latency", Unit: "µs"}
)

// capacity is the part of the floor's closed loop that is the open loop's rate.
const capacity = 0.5

// open sends at a fixed rate, whatever the answers do. Its windows are longer than
// those of closed loops, since a percentile needs many messages.
func open(name string, conns int) workload {
	return workload{
		name: name,
		title: fmt.Sprintf("Open loop: 64 B over %d connections at %.0f %% of the rate that the floor has in a closed loop with one message under way on each; latency from when a message was due",
			conns, 100*capacity),
		work:    control.Echo,
		figures: []rounds.Figure{p99, p50, rounds.CPU("message")},
		cycles:  cycles, slice: 3 * slice, conns: conns,
		entries: func(t *tools, found []peers.Peer, smoke bool) []rounds.Entry {
			return rounds.Entries(found, func(ctx context.Context, at rounds.Site) (rounds.Session, error) {
				o := load.Open{Conns: conns, Payload: 64, Rate: t.rate, Warmup: warmup}
				if smoke {
					o.Conns, o.Warmup = 20, 0
				}
				return rounds.Mode(o)(ctx, at)
			})
		},
	}
}

// growth compares servers with themselves when they have few connections.
func growth(name string, counts ...int) workload {
	w := workload{
		name:    name,
		title:   "Echo of 64 B, one under way on each connection, as connections become more",
		work:    control.Echo,
		figures: []rounds.Figure{rounds.CPU("message")},
		cycles:  cyclesOfMany, slice: sliceOfMany,
		against: []string{ours + grown(counts[0]), peers.Floor + grown(counts[0])},
		own:     true, share: 0.5,
	}
	for _, n := range counts {
		w.conns += n / len(counts)
	}
	w.entries = func(_ *tools, found []peers.Peer, smoke bool) (entries []rounds.Entry) {
		for _, p := range found {
			if p.Name != ours && p.Name != peers.Floor {
				continue
			}
			for _, n := range counts {
				e := load.Echo{Conns: n, Depth: 1, Payload: 64, Warmup: warmup}
				if smoke {
					e.Conns, e.Warmup = max(2, n/200), 0
				}
				entries = append(entries, rounds.Entry{
					Name: p.Name + grown(n), About: fmt.Sprintf("%d connections", n), Peer: p, Load: rounds.Mode(e)})
			}
		}
		return entries
	}
	return w
}

// grown is the end of an entry's name.
func grown(conns int) string { return fmt.Sprintf(", %d", conns) }

// ours is this project's server, and ofTwo the same with two loops.
const (
	ours  = "pulsewheel"
	ofTwo = "pulsewheel+loops=2"
)

// rate is how much a server does at all, where that is the question.
var rate = rounds.Figure{Key: "rate", Name: "messages", Unit: "1/s", More: true, Of: load.Result.Rate}

func loadShare(r load.Result) float64 { return 100 * r.LoadBusy() / float64(runtime.NumCPU()) }

// scaling has two loops on two processors, among which the load has to find its
// place, beside one loop on one and the load on the other.
func scaling(name string, conns int) workload {
	return workload{
		name:  name,
		title: fmt.Sprintf("Echo of 64 B over %d connections, 4 under way on each: one loop beside the load's processor, and two on both", conns),
		work:  control.Echo,
		figures: []rounds.Figure{rate, rounds.CPU("message"),
			{Key: "load_share", Name: "the load's part of all processors", Unit: "%", Of: loadShare}},
		cycles: cycles, slice: 2 * slice, conns: conns,
		against: []string{ours},
		own:     true,
		entries: func(_ *tools, found []peers.Peer, smoke bool) []rounds.Entry {
			var loops []peers.Peer
			for _, p := range found {
				if p.Name == ours {
					two, err := peers.Lookup(ofTwo)
					if err != nil {
						panic(err) // the name is a constant
					}
					loops = append([]peers.Peer{p}, two...)
				}
			}
			return everyone(load.Echo{Conns: conns, Depth: 4, Payload: 64, Warmup: warmup},
				load.Echo{Conns: 20, Depth: 4, Payload: 64})(nil, loops, smoke)
		},
	}
}
