package generator

import (
	"cmp"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/monotonic"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
)

// base is what workloads have in common: they do nothing, and count
// connections that are lost.
type base struct{ *Generator }

func (base) begin()                       {}
func (base) ready(*conn)                  {}
func (base) message(*conn, []byte) error  { return nil }
func (b base) ended(_ *conn, cause error) { b.countLoss(cause) }
func (base) due() int64                   { return forever }
func (base) outstanding() int64           { return 0 }
func (base) report(*spec.Share)           {}

// countLoss notes why a connection ended; nil is our own doing.
func (g *Generator) countLoss(err error) {
	if err != nil {
		g.lost[cause(err)]++
	}
}

// never counts a message that was due within the window and has not come back
// as one that took until now: to leave it out would flatter the server.
func (g *Generator) never(e entry) {
	if g.counted(e.at) {
		g.counts.Unanswered++
		g.series.record(g.now - e.at)
	}
}

// closedLoop keeps Depth messages under way on each connection.
type closedLoop struct {
	base
	pending int64
}

func (l *closedLoop) begin() {
	for i := range l.conns {
		c := &l.conns[i]
		if c.state != usable {
			continue
		}
		l.now = monotonic.Now()
		for range l.spec.Depth {
			l.enqueue(c, l.now)
			l.pending++
		}
		l.flush(c)
	}
}

func (l *closedLoop) message(c *conn, payload []byte) error {
	e, err := l.echoed(c, payload)
	if err != nil {
		return err
	}
	l.pending--
	l.counts.Messages++
	if l.phase == counting {
		l.series.record(l.now - e.at)
	}
	if l.phase < draining {
		l.enqueue(c, l.now)
		l.pending++
	}
	return nil
}

func (l *closedLoop) ended(c *conn, cause error) {
	l.pending -= int64(c.queue.len())
	l.counts.Unanswered += int64(c.queue.len())
	l.countLoss(cause)
}

func (l *closedLoop) outstanding() int64 { return l.pending }

func (l *closedLoop) report(*spec.Share) { l.counts.Unanswered += l.pending }

// pace says when things are due that come at a rate.
type pace struct {
	start  int64
	gap    float64 // mean, in nanoseconds
	n      float64 // gaps until next
	next   int64
	random *rand.Rand // nil: uniform
}

// newPace begins a worker's part of a rate: share of it, interleaved with the
// other workers' parts.
func (g *Generator) newPace(rate, share float64) pace {
	if rate*share == 0 {
		return pace{next: forever}
	}
	p := pace{start: g.window.Begin, gap: 1e9 / (rate * share)}
	p.n = float64(g.mine.Index) / float64(g.spec.Workers)
	if g.spec.Arrivals == spec.Poisson {
		p.random = rand.New(rand.NewPCG(g.spec.Seed, uint64(g.mine.Index)))
		p.n = p.random.ExpFloat64()
	}
	p.next = p.start + int64(p.n*p.gap)
	return p
}

func (p *pace) advance() {
	if p.random != nil {
		p.n += p.random.ExpFloat64()
	} else {
		p.n++
	}
	p.next = p.start + int64(p.n*p.gap)
}

// openLoop sends messages when they are due, whatever the answers do. A latency
// counts from the due time: what a server does not answer while it stalls is
// slow, and so is what was due meanwhile.
type openLoop struct {
	base
	pace    pace
	cursor  int
	pending int64
	limit   int64
}

func (l *openLoop) begin() {
	l.pace = l.newPace(l.spec.Rate, float64(l.mine.Conns)/float64(l.spec.Conns))
	l.limit = max(1, int64(l.spec.MaxOutstanding)*int64(l.mine.Conns)/int64(l.spec.Conns))
}

func (l *openLoop) due() int64 {
	// What was due before the end is sent, even if late.
	for l.pace.next <= l.now && l.pace.next < l.window.To {
		l.send(l.pace.next)
		l.pace.advance()
	}
	if l.pace.next >= l.window.To {
		return forever
	}
	return l.pace.next
}

func (l *openLoop) send(due int64) {
	c := l.turn()
	if c == nil || l.pending >= l.limit {
		if l.counted(due) {
			l.counts.Missed++
		}
		return
	}
	if l.counted(due) {
		l.lag.Record(l.now - due)
	}
	l.enqueue(c, due)
	l.pending++
	if !c.wantWrite {
		l.flush(c)
	}
	l.now = monotonic.Now()
}

