package heartbeat_test

import (
	"fmt"
	"math"
	"testing"
	"time"
	"unsafe"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

const never = time.Duration(math.MaxInt64)

func TestSize(t *testing.T) {
	if n := unsafe.Sizeof(heartbeat.State{}); n > 64 {
		t.Errorf("a State takes %d bytes; it is to fit a cache line, and 72 at the very most", n)
	}
}

// A step is an event, or a poll with what it must return. The event comes at
// the time at, counted from Start.
type step struct {
	at   time.Duration
	do   event
	act  heartbeat.Action // poll: what to do
	next time.Duration    // poll: when next; 0: not checked
}

type event uint8

const (
	poll   event = iota
	read         // data was read
	wrote        // data was written
	answer       // the answer to the latest ping was read
	skip         // like poll, but a ping it asks for never reaches the kernel
)

// Phases that put the first ping at the very end of the interval, half-way,
// and at once.
const (
	full = math.MaxUint32
	half = 1<<31 - 1
	none = 0
)

var traces = []struct {
	name   string
	config heartbeat.Config
	traits heartbeat.Traits
	phase  uint32
	steps  []step
}{
	{"vanished at once", heartbeat.Config{Interval: 10 * sec, Misses: 3, Retry: 2 * sec}, directed, half, []step{
		{0, poll, heartbeat.None, 5 * sec},
		{5*sec - 1, poll, heartbeat.None, 5 * sec},
		{5 * sec, poll, heartbeat.Ping, 7 * sec},
		{7 * sec, poll, heartbeat.Ping, 9 * sec},
		{9 * sec, poll, heartbeat.Ping, 11 * sec},
		{11*sec - 1, poll, heartbeat.None, 11 * sec},
		{11 * sec, poll, heartbeat.Lost, never},
		{12 * sec, poll, heartbeat.Lost, never},
	}},
	{"lateness does not add up", heartbeat.Config{Interval: 10 * sec, Misses: 3, Retry: 2 * sec}, directed, half, []step{
		{5*sec + 9*ms, poll, heartbeat.Ping, 7 * sec},
		{7*sec + 9*ms, poll, heartbeat.Ping, 9 * sec},
		{9*sec + 9*ms, poll, heartbeat.Ping, 11 * sec},
		{11*sec + 9*ms, poll, heartbeat.Lost, never},
	}},
	{"a retry just missed still counts from its nominal time", heartbeat.Config{Interval: 10 * sec, Misses: 3, Retry: 2 * sec}, directed, half, []step{
		{5 * sec, poll, heartbeat.Ping, 7 * sec},
		{9*sec - 1, poll, heartbeat.Ping, 9 * sec},
		{9 * sec, poll, heartbeat.Ping, 11 * sec},
	}},
	{"a series that begins a tick late begins then", heartbeat.Config{Interval: 10 * sec, Misses: 1, Retry: 2 * sec}, directed, half, []step{
		{5*sec + 10*ms, poll, heartbeat.Ping, 7*sec + 10*ms},
		{7*sec + 10*ms - 1, poll, heartbeat.None, 7*sec + 10*ms},
		{7*sec + 10*ms, poll, heartbeat.Lost, never},
	}},
	{"a series that begins within a tick does not", heartbeat.Config{Interval: 10 * sec, Misses: 1, Retry: 2 * sec}, directed, half, []step{
		{5*sec + 10*ms - 1, poll, heartbeat.Ping, 7 * sec},
		{7 * sec, poll, heartbeat.Lost, never},
	}},
	{"the clock turns back", heartbeat.Config{Interval: 10 * sec, Misses: 3, Retry: 2 * sec}, directed, half, []step{
		{5 * sec, poll, heartbeat.Ping, 7 * sec},
		{4 * sec, poll, heartbeat.None, 7 * sec},
		{0, poll, heartbeat.None, 7 * sec},
		{7 * sec, poll, heartbeat.Ping, 9 * sec},
		{6 * sec, poll, heartbeat.None, 9 * sec},
		{9 * sec, poll, heartbeat.Ping, 11 * sec},
		{11 * sec, poll, heartbeat.Lost, never},
	}},
	{"nobody is condemned unasked", heartbeat.Config{Interval: 10 * sec, Misses: 2, Retry: 2 * sec}, directed, half, []step{
		{60 * sec, poll, heartbeat.Ping, 62 * sec},
		{70 * sec, poll, heartbeat.Ping, 72 * sec},
		{72 * sec, poll, heartbeat.Lost, never},
	}},
	{"an answer ends the series", heartbeat.Config{Interval: 10 * sec, Misses: 2, Retry: 2 * sec}, directed, half, []step{
		{5 * sec, poll, heartbeat.Ping, 7 * sec},
		{7 * sec, poll, heartbeat.Ping, 9 * sec},
		{9*sec - 1, answer, 0, 0},
		{9 * sec, poll, heartbeat.None, 17 * sec}, // speech, 10 s after the last write
		{17 * sec, poll, heartbeat.Ping, 19*sec - 1},
		// The series begins, and the ping that is out serves as its first query.
		{19*sec - 1, poll, heartbeat.None, 21*sec - 1},
	}},
	{"an answer saves at the last moment", heartbeat.Config{Interval: 10 * sec, Misses: 1, Retry: 2 * sec}, directed, half, []step{
		{5 * sec, poll, heartbeat.Ping, 7 * sec},
		{7 * sec, poll, heartbeat.Lost, never},
		{7 * sec, answer, 0, 0},
		{7 * sec, poll, heartbeat.None, 15 * sec},
	}},
	{"idle but answering: one ping an interval", heartbeat.Config{Interval: 10 * sec, Misses: 2, Retry: 2 * sec}, directed, full, []step{
		{10 * sec, poll, heartbeat.Ping, 12 * sec},
		{10*sec + 50*ms, answer, 0, 0},
		{12 * sec, poll, heartbeat.None, 20 * sec},
		{20 * sec, poll, heartbeat.Ping, 20*sec + 50*ms},
		{20*sec + 50*ms, poll, heartbeat.None, 22*sec + 50*ms},
		{20*sec + 60*ms, answer, 0, 0},
		{22*sec + 50*ms, poll, heartbeat.None, 30 * sec},
		{30 * sec, poll, heartbeat.Ping, 30*sec + 60*ms},
	}},
	{"reads postpone the query", heartbeat.Config{Interval: 10 * sec, Misses: 2, Retry: 2 * sec, Speak: -1, Confirm: 3}, directed, none, []step{
		{2, poll, heartbeat.Ping, 2*sec + 2},
		{sec, answer, 0, 0},
		{2*sec + 2, poll, heartbeat.None, 11 * sec},
		{10 * sec, read, 0, 0},
		{11 * sec, poll, heartbeat.None, 20 * sec},
		{19 * sec, read, 0, 0},
		{20 * sec, poll, heartbeat.None, 29 * sec},
		{28 * sec, read, 0, 0},
		{29 * sec, poll, heartbeat.None, 31 * sec}, // 3 intervals after the answer
		{31 * sec, poll, heartbeat.Ping, 33 * sec},
		{32 * sec, read, 0, 0}, // data is no answer
		{33 * sec, poll, heartbeat.Ping, 35 * sec},
		{34 * sec, read, 0, 0},
		{35 * sec, poll, heartbeat.Deaf, never},
		{35 * sec, answer, 0, 0},
		{35 * sec, poll, heartbeat.None, 45 * sec},
	}},
	{"without confirm data is an answer", heartbeat.Config{Interval: 10 * sec, Misses: 2, Retry: 2 * sec, Speak: -1, Confirm: -1}, directed, none, []step{
		{2, poll, heartbeat.Ping, 2*sec + 2},
		{sec, read, 0, 0},
		{2*sec + 2, poll, heartbeat.None, 11 * sec},
		{10 * sec, read, 0, 0},
		{11 * sec, poll, heartbeat.None, 20 * sec},
		{20 * sec, poll, heartbeat.Ping, 22 * sec},
		{20 * sec, read, 0, 0}, // read in the very turn of the ping
		{22 * sec, poll, heartbeat.None, 30 * sec},
		{30 * sec, poll, heartbeat.Ping, 32 * sec},
		{32 * sec, poll, heartbeat.Ping, 34 * sec},
		{34 * sec, poll, heartbeat.Lost, never},
		{34 * sec, read, 0, 0},
		{34 * sec, poll, heartbeat.None, 44 * sec},
	}},
	{"data that was under way is no life", heartbeat.Config{Interval: 10 * sec, Misses: 2, Retry: 10 * sec, Speak: -1}, directed, full, []step{
		{10 * sec, poll, heartbeat.Ping, 20 * sec},
		{15*sec + 10*ms, read, 0, 0}, // within half a Retry and a Tick of the query
		{20 * sec, poll, heartbeat.Ping, 30 * sec},
		{30 * sec, poll, heartbeat.Lost, never},
	}},
	{"data when the answer was overdue", heartbeat.Config{Interval: 10 * sec, Misses: 2, Retry: 10 * sec, Speak: -1}, directed, full, []step{
		{10 * sec, poll, heartbeat.Ping, 20 * sec},
		{15*sec + 10*ms + 1, read, 0, 0},
		{20 * sec, poll, heartbeat.Ping, 30 * sec},
		{30 * sec, poll, heartbeat.Deaf, never},
	}},
	{"talked, then vanished", heartbeat.Config{Interval: 10 * sec, Misses: 4, Retry: 10 * sec, Speak: -1}, directed, full, []step{
		{10 * sec, poll, heartbeat.Ping, 20 * sec},
		{20 * sec, poll, heartbeat.Ping, 30 * sec},
		{30 * sec, poll, heartbeat.Ping, 40 * sec},
		{35*sec - 10*ms, read, 0, 0}, // not within the last Interval and the grace
		{40 * sec, poll, heartbeat.Ping, 50 * sec},
		{50 * sec, poll, heartbeat.Lost, never},
		{50 * sec, read, 0, 0},
		{50 * sec, poll, heartbeat.Deaf, never},
	}},
	{"retry above interval: an answer may bring the next query nearer", heartbeat.Config{Interval: sec, Misses: 2, Retry: 10 * sec}, directed, full, []step{
		{sec, poll, heartbeat.Ping, 2 * sec},
		{sec + ms, answer, 0, 0},
		{2 * sec, poll, heartbeat.Ping, 2*sec + ms},
		{2*sec + ms, poll, heartbeat.None, 3 * sec}, // its series begins
		{3 * sec, poll, heartbeat.Ping, 4 * sec},    // speech
		{4 * sec, poll, heartbeat.Ping, 5 * sec},
	}},
	{"a ping that waited for a retry serves no series", heartbeat.Config{Interval: 10 * sec, Misses: 2, Retry: 2 * sec, Speak: 9*sec - 2}, directed, none, []step{
		{2, poll, heartbeat.Ping, 2*sec + 2},
		{sec, answer, 0, 0},
		{9 * sec, poll, heartbeat.Ping, 11 * sec},
		{11*sec + 1, poll, heartbeat.Ping, 13 * sec}, // the clock of the series is at 11 s
		{13 * sec, poll, heartbeat.Ping, 15 * sec},
	}},
	{"a ping that waits serves the series", heartbeat.Config{Interval: 10 * sec, Misses: 2, Retry: 2 * sec, Speak: 9*sec - 1}, directed, none, []step{
		{2, poll, heartbeat.Ping, 2*sec + 2},
		{sec, answer, 0, 0},
		{9*sec + 1, poll, heartbeat.Ping, 11 * sec},
		{11*sec + 1, poll, heartbeat.None, 13 * sec},
		{13 * sec, poll, heartbeat.Ping, 15 * sec},
		{15 * sec, poll, heartbeat.Lost, never},
	}},
	{"answering only: a read deadline", heartbeat.Config{Interval: 10 * sec, Misses: 2, Retry: 2 * sec}, pongOnly, none, []step{
		{0, poll, heartbeat.None, 14 * sec},
		{9 * sec, wrote, 0, 0},
		{9 * sec, read, 0, 0},
		{14 * sec, poll, heartbeat.None, 23 * sec},
		{23*sec - 1, poll, heartbeat.None, 23 * sec},
		{23 * sec, poll, heartbeat.Lost, never},
		{23 * sec, read, 0, 0},
		{23 * sec, poll, heartbeat.None, 37 * sec},
	}},
	{"beacon: speech, and a read deadline", heartbeat.Config{Interval: 10 * sec, Misses: 2, Retry: 2 * sec, Speak: 4 * sec}, beacons, half, []step{
		{0, poll, heartbeat.None, 2 * sec},
		{1 * sec, wrote, 0, 0}, // does not move the first ping
		{2 * sec, poll, heartbeat.Ping, 6 * sec},
		{5 * sec, wrote, 0, 0},
		{5 * sec, read, 0, 0}, // does not excuse from speaking
		{6 * sec, poll, heartbeat.None, 9 * sec},
		{9 * sec, poll, heartbeat.Ping, 13 * sec},
		{13 * sec, poll, heartbeat.Ping, 17 * sec},
		{17 * sec, poll, heartbeat.Ping, 19 * sec},
		{19 * sec, poll, heartbeat.Lost, never},
	}},
	{"speech that the kernel does not take", heartbeat.Config{Speak: 4 * sec, IdleWrite: 10 * sec}, beacons, full, []step{
		{4 * sec, skip, heartbeat.Ping, 8 * sec},
		{8 * sec, skip, heartbeat.Ping, 10 * sec},
		{10 * sec, poll, heartbeat.Idle, never},
	}},
	{"speech alone never ends anything", heartbeat.Config{Speak: 4 * sec}, directed, full, []step{
		{4 * sec, poll, heartbeat.Ping, 8 * sec},
		{1000 * sec, poll, heartbeat.Ping, 1004 * sec},
	}},
	{"idle read", heartbeat.Config{IdleRead: 10 * sec}, mute, none, []step{
		{0, poll, heartbeat.None, 10 * sec},
		{9 * sec, wrote, 0, 0},
		{10*sec - 1, poll, heartbeat.None, 10 * sec},
		{10 * sec, poll, heartbeat.Idle, never},
		{10 * sec, read, 0, 0},
		{10 * sec, poll, heartbeat.None, 20 * sec},
	}},
	{"idle write", heartbeat.Config{IdleWrite: 10 * sec}, mute, none, []step{
		{9 * sec, read, 0, 0},
		{9 * sec, poll, heartbeat.None, 10 * sec},
		{10 * sec, poll, heartbeat.Idle, never},
		{10 * sec, wrote, 0, 0},
		{10 * sec, poll, heartbeat.None, 20 * sec},
	}},
	{"idle all", heartbeat.Config{IdleAll: 10 * sec}, mute, none, []step{
		{9 * sec, read, 0, 0},
		{10 * sec, poll, heartbeat.None, 19 * sec},
		{18 * sec, wrote, 0, 0},
		{19 * sec, poll, heartbeat.None, 28 * sec},
		{28*sec - 1, poll, heartbeat.None, 28 * sec},
		{28 * sec, poll, heartbeat.Idle, never},
	}},
	{"idle read cuts the queries short", heartbeat.Config{Interval: 10 * sec, Misses: 5, Retry: 2 * sec, IdleRead: 15 * sec}, directed, full, []step{
		{10 * sec, poll, heartbeat.Ping, 12 * sec},
		{12 * sec, poll, heartbeat.Ping, 14 * sec},
		{14 * sec, poll, heartbeat.Ping, 15 * sec},
		{15 * sec, poll, heartbeat.Idle, never},
	}},
	{"the earlier of two verdicts, however late the poll", heartbeat.Config{Interval: 10 * sec, Misses: 1, Retry: 4 * sec, IdleRead: 14*sec + 1}, directed, full, []step{
		{10 * sec, poll, heartbeat.Ping, 14 * sec},
		{17 * sec, poll, heartbeat.Lost, never},
	}},
	{"of two verdicts at once, the one that tried", heartbeat.Config{Interval: 10 * sec, Misses: 1, Retry: 4 * sec, IdleRead: 14 * sec}, directed, full, []step{
		{10 * sec, poll, heartbeat.Ping, 14 * sec},
		{14 * sec, poll, heartbeat.Lost, never},
	}},
	{"idle read before the read deadline, however late the poll", heartbeat.Config{Interval: 10 * sec, Misses: 3, Retry: 4 * sec, IdleRead: 14 * sec}, pongOnly, none, []step{
		{60 * sec, poll, heartbeat.Idle, never},
	}},
	{"a late poll speaks before it calls the connection idle", heartbeat.Config{Speak: 4 * sec, IdleWrite: 5 * sec}, beacons, full, []step{
		{4 * sec, poll, heartbeat.Ping, 5 * sec},
		{5 * sec, poll, heartbeat.None, 8 * sec},
		{30 * sec, poll, heartbeat.Ping, 30*sec + 1},
		{30*sec + 1, poll, heartbeat.None, 34 * sec},
	}},
	{"a late poll that cannot write says so at the next", heartbeat.Config{Speak: 4 * sec, IdleWrite: 5 * sec}, beacons, full, []step{
		{30 * sec, skip, heartbeat.Ping, 30*sec + 1},
		{30*sec + 1, poll, heartbeat.Idle, never},
	}},
	{"a verdict on silence waits for no speech", heartbeat.Config{Interval: 10 * sec, Misses: 1, Retry: 4 * sec, Speak: 3 * sec}, directed, none, []step{
		{2, poll, heartbeat.Ping, 3*sec + 2},
		{sec, answer, 0, 0},
		{3*sec + 2, poll, heartbeat.Ping, 6*sec + 2},
		{6*sec + 2, poll, heartbeat.Ping, 9*sec + 2},
		{9*sec + 2, poll, heartbeat.Ping, 11 * sec},
		{11 * sec, poll, heartbeat.None, 12*sec + 2},
		{12*sec + 2, poll, heartbeat.Ping, 15 * sec},
		{16 * sec, poll, heartbeat.Lost, never}, // speech is due as well
	}},
	{"an answer while the first ping is overdue", heartbeat.Config{Interval: 10 * sec, Misses: 1, Retry: 8 * sec}, directed, half, []step{
		{5*sec + 5*ms, answer, 0, 0},
		{5*sec + 6*ms, poll, heartbeat.Ping, 13*sec + 5*ms},
		{13*sec + 5*ms - 1, poll, heartbeat.None, 13*sec + 5*ms},
		{13*sec + 5*ms, poll, heartbeat.Lost, never},
	}},
	{"data before an overdue first query does not end its series", heartbeat.Config{Interval: 10 * sec, Misses: 1, Retry: 2 * sec, Confirm: -1, Speak: -1}, directed, half, []step{
		{5*sec + 2*ms, read, 0, 0},
		{5*sec + 5*ms, poll, heartbeat.Ping, 7*sec + 2*ms + 1},
		{7*sec + 2*ms, poll, heartbeat.None, 7*sec + 2*ms + 1},
		{7*sec + 2*ms + 1, poll, heartbeat.Lost, never},
	}},
	{"an idle verdict stays one", heartbeat.Config{Interval: 10 * sec, Misses: 2, Retry: 4 * sec, IdleWrite: 11 * sec}, pongOnly, none, []step{
		{11 * sec, poll, heartbeat.Idle, never},
		{100 * sec, poll, heartbeat.Idle, never},
		{100 * sec, wrote, 0, 0},
		{100 * sec, poll, heartbeat.Lost, never},
	}},
	{"huge durations saturate", heartbeat.Config{Interval: never - 10*sec, Misses: 1, Retry: sec, IdleRead: never, IdleWrite: never, IdleAll: never}, directed, full, []step{
		{0, poll, heartbeat.None, never - 10*sec},
		{sec, read, 0, 0},
		{sec, wrote, 0, 0},
		{20 * sec, poll, heartbeat.None, never - 10*sec},
		{20 * sec, read, 0, 0},
		{20 * sec, answer, 0, 0},
		{20 * sec, wrote, 0, 0},
		{21 * sec, poll, heartbeat.None, never - 10*sec}, // the first ping, whatever came
		{never - 1, poll, heartbeat.Ping, never},
		{never, poll, heartbeat.None, never},
	}},
	{"the zero plan asks for nothing", heartbeat.Config{}, directed, half, []step{
		{0, poll, heartbeat.None, never},
		{never, poll, heartbeat.None, never},
	}},
}

func TestTraces(t *testing.T) {
	for _, tt := range traces {
		for _, epoch := range []int64{0, 1_000_000_000_007, -1_000_000_000_007} {
			if epoch != 0 && tt.name == "huge durations saturate" {
				continue // these count from 0, so as to reach the end of time
			}
			t.Run(fmt.Sprintf("%s/%d", tt.name, epoch), func(t *testing.T) {
				p := planFor(t, tt.config, tt.traits)
				runTrace(t, p, tt.phase, epoch, tt.steps)
			})
		}
	}
}

func runTrace(t *testing.T, p *heartbeat.Plan, phase uint32, epoch int64, steps []step) {
	var s heartbeat.State
	abs := func(d time.Duration) int64 {
		if d == never {
			return math.MaxInt64
		}
		return epoch + int64(d)
	}
	s.Start(p, epoch, phase)
	for i, st := range steps {
		now := abs(st.at)
		switch st.do {
		case read:
			s.Read(now)
		case wrote:
			s.Wrote(now)
		case answer:
			s.Answer(p, now, s.Stamp(), true)
		default:
			before := s
			a, next := s.Poll(p, now)
			if a != st.act || st.next != 0 && next != abs(st.next) {
				t.Fatalf("step %d, poll at %v: %v, next %v; want %v, next %v (was %+v)",
					i, st.at, a, time.Duration(next-epoch), st.act, st.next, before)
			}
			if a == heartbeat.Ping && st.do == poll {
				s.Wrote(now)
			}
		}
	}
}

// TestEvidence checks what a State can tell after a verdict.
func TestEvidence(t *testing.T) {
	p := planFor(t, heartbeat.Config{Interval: 10 * sec, Misses: 2, Retry: 2 * sec}, directed)
	var s heartbeat.State
	s.Start(p, 5, full)
	if s.LastRead() != 5 || s.LastWrite() != 5 || s.LastAnswer() != 5 || s.Missed() != 0 || s.RTT() != 0 {
		t.Errorf("after Start: %+v", s)
	}
	at := int64(10*sec) + 5
	for i, want := range []struct {
		act    heartbeat.Action
		missed int
	}{{heartbeat.Ping, 0}, {heartbeat.Ping, 1}, {heartbeat.Lost, 2}, {heartbeat.Lost, 2}} {
		a, next := s.Poll(p, at)
		if a != want.act || s.Missed() != want.missed {
			t.Fatalf("poll %d: %v, missed %d", i, a, s.Missed())
		}
		if a == heartbeat.Ping {
			s.Wrote(at + 1)
			if s.LastWrite() != at+1 {
				t.Errorf("last write %d, want %d", s.LastWrite(), at+1)
			}
			at = next
		}
	}
	s.Read(at + 2)
	if s.LastRead() != at+2 || s.LastAnswer() != 5 || s.Missed() != 2 {
		t.Errorf("after Read: %+v", s)
	}
	s.Answer(p, at+3, 0, false)
	if s.LastRead() != at+3 || s.LastAnswer() != at+3 || s.Missed() != 0 {
		t.Errorf("after Answer: %+v", s)
	}
}

// TestPhase spreads first pings over the interval: each tenth of it gets a tenth
// of the connections, and none comes too late or before the start.
func TestPhase(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config heartbeat.Config
		traits heartbeat.Traits
		span   time.Duration
	}{
		{"query", heartbeat.Config{Interval: 10 * sec, Misses: 1}, directed, 10 * sec},
		{"query, seldom confirmed", heartbeat.Config{Interval: 10 * sec, Misses: 1, Confirm: 7}, directed, 10 * sec},
		{"query, never confirmed", heartbeat.Config{Interval: 10 * sec, Misses: 1, Confirm: -1, Speak: -1}, directed, 10 * sec},
		{"query, frequent speech", heartbeat.Config{Interval: 10 * sec, Misses: 1, Speak: sec}, directed, sec},
		{"query, rare speech", heartbeat.Config{Interval: 10 * sec, Misses: 1, Speak: 30 * sec}, directed, 10 * sec},
		{"beacon", heartbeat.Config{Interval: 10 * sec, Misses: 1, Speak: 3 * sec}, beacons, 3 * sec},
		{"speech alone", heartbeat.Config{Speak: 3 * sec}, beacons, 3 * sec},
		{"longest", heartbeat.Config{Speak: never}, beacons, never},
	} {
		const conns = 10_000
		p := planFor(t, tt.config, tt.traits)
		var tenths [10]int
		for i := range conns {
			var s heartbeat.State
			s.Start(p, 0, uint32((uint64(i)<<32+1<<31)/conns))
			a, next := s.Poll(p, 0)
			if a != heartbeat.None || next <= 0 || next > int64(tt.span) {
				t.Fatalf("%s: first poll: %v, next %v", tt.name, a, time.Duration(next))
			}
			tenths[(next-1)/(int64(tt.span)/10+1)]++
			s.Read(next - 1)
			s.Wrote(next - 1)
			if a, _ := s.Poll(p, next-1); a != heartbeat.None {
				t.Fatalf("%s: %v before the first ping was due", tt.name, a)
			}
			if a, _ := s.Poll(p, next); a != heartbeat.Ping && next != math.MaxInt64 {
				t.Fatalf("%s: %v when the first ping was due", tt.name, a)
			}
		}
		for i, n := range tenths {
			if n < conns/10-2 || n > conns/10+2 {
				t.Errorf("%s: %d of %d first pings in tenth %d", tt.name, n, conns, i)
			}
		}
	}
}

