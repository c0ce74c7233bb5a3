package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/engine/internal/sim"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// simLife is one seed: a world, a server, perhaps a client, a crowd of peers,
// and what was noticed.
type simLife struct {
	seed uint64
	rng  *rand.Rand // decides what the world's own does not
	cfg  sim.Config
	w    *sim.World

	codec       codec.Codec
	factory     codec.Factory
	codecProps  codec.Properties
	lengthField bool
	buffers     sim.Range

	server, client *simApp
	kServer        *sim.Kernel
	serverFaults   sim.Faults
	kClient        *sim.Kernel // may be kServer
	peers          []*simPeer
	byAddr         map[netip.AddrPort]*simPeer // by their own address
	served         map[netip.AddrPort]*simPeer // scripted servers, by theirs
	senders        map[uint32]*simConn         // by key
	serverEnds     map[netip.AddrPort]*simConn // of connections of two engines, by the client's address
	clientEnds     map[netip.AddrPort]*simConn
	casts          map[uint32]*simGroup // by key
	groups         []*simGroup
	keys           uint32
	ids            map[engine.ID]bool

	quietAt  int64
	active   time.Duration // how long things are done; then it gets quiet
	spent    int64         // ns during which loops stood still, at most
	stalled  int64         // ns of them that the server's machine was
	outage   int64         // ns for which the client's machine was cut off
	squeezed bool          // descriptors ran out for a while
	calm     bool          // the application behaves
	bulk     bool          // a peer sends more than a loop reads in one event
	aside    *rand.Rand    // draws what was thought of later, so that old seeds stay what they are
	urgent   bool          // peers send urgent data
	nice     bool          // nothing in it is random but the network
	lean     bool          // nothing has a deadline
	crowd    bool          // there are more idle connections than room
	dials    []*simDial    // under way
	// course identifies all that happened before the first Shutdown, whose
	// goroutine runs beside the loops that wake it.
	course   uint64
	problems []string
	seen     map[string]int
}

func newSimLife(seed uint64, trace bool) *simLife {
	l := &simLife{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 42)),
		byAddr: make(map[netip.AddrPort]*simPeer), served: make(map[netip.AddrPort]*simPeer),
		senders: make(map[uint32]*simConn), ids: make(map[engine.ID]bool), seen: make(map[string]int),
		serverEnds: make(map[netip.AddrPort]*simConn), clientEnds: make(map[netip.AddrPort]*simConn),
		casts: make(map[uint32]*simGroup),
	}
	l.buffers = []sim.Range{{Min: 16 << 10, Max: 256 << 10}, {Min: 4 << 10, Max: 32 << 10}, {Min: 1 << 10, Max: 4 << 10}}[l.pick(3)]
	l.cfg = sim.Config{Seed: seed, Trace: trace, Prompt: true, Latency: sim.Between(20*time.Microsecond, 3*time.Millisecond)}
	if l.bulk = l.pick(100) == 0; l.bulk {
		l.buffers = sim.Range{Min: 2 << 20, Max: 2 << 20}
	}
	if l.pick(5) == 0 {
		l.cfg.UserTimeout = time.Duration(1+l.pick(3)) * time.Second
	}
	if l.pick(5) == 0 {
		l.cfg.KeepAlive = time.Duration(1+l.pick(3)) * time.Second
	}
	l.cfg.Buffers = l.buffers
	l.aside = rand.New(rand.NewPCG(seed, 43))
	l.urgent = seed%4 == 0
	l.nice = l.pick(10) == 0
	l.calm = l.pick(2) == 0
	l.lean = l.pick(20) == 0
	l.crowd = !l.lean && !l.bulk && l.pick(100) == 0
	return l
}

// busy reports whether things are still being done.
func (l *simLife) busy() bool { return l.w.Now() < l.quietAt }

// pick returns a random number below n.
func (l *simLife) pick(n int) int { return l.rng.IntN(n) }

// wait draws a time below d.
func (l *simLife) wait(d time.Duration) time.Duration { return time.Duration(l.rng.Int64N(int64(d))) }

func (l *simLife) newKey() uint32 {
	l.keys++
	return l.keys
}

func (l *simLife) problem(format string, args ...any) {
	const enough = 5
	if len(l.problems) < enough {
		p := fmt.Sprintf(format, args...)
		if l.w != nil {
			p = fmt.Sprintf("at %.6f: %s", time.Duration(l.w.Now()).Seconds(), p)
			l.w.Note("PROBLEM: %s", p)
		}
		l.problems = append(l.problems, p)
	}
}

// spend keeps the calling loop busy.
func (l *simLife) spend(d time.Duration) {
	l.spent += int64(d)
	l.w.Spend(d)
}

// lateness is by how much what is due may be late on account of the loops
// having stood still. Each time they did counts in full, because none of it
// counts against peers.
func (l *simLife) lateness() int64 {
	counts := l.w.Counts()
	return l.spent + int64(counts["loop scheduled late"])*int64(30*time.Millisecond) +
		int64(counts["loop preempted"])*int64(50*time.Microsecond) + int64(5*time.Millisecond)
}

// bigSize is the size of a larger message: small enough to pass well within a
// Retry, and now and then longer than a loop's read buffer.
func (l *simLife) bigSize() int {
	size := 8 << 10
	if l.pick(4) == 0 {
		size = 80 << 10
	}
	return simHeader + l.pick(min(size, int(15*l.buffers.Min)))
}

