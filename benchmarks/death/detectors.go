//go:build linux

package main

import (
	"fmt"
	"time"

	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// detector is one way to find the dead. It has an engine of its own in the
// server, so that nothing else finds them first.
type detector struct {
	Name      string
	What      string
	Liveness  heartbeat.Config
	KeepAlive engine.KeepAlive
	Limits    engine.Limits
	// Kernel: it is the kernel's, whose timers are its own.
	Kernel bool
	// Talk is how often its clients say something, Say how often the server
	// does. 0: never.
	Talk, Say time.Duration
	// Stream: the server sends more and more from before the fault on.
	Stream bool
	// By names the detector in what the engine itself promises (engine.Promise),
	// and Extra is what is added to that: how late the kernel's timers are, and how
	// long it takes until the detector has something to look at.
	By    string
	Extra time.Duration
	// Within is both together: the time that is promised for a peer of which
	// nothing is heard or acknowledged any more.
	Within time.Duration
	// Presets are found by one fault alone: they show what was promised in
	// seconds.
	Preset time.Duration
}

const (
	strict      = "heartbeat Strict"
	relaxed     = "heartbeat Relaxed"
	realtime    = "heartbeat Realtime"
	idleLimit   = "idle limit"
	keepAlive   = "kernel keepalive"
	userTimeout = "user timeout"
	drainRate   = "drain rate"
	together    = "all together"
)

const (
	// talkEvery is how often clients talk where they do.
	talkEvery = time.Second
	// sayEvery is how often the server says something small, so that data is
	// under way.
	sayEvery = 500 * time.Millisecond
	// A stream is a chunk, and another one, and nobody waits for answers.
	chunkSize  = 2 << 10
	chunkEvery = 100 * time.Millisecond
	// fill is how long a stream may take to fill what the kernels hold for a
	// connection of the drain rate's, or of a client that does not read.
	fill = 2 * time.Second

	limitOfSilence  = 5 * time.Second
	limitOfData     = 5 * time.Second // the user timeout
	limitOfDraining = 2 * time.Second // the drain window
	limitTogether   = 7 * time.Second // the idle limit beside the others

	// firstRetransmit bounds when the kernel notices that a segment is not
	// acknowledged: what RFC 6298 section 2.1 begins with. The user timeout
	// counts from there.
	firstRetransmit = time.Second
)

var (
	probes = engine.KeepAlive{Idle: 2 * time.Second, Interval: time.Second, Count: 3, UserTimeout: -1}

	noDrain = engine.Limits{Loops: 1, Backlog: engine.Backlog{High: 64 << 10, DrainWindow: -1}}
	drain   = engine.Limits{Loops: 1, SendBuffer: 8 << 10, NotSent: 4 << 10,
		Backlog: engine.Backlog{High: 64 << 10, DrainRate: 1 << 10, DrainWindow: limitOfDraining}}
)

// late is how much later than asked for a kernel's timer may run: they are kept
// in a wheel whose slots widen with the time, by up to an eighth of it.
func late(d time.Duration) time.Duration { return d / 8 }

// detectors are the columns of the table.
func detectors() []*detector {
	kernelWithin := probes.Idle + probes.Interval*time.Duration(probes.Count)
	list := []*detector{
		{Name: strict, What: heartbeat.Strict().String(), Liveness: heartbeat.Strict(), Limits: noDrain, Talk: talkEvery,
			By: "Interval, Misses, Retry", Within: heartbeat.Strict().WorstCase(), Preset: 9 * time.Second},
		{Name: relaxed, What: heartbeat.Relaxed().String(), Liveness: heartbeat.Relaxed(), Limits: noDrain, Talk: talkEvery,
			By: "Interval, Misses, Retry", Within: heartbeat.Relaxed().WorstCase(), Preset: 40 * time.Second},
		{Name: realtime, What: heartbeat.Realtime().String(), Liveness: heartbeat.Realtime(), Limits: noDrain, Talk: heartbeat.Realtime().Interval / 2,
			By: "Interval, Misses, Retry", Within: heartbeat.Realtime().WorstCase(), Preset: 2 * time.Second},
		{Name: idleLimit, What: "IdleRead 5s", Liveness: heartbeat.Config{IdleRead: limitOfSilence}, Limits: noDrain, Talk: talkEvery,
			By: "IdleRead", Within: limitOfSilence},
		{Name: keepAlive, What: "2s, then 3 probes a second apart; nothing else is said", KeepAlive: probes, Limits: noDrain, Kernel: true,
			By: "KeepAlive", Extra: late(kernelWithin), Within: kernelWithin + late(kernelWithin)},
		{Name: userTimeout, What: "5s, and the server says something every 500ms", KeepAlive: engine.KeepAlive{UserTimeout: limitOfData}, Limits: noDrain, Kernel: true,
			Talk: talkEvery, Say: sayEvery,
			By: "KeepAlive.UserTimeout", Extra: sayEvery + firstRetransmit + late(limitOfData), Within: sayEvery + firstRetransmit + limitOfData + late(limitOfData)},
		{Name: drainRate, What: "1 KiB/s over 2s, and the server sends 20 KiB/s", Limits: drain, Talk: talkEvery, Stream: true,
			By: "DrainRate, DrainWindow", Extra: fill, Within: fill + 2*limitOfDraining},
		{Name: together, What: "Strict, IdleRead 7s, keepalive and user timeout derived from it, drain rate, and the server says something every 500ms",
			Liveness: strictWithIdle(), KeepAlive: engine.KeepAlive{Idle: probes.Idle, Interval: probes.Interval, Count: probes.Count}, Limits: together1(),
			Talk: talkEvery, Say: sayEvery, By: "IdleRead", Within: limitTogether},
	}
	return list
}

func strictWithIdle() heartbeat.Config {
	c := heartbeat.Strict()
	c.IdleRead = limitTogether
	return c
}

func together1() engine.Limits {
	l := noDrain
	l.Backlog = drain.Backlog
	return l
}

// asPromised returns an error unless d's bound is what the engine promises, give
// or take a tick.
func (d *detector) asPromised(p engine.Promise) error {
	for _, x := range p.Detectors {
		if x.By == d.By {
			if off := x.Within + d.Extra - d.Within; off.Abs() > tick {
				return fmt.Errorf("%s: the engine promises %v by %s, and %v more make %v, not %v", d.Name, x.Within, x.By, d.Extra, x.Within+d.Extra, d.Within)
			}
			return nil
		}
	}
	return fmt.Errorf("%s: the engine promises nothing by %s: %+v", d.Name, d.By, p)
}

func detectorByName(name string) *detector {
	for _, d := range append(detectors(), captureDetectors()...) {
		if d.Name == name {
			return d
		}
	}
	return nil
}
