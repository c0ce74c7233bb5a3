package heartbeat_test

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// FuzzState plays events at random to a State of a random plan. The input is a
// plan, a phase, a start and then one event in three bytes: what, and how much
// later.
func FuzzState(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		b := make([]byte, fuzzHeader+3*r.IntN(60))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { playEvents(t, b) })
}

const fuzzHeader = 24

// fuzzTime spreads 16 bits over 1 ns to 292 years.
func fuzzTime(v uint16) time.Duration {
	return time.Duration((uint64(v&0x3ff) | 0x400) << (v >> 10) >> 11)
}

func fuzzPlan(b []byte) (*heartbeat.Plan, error) {
	duration := func(i int) time.Duration {
		v := binary.BigEndian.Uint16(b[i:])
		if v&0x8000 == 0 { // commonly off, or of a usual size
			return 0
		}
		return fuzzTime(v&0x3ff | (24+v>>10&15)<<10)
	}
	c := heartbeat.Config{
		Interval:  duration(0),
		Retry:     duration(2),
		Speak:     duration(4),
		IdleRead:  duration(6),
		IdleWrite: duration(8),
		IdleAll:   duration(10),
		Confirm:   int(int8(b[12])) / 16,
		Role:      heartbeat.Role(b[14] % 5),
	}
	if c.Interval > 0 {
		c.Misses = 1 + int(b[13]%6)
	} else {
		c.Retry, c.Confirm = 0, 0
	}
	x := b[15]
	return c.Plan(heartbeat.Traits{MayPing: x&1 != 0, PeerMayPing: x&2 != 0, Directed: x&4 != 0,
		Answered: x&8 != 0, Stamped: x&16 != 0})
}

func playEvents(t *testing.T, b []byte) {
	if len(b) < fuzzHeader {
		return
	}
	p, err := fuzzPlan(b)
	if err != nil {
		return
	}
	c := p.Config()
	now := int64(fuzzTime(binary.BigEndian.Uint16(b[16:])))
	if b[18]&1 != 0 {
		now = -now
	}
	var s heartbeat.State
	s.Start(p, now, binary.BigEndian.Uint32(b[20:]))
	pings := 0 // since the last answer
	next := now

	// check polls and tests everything that holds of any poll.
	check := func() heartbeat.Action {
		a, n := s.Poll(p, now)
		next = n
		switch a {
		case heartbeat.None, heartbeat.Ping:
			if next <= now && now != math.MaxInt64 {
				t.Fatalf("%v at %d, but next is %d", a, now, next)
			}
		case heartbeat.Deaf:
			if !p.Queries() || c.Confirm < 0 {
				t.Fatalf("%v from a plan that cannot tell", a)
			}
			fallthrough
		case heartbeat.Lost:
			if c.Interval == 0 {
				t.Fatalf("%v without an Interval", a)
			}
			if p.Queries() && (pings < c.Misses || s.Missed() != c.Misses) {
				t.Fatalf("%v after %d pings and %d misses, want %d", a, pings, s.Missed(), c.Misses)
			}
		case heartbeat.Idle:
			if c.IdleRead == 0 && c.IdleWrite == 0 && c.IdleAll == 0 {
				t.Fatalf("%v without a limit", a)
			}
		}
		if a == heartbeat.Ping {
			if !p.Queries() && !p.Speaks() {
				t.Fatal("a ping from a plan that may not")
			}
			pings++
			if again, _ := s.Poll(p, now); again == heartbeat.Ping {
				t.Fatalf("a second ping at %d", now)
			}
		}
		if s.Missed() < 0 || s.Missed() > c.Misses || s.RTT() < 0 || s.RTTVar() < 0 {
			t.Fatalf("missed %d, RTT %v, variation %v", s.Missed(), s.RTT(), s.RTTVar())
		}
		return a
	}
	// stands checks that a verdict stays as it is while nothing but time is added.
	stands := func(a heartbeat.Action) {
		copied := s
		for _, d := range []int64{0, 1, int64(heartbeat.Tick), int64(c.Interval), int64(c.Retry) * 3, 1 << 62} {
			if now > math.MaxInt64-d || d < 0 {
				continue
			}
			if again, _ := copied.Poll(p, now+d); again != a {
				t.Fatalf("%v became %v after %v", a, again, time.Duration(d))
			}
		}
	}

	for e := b[fuzzHeader:]; len(e) >= 3; e = e[3:] {
		switch d := int64(fuzzTime(binary.BigEndian.Uint16(e[1:]))); {
		case e[0]&0x80 != 0 && next > now && next != math.MaxInt64:
			now = next + int64(e[1])*1e5 // as a timer would
		case now <= math.MaxInt64-d:
			now += d
		default:
			now = math.MaxInt64
		}
		if now < 0 && b[18]&1 == 0 {
			now = math.MaxInt64
		}
		switch e[0] & 7 {
		case 0:
			s.Read(now)
		case 1:
			s.Wrote(now)
		case 2:
			s.Answer(p, now, s.Stamp(), p.Traits().Stamped)
			pings = 0
		case 3:
			s.Answer(p, now, uint64(e[1]), e[2]&1 != 0)
			pings = 0
		case 4:
			s.Read(now - 5*int64(time.Second)) // a clock that turns back
			s.Read(now)
		default:
			if a := check(); a.Verdict() {
				stands(a)
				if e[0]&8 != 0 {
					return
				}
			} else if a == heartbeat.Ping && e[0]&8 != 0 {
				s.Wrote(now)
			}
		}
	}

	// From here on the peer is dead: the verdict comes in time, and nothing
	// spins until then.
	worst := int64(p.WorstCase())
	if worst == 0 || now > math.MaxInt64-worst {
		return
	}
	s.Answer(p, now, 0, false)
	s.Wrote(now)
	pings = 0
	dead := now
	for polls := 0; ; polls++ {
		a := check()
		if a.Verdict() {
			if a == heartbeat.Deaf {
				t.Fatal("a peer that was silent is called deaf")
			}
			break
		}
		if a == heartbeat.Ping {
			s.Wrote(now)
		}
		if polls > 20_000 {
			return // Speak is short, that is all
		}
		now = next
	}
	if now-dead > worst-int64(heartbeat.Tick) {
		t.Fatalf("verdict after %v, without lateness; WorstCase %v", time.Duration(now-dead), p.WorstCase())
	}
}
