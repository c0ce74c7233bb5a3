package heartbeat_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A link is a simulated connection in virtual time: two ends, each with a State
// driven as the engine drives it, and a path between them that delays, loses and,
// if it is a stream, sends again. All its randomness comes from one seed.
type link struct {
	now    int64
	ends   [2]end
	mail   []message // under way or waiting to be read, unordered
	stream bool      // lost segments are sent again, and order is kept
	flight int64     // one way
	jitter int64     // up to this much more
	cut    [2]int64  // how long after sending a message crosses the point where outages happen
	outage [2]span   // per direction, named for the sender
	drop   int       // of the next messages, how many are lost …
	spare  int       // … after this many
	path   [2]path
	rand   *rand.Rand
	events int
}

type span struct{ from, to int64 }

func (s span) has(t int64) bool { return s.from <= t && t < s.to }

type end struct {
	plan  *heartbeat.Plan
	state heartbeat.State
	timer int64 // when the timer fires, lateness included; math.MaxInt64: never
	late  int64 // the timer's lateness is below this

	talk    int64 // when the application sends next
	talkGap int64 // it sends at least this often; 0: never

	gone    int64 // from here on it does nothing at all
	deaf    int64 // from here on it reads nothing, but talks
	frozen  span  // meanwhile it does nothing
	behind  int64 // how far its clock is behind, because it stood still while frozen
	stopped bool  // the clock stands still while frozen
	alone   bool  // its own verdicts do not matter

	verdict    heartbeat.Action
	at         int64 // of the verdict
	lastRead   int64 // what the simulation knows
	lastAnswer int64
	pings      int
}

type message struct {
	to    int
	at    int64
	seq   int64
	what  what
	stamp uint64
}

type what uint8

const (
	data what = iota
	pingMsg
	pongMsg
)

// path is one direction of a stream.
type path struct {
	latest  int64 // nothing arrives before what was sent before it
	since   int64 // the first segment not acknowledged was sent then
	blocked int64 // until its acknowledgement comes
	open    bool  // ahead of since + RTO new segments still pass
	seq     int64
}

func (l *link) rto() int64 { return int64(200*ms) + l.rtt() }
func (l *link) rtt() int64 { return 2 * (l.flight + l.jitter) }

// clock returns what the end's own clock says.
func (e *end) clock(now int64) int64 { return now - e.behind }

func (l *link) open(i int, p *heartbeat.Plan) {
	e := &l.ends[i]
	e.plan = p
	e.talk, e.gone, e.deaf = math.MaxInt64, math.MaxInt64, math.MaxInt64
	e.lastRead, e.lastAnswer = l.now, l.now
	e.state.Start(p, l.now, l.rand.Uint32())
	e.late = int64(heartbeat.Tick)
	l.poll(i)
}

func (l *link) talks(i int, gap int64) {
	e := &l.ends[i]
	e.talkGap = gap
	e.talk = l.now + 1 + l.rand.Int64N(gap)
}

// poll polls one end, acts, and arms its timer.
func (l *link) poll(i int) {
	e := &l.ends[i]
	now := e.clock(l.now)
	a, next := e.state.Poll(e.plan, now)
	if a == heartbeat.None && next <= now {
		panic(fmt.Sprintf("None, but next is %d at %d", next, now))
	}
	e.timer = math.MaxInt64
	switch {
	case a.Verdict():
		if !e.alone {
			e.verdict, e.at = a, l.now
			e.gone = l.now
		}
		return
	case a == heartbeat.Ping:
		e.pings++
		l.send(i, pingMsg, e.state.Stamp())
	}
	if next < math.MaxInt64 {
		e.timer = next + e.behind + l.rand.Int64N(e.late)
	}
}

// send hands one message to the path.
func (l *link) send(i int, w what, stamp uint64) {
	e := &l.ends[i]
	e.state.Wrote(e.clock(l.now))
	if l.spare > 0 {
		l.spare--
	} else if l.drop > 0 {
		l.drop--
		return
	}
	var at int64
	if l.stream {
		at = l.transmit(i)
	} else {
		if l.outage[i].has(l.now + l.cut[i]) {
			return
		}
		at = l.now + l.delay()
	}
	if at == math.MaxInt64 {
		return
	}
	l.path[i].seq++
	l.mail = append(l.mail, message{to: 1 - i, at: at, seq: l.path[i].seq, what: w, stamp: stamp})
}

func (l *link) delay() int64 {
	if l.jitter == 0 {
		return l.flight
	}
	return l.flight + l.rand.Int64N(l.jitter)
}

