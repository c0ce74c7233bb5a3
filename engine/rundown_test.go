package engine_test

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// guest is a peer that has its messages echoed until it is told to go, and then
// goes.
type guest struct {
	told       time.Time // when it was told to go
	retryAfter time.Duration
	echoes     int // since the shutdown began
	err        error
}

// stay says something every now and then until it is told to go.
func (g *guest) stay(c net.Conn, hello []byte, shutdown *atomic.Bool) {
	native, err := codec.Native{}.Codec()
	if err != nil {
		g.err = err
		return
	}
	defer c.Close()
	said := make(chan struct{})
	defer func() { <-said }()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		defer close(said)
		for {
			if _, err := c.Write(hello); err != nil {
				return // it is told to go
			}
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	buf, n := make([]byte, 64<<10), 0
	for {
		got, err := c.Read(buf[n:])
		if n += got; err != nil {
			if g.told.IsZero() || err != io.EOF {
				g.err = err
			}
			return
		}
		for {
			f, used, _, err := native.Decode(buf[:n])
			if err != nil {
				g.err = err
				return
			}
			if used == 0 {
				break
			}
			switch {
			case f.Kind == codec.GoAway:
				g.told = time.Now()
				p, err := codec.ParseGoAway(f.Payload)
				if err != nil {
					g.err = err
					return
				}
				g.retryAfter = p.RetryAfter
			case !g.told.IsZero():
				g.err = errors.New("a message after GoAway")
				return
			case shutdown.Load():
				g.echoes++
			}
			n = copy(buf, buf[used:n])
		}
	}
}

// A run-down tells connections to go one after another: never more than the rate
// allows for the time, each with RetryAfter, and those whose turn has not come
// are served. Nobody else is let in.
func TestRunDown(t *testing.T) {
	const peers, rate, loops = 40, 20, 2
	cs := newCloses()
	cfg := listenOne(engine.Handler{Message: echo, Close: cs.note}, heartbeat.Config{})
	cfg.Loops = loops
	cfg.RunDown = rate
	cfg.RetryAfter = 1500 * time.Millisecond
	srv := serve(t, cfg)
	var shutdown atomic.Bool
	hello := frame(t, codec.Data, []byte("hello"))
	guests := make([]guest, peers)
	var all sync.WaitGroup
	for i := range guests {
		c := rawDial(t, srv)
		write(t, c, hello)
		expect(t, c, hello)
		all.Go(func() { guests[i].stay(c, hello, &shutdown) })
	}
	began := time.Now()
	shutdown.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	down := make(chan error, 1)
	go func() { down <- srv.Shutdown(ctx) }()
	eventually(t, "the first one has gone", func() bool { return srv.Stats().Total.Closed > 0 })
	passLoops(t, srv) // each has let go of its listener by then
	if c, err := net.Dial("tcp", srv.Addrs()[0][len("tcp://"):]); err == nil {
		_ = c.Close()
		t.Error("a newcomer was let in")
	}
	if err := within(t, "Shutdown", down); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	all.Wait()
	// The first of each loop goes at once.
	if took, least := time.Since(began), time.Duration(peers-loops)*time.Second/rate; took < least {
		t.Errorf("it took %v, want at least %v", took, least)
	}
	perSecond := func(limit time.Time) (n int) {
		for i := range guests {
			if !guests[i].told.After(limit) {
				n++
			}
		}
		return n
	}
	served := 0
	for i := range guests {
		g := &guests[i]
		if g.err != nil {
			t.Errorf("guest %d: %v", i, g.err)
		}
		if g.retryAfter != cfg.RetryAfter {
			t.Errorf("guest %d: retry after %v", i, g.retryAfter)
		}
		if g.echoes > 0 {
			served++
		}
		if n, most := perSecond(g.told), loops+rate*g.told.Sub(began).Seconds(); float64(n) > most {
			t.Errorf("%d were told within %v, want at most %.1f", n, g.told.Sub(began), most)
		}
	}
	if served < peers/2 {
		t.Errorf("%d of %d were served while they waited for their turn", served, peers)
	}
	for range peers {
		cs.reason(t, engine.Shutdown)
	}
	cs.none(t, time.Millisecond)
}

// Those that leave by themselves meanwhile take no turn of others.
func TestRunDownOfLeavers(t *testing.T) {
	const peers, stay = 40, 3
	cs, opened := newCloses(), new(conns)
	cfg := listenOne(engine.Handler{Open: opened.open, Message: echo, Close: cs.note}, heartbeat.Config{})
	cfg.Loops = 1
	cfg.RunDown = 1
	srv := serve(t, cfg)
	var clients []net.Conn
	for range peers {
		clients = append(clients, rawDial(t, srv))
	}
	opened.wait(t, peers)
	leaveWhenTold(clients)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	began := time.Now()
	down := make(chan error, 1)
	go func() { down <- srv.Shutdown(ctx) }()
	cs.reason(t, engine.Shutdown) // the run-down has begun
	for _, c := range clients[stay:] {
		_ = c.Close()
	}
	if err := within(t, "Shutdown", down); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	// With a turn for each, it would have taken 39 s.
	if took := time.Since(began); took > 25*time.Second {
		t.Errorf("it took %v, and most left by themselves", took)
	}
}

// leaveWhenTold makes clients end their streams when the server does.
func leaveWhenTold(clients []net.Conn) {
	for _, c := range clients {
		go func() { _, _ = io.Copy(io.Discard, c); _ = c.Close() }()
	}
}

// The end of the context cuts a run-down short.
func TestRunDownCutShort(t *testing.T) {
	const peers = 50
	cs, opened := newCloses(), new(conns)
	cfg := listenOne(engine.Handler{Open: opened.open, Message: echo, Close: cs.note}, heartbeat.Config{})
	cfg.Loops = 2
	cfg.RunDown = 1
	srv := serve(t, cfg)
	var clients []net.Conn
	for range peers {
		clients = append(clients, rawDial(t, srv))
	}
	opened.wait(t, peers)
	leaveWhenTold(clients)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	for range peers {
		cs.reason(t, engine.Shutdown)
	}
	if s := srv.Stats().Total; s.Open != 0 || s.Closed != peers {
		t.Errorf("%d open, %d closed", s.Open, s.Closed)
	}
}

// A Close that fails, within a turn or after it, does not strand a run-down.
func TestRunDownWithFailingClose(t *testing.T) {
	const peers = 40
	for way, fail := range map[string]func(){
		"panic":  func() { panic("as the test wants") },
		"goexit": runtime.Goexit,
	} {
		t.Run(way, func(t *testing.T) {
			cs, opened := newCloses(), new(conns)
			cfg := listenOne(engine.Handler{
				Open:  opened.open,
				Close: func(c *engine.Conn, err error) { cs.note(c, err); fail() },
			}, heartbeat.Config{})
			cfg.Loops = 2
			cfg.RunDown = 100
			srv := serve(t, cfg)
			var clients []net.Conn
			for range peers {
				clients = append(clients, rawDial(t, srv))
			}
			opened.wait(t, peers)
			leaveWhenTold(clients)
			// Half of them are to end in the midst of their turn: they were aborted,
			// and the loop learns of it when it dismisses them.
			hold := make(chan struct{})
			for _, l := range srv.Loops() {
				_ = l.Post(func() { <-hold })
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			began := time.Now()
			down := make(chan error, 1)
			go func() { down <- srv.Shutdown(ctx) }()
			eventually(t, "the loops have been told", func() bool { return errors.Is(srv.Serve(ctx), engine.ErrClosed) })
			for i, c := range opened.all {
				if i%2 == 0 {
					_ = c.Abort()
				}
			}
			close(hold)
			if err := within(t, "Shutdown", down); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			for range peers {
				cs.next(t)
			}
			cs.none(t, time.Millisecond)
			if n := srv.Stats().Total.Panics; n != peers {
				t.Errorf("%d failures, want %d", n, peers)
			}
		})
	}
}

// Nobody has to wait for a run-down of nobody.
func TestRunDownOfNobody(t *testing.T) {
	cfg := listenOne(engine.Handler{}, heartbeat.Config{})
	cfg.RunDown = 1
	srv := serve(t, cfg)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}
