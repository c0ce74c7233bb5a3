// Package report makes one HTML page of results: tables and charts, with
// nothing to be loaded from elsewhere and no scripts.
package report

import (
	"bytes"
	"fmt"
	"html/template"
	"math"
	"strings"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/compare"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/hist"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/result"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
)

// page is what the template shows.
type page struct {
	Title    string
	Files    []fileView
	Metrics  []metricRow
	Charts   []chartView
	DeadPeer []deadRow
	// Statements compare the results with the first.
	Statements []string
}

type fileView struct {
	Label, Plan, Command, System string
	Colour                       int
	Runs                         int
	Problems, Remarks            []string
}

type metricRow struct {
	Name   string
	Values []string
}

type deadRow struct {
	Label string
	result.Detection
}

type chartView struct {
	Title, Note string
	SVG         template.HTML
	Legend      []legendEntry
}

type legendEntry struct {
	Name   string
	Colour int
}

// Page makes the page. The first result is what others are compared with.
func Page(files []result.File) ([]byte, error) {
	p := page{Title: "pulsebench: " + labels(files)}
	for i, f := range files {
		p.Files = append(p.Files, view(f, i))
		for _, r := range f.Runs {
			if r.DeadPeer == nil {
				continue
			}
			for _, d := range r.DeadPeer.Ways {
				p.DeadPeer = append(p.DeadPeer, deadRow{f.Label, d})
			}
		}
	}
	p.Metrics = metrics(files)
	charts, err := charts(files)
	if err != nil {
		return nil, err
	}
	for _, c := range charts {
		svg := c.svg()
		if svg == "" {
			continue
		}
		v := chartView{Title: c.title, Note: c.note, SVG: template.HTML(svg)}
		for _, l := range c.legend() {
			v.Legend = append(v.Legend, legendEntry{l.name, l.colour})
		}
		p.Charts = append(p.Charts, v)
	}
	if len(files) > 1 {
		list, err := compare.Files(files, compare.Options{Least: 0.01})
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			for _, d := range c.Differences {
				p.Statements = append(p.Statements, d.Statement(c.A, c.B))
			}
			p.Statements = append(p.Statements, c.Caveats...)
		}
	}
	var out bytes.Buffer
	if err := layout.Execute(&out, p); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return out.Bytes(), nil
}

func labels(files []result.File) string {
	var list []string
	for _, f := range files {
		list = append(list, f.Label)
	}
	return strings.Join(list, ", ")
}

func view(f result.File, colour int) fileView {
	v := fileView{
		Label: f.Label, Colour: colour % colours, Runs: len(f.Runs), Command: f.Machine.Command,
		Plan:   fmt.Sprintf("%s, %s, %d connections, payload %s", f.Plan.Workload, f.Plan.Protocol.Name, f.Plan.Conns, f.Plan.Payload),
		System: fmt.Sprintf("%s, kernel %s, %s, %d processors, %s, %s", f.Machine.OS, f.Machine.Kernel, f.Machine.CPU, f.Machine.CPUs, f.Machine.Go, f.Machine.Date),
	}
	for i, r := range f.Runs {
		for _, problem := range r.Problems {
			v.Problems = append(v.Problems, fmt.Sprintf("run %d: %s", i+1, problem))
		}
		for _, remark := range r.Remarks {
			v.Remarks = append(v.Remarks, fmt.Sprintf("run %d: %s", i+1, remark))
		}
	}
	return v
}

// metrics is a table of medians with their intervals.
func metrics(files []result.File) []metricRow {
	var rows []metricRow
	index := make(map[string]int)
	for i, f := range files {
		values := make(map[string][]float64)
		units := make(map[string]string)
		var order []string
		for _, r := range f.Runs {
			for _, m := range r.Metrics() {
				if len(values[m.Name]) == 0 {
					order = append(order, m.Name)
				}
				values[m.Name] = append(values[m.Name], m.Value)
				units[m.Name] = m.Unit
			}
		}
		for _, name := range order {
			at, known := index[name]
			if !known {
				at = len(rows)
				index[name] = at
				rows = append(rows, metricRow{Name: name, Values: make([]string, len(files))})
			}
			rows[at].Values[i] = spread(stats.Summarize(values[name], 0), units[name])
		}
	}
	return rows
}

func spread(s stats.Summary, unit string) string {
	if s.N < 2 {
		return number(s.Median, unit)
	}
	return fmt.Sprintf("%s [%s, %s]", number(s.Median, unit), number(s.Low, unit), number(s.High, unit))
}

