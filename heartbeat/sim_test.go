package heartbeat_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

const (
	tick   = int64(heartbeat.Tick)
	notime = int64(math.MaxInt64) // the time that does not come
)

// A link is a simulated connection in virtual time: two ends, each with a State
// that is driven as the engine drives it, and a network between them
// (network_test.go). All its randomness comes from one seed. An oracle looks over
// the shoulder of each end and tells fail what is wrong.
type link struct {
	now  int64
	pcg  rand.PCG
	rand *rand.Rand
	ends [2]end
	network

	actions []action // faults to come
	tidy    bool     // nothing has gone wrong so far
	watch   int      // run ends with a verdict of this end; -1: of both
	events  int
	endless bool // there were too many, and the run was given up

	problem string // the first promise that was broken; "": none
	tracing bool
	trace   []string
}

type span struct{ from, to int64 }

func (s span) has(t int64) bool { return s.from <= t && t < s.to }

// An action is something that happens to the link at a certain time.
type action struct {
	at int64
	do func()
}

type end struct {
	plan   *heartbeat.Plan
	state  heartbeat.State
	oracle oracle

	ahead int64 // how far its clock is ahead of the simulation's
	timer int64 // when the timer fires, on the simulation's; notime: never
	late  int64 // the timer's lateness is below this
	hasty int   // one ping in so many is hastened; 0: none
	early int   // one timer in so many fires too soon; 0: none

	talk    int64 // when the application sends next
	talkGap int64 // it sends at least this often; 0: never

	gone    bool // the host is no more
	hung    bool // the application does nothing any more; the kernel does
	deaf    bool // the application reads nothing any more, but goes on otherwise
	frozen  bool // hung, for a while
	blocked bool // the kernel takes nothing of what is written
	paused  bool // nothing is read for a while, and the peer is excused
	pause   int64
	alone   bool // its own verdicts do not matter: it goes on regardless

	follow [2]time.Duration // bounds of the interval that the peer may announce; zero: it is not followed
	grace  int64            // how long a verdict waits for something to avert it
	doomed int64            // since when a verdict waits; notime: none does

	inbox []message // read by the kernel, and not by the application

	verdict  heartbeat.Action
	at       int64 // of the verdict
	wavering int64 // when the first verdict came that did not stand; notime: none did
	pings    int
}

type message struct {
	what     what
	stamp    uint64
	announce time.Duration
	pinged   int64 // when the ping was sent, or the one that is answered, on the asker's clock
}

type what uint8

const (
	data what = iota
	pingMsg
	pongMsg
)

var whatNames = [...]string{"data", "a ping", "an answer"}

// emptyLink returns a link without ends, which reset makes ready for use.
func emptyLink() *link {
	l := &link{}
	l.rand = rand.New(&l.pcg)
	return l
}

// reset makes l what it was when it was new, but for memory that it has.
func (l *link) reset(seed, stream uint64) {
	l.pcg.Seed(seed, stream)
	l.now = l.rand.Int64N(1 << 40)
	for i := range l.ends {
		e := &l.ends[i]
		*e = end{inbox: e.inbox[:0], oracle: oracle{queries: e.oracle.queries[:0]}}
		e.timer, e.talk, e.doomed, e.wavering = notime, notime, notime, notime
	}
	l.network.reset()
	clear(l.actions)
	l.actions = l.actions[:0]
	l.tidy, l.watch, l.problem = true, -1, ""
	l.events, l.endless = 0, false
	l.trace = l.trace[:0]
}

// fail notes the first promise that is broken; the simulation ends with it.
func (l *link) fail(format string, args ...any) {
	if l.problem == "" {
		l.problem = fmt.Sprintf(format, args...)
		l.note("%s", l.problem)
	}
}

// note adds a line to the trace.
func (l *link) note(format string, args ...any) {
	if l.tracing {
		l.trace = append(l.trace, fmt.Sprintf("%14s  ", time.Duration(l.now-l.ends[0].oracle.world))+fmt.Sprintf(format, args...))
	}
}

