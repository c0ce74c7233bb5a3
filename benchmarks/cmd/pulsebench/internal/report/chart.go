package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// chart is a line chart, drawn as SVG. Colours come from the page's style
// sheet, so that it is readable on light and dark ground.
type chart struct {
	title  string
	x, y   axis
	series []line
	note   string
}

// axis is one axis of a chart.
type axis struct {
	label string
	log   bool
	ticks []tick // given; empty: found
	show  func(float64) string
	zero  bool // the axis begins at zero
}

type tick struct {
	at   float64
	text string
}

// line is one series. Those of one colour belong together, and are named once.
type line struct {
	name   string
	colour int
	points [][2]float64
	thin   bool
}

const (
	width, height         = 720, 320
	left, right           = 84, 20
	top, bottom           = 16, 48
	plotWidth, plotHeight = width - left - right, height - top - bottom
)

// colours is how many the style sheet has.
const colours = 6

// span finds the ends of an axis; false if there is nothing to show.
func (a axis) span(series []line, i int) (low, high float64, ok bool) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, l := range series {
		for _, p := range l.points {
			if a.log && p[i] <= 0 {
				continue
			}
			low, high = min(low, p[i]), max(high, p[i])
		}
	}
	for _, t := range a.ticks {
		low, high = min(low, t.at), max(high, t.at)
	}
	if math.IsInf(low, 1) {
		return 0, 0, false
	}
	if a.zero {
		low = min(low, 0)
	}
	if a.log {
		low, high = math.Pow(10, math.Floor(math.Log10(low)+1e-9)), math.Pow(10, math.Ceil(math.Log10(high)-1e-9))
	} else if len(a.ticks) == 0 {
		step := niceStep(high - low)
		low, high = math.Floor(low/step)*step, math.Ceil(high/step)*step
	}
	if low == high {
		if a.log {
			high *= 10
		} else {
			high++
		}
	}
	return low, high, true
}

// niceStep is 1, 2 or 5 times a power of ten, and goes about five times into a
// span.
func niceStep(span float64) float64 {
	if !(span > 0) {
		return 1
	}
	raw := span / 5
	unit := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, factor := range []float64{1, 2, 5} {
		if raw <= factor*unit*1.0001 {
			return factor * unit
		}
	}
	return 10 * unit
}

func (a axis) marks(low, high float64) []tick {
	if len(a.ticks) > 0 {
		return a.ticks
	}
	var list []tick
	if a.log {
		for at := low; at <= high*1.0001; at *= 10 {
			list = append(list, tick{at, a.show(at)})
		}
		return list
	}
	step := niceStep(high - low)
	for i := math.Round(low / step); i*step <= high+step*1e-6; i++ {
		list = append(list, tick{i * step, a.show(i * step)})
	}
	return list
}

// place is where a value lies on an axis, from 0 to 1.
func (a axis) place(v, low, high float64) float64 {
	if a.log {
		v, low, high = math.Log(max(v, low)), math.Log(low), math.Log(high)
	}
	return (v - low) / (high - low)
}

// svg draws the chart; empty if there is nothing to show.
func (c chart) svg() string {
	x0, x1, ok := c.x.span(c.series, 0)
	if !ok {
		return ""
	}
	y0, y1, ok := c.y.span(c.series, 1)
	if !ok {
		return ""
	}
	px := func(v float64) float64 { return left + plotWidth*c.x.place(v, x0, x1) }
	py := func(v float64) float64 { return top + plotHeight*(1-c.y.place(v, y0, y1)) }

	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img" aria-label="%s">`, width, height, html.EscapeString(c.title))
	for _, t := range c.y.marks(y0, y1) {
		y := py(t.at)
		fmt.Fprintf(&b, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text class="tick" text-anchor="end" x="%d" y="%.1f">%s</text>`,
			left, width-right, y, y, left-6, y+4, html.EscapeString(t.text))
	}
	for _, t := range c.x.marks(x0, x1) {
		x := px(t.at)
		fmt.Fprintf(&b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/><text class="tick" text-anchor="middle" x="%.1f" y="%d">%s</text>`,
			x, x, top, height-bottom, x, height-bottom+16, html.EscapeString(t.text))
	}
	fmt.Fprintf(&b, `<text class="label" text-anchor="middle" x="%d" y="%d">%s</text>`, left+plotWidth/2, height-8, html.EscapeString(c.x.label))
	fmt.Fprintf(&b, `<text class="label" text-anchor="middle" transform="translate(14 %d) rotate(-90)">%s</text>`, top+plotHeight/2, html.EscapeString(c.y.label))
	for _, l := range c.series {
		var path strings.Builder
		pen := "M"
		for _, p := range l.points {
			if c.x.log && p[0] <= 0 || c.y.log && p[1] <= 0 {
				pen = "M" // nothing happened here: the line is broken
				continue
			}
			fmt.Fprintf(&path, "%s%.1f %.1f", pen, px(p[0]), py(p[1]))
			pen = "L"
		}
		if path.Len() == 0 {
			continue
		}
		class := fmt.Sprintf("line c%d", l.colour%colours)
		if l.thin {
			class += " thin"
		}
		fmt.Fprintf(&b, `<path class="%s" d="%s"><title>%s</title></path>`, class, path.String(), html.EscapeString(l.name))
	}
	b.WriteString("</svg>")
	return b.String()
}

// legend names the colours, each once.
func (c chart) legend() []line {
	var list []line
	seen := make(map[string]bool)
	for _, l := range c.series {
		if !seen[l.name] {
			seen[l.name] = true
			list = append(list, line{name: l.name, colour: l.colour % colours})
		}
	}
	return list
}
