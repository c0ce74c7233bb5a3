package engine_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// simApp is the application on one simulated engine. It does what messages
// order, and checks what each callback may rely on. Whatever calls it, only one
// goroutine runs at a time.
type simApp struct {
	l      *simLife
	name   string
	engine interface {
		Conn(engine.ID) *engine.Conn
		Range(func(*engine.Conn) bool)
		Group(string) *engine.Group
		Broadcast([]byte) error
		Stats() engine.Stats
		Loops() []*engine.Loop
		Shutdown(context.Context) error
	}
	liveness heartbeat.Config
	limits   engine.Limits
	door     engine.Admission
	maxConns int  // 0: not worth checking
	ordered  bool // its handler is one of engine.Ordered's
	answers  bool // its connections outlive the peer's end of stream
	idles    int  // idle periods in a row that it lets pass

	open, all []*simConn
	messages  uint64
	failures  uint64 // panics and Goexits of callbacks and tasks
	reasons   map[engine.Reason]uint64

	posted, ran int   // functions that Post took, and that ran
	timers      int   // that are to fire
	timersDue   int64 // when the last of them is

	groups   []*simGroup // that can be joined now
	everyone *simGroup
	work     simWork

	inCallback int
	inCall     string // the API call that is under way
	shut       bool   // Shutdown was called
	shutAt     int64
	patience   int64                // until when Shutdown waits
	dismissed  map[*engine.Loop]int // connections that Shutdown ended in good order
}

// simConn is what the application keeps of one connection.
type simConn struct {
	app  *simApp
	c    *engine.Conn
	key  uint32
	peer *simPeer       // nil: another engine
	pair netip.AddrPort // the client's end of a connection of two engines

	in       simStream
	frames   uint32 // frames of kind simFrame received
	bytesIn  int64  // of messages and those frames
	accepted uint32 // messages that Send and SendOwned took
	taken    uint32 // frames that SendFrame took
	bytesOut int64  // of all that was taken, broadcasts included
	starved  bool   // Send returned ErrBacklog since the last Writable
	lent     int    // payloads that SendOwned took with a release function
	returned int    // of them, those that were released

	castsIn simCastsIn  // broadcasts received
	due     simDue      // broadcasts that the far end is to get
	joined  []*simGroup // it is a member of

	pause     simPause
	eofAt     int64 // when EOF ran
	backlogAt int64 // when it was found to have one that nobody takes
	busy      string
	tasks     int // that Do took
	begun     int // of them, those that were begun
	passed    map[*simConn]int
	// Messages that engine.Ordered got, and of them, those that were begun.
	orderedMessages, begunMessages int

	openedAt int64
	heardAt  int64 // when the latest message came
	markedAt int64 // when it was told to end
	marked   bool
	deaf     bool // no Message may come any more
	closedAt int64
	closed   bool
	late     bool // it ended after Shutdown had begun
	err      *engine.CloseError
	allowed  simReasons // what this side did to it
	dialled  bool       // Dial returned it
	told     bool       // Close or Abort took effect
	aborted  bool
	posts    int // of orderSequence
	ran      int
}

// simFrame is the kind of the application's own frames, simFrameText what is in
// them.
const (
	simFrame     = codec.AppKind + 1
	simFrameText = "of the application"
)

// simReasons is a set of close reasons.
type simReasons uint32

func reasons(rs ...engine.Reason) (set simReasons) {
	for _, r := range rs {
		set |= 1 << r
	}
	return set
}

func (set simReasons) has(r engine.Reason) bool { return set&(1<<r) != 0 }

