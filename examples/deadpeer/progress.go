package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

// progress tells a waiting person what is going on: on a terminal in one line
// that changes, elsewhere in a line now and then.
type progress struct {
	out    io.Writer
	live   bool
	began  time.Time
	title  string
	ticker *time.Ticker
}

func newProgress(out io.Writer) *progress {
	p := &progress{out: out, began: time.Now()}
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		p.live = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	period := 5 * time.Second
	if p.live {
		period = 100 * time.Millisecond
	}
	p.ticker = time.NewTicker(period)
	return p
}

// due says when show is to be called.
func (p *progress) due() <-chan time.Time { return p.ticker.C }

// phase begins a part of the run.
func (p *progress) phase(title string, l *ledger) {
	p.title = title
	p.show(l)
}

func (p *progress) show(l *ledger) {
	begin, end := "", "\n"
	if p.live {
		begin, end = "\r\033[K", ""
	}
	fmt.Fprintf(p.out, "%s%3.0fs %s: %d connected, %d vanished, %d found%s",
		begin, time.Since(p.began).Seconds(), p.title, l.connected, l.vanished, l.found, end)
}

// done wipes the changing line away.
func (p *progress) done() {
	p.ticker.Stop()
	if p.live {
		fmt.Fprint(p.out, "\r\033[K")
	}
}
