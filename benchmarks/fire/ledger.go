//go:build linux

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// served is what the server has to say of one connection when it has ended.
type served struct {
	ID     uint64 `json:"id"`
	Kind   string `json:"kind"`
	Reason string `json:"reason"`
	Err    string `json:"err,omitempty"`
	// In counts the messages that came, Sent those that Send took.
	In   uint32 `json:"in"`
	Sent uint32 `json:"sent"`
	// The broadcasts that the connection was given number at least CastLow and
	// at most CastHigh: the same, if it left the group before it ended.
	CastLow  uint32 `json:"cast_low,omitempty"`
	CastHigh uint32 `json:"cast_high,omitempty"`
	Unsent   int    `json:"unsent,omitempty"`
	Unacked  int    `json:"unacked,omitempty"`
	// At is when it ended, on the monotonic clock.
	At      int64  `json:"at,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// How a connection ended in the client's eyes.
const (
	endOfStream = "end of stream"  // everything was read, up to the server's end
	endReset    = "reset"          // likewise, up to a reset
	endLeft     = "left"           // the client went, and did not look back
	endStuck    = "no end in time" // the server did not end it
	endFailed   = "not connected"
)

// client is what a client has to say of one connection.
type client struct {
	ID   uint64 `json:"id,omitempty"` // 0: the server never told
	Kind string `json:"kind"`
	End  string `json:"end"`
	Err  string `json:"err,omitempty"`
	// Sent counts whole messages sent, Got those received, Cast broadcasts.
	Sent uint32 `json:"sent"`
	Got  uint32 `json:"got"`
	Cast uint32 `json:"cast,omitempty"`
	// Expect is how many messages must have come, if not negative.
	Expect int `json:"expect"`
	// All: the server must have received everything that was sent.
	All bool `json:"all,omitempty"`
	// Starved: the client's process did not get to run as it should meanwhile,
	// so that it may have missed deadlines for which the server cannot be
	// blamed.
	Starved bool   `json:"starved,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// kindCount sums up the connections of one kind.
type kindCount struct {
	Clients  int            `json:"clients"`  // as the clients count
	Served   int            `json:"served"`   // as the server counts
	Nameless int            `json:"nameless"` // clients that never learnt their connection's ID
	Starved  int            `json:"starved"`  // clients that did not get to run as they should
	Excused  int            `json:"excused"`  // of them, those that missed a deadline of the server's
	Unknown  int            `json:"-"`        // starved clients without a name that are not excused yet
	Reasons  map[string]int `json:"reasons"`
	Ends     map[string]int `json:"ends"`
	In       uint64         `json:"messages_in"`
	Taken    uint64         `json:"messages_taken"` // by Send and by broadcasts, those of joined pairs only
	Got      uint64         `json:"messages_got"`
	Unsent   uint64         `json:"unsent"`
	Lost     uint64         `json:"lost_in_kernels"` // taken, handed to the kernel, and not read by the client
}

// ledger joins what server and clients say. What was joined is forgotten, so
// that a long run needs no more memory than a short one.
type ledger struct {
	kinds   map[string]*kindCount
	rules   map[string][]string // the reasons that a kind's connections may end for
	served  map[uint64]served   // not joined yet
	clients map[uint64]client
	faults  map[string]*fault
	opened  int
}

// fault is one invariant that does not hold: how often, and the first cases.
type fault struct {
	Count    int      `json:"count"`
	Examples []string `json:"examples"`
}

const maxExamples = 5

// The invariants that the ledger looks after.
const (
	ruleOrder  = "messages arrive whole, in order, without a gap, and on the connection they were sent on"
	ruleCount  = "every message that Send took arrived, or is counted in Unsent or Unacked"
	ruleReason = "every connection ended for a reason that its kind may end for"
	ruleEnd    = "every client that waited for its connection's end saw it, and every answer it was due"
	ruleOwner  = "every connection a client saw is one the server had, and the other way round"
)

var ledgerRules = []string{ruleOrder, ruleCount, ruleReason, ruleEnd, ruleOwner}

func newLedger(rules map[string][]string) *ledger {
	return &ledger{
		kinds: make(map[string]*kindCount), rules: rules,
		served: make(map[uint64]served), clients: make(map[uint64]client),
		faults: make(map[string]*fault),
	}
}

func (l *ledger) broken(rule, format string, args ...any) {
	f := l.faults[rule]
	if f == nil {
		f = &fault{}
		l.faults[rule] = f
	}
	if f.Count++; len(f.Examples) < maxExamples {
		f.Examples = append(f.Examples, fmt.Sprintf(format, args...))
	}
}

func (l *ledger) kind(name string) *kindCount {
	k := l.kinds[name]
	if k == nil {
		k = &kindCount{Reasons: make(map[string]int), Ends: make(map[string]int)}
		l.kinds[name] = k
	}
	return k
}

// deadlines are the reasons for which a client ends that does nothing in time.
var deadlines = []string{"HandshakeTimeout", "FrameTimeout", "HeartbeatLost", "Deaf", "SlowConsumer", "Overloaded"}

// excused reports whether a connection ended because its client was starved.
func (l *ledger) excused(s served, c client) bool {
	return c.Starved && slices.Contains(deadlines, s.Reason) && !slices.Contains(l.rules[s.Kind], s.Reason)
}

func (l *ledger) judgeReason(s served) {
	if !slices.Contains(l.rules[s.Kind], s.Reason) {
		l.broken(ruleReason, "connection %d of kind %s ended for %s (%s)", s.ID, s.Kind, s.Reason, s.Err)
	}
}

// addServed enters the server's view of one connection.
func (l *ledger) addServed(s served) {
	l.opened++
	k := l.kind(s.Kind)
	k.Served++
	k.Reasons[s.Reason]++
	k.In += uint64(s.In)
	k.Unsent += uint64(s.Unsent)
	if s.Problem != "" {
		l.broken(ruleOrder, "server, connection %d of kind %s: %s", s.ID, s.Kind, s.Problem)
	}
	if _, twice := l.served[s.ID]; twice {
		l.broken(ruleOwner, "the server ended connection %d twice", s.ID)
		return
	}
	if c, ok := l.clients[s.ID]; ok {
		delete(l.clients, s.ID)
		l.compare(s, c)
		return
	}
	l.served[s.ID] = s
}

// addClient enters a client's view of one connection.
func (l *ledger) addClient(c client) {
	k := l.kind(c.Kind)
	k.Clients++
	k.Ends[c.End]++
	k.Got += uint64(c.Got) + uint64(c.Cast)
	if c.Problem != "" {
		l.broken(ruleOrder, "client of kind %s on connection %d: %s", c.Kind, c.ID, c.Problem)
	}
	if c.End == endStuck {
		l.broken(ruleEnd, "client of kind %s on connection %d: %s (%s; sent %d, got %d)", c.Kind, c.ID, c.End, c.Err, c.Sent, c.Got)
	}
	if c.Starved {
		k.Starved++
	}
	if c.ID == 0 {
		k.Nameless++
		if c.Starved {
			k.Unknown++
		}
		return
	}
	if _, twice := l.clients[c.ID]; twice {
		l.broken(ruleOwner, "two clients were on connection %d", c.ID)
		return
	}
	if s, ok := l.served[c.ID]; ok {
		delete(l.served, c.ID)
		l.compare(s, c)
		return
	}
	l.clients[c.ID] = c
}

// compare is what both sides' views of one connection must agree in.
func (l *ledger) compare(s served, c client) {
	where := fmt.Sprintf("connection %d of kind %s (%s; %s)", s.ID, s.Kind, s.Reason, c.End)
	if s.Kind != c.Kind {
		l.broken(ruleOwner, "%s is of kind %s to the client", where, c.Kind)
	}
	low := int64(s.Sent) + int64(s.CastLow)
	high := int64(s.Sent) + int64(s.CastHigh)
	got := int64(c.Got) + int64(c.Cast)
	l.kind(s.Kind).Taken += uint64(high)

	excused := l.excused(s, c)
	if excused {
		l.kind(s.Kind).Excused++
	} else {
		l.judgeReason(s)
	}

	// What came on a connection was taken for it, and was not unsent.
	if got+int64(s.Unsent) > high || int64(c.Got) > int64(s.Sent) || int64(c.Cast) > int64(s.CastHigh) {
		l.broken(ruleCount, "%s: got %d and %d broadcasts, %d were unsent, but only %d and %d broadcasts were taken",
			where, c.Got, c.Cast, s.Unsent, s.Sent, s.CastHigh)
	}
	missing := low - int64(s.Unsent) - got
	l.kind(s.Kind).Lost += uint64(max(missing, 0))
	switch c.End {
	case endOfStream:
		// The end of the stream comes after everything else.
		if missing > 0 {
			l.broken(ruleCount, "%s: %d of %d messages never came: got %d and %d broadcasts, %d unsent",
				where, missing, low, c.Got, c.Cast, s.Unsent)
		}
		if c.Expect >= 0 && int64(c.Got) != int64(c.Expect) && !excused {
			l.broken(ruleEnd, "%s: got %d messages, %d were due", where, c.Got, c.Expect)
		}
	case endReset:
		// Of a message that is missing the kernel still had at least a byte, and
		// of all but the first of them every byte.
		if missing > 0 && s.Unacked >= 0 && int64(s.Unacked) < 1+(missing-1)*(frameHeader+messageHeader) {
			l.broken(ruleCount, "%s: %d messages never came, but only %d bytes were unacknowledged: taken %d, got %d and %d broadcasts, %d unsent",
				where, missing, s.Unacked, low, c.Got, c.Cast, s.Unsent)
		}
	}
	if s.In > c.Sent {
		l.broken(ruleCount, "%s: the server got %d messages, %d were sent", where, s.In, c.Sent)
	}
	if c.All && s.In != c.Sent && !excused {
		l.broken(ruleCount, "%s: the server got %d of %d messages", where, s.In, c.Sent)
	}
}

// finish looks at what is left when both sides have said everything.
func (l *ledger) finish() {
	for _, id := range slices.Sorted(maps.Keys(l.clients)) {
		c := l.clients[id]
		l.broken(ruleOwner, "a client of kind %s got messages of connection %d, of which the server knows nothing", c.Kind, id)
	}
	left := make(map[string]int)
	for _, id := range slices.Sorted(maps.Keys(l.served)) {
		s := l.served[id]
		left[s.Kind]++
		// Whose it was is not known; that somebody starved may be.
		if k := l.kind(s.Kind); k.Unknown > 0 && l.excused(s, client{Starved: true}) {
			k.Unknown--
			k.Excused++
		} else {
			l.judgeReason(s)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(left)) {
		if k := l.kind(kind); left[kind] > k.Nameless {
			l.broken(ruleOwner, "%d connections of kind %s are known to the server alone, but only %d clients have none", left[kind], kind, k.Nameless)
		}
	}
}

// counts prints a map as "a 1, b 2", the largest first.
func counts(m map[string]int) string {
	names := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		if m[a] != m[b] {
			return m[b] - m[a]
		}
		return strings.Compare(a, b)
	})
	var b strings.Builder
	for i, name := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %d", name, m[name])
	}
	return b.String()
}
