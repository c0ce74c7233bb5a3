package engine_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	mutated "github.com/pulsewheel/pulsewheel/internal/mutant"
)

var mutate = flag.String("mutate", "", "run TestMutations for the mutants whose names match this regular expression")

// mutant is a mistake: a replacement of text that occurs once.
type mutant struct {
	name     string // what is done wrong
	file     string
	old, new string
}

// mutants are mistakes that somebody might make in the engine. TestSim must
// notice every one of them.
var mutants = []mutant{
	// The life of a connection.
	{"Close runs twice", "close.go",
		`l.call(c, func() { h(c, cause) })`,
		`l.call(c, func() { h(c, cause) }); l.call(c, func() { h(c, cause) })`},
	{"Close does not run", "close.go",
		`l.call(c, func() { h(c, cause) })`,
		`_ = h`},
	{"Message before the end is checked", "read.go",
		`for len(b) > 0 && !c.stopped() {`,
		`for len(b) > 0 {`},
	{"Close runs inside the API call", "conn.go",
		"	c.schedule()\n	return nil\n}\n\n// Post runs",
		"	c.schedule()\n	c.loop.finish(c)\n	return nil\n}\n\n// Post runs"},
	{"Send is accepted after Close", "conn.go",
		"	if c.state.Load()&closing != 0 {\n		return ErrClosed\n	}\n	if int(c.queued)",
		"	if int(c.queued)"},
	{"reason is lost", "close.go",
		`c.ending = &ending{reason: reason}`,
		`c.ending = &ending{reason: Local}`},
	{"an event's hang-up flag closes", "conn.go",
		"	switch {\n	case c.phase == gone, c.ending != nil && c.ending.now: // or about to go\n	case c.phase == connecting:",
		"	if ev&poll.Hangup != 0 {\n		c.kill(PeerReset, nil)\n	}\n	switch {\n	case c.phase == gone, c.ending != nil && c.ending.now: // or about to go\n	case c.phase == connecting:"},
	{"IDs are used again", "table.go",
		`ID(serial.Add(1)<<slotBits | uint64(slot))`,
		`ID(1<<slotBits | uint64(slot))`},
	{"the event of another loop's connection is served", "loop.go",
		"		if c.loop == l {\n			l.touch",
		"		if true {\n			l.touch"},
	{"Stats count an accept as an opening", "accept.go",
		"			ln.backoff = 0\n			if l.admit",
		"			ln.backoff = 0\n			l.stats.opened.Add(1)\n			if l.admit"},

	// Input.
	{"the beginning of a frame is dropped", "read.go",
		`c.in = c.in.keep(rest, need)`,
		`c.in = c.in.keep(rest[:0], need)`},
	{"the beginning of a frame is not copied to the front", "read.go",
		`return buffer, copy(buffer, in.b)`,
		`return buffer, len(in.b)`},
	{"a half-closed connection is still watched", "pause.go",
		`	pause := c.eof || asked`,
		`	pause := asked`},
	{"an end behind the data is not looked for", "read.go",
		`if held+n < len(space) && !toEnd {`,
		`if held+n < len(space) {`},
	{"a reminder forgets the end", "loop.go",
		`		l.serve(x.c, poll.Readable|poll.Hangup)`,
		`		l.serve(x.c, poll.Readable)`},
	{"a read that fails at urgent data has read all", "read.go",
		`case toEnd && l.core.kernel.Waiting(int(c.fd)):`,
		`case false:`},
	{"what came before writing failed is left at urgent data", "loop.go",
		"		return\n	}\n	c.state.Or(scheduled)\n	l.serve(c, poll.Readable|poll.Hangup)",
		"		return\n	}\n	c.state.Or(scheduled)\n	l.serve(c, poll.Readable)"},
	{"an edge-triggered read stops early", "read.go",
		"	c.remind()\n}\n\n// goOn",
		"}\n\n// goOn"},
	{"output ends with the peer's input", "read.go",
		`		c.beginDrain(PeerClosed, err)`,
		`		c.kill(PeerClosed, err)`},

	// Output.
	{"what others send is not flushed", "conn.go",
		`		c.loop.mail.post(letter{c: c})`,
		``},
	{"room to write is not waited for", "write.go",
		"	want := c.backlog != nil\n",
		"	want := false\n"},
	{"a full kernel buffer is never tried again", "conn.go",
		"		c.blocked = false\n	}\n	switch {",
		"	}\n	switch {"},
	{"a heartbeat cuts a frame in two", "write.go",
		`	cut := p.boundary(from)`,
		`	cut := from`},
	{"the rest of a cut buffer loses its frames", "write.go",
		`				rest.ends = append(rest.ends, end-uint32(cut)<<1)`,
		``},
	{"partly written messages count as sent", "buffer.go",
		"		if int(end>>1) > n {\n			count += int(end & 1)",
		"		if int(end>>1) > n+8 {\n			count += int(end & 1)"},
	{"the backlog does not count as unsent", "close.go",
		`		ev.Unsent += c.backlog.messages()`,
		``},
	{"Writable never runs", "write.go",
		`room := c.starved &&`,
		`room := false && c.starved &&`},
	{"our end of stream is not sent", "close.go",
		`c.loop.core.kernel.CloseWrite(int(c.fd))`,
		`error(nil)`},
	{"Close does not wait for the backlog", "close.go",
		`if c.phase != flushing || c.backlog != nil || c.ending.now {`,
		`if c.phase != flushing || c.ending.now {`},
	{"Linger has no end", "close.go",
		`c.timer = l.arm(l.tickOf(l.after(l.linger)), uint32(c.fd))`,
		`c.timer = 0`},

	// The mailbox and Goexit.
	{"a letter does not wake the loop", "mailbox.go",
		"		// It can only fail on a descriptor that is no longer ours.\n		_ = m.wake()",
		""},
	{"a wake-up is thought to be in flight for ever", "mailbox.go",
		"func (m *mailbox) rearm() {\n	m.mu.Lock()\n	m.awake = false\n",
		"func (m *mailbox) rearm() {\n	m.mu.Lock()\n"},
	{"letters are served in the wrong order", "mailbox.go",
		`m.letters = append(m.letters, x)`,
		`m.letters = append([]letter{x}, m.letters...)`},
	{"a Goexit loses the letters behind it", "loop.go",
		"func (l *Loop) takeOver() {\n",
		"func (l *Loop) takeOver() {\n	l.batchNext = len(l.batch)\n"},
	{"a Goexit loses the wake-up", "loop.go",
		"	l.mail.rearm()\n	l.mail.poke()\n	l.core.conns.all(",
		"	l.core.conns.all("},
	{"a Goexit loses edges", "loop.go",
		"			l.turn(c, poll.Readable|poll.Writable|poll.Hangup)\n		}\n		return true\n	})\n	for _, ln",
		"		}\n		return true\n	})\n	for _, ln"},
	{"a Goexit loses an end of stream", "loop.go",
		"			l.turn(c, poll.Readable|poll.Writable|poll.Hangup)\n		}\n		return true\n	})\n	for _, ln",
		"			l.turn(c, poll.Readable|poll.Writable)\n		}\n		return true\n	})\n	for _, ln"},
	{"a Goexit loses the timer", "loop.go",
		"	if l.draining {\n		l.drain(l.linger)\n	}\n	l.advance()",
		"	if l.draining {\n		l.drain(l.linger)\n	}"},
	{"a Goexit counts twice", "loop.go",
		"func (l *Loop) takeOver() {\n",
		"func (l *Loop) takeOver() {\n	l.stats.panics.Add(1)\n"},

	// Liveness and timers.
	{"no verdict", "liveness.go",
		`		c.kill(HeartbeatLost, nil)`,
		``},
	{"no look before the verdict", "liveness.go",
		"	c.look()\n	if c.phase != open",
		"	if c.phase != open"},
	{"pings are not answered", "liveness.go",
		`		c.sendBeat(func(dst []byte) []byte { return c.codec.AppendPong(dst, f.Payload) }, last)`,
		``},
	{"a heartbeat that the kernel did not take is lost", "write.go",
		"	if n == len(b) {\n		c.wrote(n, 1)\n		return\n	}\n	p := getOutbuf()",
		"	if n == len(b) || err == nil || errors.Is(err, sys.EAGAIN) {\n		c.wrote(n, 1)\n		return\n	}\n	p := getOutbuf()"},
	{"an error of a heartbeat's write is forgotten", "write.go",
		"	if err := c.taken(p, n, err); err != nil {\n		c.outputFailed(err)\n	}",
		"	_ = c.taken(p, n, err)"},
	{"what was sent meanwhile waits for ever", "close.go",
		"		if !sent {\n			return true\n		}",
		"		_ = sent\n		return true"},
	{"who rests counts as scheduled", "close.go",
		`	if c.state.And(^uint32(scheduled))&(closing|aborted|pausedByApp|pausedByWork) == 0 {`,
		`	if c.state.Load()&(closing|aborted|pausedByApp|pausedByWork) == 0 {`},
	{"pings are not sent", "liveness.go",
		"	if !action.Verdict() {\n		c.ping()",
		"	if !action.Verdict() {\n"},
	{"stalls count against peers", "loop.go",
		`		l.stalled += excluded`,
		``},
	{"stalls count twice", "loop.go",
		`		l.stalled += excluded`,
		`		l.stalled += 2 * excluded`},
	{"reads are not noted", "read.go",
		`		c.heart.Read(l.beat)`,
		``},
	{"deadlines round down", "timer.go",
		`uint64(max((at+l.tick-1)/l.tick, 1))`,
		`uint64(max(at/l.tick, 1))`},
	{"the timer is not moved forward", "timer.go",
		`	if at < l.armed {`,
		`	if at < l.armed && l.armed == never {`},
	{"a stopped timer runs", "timer.go",
		"		if !t.state.CompareAndSwap(timerPending, timerDone) {\n			return\n		}",
		"		t.state.Store(timerDone)"},
	{"the timer is not armed again", "timer.go",
		"		l.wakeAtTick(next)",
		"		_ = next"},

	// Limits and resources.
	{"MaxConns is off by one", "core.go",
		`if co.open.Add(1) > int64(co.limits.MaxConns) {`,
		`if co.open.Add(1) > int64(co.limits.MaxConns)+1 {`},
	{"a failed accept keeps its place", "accept.go",
		"		l.core.unreserve()\n		admission.giveBack()",
		"		admission.giveBack()"},
	{"nobody is told of room under MaxConns", "core.go",
		"	co.open.Add(-1)\n	co.makeRoom()",
		"	co.open.Add(-1)"},
	{"a lack of descriptors does not park the listener", "accept.go",
		"			l.parkForResources(ln, err)\n			return false",
		"			return false"},
	{"a parked listener stays parked", "accept.go",
		"	l.park(ln)\n	l.AfterFunc(d, func() { l.unpark(ln); l.accept(ln) })",
		"	l.park(ln)"},
	{"an aborted connection ends accepting", "accept.go",
		"		l.stats.acceptErrors.Add(1)\n	}\n	if l.poller",
		"		l.park(ln)\n		return false\n	}\n	if l.poller"},
	{"listeners are not closed", "accept.go",
		`		_ = l.core.kernel.Close(ln.fd)`,
		``},
	{"a descriptor is not closed", "close.go",
		`		_ = l.core.kernel.Close(fd)`,
		``},
	{"a descriptor is closed twice", "close.go",
		`		_ = l.core.kernel.Close(fd)`,
		"		_ = l.core.kernel.Close(fd)\n		_ = l.core.kernel.Close(fd)"},
	{"a refused dial keeps its place", "client.go",
		"		l.core.unreserve()\n		return refuse(err)",
		"		return refuse(err)"},
	{"a poller is not closed", "loop.go",
		`	_ = l.poller.Close()`,
		``},
	{"shutdown leaves connections", "loop.go",
		"			c.kill(reason, err)\n			l.finish(c)",
		"			_, _ = reason, err"},
	{"shutdown does not notice the last end", "loop.go",
		`if l.draining && l.load.Load() == 0 {`,
		`if l.draining && l.load.Load() < 0 {`},
	{"a dial is not told of its end", "close.go",
		`		d.done(nil, fmt.Errorf("dial %v: %w", d.addr, cause))`,
		``},
	{"a dial's deadline stays armed", "client.go",
		"		l.wheel.Stop(c.timer)\n		c.timer = 0\n",
		"		c.timer = 0\n"},

	// Pauses and half-closed connections.
	{"a pause does not hold the frames of the same read", "read.go",
		`	return c.state.Load()&(closing|pausedByApp|pausedByWork) != 0`,
		`	return c.state.Load()&closing != 0`},
	{"what a pause has left is not delivered", "read.go",
		`	if c.phase == open && c.leftOver() && `,
		`	if false && `},
	{"nobody is reminded of what a pause has left", "pause.go",
		"	c.remind()\n}\n\n// remind makes",
		"}\n\n// remind makes"},
	{"a pause counts as silence", "pause.go",
		`		c.heart.Excuse(c.loop.beat - c.extra.pausedAt)`,
		``},
	{"a reset is not looked for while paused", "conn.go",
		`			c.lookForReset()`,
		``},
	{"what came before a reset is held by a pause", "read.go",
		"	if c.ending != nil {\n		return c.deaf()\n	}\n",
		``},
	{"the first frames before a reset are lost", "close.go",
		`	c.ending.broken = err`,
		`	c.ending.broken, c.ending.now = err, true`},
	{"a pause has no end", "pause.go",
		`			c.guard(guardUnread, d)`,
		``},
	{"a Resume that is on its way does not count", "guard.go",
		`else if c.paused && c.holding() {`,
		`else if c.paused || c.holding() {`},
	{"a pause does not lift the poller's interest", "pause.go",
		"	if err := l.poller.Pause(int(c.fd)); err != nil {\n		c.kill(Unknown, err)\n		return\n	}\n",
		``},
	{"EOF does not run", "read.go",
		"			h(c)\n		}\n	case c.phase == open:",
		"			_ = h\n		}\n	case c.phase == open:"},
	{"a connection ends with its peer's stream in spite of EOF", "read.go",
		`return c.profile.handler.EOF != nil || c.working()`,
		`return c.working()`},
	{"a connection ends with its peer's stream in spite of tasks", "read.go",
		`return c.profile.handler.EOF != nil || c.working()`,
		`return c.profile.handler.EOF != nil`},
	{"a half-closed connection stays for ever", "guard.go",
		`			c.beginDrain(PeerClosed, nil)`,
		``},
	{"a reset of a half-closed connection is not seen", "conn.go",
		`	case c.paused && c.ending == nil:`,
		`	case c.paused && c.eof:
	case c.paused && c.ending == nil:`},

	// Deadlines.
	{"a guard is not armed again", "guard.go",
		"	gs.fires = next\n	return l.beatTick(next)",
		"	gs.entry = 0\n	return 0"},
	{"a guard fires for another deadline", "guard.go",
		`if at := c.extra.guards.at[g]; at != 0 && at <= l.beat && c.ending == nil {`,
		`if at := c.extra.guards.at[g]; at != 0 && c.ending == nil {`},
	{"what is left of the guards is not armed again", "guard.go",
		`				c.guard(guard(g), time.Duration(at-l.beat))`,
		`				_ = g`},
	{"what is left of the guards waits for what was set anew", "guard.go",
		"	if c.ending == nil {\n		// What",
		"	if c.extra.guards.entry == 0 && c.ending == nil {\n		// What"},
	{"an earlier deadline does not move the timer", "guard.go",
		`	case at < gs.fires:`,
		`	case false:`},
	{"a deadline is not lifted", "guard.go",
		`		c.extra.guards.at[g] = 0`,
		``},
	{"nobody minds the first frame", "conn.go",
		`		c.guard(guardFirstFrame, d)`,
		``},
	{"no look before FrameTimeout", "guard.go",
		`if c.look(); c.in != nil`,
		`if c.in != nil`},
	{"every byte is progress of a frame", "read.go",
		`	begun := c.in == nil ||`,
		`	begun := true ||`},
	{"only the first frame has a deadline", "read.go",
		`len(c.in.b) == 0 || len(rest) != len(b) || `,
		`len(c.in.b) == 0 || `},
	{"a frame's deadline is lost in a pause", "pause.go",
		`		c.guard(guardFrame, d)`,
		`		_ = d`},
	{"the first frame's deadline is lost in a pause", "pause.go",
		`		c.guard(guardFirstFrame, time.Duration(left))`,
		``},

	{"a buffer that a frame was awaited in is taken for its beginning", "read.go",
		`		if n == 0 && c.in != nil && len(c.in.b) == 0 {`,
		`		if false {`},
	{"the first piece of a large frame has no deadline", "read.go",
		`	begun := c.in == nil || len(c.in.b) == 0 || `,
		`	begun := c.in == nil || `},

	// What is lent, shared, and held.
	{"a payload is not given back", "buffer.go",
		`	if l.refs.Add(-1) == 0 {`,
		`	if l.refs.Add(-1) < 0 {`},
	{"a payload is given back twice", "buffer.go",
		`		l.done()`,
		`		l.done(); l.done()`},
	{"a payload is given back before it is written", "conn.go",
		"			c.queue(size, size)\n			return nil",
		"			c.queue(size, size)\n			lent.done()\n			return nil"},
	{"a payload that the codec copies is lent for ever", "conn.go",
		`	c.pending.append(getLent(b, lent))`,
		`	c.pending.append(getLent(b, &loan{done: func() {}}))`},
	{"a shared frame is given up one reference early", "group.go",
		`		f.lent.refs.Add(1)`,
		``},
	{"the backlog of a closed connection is held", "close.go",
		`	l.core.held.Add(-int64(c.held))`,
		``},
	{"a broadcast is held for ever", "group.go",
		`done: func() { co.held.Add(-size) }`,
		`done: func() { _ = size }`},
	{"the budget is not applied", "conn.go",
		`c.held > 0 && c.loop.core.held.Load() >= c.loop.core.limits.Budget`,
		`false`},
	{"the budget is applied to those without a backlog", "conn.go",
		`c.held > 0 && c.loop.core.held.Load()`,
		`c.loop.core.held.Load()`},
	{"Writable comes in spite of the budget", "write.go",
		`(c.queued == 0 || co.held.Load() < co.limits.Budget)`,
		`true`},
	{"nobody looks whether a backlog gets smaller", "write.go",
		`		c.guard(guardDrain, limits.DrainWindow)`,
		``},
	{"what a slow reader takes does not count", "write.go",
		`		progress += b.unacked - max(unacked, 0)`,
		``},

	// Groups.
	{"the place in a group of who moved is wrong", "group.go",
		`	moved.extra.groups[moved.memberOf(g)].at = at`,
		``},
	{"who has closed stays in a group", "close.go",
		`	c.leaveGroups()`,
		``},
	{"who joins twice is a member twice", "group.go",
		`c.phase == gone || c.memberOf(g) >= 0`,
		`c.phase == gone`},
	{"a broadcast passes over scheduled connections", "group.go",
		`			taken = c.offer(b)
		} else {`,
		`			taken = c.state.Load()&scheduled != 0 || c.offer(b)
		} else {`},
	{"a broadcast is not flushed", "group.go",
		"		l.soil(c)\n	}\n}\n\n// soil",
		"	}\n}\n\n// soil"},
	{"a broadcast overtakes what waits", "group.go",
		`	free := c.pending.last == nil && !c.starved`,
		`	free := !c.starved`},
	{"what the kernel did not take of a broadcast is lost", "group.go",
		`	if n == len(f.b) {`,
		`	if true {`},
	{"a Goexit comes back to whom it settled", "loop.go",
		"		l.dirtyNext++\n		l.finish(c)\n",
		"		l.finish(c)\n		l.dirtyNext++\n"},
	{"a broadcast stops at High", "group.go",
		`int(c.queued) >= c.loop.core.limits.Backlog.Hard`,
		`int(c.queued) >= c.loop.core.limits.Backlog.High`},
	{"a broadcast that finds no room is dropped", "group.go",
		`			c.kill(SlowConsumer, errHard)`,
		``},

	// Work.
	{"two workers serve one connection", "work.go",
		`	start := !q.busy && ws.enlist(q)`,
		`	start := ws.enlist(q)`},
	{"a full queue is never read again", "work.go",
		`		_ = q.c.hold(pausedByWork, false)`,
		``},
	{"nobody is told that the tasks are done", "work.go",
		"			q.awaited = false\n			q.c.schedule()",
		"			q.awaited = false"},
	{"Close does not wait for its turn", "work.go",
		`			c.queueOfWork().accept(job{task: func() { h.Close(c, err) }})`,
		`			h.Close(c, err)`},
	{"a queue takes one too many", "work.go",
		`		if closed || q.jobs.len() >= limits.Queue {`,
		`		if closed || q.jobs.len() > limits.Queue {`},
	{"a full queue does not stop reading", "work.go",
		`		_ = q.c.hold(pausedByWork, true) // under the lock: a worker may be about to resume`,
		``},
	{"one connection keeps a worker to itself", "work.go",
		`n < turnJobs && now-began < turnTime`,
		`true || now-began < turnTime`},
	{"a Goexit in a task ends its queue", "work.go",
		`		l.core.workers.ready(q)`,
		``},
	{"a Goexit in a task loses a worker", "work.go",
		"			ws.leave(w)\n			ws.start()",
		"			ws.leave(w)"},
	{"one worker too many", "work.go",
		`	start = ws.active < ws.core.limits.Work.Workers`,
		`	start = ws.active <= ws.core.limits.Work.Workers`},
	{"a failed task does not end its connection", "work.go",
		`	l.mail.post(letter{c: c, f: func() { c.kill(Panic, err) }})`,
		``},
	{"messages that wait are not copied", "work.go",
		`c.queueOfWork().accept(job{call: h.Message, payload: copyOf(payload)})`,
		`c.queueOfWork().accept(job{call: h.Message, payload: &inbox{b: payload[:len(payload):len(payload)]}})`},
	{"jobs are served in the wrong order", "work.go",
		`	x := f.items[f.head]
	f.items[f.head] = zero`,
		`	x := f.items[len(f.items)-1]
	f.items[len(f.items)-1] = f.items[f.head]
	f.items[f.head] = zero`},

	// Admission.
	{"the rate has no limit", "admission.go",
		`	if a.Rate == 0 {
		return 0`,
		`	if a.Rate >= 0 {
		return 0`},
	{"a burst is one too many", "admission.go",
		`min(int64(a.Burst)-1, `,
		`min(int64(a.Burst), `},
	{"who was not there counts towards the rate", "accept.go",
		`		admission.giveBack()`,
		``},
	{"a prefix is not given back", "conn.go",
		`	l.core.admission.leave(remote)`,
		``},
	{"one too many of a prefix", "admission.go",
		`a.prefixes[p] >= a.PerPrefix`,
		`a.prefixes[p] > a.PerPrefix`},
	{"who is not allowed gets in", "admission.go",
		`	return allowed && a.enter(remote)`,
		`	return a.enter(remote)`},
	{"who is refused keeps its place", "admission.go",
		"			_ = l.core.kernel.Reset(fd)\n			l.core.unreserve()",
		"			_ = l.core.kernel.Reset(fd)"},
	{"the newest make room", "admission.go",
		`a.heart.LastRead()-b.heart.LastRead()`,
		`b.heart.LastRead()-a.heart.LastRead()`},
	{"who is not idle makes room", "admission.go",
		`time.Duration(l.beat-c.heart.LastRead()) < least`,
		`time.Duration(l.beat-c.heart.LastRead()) < 0`},
	{"a paused connection counts as idle", "admission.go",
		`		c.excusePause()`,
		``},
	{"nobody of another loop makes room", "admission.go",
		`		if other != l {`,
		`		if false {`},

	// Run-down.
	{"a run-down begins anew after a Goexit", "loop.go",
		"	if l.draining {\n		l.drain(l.linger)\n	}\n	l.advance()",
		"	if l.draining {\n		l.runDown = nil\n		l.drain(l.linger)\n	}\n	l.advance()"},
	{"a run-down has no rate", "loop.go",
		`.Seconds()*rate) + 1`,
		`.Seconds()*rate) + 1000`},
	{"a run-down ends after the first", "loop.go",
		`l.AfterFunc(l.core.limits.Tick, l.runDownFurther)`,
		`l.AfterFunc(l.core.limits.Tick, func() {})`},
	{"nobody is told when to come back", "close.go",
		`RetryAfter: c.loop.core.limits.RetryAfter`,
		`RetryAfter: 0`},
}

