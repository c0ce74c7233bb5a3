package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
)

// Every subject gives every figure it should, in a run that is too small to mean anything.
func TestMeasure(t *testing.T) {
	if _, err := usage(); err != nil {
		t.Skip(err)
	}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			figures, err := measure(k, 100, smoke)
			if err != nil {
				t.Fatal(err)
			}
			want := []string{armStopNS, armStopN, armRandomNS, replaceNS, touchNS, timerB, gcMS, gcBaseMS, fireNS, lateP99}
			if k.concurrent {
				want = append(want, twoWall)
			}
			if k.manual {
				want = append(want, cascadeP999)
			} else {
				want = append(want, idleCPU)
			}
			for _, name := range want {
				if v, ok := figures[name]; !ok || math.IsNaN(v) || math.IsInf(v, 0) {
					t.Errorf("%s is %v, measured: %v", name, v, ok)
				}
			}
			if k.ours && figures[earlyShare] != 0 {
				t.Errorf("%v %% of the timers fired early", figures[earlyShare])
			}
		})
	}
}

func TestRecorder(t *testing.T) {
	r := newRecorder(4, true)
	for _, late := range []time.Duration{-time.Hour, 0, 5 * time.Millisecond, time.Minute} {
		r.note(r.now() - late)
	}
	<-r.done
	if r.early.Load() != 1 || time.Duration(r.earliest.Load()) > -59*time.Minute {
		t.Errorf("%d early, by up to %v", r.early.Load(), time.Duration(r.earliest.Load()))
	}
	if got := r.late(0.75); got < 5*time.Millisecond || got > time.Second {
		t.Errorf("three quarters were late by up to %v", got)
	}
	if got := r.late(1); got < lastBucket {
		t.Errorf("the latest was late by %v", got)
	}
}

func TestParse(t *testing.T) {
	c, err := parse("1000,20", 3, "Wheel; antlabs", false)
	if err != nil || len(c.counts) != 2 || len(c.subjects) != 2 || c.subjects[1].name != "antlabs" {
		t.Errorf("%+v, %v", c, err)
	}
	if c.roundsFor(1000) != 3 || c.roundsFor(10*million) != 1 {
		t.Error("wrong number of rounds")
	}
	for _, bad := range []struct {
		counts   string
		rounds   int
		subjects string
	}{{"", 1, ""}, {"0", 1, ""}, {"x", 1, ""}, {"1", 0, ""}, {"1", 1, "nobody"}} {
		if _, err := parse(bad.counts, bad.rounds, bad.subjects, false); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

// fake is a report of two rounds, the second on a machine of half the speed.
func fake() report {
	r := report{facts: machine.Facts{Go: "go1"}}
	for round := range 2 {
		slow := float64(1 + round)
		for name, ns := range map[string]float64{"Wheel": 10, reference: 400, "FuncTimer": 200} {
			for _, n := range []int{1000, million} {
				r.samples = append(r.samples, sample{name, n, round, map[string]float64{
					armStopNS: ns * slow, twoWall: ns * slow, lateP99: 6, earlyShare: 0,
				}})
			}
		}
	}
	return r
}

func TestClaims(t *testing.T) {
	claims := map[string]claim{}
	for _, c := range fake().claims() {
		claims[c.text] = c
	}
	for text, want := range map[string]struct {
		holds bool
		value string
	}{
		"Wheel, arm+stop, of time.AfterFunc's":               {true, "1/40.0 [1/40.0, 1/40.0]"},
		"FuncTimer, arm+stop, of time.AfterFunc's":           {false, "1/2.0 [1/2.0, 1/2.0]"},
		"Wheel, arm+stop, slowest of 1k to 10M over fastest": {true, "1.00"},
		"FuncTimer, lateness p99 in real time, ms":           {false, "6.00 [6.00, 6.00]"},
		"FuncTimer, timers that fired early, %":              {true, "0.000 [0.000, 0.000]"},
		"Wheel, arm+stop, of RussellLuo's":                   {}, // which was not measured
	} {
		c, ok := claims[text]
		if want.value == "" {
			if ok {
				t.Errorf("%s: there", text)
			}
			continue
		}
		if !ok || c.holds(c.value.Median) != want.holds || c.String() != want.value {
			t.Errorf("%s: %v, holds %v; want %+v", text, c, ok && c.holds(c.value.Median), want)
		}
	}
}

func TestReport(t *testing.T) {
	text := fake().markdown()
	for _, want := range []string{"does not hold", "## 1,000,000 timers, rounds: 2", "| Wheel | 15.0 | – |"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if got := len(fake().lines()); got != 13 {
		t.Errorf("%d lines, want the facts and 12 samples", got)
	}
}

func TestChart(t *testing.T) {
	d := xml.NewDecoder(bytes.NewReader(fake().chart()))
	texts := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "text" {
			texts++
		}
	}
	if texts < 10 {
		t.Errorf("%d texts", texts)
	}
	if (report{}).chart() != nil {
		t.Error("a chart of nothing")
	}
}

func TestStatsOfNothing(t *testing.T) {
	if !math.IsNaN(fake().median("nobody", 1000, armStopNS)) || fake().ratio("nobody", "Wheel", 1000, armStopNS) != (stats.Summary{}) {
		t.Error("figures of a subject that was not measured")
	}
}
