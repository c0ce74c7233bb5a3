package heartbeat_test

import (
	"math/rand/v2"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// format is a wire format as its two sides see it, and the parts they play.
type format struct {
	name string
	side [2]heartbeat.Traits
	role [2]heartbeat.Role
}

var (
	unstamped     = heartbeat.Traits{MayPing: true, PeerMayPing: true, Directed: true, Answered: true}
	pingStamped   = heartbeat.Traits{MayPing: true, Directed: true, Answered: true, Stamped: true}
	answerStamped = heartbeat.Traits{PeerMayPing: true, Directed: true, Answered: true, Stamped: true}
)

// How two ends can go together. The names of the first four are those of formats
// that occur.
var formats = []format{
	{"directed", [2]heartbeat.Traits{directed, directed}, [2]heartbeat.Role{}},
	{"client pings", [2]heartbeat.Traits{pingOnly, pongOnly}, [2]heartbeat.Role{}},
	{"echo", [2]heartbeat.Traits{echoAsker, echoAnswerer}, [2]heartbeat.Role{}},
	{"beacons", [2]heartbeat.Traits{beacons, beacons}, [2]heartbeat.Role{}},
	{"unstamped", [2]heartbeat.Traits{unstamped, unstamped}, [2]heartbeat.Role{}},
	{"client pings, stamped", [2]heartbeat.Traits{pingStamped, answerStamped}, [2]heartbeat.Role{}},
	{"directed, one asks", [2]heartbeat.Traits{directed, directed}, [2]heartbeat.Role{heartbeat.Query, heartbeat.Answer}},
	{"directed, one asks and both answer", [2]heartbeat.Traits{directed, directed}, [2]heartbeat.Role{heartbeat.Both, heartbeat.Answer}},
	{"directed, one is a beacon", [2]heartbeat.Traits{directed, directed}, [2]heartbeat.Role{heartbeat.Beacon, heartbeat.Answer}},
	{"directed, beacons", [2]heartbeat.Traits{directed, directed}, [2]heartbeat.Role{heartbeat.Beacon, heartbeat.Beacon}},
	{"echo, either may ask", [2]heartbeat.Traits{echoEither, echoEither}, [2]heartbeat.Role{heartbeat.Query, heartbeat.Answer}},
	{"beacons, one listens", [2]heartbeat.Traits{beacons, beacons}, [2]heartbeat.Role{heartbeat.Beacon, heartbeat.Answer}},
	{"one beacon", [2]heartbeat.Traits{beaconOnly, listenOnly}, [2]heartbeat.Role{}},
	{"no heartbeat", [2]heartbeat.Traits{mute, mute}, [2]heartbeat.Role{}},
}

// logUniform returns a duration of any magnitude between low and high.
func logUniform(r *rand.Rand, low, high time.Duration) time.Duration {
	d := low
	for d < high && r.IntN(6) != 0 {
		d *= 2
	}
	return min(high, d+time.Duration(r.Int64N(int64(d))))
}

// randomConfig returns a preset or a configuration at random, with an Interval of
// about the given length.
func randomConfig(r *rand.Rand, interval time.Duration) heartbeat.Config {
	c := heartbeat.Config{
		Interval: interval,
		Misses:   1 + r.IntN(6),
		Confirm:  r.IntN(5) - 1,
	}
	c.Retry = logUniform(r, max(30*ms, c.Interval/16), c.Interval*4)
	if r.IntN(3) == 0 {
		c.Retry = 0
	}
	switch r.IntN(4) { // mostly left to Plan: Interval
	case 2:
		c.Speak = max(30*ms, c.Interval/4+time.Duration(r.Int64N(int64(c.Interval))))
	case 3:
		c.Speak = -1
	}
	if r.IntN(4) == 0 {
		retry := c.Retry
		if retry == 0 {
			retry = c.Interval
		}
		c.IdleRead = c.Interval + retry + time.Duration(r.Int64N(int64(retry)*6))
	}
	longer := func() time.Duration {
		return max(c.Interval, c.Speak) + 1 + time.Duration(r.Int64N(int64(c.Interval)*4))
	}
	if r.IntN(8) == 0 {
		c.IdleWrite = longer()
	}
	if r.IntN(8) == 0 {
		c.IdleAll = longer()
	}
	return c
}

// fit returns the plan of as much of c as the format permits.
func fit(c heartbeat.Config, t heartbeat.Traits, role heartbeat.Role) *heartbeat.Plan {
	c.Role = role
	for {
		p, err := c.Plan(t)
		switch {
		case err == nil:
			return p
		case c.Speak != 0:
			c.Speak = 0
		case c.IdleWrite != 0 || c.IdleAll != 0:
			c.IdleWrite, c.IdleAll = 0, 0
		case c.Interval > 0 && t.MayPing:
			c = heartbeat.Config{Speak: c.Interval, Role: role}
		default:
			c = heartbeat.Config{IdleRead: 2 * c.Interval, IdleAll: 3 * c.Interval}
		}
	}
}

// A scenario is a link at random, faults that befall it, and what is promised of
// them.
type scenario struct {
	*link
	format format

	last  bool    // the fault does not pass
	sound [2]bool // before the fault, this end was not about to give a verdict

	// The fault under way, as each end sees it.
	fault  [2]fault
	outage [2]int64    // how long an outage it is to an end that must bear it; notime: some other fault
	quiet  [2]bool     // this end must not give a verdict because of it
	may    [2]verdicts // what it may say if it does
	must   [2]bool     // it must say one of these
}

// verdicts is a set of verdicts.
type verdicts uint8

func (v verdicts) has(a heartbeat.Action) bool { return v&(1<<a) != 0 }

const (
	lostOrIdle = verdicts(1<<heartbeat.Lost | 1<<heartbeat.Idle)
	anyVerdict = lostOrIdle | 1<<heartbeat.Deaf
)

// setUp opens a link of a random format with random plans, and lets it be well
// for a while. The round trip is within what Tolerance takes for granted.
func (s *scenario) setUp(seed uint64) {
	s.link.reset(seed, 20)
	r := s.rand
	*s = scenario{link: s.link, format: formats[r.IntN(len(formats))]}
	f := s.format
	if r.IntN(2) == 0 {
		f.side[0], f.side[1] = f.side[1], f.side[0]
		f.role[0], f.role[1] = f.role[1], f.role[0]
	}

	interval := logUniform(r, 30*ms, 60*sec)
	config := randomConfig(r, interval)
	presets := []func() heartbeat.Config{heartbeat.Relaxed, heartbeat.Strict, heartbeat.Realtime}
	if k := r.IntN(10); k < len(presets) {
		config = presets[k]()
	}
	configs := [2]heartbeat.Config{config, config}
	if r.IntN(3) == 0 {
		configs[r.IntN(2)] = randomConfig(r, max(30*ms, interval/2+time.Duration(r.Int64N(2*int64(interval)))))
	}
	var plans [2]*heartbeat.Plan
	for i := range plans {
		plans[i] = fit(configs[i], f.side[i], f.role[i])
	}

	trip := int64(200 * ms)
	for _, p := range plans {
		if retry := retryOf(p.Config()); retry > 0 {
			trip = min(trip, retry/2)
		}
	}
	s.stream = r.IntN(2) == 0
	s.flight = r.Int64N(trip / 2)
	if r.IntN(2) == 0 {
		s.jitter = r.Int64N(trip/2 - s.flight)
	}
	where := r.Int64N(s.flight + 1)
	s.point = [2]int64{where, s.flight - where}
	for i := range s.ends {
		s.ends[i].plan = plans[i]
	}
	for i := range s.ends {
		s.open(i, plans[i])
		e := &s.ends[i]
		if r.IntN(4) == 0 {
			e.late = 1
		}
		if r.IntN(4) == 0 {
			e.early = 1 + r.IntN(8)
		}
		if r.IntN(4) == 0 {
			e.hasty = 1 + r.IntN(8)
		}
		if r.IntN(8) == 0 {
			e.grace = int64(sec/10) + r.Int64N(int64(sec))
		}
		if c := s.base(i); r.IntN(3) == 0 {
			s.talks(i, 1+c/(1+r.Int64N(8)))
		}
	}
	if r.IntN(4) == 0 {
		i := r.IntN(2)
		s.ends[i].follow = [2]time.Duration{interval / 2, interval * 2}
	}
}

// base returns a length of time that matters to end i.
func (s *scenario) base(i int) int64 {
	c := s.ends[i].plan.Config()
	for _, d := range []time.Duration{c.Interval, c.Speak, c.IdleRead, c.IdleAll, c.IdleWrite} {
		if d > 0 {
			return int64(d)
		}
	}
	return int64(sec)
}

func retryOf(c heartbeat.Config) int64 {
	if c.Retry == 0 {
		return int64(c.Interval)
	}
	return int64(c.Retry)
}

// writes returns how often end i writes at least while all is well, apart from
// lateness; notime: nobody knows.
func (s *scenario) writes(i int) int64 {
	e := &s.ends[i]
	gap := notime
	if d := int64(e.plan.Announce()); d > 0 {
		gap = d
	}
	if e.talkGap > 0 {
		gap = min(gap, e.talkGap)
	}
	return gap
}

// fair reports whether what Tolerance takes for granted holds for end i: about the
// round trip, about the peer, and about what it does itself.
func (s *scenario) fair(i int) bool {
	p := s.ends[i].plan
	c := p.Config()
	retry := retryOf(c)
	theirs, ours := s.writes(1-i), s.writes(i)
	if c.Interval > 0 {
		if s.rtt() > min(int64(200*ms), retry/2) || retry < s.rtt()+tick {
			return false
		}
		if p.Queries() && !s.ends[1-i].plan.Answers() || !p.Queries() && theirs > int64(c.Interval) {
			return false
		}
	}
	// A limit on writing is kept by what this side does of its own accord.
	if c.IdleWrite > 0 && ours > int64(c.IdleWrite)-2*tick {
		return false
	}
	if c.IdleAll > 0 && p.Queries() && s.rtt() > int64(c.IdleAll)-2*tick {
		return false
	}
	if c.IdleAll > 0 && !p.Queries() && min(ours, theirs) > int64(c.IdleAll)-2*tick-s.rtt() {
		return false
	}
	return true
}

// steady reports whether end i must not give a verdict while all is well.
func (s *scenario) steady(i int) bool {
	p := s.ends[i].plan
	c := p.Config()
	if !s.fair(i) {
		return false
	}
	theirs := s.writes(1 - i)
	if c.Interval == 0 && c.IdleRead > 0 && theirs > int64(c.IdleRead)-2*tick-s.rtt() {
		return false
	}
	return true
}

// settled returns a time by which any verdict from a fault that ends at to is in.
func (s *scenario) settled(to int64) int64 {
	longest := int64(0)
	for i := range s.ends {
		e := &s.ends[i]
		c := e.plan.Config()
		pauses := int64(max(1, c.Confirm)) * int64(c.Interval+e.follow[1]) // it may follow its peer to the longest
		longest = max(longest, int64(e.plan.WorstCase())+pauses+e.grace,
			int64(max(c.IdleWrite, c.IdleAll)), 2*s.base(i))
	}
	return to + longest + 2*tick
}

// play runs a scenario, and leaves what was wrong in s.problem.
func (s *scenario) play(seed uint64, count *coverage) {
	s.setUp(seed)
	r := s.rand
	longest := max(s.base(0), s.base(1))
	s.begin(noFault, noFault)
	s.outage = [2]int64{notime, notime}
	s.quiet = [2]bool{s.bears(0, 0), s.bears(1, 0)}
	s.may = [2]verdicts{anyVerdict, anyVerdict}
	s.run(s.now + longest + r.Int64N(2*longest))
	s.finish(count)
	s.frugal()
	for range 1 + r.IntN(3) {
		if s.problem != "" || s.endless || s.over() || !s.well(s.now) {
			return
		}
		f := faults[r.IntN(len(faults))]
		s.quiet, s.must = [2]bool{}, [2]bool{}
		s.outage = [2]int64{notime, notime}
		s.may = [2]verdicts{anyVerdict, anyVerdict}
		s.spare, s.drop = 0, 0
		s.sound = [2]bool{s.bears(0, 0), s.bears(1, 0)}
		until, applies := f(s)
		if !applies {
			continue
		}
		if s.tracing {
			s.note("now: %v for end 0, %v for end 1, quiet %v", s.fault[0], s.fault[1], s.quiet)
		}
		s.run(until)
		s.finish(count)
	}
}

// frugal checks that two ends that are well have pinged no more than once an Interval,
// where they speak as often as they ask.
func (s *scenario) frugal() {
	if s.over() {
		return
	}
	for i := range s.ends {
		e := &s.ends[i]
		o := &e.oracle
		if !s.quiet[i] || s.endless || s.problem != "" || o.interval == 0 || o.speak != o.interval || o.swaps > 0 || o.hastenings > 0 {
			continue
		}
		if most := (e.clock(s.now)-o.opened)/o.interval + 2; int64(o.pings) > most {
			s.fail("end %d has sent %d pings, and %d are enough", i, o.pings, most)
		}
	}
}

// over reports whether one end is no more, so that no further fault says anything.
func (s *scenario) over() bool {
	for i := range s.ends {
		e := &s.ends[i]
		if e.verdict != heartbeat.None || e.doomed != notime {
			return true
		}
	}
	return s.last
}

// bound returns the bound of the detector that has given the verdict of end i.
func (s *scenario) bound(i int) heartbeat.Bound {
	e := &s.ends[i]
	limit := ""
	if e.verdict == heartbeat.Idle {
		limit = detectorNames[e.oracle.passed]
	}
	for _, b := range e.plan.Bounds() {
		if b.Verdict == e.verdict && b.Limit == limit {
			if want := e.oracle.longest(e.verdict, limit); int64(b.WorstCase) != want {
				s.fail("end %d says %v, promised within %v, want %v", i, e.verdict, b.WorstCase, time.Duration(want))
			}
			return b
		}
	}
	s.fail("end %d says %v, which is not among its bounds", i, e.verdict)
	return heartbeat.Bound{}
}

// well reports whether the network has recovered from what has befallen it.
func (n *network) well(now int64) bool {
	for i := range n.senders {
		if n.senders[i].backoff > 0 {
			return false
		}
	}
	for i := range n.packets {
		if n.packets[i].at > now+n.flight+n.jitter {
			return false
		}
	}
	return true
}

func (s *scenario) begin(a, b fault) {
	s.fault = [2]fault{a, b}
}

// finish holds the verdicts against what is promised of the fault.
func (s *scenario) finish(count *coverage) {
	if s.problem != "" || s.endless {
		return
	}
	first, since := -1, notime // the end that gave up first, or was about to
	for i := range s.ends {
		e := &s.ends[i]
		at := e.wavering
		if e.verdict != heartbeat.None {
			at = min(at, e.at)
		}
		if at < since {
			first, since = i, at
		}
	}
	for i := range s.ends {
		e := &s.ends[i]
		switch v := e.verdict; {
		case e.alone:
		case s.quiet[i] && first == i:
			s.fail("end %d says %v, and must bear it: %v", i, v, s.fault[i])
		case v == heartbeat.None:
			if s.must[i] && first < 0 {
				s.fail("end %d gives no verdict: %v", i, s.fault[i])
			}
			if s.quiet[i] && first < 0 {
				count.silent(e.plan, s.fault[i])
			}
		case first != i:
			// Its peer has gone meanwhile.
		case !s.may[i].has(v):
			s.fail("end %d says %v: %v", i, v, s.fault[i])
		case s.bound(i).Tolerance >= time.Duration(s.outage[i]):
			s.fail("end %d says %v, whose detector must bear it: %v", i, v, s.fault[i])
		case s.sound[i]:
			count.verdict(e, s.fault[i])
		}
		e.wavering = notime
	}
}