// order picks what a message orders. In calm lives nothing is ordered that ends
// a connection, so that those last.
func (l *simLife) order() simOrder {
	if l.pick(2) > 0 {
		return orderEcho
	}
	for {
		switch o := simOrder(l.pick(int(lastOrder))); o {
		case orderClose, orderAbort, orderCloseOther, orderAbortOther, orderPanic, orderGoexit, orderPostPanic, orderPostGoexit:
			if !l.calm {
				return o
			}
		default:
			return o
		}
	}
}

func (l *simLife) faults() sim.Faults {
	some := func(most int) int {
		if l.pick(2) == 0 {
			return 0
		}
		return l.pick(most)
	}
	if l.nice {
		return sim.Faults{}
	}
	return sim.Faults{
		ShortRead: some(400), ShortWrite: some(400), AgainRead: some(300), AgainWrite: some(300),
		AcceptAgain: some(100), AcceptNFile: some(100), AcceptNoBufs: some(100), AcceptNoMem: some(100),
		AcceptAborted: some(20), ConnectFails: some(100), OpenFails: some(20),
		SpuriousHint: some(300), SmallBatch: some(500), Shuffle: some(1000), Preempt: some(200), Hiccup: some(20),
	}
}

func (l *simLife) machine(name string) *sim.Kernel {
	faults := l.faults()
	if name == "server" {
		l.serverFaults = faults
	}
	if l.urgent && !l.nice {
		faults.Interrupted = l.aside.IntN(500)
	}
	k := l.w.Machine(sim.Machine{
		Name: name, Kqueue: l.pick(2) == 0, Faults: faults,
		MaxFiles: 60 + l.pick(100), Backlog: 1 + l.pick(20),
	})
	l.w.After(l.active, func() {
		// Who still waits shall be let in.
		faults.AcceptAgain, faults.AcceptAborted = 0, 0
		faults.AcceptNFile, faults.AcceptNoBufs, faults.AcceptNoMem = 0, 0, 0
		k.SetFaults(faults)
	})
	return k
}

func (l *simLife) limits() engine.Limits {
	lim := engine.Limits{
		Loops:        1 + l.pick(3),
		Tick:         []time.Duration{time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond}[l.pick(3)],
		Backlog:      engine.Backlog{High: []int{16 << 10, 4 << 10, 64 << 10}[l.pick(3)]},
		Linger:       []time.Duration{0, 500 * time.Millisecond, 2 * time.Second}[l.pick(3)],
		DrainTimeout: []time.Duration{0, -1, 300 * time.Millisecond}[l.pick(3)],
		Work:         engine.Work{Workers: 1 + l.pick(3), Queue: 1 + l.pick(8), Pool: l.w.Pool()},
		BlockedAfter: -1, // it looks by the real clock, and beside the loops
	}
	lim.Backlog.Hard = lim.Backlog.High * []int{0, 1, 4}[l.pick(3)]
	if l.pick(3) == 0 {
		lim.MaxConns = 1 + l.pick(8)
	}
	// 5 s are longer than anything well-behaved is held up, 1 s mostly.
	lim.FrameTimeout = []time.Duration{0, 5 * time.Second, time.Second}[l.pick(3)]
	lim.MaxPause = []time.Duration{0, 400 * time.Millisecond, 1500 * time.Millisecond}[l.pick(3)]
	if l.pick(4) == 0 {
		lim.Backlog.DrainWindow = []time.Duration{300 * time.Millisecond, time.Second}[l.pick(2)]
		lim.Backlog.DrainRate = []int{0, 2000}[l.pick(2)]
	}
	if l.pick(6) == 0 {
		lim.Budget = int64(4+l.pick(40)) << 10
	}
	if l.pick(4) == 0 {
		lim.RunDown = 5 + l.pick(60)
	}
	if l.pick(2) == 0 {
		lim.RetryAfter = time.Duration(l.pick(5000)) * time.Millisecond
	}
	if l.pick(3) == 0 {
		lim.Work.Bytes = 1 + l.pick(4000)
	}
	if l.pick(4) == 0 {
		lim.PingRate = 600 + l.pick(1000) // as many as there may be connections need no more
	}
	if l.lean {
		lim.FrameTimeout, lim.MaxPause, lim.Backlog.DrainWindow = -1, -1, -1
	}
	return lim
}

// liveness draws one that side can have.
func (l *simLife) liveness(side codec.Side) heartbeat.Config {
	if l.lean || l.crowd {
		return heartbeat.Config{}
	}
	switch l.pick(8) {
	case 0:
		return heartbeat.Config{}
	case 1:
		return heartbeat.Relaxed()
	case 2:
		idle := heartbeat.Config{IdleRead: 2 * time.Second}
		if l.codecProps.Pingers&side != 0 {
			idle.Speak = idle.IdleRead / 4
		}
		return idle
	case 3, 4:
		return heartbeat.Strict()
	}
	return heartbeat.Realtime()
}

func (l *simLife) summary() string {
	return fmt.Sprintf("codec %T, liveness [%v], limits %+v, door %+v, ordered %v, answers %v, calm %v",
		l.codec, l.server.liveness, l.server.limits, l.server.door, l.server.ordered, l.server.answers, l.calm)
}