// clock returns what the end's own clock says.
func (e *end) clock(now int64) int64 { return now + e.ahead }

// idle reports whether the end is in no state to run.
func (e *end) idle() bool { return e.gone || e.hung || e.frozen }

func (l *link) open(i int, p *heartbeat.Plan) {
	e := &l.ends[i]
	e.plan = p
	e.late = tick
	phase := l.rand.Uint32()
	now := e.clock(l.now)
	e.state.Start(p, now, phase)
	e.oracle.started(l.now, now, p, phase)
	if l.tracing {
		l.note("end %d opens: %+v, %v, %+v, phase %#x", i, plain(p.Config()), p.Role(), p.Traits(), phase)
	}
	l.poll(i)
}

func (l *link) talks(i int, gap int64) {
	e := &l.ends[i]
	e.talkGap = gap
	e.talk = l.now + 1 + l.rand.Int64N(gap)
}

// replan gives end i another plan, as the engine does: what it wants is found out
// at once.
func (l *link) replan(i int, p *heartbeat.Plan) {
	e := &l.ends[i]
	if e.gone || e.verdict != heartbeat.None {
		return
	}
	l.note("end %d is given another plan: %+v", i, plain(p.Config()))
	e.plan = p
	e.oracle.replanned(e.clock(l.now), p)
	e.timer = l.now
}

// at has something done at a time.
func (l *link) at(t int64, do func()) { l.actions = append(l.actions, action{t, do}) }

// poll polls one end, acts, and arms its timer.
func (l *link) poll(i int) {
	e := &l.ends[i]
	now := e.clock(l.now)
	e.excuse(now)
	a, next := e.state.Poll(e.plan, now)
	if l.tracing {
		l.note("end %d polls: %v, next in %v, %+v", i, a, time.Duration(next-now), e.state)
	}
	e.oracle.polled(l, i, now, a, next)
	e.timer = notime
	switch {
	case a.Verdict():
		if e.alone {
			return
		}
		if e.grace > 0 && e.doomed == notime {
			e.doomed = now
			e.wavering = min(e.wavering, l.now)
		}
		if e.grace > 0 && now < e.doomed+e.grace {
			e.timer = l.now + e.doomed + e.grace - now
			return // it waits
		}
		e.oracle.condemned(l, i, now, a)
		e.verdict, e.at = a, l.now
		e.gone = true
		return
	case a == heartbeat.Ping:
		e.pings++
		l.say(i, message{what: pingMsg, stamp: e.state.Stamp(), announce: e.plan.Announce(), pinged: now})
	}
	e.doomed = notime
	if e.hasty > 0 && l.rand.IntN(e.hasty) == 0 {
		next = l.hasten(i, now, next)
	}
	if next == notime {
		return
	}
	e.timer = next - e.ahead
	if e.late > 1 {
		e.timer += l.rand.Int64N(e.late)
	}
	if e.paused {
		e.timer = max(e.timer, l.now+tick/2) // what is put off by every look would be looked at for ever
	}
	if e.early > 0 && l.rand.IntN(e.early) == 0 {
		e.timer = l.now + 1 + l.rand.Int64N(max(1, e.timer-l.now))
	}
}

// hasten makes the next ping of end i due sooner, and returns when it is to be
// polled instead of next.
func (l *link) hasten(i int, now, next int64) int64 {
	e := &l.ends[i]
	at := e.state.PingAt(e.plan)
	if at == notime || at <= now+1 {
		return next
	}
	at = now + 1 + l.rand.Int64N(at-now-1)
	if l.tracing {
		l.note("end %d hastens a ping by %v", i, time.Duration(e.state.PingAt(e.plan)-at))
	}
	asking := e.state.Asking()
	e.state.Hasten(at)
	if !asking && e.state.PingAt(e.plan) != at {
		l.fail("end %d hastens a ping to %v from now, and it is due in %v", i, time.Duration(at-now), time.Duration(e.state.PingAt(e.plan)-now))
	}
	next = min(next, max(now+1, e.state.PingAt(e.plan)))
	e.oracle.hastened(next)
	return next
}