func number(v float64, unit string) string {
	switch {
	case unit == "µs":
		return result.Duration(v)
	case unit == "s" || v != math.Trunc(v) && math.Abs(v) < 100:
		return strings.TrimSpace(fmt.Sprintf("%.3f %s", v, unit))
	}
	return strings.TrimSpace(fmt.Sprintf("%.0f %s", v, unit))
}

// percentiles are the marks of an axis that gives each nine the same room.
var percentiles = []tick{{1, "0"}, {2, "50 %"}, {10, "90 %"}, {100, "99 %"}, {1000, "99.9 %"}, {1e4, "99.99 %"}}

func plain(v float64) string {
	return strings.TrimSuffix(fmt.Sprintf("%g", math.Round(v*1000)/1000), ".0")
}

func thousands(v float64) string {
	switch {
	case math.Abs(v) >= 1e6:
		return fmt.Sprintf("%gM", math.Round(v/1e4)/100)
	case math.Abs(v) >= 1e4:
		return fmt.Sprintf("%gk", math.Round(v/10)/100)
	}
	return plain(v)
}

// charts draws what the results have.
func charts(files []result.File) ([]chart, error) {
	latency := chart{
		title: "Latency by percentile", note: "all runs of a result together; each nine has the same room",
		x: axis{label: "share of messages that took no longer", log: true, ticks: percentiles},
		y: axis{label: "latency", log: true, show: result.Duration},
	}
	seconds := axis{label: "seconds from the beginning of the window", show: plain, zero: true}
	rate := chart{title: "Throughput over time", x: seconds, y: axis{label: "per second", show: thousands, zero: true}}
	tail := chart{title: "p99 latency over time", x: seconds, y: axis{label: "p99", log: true, show: result.Duration}}
	server := chart{title: "Server's processors over time", x: seconds, y: axis{label: "processors", show: plain, zero: true}}
	client := chart{title: "Load generator's processors over time", x: seconds, y: axis{label: "processors", show: plain, zero: true}}
	open := chart{title: "Connections over time", x: seconds, y: axis{label: "connections", show: thousands, zero: true}}
	found := chart{
		title: "Dead peers found", note: "share of the peers that vanished in one way and were found within that time",
		x: axis{label: "seconds since it vanished", show: plain, zero: true},
		y: axis{label: "found", ticks: []tick{{0, "0"}, {0.25, "25 %"}, {0.5, "50 %"}, {0.75, "75 %"}, {1, "100 %"}}},
	}
	for i, f := range files {
		sum := hist.New()
		for _, r := range f.Runs {
			if r.Latency != nil {
				h, err := hist.Parse(r.Latency.HDR)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", f.Label, err)
				}
				sum.Merge(h)
			}
			add := func(c *chart, value func(result.Step) float64) {
				l := line{name: f.Label, colour: i, thin: len(f.Runs) > 1}
				for _, step := range r.Series {
					l.points = append(l.points, [2]float64{step.At, value(step)})
				}
				c.series = append(c.series, l)
			}
			add(&rate, func(s result.Step) float64 { return s.MessagesPerSecond })
			add(&tail, func(s result.Step) float64 { return s.P99 })
			add(&client, func(s result.Step) float64 { return s.ClientCPUs })
			add(&open, func(s result.Step) float64 { return float64(s.Open) })
			if r.Server != nil {
				add(&server, func(s result.Step) float64 { return s.ServerCPUs })
			}
		}
		latency.series = append(latency.series, curve(f.Label, i, sum))
		lines, err := detections(f, len(found.series), len(files) > 1)
		if err != nil {
			return nil, err
		}
		found.series = append(found.series, lines...)
	}
	return []chart{found, latency, rate, tail, server, client, open}, nil
}

// curve is a distribution on the axis of percentiles.
func curve(name string, colour int, h *hist.Histogram) line {
	l := line{name: name, colour: colour}
	for _, p := range h.Points() {
		if rest := 1 - p.Quantile; rest > 0 {
			l.points = append(l.points, [2]float64{1 / rest, float64(p.Value) / 1e3})
		}
	}
	return l
}