// handler returns the callbacks, each wrapped in what holds for all.
func (a *simApp) handler() engine.Handler {
	h := engine.Handler{
		Open: func(c *engine.Conn) error {
			defer a.enter("Open")()
			return a.opened(c)
		},
		Message: func(c *engine.Conn, p []byte) {
			defer a.enterFor(c, "Message")()
			if s, ok := c.Get().(*simConn); ok {
				s.begunMessages++
			}
			a.message(c, p)
		},
		Frame: func(c *engine.Conn, f codec.Frame) {
			defer a.enterFor(c, "Frame")()
			s, ok := c.Get().(*simConn)
			switch {
			case !ok || s.closed || s.deaf:
				a.l.problem("%s: Frame outside Open and the end", a.name)
			case f.Kind == simFrame && string(f.Payload) == simFrameText:
				s.frames++
				s.bytesIn += int64(4 + len(f.Payload))
			}
			if f.Kind < simFrame {
				a.l.seen["frame: of the codec's"]++
			} else {
				a.l.seen["frame: of the application's"]++
			}
		},
		Writable: func(c *engine.Conn) {
			defer a.enterFor(c, "Writable")()
			a.writable(c)
		},
		Close: func(c *engine.Conn, err error) {
			defer a.enterFor(c, "Close")()
			a.ended(c, err)
		},
	}
	if a.answers {
		h.EOF = func(c *engine.Conn) {
			defer a.enterFor(c, "EOF")()
			a.halfClosed(c)
		}
	}
	if a.idles > 0 {
		h.Idle = func(c *engine.Conn, e engine.IdleEvent) bool {
			defer a.enter("Idle")()
			return a.idle(c, e)
		}
	}
	if a.ordered {
		h = a.watchQueue(engine.Ordered(h))
	}
	return h
}

// idle decides about a connection that was idle for another while.
func (a *simApp) idle(c *engine.Conn, e engine.IdleEvent) (stays bool) {
	limit, behind := a.liveness.IdleRead, time.Duration(a.l.behind())
	if s, ok := c.Get().(*simConn); !ok || s.closed {
		a.l.problem("%s: Idle outside Open and Close", a.name)
	}
	if e.Limit != engine.IdleRead || e.Count < 1 || e.Count > a.idles+1 || e.For < time.Duration(e.Count)*limit-behind {
		a.l.problem("%s: Idle got %+v", a.name, e)
	}
	a.l.seen["app: Idle"]++
	return e.Count <= a.idles
}

// worstCase is within what time a peer that says nothing is given up; 0: it is not.
func (a *simApp) worstCase() time.Duration {
	worst := a.liveness.WorstCase()
	return worst + time.Duration(a.idles)*(a.liveness.IdleRead+a.limits.Tick)
}

// mayIdle draws whether idle periods pass.
func (a *simApp) mayIdle() {
	if a.liveness.IdleRead > 0 && a.liveness.Interval == 0 {
		a.idles = a.l.aside.IntN(3)
	}
}

// enter begins a callback on a loop. No callback runs within another one, nor
// within a call of the engine's API.
func (a *simApp) enter(what string) (leave func()) {
	if a.inCall != "" {
		a.l.problem("%s: %s ran inside %s", a.name, what, a.inCall)
	}
	if a.inCallback++; a.inCallback > 1 {
		a.l.problem("%s: %s ran inside another callback", a.name, what)
	}
	return func() { a.inCallback-- }
}

// enterFor begins a callback of c, which runs on a worker if the handler is
// engine.Ordered's.
func (a *simApp) enterFor(c *engine.Conn, what string) (leave func()) {
	if s, ok := c.Get().(*simConn); ok && a.ordered {
		return s.enterWork(what)
	}
	return a.enter(what)
}

// call makes an API call.
func (a *simApp) call(what string, f func()) {
	before := a.inCall
	a.inCall = what
	f()
	a.inCall = before
}

func (a *simApp) opened(c *engine.Conn) error {
	l := a.l
	if c.Get() != nil {
		l.problem("%s: Open twice", a.name)
	}
	s := &simConn{app: a, c: c, key: l.newKey(), openedAt: l.w.Now()}
	c.Set(s)
	l.senders[s.key] = s
	if l.ids[c.ID()] {
		l.problem("%s: the ID of another connection", a.name)
	}
	l.ids[c.ID()] = true
	l.meet(s)
	a.open = append(a.open, s)
	a.all = append(a.all, s)
	s.opensBroadcasts()
	a.checkRoom(s)
	if a.shut && a.name == "client" {
		l.problem("%s: Open after Shutdown", a.name)
	}
	l.w.Note("%s opens %d", a.name, s.key)
	switch l.pick(200) {
	case 0:
		l.seen["app: Open fails"]++
		s.mark(engine.Local)
		return errors.New("refused by the application")
	case 1:
		l.seen["app: Open panics"]++
		s.fails()
		panic("in Open")
	case 2:
		l.seen["app: Open ends its goroutine"]++
		s.fails()
		runtime.Goexit()
	case 3:
		l.seen["app: Open closes"]++
		s.send(orderNothing, simHeader, 0)
		s.close()
	}
	if l.pick(3) == 0 || a.name == "client" && l.server.door.FirstFrame > 0 {
		s.send(orderNothing, simHeader+l.pick(100), 0)
	}
	if l.pick(3) == 0 && len(a.groups) > 0 {
		s.join(a.groups[l.pick(len(a.groups))])
	}
	if l.pick(30) == 0 {
		s.pauseFor(uint32(l.pick(1<<20)), true)
	}
	return nil
}

