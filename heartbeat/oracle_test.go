package heartbeat_test

import (
	"math/bits"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// An oracle looks over the shoulder of one end. It knows what that end was told
// and what it said, and holds it against what the package's documentation
// promises; it knows nothing of how a State works.
//
// Silence is measured on a clock that stands still while the peer is excused:
// the time heard is on it. What was written is on the end's own.
type oracle struct {
	world  int64 // the simulation's time when the connection was opened
	opened int64
	plan   *heartbeat.Plan

	interval, retry, speak int64
	misses                 int
	spread                 int64 // the first ping is due within it …
	first                  int64 // … exactly then; notime: not at all
	swapped                int64 // when the plan was changed; promises count from then
	swaps                  int

	excused    int64 // in all
	heard      int64 // the last sign of life, that time
	answered   int64 // the last answer, that time
	written    int64
	pinged     int64
	pings      int
	hastenings int
	excusing   int64 // when it was excused last

	polls    int
	mark     int64   // when the last hundred of them had come
	queries  []int64 // pings since the last answer, on the clock that is excused
	slack    int64   // how much of the silence the timers missed since the last answer: what they were late by more than a tick
	late     int64   // the most that a poll was late since the last answer
	deadline int64   // what Poll has asked for

	passed   detector // the idle limit that was, at the verdict
	doom     int64    // when VerdictAt said that a verdict is due
	doomed   heartbeat.Action
	reliable bool // nothing has happened since that changes it
}

func (o *oracle) started(world, now int64, p *heartbeat.Plan, phase uint32) {
	*o = oracle{world: world, opened: now, heard: now, answered: now, written: now, pinged: now,
		swapped: now, deadline: now, queries: o.queries[:0], excusing: now - 1}
	o.goBy(p)
	o.first = notime
	if o.spread > 0 {
		// A share of (phase + 1) in 2^32 of the spread, and at least 1 ns.
		hi, lo := bits.Mul64(uint64(o.spread), uint64(phase)+1)
		q, _ := bits.Div64(hi, lo, 1<<32)
		o.first = now + max(1, int64(q))
	}
}

// goBy takes the numbers of a plan from its configuration, as documented.
func (o *oracle) goBy(p *heartbeat.Plan) {
	c := p.Config()
	o.plan = p
	o.interval, o.retry, o.misses = int64(c.Interval), int64(c.Retry), c.Misses
	if o.retry == 0 {
		o.retry = o.interval
	}
	o.speak = int64(p.Announce())
	o.spread = o.speak
	if p.Queries() && (o.spread == 0 || o.interval < o.spread) {
		o.spread = o.interval
	}
}

// silence returns the longest silence that this end bears, lateness apart.
func (o *oracle) silence() int64 {
	most := notime
	if o.interval > 0 {
		most = o.interval + int64(o.misses)*o.retry
	}
	if idle := int64(o.plan.Config().IdleRead); idle > 0 {
		most = min(most, idle)
	}
	return most
}

// confirm returns the longest time without an answer, until the first query;
// notime: data alone will do.
func (o *oracle) confirm() int64 {
	c := o.plan.Config()
	if !o.plan.Queries() || c.Confirm < 0 {
		return notime
	}
	return int64(max(1, c.Confirm)) * o.interval
}

func (o *oracle) replanned(now int64, p *heartbeat.Plan) {
	o.goBy(p)
	o.swapped = now
	o.swaps++
	o.deadline = min(o.deadline, now)
	o.reliable = false
	o.first = notime
}

func (o *oracle) excuse(now, d int64) {
	o.excused += d
	o.excusing = now
	o.reliable = false
	o.first = notime // it is put off, and speech may come first
}

// hastened notes that a ping is to come sooner.
func (o *oracle) hastened(next int64) {
	o.deadline = next
	o.first = notime
	o.hastenings++
	o.reliable = false
}

// stalled notes that the end did nothing for a while.
func (o *oracle) stalled(int64) { o.reliable = false }

func (o *oracle) wrote(now int64) { o.written = now }

// read is told of everything that is read, answers too.
func (o *oracle) read(l *link, i int, now int64) {
	o.overdue(l, i, now)
	o.heard = now - o.excused
	if !o.plan.Queries() {
		o.slack, o.late = 0, 0
	}
}

// answer is told of an answer to the ping that was sent at pinged, and what State
// measured.
func (o *oracle) answer(l *link, i int, now, pinged int64, measured time.Duration) {
	o.answered = now - o.excused
	o.queries = o.queries[:0]
	o.slack, o.late = 0, 0

	// Without stamps, answers tell which ping they belong to by their order.
	stamped := o.plan.Traits().Stamped
	inOrder := l.tidy && (l.stream || l.jitter == 0)
	took := max(1, now-pinged)
	switch {
	case measured < 0:
		l.fail("end %d measures a round trip of %v", i, measured)
	case measured > 0 && pinged < o.excusing && stamped:
		l.fail("end %d measures a round trip of %v although it was not listening", i, measured)
	case measured > 0 && int64(measured) != took && (stamped || inOrder):
		l.fail("end %d measures a round trip of %v, and it took %v", i, measured, time.Duration(took))
	case measured == 0 && stamped && l.tidy && pinged == o.pinged && pinged > o.excusing:
		l.fail("end %d does not measure a round trip of %v", i, time.Duration(took))
	}
}

// predict asks when a verdict is due if nothing more comes. That is not certain
// while a ping is overdue.
func (o *oracle) predict(now int64, s *heartbeat.State) {
	o.doom, o.doomed = s.VerdictAt(o.plan)
	o.reliable = s.PingAt(o.plan) > now
}

// polled is told of a poll and what came of it.
func (o *oracle) polled(l *link, i int, now int64, a heartbeat.Action, next int64) {
	late := max(0, now-o.deadline)
	if late >= tick {
		o.slack += late
		o.reliable = false
	}
	o.late = max(o.late, late)
	early := now < o.deadline
	if o.polls++; o.polls%100 == 0 {
		if now-o.mark < int64(ms) {
			l.fail("end %d is polled 100 times within a millisecond", i)
		}
		o.mark = now
	}
	if !a.Verdict() { // that may wait for a while, and is late then
		o.deadline = next
	}

	switch {
	case a.Verdict() && next != notime:
		l.fail("end %d has a verdict, and wants to be polled again", i)
	case a.Verdict() && early && o.swapped < now:
		l.fail("end %d has a verdict before it asked to be polled", i)
	case !a.Verdict() && next <= now:
		l.fail("end %d asks to be polled %v ago", i, time.Duration(now-next))
	}
	if a == heartbeat.Ping {
		o.pings++
		if !o.plan.Queries() && o.speak == 0 {
			l.fail("end %d pings and may not", i)
		}
		if o.first != notime && now < o.first {
			l.fail("end %d sends its first ping %v too soon", i, time.Duration(o.first-now))
		}
		o.first = notime
		o.pinged = now
		o.queries = append(o.queries, now-o.excused)
	} else if o.first != notime && now >= o.first && !a.Verdict() {
		l.fail("end %d does not send its first ping", i)
	}
	if out := max(o.written, o.pinged, o.swapped); o.speak > 0 && now-out > o.speak+max(tick, late) && !a.Verdict() {
		l.fail("end %d has not spoken for %v", i, time.Duration(now-out))
	}
	o.overdue(l, i, now)
}

// overdue finds a verdict that should have come.
func (o *oracle) overdue(l *link, i int, now int64) {
	if l.ends[i].alone || l.ends[i].doomed != notime {
		return
	}
	slack := o.slack
	if late := now - o.deadline; late >= tick {
		slack += late // the next poll is overdue
	}
	heard := now - max(o.heard+o.excused, o.swapped)
	if most := o.silence(); most != notime && heard > most+tick+slack {
		l.fail("end %d has heard nothing for %v and bears it", i, time.Duration(heard))
	}
	worst := int64(o.plan.WorstCase())
	if worst > 0 && o.confirm() == notime && heard > worst+slack {
		l.fail("end %d has heard nothing for %v and promised a verdict within %v", i, time.Duration(heard), o.plan.WorstCase())
	}
	if pause := o.confirm(); pause != notime {
		unanswered := now - max(o.answered+o.excused, o.swapped)
		if unanswered > pause+int64(o.misses)*o.retry+tick+slack || unanswered > worst+slack {
			l.fail("end %d was not answered for %v and bears it", i, time.Duration(unanswered))
		}
	}
	c := o.plan.Config()
	if idle := int64(c.IdleWrite); idle > 0 {
		if d := now - max(o.written, o.swapped); d > idle+2*tick+slack {
			l.fail("end %d has written nothing for %v and bears it", i, time.Duration(d))
		}
	}
	if idle := int64(c.IdleAll); idle > 0 {
		if d := now - max(o.written, o.heard+o.excused, o.swapped); d > idle+2*tick+slack {
			l.fail("end %d was idle for %v and bears it", i, time.Duration(d))
		}
	}
	// Pings: one for each Speak, and one for each query, which are a Retry apart
	// in a series and an Interval between series. A late timer makes up for at
	// most one of each.
	alive := now - o.opened
	most := int64(2 + 2*o.swaps + 2*o.hastenings)
	if o.speak > 0 {
		most += alive/o.speak + 1
	}
	if o.plan.Queries() {
		most += alive/min(o.retry, o.interval) + 1
	}
	if o.swaps == 0 && int64(o.pings) > most {
		l.fail("end %d has sent %d pings in %v", i, o.pings, time.Duration(alive))
	}
}

// condemned is told of a verdict that stands.
func (o *oracle) condemned(l *link, i int, now int64, a heartbeat.Action) {
	e := &l.ends[i]
	o.passed = o.limit(now)
	c := o.plan.Config()
	listened := now - o.excused
	silent := listened - o.heard
	switch a {
	case heartbeat.Deaf, heartbeat.Lost:
		switch {
		case o.interval == 0:
			l.fail("end %d says %v without an Interval", i, a)
		case !o.plan.Queries():
			if a == heartbeat.Deaf {
				l.fail("end %d says Deaf and has not asked", i)
			}
			if silent < o.interval+int64(o.misses)*o.retry {
				l.fail("end %d says Lost after a silence of %v", i, time.Duration(silent))
			}
			if idle := int64(c.IdleRead); idle > 0 && idle < o.interval+int64(o.misses)*o.retry {
				l.fail("end %d says Lost although IdleRead was shorter", i)
			}
		default:
			o.tried(l, i, listened, a)
		}
	case heartbeat.Idle:
		unwritten := now - o.written
		unused := min(unwritten, now-(o.heard+o.excused))
		read := c.IdleRead > 0 && silent >= int64(c.IdleRead)
		write := c.IdleWrite > 0 && unwritten >= int64(c.IdleWrite)
		all := c.IdleAll > 0 && unused >= int64(c.IdleAll)
		if !read && !write && !all {
			l.fail("end %d says Idle: nothing read for %v, nothing written for %v", i, time.Duration(silent), time.Duration(unwritten))
		}
		if most := o.interval + int64(o.misses)*o.retry; o.interval > 0 && !o.plan.Queries() && read && !write && !all && int64(c.IdleRead) > most {
			l.fail("end %d says Idle although the read deadline was shorter", i)
		}
	}
	if o.reliable && o.doomed == heartbeat.Lost && a != heartbeat.Idle && e.grace == 0 {
		if d := now - o.doom; d < 0 || d >= tick {
			l.fail("end %d says %v %v after the time that VerdictAt had told", i, a, time.Duration(d))
		}
	}
	// It stands for as long as nothing but time is added.
	for range 2 {
		now += 1 + l.rand.Int64N(1+int64(c.Interval)*2)
		if again, next := e.state.Poll(e.plan, now); again != a || next != notime {
			l.fail("end %d says %v, and then %v", i, a, again)
		}
	}
	if a != heartbeat.Idle && o.swaps == 0 && o.plan.Queries() && e.state.Missed() != o.misses {
		l.fail("end %d counts %d misses of %d", i, e.state.Missed(), o.misses)
	}
}

// tried finds the queries that led to a verdict: Misses of them, each of which
// had a Retry, less what timers were late, in which it was not answered.
func (o *oracle) tried(l *link, i int, now int64, a heartbeat.Action) {
	if o.swaps > 0 {
		return // parts of the series went by another plan
	}
	at, n := now, 0
	for k := len(o.queries) - 1; k >= 0 && n < o.misses; k-- {
		if at-o.queries[k] >= o.retry-min(o.late, o.retry) {
			at = o.queries[k]
			n++
		}
	}
	if n < o.misses {
		l.fail("end %d says %v after %d of %d queries that had their time", i, a, n, o.misses)
	}
	// The first query may have been sent when it was overdue already.
	if a == heartbeat.Deaf && (o.confirm() == notime || len(o.queries) > 0 && o.heard <= o.queries[0]-o.late) {
		l.fail("end %d says Deaf of a peer that it has not heard since it asked", i)
	}
}