// A stricter plan, under which a query has been overdue for almost a Retry, gives
// that query its whole Retry nevertheless: the peer was well by the plan it knew.
func TestStricterPlanIsFair(t *testing.T) {
	lax := planFor(t, heartbeat.Config{Interval: 12 * sec, Misses: 3, Retry: 9 * sec}, directed)
	strict := planFor(t, heartbeat.Config{Interval: 4 * sec, Misses: 1, Retry: 5 * sec}, directed)
	var s heartbeat.State
	s.Start(lax, 0, none)
	_, _ = s.Poll(lax, int64(sec))
	s.Wrote(int64(sec))
	s.Answer(lax, int64(sec), s.Stamp(), true)
	if a, next := s.Poll(strict, int64(9*sec)); a != heartbeat.Ping || next != int64(13*sec) {
		t.Fatalf("%v, next %v; want Ping, and speech at 13s", a, time.Duration(next))
	}
	if a, next := s.Poll(strict, int64(13*sec)); a != heartbeat.Ping || next != int64(14*sec) {
		t.Fatalf("%v, next %v; want Ping, and a verdict at 14s", a, time.Duration(next))
	}
}

// TestPlanSwap gives a connection a stricter and a laxer plan on its way.
func TestPlanSwap(t *testing.T) {
	lax := planFor(t, heartbeat.Config{Interval: 60 * sec, Misses: 4, Retry: 20 * sec}, directed)
	strict := planFor(t, heartbeat.Config{Interval: 2 * sec, Misses: 2, Retry: sec}, directed)
	waiting := planFor(t, heartbeat.Config{Interval: 2 * sec, Misses: 2, Retry: sec}, pongOnly)
	off := planFor(t, heartbeat.Config{}, directed)

	var s heartbeat.State
	s.Start(lax, 0, full)
	if _, next := s.Poll(lax, 0); next != int64(60*sec) {
		t.Fatalf("next %v", time.Duration(next))
	}
	if _, next := s.Poll(strict, int64(sec)); next != int64(2*sec) {
		t.Fatalf("stricter plan: next %v, want 2s", time.Duration(next))
	}
	if a, next := s.Poll(strict, int64(2*sec)); a != heartbeat.Ping || next != int64(3*sec) {
		t.Fatalf("stricter plan: %v, next %v", a, time.Duration(next))
	}
	// Back in the middle of a series: it goes on, at the lax pace.
	if a, next := s.Poll(lax, int64(3*sec)); a != heartbeat.None || next != int64(22*sec) {
		t.Fatalf("laxer plan: %v, next %v", a, time.Duration(next))
	}
	if a, next := s.Poll(waiting, int64(3*sec)); a != heartbeat.None || next != int64(4*sec) {
		t.Fatalf("plan without queries: %v, next %v", a, time.Duration(next))
	}
	// More misses allowed after a verdict: the series goes on.
	if a, _ := s.Poll(strict, int64(4*sec)); a != heartbeat.Ping {
		t.Fatalf("second query: %v", a)
	}
	if a, _ := s.Poll(strict, int64(5*sec)); a != heartbeat.Lost || s.Missed() != 2 {
		t.Fatalf("stricter plan: %v, missed %d", a, s.Missed())
	}
	patient := planFor(t, heartbeat.Config{Interval: 2 * sec, Misses: 9, Retry: sec}, directed)
	if a, next := s.Poll(patient, int64(5*sec)); a != heartbeat.Ping || next != int64(6*sec) || s.Missed() != 2 {
		t.Fatalf("more patient plan: %v, next %v, missed %d", a, time.Duration(next), s.Missed())
	}
	if a, next := s.Poll(off, int64(30*sec)); a != heartbeat.None || next == 0 {
		t.Fatalf("empty plan: %v, next %v", a, time.Duration(next))
	}
}

