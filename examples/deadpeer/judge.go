package main

import (
	"fmt"
	"slices"
	"time"
)

// judge compares what happened with what was promised: every victim is closed
// for a right reason, within the worst case, a tick and what the server's loop
// was late, and nobody else is closed at all.
func (l *ledger) judge(worstCase, tick time.Duration) *report {
	r := &report{OK: true, Promise: promise{WorstCase: millis(worstCase), Tick: millis(tick), Lag: millis(l.lag)}}
	for _, w := range append(slices.Clone(ways), farWays...) {
		if w.far() && l.planned[w] == 0 {
			continue
		}
		r.Ways = append(r.Ways, l.judgeWay(w, r))
	}
	r.Healthy = l.judgeHealthy(r)
	return r
}

func (l *ledger) judgeWay(w way, r *report) row {
	out := row{Way: w, What: meanings[w], Planned: l.planned[w], Verdicts: make(map[string]int), OK: true}
	for _, reason := range reasons[w] {
		out.Verdicts[reason.String()] = 0
	}
	fault := func(format string, args ...any) {
		out.OK = false
		r.problem(w, format, args...)
	}
	limit := time.Duration(r.Promise.WorstCase + r.Promise.Tick + r.Promise.Lag)
	out.Promised = millis(limit)
	var times []time.Duration
	for _, p := range l.peers {
		if p.way != w {
			continue
		}
		if p.suspected() {
			r.FalseVerdicts++
			fault("closed (%s) before it vanished", p.end())
			continue
		}
		if p.vanished == 0 {
			continue
		}
		out.Vanished++
		if p.closed == 0 {
			fault("not found")
			continue
		}
		out.Verdicts[p.reason]++
		if !w.right(p.reason) {
			fault("called %s, want %v", p.reason, reasons[w])
		}
		took, stalls := time.Duration(p.closed-p.vanished), l.stalls(p)
		times = append(times, took)
		r.Promise.Stalls = max(r.Promise.Stalls, millis(stalls))
		out.Promised = max(out.Promised, millis(limit+stalls))
		if took > limit+stalls {
			fault("found after %v, promised %v", took, limit+stalls)
		}
	}
	if out.Vanished != out.Planned {
		fault("%d of %d have vanished", out.Vanished, out.Planned)
	}
	if len(times) > 0 {
		slices.Sort(times)
		out.P50, out.Max = millis(times[len(times)/2]), millis(times[len(times)-1])
	}
	return out
}

func (l *ledger) judgeHealthy(r *report) control {
	out := control{Planned: l.planned[healthy]}
	for _, p := range l.peers {
		switch {
		case p.way == "":
			r.FalseVerdicts++
			r.problem("stranger", "closed (%s)", p.end())
		case p.way != healthy:
		case p.suspected():
			r.FalseVerdicts++
			r.problem(healthy, "closed (%s)", p.end())
		case p.alive:
			out.Talking++
			out.Connected++
		default:
			out.Connected++
			r.problem(healthy, "got no answer at the end")
		}
	}
	if out.Connected != out.Planned {
		r.problem(healthy, "%d of %d are connected", out.Connected, out.Planned)
	}
	out.OK = out.Connected == out.Planned && out.Talking == out.Planned
	return out
}

// suspected reports whether the connection was lost while the client was well.
func (p *peer) suspected() bool {
	return p.left != "" && (p.vanished == 0 || p.leftAt < p.vanished) || p.closed != 0 && (p.vanished == 0 || p.closed < p.vanished)
}

// end says who ended the connection, and why.
func (p *peer) end() string {
	if p.closed != 0 {
		return "by the server: " + p.reason
	}
	return "by the client: " + p.left
}

// maxProblems bounds what is explained one by one.
const maxProblems = 20

// problem enters that a promise was broken.
func (r *report) problem(w way, format string, args ...any) {
	r.OK = false
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, string(w)+": "+fmt.Sprintf(format, args...))
	}
}
