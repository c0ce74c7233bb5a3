package heartbeat_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// Excuse moves what was heard of the peer, and leaves what we did.
func TestExcuseMovesWhatWasHeard(t *testing.T) {
	p := planFor(t, heartbeat.Relaxed(), directed)
	var s heartbeat.State
	s.Start(p, 0, full)
	s.Answer(p, 100, 0, false)
	s.Read(200)
	s.Wrote(300)
	check := func(read, answer, wrote int64) {
		t.Helper()
		if s.LastRead() != read || s.LastAnswer() != answer || s.LastWrite() != wrote {
			t.Errorf("read %d, answer %d, write %d; want %d, %d, %d", s.LastRead(), s.LastAnswer(), s.LastWrite(), read, answer, wrote)
		}
	}
	s.Excuse(0)
	s.Excuse(-50)
	check(200, 100, 300)
	s.Excuse(1000)
	check(1200, 1100, 300)
	s.Excuse(5)
	check(1205, 1105, 300)
	s.Excuse(math.MaxInt64)
	check(math.MaxInt64, math.MaxInt64, 300)
	if a, _ := s.Poll(p, math.MaxInt64-1); a.Verdict() {
		t.Errorf("%v of a peer that is excused for ever", a)
	}
}

// The round trip that a pause falls into is not measured; the next one is.
func TestExcuseMeasuresNoRoundTrip(t *testing.T) {
	for _, stamped := range []bool{true, false} {
		p := planFor(t, heartbeat.Config{Interval: 10 * sec, Misses: 3, Retry: 2 * sec}, directed)
		var s heartbeat.State
		s.Start(p, 0, none)
		now := int64(10 * sec)
		ping := func() {
			t.Helper()
			if a, _ := s.Poll(p, now); a != heartbeat.Ping {
				t.Fatalf("at %v: %v", time.Duration(now), a)
			}
			s.Wrote(now)
		}
		ping()
		now += int64(20 * ms)
		s.Excuse(int64(20 * ms))
		s.Answer(p, now, s.Stamp(), stamped)
		if rtt := s.RTT(); rtt != 0 {
			t.Errorf("stamped %v: a round trip of %v was measured over a pause", stamped, rtt)
		}
		now += int64(10 * sec)
		ping()
		now += int64(30 * ms)
		s.Answer(p, now, s.Stamp(), stamped)
		if rtt := s.RTT(); rtt != 30*ms {
			t.Errorf("stamped %v: then a round trip of 30ms is measured as %v", stamped, rtt)
		}
	}
}

// A series of queries goes on after the pause where it stood, with all the tries
// that are left.
func TestExcuseKeepsSeries(t *testing.T) {
	p := planFor(t, heartbeat.Config{Interval: 10 * sec, Misses: 3, Retry: 2 * sec, Speak: -1}, directed)
	var s heartbeat.State
	s.Start(p, 0, full)
	steps := []struct {
		at     time.Duration
		excuse time.Duration
		act    heartbeat.Action
		next   time.Duration
		missed int
	}{
		{10 * sec, 0, heartbeat.Ping, 12 * sec, 0},
		{12 * sec, 0, heartbeat.Ping, 14 * sec, 1},
		// Paused from 13 s to 73 s, and looked at in between.
		{20 * sec, 7 * sec, heartbeat.None, 21 * sec, 1},
		{60 * sec, 40 * sec, heartbeat.None, 61 * sec, 1},
		{73 * sec, 13 * sec, heartbeat.None, 74 * sec, 1},
		{74 * sec, 0, heartbeat.Ping, 76 * sec, 2},
		{76*sec - 1, 0, heartbeat.None, 76 * sec, 2},
		{76 * sec, 0, heartbeat.Lost, never, 3},
	}
	for _, x := range steps {
		s.Excuse(int64(x.excuse))
		a, next := s.Poll(p, int64(x.at))
		if a != x.act || time.Duration(next) != x.next || s.Missed() != x.missed {
			t.Fatalf("at %v: %v, next %v, missed %d; want %v, %v, %d", x.at, a, time.Duration(next), s.Missed(), x.act, x.next, x.missed)
		}
		if a == heartbeat.Ping {
			s.Wrote(int64(x.at))
		}
	}
}