func (l *simLife) newApp(name string) *simApp {
	a := &simApp{
		l: l, name: name, limits: l.limits(), reasons: make(map[engine.Reason]uint64),
		dismissed: make(map[*engine.Loop]int),
		ordered:   l.pick(6) == 0, answers: l.pick(4) == 0,
	}
	if a.ordered {
		l.seen["life: ordered"]++
	}
	return a
}

// ownCodecs makes a codec for each connection, which cannot frame a payload without
// copying it, as one of an application's may be.
type ownCodecs struct{ codec.Factory }

type ownCodec struct{ codec.Codec }

func (f ownCodecs) Codec() (codec.Codec, error) {
	c, err := f.Factory.Codec()
	return &ownCodec{c}, err
}

func (c *ownCodec) PerConn() codec.Codec { return &ownCodec{c.Codec.PerConn()} }

// live lives it, from the first machine to the last check.
func (l *simLife) live() {
	began := time.Now()
	start := int64(0)
	l.cfg.Settle = func() {
		synctest.Wait()
		// The bubble's clock, by which contexts end, follows the world's.
		if d := time.Duration(l.w.Now()-start) - time.Since(began); d > 0 {
			time.Sleep(d)
			synctest.Wait()
		}
		l.settleDials()
	}
	l.w = sim.New(l.cfg)
	start = l.w.Now()

	l.factory = codec.Factory(codec.Native{})
	if l.lengthField = l.pick(3) == 0; l.lengthField {
		l.factory = codec.Length4()
	}
	if l.seed%5 == 1 {
		l.factory = ownCodecs{l.factory}
		l.seen["life: each connection has its own codec"]++
	}
	l.codec, _ = l.factory.Codec()
	l.codecProps = l.codec.Properties()
	l.active = 1500 * time.Millisecond
	if l.lean {
		l.seen["life: lean"]++
	}
	if l.crowd {
		l.seen["life: crowd"]++
	}
	l.quietAt = start + int64(l.active)

	l.server = l.newApp("server")
	l.server.liveness = l.liveness(codec.Server)
	l.server.mayIdle()
	if !l.lean {
		l.server.door = l.admission()
	}
	if l.crowd {
		l.server.door = engine.Admission{EvictIdle: 300 * time.Millisecond}
		l.server.limits.Loops, l.server.limits.MaxConns = 1, 20+l.pick(5)
	}
	l.server.maxConns = l.server.limits.MaxConns
	l.kServer = l.machine("server")
	srv, err := engine.ListenOn(l.kServer, engine.Config{
		Listeners: []engine.Listener{
			{Addr: "tcp://:7000", Codec: l.factory, Liveness: l.server.liveness},
			{Addr: "unix:///run/sim", Codec: l.factory, Liveness: l.server.liveness},
		},
		Handler: l.server.handler(), Admission: l.server.door, Limits: l.server.limits, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		l.seen["life: Listen fails"]++
		l.nothingLeft()
		return
	}
	l.server.engine = srv
	l.server.prepare()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := false
	l.w.Start(func() {
		if err := srv.Serve(ctx); err != nil && !errors.Is(err, engine.ErrClosed) {
			l.problem("Serve: %v", err)
		}
		served = true
	})
	if l.pick(3) == 0 {
		l.startClient()
	}
	l.invite()
	l.meddle()

	l.w.RunFor(l.active)
	// Quiet: time for verdicts, for retries and for what is under way.
	worst := l.server.worstCase()
	if l.client != nil {
		worst = max(worst, l.client.worstCase())
	}
	l.w.RunFor(worst + time.Duration(l.lateness()) + 4*time.Second)
	l.checkQuiet(l.server)
	if l.client != nil {
		l.checkQuiet(l.client)
	}
	l.checkRate()
	l.checkTimers()
	l.course = l.w.TraceHash()
	// The bubble's clock is to be right when contexts are made.
	l.w.After(0, func() {})
	l.w.RunFor(1)
	if l.client != nil && l.pick(2) == 0 {
		l.shutdown(l.client)
	}
	if l.pick(3) == 0 {
		l.seen["life: Serve's context ends"]++
		limit := l.server.limits.DrainTimeout
		if limit == 0 {
			limit = 10 * time.Second
		}
		limit = max(limit, 0)
		l.server.shuts(limit)
		l.w.After(0, cancel)
		l.awaitEnd(l.server, limit, func() bool { return served })
	} else {
		l.shutdown(l.server)
	}
	l.w.RunFor(100 * time.Millisecond)
	if !served {
		l.problem("Serve did not return after Shutdown")
	}
	if l.client != nil && !l.client.shut {
		l.shutdown(l.client)
	}
	l.w.RunFor(30 * time.Second) // for the peers to see their ends
	if len(l.dials) > 0 {
		l.problem("%d dials have not returned", len(l.dials))
	}
	l.checkEnd(l.server)
	if l.client != nil {
		l.checkEnd(l.client)
	}
	l.nothingLeft()
}

// nobodyListens at that port of the server's machine.
const nobodyListens = ":7001"

// startClient adds an engine that dials the server and scripted servers.
func (l *simLife) startClient() {
	l.client = l.newApp("client")
	l.client.liveness = l.server.liveness
	if idle := &l.client.liveness; idle.Interval == 0 {
		idle.Speak = idle.IdleRead / 4
	}
	l.client.mayIdle()
	l.client.limits.Loops = 1 + l.pick(2)
	l.client.maxConns = l.client.limits.MaxConns
	same := l.pick(3) == 0
	if l.kClient = l.kServer; !same {
		l.kClient = l.machine("client")
	}
	cl, err := engine.NewClientOn(l.kClient, engine.ClientConfig{
		Codec: l.factory, Liveness: l.client.liveness, Handler: l.client.handler(),
		Limits: l.client.limits, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		l.seen["life: NewClient fails"]++
		l.client, l.kClient = nil, nil
		return
	}
	l.client.engine = cl
	l.client.prepare()
	l.w.After(l.active+3*time.Second, func() { // one more when all is quiet
		l.dial(cl, fmt.Sprintf("tcp://%v:7000", l.kServer.Addr()), 500*time.Millisecond)
	})
	l.w.Start(func() {}) // let its loops begin
	for i := range 1 + l.pick(6) {
		addr := fmt.Sprintf("tcp://%v:7000", l.kServer.Addr())
		what := "dial: the server"
		switch {
		case same && l.pick(2) == 0:
			addr, what = "unix:///run/sim", "dial: the server's Unix socket"
		case l.pick(3) == 0:
			ap := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 200, 0, byte(i + 1)}), 80)
			addr, what = "tcp://"+ap.String(), "dial: a scripted server"
			l.serve(ap)
		case l.pick(6) == 0:
			addr, what = fmt.Sprintf("tcp://%v%s", l.kServer.Addr(), nobodyListens), "dial: nobody listens"
		case l.pick(6) == 0:
			addr, what = "tcp://10.201.0.1:80", "dial: nobody is there"
		}
		l.seen[what]++
		patience := 1 + l.wait(3e9)
		l.w.After(l.wait(l.active/2), func() { l.dial(cl, addr, patience) })
	}
}

