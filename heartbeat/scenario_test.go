package heartbeat_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// format is a pair of sides that work together.
type format struct {
	name string
	side [2]heartbeat.Traits
}

var formats = []format{
	{"directed", [2]heartbeat.Traits{directed, directed}},
	{"client pings", [2]heartbeat.Traits{pingOnly, pongOnly}},
	{"echo", [2]heartbeat.Traits{echoAsker, echoAnswerer}},
	{"beacons", [2]heartbeat.Traits{beacons, beacons}},
}

// randomConfig returns a preset or a configuration at random, valid for both
// sides of f, with a Retry of at least 30 ms.
func randomConfig(r *rand.Rand, f format) heartbeat.Config {
	presets := []func() heartbeat.Config{heartbeat.Relaxed, heartbeat.Strict, heartbeat.Realtime}
	if k := r.IntN(10); k < len(presets) {
		return presets[k]()
	}
	logUniform := func(low, high time.Duration) time.Duration {
		d := low
		for d < high && r.IntN(6) != 0 {
			d *= 2
		}
		return min(high, d+time.Duration(r.Int64N(int64(d))))
	}
	c := heartbeat.Config{
		Interval: logUniform(30*ms, 60*sec),
		Misses:   1 + r.IntN(6),
		Confirm:  r.IntN(5) - 1,
	}
	c.Retry = logUniform(max(30*ms, c.Interval/16), c.Interval*4)
	if r.IntN(3) == 0 {
		c.Retry = 0
	}
	switch r.IntN(4) { // mostly left to Plan: Interval
	case 2:
		if f.side[1].MayPing {
			c.Speak = c.Interval/4 + time.Duration(r.Int64N(int64(c.Interval)*3/4))
			if c.Speak < heartbeat.Tick {
				c.Speak = 0
			}
		}
	case 3:
		if f.name == "directed" {
			c.Speak = -1
		}
	}
	if r.IntN(4) == 0 {
		retry := c.Retry
		if retry == 0 {
			retry = c.Interval
		}
		c.IdleRead = c.Interval + retry + time.Duration(r.Int64N(int64(retry)*6))
	}
	return c
}

// randomLink returns a link that has been well for a while. The round trip is
// within what Tolerance takes for granted.
func randomLink(t *testing.T, r *rand.Rand) (*link, format) {
	f := formats[r.IntN(len(formats))]
	c := randomConfig(r, f)
	return newLink(t, r, f, c), f
}

func newLink(t *testing.T, r *rand.Rand, f format, c heartbeat.Config) *link {
	retry := c.Retry
	if retry == 0 {
		retry = c.Interval
	}
	rtt := int64(min(200*ms, retry/2))
	l := &link{rand: r, stream: r.IntN(2) == 0, now: r.Int64N(1 << 40)}
	l.flight = r.Int64N(rtt / 2)
	if left := rtt/2 - l.flight; r.IntN(2) == 0 {
		l.jitter = r.Int64N(left)
	}
	where := r.Int64N(l.flight + 1)
	l.cut = [2]int64{where, l.flight - where}
	for i := range l.ends {
		l.open(i, planFor(t, c, f.side[i]))
		if r.IntN(3) == 0 {
			l.talks(i, 1+int64(c.Interval)/(1+r.Int64N(8)))
		}
	}
	return l
}

// TestScenarios runs links at random through one fault each, and checks the
// promises of the package.
func TestScenarios(t *testing.T) {
	const scenarios = 200_000
	faults := []struct {
		name string
		run  func(*link, format, func(string, ...any)) (ran bool)
	}{
		{"healthy", healthy},
		{"outage", outage},
		{"outage", outage},
		{"freeze", freeze},
		{"drops", drops},
		{"vanish", vanish},
		{"vanish", vanish},
		{"half open", halfOpen},
		{"deaf", deafness},
		{"deaf", deafness},
	}
	ran, events := map[string]int{}, map[string]int{}
	for k := range scenarios / raceSlowdown {
		r := rand.New(rand.NewPCG(uint64(k), 20))
		l, f := randomLink(t, r)
		warm := int64(l.ends[0].plan.Config().Interval)
		l.run(l.now+warm+r.Int64N(2*warm), -1)
		fault := faults[k%len(faults)]
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("scenario %d, %s over %s: "+format+"\n%s",
				append(append([]any{k, fault.name, f.name}, args...), l.dump())...)
		}
		noVerdict(l, "before any fault", fail)
		if fault.run(l, f, fail) {
			ran[fault.name]++
			events[fault.name] += l.events
		}
	}
	for _, fault := range faults {
		t.Logf("%s: %d scenarios, %d events each", fault.name, ran[fault.name], events[fault.name]/max(1, ran[fault.name]))
		if ran[fault.name] < scenarios/raceSlowdown/len(faults)/2 {
			t.Errorf("%s: only %d scenarios apply", fault.name, ran[fault.name])
		}
	}
}

