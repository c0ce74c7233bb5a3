package main

import (
	"math/rand/v2"
	"slices"
	"time"
)

// A subject is one way to have timers. It is used by one goroutine and measured in a process of its own.
//
// The loops are methods, and not single operations, so that an operation is not measured together with a call through an
// interface. All of them pick timers and durations with the same generator.
type subject interface {
	// fill arms n timers, due at random times in s. They are the outstanding timers that the other methods work on.
	fill(n int, s span)

	// armStop arms and stops one more timer, ops times: with a duration of d, or of a random one in s if d is 0.
	armStop(ops int, d time.Duration, s span)

	// replace stops a random timer and arms a new one in its place, ops times.
	replace(ops int, s span)

	// touch postpones a random timer to about d from now, ops times. Which deadline it gets is the same for all.
	touch(ops int, d time.Duration)

	// fire arms n timers, due at random times in s, calls armed, and returns when all have fired. It notes for each how
	// late it was in r, or only counts it if r does not record.
	fire(n int, s span, r *recorder, armed func())

	// close stops everything.
	close()
}

// span is a range of durations.
type span struct{ from, to time.Duration }

// random returns a duration in s.
func (s span) random(r *source) time.Duration {
	return s.from + time.Duration(r.below(uint64(s.to-s.from)))
}

// source is a small generator of random numbers (xorshift64*): one that is quick enough not to be seen.
type source uint64

func newSource() *source {
	s := source(rand.Uint64() | 1)
	return &s
}

func (s *source) next() uint64 {
	x := *s
	x ^= x >> 12
	x ^= x << 25
	x ^= x >> 27
	*s = x
	return uint64(x) * 2685821657736338717
}

// below returns a number in [0, n), for n that are small beside 2^64.
func (s *source) below(n uint64) uint64 { return s.next() >> 1 % n }

// kind is an entry of the table of subjects.
type kind struct {
	name       string
	open       func() subject
	concurrent bool // may be used by several goroutines
	manual     bool // its time has to be passed in, so it does nothing on its own
	ours       bool
	about      string
}

// reference is the subject that all others are compared with.
const reference = "time.AfterFunc"

// The order is that of the tables.
var kinds = []kind{
	{"Wheel", openWheel, false, true, true, "this module, owned by one goroutine; touch is one store into the caller's struct"},
	{"FuncTimer", openOwned, true, false, true, "this module's Scheduler, caller-owned timers; touch is Postpone"},
	{"FuncTimer, Reset", openOwnedReset, true, false, true, "the same; touch is Reset, which reads the clock"},
	{"Scheduler.AfterFunc", openScheduler, true, false, true, "this module's Scheduler, a new timer each time; touch is Reset"},
	{reference, openTime, true, false, false, "package time, a new timer each time; touch is Reset"},
	{"time.Timer reused", openTimeReused, true, false, false, "package time, arm+stop and replace are Reset and Stop of the same timer"},
	{"RussellLuo", openRussellLuo, true, false, false, "RussellLuo/timingwheel, 1 ms × 20; it has no Reset: touch is Stop and AfterFunc"},
	{"antlabs", openAntlabs, true, false, false, "antlabs/timer, its time wheel (10 ms); its Reset locks up within a slot: touch is Stop and AfterFunc"},
	{"nbio", openNbio, true, false, false, "nbio's timer, a wrapper of time.AfterFunc; touch is Reset"},
}

func kindOf(name string) (kind, bool) {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
	if i < 0 {
		return kind{}, false
	}
	return kinds[i], true
}