// simDial is a call of Dial. The goroutine that makes it touches nothing else,
// because it runs beside the loops.
type simDial struct {
	addr   string
	cancel context.CancelFunc
	limit  time.Duration
	opened int  // connections before
	room   bool // under MaxConns, for certain
	done   chan struct{}
	c      *engine.Conn
	err    error
}

// dial dials for at most d.
func (l *simLife) dial(cl *engine.Client, addr string, d time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	a := l.client
	call := &simDial{
		addr: addr, cancel: cancel, limit: d, opened: len(a.all), done: make(chan struct{}),
		room: !l.busy() && len(l.dials) == 0 && (a.maxConns == 0 || len(a.open) < a.maxConns),
	}
	l.dials = append(l.dials, call)
	l.w.After(d, func() {
		select {
		case <-call.done:
		default:
			l.seen["dial: given up"]++
		}
		cancel()
	})
	l.w.Start(func() {
		call.c, call.err = cl.Dial(ctx, addr)
		close(call.done)
	})
}

// settleDials takes note of the dials that have ended, while all else stands
// still.
func (l *simLife) settleDials() {
	for i := 0; i < len(l.dials); i++ {
		call := l.dials[i]
		select {
		case <-call.done:
			l.dials = slices.Delete(l.dials, i, i+1)
			i--
			l.dialled(call)
		default:
		}
	}
}

func (l *simLife) dialled(call *simDial) {
	l.w.Note("dialled %s: %v", call.addr, call.err)
	switch {
	case call.err != nil:
		l.seen["dial: failed"]++
		if call.c != nil {
			l.problem("Dial returned a connection and %v", call.err)
		}
		if call.room && strings.Contains(call.err.Error(), "MaxConns") {
			l.problem("%v, of which there are %d", call.err, len(l.client.open))
		}
		if strings.HasSuffix(call.addr, nobodyListens) && errors.Is(call.err, context.Canceled) &&
			call.limit > 500*time.Millisecond+time.Duration(l.lateness()) && l.w.Counts()["link outage"] == 0 {
			l.problem("the refusal of a dial was not told within %v", call.limit)
		}
		return
	case call.c == nil || len(l.client.all) == call.opened:
		l.problem("Dial returned before Open ran")
		return
	}
	l.seen["dial: succeeded"]++
	s := call.c.Get().(*simConn)
	s.dialled = true
	if !l.busy() {
		s.close()
		return
	}
	for range 1 + l.pick(8) {
		order, size := l.order(), simHeader+l.pick(400)
		if l.pick(10) == 0 {
			size = l.bigSize()
		}
		l.w.After(l.wait(l.active), func() {
			if !s.closed {
				s.send(order, size, uint32(l.pick(1<<20)))
			}
		})
	}
	if l.pick(3) == 0 {
		l.w.After(l.wait(l.active), func() {
			if !s.closed {
				s.close()
			}
		})
	}
}

// serve adds a scripted server for one dial.
func (l *simLife) serve(ap netip.AddrPort) {
	kinds := []simKind{peerHealthy, peerSilent, peerCloser, peerResetter, peerVanisher, peerFrozen, peerUnreachable, peerHalfCloser}
	n := &simPeer{l: l, app: l.client, kind: kinds[l.pick(len(kinds))], codec: l.codec.PerConn(), key: l.newKey()}
	l.served[ap] = n
	l.w.Serve(ap.String(), func(p *sim.Peer) {
		n.start(p)
		n.run()
		l.peers = append(l.peers, n)
	})
}