// meet finds out who is at the other end of s.
func (l *simLife) meet(s *simConn) {
	remote := s.c.RemoteAddr()
	if s.app.name == "server" {
		if s.peer = l.byAddr[remote]; s.peer == nil && remote.IsValid() {
			s.pair = remote
			l.serverEnds[s.pair] = s
		}
	} else if remote.IsValid() {
		if s.peer = l.served[remote]; s.peer == nil {
			s.app.call("LocalAddr", func() { s.pair = s.c.LocalAddr() })
			l.clientEnds[s.pair] = s
		}
	}
	if s.peer != nil {
		s.peer.conn = s
	}
}

// farEnd returns the connection of the other engine that s is connected to, if
// it was opened and is known.
func (l *simLife) farEnd(s *simConn) *simConn {
	switch {
	case s.peer != nil:
		return nil
	case !s.pair.IsValid(): // a Unix socket; it has to introduce itself
		return l.senders[s.in.sender]
	case s.app.name == "server":
		return l.clientEnds[s.pair]
	}
	return l.serverEnds[s.pair]
}

// fails notes that the running callback of s is about to panic or to end its
// goroutine.
func (s *simConn) fails() {
	s.app.failures++
	s.mark(engine.Panic)
}

// mark notes that s is told to end by what it does itself: no Message may
// follow.
func (s *simConn) mark(r engine.Reason) {
	s.doom(r)
	// Messages that wait in a work queue are delivered none the less.
	s.deaf = !s.app.ordered
}

// doom notes that s is to end soon.
func (s *simConn) doom(r engine.Reason) {
	s.allowed |= reasons(r)
	if !s.marked {
		s.marked, s.markedAt = true, s.app.l.w.Now()
	}
}

func (a *simApp) message(c *engine.Conn, p []byte) {
	l := a.l
	a.messages++
	s, ok := c.Get().(*simConn)
	if !ok {
		l.problem("%s: Message before Open", a.name)
		return
	}
	switch {
	case s.closed:
		l.problem("%s: Message after Close of %d", a.name, s.key)
	case s.deaf:
		l.problem("%s: Message after %d was told to end", a.name, s.key)
	case s.eofAt != 0:
		l.problem("%s: Message after EOF of %d", a.name, s.key)
	case s.pause.held && !a.ordered && !s.mayBeBroken():
		l.problem("%s: Message while %d is paused", a.name, s.key)
	}
	s.heardAt = l.w.Now()
	m, err := decodeSimMessage(p)
	if err == nil {
		if g := l.casts[m.sender]; g != nil {
			err = s.castsIn.receive(g, m, l.farEnd(s))
		} else if err = s.in.receive(m); err == nil && s.peer != nil && s.in.sender != s.peer.key {
			err = fmt.Errorf("a message of %d, but peer %d is at the other end", s.in.sender, s.peer.key)
		}
	}
	if err != nil {
		if s.peer == nil || !s.peer.junk {
			l.problem("%s: connection %d: %v", a.name, s.key, err)
		}
		return
	}
	s.bytesIn += int64(m.wire())
	clear(p) // ours until Message returns
	l.w.Note("%s got %d.%d: %s", a.name, m.sender, m.number, simOrderNames[m.order])
	a.obey(s, m)
}

