//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/internal/netns"
)

// fault is one way to die.
type fault struct {
	Name string
	What string
	// prepare makes the host ready, before anybody connects.
	prepare func(r *rowRun) error
	// strike is the fault.
	strike func(r *rowRun) error
	// Stream: the server sends to everybody from the fault on.
	Stream bool
	// expect says what a detector makes of it, once what all have in common is
	// filled in.
	expect func(d *detector, e *expectation)
}

// expectation is what must come of a fault and a detector.
type expectation struct {
	// Blind says why the detector cannot see the fault, by its nature. It must
	// then see nothing.
	Blind     string
	Reasons   []engine.Reason
	Diagnoses []engine.Diagnosis
	// Within is the promise, without what the machine adds to it.
	Within time.Duration
}

// expect returns what must come of f and d.
func expect(f *fault, d *detector) expectation {
	e := expectation{Within: d.Within}
	f.expect(d, &e)
	return e
}

// ownReasons are those that a detector has for a peer of which nothing is heard.
var ownReasons = map[string][]engine.Reason{
	strict: {engine.HeartbeatLost}, relaxed: {engine.HeartbeatLost}, realtime: {engine.HeartbeatLost},
	idleLimit: {engine.Idle}, keepAlive: {engine.KernelTimeout}, userTimeout: {engine.KernelTimeout},
	drainRate: {engine.SlowConsumer},
	together:  {engine.HeartbeatLost, engine.Idle, engine.KernelTimeout, engine.SlowConsumer},
}

// vanished: nothing comes from the peer any more, and nothing says so.
func vanished(d *detector, e *expectation) {
	e.Reasons = ownReasons[d.Name]
	e.Diagnoses = []engine.Diagnosis{engine.HostGone}
	if d.Name == idleLimit {
		// Nothing was sent to the peer that it could have acknowledged.
		e.Diagnoses = []engine.Diagnosis{engine.Undiagnosed}
	}
}

// unheard: the peer is there, and talks, but what goes to it gets lost.
func unheard(d *detector, e *expectation) {
	e.Reasons = ownReasons[d.Name]
	e.Diagnoses = []engine.Diagnosis{engine.CutOneWay}
	switch d.Name {
	case strict, relaxed, realtime, together:
		e.Reasons = append(slices.Clone(e.Reasons), engine.Deaf)
	case idleLimit:
		e.Diagnoses = []engine.Diagnosis{engine.Undiagnosed}
	case keepAlive:
		// Nobody has anything to say, so nothing is heard either.
		e.Diagnoses = []engine.Diagnosis{engine.HostGone}
	}
	if d.Liveness.IdleRead > 0 {
		// What the peer had not said before it waited for an acknowledgement is
		// the last that comes.
		e.Within += d.Talk
	}
}

// refused: a router says that there is no way.
func refused(d *detector, e *expectation) {
	vanished(d, e)
	switch d.Name {
	case keepAlive:
		// What is said of a probe is not heeded, because a probe's sequence
		// number is not that of data under way (RFC 5927 section 4.1).
	case userTimeout:
		e.Reasons = []engine.Reason{engine.Unreachable}
		e.Diagnoses = []engine.Diagnosis{engine.Refused}
	case idleLimit:
		// Nothing was sent that a router could have refused.
	case together:
		e.Reasons = append(slices.Clone(e.Reasons), engine.Unreachable)
		e.Diagnoses = []engine.Diagnosis{engine.HostGone, engine.Refused}
	default:
		// TCP keeps what routers say to itself until it gives up (RFC 5927
		// section 5.2), so who gives up first may not know of it.
		e.Diagnoses = []engine.Diagnosis{engine.HostGone, engine.Refused}
	}
}

// forgotten: another host answers, which knows nothing of the connection.
func forgotten(d *detector, e *expectation) {
	e.Reasons = []engine.Reason{engine.PeerReset}
	e.Diagnoses = []engine.Diagnosis{engine.Reset}
	if d.Name == idleLimit {
		vanished(d, e) // nothing is sent that could be answered
	}
}

