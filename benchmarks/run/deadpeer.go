package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/netty"
)

// ways are those in which peers vanish. They are what pulsebench can make of
// connections without being root.
var ways = []string{"silent", "frozen", "fin", "deaf"}

var falseVerdicts = rounds.Figure{Key: "false_verdicts", Name: "false verdicts", Unit: "connections"}

// wayFigures are what is learnt of one way, in the order of the table.
func wayFigures(way string) []rounds.Figure {
	figure := func(key, name, unit string) rounds.Figure {
		return rounds.Figure{Key: way + "_" + key, Name: way + " peers: " + name, Unit: unit}
	}
	return []rounds.Figure{figure("p50_s", "found after, median", "s"), figure("p99_s", "99th percentile", "s"),
		figure("max_s", "at most", "s"), figure("missed", "not found", "%")}
}

// promise is what all detectors are set to.
const promise = 9 * time.Second

// detectLimit is how long verdicts are awaited, beyond twice the promise.
const detectLimit = 25 * time.Second

// deadPeer has all servers at once, since the load is next to nothing, and their
// verdicts take many seconds.
func deadPeer(name string, conns int) workload {
	w := workload{
		name: name,
		title: fmt.Sprintf("Peers that die: 40 %% of %d connections, with heartbeats of 1 s; detectors are set to find them within %v",
			conns, promise),
		work:  control.Echo,
		order: rounds.Abreast, cycles: 1, slice: 5 * time.Second,
		against: []string{},
		own:     true, share: 0.2,
		table: deadPeerTable,
	}
	for _, way := range ways {
		w.figures = append(w.figures, wayFigures(way)...)
	}
	w.figures = append(w.figures, falseVerdicts)
	w.entries = func(t *tools, found []peers.Peer, smoke bool) []rounds.Entry {
		vanish, limit, conns := ways, detectLimit, conns
		if smoke {
			vanish, limit, conns = []string{"fin"}, 5*time.Second, 20
		}
		return rounds.Entries(detectors(found, smoke), func(ctx context.Context, at rounds.Site) (rounds.Session, error) {
			return benching{func(d time.Duration) (rounds.Seen, error) {
				o, err := t.run(ctx, at, d+limit+time.Minute, "-workload", "deadpeer", "-conns", strconv.Itoa(conns), "-dead", "0.4",
					"-vanish", strings.Join(vanish, ","), "-heartbeat", "1s", "-warmup", "100ms", "-duration", d.String(), "-detect-limit", limit.String())
				if err != nil {
					return rounds.Seen{}, err
				}
				return o.detections(name, conns)
			}}, nil
		})
	}
	return w
}

// detectors are those whose programs are measured anyway.
func detectors(found []peers.Peer, smoke bool) []peers.Peer {
	all, err := peers.Lookup(peers.Detectors)
	if err != nil {
		panic(err) // the list is a constant
	}
	return slices.DeleteFunc(all, func(p peers.Peer) bool {
		if p.Program() == slowServer {
			return smoke || netty.Find() != nil
		}
		return !slices.ContainsFunc(found, func(f peers.Peer) bool { return f.Program() == p.Program() })
	})
}

// detections are the figures of a run with peers that died.
func (o outcome) detections(name string, conns int) (rounds.Seen, error) {
	seen := o.seen(name, conns)
	if o.DeadPeer == nil {
		return seen, fmt.Errorf("no peer vanished: %s", strings.Join(o.Problems, "; "))
	}
	seen.Figures[falseVerdicts.Key] = float64(o.DeadPeer.FalseVerdicts)
	for _, w := range o.DeadPeer.Ways {
		if w.Vanished == 0 {
			continue
		}
		f := wayFigures(w.Way)
		if w.Found > 0 {
			seen.Figures[f[0].Key], seen.Figures[f[1].Key], seen.Figures[f[2].Key] = w.P50, w.P99, w.Max
		}
		seen.Figures[f[3].Key] = 100 * float64(w.Vanished-w.Found) / float64(w.Vanished)
	}
	seen.Notes = append(seen.Notes, o.DeadPeer.Skipped...)
	return seen, nil
}

// deadPeerTable has the percentiles and what was not found side by side.
func deadPeerTable(m *measured) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Seconds from the moment of vanishing to the server's FIN or RST: median / 99th percentile / longest, medians of %d rounds (the longest: of all), "+
		"and how many were not found while pulsebench waited. A deaf peer goes on beating, but reads nothing; only a server that has something to send it can know.\n\n", m.Rounds)
	fmt.Fprintf(&b, "| server | %s | false verdicts |\n|%s\n", strings.Join(ways, " | "), strings.Repeat(" --- |", 2+len(ways)))
	for _, e := range m.Entries {
		fmt.Fprintf(&b, "| %s: %s |", e.Name, e.About)
		for _, way := range ways {
			f := wayFigures(way)
			fmt.Fprintf(&b, " %s |", strings.Join(slices.DeleteFunc([]string{m.times(e.Name, f), m.missed(e.Name, f[3])}, func(s string) bool { return s == "" }), ", "))
		}
		fmt.Fprintf(&b, " %.0f |\n", sum(m.values(e.Name, falseVerdicts)))
	}
	return b.String()
}

func (m *measured) times(server string, f []rounds.Figure) string {
	longest := m.values(server, f[2])
	if len(longest) == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f / %.2f / %.2f", stats.Median(m.values(server, f[0])), stats.Median(m.values(server, f[1])), slices.Max(longest))
}

func (m *measured) missed(server string, f rounds.Figure) string {
	shares := m.values(server, f)
	if sum(shares) == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f %% not found", sum(shares)/float64(len(shares)))
}

// values are those of a figure, of the rounds that have it.
func (m *measured) values(server string, f rounds.Figure) (values []float64) {
	for _, s := range m.samples {
		if v := s.Value(f); s.Server == server && !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	return values
}

func sum(xs []float64) (total float64) {
	for _, x := range xs {
		total += x
	}
	return total
}