// obey does what a message orders.
func (a *simApp) obey(s *simConn, m simMessage) {
	l := a.l
	l.seen["order: "+simOrderNames[m.order]]++
	size := simHeader + int(m.arg%512)
	echo := func() { s.send(orderNothing, size, m.number) }
	switch m.order {
	case orderEcho:
		echo()
	case orderBurst:
		for range 2 + m.arg%20 {
			echo()
		}
	case orderBroadcast:
		// Of one loop's connections first, so that other loops get theirs by
		// their mailboxes.
		for _, other := range append([]*simConn(nil), a.open...) {
			other.send(orderNothing, size, m.number)
		}
	case orderClose:
		echo()
		s.close()
		s.send(orderNothing, size, 0)
	case orderAbort:
		echo()
		s.abort()
	case orderCloseOther:
		a.other(m).close()
	case orderAbortOther:
		a.other(m).abort()
	case orderOther:
		a.other(m).send(orderNothing, size, m.number)
	case orderPost:
		s.post(echo)
	case orderPanic:
		echo()
		s.fails()
		panic("as ordered")
	case orderGoexit:
		echo()
		s.fails()
		runtime.Goexit()
	case orderBig:
		s.send(orderNothing, l.bigSize(), m.number)
	case orderTimer:
		a.after(s.c.Loop(), time.Duration(m.arg%100)*time.Millisecond, echo)
	case orderSlow:
		a.slow(m.arg)
	case orderPostPanic:
		s.post(func() { s.fails(); panic("in a post") })
		echo()
	case orderPostGoexit:
		s.post(func() { s.fails(); runtime.Goexit() })
		echo()
	case orderFlood:
		for i := 0; i < 64 && !s.starved && s.send(orderNothing, size+1024, m.number); i++ {
		}
	case orderLoopPost:
		a.loopPost(s.c.Loop(), echo)
		if m.arg%8 == 0 {
			a.loopPost(s.c.Loop(), func() { a.failures++; panic("in a loop's post") })
			a.loopPost(s.c.Loop(), echo)
		} else if m.arg%8 == 1 {
			a.loopPost(s.c.Loop(), func() { a.failures++; runtime.Goexit() })
			a.loopPost(s.c.Loop(), echo)
		}
	case orderSequence:
		for range 5 {
			s.posts++
			number := s.posts
			s.post(func() {
				if s.ran++; s.ran != number {
					l.problem("%s: post %d of connection %d ran as number %d", a.name, number, s.key, s.ran)
				}
			})
		}
	case orderLookup:
		a.lookup(s)
	case orderControl:
		s.sendControl()
	case orderPause:
		s.pauseFor(m.arg, !a.ordered)
		echo()
	case orderPauses:
		s.pauses(m.arg)
		echo()
	case orderOwned:
		for range 1 + m.arg%3 {
			s.sendOwned(simHeader+l.pick(700), m.number)
		}
		s.sendOwned(l.bigSize(), m.number)
		echo()
	case orderDo:
		for i := range 1 + m.arg%6 {
			s.do(s.task(m.arg>>3+i, echo))
		}
		echo()
	case orderChain:
		s.chain(20 + int(m.arg%60))
	case orderJoin:
		s.join(a.groups[int(m.arg)%len(a.groups)])
	case orderLeave:
		for _, g := range append([]*simGroup(nil), s.joined...) {
			s.quit(g)
		}
	case orderCast:
		g := a.groups[int(m.arg)%len(a.groups)]
		for range 1 + m.arg%3 {
			g.cast(simHeader + l.pick(1200))
			echo()
		}
		if m.arg%16 == 0 {
			g.drop()
		}
	case orderCastAll:
		a.everyone.cast(simHeader + l.pick(1200))
	case orderProbe:
		s.probe()
	}
}

// other picks an open connection. The one whose message is being served is
// among them.
func (a *simApp) other(m simMessage) *simConn { return a.open[int(m.arg)%len(a.open)] }

// slow keeps the loop busy, or the worker.
func (a *simApp) slow(arg uint32) {
	d := time.Duration(1+arg%60) * time.Millisecond
	if !a.ordered {
		a.l.spend(d)
		return
	}
	if arg%5 == 0 && !a.l.calm {
		d *= 40
	}
	a.block(d)
}

func (s *simConn) send(order simOrder, size int, arg uint32) bool {
	a := s.app
	m := simMessage{sender: s.key, number: s.accepted, order: order, arg: arg, size: size}
	payload := m.encode()
	var err error
	a.call("Send", func() { err = s.c.Send(payload) })
	clear(payload) // Send has copied it
	return s.sent("Send", m, err)
}