// invite adds the peers.
func (l *simLife) invite() {
	if l.crowd {
		l.gather()
		return
	}
	for i := range 2 + l.pick(9) {
		n := &simPeer{l: l, app: l.server, kind: simKind(l.pick(int(lastKind))), codec: l.codec.PerConn(), key: l.newKey()}
		if l.pick(3) == 0 {
			n.kind = peerHealthy
		}
		if i == 0 && l.bulk {
			n.kind = peerBulk
		}
		if l.server.door.PerPrefix > 0 && n.kind != peerOutage && l.pick(3) > 0 {
			n.from = l.crowdAddr()
		}
		n.unwelcome = l.server.door.Allow != nil && l.pick(4) == 0
		at := l.wait(l.active / 2)
		if l.pick(3) == 0 {
			at = 0 // several at once
		}
		l.w.After(at, func() { l.connect(n) })
	}
	if l.server.door.PerPrefix > 0 && l.pick(2) == 0 {
		l.probePrefix()
	}
	if l.pick(30) == 0 {
		l.seen["life: flood of connects"]++
		at := l.wait(l.active / 2)
		for range 20 + l.pick(40) {
			n := &simPeer{l: l, app: l.server, kind: peerFleeing, codec: l.codec.PerConn(), key: l.newKey()}
			l.w.After(at+l.wait(5*time.Millisecond), func() { l.connect(n) })
		}
	}
}

// connect lets a peer dial the server.
func (l *simLife) connect(n *simPeer) {
	p := l.w.DialFrom(n.from, fmt.Sprintf("tcp://%v:7000", l.kServer.Addr()))
	n.start(p)
	l.byAddr[p.Local()] = n
	l.peers = append(l.peers, n)
	p.OnConnect = n.run
	if n.kind == peerFleeing {
		n.finish()
		n.reading = false
		p.OnConnect = nil
		l.w.After(l.wait(10e6), func() {
			if l.pick(2) == 0 {
				p.Reset()
			} else {
				p.Close()
			}
		})
	}
}

// meddle does from other goroutines, while the loops run, what an application
// and its machine may do.
func (l *simLife) meddle() {
	at := func() time.Duration { return l.wait(l.active) }
	apps := []*simApp{l.server}
	if l.client != nil {
		apps = append(apps, l.client)
	}
	for _, a := range apps {
		for range l.pick(6) {
			l.w.After(at(), func() {
				if len(a.open) == 0 {
					return
				}
				s := a.open[l.pick(len(a.open))]
				what := l.pick(10)
				if l.calm && (what < 2 || what == 3) {
					what = 5
				}
				switch what {
				case 6:
					l.seen["meddle: Pause"]++
					s.pauseFor(uint32(l.pick(1<<20)), false)
				case 7:
					l.seen["meddle: Do"]++
					s.do(s.task(uint32(l.pick(1<<20)), func() { s.send(orderNothing, simHeader, 0) }))
				case 8:
					l.seen["meddle: Broadcast"]++
					a.groups[l.pick(len(a.groups))].cast(simHeader + l.pick(2000))
					a.everyone.cast(simHeader + l.pick(200))
				case 9:
					l.seen["meddle: SendOwned"]++
					s.sendOwned(l.bigSize(), 0)
					s.probe()
				case 0:
					l.seen["meddle: Close"]++
					s.close()
				case 1:
					l.seen["meddle: Abort"]++
					s.abort()
				case 2:
					l.seen["meddle: Post"]++
					s.post(func() {
						if !s.closed {
							a.lookup(s)
							s.send(orderNothing, simHeader+10, 0)
						}
					})
				case 3:
					l.seen["meddle: Close and Abort"]++
					s.send(orderNothing, l.bigSize(), 0)
					s.close()
					s.abort()
				default:
					l.seen["meddle: Send"]++
					for range 1 + l.pick(5) {
						s.send(orderNothing, simHeader+l.pick(3000), 0)
					}
				}
			})
		}
		l.w.After(at(), func() {
			d := l.wait(100e6)
			a.after(a.engine.Loops()[0], d, func() {})
		})
	}
	if l.nice {
		return
	}
	if l.pick(4) == 0 {
		// Other machines' engines are not told of a stall: it must be within
		// what they tolerate.
		d := l.wait(3e9)
		if t := l.server.liveness.Tolerance(); l.client != nil && l.kClient != l.kServer && d > t/2 {
			d = t / 2
		}
		l.spent += int64(d)
		l.stalled = int64(d)
		l.w.After(at(), func() { l.kServer.Stall(d) })
	}
	if l.pick(4) == 0 {
		l.squeezed = true
		before := l.kServer.MaxFiles()
		l.w.After(at(), func() { l.kServer.SetMaxFiles(l.kServer.Files() + 3 + l.pick(2)) })
		l.w.After(l.active, func() { l.kServer.SetMaxFiles(before) })
	}
	if t := l.server.liveness.Tolerance(); l.client != nil && t > 0 && l.kClient != l.kServer && l.cfg.UserTimeout == 0 && l.pick(3) == 0 && l.spent == 0 {
		d := l.wait(min(t, l.active))
		l.outage = int64(d)
		l.w.After(at(), func() { l.kClient.Outage(d) })
	}
	if !l.calm && l.pick(20) == 0 {
		l.w.After(at(), l.leaveAtOnce)
	}
}