// say hands a message to the kernel, if that takes it.
func (l *link) say(i int, m message) {
	e := &l.ends[i]
	if e.blocked {
		if l.tracing {
			l.note("end %d cannot send %s", i, whatNames[m.what])
		}
		return
	}
	if l.tracing {
		l.note("end %d sends %s", i, whatNames[m.what])
	}
	now := e.clock(l.now)
	e.state.Wrote(now)
	e.oracle.wrote(now)
	l.send(i, m)
}

// read lets the application read a message, or wait with it.
func (l *link) read(i int, m message) {
	e := &l.ends[i]
	switch {
	case e.gone || e.deaf || e.hung:
		return
	case e.frozen || e.paused:
		e.inbox = append(e.inbox, m)
		return
	}
	if l.tracing {
		l.note("end %d reads %s", i, whatNames[m.what])
	}
	now := e.clock(l.now)
	e.state.Read(now)
	e.oracle.read(l, i, now)
	t := e.plan.Traits()
	switch {
	case m.what == pongMsg || m.what == pingMsg && t.Answered && !t.Directed && !e.plan.Answers():
		rtt := e.state.Answer(e.plan, now, m.stamp, t.Stamped)
		e.oracle.answer(l, i, now, m.pinged, rtt)
	case m.what == pingMsg:
		if e.plan.Answers() {
			l.say(i, message{what: pongMsg, stamp: m.stamp, pinged: m.pinged})
		}
		if bounds := e.follow; m.announce > 0 && bounds[1] > 0 {
			l.followTo(i, min(max(m.announce, bounds[0]), bounds[1]))
		}
	}
	e.oracle.predict(now, &e.state)
	if e.doomed != notime {
		e.timer = l.now // this may avert the verdict
	}
}

// followTo makes end i expect its peer to be heard that often.
func (l *link) followTo(i int, interval time.Duration) {
	if p := following(l.ends[i].plan, interval); p != l.ends[i].plan {
		l.replan(i, p)
	}
}

// following returns the plan of a side whose peer is heard that often. How often
// that side speaks, and how long an answer may take, stays as it is.
func following(p *heartbeat.Plan, interval time.Duration) *heartbeat.Plan {
	c := p.Config()
	if c.Interval == interval || c.Interval == 0 {
		return p
	}
	if c.Retry == 0 {
		c.Retry = c.Interval
	}
	if c.Speak == 0 {
		c.Speak = p.Announce()
	}
	c.Interval = interval
	if q, err := c.Plan(p.Traits()); err == nil {
		return q
	}
	return p
}

// catchUp lets the application read what has come meanwhile.
func (l *link) catchUp(i int) {
	e := &l.ends[i]
	for k := 0; k < len(e.inbox) && l.problem == ""; k++ {
		l.read(i, e.inbox[k])
	}
	e.inbox = e.inbox[:0]
}

// excuse takes the time of a pause so far out of what counts against the peer.
func (e *end) excuse(now int64) {
	if e.paused && now > e.pause {
		e.state.Excuse(now - e.pause)
		e.oracle.excuse(now, now-e.pause)
		e.pause = now
	}
}

// freeze stops end i for d. Its clock stands still meanwhile, or not.
func (l *link) freeze(i int, d int64, stopped bool) {
	e := &l.ends[i]
	l.note("end %d freezes, its clock stands still: %v", i, stopped)
	e.frozen = true
	l.at(l.now+d, func() {
		l.note("end %d thaws", i)
		e.frozen = false
		if stopped {
			e.ahead -= d
		}
		e.oracle.stalled(d)
		l.catchUp(i)
		// Its timers are overdue, by one clock or the other.
		e.timer, e.talk = overdue(e.timer, l.now), overdue(e.talk, l.now)
	})
}

func overdue(at, now int64) int64 {
	if at == notime {
		return at
	}
	return max(at, now)
}

// jump moves the clock of end i forward by d.
func (l *link) jump(i int, d int64) {
	e := &l.ends[i]
	l.note("the clock of end %d jumps by %v", i, time.Duration(d))
	e.ahead += d
	e.oracle.stalled(d)
	if e.timer != notime {
		e.timer = max(l.now, e.timer-d)
	}
}