// source returns the file with the mistake in it.
func (m mutant) source() (string, error) { return mutated.Source(m.file, m.old, m.new) }

// Each mutant finds what it is to change, so that a change of the engine does not
// leave it behind until somebody looks.
func TestMutantsApply(t *testing.T) {
	for _, m := range mutants {
		if _, err := m.source(); err != nil {
			t.Errorf("%q: %v", m.name, err)
		}
	}
}

// TestMutations shows that TestSim notices mistakes: it builds the engine anew
// with each mutant in turn, by an overlay, and lets the seeds find it.
//
//	go test ./engine -run TestMutations -mutate . -timeout 1h -v
func TestMutations(t *testing.T) {
	if *mutate == "" {
		t.Skip("takes some minutes; run with -mutate .")
	}
	wanted, err := regexp.Compile(*mutate)
	if err != nil {
		t.Fatal(err)
	}
	seeds := "10000"
	if *simSeeds != 0 {
		seeds = fmt.Sprint(*simSeeds)
	}
	run := func(t *testing.T, file, source string) (output string, passed bool) {
		binary := mutated.Build(t, file, source)
		out, err := exec.Command(binary, "-test.run", "^TestSim$", "-test.timeout", "10m", "-sim.seeds", seeds).CombinedOutput()
		return string(out), err == nil
	}
	t.Run("none", func(t *testing.T) {
		source, err := os.ReadFile("loop.go")
		if err != nil {
			t.Fatal(err)
		}
		if out, passed := run(t, "loop.go", string(source)); !passed {
			t.Fatalf("the engine as it is fails already:\n%s", firstLines(out, 20))
		}
	})
	if t.Failed() {
		return
	}
	for _, m := range mutants {
		if !wanted.MatchString(m.name) {
			continue
		}
		t.Run(strings.ReplaceAll(m.name, " ", "_"), func(t *testing.T) {
			source, err := m.source()
			if err != nil {
				t.Fatal(err)
			}
			out, passed := run(t, m.file, source)
			if passed {
				t.Fatalf("%q survives %s seeds", m.name, seeds)
			}
			t.Logf("%-55s %s", m.name, verdictOn(out))
		})
	}
}

var (
	failedSeed = regexp.MustCompile(`(?m)^\s*sim_test\.go:\d+: seed (\d+), .*\n\s*(.*)`)
	brokenSeed = regexp.MustCompile(`panic: (seed \d+ hangs|seed \d+: .*)`)
)

// verdictOn says which seed noticed a mutant first, and how.
func verdictOn(output string) string {
	first, how := -1, ""
	for _, m := range failedSeed.FindAllStringSubmatch(output, -1) {
		var seed int
		_, _ = fmt.Sscan(m[1], &seed)
		if first < 0 || seed < first {
			first, how = seed, m[2]
		}
	}
	switch {
	case first >= 0:
		return fmt.Sprintf("seed %5d: %s", first, how)
	case brokenSeed.MatchString(output):
		return brokenSeed.FindStringSubmatch(output)[1]
	}
	return "the process breaks: " + firstLines(output, 3)
}

func firstLines(s string, n int) string {
	lines := strings.SplitAfter(s, "\n")
	return strings.Join(lines[:min(n, len(lines))], "")
}