// turn is the next connection that can be used, or nil.
func (l *openLoop) turn() *conn {
	for range l.conns {
		c := &l.conns[l.cursor]
		if l.cursor++; l.cursor == len(l.conns) {
			l.cursor = 0
		}
		if c.state == usable {
			return c
		}
	}
	return nil
}

func (l *openLoop) message(c *conn, payload []byte) error {
	e, err := l.echoed(c, payload)
	if err != nil {
		return err
	}
	l.pending--
	l.counts.Messages++
	if l.counted(e.at) {
		l.series.record(l.now - e.at)
	}
	return nil
}

func (l *openLoop) ended(c *conn, cause error) {
	l.abandon(c)
	l.countLoss(cause)
}

// abandon counts what a connection still awaits as never answered.
func (l *openLoop) abandon(c *conn) {
	for i := range c.queue.len() {
		l.never(c.queue.at(uint32(i)))
	}
	l.pending -= int64(c.queue.len())
}

func (l *openLoop) outstanding() int64 {
	if l.pace.next < l.window.To {
		return 1
	}
	return l.pending
}

func (l *openLoop) report(*spec.Share) {
	for i := range l.conns {
		l.abandon(&l.conns[i])
		l.conns[i].queue.clear()
	}
}

// idle connections only stay alive; the beater does all.
type idle struct{ base }

func (l *idle) ended(c *conn, cause error) {
	l.beater.forget(c)
	l.countLoss(cause)
}

func (l *idle) outstanding() int64 { return l.beater.pending }

func (l *idle) report(*spec.Share) {
	for i := range l.conns {
		if c := &l.conns[i]; c.state == usable && c.beatDue != 0 {
			l.never(entry{at: c.beatDue})
		}
	}
}

// ramp opens connections at a rate; a latency is the time from when a
// connection was due until the server has answered on it.
type ramp struct{ base }

func (l *ramp) begin() {
	l.opener.begin(l.Generator, l.spec.ConnectRate*float64(l.mine.Conns)/float64(l.spec.Conns))
	l.opener.start = l.window.Begin
}

func (l *ramp) due() int64 {
	if l.phase >= draining && !l.overdue() {
		return forever
	}
	return l.opener.due()
}

func (l *ramp) ready(c *conn) {
	l.opener.arrived()
	l.counts.Messages++
	if l.counted(c.begun) {
		l.series.record(l.now - c.begun)
	}
}

func (l *ramp) ended(c *conn, cause error) {
	if !c.wasUsable {
		l.opener.arrived()
	}
	l.countLoss(cause)
}

// overdue reports whether a connection is to be opened that was due before the end.
func (l *ramp) overdue() bool {
	return l.opener.next < len(l.conns) && l.opener.when(l.opener.next) < l.window.To
}

func (l *ramp) outstanding() int64 {
	n := int64(l.opener.flight)
	if l.overdue() {
		n++
	}
	return n
}

func (l *ramp) report(*spec.Share) {
	for i := range l.conns {
		if c := &l.conns[i]; c.state != usable && c.state != absent {
			l.never(entry{at: c.begun})
		}
	}
}

// churn has connections come, speak and go. A latency is the time from when a
// connection was due until it had ended.
type churn struct {
	base
	pace    pace // with a rate
	active  int64
	free    []*conn // places
	retryAt int64
}

// retryAfter is how long a place rests after a connection that could not be
// made, so that an unreachable server is not flooded.
const retryAfter = int64(10 * time.Millisecond)

func (l *churn) begin() {
	l.pace = l.newPace(l.spec.Rate, float64(l.mine.Conns)/float64(l.spec.Conns))
	for i := range l.conns {
		l.free = append(l.free, &l.conns[i])
	}
}

func (l *churn) due() int64 {
	if l.now < l.retryAt {
		return l.retryAt
	}
	for len(l.free) > 0 && l.active < int64(len(l.conns)) {
		due := l.now
		if l.spec.Rate > 0 {
			due = l.pace.next
		}
		if due > l.now || due >= l.window.To {
			break
		}
		if l.spec.Rate > 0 {
			if l.counted(due) {
				l.lag.Record(l.now - due)
			}
			l.pace.advance()
		}
		c := l.free[len(l.free)-1]
		l.free = l.free[:len(l.free)-1]
		if err := l.dial(c, due); err != nil {
			l.countLoss(err)
			l.free = append(l.free, c)
			l.retryAt = l.now + retryAfter
			return l.retryAt
		}
		l.active++
		c.extra = int64(l.spec.PerConn)
		l.now = monotonic.Now()
	}
	if l.spec.Rate > 0 && len(l.free) > 0 && l.pace.next < l.window.To {
		return l.pace.next
	}
	return forever
}

