package generator

import (
	"fmt"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
)

// opener opens all connections, at a rate or as fast as the server keeps up:
// no more than Connecting are under way at once, so that no accept queue
// overflows and every connection is known to be served.
type opener struct {
	g      *Generator
	rate   float64 // a second; 0: no rate
	fatal  bool    // a connection that cannot be opened ends the run
	start  int64
	limit  int64
	next   int // connection to be dialed
	flight int // dialed and neither ready nor lost
	told   int64
}

// tellEvery is how often a worker says how far it is.
const tellEvery = int64(200 * time.Millisecond)

func (o *opener) begin(g *Generator, rate float64) {
	*o = opener{g: g, rate: rate, start: g.now, limit: g.now + int64(g.spec.ConnectLimit)}
	if rate > 0 {
		o.limit += int64(float64(len(g.conns)) / rate * 1e9)
	}
}

// when is when connection i is due.
func (o *opener) when(i int) int64 {
	if o.rate == 0 {
		return o.g.now
	}
	return o.start + int64(float64(i)/o.rate*1e9)
}

// due dials what is due by now and returns when the next thing is.
func (o *opener) due() int64 {
	g := o.g
	for o.next < len(g.conns) && o.flight < g.spec.Connecting {
		when := o.when(o.next)
		if when > g.now {
			return when
		}
		c := &g.conns[o.next]
		o.next++
		o.flight++
		if err := g.dial(c, when); err != nil {
			o.flight--
			if o.fatal {
				g.fail(fmt.Errorf("connection %d: %w", c.number, err))
				return forever
			}
			g.countLoss(err)
		}
	}
	if !o.fatal {
		return forever
	}
	if g.now >= o.told+tellEvery {
		o.told = g.now
		g.notes.write(spec.Note{Opening: &spec.Opening{Ready: g.open}})
	}
	if g.now >= o.limit {
		g.fail(fmt.Errorf("%d of %d connections had no answer within %v; %d were not begun", o.flight, len(g.conns), g.spec.ConnectLimit, len(g.conns)-o.next))
	}
	return min(o.limit, o.told+tellEvery)
}

// arrived: a connection is ready, or lost before it was.
func (o *opener) arrived() { o.flight-- }

func (o *opener) done() bool { return o.next == len(o.g.conns) && o.flight == 0 }

// beater sends a heartbeat per connection and interval; the connections' beats
// are spread evenly over it, and take turns, so that no timer is needed.
type beater struct {
	g       *Generator
	start   int64
	step    float64 // between two beats, in nanoseconds
	n       int64   // beats so far
	pending int64   // not answered yet
	answers bool
}

func (b *beater) begin(g *Generator) {
	if g.spec.Heartbeat == 0 {
		return
	}
	_, answered := g.protocol.Heartbeats()
	*b = beater{g: g, start: g.now, step: float64(g.spec.Heartbeat) / float64(len(g.conns)), answers: answered}
}

// due sends what is due by now and returns when the next beat is.
func (b *beater) due() int64 {
	if b.g == nil || b.g.phase == over {
		return forever
	}
	g := b.g
	for {
		when := b.start + int64(float64(b.n)*b.step)
		if when > g.now {
			return when
		}
		c := &g.conns[b.n%int64(len(g.conns))]
		b.n++
		b.beat(c, when)
	}
}

func (b *beater) beat(c *conn, when int64) {
	g := b.g
	switch {
	case c.state != usable || c.mute || g.phase == draining && g.byBeats:
		return
	case c.beatDue != 0 && !c.deaf:
		g.counts.LateBeats++
		return
	case b.answers && !c.deaf:
		c.beatDue = when
		b.pending++
	}
	g.counts.Beats++
	if !b.answers && g.byBeats {
		g.counts.Messages++ // a beacon is all there is
	}
	c.control = c.session.AppendHeartbeat(c.control)
	if !c.wantWrite {
		g.flush(c)
	}
}

// answered: the answer to a connection's heartbeat has come.
func (b *beater) answered(c *conn) {
	g, took := b.g, b.g.now-c.beatDue
	b.pending--
	g.counts.Answers++
	if g.counted(c.beatDue) {
		g.beats.Record(took)
		if g.byBeats {
			g.series.record(took)
		}
	}
	if g.byBeats {
		g.counts.Messages++
	}
	c.beatDue = 0
}

// forget: a connection is gone, and will answer no more.
func (b *beater) forget(c *conn) {
	if c.beatDue != 0 && b.g != nil && c.wasUsable {
		b.pending--
		c.beatDue = 0
	}
}