// leaveAtOnce lets several peers end their streams, each behind a last word, while
// the machine stands still. Then one batch tells of all of them, and in it each loop's
// goroutine is ended: of what it had not served yet nobody tells the next one.
func (l *simLife) leaveAtOnce() {
	const still = 10 * time.Millisecond // longer than anything is under way
	l.kServer.Stall(still)
	l.spent += int64(still)
	leave := 0
	for _, n := range l.peers {
		if s := n.conn; n.app != l.server || n.kind > peerSilent || n.finished || s == nil || s.closed {
			continue
		}
		n.put(n.frame([]simOrder{orderEcho, orderAbortOther}[l.pick(2)], simHeader))
		n.finish()
		n.p.CloseWrite()
		leave++
	}
	for range l.pick(4) { // who get the numbers of those, perhaps on another loop
		l.connect(&simPeer{l: l, app: l.server, kind: peerHealthy, codec: l.codec.PerConn(), key: l.newKey()})
	}
	if leave > 1 {
		l.seen["life: several leave at once"]++
	}
	a := l.server
	for _, loop := range a.engine.Loops() {
		a.loopPost(loop, func() { a.failures++; runtime.Goexit() })
	}
}

// shutdown shuts a down in one of the ways there are.
func (l *simLife) shutdown(a *simApp) {
	limit := time.Duration(-1)
	switch l.pick(4) {
	case 0:
		limit = 0
		l.seen["life: Shutdown at once"]++
	case 1:
		limit = l.wait(1e9)
		l.seen["life: Shutdown in a hurry"]++
	default:
		l.seen["life: Shutdown gracefully"]++
	}
	a.shuts(limit)
	l.w.Note("%s shuts down within %v", a.name, limit)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := false
	l.w.After(0, func() {
		if limit == 0 {
			cancel()
		}
		l.w.Start(func() {
			if err := a.engine.Shutdown(ctx); err != nil && !errors.Is(err, context.Canceled) {
				l.problem("%s: Shutdown: %v", a.name, err)
			}
			done = true
		})
	})
	if limit > 0 {
		l.w.After(limit, cancel)
	}
	if most := a.linger() + a.runDownTime(); limit < 0 || limit > most {
		limit = most // no connection takes longer
	}
	l.awaitEnd(a, limit, func() bool { return done })
}

// shuts notes that a is about to be shut down, within limit if that is not
// negative.
func (a *simApp) shuts(limit time.Duration) {
	a.shut, a.shutAt, a.patience = true, a.l.w.Now(), math.MaxInt64
	if limit >= 0 {
		a.patience = a.shutAt + int64(limit)
	}
}

// awaitEnd waits for a shutdown, which takes as long as it was given, and
// little more.
func (l *simLife) awaitEnd(a *simApp, limit time.Duration, done func() bool) {
	began := l.w.Now()
	allowed := limit + a.limits.Tick + time.Duration(l.lateness()) + 200*time.Millisecond
	// In steps, each of which lets the bubble's clock follow.
	for end := l.w.Now() + int64(allowed); !done() && l.w.Now() < end; {
		l.w.After(0, func() {})
		l.w.Await(20*time.Millisecond, done)
	}
	if !done() {
		l.problem("%s: shutdown takes more than %v", a.name, time.Duration(l.w.Now()-began))
		l.w.RunFor(time.Minute)
	}
}

// checkQuiet checks what must be so once nothing is under way.
func (l *simLife) checkQuiet(a *simApp) {
	now := l.w.Now()
	st := a.engine.Stats()
	if t := st.Total; t.Opened != uint64(len(a.all)) || t.Opened-t.Closed != uint64(len(a.open)) || t.Open < int64(len(a.open)) || len(l.dials) == 0 && t.Open != int64(len(a.open)) {
		l.problem("%s: %d opened, %d closed, %d open by its Stats; %d opened, %d open by its callbacks",
			a.name, t.Opened, t.Closed, t.Open, len(a.all), len(a.open))
	}
	if a.timers != 0 && now > a.timersDue+int64(a.limits.Tick)+l.lateness() {
		l.problem("%s: %d timers have not fired", a.name, a.timers)
	}
	if a.posted != a.ran {
		l.problem("%s: of %d posts %d ran", a.name, a.posted, a.ran)
	}
	if st.Work.Active != 0 || st.Work.Queued != 0 {
		l.problem("%s: its workers are %+v", a.name, st.Work)
	}
	a.checkMembers()
	delivered := true // all that was sent on every connection
	for _, s := range a.all {
		l.checkVerdict(s, now)
		l.checkBounds(s, now)
		l.checkDone(s)
		const recent = int64(2 * time.Second) // it was let in late, and is still at it
		if s.closed || s.marked || now-s.openedAt < recent {
			delivered = delivered && s.closed
			continue
		}
		if s.starved && s.peer != nil && s.peer.wellBehaved() {
			l.problem("%s: connection %d was refused by ErrBacklog and never told that there is room", a.name, s.key)
		}
		sent, received := s.accepted+s.taken, uint32(0)
		switch far := l.farEnd(s); {
		case s.peer != nil && s.peer.wellBehaved():
			received = s.peer.in.next + s.peer.frames
			if len(s.due.list) > 0 {
				l.problem("%s: connection %d: %v has not got %d broadcasts", a.name, s.key, s.peer, len(s.due.list))
			}
			if s.lent != s.returned {
				l.problem("%s: of %d payloads lent by %d %d were released", a.name, s.lent, s.key, s.returned)
			}
			if s.in.next != s.peer.sent {
				l.problem("%s: connection %d has received %d of the %d messages of %v", a.name, s.key, s.in.next, s.peer.sent, s.peer)
			}
		case s.peer == nil && far != nil && !far.closed && !far.marked:
			received = far.in.next + far.frames
		default:
			delivered = false
			continue
		}
		if sent != received && (received > 0 || s.peer != nil) {
			l.problem("%s: connection %d has sent %d messages, its peer %v got %d", a.name, s.key, sent, s.peer, received)
		}
	}
	held := st.Held
	for range 10 { // it may be a heartbeat that the kernel did not take at once
		if held == 0 || !delivered {
			break
		}
		l.w.RunFor(3 * time.Millisecond)
		held = a.engine.Stats().Held
	}
	if delivered && held != 0 {
		l.problem("%s: %d bytes are held, and everything is delivered", a.name, held)
	}
	// Whoever waits in the queue must be let in while there is room.
	room := a.limits.MaxConns == 0 || len(a.open) < a.limits.MaxConns
	for _, n := range l.peers {
		if n.app == a && a == l.server && room && !l.full(a) && n.p.Queued() && n.wellBehaved() && n.conn == nil && n.ended == nil {
			l.problem("%v was never accepted, although there is room", n)
		}
		if a == l.server {
			l.checkTurnedAway(n)
			l.checkWaiting(n)
		}
	}
}

