package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
)

// chart draws the cost of the operations with a million timers, or the number nearest to it, as bars on a logarithmic
// scale. It returns nil if nothing was measured.
func (r report) chart() []byte {
	counts := r.counts()
	if len(counts) == 0 {
		return nil
	}
	n := slices.MinFunc(counts, func(a, b int) int {
		far := func(n int) float64 { return math.Abs(math.Log(float64(n) / million)) }
		return int(1000 * (far(a) - far(b)))
	})
	panels := []struct{ title, figure string }{
		{"arm+stop", armStopNS}, {"replace a random one", replaceNS}, {"postpone a random one", touchNS}, {"fire", fireNS},
	}
	const (
		left, right, top = 170, 60, 60
		width            = 560 // of the longest bar
		bar, gap, head   = 16, 4, 30
		least, decades   = 1.0, 4 // ns
	)
	var shown []string
	for _, k := range kinds {
		if !math.IsNaN(r.median(k.name, n, armStopNS)) {
			shown = append(shown, k.name)
		}
	}
	panel := head + len(shown)*(bar+gap)
	height := top + len(panels)*panel + 40
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", left+width+right, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	fmt.Fprintf(&b, `<text x="16" y="24" font-size="16">CPU time per operation with %s timers outstanding, ns (logarithmic; less is better)</text>`+"\n", grouped(n))
	x := func(v float64) float64 {
		return left + width*min(1, max(0, math.Log10(v/least)/decades))
	}
	for d := range decades + 1 {
		v := least * math.Pow10(d)
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#dddddd"/>`+"\n", x(v), x(v), top-6, height-30)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle" fill="#666666">%g</text>`+"\n", x(v), height-14, v)
	}
	for p, panelOf := range panels {
		y := top + p*panel
		fmt.Fprintf(&b, `<text x="16" y="%d" font-weight="bold">%s</text>`+"\n", y+14, panelOf.title)
		y += head - 8
		for i, name := range shown {
			v := r.median(name, n, panelOf.figure)
			if math.IsNaN(v) {
				continue
			}
			color := "#9aa5b1"
			if k, _ := kindOf(name); k.ours {
				color = "#1f6feb"
			}
			top := y + i*(bar+gap)
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, left-8, top+12, name)
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, left, top, max(1, x(v)-left), bar, color)
			fmt.Fprintf(&b, `<text x="%.1f" y="%d">%.*f</text>`+"\n", max(left+1, x(v))+5, top+12, decimals(v), v)
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// decimals is how many to print of a time in ns.
func decimals(v float64) int {
	if v < 100 {
		return 1
	}
	return 0
}
