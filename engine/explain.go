package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// Explanation tells why a connection is held to be alive, and what would end it;
// of one that ended lately, what did.
type Explanation struct {
	ID ID
	// Closed is how long ago it ended, and Err with what; 0 and nil while it is
	// open.
	Closed time.Duration
	Err    *CloseError

	// While it is open:

	Info Info
	// Liveness is what it is watched by.
	Liveness heartbeat.Config
	// Deadlines are what is due unless something happens before.
	Deadlines []Deadline
	// Paused: its input is not read.
	Paused bool
}

// Deadline is a time at which a connection ends unless something happens before.
type Deadline struct {
	Reason Reason
	In     time.Duration
	Unless string // what must happen
}

// String tells it all in a few lines.
func (x *Explanation) String() string {
	var b strings.Builder
	if x.Err != nil {
		fmt.Fprintf(&b, "connection %d closed %v ago: %v", x.ID, x.Closed.Round(time.Millisecond), x.Err)
		return b.String()
	}
	fmt.Fprintf(&b, "connection %d: open for %v, read %v ago, written %v ago", x.ID,
		x.Info.Age.Round(time.Millisecond), x.Info.LastRead.Round(time.Millisecond), x.Info.LastWrite.Round(time.Millisecond))
	if x.Info.Missed > 0 {
		fmt.Fprintf(&b, ", %d queries unanswered", x.Info.Missed)
	}
	if x.Info.RTT > 0 {
		fmt.Fprintf(&b, ", round trip %v", x.Info.RTT)
	}
	if x.Info.Backlog > 0 {
		fmt.Fprintf(&b, ", %d bytes wait to be written", x.Info.Backlog)
	}
	if x.Paused {
		b.WriteString(", its input is not read")
	}
	if len(x.Deadlines) == 0 {
		b.WriteString("; nothing that it fails to do would end it")
	}
	for _, d := range x.Deadlines {
		fmt.Fprintf(&b, "\n  %v in %v unless %s", d.Reason, d.In.Round(time.Millisecond), d.Unless)
	}
	return b.String()
}

var errNoConn = errors.New("engine: no connection of that ID is open or ended lately")

// explain asks the connection's loop.
func (co *core) explain(ctx context.Context, id ID) (*Explanation, error) {
	if c := co.lookup(id); c != nil {
		answer := make(chan *Explanation, 1)
		err := c.Post(func() { answer <- c.explain() })
		if err == nil {
			select {
			case x := <-answer:
				if x != nil {
					return x, nil
				}
			case <-co.stopped:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	if x := co.ended.find(id, co.kernel.Now()); x != nil {
		return x, nil
	}
	return nil, errNoConn
}

// explain is called on the loop. It returns nil if c has ended.
func (c *Conn) explain() *Explanation {
	if c.phase == gone || c.phase == connecting {
		return nil
	}
	l := c.loop
	x := &Explanation{ID: c.id, Info: c.Info(), Liveness: c.plan().Config(), Paused: c.paused}
	due := func(r Reason, at, now int64, unless string) {
		x.Deadlines = append(x.Deadlines, Deadline{r, time.Duration(max(at-now, 0)), unless})
	}
	if c.phase != open {
		due(c.ending.reason, l.now+int64(l.linger), l.now, "the peer takes what was sent and ends its stream before")
		return x
	}
	if !c.paused {
		switch at, action := c.heart.VerdictAt(c.plan()); action {
		case heartbeat.Lost:
			due(HeartbeatLost, at, l.beat, "it is heard")
		case heartbeat.Idle:
			due(Idle, at, l.beat, "it is used")
		}
	}
	if c.extra != nil {
		for g, at := range c.extra.guards.at {
			if at != 0 && guard(g) != guardIdle { // the handler decides
				due(guardReasons[g].reason, at, l.beat, guardReasons[g].unless)
			}
		}
	}
	return x
}

// guardReasons tell what the guards end a connection with.
var guardReasons = [numGuards]struct {
	reason Reason
	unless string
}{
	guardFirstFrame: {HandshakeTimeout, "a whole frame comes"},
	guardFrame:      {FrameTimeout, "the frame that was begun gets on"},
	guardUnread:     {Overloaded, "its input is read again"},
	guardDrain:      {SlowConsumer, "it takes enough of what waits for it"},
}

// obituaries remembers how the latest connections ended.
type obituaries struct {
	mu     sync.Mutex
	latest []obituary // a ring
	next   int
}

type obituary struct {
	id  ID
	at  int64
	err *CloseError
}

// maxObituaries is how many ends are remembered.
const maxObituaries = 1024

func (o *obituaries) enter(id ID, at int64, err *CloseError) {
	o.mu.Lock()
	defer o.mu.Unlock()
	x := obituary{id, at, err}
	if len(o.latest) < maxObituaries {
		o.latest = append(o.latest, x)
		return
	}
	o.latest[o.next] = x
	o.next = (o.next + 1) % maxObituaries
}

func (o *obituaries) find(id ID, now int64) *Explanation {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, x := range o.latest {
		if x.id == id {
			return &Explanation{ID: id, Closed: time.Duration(max(now-x.at, 1)), Err: x.err}
		}
	}
	return nil
}