// A peer is judged as if the pause had not been: for random plans and histories,
// everything that follows a pause, down to the verdict and its kind, comes later
// by its length, however often it was excused piece by piece.
func TestExcuseShiftsVerdicts(t *testing.T) {
	r := rand.New(rand.NewPCG(10, 10))
	verdicts := map[heartbeat.Action]int{}
	for n := range 20_000 {
		c := heartbeat.Config{
			Interval: 100*ms + time.Duration(r.IntN(10))*100*ms,
			Misses:   1 + r.IntN(4),
			Retry:    50*ms + time.Duration(r.IntN(10))*100*ms,
			Confirm:  r.IntN(4) - 1,
			Speak:    -1, // what we send does not stop during a pause
		}
		if r.IntN(3) == 0 {
			c.IdleRead = c.Interval + c.Retry + time.Duration(r.IntN(3000))*ms
		}
		traits := directed
		if r.IntN(4) == 0 {
			traits = pongOnly
		}
		p := planFor(t, c, traits)
		phase := r.Uint32()

		// What is heard, until it is silent.
		type heard struct {
			at     int64
			answer bool
		}
		var history []heard
		at := int64(0)
		for range r.IntN(12) {
			at += int64(r.Int64N(int64(c.Interval + c.Retry)))
			history = append(history, heard{at, r.IntN(2) == 0})
		}
		end := at + int64(c.WorstCase()) + int64(sec)
		pauseAt := r.Int64N(end)
		pause := 1 + r.Int64N(int64(20*sec))

		// live returns what each poll said, polled exactly when it asked to be,
		// with a pause or without; after a pause times count from its end.
		type said struct {
			at, next int64
			verdict  heartbeat.Action
			missed   int
		}
		live := func(pause int64) (all []said, during []heartbeat.Action) {
			var s heartbeat.State
			s.Start(p, 0, phase)
			shift := int64(0)
			due := int64(0)
			poll := func(now int64) bool {
				a, next := s.Poll(p, now)
				due = next
				x := said{at: now - shift, next: next, missed: s.Missed()}
				if next != math.MaxInt64 {
					x.next -= shift
				}
				if a.Verdict() {
					x.verdict = a
				}
				all = append(all, x)
				return a.Verdict()
			}
			paused := false
			for i := 0; ; {
				next := due
				if i < len(history) {
					next = min(next, history[i].at+shift)
				}
				if !paused && pauseAt <= next {
					paused = true
					if poll(pauseAt) {
						return all, during
					}
					for at, to := pauseAt, pauseAt+pause; at < to; {
						step := min(to-at, 1+r.Int64N(int64(sec)))
						at += step
						s.Excuse(step)
						if at < to {
							a, _ := s.Poll(p, at)
							during = append(during, a)
						}
					}
					shift = pause
					if poll(pauseAt + pause) {
						return all, during
					}
					continue
				}
				if i < len(history) && history[i].at+shift <= due {
					if history[i].answer {
						s.Answer(p, history[i].at+shift, s.Stamp(), true)
					} else {
						s.Read(history[i].at + shift)
					}
					i++
					continue
				}
				if due == math.MaxInt64 {
					t.Fatalf("plan %d: %+v: no verdict", n, c)
				}
				if poll(due) {
					return all, during
				}
			}
		}
		want, _ := live(0)
		got, during := live(pause)
		for _, a := range during {
			if a != heartbeat.None {
				t.Fatalf("plan %d: %+v: %v during the pause", n, c, a)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("plan %d: %+v: %d polls with a pause of %v at %v, %d without", n, c, len(got), time.Duration(pause), time.Duration(pauseAt), len(want))
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("plan %d: %+v: poll %d: with a pause of %v at %v %+v, without %+v", n, c, i, time.Duration(pause), time.Duration(pauseAt), got[i], want[i])
			}
		}
		verdicts[got[len(got)-1].verdict]++
	}
	for _, a := range []heartbeat.Action{heartbeat.Lost, heartbeat.Deaf, heartbeat.Idle} {
		if verdicts[a] < 100 {
			t.Errorf("only %d times %v", verdicts[a], a)
		}
	}
}

// With any plan that speaks and queries, a peer that answers what it reads is
// never condemned, however often and long it is not listened to, and one that
// dies is found within WorstCase of the last pause.
func TestExcuseIsFair(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 11))
	for n := range 3000 {
		c := heartbeat.Config{
			Interval: 200*ms + time.Duration(r.IntN(10))*100*ms,
			Misses:   2 + r.IntN(3),
			Retry:    200*ms + time.Duration(r.IntN(10))*100*ms,
			Confirm:  r.IntN(4) - 1,
		}
		p := planFor(t, c, directed)
		var s heartbeat.State
		s.Start(p, 0, r.Uint32())
		now, due := int64(0), int64(0)
		var answers []uint64 // stamps of the pings that were answered and not read
		poll := func(alive bool) (a heartbeat.Action) {
			a, due = s.Poll(p, now)
			if a == heartbeat.Ping {
				s.Wrote(now)
				if alive {
					answers = append(answers, s.Stamp())
				}
			}
			return a
		}
		read := func() {
			for _, stamp := range answers {
				s.Answer(p, now, stamp, true)
			}
			answers = answers[:0]
		}
		for range 50 {
			pausedAt := now
			for to := now + r.Int64N(int64(5*sec)); now < to; { // paused: nothing is read
				s.Excuse(now - pausedAt)
				pausedAt = now
				if a := poll(true); a.Verdict() {
					t.Fatalf("plan %d: %+v: %v while it is not listened to", n, c, a)
				}
				now = max(min(due, to), now+1)
			}
			s.Excuse(now - pausedAt)
			read()
			for to := now + r.Int64N(int64(5*sec)); now < to; { // not paused
				if a := poll(true); a.Verdict() {
					t.Fatalf("plan %d: %+v: %v although it answers", n, c, a)
				}
				now += int64(10*ms) + r.Int64N(int64(90*ms)) // the answer's way
				read()
				now = max(now, min(due, to))
			}
		}
		died := now
		for {
			a := poll(false)
			if took := time.Duration(now - died); a.Verdict() {
				if took > p.WorstCase() {
					t.Fatalf("plan %d: %+v: found after %v, promised %v", n, c, took, p.WorstCase())
				}
				break
			} else if took > 2*p.WorstCase() {
				t.Fatalf("plan %d: %+v: not found after %v", n, c, took)
			}
			now = due
		}
	}
}
