package engine_test

import (
	"context"
	"errors"
	"fmt"
	"net"
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
		Stats() engine.Stats
		Loops() []*engine.Loop
		Shutdown(context.Context) error
	}
	liveness heartbeat.Config
	limits   engine.Limits
	maxConns int // 0: not worth checking

	open, all []*simConn
	messages  uint64
	failures  uint64 // panics and Goexits of callbacks
	reasons   map[engine.Reason]uint64

	posted, ran int   // functions that Post took, and that ran
	timers      int   // that are to fire
	timersDue   int64 // when the last of them is

	inCallback int
	inCall     string // the API call that is under way
	shut       bool   // Shutdown was called
}

// simConn is what the application keeps of one connection.
type simConn struct {
	app  *simApp
	c    *engine.Conn
	key  uint32
	peer *simPeer // nil: another engine

	in       simStream
	frames   uint32 // frames of kind simFrame received
	accepted uint32 // messages that Send took
	taken    uint32 // frames that SendFrame took
	starved  bool   // Send returned ErrBacklog since the last Writable

	openedAt int64
	markedAt int64 // when it was told to end
	marked   bool
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

// simFrame is the kind of the application's own frames.
const simFrame = codec.AppKind + 1

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
	return engine.Handler{
		Open: func(c *engine.Conn) error {
			defer a.enter("Open")()
			return a.opened(c)
		},
		Message: func(c *engine.Conn, p []byte) {
			defer a.enter("Message")()
			a.message(c, p)
		},
		Frame: func(c *engine.Conn, f codec.Frame) {
			defer a.enter("Frame")()
			s, ok := c.Get().(*simConn)
			switch {
			case !ok || s.closed || s.marked:
				a.l.problem("%s: Frame outside Open and the end", a.name)
			case f.Kind == simFrame:
				s.frames++
			}
			a.l.seen["frame: "+fmt.Sprint(f.Kind)]++
		},
		Writable: func(c *engine.Conn) {
			defer a.enter("Writable")()
			a.writable(c)
		},
		Close: func(c *engine.Conn, err error) {
			defer a.enter("Close")()
			a.ended(c, err)
		},
	}
}

// enter begins a callback. No callback runs within another one, nor within a
// call of the engine's API.
func (a *simApp) enter(what string) (leave func()) {
	if a.inCall != "" {
		a.l.problem("%s: %s ran inside %s", a.name, what, a.inCall)
	}
	if a.inCallback++; a.inCallback > 1 {
		a.l.problem("%s: %s ran inside another callback", a.name, what)
	}
	return func() { a.inCallback-- }
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
	if a.name == "server" {
		s.peer = l.byAddr[c.RemoteAddr()]
	} else if c.RemoteAddr().IsValid() {
		s.peer = l.served[c.RemoteAddr()]
	}
	if s.peer != nil {
		s.peer.conn = s
	}
	a.open = append(a.open, s)
	a.all = append(a.all, s)
	if a.maxConns > 0 && len(a.open) > a.maxConns {
		l.problem("%s: %d connections are open, MaxConns is %d", a.name, len(a.open), a.maxConns)
	}
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
	if l.pick(3) == 0 {
		s.send(orderNothing, simHeader+l.pick(100), 0)
	}
	return nil
}

// fails notes that the running callback of s is about to panic or to end its
// goroutine.
func (s *simConn) fails() {
	s.app.failures++
	s.mark(engine.Panic)
}

// mark notes that s is told to end: no Message may follow.
func (s *simConn) mark(r engine.Reason) {
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
	case s.marked:
		l.problem("%s: Message after %d was told to end", a.name, s.key)
	}
	m, err := decodeSimMessage(p)
	if err == nil {
		err = s.in.receive(m)
	}
	if err != nil {
		l.problem("%s: connection %d: %v", a.name, s.key, err)
		return
	}
	if s.peer != nil && s.in.sender != s.peer.key {
		l.problem("%s: connection %d of peer %d got a message of %d", a.name, s.key, s.peer.key, s.in.sender)
	}
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
		l.spend(time.Duration(1+m.arg%60) * time.Millisecond)
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
		var err error
		a.call("SendFrame", func() { err = s.c.SendFrame(simFrame, []byte("of the application")) })
		switch {
		case err == nil:
			s.taken++
		case errors.Is(err, engine.ErrBacklog):
			s.starved = true
		case !errors.Is(err, codec.ErrUnsupported):
			l.problem("%s: SendFrame: %v", a.name, err)
		}
	}
}