func TestNoAllocations(t *testing.T) {
	p := planFor(t, heartbeat.Relaxed(), directed)
	var s heartbeat.State
	s.Start(p, 0, 0)
	now := int64(0)
	if n := testing.AllocsPerRun(1000, func() {
		now += int64(sec)
		s.Read(now)
		s.Wrote(now)
		a, _ := s.Poll(p, now)
		if a == heartbeat.Ping {
			s.Answer(p, now+1, s.Stamp(), true)
		}
		_, _, _ = s.RTT(), s.Missed(), s.LastAnswer()
	}); n != 0 {
		t.Errorf("%v allocations a turn", n)
	}
}

func TestSaturation(t *testing.T) {
	const top, bottom = math.MaxInt64, math.MinInt64
	for _, tt := range []struct {
		name      string
		got, want int64
	}{
		{"add", heartbeat.Add(5, 6), 11},
		{"add to the top", heartbeat.Add(top-6, 6), top},
		{"add above", heartbeat.Add(top-5, 6), top},
		{"add top", heartbeat.Add(top, top), top},
		{"add below zero", heartbeat.Add(bottom, top), -1},
		{"sub", heartbeat.Sub(5, 6), -1},
		{"sub below", heartbeat.Sub(bottom, 1), bottom},
		{"sub above", heartbeat.Sub(top, -1), top},
		{"sub all", heartbeat.Sub(top, bottom), top},
		{"sub all back", heartbeat.Sub(bottom, top), bottom},
		{"sub nothing", heartbeat.Sub(bottom, bottom), 0},
		{"mul", heartbeat.Mul(5, 6), 30},
		{"mul above", heartbeat.Mul(1<<32, 1<<31), top},
		{"mul to the top", heartbeat.Mul(1, top), top},
		{"mul far above", heartbeat.Mul(top, top), top},
		{"fraction least", heartbeat.Fraction(100, 0), 1},
		{"fraction of all, least", heartbeat.Fraction(top, 0), 1<<31 - 1},
		{"fraction half", heartbeat.Fraction(100, 1<<31-1), 50},
		{"fraction of all, half", heartbeat.Fraction(top, 1<<31-1), top / 2},
		{"fraction whole", heartbeat.Fraction(100, math.MaxUint32), 100},
		{"fraction of all, whole", heartbeat.Fraction(top, math.MaxUint32), top},
		{"fraction of one", heartbeat.Fraction(1, 7), 1},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, tt.got, tt.want)
		}
	}
}
