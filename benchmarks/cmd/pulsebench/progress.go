package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/bench"
)

// progressLine shows how far a run is: on a terminal one line that changes,
// elsewhere a line now and then.
type progressLine struct {
	out      io.Writer
	terminal bool
	quiet    bool
	dirty    bool // there is something to be wiped out
	last     time.Time
	stage    string
}

const (
	refreshTerminal = 100 * time.Millisecond
	refreshLog      = 5 * time.Second
)

func newProgress(out io.Writer, quiet bool) *progressLine {
	p := &progressLine{out: out, quiet: quiet}
	if f, ok := out.(*os.File); ok {
		if info, err := f.Stat(); err == nil {
			p.terminal = info.Mode()&os.ModeCharDevice != 0
		}
	}
	return p
}

// show is a bench's Progress.
func (p *progressLine) show(now bench.Progress) {
	refresh := refreshLog
	if p.terminal {
		refresh = refreshTerminal
	}
	if p.quiet || now.Stage == p.stage && time.Since(p.last) < refresh {
		return
	}
	p.last, p.stage = time.Now(), now.Stage
	text := fmt.Sprintf("%s: %d connections", now.Stage, now.Ready)
	if now.Elapsed > 0 {
		text += fmt.Sprintf(", %.1f s, %.0f/s, p50 %v, p99 %v", now.Elapsed.Seconds(), now.Rate,
			now.P50.Round(time.Microsecond), now.P99.Round(time.Microsecond))
	}
	if p.terminal {
		fmt.Fprintf(p.out, "\r\x1b[K%s", text)
		p.dirty = true
		return
	}
	fmt.Fprintln(p.out, text)
}

// done makes room for other output.
func (p *progressLine) done() {
	if p.dirty {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.dirty = false
	}
	p.stage = ""
}