// sent takes note of what became of a message.
func (s *simConn) sent(what string, m simMessage, err error) (taken bool) {
	a := s.app
	switch {
	case err == nil:
		s.accepted++
		s.bytesOut += int64(m.wire())
		if s.closed || s.told {
			a.l.problem("%s: %s to %d was accepted after it was closed", a.name, what, s.key)
		}
	case errors.Is(err, engine.ErrBacklog):
		s.refused()
		a.l.seen["app: ErrBacklog"]++
	case !errors.Is(err, net.ErrClosed):
		a.l.problem("%s: %s: %v", a.name, what, err)
	}
	return err == nil
}

func (s *simConn) sendControl() {
	var err error
	s.app.call("SendFrame", func() { err = s.c.SendFrame(simFrame, []byte(simFrameText)) })
	switch {
	case err == nil:
		s.taken++
		s.bytesOut += int64(4 + len(simFrameText))
	case errors.Is(err, engine.ErrBacklog):
		s.refused()
	case !errors.Is(err, codec.ErrUnsupported) && !(s.app.ordered && errors.Is(err, net.ErrClosed)):
		s.app.l.problem("%s: SendFrame: %v", s.app.name, err)
	}
}

func (s *simConn) close() {
	var err error
	s.app.call("Close", func() { err = s.c.Close() })
	s.asked("Close", err)
}

func (s *simConn) abort() {
	var err error
	s.app.call("Abort", func() { err = s.c.Abort() })
	s.aborted = s.aborted || err == nil
	s.asked("Abort", err)
}

func (s *simConn) asked(what string, err error) {
	s.app.l.w.Note("%s: %s of %d: %v", s.app.name, what, s.key, err)
	switch {
	case err == nil && s.closed:
		s.app.l.problem("%s: %s of %d succeeded after its Close", s.app.name, what, s.key)
	case err == nil:
		s.told = true
		s.mark(engine.Local)
	case !errors.Is(err, net.ErrClosed):
		s.app.l.problem("%s: %s: %v", s.app.name, what, err)
	}
}

func (s *simConn) post(f func()) {
	a := s.app
	var err error
	a.call("Post", func() {
		err = s.c.Post(func() {
			defer a.enter("Post")()
			a.ran++
			f()
		})
	})
	switch {
	case err == nil:
		a.posted++
		if s.closed {
			a.l.problem("%s: Post to %d was accepted after its Close", a.name, s.key)
		}
	case !errors.Is(err, net.ErrClosed):
		a.l.problem("%s: Post: %v", a.name, err)
	}
}

func (a *simApp) loopPost(loop *engine.Loop, f func()) {
	var err error
	a.call("Loop.Post", func() {
		err = loop.Post(func() {
			defer a.enter("Loop.Post")()
			a.ran++
			f()
		})
	})
	if err == nil {
		a.posted++
	} else if !errors.Is(err, net.ErrClosed) {
		a.l.problem("%s: Loop.Post: %v", a.name, err)
	}
}

// after arms a timer, and sometimes stops it.
func (a *simApp) after(loop *engine.Loop, d time.Duration, f func()) {
	l := a.l
	stopped := false
	timer := a.timer(loop, d, func() {
		if stopped {
			l.problem("%s: a stopped timer fired", a.name)
		}
		f()
	})
	stop := func() {
		a.call("Timer.Stop", func() {
			if timer.Stop() {
				if stopped {
					l.problem("%s: a timer was stopped twice", a.name)
				}
				stopped = true
				a.timers--
			}
		})
	}
	switch l.pick(4) {
	case 0:
		stop()
	case 1: // as it is about to fire
		l.w.After(d+time.Duration(l.pick(2*int(a.limits.Tick)))-a.limits.Tick/2, stop)
	}
}