func (l *churn) ready(c *conn) { l.goOn(c) }

func (l *churn) goOn(c *conn) {
	if c.extra > 0 {
		l.enqueue(c, l.now)
		return
	}
	c.leaving = true
	if l.spec.End == spec.EndReset {
		if err := c.transport.Abort(); err != nil {
			l.countLoss(err)
		}
		c.transport = nil
		l.end(c, nil)
		return
	}
	if err := c.transport.CloseWrite(); err != nil {
		l.end(c, err)
	}
}

func (l *churn) message(c *conn, payload []byte) error {
	if _, err := l.echoed(c, payload); err != nil {
		return err
	}
	c.extra--
	l.goOn(c)
	return nil
}

func (l *churn) ended(c *conn, cause error) {
	l.active--
	l.free = append(l.free, c)
	if !c.leaving || cause != nil && cause != errEnd {
		l.countLoss(cause)
		l.retryAt = l.now + retryAfter
		return
	}
	l.counts.Messages++
	if l.counted(c.begun) {
		l.series.record(l.now - c.begun)
	}
}

func (l *churn) outstanding() int64 { return l.active }

func (l *churn) report(*spec.Share) {
	for i := range l.conns {
		if c := &l.conns[i]; c.state != absent {
			l.never(entry{at: c.begun})
		}
	}
}

// broadcast has Senders connections send at a rate, and all of them check what
// arrives: from each sender every message, in order.
type broadcast struct {
	base
	pace    pace
	senders []*conn
	cursor  int
	heard   []lasts // by connection
	gaps    int64
	arrived int64 // when the last message came
}

// lasts is the next message a connection expects from each sender it has heard
// of, sorted by sender.
type lasts []last

type last struct{ sender, next uint32 }