// checkDone checks that what s lent was given back, and that its tasks have run.
func (l *simLife) checkDone(s *simConn) {
	if s.begun != s.tasks || s.busy != "" {
		l.problem("%s: of %d tasks of %d %d were begun (now: %s)", s.app.name, s.tasks, s.key, s.begun, s.busy)
	}
	if s.closed && s.lent != s.returned {
		l.problem("%s: of %d payloads lent by %d, which is closed, %d were released", s.app.name, s.lent, s.key, s.returned)
	}
}

// checkTimers checks that the loops sleep where nothing has a deadline.
func (l *simLife) checkTimers() {
	// One that was stopped since may have been the last one armed.
	for _, a := range []*simApp{l.server, l.client} {
		if l.lean && a != nil {
			for _, loop := range a.engine.Loops() {
				a.timer(loop, time.Millisecond, func() {})
			}
		}
	}
	l.w.RunFor(100*time.Millisecond + time.Duration(l.lateness()))
	for _, a := range []*simApp{l.server, l.client} {
		if !l.lean || a == nil || slices.ContainsFunc(a.all, func(s *simConn) bool { return s.marked && !s.closed }) {
			return // what is about to end has one
		}
	}
	for _, k := range []*sim.Kernel{l.kServer, l.kClient} {
		if k != nil && k.Armed() > 0 {
			l.problem("nothing has a deadline, and %d timers are armed", k.Armed())
		}
	}
}

// full reports whether MaxConns, derived from the limit of descriptors, or
// descriptors themselves leave no room.
func (l *simLife) full(a *simApp) bool {
	files := l.kServer.MaxFiles()
	if a.limits.MaxConns == 0 && len(a.open) >= files-max(files/16, 32)-6 {
		return true
	}
	return l.kServer.Files()+4 >= files
}

// checkEnd checks the accounts after everything has ended.
func (l *simLife) checkEnd(a *simApp) {
	t := a.engine.Stats().Total
	if t.Open != 0 || t.Opened != t.Closed || t.Opened != uint64(len(a.all)) || len(a.open) != 0 {
		l.problem("%s: after Shutdown %d opened, %d closed, %d open by its Stats; %d opened, %d open by its callbacks",
			a.name, t.Opened, t.Closed, t.Open, len(a.all), len(a.open))
	}
	for r, n := range a.reasons {
		if t.Reasons[r] != n {
			l.problem("%s: %d closed with %v, its Stats say %d", a.name, n, r, t.Reasons[r])
		}
	}
	if t.MessagesIn != a.messages {
		l.problem("%s: %d messages, its Stats say %d", a.name, a.messages, t.MessagesIn)
	}
	if t.Panics != a.failures {
		l.problem("%s: %d panics and Goexits, its Stats say %d", a.name, a.failures, t.Panics)
	}
	if a.posted != a.ran {
		l.problem("%s: of %d posts %d ran", a.name, a.posted, a.ran)
	}
	if a.inCallback != 0 {
		l.problem("%s: %d callbacks have not ended", a.name, a.inCallback)
	}
	st := a.engine.Stats()
	if st.Held != 0 {
		l.problem("%s: %d bytes are held after the end", a.name, st.Held)
	}
	if w := st.Work; w.Active != 0 || w.Queued != 0 || w.Refused != a.work.busy || !a.ordered && w.Done != a.work.tasks {
		l.problem("%s: Do took %d tasks and refused %d, its Stats are %+v", a.name, a.work.tasks, a.work.busy, w)
	}
	a.checkMembers()
	for _, s := range a.all {
		l.checkDone(s)
		if s.err != nil {
			l.checkAccounts(s)
		}
	}
}

