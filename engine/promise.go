package engine

import (
	"fmt"
	"log/slog"
	"math"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// Promise is what follows from the configuration of a listener, or of a client,
// for its peers: how soon a dead one is found, and what a live one is forgiven.
// It is logged when the server or client is made.
//
// All of it is by the clock that stands still while the loop is stalled
// (Limits.StallCap), and a verdict may be late by the loop's own lag
// (LoopStats.Lag) on top.
type Promise struct {
	// Addr is the listener's; empty for a client.
	Addr string
	// Role is the part that our side plays in the heartbeat.
	Role heartbeat.Role
	// WorstCase is the longest time from the last sign of life of a peer that
	// dies in any way to the end of its connection, while its input is read: that
	// of the slowest detector among those of Liveness, with Follow's longest
	// interval and Outage's grace. 0: there is no bound.
	WorstCase time.Duration
	// Paused is what is added where the peer dies while its input is not read
	// (Conn.Pause, a full work queue): MaxPause. Negative: there is no bound.
	Paused time.Duration
	// Tolerance is the longest outage of the network that can never cause a
	// verdict by Liveness. math.MaxInt64: none ever does. Deadlines that guard
	// against peers that do too little, such as FirstFrame, are not in it.
	Tolerance time.Duration
	// Detectors are all that may end a connection by time.
	Detectors []Detector
}

// Detector is one of the ways in which a peer is found that is dead or does not
// do what it must.
type Detector struct {
	// By is the field of the configuration that it goes by.
	By string
	// Reason is what connections end with that it finds.
	Reason Reason
	// Finds says what, in words.
	Finds string
	// Within is the longest time that it takes. It is a bound, unless the
	// kernel's timers decide (Kernel).
	Within time.Duration
	// Tolerance is the longest outage that it forgives; negative: that depends
	// on what is sent.
	Tolerance time.Duration
	// Kernel: it is the system's, whose timers take up to a retransmission
	// longer, and longer still while other data is under way.
	Kernel bool
}

// String tells it in a line.
func (p Promise) String() string {
	var b strings.Builder
	if p.Addr != "" {
		fmt.Fprintf(&b, "%s: ", p.Addr)
	}
	fmt.Fprintf(&b, "role %v, a dead peer is found within ", p.Role)
	if p.WorstCase == 0 {
		b.WriteString("no bound")
	} else {
		fmt.Fprint(&b, p.WorstCase)
	}
	switch {
	case p.Paused > 0:
		fmt.Fprintf(&b, " (%v more while its input is not read)", p.Paused)
	case p.Paused < 0:
		b.WriteString(" (while its input is read)")
	}
	if p.Tolerance == math.MaxInt64 {
		b.WriteString(", and no outage ends a live one")
	} else {
		fmt.Fprintf(&b, ", and outages of up to %v end no live one", p.Tolerance)
	}
	return b.String()
}

// promise works out what a profile promises.
func (l *Limits) promise(addr string, p *profile, adm *Admission) Promise {
	plan := p.plan
	cfg := plan.Config()
	// Follow lets the interval grow.
	worst, least := plan, plan
	if p.follow != (Follow{}) {
		if longer, err := p.planFor(p.follow.Max); err == nil {
			worst = longer
		}
		if shorter, err := p.planFor(p.follow.Min); err == nil {
			least = shorter
		}
	}
	late := max(l.Tick-heartbeat.Tick, 0) // plans count on timers of that tick
	out := Promise{
		Addr: addr, Role: plan.Role(),
		WorstCase: worst.WorstCase(), Tolerance: min(plan.Tolerance(), least.Tolerance()),
		Paused: max(l.MaxPause, -1),
	}
	grace := time.Duration(0)
	if l.Outage.Share > 0 && cfg.Interval > 0 {
		grace = l.Outage.Grace
	}
	if out.WorstCase > 0 {
		out.WorstCase += late + grace
	}
	if out.Tolerance < math.MaxInt64 {
		out.Tolerance = max(out.Tolerance-late, 0)
	}

	add := func(by string, r Reason, finds string, within, tolerance time.Duration) {
		out.Detectors = append(out.Detectors, Detector{By: by, Reason: r, Finds: finds, Within: within, Tolerance: tolerance})
	}
	for _, b := range worst.Bounds() {
		within, tolerance := b.WorstCase+late, max(b.Tolerance-late, 0)
		switch b.Verdict {
		case heartbeat.Lost:
			add("Interval, Misses, Retry", HeartbeatLost, "a peer that vanished or hangs", within+grace, tolerance)
		case heartbeat.Deaf:
			add("Confirm, Misses, Retry", Deaf, "a peer that sends, but does not read or is not reached", within, tolerance)
		case heartbeat.Idle:
			add(b.Limit, Idle, "a connection that is not used", within, tolerance)
		}
	}
	if d := adm.FirstFrame; d > 0 && addr != "" {
		add("FirstFrame", HandshakeTimeout, "a peer that does not introduce itself", d+l.Tick, -1)
	}
	if d := l.FrameTimeout; d > 0 {
		add("FrameTimeout", FrameTimeout, "a peer that does not go on with a frame", d+l.Tick, -1)
	}
	if d := l.MaxPause; d > 0 {
		add("MaxPause", Overloaded, "a connection that we do not read", d+l.Tick, -1)
	}
	if d := l.Backlog.DrainWindow; d > 0 {
		add("DrainRate, DrainWindow", SlowConsumer, "a peer that does not read fast enough", 2*d+l.Tick, -1)
	}
	if k := p.probes; k.Idle > 0 {
		out.Detectors = append(out.Detectors, Detector{
			By: "KeepAlive", Reason: KernelTimeout, Finds: "a host that is gone while nothing is under way",
			Within: k.Idle + time.Duration(k.Count)*k.Interval, Tolerance: time.Duration(k.Count-1) * k.Interval, Kernel: true,
		})
	}
	if k := p.probes; k.UserTimeout > 0 {
		out.Detectors = append(out.Detectors, Detector{
			By: "KeepAlive.UserTimeout", Reason: KernelTimeout, Finds: "a host that is gone, or takes nothing, while data is under way",
			Within: k.UserTimeout, Tolerance: k.UserTimeout / 2, Kernel: true,
		})
	}
	return out
}

// promise works out what each listener promises, or a client, which has no
// addresses, and logs it.
func (co *core) promise(addrs []string) {
	for i, p := range co.profiles {
		addr := ""
		if i < len(addrs) {
			addr = addrs[i]
		}
		out := co.limits.promise(addr, p, &co.admission.Admission)
		co.promises = append(co.promises, out)
		if out.WorstCase > 0 {
			co.report(slog.LevelInfo, "liveness", "addr", addr, "role", out.Role.String(),
				"worst_case", out.WorstCase, "while_paused", out.Paused, "tolerance", out.Tolerance)
		}
	}
}

// checkTick reports whether deadlines can be met at the resolution there is.
func (l *Limits) checkTick(profiles []*profile) error {
	for _, p := range profiles {
		cfg := p.plan.Config()
		for _, f := range []struct {
			name string
			d    time.Duration
		}{
			{"Interval", cfg.Interval}, {"Retry", cfg.Retry}, {"Speak", cfg.Speak}, {"Follow.Min", p.follow.Min},
			{"IdleRead", cfg.IdleRead}, {"IdleWrite", cfg.IdleWrite}, {"IdleAll", cfg.IdleAll},
		} {
			if f.d > 0 && f.d < l.Tick {
				return fmt.Errorf("%s is %v, shorter than Tick, which is %v", f.name, f.d, l.Tick)
			}
		}
	}
	return nil
}
