package main

import (
	"fmt"
	"runtime"
	"time"
)

const (
	// talk is how often a client says something.
	talk = time.Second
	// sampling is how often the server tells its counters.
	sampling = 100 * time.Millisecond
	// pace is the time between two dials.
	pace = time.Millisecond

	minClients = 20
	// perProcess is how many clients share a process, at most.
	perProcess = 500
	// batches is how many groups vanish one after another, where not one
	// client can vanish but only a process or a loop.
	batches = 4
)

// spareFiles is what the server needs beside its connections.
var spareFiles = 64 + 8*runtime.GOMAXPROCS(0)

// plan says how many clients there are and what becomes of them.
type plan struct {
	clients int
	ways    []way // to vanish
	counts  map[way]int
	crews   []spec // the client processes
}

// newPlan divides n clients: one in twenty for each of the ways, the others
// healthy. files is how many files a process may open.
func newPlan(n int, files uint64, ways []way) (plan, error) {
	if n < minClients {
		return plan{}, fmt.Errorf("-n is %d, want at least %d", n, minClients)
	}
	// All connections meet in the server.
	if need := uint64(n + spareFiles); files < need {
		return plan{}, fmt.Errorf("-n %d takes %d open files in the server, and the limit (ulimit -Hn) is %d: use -n %d",
			n, need, files, max(int(files)-spareFiles, 0))
	}
	p := plan{clients: n, ways: ways, counts: make(map[way]int)}
	each := n / 20
	for _, w := range ways {
		p.counts[w] = each
		p.hire(w, each, n)
	}
	p.counts[healthy] = n - each*len(ways)
	p.hire(healthy, p.counts[healthy], n)
	return p, nil
}

// hire spreads the clients of one way over processes.
func (p *plan) hire(w way, count, n int) {
	processes := (count + perProcess - 1) / perProcess
	if w == killed || w == frozen {
		processes = max(processes, min(count, batches))
	}
	for i := range processes {
		p.crews = append(p.crews, spec{
			Way:     w,
			Clients: count*(i+1)/processes - count*i/processes,
			Spread:  time.Duration(n) * pace,
		})
	}
}

// victims counts those that are to vanish.
func (p plan) victims() int { return p.clients - p.counts[healthy] }

// talkers counts those that are connected before anyone vanishes.
func (p plan) talkers() int { return p.clients - p.counts[silent] }