// detections is a step curve for each way to vanish.
func detections(f result.File, colour int, several bool) ([]line, error) {
	type found struct {
		h        *hist.Histogram
		vanished int
	}
	var order []string
	ways := make(map[string]*found)
	for _, r := range f.Runs {
		if r.DeadPeer == nil {
			continue
		}
		for _, d := range r.DeadPeer.Ways {
			h, err := hist.Parse(d.HDR)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.Label, err)
			}
			name := string(d.Way)
			if ways[name] == nil {
				ways[name] = &found{h: hist.New()}
				order = append(order, name)
			}
			ways[name].h.Merge(h)
			ways[name].vanished += d.Vanished
		}
	}
	var lines []line
	for i, name := range order {
		w := ways[name]
		l := line{name: name, colour: colour + i}
		if several {
			l.name = f.Label + ": " + name
		}
		last := 0.0
		for _, p := range w.h.Points() {
			share := float64(p.Count) / float64(w.vanished)
			at := p.Value.Seconds()
			l.points = append(l.points, [2]float64{at, last}, [2]float64{at, share})
			last = share
		}
		lines = append(lines, l)
	}
	return lines, nil
}

var layout = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title>
<style>
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --soft: #57606a; --grid: #d8dee4;
  --c0: #0b62c4; --c1: #c4480b; --c2: #1a7f37; --c3: #8250df; --c4: #9a6700; --c5: #bf3989; }
@media (prefers-color-scheme: dark) { :root { --ground: #0f1318; --ink: #e6edf3; --soft: #9aa5b1; --grid: #2c333b;
  --c0: #58a6ff; --c1: #ff8f5a; --c2: #4ac26b; --c3: #bc8cff; --c4: #d9a520; --c5: #ff7bc0; } }
body { background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; } th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--grid); font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; }
.soft { color: var(--soft); } .problem { color: var(--c1); font-weight: 600; } code { font-size: .85em; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } .grid { stroke: var(--grid); } .tick, .label { fill: var(--soft); font-size: 12px; }
.line { fill: none; stroke-width: 2; } .thin { stroke-width: 1; opacity: .7; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); } .c3 { stroke: var(--c3); } .c4 { stroke: var(--c4); } .c5 { stroke: var(--c5); }
.key { display: inline-block; margin-right: 1.2rem; } .key svg { width: 1.4rem; height: .6rem; margin-right: .3rem; }
</style>
</head>
<body>
<h1>{{.Title}}</h1>
{{range .Files}}
<h2><span class="key"><svg viewBox="0 0 20 8"><path class="line c{{.Colour}}" d="M0 4L20 4"/></svg></span>{{.Label}}</h2>
<p>{{.Plan}}; {{.Runs}} {{if eq .Runs 1}}run{{else}}runs{{end}}<br><span class="soft">{{.System}}<br><code>{{.Command}}</code></span></p>
{{range .Problems}}<p class="problem">{{.}}</p>{{end}}
{{range .Remarks}}<p class="soft">{{.}}</p>{{end}}
{{end}}
{{if .Statements}}<h2>What differs</h2><ul>{{range .Statements}}<li>{{.}}</li>{{end}}</ul>{{end}}
<h2>Figures</h2>
<table><tr><th>median [95 % interval]</th>{{range .Files}}<th>{{.Label}}</th>{{end}}</tr>
{{range .Metrics}}<tr><td>{{.Name}}</td>{{range .Values}}<td>{{.}}</td>{{end}}</tr>{{end}}</table>
{{if .DeadPeer}}<h2>Peers that vanished</h2>
<table><tr><th></th><th>way</th><th>vanished</th><th>found</th><th>by FIN</th><th>by RST</th><th>min s</th><th>p50 s</th><th>p90 s</th><th>p99 s</th><th>max s</th></tr>
{{range .DeadPeer}}<tr><td>{{.Label}}</td><td>{{.Way}}</td><td>{{.Vanished}}</td><td>{{.Found}}</td><td>{{.ByFin}}</td><td>{{.ByReset}}</td><td>{{printf "%.3f" .Min}}</td><td>{{printf "%.3f" .P50}}</td><td>{{printf "%.3f" .P90}}</td><td>{{printf "%.3f" .P99}}</td><td>{{printf "%.3f" .Max}}</td></tr>{{end}}</table>{{end}}
{{range .Charts}}
<h2>{{.Title}}</h2>
{{if .Note}}<p class="soft">{{.Note}}</p>{{end}}
{{.SVG}}
<p>{{range .Legend}}<span class="key"><svg viewBox="0 0 20 8"><path class="line c{{.Colour}}" d="M0 4L20 4"/></svg>{{.Name}}</span>{{end}}</p>
{{end}}
</body>
</html>
`))
