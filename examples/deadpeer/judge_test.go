package main

import (
	"strings"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/engine"
)

const (
	sec = int64(time.Second)
	ms  = int64(time.Millisecond)
)

// story is what conductor and children would have told of a small run, in
// which all went well until a test changes it.
type story struct {
	*ledger
	ids map[way][]engine.ID
}

const (
	tellWorst = 8 * time.Second
	tellTick  = 10 * time.Millisecond
	tellLag   = 5 * time.Millisecond
	tellFault = 100 * sec // when all vanish
)

func tell(t *testing.T) story {
	plan, err := newPlan(40, 1<<20, ways)
	if err != nil {
		t.Fatal(err)
	}
	s := story{newLedger(plan.counts), make(map[way][]engine.ID)}
	s.server(event{Kind: sample, At: tellFault - 1, Loops: []loop{{Stalled: time.Minute}, {Lag: tellLag, Stalled: time.Hour}}})
	next := engine.ID(1)
	for _, w := range append(ways, healthy) {
		for range plan.counts[w] {
			s.ids[w] = append(s.ids[w], next)
			s.client(w, event{Kind: connected, Peer: next})
			if w == healthy {
				s.client(w, event{Kind: alive, Peer: next})
			} else {
				s.client(w, event{Kind: vanished, Peer: next, At: tellFault})
				s.close(next, tellFault+7*sec, reasons[w][0].String())
			}
			next++
		}
	}
	return s
}

func (s story) server(e event)        { s.note(message{e, &process{}}) }
func (s story) client(w way, e event) { s.note(message{e, &process{spec: spec{Way: w}}}) }

func (s story) close(id engine.ID, at int64, reason string) {
	s.server(event{Kind: closed, Peer: id, At: at, Reason: reason, Loop: 1, Loops: []loop{{Stalled: time.Hour}}})
}

