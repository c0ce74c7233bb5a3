//go:build linux

package main

import (
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

// The children of the tests' driver are this binary.
func TestMain(m *testing.M) {
	if childMain() {
		os.Exit(0)
	}
	leak.Main(m)
}

// A connection on which everything went well, as both sides tell it: it was a
// member of the group for three broadcasts.
func wellServed() served {
	return served{ID: 7, Kind: "member", Reason: "PeerClosed", In: 4, Sent: 5, CastLow: 3, CastHigh: 3}
}

func wellSeen() client {
	return client{ID: 7, Kind: "member", End: endOfStream, Sent: 4, Got: 5, Cast: 3, Expect: 5, All: true}
}

// Each forged entry breaks the invariant it is forged for, in whatever order the
// two sides report, and an honest pair breaks none.
func TestLedgerNotices(t *testing.T) {
	for _, tt := range []struct {
		name  string
		forge func(s *served, c *client)
		rule  string // "": none is broken
	}{
		{"nothing", func(*served, *client) {}, ""},
		{"a lost message", func(_ *served, c *client) { c.Got, c.Expect = 4, -1 }, ruleCount},
		{"a lost message that was due", func(s *served, c *client) { s.Sent, c.Got = 4, 4 }, ruleEnd},
		{"a lost broadcast", func(_ *served, c *client) { c.Cast = 2 }, ruleCount},
		{"a message from nowhere", func(_ *served, c *client) { c.Got, c.Expect = 6, -1 }, ruleCount},
		{"a broadcast from nowhere", func(_ *served, c *client) { c.Cast, c.Got, c.Expect = 4, 4, -1 }, ruleCount},
		{"a message that came and is unsent", func(s *served, _ *client) { s.Unsent = 1 }, ruleCount},
		{"an unsent message", func(s *served, c *client) { s.Sent, s.Unsent = 6, 1 }, ""},
		{"a message lost in a reset", func(_ *served, c *client) { c.End, c.Got, c.Expect = endReset, 4, -1 }, ruleCount},
		{"too few bytes for what was lost in a reset", func(s *served, c *client) {
			c.End, c.Got, c.Expect, s.Unacked = endReset, 2, -1, 40
		}, ruleCount},
		{"unacknowledged messages", func(s *served, c *client) {
			c.End, c.Got, c.Expect, s.Unacked = endReset, 2, -1, 2*(frameHeader+messageHeader)+1
		}, ""},
		{"a reset of which nothing is known", func(s *served, c *client) {
			c.End, c.Got, c.Expect, s.Unacked = endReset, 2, -1, -1
		}, ""},
		{"answers left unread", func(_ *served, c *client) { c.End, c.Got, c.Expect = endLeft, 1, -1 }, ""},
		{"a question lost", func(s *served, _ *client) { s.In = 3 }, ruleCount},
		{"a question from nowhere", func(s *served, c *client) { s.In, c.All = 5, false }, ruleCount},
		{"broadcasts up to the end", func(s *served, c *client) { s.CastLow, s.CastHigh = 0, 9 }, ""},
		{"a reason of another kind", func(s *served, _ *client) { s.Reason = "Panic" }, ruleReason},
		{"a starved client that was too late", func(s *served, c *client) {
			s.Reason, s.In, c.Expect, c.Starved = "FrameTimeout", 2, 9, true
		}, ""},
		{"a starved client without a name", func(s *served, c *client) { s.Reason, c.Starved, c.ID = "FrameTimeout", true, 0 }, ""},
		{"a client without a name that was too late", func(s *served, c *client) { s.Reason, c.ID = "FrameTimeout", 0 }, ruleReason},
		{"a starved client that panicked", func(s *served, c *client) { s.Reason, c.Starved = "Panic", true }, ruleReason},
		{"a starved client that lost a message", func(_ *served, c *client) { c.Got, c.Expect, c.Starved = 4, -1, true }, ruleCount},
		{"another kind", func(_ *served, c *client) { c.Kind = "closer" }, ruleOwner},
		{"a gap in the client's eyes", func(_ *served, c *client) { c.Problem = "message 3 where 2 was due" }, ruleOrder},
		{"a gap in the server's eyes", func(s *served, _ *client) { s.Problem = "message 3 where 2 was due" }, ruleOrder},
		{"a client that saw no end", func(_ *served, c *client) { c.End, c.Expect = endStuck, -1 }, ruleEnd},
		{"a foreign connection", func(_ *served, c *client) { c.ID = 8 }, ruleOwner},
		{"a client without a name", func(_ *served, c *client) { c.ID = 0 }, ""},
	} {
		for _, serverFirst := range []bool{true, false} {
			s, c := wellServed(), wellSeen()
			tt.forge(&s, &c)
			l := newLedger(rules())
			if serverFirst {
				l.addServed(s)
			}
			l.addClient(c)
			if !serverFirst {
				l.addServed(s)
			}
			l.finish()
			switch {
			case tt.rule == "" && len(l.faults) > 0:
				t.Errorf("%s: %v is broken", tt.name, l.faults)
			case tt.rule != "" && l.faults[tt.rule] == nil:
				t.Errorf("%s was not noticed; broken are %v", tt.name, l.faults)
			}
		}
	}
}

// Connections that are told twice, or by one side only, are noticed.
func TestLedgerNoticesStrays(t *testing.T) {
	for name, add := range map[string]func(l *ledger){
		"a connection that ended twice":    func(l *ledger) { l.addServed(wellServed()); l.addServed(wellServed()) },
		"two clients on one connection":    func(l *ledger) { l.addClient(wellSeen()); l.addClient(wellSeen()) },
		"a connection that nobody had":     func(l *ledger) { l.addServed(wellServed()) },
		"a connection that no server had":  func(l *ledger) { l.addClient(wellSeen()) },
		"one nameless client for two ends": twoForOne,
	} {
		l := newLedger(rules())
		add(l)
		if l.finish(); l.faults[ruleOwner] == nil {
			t.Errorf("%s was not noticed", name)
		}
	}
}

func twoForOne(l *ledger) {
	for id := range uint64(2) {
		s := wellServed()
		s.ID = 10 + id
		l.addServed(s)
	}
	c := wellSeen()
	c.ID = 0
	l.addClient(c)
}

// A joined pair is forgotten: a long run needs no more memory than a short one.
func TestLedgerForgets(t *testing.T) {
	l := newLedger(rules())
	for id := range uint64(1000) {
		s, c := wellServed(), wellSeen()
		s.ID, c.ID = id+1, id+1
		l.addServed(s)
		l.addClient(c)
	}
	if len(l.served)+len(l.clients) > 0 || len(l.faults) > 0 || l.kinds["member"].Clients != 1000 {
		t.Errorf("%d and %d entries are left, faults %v", len(l.served), len(l.clients), l.faults)
	}
}

// A message comes back from its bytes as it was; no changed byte goes unnoticed.
func TestMessage(t *testing.T) {
	for _, size := range []int{messageHeader, messageHeader + 1, 1000, maxMessage} {
		m := message{sender: 1<<63 + 5, number: 77, stamp: 123456789, order: orderBurst, arg: 9, size: size}
		b := m.append(nil)
		if got, err := decode(b); err != nil || got != m {
			t.Fatalf("decoded %+v (%v), want %+v", got, err, m)
		}
		s := stream{begun: true, sender: m.sender, next: m.number}
		for _, at := range []int{0, 7, 8, 11, messageHeader, size - 1} {
			if at > 11 && at < messageHeader || at >= size {
				continue // stamp, order and argument are checked by what they cause
			}
			b[at] ^= 0x10
			if got, err := decode(b); err == nil && (&stream{begun: true, sender: s.sender, next: s.next}).receive(got, true) == nil {
				t.Errorf("a change of byte %d of %d went unnoticed", at, size)
			}
			b[at] ^= 0x10
		}
	}
	if _, err := decode(make([]byte, messageHeader-1)); err == nil {
		t.Error("half a header is a message")
	}
}

// A stream notices what is missing, doubled, or somebody else's.
func TestStream(t *testing.T) {
	send := func(from0 bool, messages ...message) (err error) {
		var s stream
		for _, m := range messages {
			if err = s.receive(m, from0); err != nil {
				return err
			}
		}
		return nil
	}
	m := func(sender uint64, number uint32) message { return message{sender: sender, number: number} }
	for name, bad := range map[string]error{
		"a gap":                   send(true, m(1, 0), m(1, 2)),
		"a message twice":         send(true, m(1, 0), m(1, 0)),
		"a missing beginning":     send(true, m(1, 1)),
		"a foreign message":       send(true, m(1, 0), m(2, 1)),
		"a gap after a late join": send(false, m(1, 5), m(1, 7)),
	} {
		if bad == nil {
			t.Errorf("%s went unnoticed", name)
		}
	}
	for name, err := range map[string]error{
		"in order":    send(true, m(1, 0), m(1, 1), m(1, 2)),
		"a late join": send(false, m(1, 5), m(1, 6)),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Quantiles of a histogram are those of its values, to within a bucket.
func TestHistogram(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var h histogram
	var all []time.Duration
	for range 10000 {
		d := time.Duration(random.ExpFloat64() * float64(3*time.Millisecond))
		h.note(d)
		all = append(all, d)
	}
	h = *h.sparse().histogram()
	slices.Sort(all)
	for _, q := range []float64{0, 0.5, 0.99, 0.999} {
		want, got := all[int(q*float64(len(all)))], h.quantile(q)
		if got < want || float64(got) > 1.07*float64(want)+2e3 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got, want := h.largest(), all[len(all)-1]; got < want || float64(got) > 1.07*float64(want) {
		t.Errorf("the largest is %v, want %v", got, want)
	}
	for d := time.Microsecond; d < 100*time.Second; d += d/50 + time.Microsecond {
		i := bucketOf(d)
		if d >= bucketEnd(i) || i > 0 && d < bucketEnd(i-1) {
			t.Fatalf("%v is in bucket %d, which ends at %v, after %v", d, i, bucketEnd(i), bucketEnd(i-1))
		}
	}
}

// Under the limit that is found, so many numbers are free.
func TestLimitLeaving(t *testing.T) {
	for _, tt := range []struct {
		free int
		used []int
		want uint64
	}{
		{3, nil, 3},
		{0, []int{0, 1, 2}, 3},
		{3, []int{0, 1, 2}, 6},
		{3, []int{0, 1, 2, 4, 9}, 7},
		{1, []int{0, 1, 2, 4, 9}, 4},
		{5, []int{0, 1, 2, 4, 9}, 9},
		{6, []int{0, 1, 2, 4, 9}, 11},
	} {
		got := limitLeaving(tt.free, tt.used)
		taken := 0
		for _, fd := range tt.used {
			if uint64(fd) < got {
				taken++
			}
		}
		if int(got)-taken != tt.free {
			t.Errorf("limit %d leaves %d free with %v used, want %d", got, int(got)-taken, tt.used, tt.free)
		}
	}
}

// A kind is told by its clients' addresses and keys.
func TestKindsTell(t *testing.T) {
	for _, k := range kinds {
		if got := kindOfKey(k.key(3, 12345)); got != k.name {
			t.Errorf("a key of %s is one of %q", k.name, got)
		}
		if len(k.reasons) == 0 || k.about == "" || k.life == nil && !k.special {
			t.Errorf("kind %s is not complete", k.name)
		}
	}
}

// The driver with its children, in small: most kinds and one of every event.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some ten seconds")
	}
	t.Parallel()
	c := newSoakConfig(4*time.Second, true)
	c.Calm, c.Mass, c.Gap, c.progress = time.Second, 100, 100*time.Millisecond, io.Discard
	c.Kinds = []string{
		"member", "slow writer", "half-closer", "resetter", "oversized", "random", "blocker", "panicker", "goexiter", "closer", "aborter", "pauser",
		eventStop, eventGC, eventMass, eventFiles, eventFlood, eventBlock,
	}
	if err := c.checkKinds(); err != nil {
		t.Fatal(err)
	}
	found, err := c.run(t.Context())
	check(t, found, err)
	s := found.(*soak)
	for _, kind := range c.Kinds {
		k := s.ledger.kinds[kind]
		if about := kindByName(kind); about != nil && !about.special && (k == nil || k.Served == 0) {
			t.Errorf("no connection of kind %s was served", kind)
		}
	}
	if s.events[eventStop] == 0 {
		t.Error("the server was never stopped")
	}
}

// Slow readers among healthy ones, in small.
func TestSlow(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some ten seconds")
	}
	t.Parallel()
	c := slowMode(true, 50)
	c.Healthy, c.Slow, c.Calm, c.Phase, c.progress = 10, 10, time.Second, 6*time.Second, io.Discard
	c.Server.Limits.Backlog.DrainWindow = time.Second
	found, err := c.run(t.Context())
	check(t, found, err)
}

// Descriptors that run out, and a flood, in small.
func TestFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some ten seconds")
	}
	t.Parallel()
	c := fdsMode(true)
	c.Files, c.Crowd, c.Hold, c.Rate, c.Factor, c.progress = 200, 150, 2*time.Second, 400, 4, io.Discard
	found, err := c.run(t.Context())
	check(t, found, err)
}

// check holds what a driver found against what it must find.
func check(t *testing.T, found findings, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range broken(found.verdicts()) {
		t.Errorf("broken: %s", name)
	}
	facts := machine.Gather("benchmarks/fire", flag.NewFlagSet("", flag.ContinueOnError))
	if report := found.markdown(facts); !strings.Contains(report, "| holds |") || len(found.lines(facts)) < 5 {
		t.Errorf("the report is\n%s", report)
	}
}