// of returns the place of a sender, which is made if it is not there.
func (l *lasts) of(sender uint32) *last {
	list := *l
	low, high := 0, len(list)
	for low < high {
		if middle := (low + high) / 2; list[middle].sender < sender {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low == len(list) || list[low].sender != sender {
		list = append(list, last{})
		copy(list[low+1:], list[low:])
		list[low] = last{sender: sender}
		*l = list
	}
	return &list[low]
}

// quiet is how long nothing must arrive after the window for all to have
// arrived. Nobody but the server knows how many receive what.
const quiet = int64(time.Second)

func (l *broadcast) begin() {
	l.heard = make([]lasts, len(l.conns))
	for i := range l.spec.Senders {
		number := i * l.spec.Conns / l.spec.Senders
		if at := number - l.mine.First; at >= 0 && at < l.mine.Conns {
			l.senders = append(l.senders, &l.conns[at])
		}
	}
	l.pace = l.newPace(l.spec.Rate, float64(len(l.senders))/float64(l.spec.Senders))
}

func (l *broadcast) due() int64 {
	for l.pace.next <= l.now && l.pace.next < l.window.To {
		l.send(l.pace.next)
		l.pace.advance()
	}
	switch {
	case l.phase == draining:
		return max(l.arrived, l.to.at) + quiet
	case l.pace.next >= l.window.To:
		return forever
	}
	return l.pace.next
}

func (l *broadcast) send(due int64) {
	c := l.senders[l.cursor]
	l.cursor = (l.cursor + 1) % len(l.senders)
	if c.state != usable || c.queue.len() >= l.spec.MaxOutstanding {
		if l.counted(due) {
			l.counts.Missed++
		}
		return
	}
	if l.counted(due) {
		l.lag.Record(l.now - due)
	}
	l.enqueue(c, due)
	if !c.wantWrite {
		l.flush(c)
	}
	l.now = monotonic.Now()
}

func (l *broadcast) message(c *conn, payload []byte) error {
	sender, seq, due, ok := l.content.isCast(payload)
	if !ok {
		return errAltered
	}
	if l.heard == nil {
		return errEarly
	}
	of := l.heard[c.index].of(sender)
	if seq < of.next {
		return errDoubled
	}
	l.gaps += int64(seq - of.next)
	of.next = seq + 1
	l.arrived = l.now
	l.counts.Messages++
	if l.counted(due) {
		l.series.record(l.now - due)
	}
	return nil
}

func (l *broadcast) outstanding() int64 {
	if l.now >= max(l.arrived, l.to.at)+quiet {
		return 0
	}
	return 1
}

func (l *broadcast) report(s *spec.Share) { s.Gaps = l.gaps }

// deadPeer has a share of its connections vanish at random times, and watches
// when the server closes them, and whether it closes others.
type deadPeer struct {
	base
	victims []victim // by the time they vanish
	next    int
	of      map[int32]int // place in victims by connection
	awaited int
	errors  int
}

type victim struct {
	spec.Victim
	conn *conn
	due  int64
}

func (l *deadPeer) begin() {
	random := rand.New(rand.NewPCG(l.spec.Seed, uint64(l.mine.Index)))
	l.of = make(map[int32]int)
	for i := range l.conns {
		c := &l.conns[i]
		// Every 1/Share-th connection of all.
		before := math.Floor(float64(c.number) * l.spec.Share)
		if math.Floor(float64(c.number+1)*l.spec.Share) == before {
			continue
		}
		way := l.spec.Ways[int(before)%len(l.spec.Ways)]
		due := l.window.From + random.Int64N(int64(l.spec.Duration))
		l.victims = append(l.victims, victim{spec.Victim{Way: way}, c, due})
	}
	sortVictims(l.victims)
	for i, v := range l.victims {
		l.of[v.conn.index] = i
		if v.Way.Seen() {
			l.awaited++
		}
	}
}

func (l *deadPeer) due() int64 {
	for l.next < len(l.victims) && l.victims[l.next].due <= l.now {
		l.vanish(&l.victims[l.next])
		l.next++
	}
	switch {
	case l.next < len(l.victims):
		return l.victims[l.next].due
	case l.awaited == 0 && l.phase == counting:
		l.window.To = l.now
		return l.now
	}
	return forever
}

// vanish makes a connection's peer disappear.
func (l *deadPeer) vanish(v *victim) {
	c := v.conn
	if c.state != usable {
		if v.Way.Seen() {
			l.awaited--
		}
		return // a false verdict came first
	}
	l.now = monotonic.Now()
	v.Vanished = l.now
	var err error
	switch v.Way {
	case spec.Silent:
		c.mute = true
	case spec.Frozen:
		c.mute, c.deaf = true, true
	case spec.Deaf:
		c.deaf = true
	case spec.Fin:
		c.mute = true
		err = c.transport.CloseWrite()
	case spec.Cut:
		err = c.transport.Cut(l.mine.Mark)
	case spec.Reset:
		err = c.transport.Abort()
		c.transport = nil
		l.beater.forget(c)
		c.state = absent
		l.open--
		c.release(l.Generator)
	}
	if c.mute {
		l.beater.forget(c)
	}
	if c.deaf {
		l.watch(c)
	}
	if err != nil {
		l.problem("connection %d could not be made to vanish (%s): %v", c.number, v.Way, err)
	}
}

func (l *deadPeer) ended(c *conn, cause error) {
	l.beater.forget(c)
	i, isVictim := l.of[c.index]
	if !isVictim || l.victims[i].Vanished == 0 {
		l.errors++
		l.countLoss(cause)
		l.problem("connection %d was well when it ended: %v", c.number, told(cause))
		return
	}
	v := &l.victims[i]
	v.Found = l.now
	v.Reset = cause == unix.ECONNRESET || cause == unix.EPIPE
	l.awaited--
}

func (l *deadPeer) report(s *spec.Share) {
	s.False = l.errors
	s.Healthy = len(l.conns) - len(l.victims)
	for _, v := range l.victims {
		if v.Vanished != 0 {
			s.Victims = append(s.Victims, v.Victim)
		}
	}
}

func sortVictims(v []victim) {
	slices.SortFunc(v, func(a, b victim) int { return cmp.Compare(a.due, b.due) })
}

var (
	errAltered = errors.New("a broadcast message arrived altered")
	errEarly   = errors.New("a message arrived before one was sent")
	errDoubled = errors.New("a broadcast message arrived twice, or out of order")
)