// faults are the rows of the table.
func faults() []*fault {
	broken := func(f netns.Fault) func(r *rowRun) error {
		return func(r *rowRun) error { return r.net.Break(r.host, f) }
	}
	return []*fault{
		{Name: "cut", What: "cable cut, both ways", strike: broken(netns.Cut), expect: vanished},
		{Name: "cut-from", What: "path from the peer cut", strike: broken(netns.CutFrom), expect: vanished},
		{Name: "cut-to", What: "path to the peer cut", strike: broken(netns.CutTo), expect: unheard},
		{Name: "gone", What: "host gone", strike: func(r *rowRun) error { return r.net.Unplug(r.host) }, expect: vanished},
		{
			Name: "rebooted", What: "host rebooted",
			prepare: func(r *rowRun) error { return r.net.AddTwin(r.host) },
			strike:  func(r *rowRun) error { return r.net.Reboot(r.host) },
			expect:  forgotten,
		},
		{
			Name: "nat", What: "NAT forgot",
			prepare: func(r *rowRun) error { return r.net.Translate(r.host) },
			strike:  func(r *rowRun) error { return r.net.Forget() },
			expect:  vanished,
		},
		{Name: "host-unreachable", What: "router: host unreachable", strike: broken(netns.HostUnreachable), expect: refused},
		{Name: "net-unreachable", What: "router: network unreachable", strike: broken(netns.NetUnreachable), expect: refused},
		{
			Name: "zero-window", What: "zero window: neither reads nor talks, under a stream", Stream: true,
			strike: func(r *rowRun) error { return r.still(true) },
			expect: func(d *detector, e *expectation) {
				e.Reasons = ownReasons[d.Name]
				e.Diagnoses = []engine.Diagnosis{engine.NotReading}
				switch d.Name {
				case keepAlive:
					e.Blind = "data under way suspends the probes"
				case userTimeout:
					e.Within += fill
				}
			},
		},
		{
			Name: "frozen", What: "process stopped",
			strike: func(r *rowRun) error { return r.client.proc.Suspend() },
			expect: func(d *detector, e *expectation) {
				e.Reasons = ownReasons[d.Name]
				e.Diagnoses = []engine.Diagnosis{engine.Hung}
				switch d.Name {
				case idleLimit:
					e.Diagnoses = []engine.Diagnosis{engine.Undiagnosed}
				case keepAlive:
					e.Blind = "the peer's kernel answers"
				case userTimeout:
					e.Blind = "the peer's kernel acknowledges"
				case drainRate:
					e.Diagnoses = []engine.Diagnosis{engine.NotReading}
				}
			},
		},
		{
			Name: "deaf", What: "talks, never reads",
			strike: func(r *rowRun) error { return r.still(false) },
			expect: func(d *detector, e *expectation) {
				e.Reasons = []engine.Reason{engine.Deaf}
				e.Diagnoses = []engine.Diagnosis{engine.NotReading}
				switch d.Name {
				case idleLimit:
					e.Blind = "it talks"
				case keepAlive:
					e.Blind = "the peer's kernel answers"
				case userTimeout:
					e.Blind = "the peer's kernel acknowledges"
				case drainRate:
					e.Reasons = ownReasons[d.Name]
				case together:
					// The idle limit does not see it, which was the shortest.
					e.Within = d.Liveness.WorstCase()
				}
			},
		},
	}
}

// keep leaves out the faults that are not named.
func (c *tableConfig) keep(names []string) error {
	var kept []string
	for _, f := range faults() {
		if slices.Contains(names, f.Name) {
			kept = append(kept, f.Name)
		}
	}
	if len(kept) != len(names) {
		var all []string
		for _, f := range faults() {
			all = append(all, f.Name)
		}
		return fmt.Errorf("-faults is %q; there are %s", names, strings.Join(all, ", "))
	}
	c.Faults = kept
	return nil
}