// timer arms a timer, which must fire in time.
func (a *simApp) timer(loop *engine.Loop, d time.Duration, f func()) (timer *engine.Timer) {
	l := a.l
	at := l.w.Now() + int64(d)
	a.timers++
	a.timersDue = max(a.timersDue, at)
	a.call("AfterFunc", func() {
		timer = loop.AfterFunc(d, func() {
			defer a.enter("AfterFunc")()
			a.timers--
			switch now := l.w.Now(); {
			case now < at:
				l.problem("%s: a timer fired %v early", a.name, time.Duration(at-now))
			case now-at > int64(a.limits.Tick)+l.lateness():
				l.problem("%s: a timer fired %v late", a.name, time.Duration(now-at))
			}
			f()
		})
	})
	return timer
}

func (a *simApp) lookup(s *simConn) {
	var got *engine.Conn
	a.call("Conn", func() { got = a.engine.Conn(s.c.ID()) })
	n := 0
	a.call("Range", func() { a.engine.Range(func(*engine.Conn) bool { n++; return true }) })
	if a.ordered {
		// What has ended may not have been told to the application yet.
		if got != nil && got != s.c || n > len(a.open) {
			a.l.problem("%s: looking up %d: %v; Range meets %d connections, %d are open", a.name, s.key, got, n, len(a.open))
		}
		return
	}
	if got != s.c {
		a.l.problem("%s: looking up an open connection: %v", a.name, got)
	}
	if n != len(a.open) {
		a.l.problem("%s: Range meets %d connections, %d are open", a.name, n, len(a.open))
	}
	if info := s.c.Info(); info.Age < 0 || info.LastRead > info.Age || info.LastWrite > info.Age || info.Backlog < 0 {
		a.l.problem("%s: Info is %+v", a.name, info)
	}
}

func (a *simApp) writable(c *engine.Conn) {
	s, ok := c.Get().(*simConn)
	switch {
	case !ok || s.closed:
		a.l.problem("%s: Writable outside Open and Close", a.name)
		return
	case !s.starved && !a.ordered: // where it may be an earlier one, which was waiting
		a.l.problem("%s: Writable of %d, which was not refused", a.name, s.key)
	}
	s.starved = false
	a.l.seen["app: Writable"]++
	if a.l.pick(3) == 0 {
		s.send(orderNothing, simHeader+a.l.pick(1000), 0)
	}
}

func (a *simApp) ended(c *engine.Conn, err error) {
	l := a.l
	s, ok := c.Get().(*simConn)
	if !ok {
		l.problem("%s: Close before Open", a.name)
		return
	}
	if s.closed {
		l.problem("%s: Close of %d twice", a.name, s.key)
	}
	s.closed, s.closedAt, s.late = true, l.w.Now(), a.shut
	for i, other := range a.open {
		if other == s {
			a.open = append(a.open[:i], a.open[i+1:]...)
			break
		}
	}
	s.joined = nil
	ce, ok := err.(*engine.CloseError)
	if !ok {
		l.problem("%s: Close of %d: %T %v", a.name, s.key, err, err)
		return
	}
	s.err = ce
	a.reasons[ce.Reason]++
	l.seen["reason: "+ce.Reason.String()]++
	l.w.Note("%s closed %d: %v", a.name, s.key, err)
	if ev := ce.Evidence; ev.Unsent < 0 || ev.Unsent > int(s.accepted+s.taken)+s.due.total || ev.Unacked < -1 || ev.Age < 0 || ev.LastRead > ev.Age+time.Second {
		l.problem("%s: evidence of %d: %+v", a.name, s.key, ev)
	}
	if !s.deserves(ce) {
		l.problem("%s: connection %d closed with %v, which nothing accounts for (peer: %v)", a.name, s.key, err, s.peer)
	}
	a.checkDismissal(s)
	if a.engine.Conn(c.ID()) != nil {
		l.problem("%s: a closed connection can be looked up", a.name)
	}
	s.send(orderNothing, simHeader, 0)
	s.close()
	s.post(func() { l.problem("a post to a closed connection ran") })
	if l.pick(10) == 0 {
		s.do(func() { l.problem("a task of a closed connection ran") })
	}
	most := 100
	if a.shut && a.limits.RunDown > 0 {
		most = 10
	}
	switch l.pick(most) {
	case 0:
		l.seen["app: Close panics"]++
		a.failures++
		panic("in Close")
	case 1:
		l.seen["app: Close ends its goroutine"]++
		a.failures++
		runtime.Goexit()
	}
}
