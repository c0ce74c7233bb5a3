package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

type report struct {
	config   config
	facts    machine.Facts
	shared   bool
	measured []*measured
}

// loadLimit is the share of its processor above which a load generator measures
// itself, too.
const loadLimit = 0.85

func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Servers side by side\n\n")
	fmt.Fprintf(&b, "CPU time of the server per message. %d rounds; in each, workloads and servers in random order (seed %d). "+
		"Ratios are of pairs from one round: median [95 %% bootstrap interval].\n\n", r.config.rounds, r.config.seed)
	if r.config.smoke {
		fmt.Fprintf(&b, "A smoke run: 20 connections and short windows, whatever the titles say.\n\n")
	}
	if r.config.rounds < 5 {
		fmt.Fprintf(&b, "Fewer than 5 rounds: these figures only show that it works.\n\n")
	}
	if r.shared {
		fmt.Fprintf(&b, "Only one processor could be used: server and load shared it.\n\n")
	}
	for _, m := range r.measured {
		rows := m.Rows(m.samples)
		fmt.Fprintf(&b, "## %s\n\n![%s](run-%s.svg)\n\n%s", m.title, m.name, m.name, m.Table(m.what, rows))
		for _, row := range rows {
			if row.LoadBusy > loadLimit {
				fmt.Fprintf(&b, "\n%s: the load generator was busy for %.0f %% of its processor; its rate is not the server's.\n", row.Server, 100*row.LoadBusy)
			}
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "%s", r.facts.Markdown())
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
		labelled{Kind: "setup", Data: map[string]any{"rounds": r.config.rounds, "seed": r.config.seed, "shared_cpu": r.shared}},
	}
	for _, m := range r.measured {
		for _, s := range m.samples {
			lines = append(lines, labelled{"sample", m.name, s})
		}
		for _, row := range m.Rows(m.samples) {
			lines = append(lines, labelled{"row", m.name, row})
		}
	}
	return lines
}

// summary is the README's table: each server's CPU time as a multiple of the
// floor's.
func (r report) summary() string {
	var servers []string
	for _, m := range r.measured {
		for _, p := range m.Peers {
			if p.Name != peers.Floor && !slices.Contains(servers, p.Name) {
				servers = append(servers, p.Name)
			}
		}
	}
	var b strings.Builder
	b.WriteString("| CPU of the server, × C |")
	for _, m := range r.measured {
		fmt.Fprintf(&b, " %s |", m.name)
	}
	fmt.Fprintf(&b, "\n|%s\n", strings.Repeat(" --- |", 1+len(r.measured)))
	for _, name := range servers {
		fmt.Fprintf(&b, "| %s |", name)
		for _, m := range r.measured {
			rows := m.Rows(m.samples)
			i := slices.IndexFunc(rows, func(row rounds.Row) bool { return row.Server == name })
			if i < 0 || rows[i].Ratios[peers.Floor].N == 0 {
				b.WriteString(" – |")
				continue
			}
			s := rows[i].Ratios[peers.Floor]
			fmt.Fprintf(&b, " %.2f [%.2f, %.2f] |", s.Median, s.Low, s.High)
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

// chart draws each server's median as a bar, with the interval of its median.
func (m *measured) chart() []byte {
	const (
		left, width, right = 140, 520, 120
		top, bar, gap      = 44, 18, 8
	)
	rows := m.Rows(m.samples)
	most := 0.0
	for _, row := range rows {
		most = max(most, row.CPU.High)
	}
	if most <= 0 {
		most = 1
	}
	x := func(v float64) float64 { return left + width*v/most }
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n",
		left+width+right, top+len(rows)*(bar+gap)+12)
	b.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	fmt.Fprintf(&b, `<text x="16" y="24" font-size="15">%s: CPU ns per %s (less is better)</text>`+"\n", m.title, m.what)
	for i, row := range rows {
		y := top + i*(bar+gap)
		color := "#9aa5b1"
		switch {
		case row.Server == peers.Floor:
			color = "#4b5563"
		case strings.HasPrefix(row.Server, "pulsewheel"):
			color = "#1f6feb"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, left-8, y+bar-5, row.Server)
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, left, y, x(row.CPU.Median)-left, bar, color)
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="black"/>`, x(row.CPU.Low), x(row.CPU.High), y+bar/2, y+bar/2)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d">%.0f</text>`+"\n", x(row.CPU.High)+6, y+bar-5, row.CPU.Median)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