func noVerdict(l *link, when string, fail func(string, ...any)) {
	for i := range l.ends {
		if v := l.ends[i].verdict; v != heartbeat.None {
			fail("end %d says %v %s", i, v, when)
		}
	}
}

// settle returns a time by which any verdict from a fault that ends at to is in.
func (l *link) settle(to int64) int64 {
	p := l.ends[0].plan
	c := p.Config()
	return to + int64(p.WorstCase()) + int64(max(1, c.Confirm))*int64(c.Interval)
}

// healthy: no fault, no verdict; and no more pings than were asked for.
func healthy(l *link, f format, fail func(string, ...any)) (ran bool) {
	const intervals = 20
	c := l.ends[0].plan.Config()
	from := [2]int{l.ends[0].pings, l.ends[1].pings}
	l.run(l.now+intervals*int64(c.Interval), -1)
	noVerdict(l, "without a fault", fail)
	for i := range l.ends {
		e := &l.ends[i]
		if c.Speak != 0 || !e.plan.Traits().MayPing {
			continue
		}
		if n := e.pings - from[i]; n > intervals+1 {
			fail("end %d sent %d pings in %d intervals", i, n, intervals)
		}
		if n := e.pings - from[i]; e.talkGap == 0 && f.side[1-i] == pongOnly && n < intervals-1-intervals*int(l.rtt()+2*e.late)/int(c.Interval) {
			fail("end %d sent only %d pings in %d intervals", i, n, intervals)
		}
		if e.plan.Queries() && e.plan.Traits().Stamped && e.pings > 1 && l.rtt() < int64(c.Interval) {
			if rtt := int64(e.state.RTT()); rtt < 2*l.flight || rtt > l.rtt()+1 {
				fail("end %d: RTT %v, want %v to %v", i, e.state.RTT(), time.Duration(2*l.flight), time.Duration(l.rtt()))
			}
		}
	}
	return true
}

// outage: one that is within the Tolerance of both sides causes no verdict.
func outage(l *link, _ format, fail func(string, ...any)) (ran bool) {
	d := int64(min(l.ends[0].plan.Tolerance(), l.ends[1].plan.Tolerance()))
	if d == 0 {
		return false
	}
	if l.rand.IntN(2) == 0 {
		d = 1 + l.rand.Int64N(d)
	}
	from := l.now + l.rand.Int64N(int64(l.ends[0].plan.Config().Interval)*2)
	o := span{from, from + d}
	switch l.rand.IntN(4) {
	case 0:
		l.outage[0] = o
	case 1:
		l.outage[1] = o
	default:
		l.outage = [2]span{o, o}
	}
	l.run(l.settle(o.to), -1)
	noVerdict(l, "after an outage of "+time.Duration(d).String(), fail)
	return true
}

// freeze: one side stands still for no longer than Tolerance; its clock does
// too, or not.
func freeze(l *link, _ format, fail func(string, ...any)) (ran bool) {
	d := int64(min(l.ends[0].plan.Tolerance(), l.ends[1].plan.Tolerance()))
	if d == 0 {
		return false
	}
	e := &l.ends[l.rand.IntN(2)]
	from := l.now + 1 + l.rand.Int64N(int64(e.plan.Config().Interval)*2)
	l.run(from-1, -1)
	noVerdict(l, "before the freeze", fail)
	e.frozen = span{from, from + d}
	e.stopped = l.rand.IntN(2) == 0
	l.run(l.settle(e.frozen.to), -1)
	noVerdict(l, "after a freeze of "+time.Duration(d).String(), fail)
	return true
}