// transmit returns when a segment sent now arrives, over a TCP that sends again
// after RTO, 3 RTO, 7 RTO …, and until the first of these is acknowledged sends
// nothing new.
func (l *link) transmit(i int) int64 {
	p := &l.path[i]
	lost := func(sent int64) bool { return l.outage[i].has(sent + l.cut[i]) }
	unacked := func(sent int64) bool {
		return l.outage[1-i].has(sent + l.flight + l.cut[1-i])
	}
	var at int64
	switch {
	case l.now < p.blocked && (!p.open || l.now >= p.since+l.rto() || lost(l.now)):
		p.open = false
		if p.blocked == math.MaxInt64 {
			return math.MaxInt64
		}
		at = p.blocked + l.delay() // queued behind the lost one
	case l.now < p.blocked || !lost(l.now) && !unacked(l.now):
		at = l.now + l.delay()
	default:
		at = math.MaxInt64
		p.since, p.open = l.now, !lost(l.now)
		if p.open {
			at = l.now + l.delay()
		}
		gap := l.rto()
		sent := l.now + gap
		for ; ; sent += gap {
			if !lost(sent) {
				if at == math.MaxInt64 {
					at = sent + l.delay()
				}
				if !unacked(sent) {
					break
				}
			}
			gap *= 2
			if gap > 1<<60 {
				p.blocked = math.MaxInt64
				return at
			}
		}
		p.blocked = sent + l.rtt()
	}
	at = max(at, p.latest)
	p.latest = at
	return at
}

// due returns when message m is dealt with: when it arrives, or when its reader
// thaws.
func (l *link) due(m *message) int64 {
	if f := l.ends[m.to].frozen; f.has(m.at) {
		return f.to
	}
	return m.at
}

// run runs the link until the given time or until the given end has a verdict.
func (l *link) run(until int64, watch int) {
	for {
		// What comes next? Reading comes before timers, as in the engine.
		t, kind, which := until, -1, 0
		seq := int64(0)
		for k := range l.mail {
			d := l.due(&l.mail[k])
			if d < t || d == t && (kind != 0 || l.mail[k].seq < seq) {
				t, kind, which, seq = d, 0, k, l.mail[k].seq
			}
		}
		for i := range l.ends {
			e := &l.ends[i]
			timer, talk := e.timer, e.talk
			if e.frozen.has(timer) {
				timer = e.frozen.to
			}
			if e.frozen.has(talk) {
				talk = e.frozen.to
			}
			if timer < t {
				t, kind, which = timer, 1, i
			}
			if talk < t {
				t, kind, which = talk, 2, i
			}
		}
		l.now = max(l.now, t)
		l.events++
		switch kind {
		case -1:
			return
		case 0:
			m := l.mail[which]
			l.mail[which] = l.mail[len(l.mail)-1]
			l.mail = l.mail[:len(l.mail)-1]
			l.deliver(m)
		default:
			e := &l.ends[which]
			l.thaw(e)
			if e.gone <= l.now {
				e.timer, e.talk = math.MaxInt64, math.MaxInt64
				continue
			}
			if kind == 1 {
				if e.timer > l.now { // moved by the thaw
					continue
				}
				l.poll(which)
				if which == watch && e.verdict != heartbeat.None {
					return
				}
				continue
			}
			l.send(which, data, 0)
			e.talk = l.now + 1 + l.rand.Int64N(e.talkGap)
			if l.rand.IntN(4) == 0 {
				e.talk = l.now + e.talkGap
			}
		}
	}
}

// thaw lets the clock of an end that stood still go on.
func (l *link) thaw(e *end) {
	if e.stopped && l.now >= e.frozen.to {
		e.stopped = false
		d := e.frozen.to - e.frozen.from
		e.behind += d
		if e.timer < math.MaxInt64 {
			e.timer += d
		}
	}
}

func (l *link) deliver(m message) {
	e := &l.ends[m.to]
	l.thaw(e)
	if l.now >= e.gone || l.now >= e.deaf {
		return
	}
	now := e.clock(l.now)
	e.state.Read(now)
	e.lastRead = l.now
	switch m.what {
	case pingMsg:
		if e.plan.Answers() {
			l.send(m.to, pongMsg, m.stamp)
		} else if !e.plan.Traits().Directed && e.plan.Queries() {
			// An empty frame that came back: here it is the answer.
			e.state.Answer(e.plan, now, 0, false)
			e.lastAnswer = l.now
		}
	case pongMsg:
		e.state.Answer(e.plan, now, m.stamp, e.plan.Traits().Stamped)
		e.lastAnswer = l.now
	}
}

// dump describes a link for a failure message.
func (l *link) dump() string {
	s := fmt.Sprintf("now %v, stream %v, flight %v + %v, outages %v %v", time.Duration(l.now), l.stream,
		time.Duration(l.flight), time.Duration(l.jitter), l.outage[0].str(), l.outage[1].str())
	for i := range l.ends {
		e := &l.ends[i]
		s += fmt.Sprintf("\n  end %d: %+v %v\n    verdict %v at %v, last read %v, last answer %v, talks every %v, frozen %v, gone %v, deaf %v\n    %+v",
			i, e.plan.Config(), e.plan.Role(), e.verdict, time.Duration(e.at), time.Duration(e.lastRead), time.Duration(e.lastAnswer),
			time.Duration(e.talkGap), e.frozen.str(), time.Duration(e.gone), time.Duration(e.deaf), e.state)
	}
	return s
}

func (s span) str() string {
	return fmt.Sprintf("[%v, %v)", time.Duration(s.from), time.Duration(s.to))
}