func TestJudge(t *testing.T) {
	limit := int64(tellWorst + tellTick + tellLag)
	for _, tt := range []struct {
		name   string
		change func(s story)
		says   string // empty: the promise was kept
	}{
		{"all well", func(s story) {}, ""},
		{"in the last moment", func(s story) { s.close(s.ids[frozen][0], tellFault+limit, "HeartbeatLost") }, ""},
		{"too late", func(s story) { s.close(s.ids[frozen][0], tellFault+limit+1, "HeartbeatLost") },
			"frozen: found after 8.015000001s, promised 8.015s"},
		{"a late FIN", func(s story) { s.close(s.ids[fin][1], tellFault+9*sec, "PeerClosed") }, "FIN: found after 9s"},
		{"late by a stall", func(s story) {
			s.server(event{Kind: closed, Peer: s.ids[hung][0], At: tellFault + limit + 30*ms, Reason: "HeartbeatLost",
				Loop: 1, Loops: []loop{{Stalled: time.Hour + 30*time.Millisecond}}})
		}, ""},
		{"later than the stall", func(s story) {
			s.server(event{Kind: closed, Peer: s.ids[hung][0], At: tellFault + limit + 31*ms, Reason: "HeartbeatLost",
				Loop: 1, Loops: []loop{{Stalled: time.Hour + 30*time.Millisecond}}})
		}, "hung: found after 8.046s, promised 8.045s"},
		{"a stall before the fault", func(s story) {
			s.server(event{Kind: sample, At: tellFault, Loops: []loop{{}, {Stalled: 2 * time.Hour}}})
			s.server(event{Kind: closed, Peer: s.ids[hung][0], At: tellFault + limit + 1, Reason: "HeartbeatLost",
				Loop: 1, Loops: []loop{{Stalled: 2 * time.Hour}}})
		}, "hung: found after"},
		{"killed may be reset", func(s story) { s.close(s.ids[killed][0], tellFault+ms, "PeerReset") }, ""},
		{"FIN may not", func(s story) { s.close(s.ids[fin][0], tellFault+ms, "PeerReset") }, "FIN: called PeerReset, want [PeerClosed]"},
		{"deaf is not lost", func(s story) { s.close(s.ids[deaf][0], tellFault+ms, "HeartbeatLost") }, "deaf: called HeartbeatLost"},
		{"no reason", func(s story) { s.close(s.ids[silent][0], tellFault+ms, "Unknown") }, "silent: called Unknown"},
		{"not found", func(s story) { s.peers[s.ids[silent][1]].closed = 0 }, "silent: not found"},
		{"did not vanish", func(s story) { *s.peers[s.ids[rst][1]] = peer{way: rst} }, "RST: 1 of 2 have vanished"},
		{"never connected", func(s story) { delete(s.peers, s.ids[silent][1]) }, "silent: 1 of 2 have vanished"},
		{"before its time", func(s story) { s.close(s.ids[frozen][0], tellFault-1, "HeartbeatLost") },
			"frozen: closed (by the server: HeartbeatLost) before it vanished"},
		{"healthy, closed", func(s story) { s.close(s.ids[healthy][3], tellFault, "HeartbeatLost") },
			"healthy: closed (by the server: HeartbeatLost)"},
		{"healthy, gone", func(s story) { s.client(healthy, event{Kind: left, Peer: s.ids[healthy][3], Reason: "Deaf"}) },
			"healthy: closed (by the client: Deaf)"},
		{"left after it vanished", func(s story) {
			s.client(frozen, event{Kind: left, Peer: s.ids[frozen][0], At: tellFault + 1, Reason: "HeartbeatLost"})
		}, ""},
		{"left before it vanished", func(s story) {
			s.client(frozen, event{Kind: left, Peer: s.ids[frozen][0], At: tellFault - 1, Reason: "HeartbeatLost"})
		}, "frozen: closed"},
		{"healthy, quiet", func(s story) { s.peers[s.ids[healthy][3]].alive = false }, "healthy: got no answer"},
		{"healthy, missing", func(s story) { delete(s.peers, s.ids[healthy][3]) }, "healthy: 25 of 26"},
		{"a stranger, closed", func(s story) { s.close(9999, tellFault, "PeerReset") }, "stranger: closed (by the server: PeerReset)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tell(t)
			tt.change(s)
			r := s.judge(tellWorst, tellTick)
			problems := strings.Join(r.Problems, "\n")
			if kept := tt.says == ""; r.OK != kept || (r.verdict() == nil) != kept || !strings.Contains(problems, tt.says) || (problems == "") != kept {
				t.Errorf("OK is %v, want %v; problems are %q, want %q", r.OK, kept, problems, tt.says)
			}
			var table strings.Builder
			if err := r.writeTable(&table); err != nil {
				t.Fatal(err)
			}
			// A stranger is nobody's row.
			if strings.Contains(table.String(), "BROKEN") == r.OK && !strings.HasPrefix(tt.says, "stranger") ||
				strings.Contains(table.String(), "Every dead peer was found in time") != r.OK {
				t.Errorf("OK is %v, and the table says\n%s", r.OK, &table)
			}
			if suspicious := strings.Contains(problems, "closed ("); (r.FalseVerdicts > 0) != suspicious {
				t.Errorf("%d false verdicts: %s", r.FalseVerdicts, problems)
			}
		})
	}
}

// TestLedgerCounts: a verdict may be heard of before its fault.
func TestLedgerCounts(t *testing.T) {
	l := newLedger(map[way]int{fin: 1, frozen: 1})
	stopped := &process{spec: spec{Way: frozen}}
	l.note(message{event{Kind: connected, Peer: 1}, &process{spec: spec{Way: fin}}})
	l.note(message{event{Kind: connected, Peer: 2}, stopped})
	l.note(message{event{Kind: closed, Peer: 1, At: 11, Loops: []loop{{}}}, &process{}})
	if l.connected != 2 || l.found != 0 {
		t.Fatalf("%d connected, %d found", l.connected, l.found)
	}
	l.note(message{event{Kind: vanished, Peer: 1, At: 10}, &process{spec: spec{Way: fin}}})
	l.struck(stopped, 20)
	if l.vanished != 2 || l.found != 1 {
		t.Fatalf("%d vanished, %d found", l.vanished, l.found)
	}
	l.note(message{event{Kind: closed, Peer: 2, At: 21, Loops: []loop{{}}}, &process{}})
	if l.found != 2 {
		t.Fatalf("%d found", l.found)
	}
}
