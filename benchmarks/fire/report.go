//go:build linux

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
)

func (c soakConfig) run(ctx context.Context) (findings, error) {
	s, err := runSoak(ctx, c)
	if s == nil {
		return nil, err
	}
	return s, err
}

// checkKinds finds names that are none.
func (c *soakConfig) checkKinds() error {
	events := []string{eventStop, eventGC, eventFiles, eventMass, eventBlock, eventFlood}
	for _, name := range c.Kinds {
		if kindByName(name) == nil && !slices.Contains(events, name) {
			var all []string
			for _, k := range kinds {
				if !k.special {
					all = append(all, k.name)
				}
			}
			return fmt.Errorf("no kind %q; there are %s", name, strings.Join(append(all, events...), ", "))
		}
	}
	return nil
}

func (s *soak) verdicts() []invariant { return s.invariants }

func writeInvariants(b *strings.Builder, list []invariant) {
	fmt.Fprintf(b, "| invariant | | |\n| --- | --- | --- |\n")
	for _, i := range list {
		word := "holds"
		if !i.Holds {
			word = "BROKEN"
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", i.Name, word, strings.ReplaceAll(i.Detail, "|", "\\|"))
	}
	fmt.Fprintln(b)
}

func writeLatency(b *strings.Builder, rows []latencyRow) {
	fmt.Fprintf(b, "| | | answers | p50 ms | p99 ms | p99.9 ms | max ms |\n|%s\n", strings.Repeat(" --- |", 7))
	for _, r := range rows {
		fmt.Fprintf(b, "| %s | %s | %d | %.2f | %.2f | %.2f | %.2f |\n", r.What, r.Phase, r.Count, r.P50, r.P99, r.P999, r.Max)
	}
	fmt.Fprintln(b)
}

func (c *serverConfig) describe() string {
	l := c.Limits
	return fmt.Sprintf("%d loops, backlog of %d KiB a connection, minimum drain rate %d B/s over %v, budget %d MiB, SO_SNDBUF %d KiB, "+
		"%d workers with queues of %d, frames done within %v, pauses within %v, linger %v, first frame within %v, accept rate %d/s, "+
		"at most %d connections a prefix, idle ones evicted after %v, liveness %v",
		l.Loops, l.Backlog.High>>10, l.Backlog.DrainRate, l.Backlog.DrainWindow, l.Budget>>20, l.SendBuffer>>10,
		l.Work.Workers, l.Work.Queue, l.FrameTimeout, l.MaxPause, l.Linger, c.FirstFrame, c.Rate, c.PerPrefix, c.EvictIdle, c.Liveness)
}

func (s *soak) markdown(facts machine.Facts) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Fire: every nasty kind of client at once\n\n")
	fmt.Fprintf(&b, "%v of storm after %v of calm, against one server process with two listeners: one whose handlers run on the loop, "+
		"one with engine.Ordered. Server: %s.\n\n", time.Duration(s.storm.to-s.storm.from).Round(time.Second),
		time.Duration(s.calm.to-s.calm.from).Round(time.Second), s.config.Server.describe())
	writeInvariants(&b, s.invariants)

	fmt.Fprintf(&b, "## The untouched\n\n%s. Latency counts from when a message was due, not from when it was sent. "+
		"The storm's row leaves out the seconds with %s, up to one second after: then nobody can be answered; they have rows of their own. "+
		"Everything else is in it. The nasty clients run under SCHED_IDLE, so that what is seen is the server, and not who gets the processor that "+
		"all share; rows from sending leave out what the client itself was late by. Messages sent later than a second after they were due: %d. Others used %.2f processors in the calm and %.2f in the storm: "+
		"with much more than 0.1, measure again.\n\n",
		capital(kindByName("untouched").about), strings.Join(excluded, " and "), s.missed, s.others[0], s.others[1])
	writeLatency(&b, s.latency)

	fmt.Fprintf(&b, "## Kinds\n\nConnections as the clients count them and as the server does (a client that gave up in the kernel's queue may or may not have been one), "+
		"and why the server's ended. Messages that Send or a broadcast took, those that clients got, those that the engine counted as unsent; "+
		"the rest was with the kernels when somebody left or reset.\n\n")
	fmt.Fprintf(&b, "| kind | what it does | clients | served | reasons | clients saw | taken | got | unsent |\n|%s\n", strings.Repeat(" --- |", 9))
	s.mu.Lock()
	for _, k := range kinds {
		c := s.ledger.kinds[k.name]
		if c == nil {
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %s | %s | %d | %d | %d |\n", k.name, k.about, c.Clients, c.Served, counts(c.Reasons), counts(c.Ends), c.Taken, c.Got, c.Unsent)
	}
	starved, excused := 0, 0
	for _, c := range s.ledger.kinds {
		starved += c.Starved
		excused += c.Excused
	}
	fmt.Fprintf(&b, "\n%d clients lived in a second in which their process did not get to run as it should; of them %d missed a deadline of the server's and are excused.\n", starved, excused)
	s.mu.Unlock()
	e := s.last.Engine
	fmt.Fprintf(&b, "\nDone to the server: %s. ", counts(s.events))
	for i, r := range s.massResults {
		if i == 0 {
			fmt.Fprintf(&b, "%d at once: ", s.config.Mass)
		} else {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d answered", r.Answered)
		if r.Took > 0 {
			fmt.Fprintf(&b, " after %.1f s", r.Took.Seconds())
		}
	}
	fmt.Fprintf(&b, "\n\nThe engine counted: %d accept errors, %d times a listener waited, %d refused, %d evicted, %d pauses, %d deliveries of broadcasts, "+
		"%d panics and Goexits, %d blocked loops, lag of at most %v, %v of stalls not held against peers (%v were); %d tasks, %d refused. "+
		"Broadcasts: %d, and %d that the budget left no room for. Logged: %s.\n",
		e.AcceptErrors, e.Parks, e.Refused, e.Evicted, e.Pauses, e.Broadcasts, e.Panics, e.Blocked,
		e.Lag.Round(time.Millisecond), e.Stalled.Round(time.Millisecond), e.StallExcess.Round(time.Millisecond),
		s.last.Work.Done, s.last.Work.Refused, s.last.Casts, s.last.CastSkips, counts(s.last.Logs))

	fmt.Fprintf(&b, "\n## Over time\n\nBefore: %s. After: %s.\n\n", s.before, s.after)
	fmt.Fprintf(&b, "| second | RSS MiB | objects MiB | held KiB | open | opened | goroutines | descriptors | stuck tasks | server CPUs | load CPUs | p99 ms loop | p99 ms Ordered |\n|%s\n", strings.Repeat(" --- |", 13))
	step := max((len(s.samples)+29)/30, 1)
	for i := 0; i < len(s.samples); i += step {
		part := s.samples[i:min(i+step, len(s.samples))]
		x := part[len(part)-1]
		rss, heap, held, open := x.RSS, x.Heap, x.Held, x.Open
		var server, load float64
		for _, y := range part {
			rss, heap, held, open = max(rss, y.RSS), max(heap, y.Heap), max(held, y.Held), max(open, y.Open)
			server += y.ServerCPU / float64(len(part))
			load += y.LoadCPU / float64(len(part))
		}
		from, to := s.begun+int64((part[0].At-1)*1e9), s.begun+int64(x.At*1e9)
		p99 := func(what string) float64 {
			return float64(s.between(what, from-from%slice, to, nil).quantile(0.99)) / 1e6
		}
		fmt.Fprintf(&b, "| %.0f | %.1f | %.1f | %d | %d | %d | %d | %d | %d | %.2f | %.2f | %.2f | %.2f |\n",
			x.At, mib(rss), mib(heap), held>>10, open, x.Opened, x.Goroutines, x.Files, x.Stuck, server, load, p99("loop"), p99("Ordered"))
	}
	fmt.Fprintf(&b, "\nMemory, held output and connections are the largest of each stretch; p99 is of all messages due in it, with nothing left out.\n\n%s", facts.Markdown())
	return b.String()
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func (s *soak) lines(facts machine.Facts) []any {
	c := s.config
	lines := []any{
		labelled{"facts", facts},
		labelled{"setup", map[string]any{
			"storm_s": time.Duration(s.storm.to - s.storm.from).Seconds(), "calm_s": time.Duration(s.calm.to - s.calm.from).Seconds(),
			"smoke": c.Smoke, "kinds": c.Kinds, "mass": c.Mass, "server": c.Server,
		}},
		labelled{"before", s.before}, labelled{"after", s.after}, labelled{"stats", s.last},
	}
	for _, i := range s.invariants {
		lines = append(lines, labelled{"invariant", i})
	}
	for _, l := range s.latency {
		lines = append(lines, labelled{"latency", l})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range kinds {
		if count := s.ledger.kinds[k.name]; count != nil {
			lines = append(lines, labelled{"kind", map[string]any{"name": k.name, "count": count}})
		}
	}
	for _, w := range s.windows {
		lines = append(lines, labelled{"window", map[string]any{
			"what": w.What, "from_s": float64(w.From-s.begun) / 1e9, "to_s": float64(w.To-s.begun) / 1e9,
		}})
	}
	for _, x := range s.samples {
		lines = append(lines, labelled{"sample", x})
	}
	perSecond := int64(time.Second) / slice
	for _, what := range []string{"loop", "Ordered"} {
		bySecond := make(map[int64]*histogram)
		for at, h := range s.latencies[what] {
			if bySecond[at/perSecond] == nil {
				bySecond[at/perSecond] = new(histogram)
			}
			bySecond[at/perSecond].add(h)
		}
		for _, second := range slices.Sorted(maps.Keys(bySecond)) {
			r := row(what, "", bySecond[second])
			lines = append(lines, labelled{"second", map[string]any{
				"at_s": float64(second*int64(time.Second)-s.begun) / 1e9, "what": what, "count": r.Count, "p50_ms": r.P50, "p99_ms": r.P99, "max_ms": r.Max,
			}})
		}
	}
	return lines
}