// checkAccounts checks that every message that Send took was delivered, or is
// counted as lost.
func (l *simLife) checkAccounts(s *simConn) {
	handed := int(s.accepted+s.taken) - s.err.Evidence.Unsent
	// Of the broadcasts on their way to it when it ended, nobody knows how many
	// it was offered.
	var received, casts int
	var all bool // the peer has read all that was handed to the kernel
	switch far := l.farEnd(s); {
	case s.peer != nil:
		received, casts = int(s.peer.in.next+s.peer.frames), int(s.peer.castsIn.count)
		all = s.peer.sawEnd() || s.peer.reading && s.err.Evidence.Unacked == 0 && s.peer.ended != nil
		// What the peer had sent before a clean end was received.
		if s.err.Reason == engine.PeerClosed && !s.marked && !s.peer.junk && s.in.next != s.peer.sent {
			l.problem("%s: connection %d closed with %v, having received %d of the %d messages of %v",
				s.app.name, s.key, s.err, s.in.next, s.peer.sent, s.peer)
		}
		// So was, before a reset, what had come by then.
		switch s.err.Reason {
		case engine.PeerReset, engine.KernelTimeout, engine.Unreachable:
			if least := s.peer.delivered(); !s.marked && !s.peer.junk && s.in.next < least {
				l.problem("%s: connection %d closed with %v, having received %d messages, but %d of %v had come",
					s.app.name, s.key, s.err, s.in.next, least, s.peer)
			}
			l.seen["accounts: before a reset"]++
		}
	case far != nil && far.in.sender == s.key:
		received, casts = int(far.in.next+far.frames), int(far.castsIn.count)
		all = far.err != nil && far.err.Reason == engine.PeerClosed && !far.marked && far.err.Err == nil
	default:
		return
	}
	if received+casts > handed+s.due.total || all && received < handed {
		l.problem("%s: connection %d, closed with %v, has sent %d messages and up to %d broadcasts, of which %d were not handed to the kernel; its peer %v got %d and %d",
			s.app.name, s.key, s.err, s.accepted+s.taken, s.due.total, s.err.Evidence.Unsent, s.peer, received, casts)
	}
	if all {
		l.seen["accounts: exact"]++
	}
	// An end that took its time and met no error has delivered everything: after
	// the peer's end of stream, or after Close.
	clean := s.err.Reason == engine.PeerClosed || s.err.Reason == engine.Local && s.told
	if clean && !s.aborted && s.err.Err == nil && !s.late && s.err.Evidence.Unsent > 0 {
		l.problem("%s: connection %d ended in good order, and yet %v", s.app.name, s.key, s.err)
	}
	if s.err.Evidence.Unsent > 0 {
		l.seen["accounts: messages unsent"]++
	}
}

// nothingLeft checks that the machines are as they were.
func (l *simLife) nothingLeft() {
	for _, v := range l.w.Violations() {
		l.problem("violation %s", v)
	}
	for _, leak := range l.w.Leaks() {
		l.problem("leak: %s", leak)
	}
}

// simMustHappen lists what the seeds must provoke, beside all that the world
// counts.
func simMustHappen() (list []string) {
	for _, r := range []engine.Reason{
		engine.PeerClosed, engine.PeerReset, engine.Unreachable, engine.KernelTimeout, engine.HeartbeatLost,
		engine.Deaf, engine.Idle, engine.ProtocolError, engine.FrameTooLarge, engine.Local, engine.Panic, engine.Shutdown,
		engine.SlowConsumer, engine.HandshakeTimeout, engine.FrameTimeout, engine.Overloaded,
	} {
		list = append(list, "reason: "+r.String())
	}
	for _, name := range simKindNames {
		list = append(list, "peer: "+name)
	}
	for _, name := range simOrderNames {
		list = append(list, "order: "+name)
	}
	for _, k := range []simKind{
		peerVanisher, peerRebooter, peerUnreachable, peerFrozen, peerDeaf, peerUnreading, peerStaller, peerMute, peerHeld,
	} {
		list = append(list, "verdict in time: "+simKindNames[k])
	}
	return append(list,
		"app: ErrBacklog", "app: Writable", "app: Open fails", "app: Open panics", "app: Open ends its goroutine",
		"app: Close panics", "app: Close ends its goroutine", "app: Open closes", "app: ErrBusy", "app: out of budget",
		"app: release panics",
		"accounts: exact", "accounts: messages unsent", "accounts: before a reset",
		"peer: told to go away", "peer: a byte at a time", "frame: of the application's",
		"dial: succeeded", "dial: failed", "dial: given up",
		"life: Listen fails", "life: flood of connects", "life: ordered", "life: crowd", "life: lean",
		"life: several leave at once",
		"life: Shutdown at once", "life: Shutdown in a hurry", "life: Shutdown gracefully", "life: Serve's context ends",
		"pause: timer", "pause: other goroutine", "pause: post", "pause: forgotten",
		"paused: the peer resets", "paused: the peer ends its stream", "paused: the peer vanishes", "paused: the peer floods",
		"paused: the peer waits",
		"EOF: answers and closes", "EOF: answers late", "EOF: answers by a task", "EOF: aborts", "EOF: stays",
		"task: echoes", "task: blocks", "task: has another one", "task: posts", "task: closes", "task: panics",
		"task: ends its goroutine", "task: pauses", "task: blocks for long",
		"broadcast: out of budget", "group: dropped", "probe: out of budget", "probe: backlog is full",
		"slow consumer: no room for a broadcast", "slow consumer: drain rate", "overloaded: not read",
		"door: evicted", "door: rate limit", "door: Allow panics", "door: Allow ends its goroutine", "door: Allow refuses", "door: PerPrefix refuses",
		"door: one too many from its prefix", "door: one more from its prefix", "run-down: dismissed",
	)
}