// drops: fewer messages lost than Misses, anywhere, cause no verdict.
func drops(l *link, _ format, fail func(string, ...any)) (ran bool) {
	c := l.ends[0].plan.Config()
	n := int64(c.Misses) - 1
	for i := range l.ends {
		p := l.ends[i].plan
		if !p.Queries() {
			silence := int64(p.WorstCase()-heartbeat.Tick) - l.rtt()
			n = min(n, silence/(int64(c.Interval)+l.ends[i].late)-1)
		}
	}
	if n <= 0 || c.IdleRead > 0 {
		return false
	}
	l.stream = false
	l.spare = l.rand.IntN(8)
	l.drop = int(n)
	l.run(l.settle(l.now)+int64(c.Interval)*8, -1)
	noVerdict(l, "after single losses", fail)
	return true
}

// vanish: one side, or the path, is gone for good. The other side calls it Lost
// within WorstCase of the last thing it read.
func vanish(l *link, _ format, fail func(string, ...any)) (ran bool) {
	w := l.rand.IntN(2)
	at := l.now + l.rand.Int64N(int64(l.ends[0].plan.Config().Interval)*3)
	if l.rand.IntN(2) == 0 {
		l.ends[1-w].gone = at
	} else {
		o := span{at, 1 << 62}
		l.outage = [2]span{o, o}
	}
	lost(l, w, fail)
	return true
}

// lost checks that end w calls its peer Lost, in time.
func lost(l *link, w int, fail func(string, ...any)) {
	e := &l.ends[w]
	c := e.plan.Config()
	l.run(l.settle(l.now)+3*int64(c.Interval)+int64(e.plan.WorstCase()), w)
	if e.verdict == heartbeat.None {
		fail("end %d has no verdict", w)
	}
	// Silence alone is found without waiting for Confirm.
	bound := min(int64(e.plan.WorstCase()), int64(c.Interval)+int64(c.Misses)*int64(e.retry())+e.late)
	if e.at > e.lastRead+bound {
		fail("end %d needed %v, more than %v", w, time.Duration(e.at-e.lastRead), time.Duration(bound))
	}
	if e.verdict == heartbeat.Idle && c.IdleRead > 0 && e.at-e.lastRead >= int64(c.IdleRead) {
		return
	}
	if e.verdict != heartbeat.Lost {
		fail("end %d says %v of a peer that vanished", w, e.verdict)
	}
	if want := c.Misses; e.plan.Queries() && e.state.Missed() != want {
		fail("end %d counts %d misses, want %d", w, e.state.Missed(), want)
	}
}

func (e *end) retry() time.Duration {
	c := e.plan.Config()
	if c.Retry == 0 {
		return c.Interval
	}
	return c.Retry
}

// halfOpen: one direction is gone for good. Each side that hears nothing finds
// out, and each that is not answered.
func halfOpen(l *link, _ format, fail func(string, ...any)) (ran bool) {
	w := l.rand.IntN(2)
	at := l.now + l.rand.Int64N(int64(l.ends[0].plan.Config().Interval)*3)
	l.outage[1-w] = span{at, 1 << 62} // w hears nothing any more
	l.ends[1-w].alone = true
	lost(l, w, fail)
	return true
}

// deafness: one side stops reading and goes on talking. A side that queries calls
// it Deaf within WorstCase of its last answer; one that takes data for an answer,
// or does not query, has no verdict; and nor has anyone else heard.
func deafness(l *link, _ format, fail func(string, ...any)) (ran bool) {
	w := l.rand.IntN(2)
	e, peer := &l.ends[w], &l.ends[1-w]
	c := e.plan.Config()
	retry := e.retry()
	// The rate of talking up to which Deaf is promised.
	gap := min(int64(c.Interval), int64(c.Misses)*int64(retry)-int64(retry)/2-e.late-l.jitter-1)
	if gap < int64(ms) {
		return false
	}
	peer.alone = true
	peer.deaf = l.now
	l.talks(1-w, gap-l.rand.Int64N(gap/2))
	if e.talkGap != 0 && l.rand.IntN(2) == 0 {
		e.talk = 1 << 62 // else the series would always begin with a ping that is out
	}
	from := l.now
	l.run(l.settle(from)+int64(e.plan.WorstCase()), w)
	if e.verdict == heartbeat.Idle && c.IdleRead > 0 && e.at-e.lastRead >= int64(c.IdleRead) {
		return true // it had been silent for long when it began to talk
	}
	if !e.plan.Queries() || c.Confirm < 0 {
		if e.verdict != heartbeat.None {
			fail("end %d says %v of a peer that talks", w, e.verdict)
		}
		return true
	}
	if e.verdict != heartbeat.Deaf {
		fail("end %d says %v of a deaf peer", w, e.verdict)
	}
	if d := e.at - e.lastAnswer; d > int64(e.plan.WorstCase()) {
		fail("end %d needed %v, more than %v", w, time.Duration(d), e.plan.WorstCase())
	}
	return true
}

