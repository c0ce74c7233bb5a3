package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
)

// ErrBusy is returned by Do when the connection's work queue is full. The task
// was not taken.
var ErrBusy = errors.New("engine: work queue is full")

// Pool supplies the goroutines of workers (Limits.Work.Pool).
type Pool interface {
	// Go runs f soon, on another goroutine, and never blocks. f may take long,
	// and may end its goroutine by runtime.Goexit. If Go fails, the engine
	// starts a goroutine by itself.
	Go(f func()) error
}

// Do runs task on a worker goroutine: the tasks of one connection one after
// another, in the order of Do, those of different connections in parallel, on
// at most Limits.Work.Workers goroutines. It never blocks.
//
// The error is ErrClosed once the connection is closed, or ErrBusy if as many
// tasks wait as Limits.Work.Queue. Then the task was not taken. A task that was
// taken runs, even if the connection closes meanwhile. A panic or a
// runtime.Goexit in a task closes the connection with reason Panic and harms no
// other.
//
// After the peer's end of stream a connection stays open for sending until its
// tasks are done, at most for Limits.MaxPause.
func (c *Conn) Do(task func()) error {
	return c.queueOfWork().push(job{task: task}, false)
}

// Ordered makes a handler that may block of one that is written for a loop:
// Message, Frame, Writable, EOF and Close run on workers, as by Conn.Do, each
// connection's one after another and Close last. Open, and what must give an
// answer at once, Healthy and Idle, run on the loop, and so does Outage. Payloads
// are copied, and valid until the callback returns as before.
//
// While a connection has more work waiting than Limits.Work allows, it is not
// read, and its peer has to wait. That may take Limits.MaxPause at most.
func Ordered(h Handler) Handler {
	ordered := Handler{Open: h.Open, Healthy: h.Healthy, Idle: h.Idle, Outage: h.Outage}
	if h.Message != nil {
		ordered.Message = func(c *Conn, payload []byte) {
			c.queueOfWork().accept(job{call: h.Message, payload: copyOf(payload)})
		}
	}
	if h.Frame != nil {
		ordered.Frame = func(c *Conn, f codec.Frame) {
			kind := f.Kind
			c.queueOfWork().accept(job{payload: copyOf(f.Payload), call: func(c *Conn, payload []byte) {
				h.Frame(c, codec.Frame{Kind: kind, Payload: payload})
			}})
		}
	}
	onQueue := func(f func(*Conn)) func(*Conn) {
		if f == nil {
			return nil
		}
		return func(c *Conn) { c.queueOfWork().accept(job{task: func() { f(c) }}) }
	}
	ordered.Writable, ordered.EOF = onQueue(h.Writable), onQueue(h.EOF)
	if h.Close != nil {
		ordered.Close = func(c *Conn, err error) {
			c.queueOfWork().accept(job{task: func() { h.Close(c, err) }})
		}
	}
	return ordered
}

// job is one piece of a connection's work: a task, or a call with a payload.
type job struct {
	task    func()
	call    func(*Conn, []byte)
	payload *inbox // a copy, given back when the job is done
}

func copyOf(payload []byte) *inbox {
	in := getInbox(len(payload))
	in.b = append(in.b, payload...)
	return in
}

func (j *job) size() int {
	if j.payload == nil {
		return 0
	}
	return len(j.payload.b)
}

// workQueue holds the jobs of one connection. At any time it is with one worker
// or in the list of those that wait for one, or it is empty.
type workQueue struct {
	c *Conn

	mu      sync.Mutex
	jobs    fifo[job]
	bytes   int  // of payloads in jobs
	busy    bool // a worker has it, or will have
	full    bool // reading is paused for it
	awaited bool // the loop wants to know when it is empty
	ended   bool // Do is refused
}

func (c *Conn) queueOfWork() *workQueue {
	if q := c.work.Load(); q != nil {
		return q
	}
	c.work.CompareAndSwap(nil, &workQueue{c: c})
	return c.work.Load()
}

// endWork makes Do refuse. What it has taken is counted with the workers by then, so
// that nobody who waits for them misses it.
func (c *Conn) endWork() {
	if q := c.work.Load(); q != nil {
		q.mu.Lock()
		q.ended = true
		q.mu.Unlock()
	}
}