// hold lets end i read nothing for d, and excuse its peer for it.
func (l *link) hold(i int, d int64) {
	e := &l.ends[i]
	l.note("end %d pauses", i)
	e.paused, e.pause = true, e.clock(l.now)
	l.at(l.now+d, func() {
		l.note("end %d resumes", i)
		e.excuse(e.clock(l.now))
		e.paused = false
		l.catchUp(i)
	})
}

// mostEvents is how many events a scenario is let to take. Few take more: those in
// which one end measures time in another unit than the other.
const mostEvents = 20_000

// Kinds of events, in the order in which they are served if they come at once:
// reading comes before timers, as in the engine.
const (
	arrival = iota
	happening
	retransmission
	timeout
	talking
	nothing
)

// run runs the link until the given time, until the watched end has a verdict, or
// until a promise is broken.
func (l *link) run(until int64) {
	for l.problem == "" && !l.endless {
		if l.watch >= 0 && l.ends[l.watch].verdict != heartbeat.None || l.ends[0].gone && l.ends[1].gone {
			break
		}
		t, kind, which := until, nothing, 0
		next := func(at int64, k, w int) {
			if at < t || at == t && k < kind {
				t, kind, which = at, k, w
			}
		}
		for k := range l.packets {
			p := &l.packets[k]
			if p.at < t || p.at == t && (kind != arrival || p.order < l.packets[which].order) {
				t, kind, which = p.at, arrival, k
			}
		}
		for k := range l.actions {
			next(l.actions[k].at, happening, k)
		}
		for i := range l.ends {
			e := &l.ends[i]
			if !e.gone && l.stream {
				next(l.senders[i].timer, retransmission, i)
			}
			if !e.idle() {
				next(e.timer, timeout, i)
				next(e.talk, talking, i)
			}
		}
		l.now = max(l.now, t)
		if l.events++; l.events > mostEvents {
			l.endless = true
		}
		switch kind {
		case nothing:
			for i := range l.ends {
				if e := &l.ends[i]; !e.idle() && !e.alone {
					e.excuse(e.clock(l.now))
					e.oracle.overdue(l, i, e.clock(l.now))
				}
			}
			return
		case arrival:
			p := l.packets[which]
			last := len(l.packets) - 1
			l.packets[which] = l.packets[last]
			l.packets = l.packets[:last]
			l.arrive(p)
		case happening:
			do := l.actions[which].do
			l.actions[which].at = notime
			do()
		case retransmission:
			l.retransmit(which)
		case timeout:
			l.poll(which)
		case talking:
			e := &l.ends[which]
			e.talk = l.now + 1 + l.rand.Int64N(e.talkGap)
			if l.rand.IntN(4) == 0 {
				e.talk = l.now + e.talkGap
			}
			l.say(which, message{what: data})
		}
	}
}

// plain is a Config that prints all its fields.
type plain heartbeat.Config

// dump describes a link for a failure message, with at most so many lines of its
// trace.
func (l *link) dump(most int) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s\n", l.problem)
	fmt.Fprintf(&s, "at %v: stream %v, flight %v + %v", time.Duration(l.now-l.ends[0].oracle.world), l.stream,
		time.Duration(l.flight), time.Duration(l.jitter))
	for i := range l.ends {
		e := &l.ends[i]
		fmt.Fprintf(&s, "\n  end %d: %+v %v %+v\n    WorstCase %v, Tolerance %v, talks every %v, verdict %v\n    %+v", i,
			plain(e.plan.Config()), e.plan.Role(), e.plan.Traits(), e.plan.WorstCase(), e.plan.Tolerance(),
			time.Duration(e.talkGap), e.verdict, e.state)
	}
	if over := len(l.trace) - most; over > 0 {
		fmt.Fprintf(&s, "\n%14s  %d events", "…", over)
		l.trace = l.trace[over:]
	}
	for _, line := range l.trace {
		s.WriteString("\n" + line)
	}
	return s.String()
}
