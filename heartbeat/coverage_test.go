package heartbeat_test

import (
	"fmt"
	"strings"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A detector is what can find a dead peer.
type detector uint8

const (
	queries      detector = iota // unanswered queries of a silent peer
	confirmation                 // unanswered queries of one that is heard
	readDeadline                 // of a side that does not query
	idleRead
	idleWrite
	idleAll
	numDetectors
)

var detectorNames = [numDetectors]string{"queries", "confirmation", "read deadline", "IdleRead", "IdleWrite", "IdleAll"}

// coverage counts how often each detector met each fault: it gave its verdict
// because of it, or was at work and rightly said nothing.
type coverage struct {
	caused, bore [numDetectors][numFaults]int
}

func (c *coverage) add(d *coverage) {
	for i := range c.caused {
		for k := range c.caused[i] {
			c.caused[i][k] += d.caused[i][k]
			c.bore[i][k] += d.bore[i][k]
		}
	}
}

// silent counts an end that has borne a fault, as it must.
func (c *coverage) silent(p *heartbeat.Plan, f fault) {
	cfg := p.Config()
	for d, armed := range [numDetectors]bool{
		p.Queries(), p.Queries() && cfg.Confirm >= 0, !p.Queries() && cfg.Interval > 0,
		cfg.IdleRead > 0, cfg.IdleWrite > 0, cfg.IdleAll > 0,
	} {
		if armed {
			c.bore[d][f]++
		}
	}
}

// verdict counts an end that has given up.
func (c *coverage) verdict(e *end, f fault) {
	d := queries
	switch {
	case e.verdict == heartbeat.Deaf:
		d = confirmation
	case e.verdict == heartbeat.Idle:
		d = e.oracle.passed
	case !e.plan.Queries():
		d = readDeadline
	}
	c.caused[d][f]++
}

// limit returns which of the idle limits has been passed first.
func (o *oracle) limit(now int64) detector {
	c := o.plan.Config()
	heard := o.heard + o.excused
	first, d := notime, idleRead
	for _, x := range []struct {
		d     detector
		limit int64
		since int64
	}{
		{idleRead, int64(c.IdleRead), heard},
		{idleWrite, int64(c.IdleWrite), o.written},
		{idleAll, int64(c.IdleAll), max(heard, o.written)},
	} {
		if x.limit > 0 && x.since+x.limit <= now && x.since+x.limit < first {
			first, d = x.since+x.limit, x.d
		}
	}
	return d
}

// longest returns how long a detector takes at most, as documented.
func (o *oracle) longest(verdict heartbeat.Action, limit string) int64 {
	c := o.plan.Config()
	tries := int64(o.misses) * o.retry
	switch {
	case verdict == heartbeat.Deaf:
		return o.confirm() + tries + tick
	case verdict == heartbeat.Lost:
		return o.interval + tries + tick
	case limit == "IdleRead":
		return int64(c.IdleRead) + tick
	case limit == "IdleWrite":
		return int64(c.IdleWrite) + tick
	}
	return int64(c.IdleAll) + tick
}

// String prints a line for each fault: verdicts, and how often it was borne.
func (c *coverage) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%-22s", "verdicts / borne")
	for _, name := range detectorNames {
		fmt.Fprintf(&s, " %17s", name)
	}
	for f := range numFaults {
		fmt.Fprintf(&s, "\n%-22s", f)
		for d := range numDetectors {
			fmt.Fprintf(&s, " %8d/%8d", c.caused[d][f], c.bore[d][f])
		}
	}
	return s.String()
}
