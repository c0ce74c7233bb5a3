package main

import (
	"bytes"
	"image/color"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/rounds"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
)

func (m *measured) picture(format string) string { return "run-" + m.name + "." + format }

// bars are what a chart is drawn from: each server's median, with its interval.
type bars []rounds.Row

func (b bars) Len() int                { return len(b) }
func (b bars) XY(i int) (x, y float64) { return b[i].Value.Median, float64(i) }
func (b bars) XError(i int) (low, up float64) {
	v := b[i].Value
	return v.Median - v.Low, v.High - v.Median
}
func (b bars) Label(i int) string { return "  " + rounds.Number(b[i].Value.Median) }

// chart draws the first figure as horizontal bars, in the order of the table.
func (m *measured) chart(format string) ([]byte, error) {
	figure := m.Plan.Figures[0]
	rows := bars(m.Rows(m.samples, figure))
	rows = slices.DeleteFunc(rows, func(r rounds.Row) bool { return r.Value.N == 0 })
	slices.Reverse(rows) // the axis points upwards

	p := plot.New()
	p.BackgroundColor = color.White
	better := "less is better"
	if figure.More {
		better = "more is better"
	}
	p.Title.Text = m.name
	p.Title.TextStyle.Font.Size = vg.Points(13)
	p.X.Label.Text = figure.Name + ", " + figure.Unit + " (" + better + "; bars: 95 % intervals)"
	p.X.Min = 0
	var names []string
	most := 0.0
	for i, row := range rows {
		bar, err := plotter.NewBarChart(plotter.Values{row.Value.Median}, vg.Points(15))
		if err != nil {
			return nil, err
		}
		bar.Horizontal, bar.XMin, bar.Color, bar.LineStyle.Width = true, float64(i), shade(row.Server), 0
		p.Add(bar)
		names = append(names, "   "+row.Server) // its beginning is cut off otherwise
		most = max(most, row.Value.High)
	}
	if len(rows) > 0 {
		whiskers, err := plotter.NewXErrorBars(rows)
		if err != nil {
			return nil, err
		}
		labels, err := plotter.NewLabels(atInterval{rows})
		if err != nil {
			return nil, err
		}
		for i := range labels.TextStyle {
			labels.TextStyle[i].YAlign = text.YCenter
		}
		p.Add(whiskers, labels)
		p.NominalY(names...)
		p.Y.Min, p.Y.Max = -0.7, float64(len(rows))-0.3
	}
	p.X.Max = max(1.15*most, 1e-9)
	w, err := p.WriterTo(18*vg.Centimeter, vg.Length(len(rows))*vg.Points(24)+vg.Points(70), format)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = w.WriteTo(&b)
	return b.Bytes(), err
}

// atInterval puts labels where intervals end.
type atInterval struct{ bars }

func (a atInterval) XY(i int) (x, y float64) { return a.bars[i].Value.High, float64(i) }

func shade(server string) color.Color {
	switch {
	case strings.HasPrefix(server, peers.Floor):
		return color.RGBA{0x4b, 0x55, 0x63, 0xff}
	case strings.HasPrefix(server, ours):
		return color.RGBA{0x1f, 0x6f, 0xeb, 0xff}
	}
	return color.RGBA{0x9a, 0xa5, 0xb1, 0xff}
}