// working reports whether c has work that is not done. If so, the loop settles
// c once it is.
func (c *Conn) working() bool {
	q := c.work.Load()
	if q == nil {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.awaited = q.busy
	return q.busy
}

// accept takes a job of a callback's, and pauses reading above the limit.
func (q *workQueue) accept(j job) { _ = q.push(j, true) }

func (q *workQueue) push(j job, unrefused bool) error {
	ws, limits := &q.c.loop.core.workers, &q.c.loop.core.limits.Work
	q.mu.Lock()
	if !unrefused {
		// Looked at under the lock, so that nothing gets in behind an Ordered
		// Close.
		closed := q.ended || q.c.state.Load()&opened == 0
		if closed || q.jobs.len() >= limits.Queue {
			q.mu.Unlock()
			if closed {
				return ErrClosed
			}
			ws.refused.Add(1)
			return ErrBusy
		}
	}
	q.jobs.push(j)
	q.bytes += j.size()
	ws.queued.Add(1)
	pause := unrefused && !q.full && (q.jobs.len() >= limits.Queue || q.bytes >= limits.Bytes)
	if pause {
		q.full = true
		_ = q.c.hold(pausedByWork, true) // under the lock: a worker may be about to resume
	}
	start := !q.busy && ws.enlist(q)
	q.busy = true
	q.mu.Unlock()
	if start {
		ws.start()
	}
	return nil
}

// pop takes the next job. If there is none the queue is no longer the worker's.
func (q *workQueue) pop() (j job, ok bool) {
	limits := &q.c.loop.core.limits.Work
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.jobs.len() == 0 {
		q.busy = false
		if q.awaited {
			q.awaited = false
			q.c.schedule()
		}
		return job{}, false
	}
	j = q.jobs.pop()
	q.bytes -= j.size()
	if q.full && q.jobs.len() <= limits.Queue/2 && q.bytes <= limits.Bytes/2 {
		q.full = false
		_ = q.c.hold(pausedByWork, false)
	}
	return j, true
}

const (
	// turnJobs and turnTime bound what a worker does for one connection before
	// the others get their turn.
	turnJobs = 16
	turnTime = int64(time.Millisecond)
)

// serve does a turn of jobs.
func (q *workQueue) serve(w *worker) {
	ws := &q.c.loop.core.workers
	began := q.c.loop.core.kernel.Now()
	now := began
	for n := 0; n < turnJobs && now-began < turnTime; n++ {
		j, ok := q.pop()
		if !ok {
			return
		}
		ws.queued.Add(-1)
		w.conn.Store(uint64(q.c.id))
		w.since.Store(now)
		q.do(j)
		w.since.Store(0)
		end := q.c.loop.core.kernel.Now()
		ws.busy.Add(end - now)
		ws.done.Add(1)
		now = end
	}
	ws.ready(q)
}

// do does one job, and contains what goes wrong in it.
func (q *workQueue) do(j job) {
	returned := false
	defer func() {
		if j.payload != nil {
			j.payload.release()
		}
		if !returned {
			q.failed(recover())
		}
	}()
	if j.call != nil {
		j.call(q.c, j.payload.b)
	} else {
		j.task()
	}
	returned = true
}

// failed limits a panic, or a Goexit, to the connection whose task it was.
func (q *workQueue) failed(panicked any) {
	c, l := q.c, q.c.loop
	err := errGoexit
	if panicked != nil {
		err = fmt.Errorf("panic: %v", panicked)
	}
	l.stats.panics.Add(1)
	l.core.report(slog.LevelError, "a task failed", "conn", uint64(c.id), "remote", c.remote.String(), "err", err, "stack", string(debug.Stack()))
	l.mail.post(letter{c: c, f: func() { c.kill(Panic, err) }})
	if panicked == nil { // this goroutine ends, another one goes on
		l.core.workers.done.Add(1)
		l.core.workers.ready(q)
	}
}

// workers are the goroutines that do connections' work, and the list of
// connections that wait for one, first come first served. How many there are at a
// time is counted here, so that handing over never waits for anybody.
type workers struct {
	core *core

	mu      sync.Mutex
	waiting fifo[*workQueue]
	all     []*worker // some may be free
	active  int
	ended   chan struct{} // closed when the last one ends; nil: nobody waits

	queued  atomic.Int64
	done    atomic.Uint64
	refused atomic.Uint64
	busy    atomic.Int64 // ns
}

// worker is what is known of one goroutine.
type worker struct {
	used     bool          // guarded by workers.mu
	since    atomic.Int64  // when its job was begun; 0: it has none
	conn     atomic.Uint64 // whose job it is
	reported int64         // the since that was reported to be stuck; of watch
}

// enlist enters a queue that has jobs, and reports whether one more worker is to be
// started for it, who is counted from now on.
func (ws *workers) enlist(q *workQueue) (start bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.waiting.push(q)
	start = ws.active < ws.core.limits.Work.Workers
	if start {
		ws.active++
	}
	return start
}

// ready enters a queue that has jobs, and makes sure that somebody comes.
func (ws *workers) ready(q *workQueue) {
	if ws.enlist(q) {
		ws.start()
	}
}

// start begins one more worker.
func (ws *workers) start() {
	ws.core.watch.kick()
	if pool := ws.core.limits.Work.Pool; pool == nil || pool.Go(ws.work) != nil {
		go ws.work()
	}
}

// work is a worker's goroutine, for as long as there is something to do.
func (ws *workers) work() {
	w := ws.enter()
	returned := false
	defer func() {
		if !returned { // a Goexit in a task: another one takes its place
			ws.leave(w)
			ws.start()
		}
	}()
	for q := ws.next(w); q != nil; q = ws.next(w) {
		q.serve(w)
	}
	returned = true
}

func (ws *workers) enter() *worker {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, w := range ws.all {
		if !w.used {
			w.used = true
			return w
		}
	}
	w := &worker{used: true}
	ws.all = append(ws.all, w)
	return w
}

func (ws *workers) leave(w *worker) {
	ws.mu.Lock()
	w.used = false
	w.since.Store(0)
	ws.mu.Unlock()
}

// next returns a queue that waits. If there is none the worker has left.
func (ws *workers) next(w *worker) *workQueue {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.waiting.len() > 0 {
		return ws.waiting.pop()
	}
	w.used = false
	ws.active--
	if ws.active == 0 && ws.ended != nil {
		close(ws.ended)
		ws.ended = nil
	}
	return nil
}

// close waits until all work is done. Nobody adds to it any more.
func (ws *workers) close() {
	ws.mu.Lock()
	var ended chan struct{}
	if ws.active > 0 {
		ended = make(chan struct{})
		ws.ended = ended
	}
	ws.mu.Unlock()
	if ended != nil {
		<-ended
	}
}

// WorkStats is what the workers of an engine have done.
type WorkStats struct {
	Active  int           // workers with something to do
	Queued  int           // tasks that wait
	Done    uint64        // tasks that ended, panics included
	Refused uint64        // tasks refused with ErrBusy
	Stuck   int           // tasks that have been running for longer than Limits.Work.Stuck
	Busy    time.Duration // the time that ended tasks took, all together
}

func (ws *workers) stats() WorkStats {
	s := WorkStats{
		Queued: int(ws.queued.Load()), Done: ws.done.Load(), Refused: ws.refused.Load(),
		Busy: time.Duration(ws.busy.Load()),
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	s.Active = ws.active
	now := ws.core.kernel.Now()
	for _, w := range ws.all {
		if w.stuck(now, ws.core.limits.Work.Stuck) {
			s.Stuck++
		}
	}
	return s
}

// stuck reports whether the worker's job takes longer than limit.
func (w *worker) stuck(now int64, limit time.Duration) bool {
	since := w.since.Load()
	return since != 0 && limit > 0 && now-since > int64(limit)
}

// fifo is a queue that reuses its memory.
type fifo[T any] struct {
	items []T
	head  int
}

func (f *fifo[T]) len() int { return len(f.items) - f.head }

func (f *fifo[T]) push(x T) {
	if f.head > 0 && len(f.items) == cap(f.items) && f.head >= len(f.items)/2 {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	f.items = append(f.items, x)
}

// pop takes the first item, of which there must be one.
func (f *fifo[T]) pop() T {
	var zero T
	x := f.items[f.head]
	f.items[f.head] = zero
	f.head++
	if f.head == len(f.items) {
		f.items, f.head = f.items[:0], 0
		if cap(f.items) > maxKept {
			f.items = nil
		}
	}
	return x
}
