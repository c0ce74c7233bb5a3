package engine

import (
	"bytes"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"
)

// watch notices from outside what cannot report itself: a callback that holds up
// its loop, and a task that does not end. It looks every BlockedAfter while
// something happens, and not at all while nothing does.
type watch struct {
	core *core

	mu     sync.Mutex
	timer  *time.Timer // nil: it was never needed
	armed  bool
	closed bool
}

// kick says that something is going on.
func (w *watch) kick() {
	d := w.core.limits.BlockedAfter
	if d <= 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.armed || w.closed:
		return
	case w.timer == nil:
		w.timer = time.AfterFunc(d, w.look)
	default:
		w.timer.Reset(d)
	}
	w.armed = true
}

// close ends the watch. No look is under way when it returns.
func (w *watch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// look is one look at every loop and worker.
func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = false
	if w.closed {
		return
	}
	again := false
	for _, l := range w.core.loops {
		again = l.probe.look(l) || again
	}
	again = w.lookAtWorkers() || again
	if again {
		w.armed = true
		w.timer.Reset(w.core.limits.BlockedAfter)
	}
}

// probe is a letter that watch sends to a loop, to see when it is served.
type probe struct {
	mu       sync.Mutex
	kicked   bool  // the loop has served an event since the last letter
	sent     int64 // when a letter was sent that is not served; 0: none
	since    int64 // since when the loop has got nowhere
	progress uint64
	reported bool
}

// kick says that the loop is at work. It is called on the loop.
func (p *probe) kick(w *watch) {
	p.mu.Lock()
	p.kicked = true
	p.mu.Unlock()
	w.kick()
}

// look sends a letter, or looks for how long one has been waiting. It reports
// whether there is something to look at again.
func (p *probe) look(l *Loop) (again bool) {
	now := l.core.kernel.Now()
	p.mu.Lock()
	send := p.sent == 0 && p.kicked
	if progress := l.stats.progress(); send || progress != p.progress {
		// A loop that has much to do comes to its mail late, and yet no
		// callback holds it up. One that did does so no more.
		p.progress, p.since, p.reported = progress, now, false
	}
	waiting := time.Duration(now - p.since)
	report := p.sent != 0 && !p.reported && waiting >= l.core.limits.BlockedAfter
	switch {
	case send:
		p.sent, p.kicked = now, false
	case report:
		p.reported = true
	}
	again = p.sent != 0
	p.mu.Unlock()
	if send && !l.mail.post(letter{f: func() { p.served(l) }}) {
		return false
	}
	if report {
		l.stats.blocked.Add(1)
		l.core.report(slog.LevelError, "a callback blocks its event loop", "loop", l.index,
			"for", waiting.Round(time.Millisecond), "stack", stackOf("(*Loop).run(", fmt.Sprintf("%p", l)))
	}
	return again
}

// served runs on the loop when the letter's turn has come.
func (p *probe) served(l *Loop) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent, p.reported = 0, false
	// The letter itself was an event, of which nothing need be known. What is
	// behind it counts again, and so does the next event.
	p.kicked = l.batchNext < len(l.batch) || l.mail.waiting()
	l.watchAt = 0
}

// lookAtWorkers reports tasks that do not end, each once. It tells whether any
// worker has something to do.
func (w *watch) lookAtWorkers() (again bool) {
	ws := &w.core.workers
	now := w.core.kernel.Now()
	type stuck struct {
		worker *worker
		since  int64
	}
	var found []stuck
	ws.mu.Lock()
	for _, x := range ws.all {
		since := x.since.Load()
		if since != 0 && since != x.reported && x.stuck(now, w.core.limits.Work.Stuck) {
			x.reported = since
			found = append(found, stuck{x, since})
		}
	}
	again = ws.active > 0
	ws.mu.Unlock()
	for _, x := range found {
		w.core.report(slog.LevelError, "a task does not end", "conn", x.worker.conn.Load(),
			"for", time.Duration(now-x.since).Round(time.Millisecond),
			"stack", stackOf("(*workQueue).serve(", fmt.Sprintf("%p", x.worker)))
	}
	return again
}

// maxStacks bounds what is read of all goroutines' stacks, in bytes.
const maxStacks = 64 << 20

// stackOf returns the stack of the goroutine in whose traceback a call occurs
// with a pointer among its arguments.
func stackOf(call, pointer string) string {
	var buf []byte
	for size, n := 256<<10, 0; size <= maxStacks; size *= 4 {
		buf = make([]byte, size)
		if n = runtime.Stack(buf, true); n < size {
			buf = buf[:n]
			break
		}
	}
	for stack := range bytes.SplitSeq(buf, []byte("\n\n")) {
		for line := range bytes.Lines(stack) {
			if bytes.Contains(line, []byte(call)) && bytes.Contains(line, []byte(pointer)) {
				return string(stack)
			}
		}
	}
	return ""
}
