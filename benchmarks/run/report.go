package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

type report struct {
	config   config
	facts    machine.Facts
	shared   bool
	rate     float64 // of the open loop; 0: none was measured
	measured []*measured
	failed   error // has ended the run before its time
}

func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Servers side by side\n\n")
	fmt.Fprintf(&b, "%d rounds of all workloads, in random order (seed %d). Ratios are of one round; where all servers are alive at once, "+
		"that of a round is the median of its cycles. Shown is the median of the rounds [95 %% bootstrap interval].\n\n", r.config.rounds, r.config.seed)
	if r.config.smoke {
		fmt.Fprintf(&b, "A smoke run: 20 connections and short windows, whatever the titles say.\n\n")
	}
	if r.failed != nil {
		fmt.Fprintf(&b, "**It ended before its time**, so that some rounds are missing: %v\n\n", r.failed)
	}
	if r.config.rounds < 5 {
		fmt.Fprintf(&b, "Fewer than 5 rounds: these figures only show that it works.\n\n")
	}
	if r.shared {
		fmt.Fprintf(&b, "Only one processor could be used: server and load shared it.\n\n")
	}
	for _, m := range r.measured {
		fmt.Fprintf(&b, "## %s\n\n%s. %s\n\n![%s](%s)\n\n", m.name, m.title, m.method(), m.name, m.picture("svg"))
		if m.name == "open" {
			fmt.Fprintf(&b, "The rate was %.0f messages a second.\n\n", r.rate)
		}
		if m.table != nil {
			b.WriteString(m.table(m))
		} else {
			for _, f := range m.Plan.Figures {
				fmt.Fprintf(&b, "%s\n", m.Table(f, m.Rows(m.samples, f)))
			}
		}
		fmt.Fprintf(&b, "%s\n", m.notes())
	}
	fmt.Fprintf(&b, "%s\n%s", r.targets(), r.facts.Markdown())
	return b.String()
}

// method says how the servers of a workload shared a round.
func (m *measured) method() string {
	if m.order == rounds.Abreast {
		return fmt.Sprintf("All servers at the same time; peers vanish within %v; %d rounds.", m.Slice, m.Plan.Rounds)
	}
	return fmt.Sprintf("All servers alive at once, %d windows of %v each in a round, in random order.", m.Cycles, m.Slice.Round(time.Millisecond))
}

// notes are what has to be known of some servers.
func (m *measured) notes() string {
	var notes []string
	of := make(map[string][]string) // servers by note
	note := func(text, server string) {
		if of[text] == nil {
			notes = append(notes, text)
		}
		if !slices.Contains(of[text], server) {
			of[text] = append(of[text], server)
		}
	}
	for _, row := range m.Rows(m.samples, m.Plan.Figures[0]) {
		if row.LoadBusy > load.BusyLimit {
			note(saturated, row.Server)
		}
	}
	for _, s := range m.samples {
		for _, text := range s.Notes {
			note(text, s.Server)
		}
	}
	var b strings.Builder
	for _, text := range notes {
		fmt.Fprintf(&b, "\n%s: %s.\n", strings.Join(of[text], ", "), text)
	}
	return b.String()
}

// lines is the raw file: facts, every sample, the rows.
func (r report) lines() []any {
	type labelled struct {
		Kind     string `json:"kind"`
		Workload string `json:"workload,omitempty"`
		Data     any    `json:"data"`
	}
	lines := []any{
		labelled{Kind: "facts", Data: r.facts},
		labelled{Kind: "setup", Data: map[string]any{"rounds": r.config.rounds, "seed": r.config.seed, "shared_cpu": r.shared, "open_rate": r.rate}},
	}
	for _, m := range r.measured {
		for _, s := range m.samples {
			lines = append(lines, labelled{"sample", m.name, s})
		}
		for _, f := range m.Plan.Figures {
			for _, row := range m.Rows(m.samples, f) {
				lines = append(lines, labelled{"row", m.name, row})
			}
		}
	}
	return lines
}

// summary is the README's table: the first figure of each workload as a multiple
// of the floor's.
func (r report) summary() string {
	var columns []*measured
	var servers []string
	for _, m := range r.measured {
		if m.own {
			continue
		}
		columns = append(columns, m)
		for _, e := range m.Entries {
			if e.Name != peers.Floor && !slices.Contains(servers, e.Name) {
				servers = append(servers, e.Name)
			}
		}
	}
	var b strings.Builder
	b.WriteString("| CPU of the server, × C |")
	for _, m := range columns {
		name := m.name
		if m.Plan.Figures[0].Key == p99.Key {
			name += " (p99)"
		}
		fmt.Fprintf(&b, " %s |", name)
	}
	fmt.Fprintf(&b, "\n|%s\n", strings.Repeat(" --- |", 1+len(columns)))
	for _, name := range servers {
		fmt.Fprintf(&b, "| %s |", name)
		for _, m := range columns {
			s := m.compare(name, peers.Floor)
			if s.N == 0 {
				b.WriteString(" – |")
				continue
			}
			fmt.Fprintf(&b, " %.2f |", s.Median)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Between these lines of a page is the table.
const (
	tableBegin = "<!-- table of benchmarks/run -->\n"
	tableEnd   = "<!-- end of table -->\n"
)

// errMarks says that a page does not say where its table is.
var errMarks = errors.New("the lines " + strings.TrimSpace(tableBegin) + " and " + strings.TrimSpace(tableEnd) + " must be there once, in this order")

// replaceTable puts a table in the place of the page's.
func replaceTable(page []byte, table string) ([]byte, error) {
	before, rest, begins := bytes.Cut(page, []byte(tableBegin))
	_, after, ends := bytes.Cut(rest, []byte(tableEnd))
	if !begins || !ends || bytes.Contains(after, []byte(tableBegin)) || bytes.Contains(after, []byte(tableEnd)) {
		return nil, errMarks
	}
	return slices.Concat(before, []byte(tableBegin), []byte(table), []byte(tableEnd), after), nil
}
