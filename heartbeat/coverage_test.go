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

// expected says of each fault and each detector, in their order, whether the fault
// can lead to its verdict, and whether it can bear the fault and rightly be silent:
// x it can, and is seen to in any longer run; . it can, but that is rare; - it
// cannot.
var expected = [numFaults]struct{ caused, bore string }{
	noFault:            {"------", "xxxxxx"},
	itself:             {"------", "------"}, // looked at from the other end only
	jitter:             {"-----.", "xxxxxx"}, // a longer round trip than IdleAll has room for
	losses:             {"------", "xxx---"}, // promised without idle limits only
	bursts:             {"xxxx-x", "xxxxxx"},
	duplication:        {"------", "xxxxxx"},
	reordering:         {"xxxx-x", "xxxxxx"},
	cutBoth:            {"xxxx-x", "xxxxxx"},
	cutIn:              {"xxxx-x", "xxxxxx"},
	cutOut:             {"xxxx-x", "xxxxxx"},
	held:               {"xxxx-x", "xxxxxx"},
	behindNAT:          {"x.xx-x", "xxxxxx"},
	beyondNAT:          {"x.xx-.", "xxxxxx"},
	peerFroze:          {"x.xx-x", "xxxxxx"},
	froze:              {"---x..", "xxxxxx"},
	frozeExcused:       {"------", "xxxxxx"},
	clockJump:          {"x.xxxx", "xxxxxx"},
	peerClockJump:      {"------", "xxxxxx"},
	peerVanished:       {"x-xx-x", "------"},
	peerHung:           {"x-xx-x", "------"},
	peerDeaf:           {".x-.x.", "x-xxxx"}, // Deaf is not found where any data is an answer
	pauses:             {"------", "xxxxxx"},
	peerPauses:         {"xx.x-.", "xxxxxx"}, // it goes on speaking
	replanned:          {"..xxx.", "xxxxxx"},
	peerReplanned:      {"..xx-.", "xxxxxx"},
	follows:            {"..x.-.", "xxxxxx"},
	replannedInCut:     {"xxxxxx", "xxxxxx"},
	peerReplannedInCut: {"xxxx-x", "xxxxxx"},
	noRoom:             {"xx.xxx", "xxxx--"}, // limits on writing are meant to be reached
	peerNoRoom:         {"xxxx-x", "xxxxxx"},
}

// gaps returns the pairs that were to be met, and were not, and those that were
// not to be.
func (c *coverage) gaps() (gaps []string) {
	for f, e := range expected {
		for d := range numDetectors {
			for _, x := range []struct {
				what string
				want byte
				n    int
			}{
				{"gives no verdict because of", e.caused[d], c.caused[d][f]},
				{"never bears", e.bore[d], c.bore[d][f]},
			} {
				switch {
				case x.want == 'x' && x.n == 0:
					gaps = append(gaps, fmt.Sprintf("%s %s: %v", detectorNames[d], x.what, fault(f)))
				case x.want == '-' && x.n > 0:
					gaps = append(gaps, fmt.Sprintf("that %s %s is not so %d times, and cannot be: %v", detectorNames[d], x.what, x.n, fault(f)))
				}
			}
		}
	}
	return gaps
}