// TestWorstCaseIsReached shows that WorstCase is no looser than the round trip:
// some peer that vanishes, or goes deaf, is found that late.
func TestWorstCaseIsReached(t *testing.T) {
	for _, c := range []heartbeat.Config{
		heartbeat.Relaxed(), heartbeat.Strict(), heartbeat.Realtime(),
		{Interval: sec, Misses: 2, Retry: sec, Confirm: 5},
	} {
		var worst int64
		var plan *heartbeat.Plan
		for k := range uint64(2000) {
			r := rand.New(rand.NewPCG(k, 7))
			l := newLink(t, r, formats[1], c) // MQTT-like, so that end 1 only answers
			plan = l.ends[0].plan
			l.talks(1, int64(c.Interval)/2)
			l.run(l.now+int64(c.Interval)*int64(1+c.Confirm)+r.Int64N(int64(c.Interval)*int64(1+c.Confirm)), -1)
			l.ends[1].alone = true
			l.ends[1].deaf = l.now
			if c.Confirm == 0 && r.IntN(2) == 0 {
				l.ends[1].gone = l.now
			}
			since := &l.ends[0].lastAnswer
			if l.ends[1].gone == l.now {
				since = &l.ends[0].lastRead
			}
			l.run(l.settle(l.now), 0)
			worst = max(worst, l.ends[0].at-*since)
		}
		if bound := int64(plan.WorstCase()); worst > bound || worst < bound-2*int64(heartbeat.Tick) {
			t.Errorf("%v: the latest of 2,000 verdicts came after %v", c, time.Duration(worst))
		}
	}
}

// TestToleranceIsSharp shows that Tolerance is no tighter than it must be: an
// outage not much longer ends some healthy connections.
func TestToleranceIsSharp(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config heartbeat.Config
		format format
		stream bool
		over   float64
	}{
		{"Relaxed", heartbeat.Relaxed(), formats[1], true, 1.2},
		{"Strict", heartbeat.Strict(), formats[1], true, 1.2},
		{"Realtime", heartbeat.Realtime(), formats[1], true, 3}, // its length falls between two copies
		{"querying datagrams", heartbeat.Config{Interval: sec, Misses: 2, Retry: 10 * sec}, formats[1], false, 1.1},
		{"waiting datagrams", heartbeat.Config{Interval: 10 * sec, Misses: 8, Retry: 2 * sec}, formats[3], false, 2},
		{"idle read", heartbeat.Config{Interval: sec, Misses: 9, Retry: 2 * sec, IdleRead: 5 * sec}, formats[1], false, 1.4},
	} {
		// ends reports whether any of some links ends after such an outage.
		ends := func(over float64, links uint64) bool {
			for k := range links {
				r := rand.New(rand.NewPCG(k, 13))
				l := newLink(t, r, tt.format, tt.config)
				l.stream = tt.stream
				l.run(l.now+2*int64(tt.config.Interval), -1)
				d := min(l.ends[0].plan.Tolerance(), l.ends[1].plan.Tolerance())
				from := l.now + r.Int64N(int64(tt.config.Interval))
				o := span{from, from + int64(float64(d)*over)}
				l.outage = [2]span{o, o}
				l.run(l.settle(o.to), -1)
				if l.ends[0].verdict != heartbeat.None || l.ends[1].verdict != heartbeat.None {
					return true
				}
			}
			return false
		}
		if ends(1, 2000/raceSlowdown) {
			t.Errorf("%s: a verdict after an outage as long as Tolerance", tt.name)
		}
		if !ends(tt.over, 2000) {
			t.Errorf("%s: no verdict after an outage %v times as long as Tolerance", tt.name, tt.over)
		}
	}
}