// other picks an open connection. The one whose message is being served is
// among them.
func (a *simApp) other(m simMessage) *simConn { return a.open[int(m.arg)%len(a.open)] }

func (s *simConn) send(order simOrder, size int, arg uint32) bool {
	a := s.app
	m := simMessage{sender: s.key, number: s.accepted, order: order, arg: arg, size: size}
	payload := m.encode()
	var err error
	a.call("Send", func() { err = s.c.Send(payload) })
	clear(payload) // Send has copied it
	switch {
	case err == nil:
		s.accepted++
		if s.closed || s.told {
			a.l.problem("%s: Send to %d was accepted after it was closed", a.name, s.key)
		}
	case errors.Is(err, engine.ErrBacklog):
		s.starved = true
		a.l.seen["app: ErrBacklog"]++
	case !errors.Is(err, net.ErrClosed):
		a.l.problem("%s: Send: %v", a.name, err)
	}
	return err == nil
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
	at := l.w.Now() + int64(d)
	a.timers++
	a.timersDue = max(a.timersDue, at)
	stopped := false
	var timer *engine.Timer
	a.call("AfterFunc", func() {
		timer = loop.AfterFunc(d, func() {
			defer a.enter("AfterFunc")()
			a.timers--
			now := l.w.Now()
			switch {
			case stopped:
				l.problem("%s: a stopped timer fired", a.name)
			case now < at:
				l.problem("%s: a timer fired %v early", a.name, time.Duration(at-now))
			case now-at > int64(a.limits.Tick)+l.lateness():
				l.problem("%s: a timer fired %v late", a.name, time.Duration(now-at))
			}
			f()
		})
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

func (a *simApp) lookup(s *simConn) {
	a.call("Conn", func() {
		if got := a.engine.Conn(s.c.ID()); got != s.c {
			a.l.problem("%s: looking up an open connection: %v", a.name, got)
		}
	})
	n := 0
	a.call("Range", func() { a.engine.Range(func(*engine.Conn) bool { n++; return true }) })
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
	case !s.starved:
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
	ce, ok := err.(*engine.CloseError)
	if !ok {
		l.problem("%s: Close of %d: %T %v", a.name, s.key, err, err)
		return
	}
	s.err = ce
	a.reasons[ce.Reason]++
	l.seen["reason: "+ce.Reason.String()]++
	l.w.Note("%s closed %d: %v", a.name, s.key, err)
	if ev := ce.Evidence; ev.Unsent < 0 || ev.Unsent > int(s.accepted+s.taken) || ev.Unacked < -1 || ev.Age < 0 || ev.LastRead > ev.Age+time.Second {
		l.problem("%s: evidence of %d: %+v", a.name, s.key, ev)
	}
	if allowed := s.causes(); !allowed.has(ce.Reason) {
		l.problem("%s: connection %d closed with %v, which nothing accounts for (peer: %v)", a.name, s.key, err, s.peer)
	}
	if a.engine.Conn(c.ID()) != nil {
		l.problem("%s: a closed connection can be looked up", a.name)
	}
	s.send(orderNothing, simHeader, 0)
	s.close()
	s.post(func() { l.problem("a post to a closed connection ran") })
	switch l.pick(100) {
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

// causes returns the reasons for which s may end now.
func (s *simConn) causes() simReasons {
	set := s.allowed
	if s.app.name == "client" && !s.dialled {
		set |= reasons(engine.Local) // whoever dialled may have given up
	}
	if s.app.shut {
		set |= reasons(engine.Shutdown)
	}
	if s.peer != nil {
		set |= s.peer.allowed
	} else if far := s.app.l.farEnd(s); far != nil {
		set |= far.farCauses()
		if l := s.app.l; l.kClient == l.kServer && l.w.Counts()["machine stalled"] > 0 {
			// The far end stood still as well. Nothing tells this end for how
			// long, if none of its timers was due meanwhile.
			set |= reasons(engine.HeartbeatLost, engine.Deaf, engine.Idle)
			set |= reasons(engine.PeerClosed, engine.PeerReset) // the far end's verdict
		}
	} else {
		// The other engine has not introduced itself. It may not even have
		// accepted.
		set |= reasons(engine.PeerClosed, engine.PeerReset, engine.HeartbeatLost, engine.Deaf, engine.Idle)
	}
	return set
}

// farCauses returns the reasons for which the other end of s may end.
func (s *simConn) farCauses() (set simReasons) {
	if s.marked || s.closed || s.app.shut {
		set |= reasons(engine.PeerClosed, engine.PeerReset)
	}
	return set
}
