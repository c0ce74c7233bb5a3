package heartbeat_test

import (
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// A fault is what befalls a link, as one end sees it.
type fault uint8

const (
	noFault fault = iota
	itself        // this end is the one that fails for good
	jitter
	losses
	bursts
	duplication
	reordering
	cutBoth
	cutIn  // what the peer sends is lost
	cutOut // what this end sends is lost
	held
	behindNAT
	beyondNAT
	peerFroze
	froze
	frozeExcused
	clockJump
	peerClockJump
	peerVanished
	peerHung
	peerDeaf
	pauses
	peerPauses
	replanned
	peerReplanned
	follows
	replannedInCut
	peerReplannedInCut
	noRoom
	peerNoRoom
	numFaults
)

var faultNames = [numFaults]string{"no fault", "itself", "jitter", "single losses", "loss bursts", "duplication", "reordering",
	"cut both ways", "cut towards it", "cut from it", "delay", "behind a NAT", "beyond a NAT",
	"peer freezes", "freezes", "freezes, excused", "clock jumps", "peer's clock jumps",
	"peer vanished", "peer hung", "peer deaf", "pauses, excused", "peer pauses",
	"new plan", "peer's new plan", "follows its peer", "new plan in a cut", "peer's, in a cut", "kernel takes nothing", "peer's takes nothing"}

func (f fault) String() string { return faultNames[f] }

// faults let one fault befall the link, at random, and say what is promised of it.
// They return when any verdict from it is in.
var faults = []func(*scenario) (until int64, applies bool){
	(*scenario).jitters, (*scenario).loses, (*scenario).bursts, (*scenario).duplicates, (*scenario).reorders,
	(*scenario).cut, (*scenario).cut, (*scenario).cut, (*scenario).holdUp, (*scenario).translate,
	(*scenario).freezes, (*scenario).freezes, (*scenario).jumps, (*scenario).vanish, (*scenario).deafen, (*scenario).deafen,
	(*scenario).pauses, (*scenario).changePlan, (*scenario).changePlan, (*scenario).chokes,
}

const forever = int64(1) << 61

// length returns how long an outage lasts: often as long as one of the ends must
// bear, sometimes longer, sometimes for good.
func (s *scenario) length(mayLast bool) int64 {
	i := s.rand.IntN(2)
	bearable := int64(s.ends[i].plan.Tolerance())
	switch k := s.rand.IntN(8); {
	case k < 4 && bearable > 0 && bearable <= 50*s.base(i):
		if k < 2 {
			return bearable
		}
		return 1 + s.rand.Int64N(bearable)
	case k >= 6 && mayLast:
		return forever
	}
	worst := max(int64(s.ends[i].plan.WorstCase()), s.base(i))
	return 1 + s.rand.Int64N(2*worst)
}

// soon returns a time within a while from now.
func (s *scenario) soon() int64 { return s.now + 1 + s.rand.Int64N(2*s.base(s.rand.IntN(2))) }

// bears reports whether end i must bear an outage of d, by its plan and by the one
// that it follows its peer to.
func (s *scenario) bears(i int, d int64) bool {
	e := &s.ends[i]
	if !s.steady(i) {
		return false
	}
	p := s.followed(i)
	if d > 0 && p == nil {
		s.outage[i] = d
	}
	if d > 0 && d > int64(e.plan.Tolerance()) {
		return false
	}
	if p == nil || p == e.plan {
		return true
	}
	return s.by(i, p, func() bool { return s.steady(i) && (d == 0 || d <= int64(p.Tolerance())) })
}

// by asks something as if end i had another plan.
func (s *scenario) by(i int, p *heartbeat.Plan, ask func() bool) bool {
	e := &s.ends[i]
	own := e.plan
	e.plan = p
	yes := ask()
	e.plan = own
	return yes
}

// followed returns the plan to which end i follows its peer, nil if it does not.
func (s *scenario) followed(i int) *heartbeat.Plan {
	e, announced := &s.ends[i], s.ends[1-i].plan.Announce()
	if e.follow[1] == 0 || announced == 0 {
		return nil
	}
	return following(e.plan, min(max(announced, e.follow[0]), e.follow[1]))
}

// silentFor says that end i hears nothing any more.
func (s *scenario) silentFor(i int) {
	if s.fair(i) {
		s.may[i] = lostOrIdle
	}
	s.must[i] = s.ends[i].plan.WorstCase() > 0
}

func (s *scenario) jitters() (int64, bool) {
	trip := int64(200 * ms)
	for i := range s.ends {
		if retry := retryOf(s.ends[i].plan.Config()); retry > 0 {
			trip = min(trip, retry/2)
		}
	}
	if s.flight+s.jitter+1 >= trip/2 {
		return 0, false
	}
	s.jitter += 1 + s.rand.Int64N(trip/2-s.flight-s.jitter-1)
	s.begin(jitter, jitter)
	s.quiet = [2]bool{s.bears(0, 0), s.bears(1, 0)}
	return s.settled(s.now), true
}

// loses: fewer messages lost than Misses, anywhere, cause no verdict.
func (s *scenario) loses() (int64, bool) {
	n := int64(notime)
	for i := range s.ends {
		p := s.ends[i].plan
		c := p.Config()
		if c.IdleRead > 0 || c.IdleWrite > 0 || c.IdleAll > 0 || !s.bears(i, 0) {
			return 0, false
		}
		if c.Interval == 0 {
			continue
		}
		n = min(n, int64(c.Misses)-1)
		if !p.Queries() {
			silence := int64(c.Interval) + int64(c.Misses)*retryOf(c) - s.rtt()
			n = min(n, silence/(s.writes(1-i)+tick)-1)
		}
	}
	if s.stream || n <= 0 || n > 100 {
		return 0, false
	}
	s.tidy = false
	s.spare, s.drop = s.rand.IntN(8), int(n)
	s.begin(losses, losses)
	s.quiet = [2]bool{true, true}
	return s.settled(s.now + 8*max(s.base(0), s.base(1))), true
}

// bursts: an outage that lets some packets pass is no worse than one that does not.
func (s *scenario) bursts() (int64, bool) {
	d := s.length(false)
	from := s.soon()
	for i := range s.cuts {
		for at := from; at < from+d; {
			to := min(from+d, at+1+s.rand.Int64N(d))
			s.cuts[i] = append(s.cuts[i], span{at, to})
			at = to + s.rand.Int64N(d)
		}
	}
	s.tidy = false
	s.begin(bursts, bursts)
	s.quiet = [2]bool{s.bears(0, d), s.bears(1, d)}
	return s.settled(from+d) + d, true
}

func (s *scenario) duplicates() (int64, bool) {
	if s.stream {
		return 0, false
	}
	s.duplicate = 1 + s.rand.IntN(4)
	s.tidy = false
	s.begin(duplication, duplication)
	s.quiet = [2]bool{s.bears(0, 0), s.bears(1, 0)}
	return s.settled(s.now), true
}

// reorders: a query and its answer may both be overtaken.
func (s *scenario) reorders() (int64, bool) {
	if s.stream {
		return 0, false
	}
	s.overtaking = s.length(false)
	s.overtaken = 2 + s.rand.IntN(4)
	until := s.settled(s.now)
	s.at(until, func() { s.overtaken = 0 })
	s.tidy = false
	s.begin(reordering, reordering)
	s.quiet = [2]bool{s.bears(0, 2*s.overtaking), s.bears(1, 2*s.overtaking)}
	return s.settled(until) + 2*s.overtaking, true
}

// directions picks which way an outage is, and says how either end sees it.
func (s *scenario) directions() (from []int, a, b fault) {
	switch s.rand.IntN(4) {
	case 0:
		return []int{0}, cutOut, cutIn
	case 1:
		return []int{1}, cutIn, cutOut
	}
	return []int{0, 1}, cutBoth, cutBoth
}

func (s *scenario) cut() (int64, bool) {
	d := s.length(true)
	from := s.soon()
	senders, a, b := s.directions()
	s.begin(a, b)
	for _, i := range senders {
		s.cuts[i] = append(s.cuts[i], span{from, from + d})
	}
	s.tidy = false
	s.quiet = [2]bool{s.bears(0, d), s.bears(1, d)}
	if d < forever {
		return s.settled(from+d) + d, true
	}
	s.last = true
	for i := range s.ends {
		switch p := s.ends[i].plan; s.fault[i] {
		case cutBoth, cutIn:
			s.silentFor(i)
		case cutOut:
			s.must[i] = p.Queries() && p.Config().Confirm >= 0
			s.ends[1-i].alone = s.rand.IntN(2) == 0
		}
	}
	return s.settled(from) + s.rtt(), true
}

// holdUp: what is held up for a while comes after it.
func (s *scenario) holdUp() (int64, bool) {
	d := s.length(false)
	from := s.soon()
	senders, _, _ := s.directions()
	for _, i := range senders {
		s.slow[i] = span{from, from + d}
	}
	s.tidy = false
	s.begin(held, held)
	s.quiet = [2]bool{s.bears(0, d), s.bears(1, d)}
	return s.settled(from+d) + d, true
}

// translate: a NAT forgets nothing while the end behind it speaks often enough.
func (s *scenario) translate() (int64, bool) {
	i := s.rand.IntN(2)
	timeout := s.base(i)/4 + s.rand.Int64N(4*s.base(i))
	s.nat = nat{inside: i, timeout: timeout, inbound: s.rand.IntN(2) == 0, strict: s.rand.IntN(2) == 0, last: s.now}
	s.fault[i], s.fault[1-i] = behindNAT, beyondNAT
	s.tidy, s.last = false, true
	if gap := s.writes(i); gap < timeout-2*tick && s.now-s.ends[i].oracle.written+gap < timeout {
		s.quiet = [2]bool{s.bears(0, 0), s.bears(1, 0)}
	}
	return s.settled(s.now + 4*timeout), true
}

// freezes: one end stands still, and reads what has come meanwhile before its
// timers run. To its peer that is an outage. It has itself to blame for nothing:
// of its own stalls it must bear any.
func (s *scenario) freezes() (int64, bool) {
	i := s.rand.IntN(2)
	d := s.length(false)
	from := s.soon()
	stopped := s.rand.IntN(2) == 0
	s.at(from, func() { s.freeze(i, d, stopped) })
	s.tidy = false
	s.fault[i], s.fault[1-i] = froze, peerFroze
	s.quiet[1-i] = s.bears(1-i, d)
	p := s.ends[i].plan
	c := p.Config()
	switch {
	case stopped:
		s.fault[i] = frozeExcused
		s.quiet[i] = s.bears(i, 0)
	case c.IdleRead == 0 && c.IdleWrite == 0 && c.IdleAll == 0 && true:
		s.quiet[i] = s.bears(i, 0)
	default:
		s.quiet[i] = s.bears(i, d) && spoken(p)
	}
	return s.settled(from+d) + d, true
}

// spoken reports whether a ping is due before any limit on writing, so that a
// stall of its own does not end a connection as Idle.
func spoken(p *heartbeat.Plan) bool {
	c := p.Config()
	return c.IdleWrite == 0 && c.IdleAll == 0 || p.Speaks()
}

// jumps: a jump of one end's clock is to that end what an outage is, but that a
// side that asks notices that it was not watching. Its peer sees nothing of it.
func (s *scenario) jumps() (int64, bool) {
	i := s.rand.IntN(2)
	d := s.length(false)
	from := s.soon()
	s.at(from, func() { s.jump(i, d) })
	s.fault[i], s.fault[1-i] = clockJump, peerClockJump
	s.quiet[1-i] = s.bears(1-i, 0)
	p := s.ends[i].plan
	c := p.Config()
	if p.Queries() && c.IdleRead == 0 && c.IdleWrite == 0 && c.IdleAll == 0 && c.Misses > 2 {
		s.quiet[i] = s.bears(i, 0)
	} else {
		s.quiet[i] = s.bears(i, d) && spoken(p)
	}
	s.tidy = false
	return s.settled(from+d) + d, true
}

// vanish: a peer that is gone, or does nothing any more, is Lost.
func (s *scenario) vanish() (int64, bool) {
	i := s.rand.IntN(2)
	from := s.soon()
	e := &s.ends[i]
	s.fault[i] = itself
	s.last = true
	e.alone = true
	if s.rand.IntN(2) == 0 {
		s.fault[1-i] = peerVanished
		s.at(from, func() {
			s.note("end %d vanishes", i)
			e.gone = true
		})
	} else {
		s.fault[1-i] = peerHung
		s.at(from, func() {
			s.note("end %d hangs", i)
			e.hung = true
		})
	}
	s.silentFor(1 - i)
	return s.settled(from) + s.rtt(), true
}

// deafen: a peer that talks and does not read is Deaf to a side that confirms, and
// well to any other. Its writes may come to a halt.
func (s *scenario) deafen() (int64, bool) {
	i := s.rand.IntN(2) // the deaf one
	w := 1 - i
	e, peer := &s.ends[w], &s.ends[i]
	p := e.plan
	c := p.Config()
	if c.Interval == 0 || s.followed(w) != nil {
		return 0, false
	}
	retry := retryOf(c)
	// The rate of talking up to which Deaf is promised.
	gap := min(int64(c.Interval), int64(c.Misses)*retry-retry/2-tick-s.jitter-1)
	if gap < int64(ms) {
		return 0, false
	}
	s.fault[w], s.fault[i] = peerDeaf, itself
	fair := s.fair(w)
	s.last = true
	peer.alone = true
	peer.deaf = true
	s.note("end %d reads nothing any more", i)
	s.talks(i, gap-s.rand.Int64N(gap/2))
	if e.talkGap != 0 && s.rand.IntN(2) == 0 {
		e.talk = notime // else the series would always begin with a ping that is out
	}
	choked := s.stream && s.rand.IntN(2) == 0
	if choked {
		s.at(s.soon(), func() {
			s.note("the kernel of end %d takes nothing any more", w)
			e.blocked = true
		})
	}
	idle := c.IdleRead > 0 || c.IdleWrite > 0 || c.IdleAll > 0
	if p.Queries() && c.Confirm >= 0 {
		s.must[w] = true
		if fair && !idle {
			s.may[w] = 1 << heartbeat.Deaf
		}
	} else {
		s.quiet[w] = fair && !(idle && (choked || e.talk == notime))
	}
	s.tidy = false
	return s.settled(s.now) + int64(p.WorstCase()), true
}

// pauses: who does not listen for a while does not blame its peer for it. To the
// peer that is an outage.
func (s *scenario) pauses() (int64, bool) {
	i := s.rand.IntN(2)
	d := s.length(false)
	from := s.soon()
	s.at(from, func() { s.hold(i, d) })
	s.fault[i], s.fault[1-i] = pauses, peerPauses
	s.quiet[i], s.quiet[1-i] = s.bears(i, 0), s.bears(1-i, d)
	if c := s.ends[i].plan.Config(); c.IdleAll > 0 && s.writes(i) > int64(c.IdleAll)-2*tick {
		s.quiet[i] = false // what is not written is not excused
	}
	s.tidy = false
	return s.settled(from+d) + d, true
}

// changePlan: no plan that suits the link condemns anybody by being adopted, nor
// in an outage that both plans tolerate.
func (s *scenario) changePlan() (int64, bool) {
	i := s.rand.IntN(2)
	e := &s.ends[i]
	own := e.plan.Config()
	interval := max(30*ms, time.Duration(s.base(i))/4+time.Duration(s.rand.Int64N(s.base(i)*2)))
	p := fit(randomConfig(s.rand, interval), e.plan.Traits(), own.Role)
	if p.Config().Interval > 0 {
		if retry := retryOf(p.Config()); retry/2 < s.rtt() {
			return 0, false
		}
	}
	from := s.soon()
	d := int64(0)
	s.fault[i], s.fault[1-i] = replanned, peerReplanned
	if s.ends[1-i].follow[1] > 0 {
		s.fault[1-i] = follows
	}
	if s.rand.IntN(2) == 0 {
		d = s.length(false)
		s.fault[i], s.fault[1-i] = replannedInCut, peerReplannedInCut
		senders, _, _ := s.directions()
		for _, k := range senders {
			s.cuts[k] = append(s.cuts[k], span{from, from + d})
		}
	}
	s.at(from+s.rand.Int64N(d+1), func() { s.replan(i, p) })
	s.quiet = [2]bool{s.bears(0, d), s.bears(1, d)}
	s.by(i, p, func() bool {
		for k := range s.quiet {
			s.quiet[k] = s.quiet[k] && s.bears(k, d)
		}
		return true
	})
	s.outage = [2]int64{notime, notime}
	// A series that is running keeps what it has counted, so that fewer or shorter
	// tries end it sooner.
	c := p.Config()
	if d > 0 && (c.Misses < own.Misses || retryOf(c) < retryOf(own)) {
		s.quiet[i] = false
	}
	// Limits that the new plan brings along count from before it.
	theirs := min(s.writes(0), s.writes(1))
	if c.IdleRead > 0 && s.writes(1-i) > int64(c.IdleRead)-2*tick-s.rtt() || c.IdleAll > 0 && theirs > int64(c.IdleAll)-2*tick-s.rtt() {
		s.quiet[i] = false
	}
	until := s.settled(from + d)
	s.by(i, p, func() bool { until = max(until, s.settled(from+d)); return true })
	s.tidy = false
	return until + d, true
}

// chokes: the kernel of one end takes nothing for a while. To both ends that is an
// outage, and limits on writing are reached.
func (s *scenario) chokes() (int64, bool) {
	i := s.rand.IntN(2)
	d := s.length(true)
	e := &s.ends[i]
	from := s.soon()
	s.at(from, func() {
		s.note("the kernel of end %d takes nothing", i)
		e.blocked = true
	})
	if d < forever {
		s.at(from+d, func() {
			s.note("the kernel of end %d takes something again", i)
			e.blocked = false
		})
	}
	s.fault[i], s.fault[1-i] = noRoom, peerNoRoom
	c := e.plan.Config()
	s.quiet[i] = c.IdleWrite == 0 && c.IdleAll == 0 && s.bears(i, d)
	s.quiet[1-i] = s.bears(1-i, d)
	s.tidy = false
	if d < forever {
		return s.settled(from+d) + d, true
	}
	s.last = true
	s.silentFor(1 - i)
	s.must[i] = e.plan.Queries() && c.Confirm >= 0
	return s.settled(from) + s.rtt(), true
}
