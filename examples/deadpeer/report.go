package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// report is what came out. Its JSON is the output of -json.
type report struct {
	Clients       int      `json:"clients"`
	Preset        string   `json:"preset"`
	Liveness      string   `json:"liveness"`
	Promise       promise  `json:"promise"`
	Ways          []row    `json:"ways"`
	Healthy       control  `json:"healthy"`
	FalseVerdicts int      `json:"false_verdicts"`
	Problems      []string `json:"problems,omitempty"` // the first of them
	Took          millis   `json:"took_ms"`
	OK            bool     `json:"ok"`
}

// promise has the parts of the time within which a peer is found.
type promise struct {
	WorstCase millis `json:"worst_case_ms"` // heartbeat.Config.WorstCase
	Tick      millis `json:"tick_ms"`
	Lag       millis `json:"lag_ms"` // engine.LoopStats.Lag
	// Stalls is the part of engine.LoopStats.Stalled that fell between a fault
	// and its verdict; of all peers the most, while each is judged by its own.
	Stalls millis `json:"stalls_ms"`
}

// row is one way to vanish.
type row struct {
	Way      way            `json:"way"`
	What     string         `json:"what"`
	Planned  int            `json:"planned"`
	Vanished int            `json:"vanished"`
	Verdicts map[string]int `json:"verdicts"` // how many by reason
	P50      millis         `json:"p50_ms"`   // from the fault to the verdict
	Max      millis         `json:"max_ms"`
	Promised millis         `json:"promised_ms"`
	OK       bool           `json:"ok"`
}

// control is the control group.
type control struct {
	Planned   int  `json:"planned"`
	Connected int  `json:"connected"`
	Talking   int  `json:"talking"`
	OK        bool `json:"ok"`
}

// millis is a duration, in JSON a number of milliseconds.
type millis time.Duration

func (m millis) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(m)/1e6, 'f', 3, 64), nil
}

func (m *millis) UnmarshalJSON(text []byte) error {
	ms, err := strconv.ParseFloat(string(text), 64)
	*m = millis(ms * 1e6)
	return err
}

// String rounds to about three digits.
func (m millis) String() string {
	d := time.Duration(m)
	switch {
	case d >= time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) + "s"
	case d >= time.Millisecond:
		return strconv.FormatFloat(d.Seconds()*1e3, 'f', 1, 64) + "ms"
	}
	return d.Round(time.Microsecond).String()
}

func (r *report) writeJSON(w io.Writer) error { return json.NewEncoder(w).Encode(r) }

func (r *report) writeTable(w io.Writer) error {
	const format = "%-7s  %-24s  %5v  %-28s  %7v  %7v  %8v  %s"
	var b strings.Builder
	line := func(cells ...any) {
		b.WriteString(strings.TrimRight(fmt.Sprintf(format, cells...), " ") + "\n")
	}
	line("way", "what the peer does", "peers", "verdict", "p50", "max", "promised", "")
	for _, row := range r.Ways {
		line(row.Way, row.What, row.Vanished, row.verdicts(), row.P50, row.Max, row.Promised, mark(row.OK))
	}
	line(healthy, meanings[healthy], r.Healthy.Planned,
		fmt.Sprintf("%d connected, %d talking", r.Healthy.Connected, r.Healthy.Talking), "", "", "", mark(r.Healthy.OK))

	p := r.Promise
	fmt.Fprintf(&b, "\npromised: worst case %v + tick %v + loop's lag %v + its stalls meanwhile, at most %v\n",
		p.WorstCase, p.Tick, p.Lag, p.Stalls)
	fmt.Fprintf(&b, "false verdicts: %d\n", r.FalseVerdicts)
	if r.OK {
		fmt.Fprintf(&b, "Every dead peer was found in time. It took %v.\n", r.Took)
	}
	for _, problem := range r.Problems {
		fmt.Fprintln(&b, problem)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// verdicts lists the reasons that came and those that might have.
func (r row) verdicts() string {
	names := slices.Sorted(maps.Keys(r.Verdicts))
	for i, name := range names {
		if len(names) > 1 {
			names[i] = fmt.Sprintf("%s %d", name, r.Verdicts[name])
		}
	}
	return strings.Join(names, ", ")
}

func mark(ok bool) string {
	if ok {
		return "ok"
	}
	return "BROKEN"
}

var errBroken = errors.New("the promise was not kept")

// verdict returns an error unless every promise was kept.
func (r *report) verdict() error {
	if r.OK {
		return nil
	}
	return errBroken
}
