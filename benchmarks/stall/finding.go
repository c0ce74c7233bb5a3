//go:build linux

package main

import (
	"fmt"
	"time"

	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// span is a time for which a watcher was stopped.
type span struct{ From, To int64 }

// sample is for how long the watcher had waited for a processor at a time.
type sample struct {
	at     int64
	waited time.Duration
}

// moment is how many pings a watcher sent in a time.
type moment struct {
	For   time.Duration `json:"for"`
	Pings uint64        `json:"pings"`
}

// finding is what one watcher did.
type finding struct {
	scenario *scenario
	Side     string `json:"stopped"`
	Guarded  bool   `json:"guarded"`

	stops   []span
	died    [numOfGroups]int64
	samples []sample

	// The watcher's reports: a moment after the long stop, after the short ones,
	// and when everything that was to happen had time to.
	AfterLong  partyReport `json:"after_long"`
	AfterShort partyReport `json:"after_short"`
	End        partyReport `json:"end"`
	PeersEnd   partyReport `json:"peers_end"` // of the live peers' own process

	// Awake is the second after the long stop, in pieces.
	Awake []moment `json:"awake"`

	invariants []invariant
}

// invariant is one thing that must be true, and whether it is.
type invariant struct {
	Name   string `json:"name"`
	Holds  bool   `json:"holds"`
	Detail string `json:"detail"`
}

func (f *finding) title() string {
	guard := "guarded"
	if !f.Guarded {
		guard = "unguarded"
	}
	return fmt.Sprintf("%s: %s stopped, %s", f.scenario.Name, f.Side, guard)
}

func (r *partyReport) opened() (n int) {
	for _, g := range r.Groups {
		n += g.Opened
	}
	return n
}

func (r *partyReport) closed() (n int) {
	for _, g := range r.Groups {
		n += g.Closed
	}
	return n
}

// stopped returns for how long the watcher was stopped between two times.
func (f *finding) stopped(from, to int64) (sum time.Duration) {
	for _, s := range f.stops {
		sum += time.Duration(max(0, min(s.To, to)-max(s.From, from)))
	}
	return sum
}

// starved returns for how long the watcher waited for a processor between two
// times, or around them: others use the machine, too.
func (f *finding) starved(from, to int64) time.Duration {
	var before, after time.Duration
	for _, s := range f.samples {
		if s.at <= from {
			before = s.waited
		}
		if after = s.waited; s.at >= to {
			break
		}
	}
	return max(0, after-before)
}

// bound is the latest that the last peer of a group may be ended at: WorstCase
// and a tick after it died, not counting the time for which the watcher did not
// run until the group's last peer was ended.
func (f *finding) bound(g int) time.Duration {
	last := f.End.Groups[g].Last
	if f.End.Groups[g].Closed == 0 {
		last = now()
	}
	return f.scenario.Watch.WorstCase() + heartbeat.Tick + f.stopped(f.died[g], last) + f.starved(f.died[g], last) + f.scenario.Slack
}

// latest is when the last peer of a group must have been ended, given all stops
// so far.
func (f *finding) latest(g int) int64 {
	wait := f.scenario.Watch.WorstCase() + heartbeat.Tick + f.scenario.Slack
	return f.died[g] + int64(wait+f.stopped(f.died[g], now())+f.starved(f.died[g], now()))
}

// took is the longest that a peer of the group was dead before it was ended.
func (f *finding) took(g int) time.Duration {
	return time.Duration(f.End.Groups[g].Last - f.died[g])
}

// falseVerdicts returns how many live peers were ended, by when.
func (f *finding) falseVerdicts() (long, short, later int) {
	a, b, c := f.AfterLong.Groups[live].Closed, f.AfterShort.Groups[live].Closed, f.End.Groups[live].Closed
	return a, b - a, c - b
}

// burst returns how many times as many pings were sent in one of the moments
// after the long stop as in their mean.
func (f *finding) burst() (most float64) {
	var sum moment
	for _, m := range f.Awake {
		sum.For += m.For
		sum.Pings += m.Pings
	}
	for _, m := range f.Awake {
		if sum.Pings > 0 {
			mean := float64(sum.Pings) / float64(sum.For)
			most = max(most, float64(m.Pings)/float64(max(m.For, pace))/mean)
		}
	}
	return most
}

// mostBurst is how far from even the pings may be after a stop: with all in the
// first of ten moments it would be 10.
const mostBurst = 5

// judge fills in what must hold and whether it does.
func (f *finding) judge() {
	s := f.scenario
	holds := func(ok bool, name, format string, args ...any) {
		f.invariants = append(f.invariants, invariant{name, ok, fmt.Sprintf(format, args...)})
	}
	long, short, later := f.falseVerdicts()
	ended := f.End.Groups[live]
	if !f.Guarded {
		if s.NeedsGuard {
			holds(ended.Closed > 0, "without the guard there are false verdicts",
				"%d of %d live peers ended (%d after the long stop, %d during the short ones, %d later): %v",
				ended.Closed, s.Peers, long, short, later, ended.Reasons)
		}
		return
	}
	holds(ended.Closed == 0, "no false verdict",
		"%d of %d live peers ended (%d after the long stop, %d during the short ones, %d later): %v %s",
		ended.Closed, s.Peers, long, short, later, ended.Reasons, ended.Example)
	theirs := f.PeersEnd.Groups[0]
	holds(theirs.Opened == s.Peers && theirs.Closed == 0, "the live peers bear it",
		"%d opened, %d ended: %v %s", theirs.Opened, theirs.Closed, theirs.Reasons, theirs.Example)
	for g := dieInLong; g < numOfGroups; g++ {
		d := f.End.Groups[g]
		holds(d.Closed == s.Doomed, "everybody "+groupNames[g]+" is ended", "%d of %d", d.Closed, s.Doomed)
		if d.Closed == 0 {
			continue
		}
		holds(d.First >= f.died[g], "nobody "+groupNames[g]+" is ended before that",
			"the first %v after it", time.Duration(d.First-f.died[g]))
		holds(f.took(g) <= f.bound(g), "everybody "+groupNames[g]+" is ended in time",
			"the last %v after it, of which the watcher was stopped for %v and starved for %v; at most %v",
			f.took(g), f.stopped(f.died[g], d.Last), f.starved(f.died[g], d.Last), f.bound(g))
		verdicts := d.Reasons[engine.HeartbeatLost.String()] + d.Reasons[engine.Idle.String()]
		holds(verdicts == d.Closed, "the reason is a verdict on silence", "%v", d.Reasons)
		holds(d.Diagnoses[engine.Hung.String()]*100 >= d.Closed*99, "the diagnosis is an application that hangs", "%v", d.Diagnoses)
	}
	// Up to an interval may pass before the first timer is due.
	least := s.Long - s.Watch.Interval - s.Watch.Retry
	for i := range f.AfterLong.Stalled {
		seen := f.AfterLong.Stalled[i] + f.AfterLong.StallExcess[i]
		holds(seen >= least, fmt.Sprintf("loop %d has noticed the long stop", i), "%v of %v, at least %v", seen, s.Long, max(least, 0))
	}
	if s.Watch.Interval >= s.Short { // nobody is asked twice in so short a time
		holds(f.burst() < mostBurst, "queries stay spread", "after the long stop, %.1f times as many in one tenth of a second as in others", f.burst())
	}
	holds(f.PeersEnd.PingsIgnored == 0, "no ping was too many to be answered", "%d ignored", f.PeersEnd.PingsIgnored)
}

// broken lists what does not hold.
func broken(found []*finding) (list []string) {
	for _, f := range found {
		for _, i := range f.invariants {
			if !i.Holds {
				list = append(list, fmt.Sprintf("%s: %s: %s", f.title(), i.Name, i.Detail))
			}
		}
	}
	return list
}
