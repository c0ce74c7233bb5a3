//go:build linux

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/engine"
)

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) }

// counts prints a map as "a 1, b 2", the largest first.
func counts(m map[string]int) string {
	names := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		if m[a] != m[b] {
			return m[b] - m[a]
		}
		return strings.Compare(a, b)
	})
	if len(names) == 1 {
		return names[0]
	}
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %d", name, m[name])
	}
	return strings.Join(names, ", ")
}

func (t *table) markdown(facts machine.Facts) string {
	var b strings.Builder
	c := t.config
	fmt.Fprintf(&b, "# Every way a peer can die, by every detector\n\n")
	fmt.Fprintf(&b, "A server host, a router, and a host for each run of a fault, all of them network namespaces joined by veth pairs; "+
		"server and clients are processes of their own. Each fault struck %d times, each time %d connections of every detector of the engine's "+
		"and %d of the kernel's; a fault that the router makes hits all of a host's connections at once, in whatever phase they are. "+
		"Times are seconds from when the fault began to come about until Handler.Close, on the server's clock. Promised is the bound that the engine states (Server.Promises), "+
		"with what a kernel's timers need on top, "+
		"plus a tick (%v), what the engine's loop was late (LoopStats.Lag and, during the fault, Stalled), and the time that the fault took to come about; "+
		"the largest of all connections is shown, while each is judged by its own. Reason and diagnosis are right if they are among those that can be known, in at least %.0f %%.\n\n",
		c.Rounds, c.Conns, c.Kernel, tick, 100*rightShare)

	fmt.Fprintf(&b, "| detector | | promise |\n| --- | --- | --- |\n")
	for _, d := range detectors() {
		if slices.Contains(c.Detectors, d.Name) {
			fmt.Fprintf(&b, "| %s | %s | %s s |\n", d.Name, d.What, seconds(d.Within))
		}
	}
	fmt.Fprintf(&b, "\nA kernel's timer may run late by up to an eighth of its time; the user timeout counts from the first retransmission of what was sent last before, "+
		"at most %v + %v after the fault. The drain rate counts once what the kernels hold for a connection is full, at most %v after the fault.\n\n", sayEvery, firstRetransmit, fill)

	fmt.Fprintf(&b, "| fault | detector | peers | p50 s | max s | promised s | reason | diagnosis | |\n|%s\n", strings.Repeat(" --- |", 9))
	for _, x := range t.cells {
		verdict := "ok"
		if p := x.problems(); p != "" {
			verdict = "**" + p + "**"
		}
		if x.want.Blind != "" {
			fmt.Fprintf(&b, "| %s | %s | %d | – | – | – | cannot be found: %s | – | %s |\n", x.fault.What, x.detector.Name, x.Conns, x.want.Blind, verdict)
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %s | %s | %s | %s | %s | %s |\n", x.fault.What, x.detector.Name, x.Conns,
			seconds(x.p50()), seconds(x.max()), seconds(x.Limit), counts(x.Reasons), counts(x.Diagnoses), verdict)
	}
	machine, share := time.Duration(0), 0
	for _, x := range t.cells {
		machine = max(machine, x.Machine)
		if x.Machine > 100*time.Millisecond {
			share++
		}
	}
	fmt.Fprintf(&b, "\nOf what was promised, stalls of the server's loops and the time that a fault took to come about are at most %v, and more than 100ms in %d of %d rows: "+
		"with much more than that the machine did other things, and the run should be repeated.\n", machine.Round(time.Millisecond), share, len(t.cells))
	verdict := "no false verdict"
	if p := t.control.problems(); p != "" {
		verdict = "**" + p + "**"
	}
	fmt.Fprintf(&b, "\nThe control group, %d connections of all detectors on a host that nothing happened to, all the while: %s.\n\n", t.control.Planned, verdict)

	var presets strings.Builder
	for _, x := range t.cells {
		if x.fault.Name == "cut" && x.detector.Preset > 0 {
			fmt.Fprintf(&presets, "| %s | %s | %s | %s | %s | %s |\n", x.detector.Name, seconds(x.detector.Preset),
				seconds(x.detector.Liveness.WorstCase()), seconds(x.p50()), seconds(x.max()), seconds(x.Own))
		}
	}
	if presets.Len() > 0 {
		fmt.Fprintf(&b, "| preset, cable cut both ways | at most s | WorstCase s | p50 s | max s | max s, less stalls and the time that the fault took |\n| --- | --- | --- | --- | --- | --- |\n%s\n", presets.String())
	}
	fmt.Fprintf(&b, "It took %v.\n\n%s", t.took.Round(time.Second), facts.Markdown())
	return b.String()
}

// cellLine is a cell in the raw file.
type cellLine struct {
	Fault          string         `json:"fault"`
	Detector       string         `json:"detector"`
	Blind          string         `json:"blind,omitempty"`
	Want           []string       `json:"want_reasons,omitempty"`
	WantDiagnoses  []string       `json:"want_diagnoses,omitempty"`
	Conns          int            `json:"peers"`
	Reasons        map[string]int `json:"reasons,omitempty"`
	Diagnoses      map[string]int `json:"diagnoses,omitempty"`
	RightReason    int            `json:"right_reasons"`
	RightDiagnosis int            `json:"right_diagnoses"`
	Early          int            `json:"false_verdicts"`
	Late           int            `json:"late"`
	Within         int64          `json:"bound_ms"`
	Limit          int64          `json:"promised_ms"`
	Found          []int64        `json:"found_ms,omitempty"`
	Examples       []string       `json:"examples,omitempty"`
	Problems       string         `json:"problems,omitempty"`
}

func (t *table) lines(facts machine.Facts) []any {
	lines := []any{labelled{"facts", facts}, labelled{"setup", t.config}, labelled{"control", t.control}}
	for _, x := range t.cells {
		line := cellLine{
			Fault: x.fault.Name, Detector: x.detector.Name, Blind: x.want.Blind, Conns: x.Conns,
			Reasons: x.Reasons, Diagnoses: x.Diagnoses, RightReason: x.RightReason, RightDiagnosis: x.RightDiagnosis,
			Early: x.Early, Late: x.Late, Within: x.want.Within.Milliseconds(), Limit: x.Limit.Milliseconds(),
			Examples: x.Examples, Problems: x.problems(),
		}
		if x.want.Blind == "" {
			line.Want, line.WantDiagnoses = names(x.want.Reasons), names(x.want.Diagnoses)
		}
		for _, d := range x.Found {
			line.Found = append(line.Found, d.Milliseconds())
		}
		lines = append(lines, labelled{"cell", line})
	}
	return lines
}

func names[T engine.Reason | engine.Diagnosis](list []T) (out []string) {
	for _, x := range list {
		out = append(out, fmt.Sprint(x))
	}
	return out
}
