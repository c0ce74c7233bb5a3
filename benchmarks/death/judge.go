//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// tick is the resolution of the engine's deadlines.
const tick = heartbeat.Tick

// rightShare is how many of the reasons, and of the diagnoses, must be right.
const rightShare = 0.99

// cell is one fault by one detector: what must come of it, and what has.
type cell struct {
	fault    *fault
	detector *detector
	want     expectation

	Conns                       int             // connections that the fault has hit
	Found                       []time.Duration // how long after the fault began, in order
	Limit                       time.Duration   // the longest that was promised to any
	Own                         time.Duration   // the longest that it took any, less stalls and the time that the fault took
	Lag                         time.Duration   // the latest that a loop was with what was due
	Machine                     time.Duration   // the longest stalls, with the time that the fault took
	Late                        int             // found after what was promised to them
	Early                       int             // ended before the fault, or although the detector cannot see it
	Reasons                     map[string]int
	Diagnoses                   map[string]int
	RightReason, RightDiagnosis int
	Examples                    []string // of what is wrong
}

func newCell(f *fault, d *detector, want expectation) *cell {
	return &cell{fault: f, detector: d, want: want, Reasons: make(map[string]int), Diagnoses: make(map[string]int)}
}

// strike is one round's fault. It took from from to to to come about, so
// that the last sign of life is not known any better.
type strike struct {
	from, to, until int64
	stalled         map[string]time.Duration // of each detector's loop, before
	lag             time.Duration            // the latest that the loop's timer ever ran
}

// maxExamples bounds what is explained one by one.
const maxExamples = 3

func (x *cell) example(format string, args ...any) {
	if len(x.Examples) < maxExamples {
		x.Examples = append(x.Examples, fmt.Sprintf(format, args...))
	}
}

// judge enters what came of one round.
func (x *cell) judge(conns int, ends []End, s strike) {
	x.Conns += conns
	for _, e := range ends {
		if e.At < s.from || x.want.Blind != "" {
			x.Early++
			x.example("ended by %v %v after the fault: %s", e.Reason, time.Duration(e.At-s.from), e.Err)
			continue
		}
		took := time.Duration(e.At - s.from)
		machine := max(e.Stalled-s.stalled[x.detector.Name], 0) + time.Duration(s.to-s.from)
		limit := x.want.Within + tick + s.lag + machine
		x.Limit = max(x.Limit, limit)
		x.Own = max(x.Own, took-machine)
		x.Lag = max(x.Lag, s.lag)
		x.Machine = max(x.Machine, machine)
		x.Found = append(x.Found, took)
		if took > limit {
			x.Late++
			x.example("found after %v, promised %v", took, limit)
		}
		x.Reasons[e.Reason.String()]++
		x.Diagnoses[e.Diagnosis.String()]++
		if slices.Contains(x.want.Reasons, e.Reason) {
			x.RightReason++
		} else {
			x.example("called %v: %s", e.Reason, e.Err)
		}
		if slices.Contains(x.want.Diagnoses, e.Diagnosis) {
			x.RightDiagnosis++
		} else {
			x.example("diagnosed as %v: %v, unacknowledged %d, %+v", e.Diagnosis, e.Err, e.Evidence.Unacked, e.Evidence)
		}
	}
	slices.Sort(x.Found)
}

// problems says what is wrong with the cell, in a few words; "" if nothing.
func (x *cell) problems() string {
	var list []string
	add := func(bad bool, format string, args ...any) {
		if bad {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	add(x.Conns == 0, "nothing was run")
	add(x.Early > 0, "%d false verdicts", x.Early)
	if x.want.Blind == "" {
		missing := x.Conns - len(x.Found) - x.Early
		add(missing > 0, "%d not found", missing)
		add(x.Late > 0, "%d too late", x.Late)
		least := int(rightShare * float64(len(x.Found)))
		add(x.RightReason < least || len(x.Found) > 0 && x.RightReason == 0, "%d wrong reasons", len(x.Found)-x.RightReason)
		add(x.RightDiagnosis < least || len(x.Found) > 0 && x.RightDiagnosis == 0, "%d wrong diagnoses", len(x.Found)-x.RightDiagnosis)
		if p := x.detector.Preset; p > 0 && len(x.Found) > 0 && x.fault.Name == "cut" {
			add(x.Own > p+x.Lag, "the preset says at most %v", p)
		}
	}
	return strings.Join(list, ", ")
}

func (x *cell) p50() time.Duration {
	if len(x.Found) == 0 {
		return 0
	}
	return x.Found[len(x.Found)/2]
}

func (x *cell) max() time.Duration {
	if len(x.Found) == 0 {
		return 0
	}
	return x.Found[len(x.Found)-1]
}

func (c *control) problems() string {
	var list []string
	if len(c.Suspects) > 0 {
		e := c.Suspects[0]
		list = append(list, fmt.Sprintf("%d false verdicts, as by %s: %s", len(c.Suspects), e.Detector, e.Err))
	}
	if c.Answered != c.Planned {
		list = append(list, fmt.Sprintf("%d of %d were answered at the end", c.Answered, c.Planned))
	}
	if c.Left != "" {
		list = append(list, "clients left: "+c.Left)
	}
	return strings.Join(list, ", ")
}

// broken says which promises were not kept.
func (t *table) broken() (list []string) {
	for _, x := range t.cells {
		if p := x.problems(); p != "" {
			list = append(list, fmt.Sprintf("%s, %s: %s", x.fault.What, x.detector.Name, p))
			for _, e := range x.Examples {
				list = append(list, "    "+e)
			}
		}
	}
	if p := t.control.problems(); p != "" {
		list = append(list, "healthy: "+p)
	}
	return list
}
