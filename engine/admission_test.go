//go:build linux

package engine_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// dialFrom connects to a server's first listener from a source address.
func dialFrom(t testing.TB, srv *engine.Server, source string) (*net.TCPConn, error) {
	to := net.JoinHostPort("127.0.0.1", fmt.Sprint(srv.Port(0)))
	if strings.Contains(source, ":") {
		to = net.JoinHostPort("::1", fmt.Sprint(srv.Port(0)))
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	c, err := d.Dial("tcp", to)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn), nil
}

// comeFrom is dialFrom, and tells whether the connection was let in, which it
// was if it gets an echo, or reset.
func comeFrom(t testing.TB, srv *engine.Server, source string) (c *net.TCPConn, letIn bool) {
	t.Helper()
	c, err := dialFrom(t, srv, source)
	if errors.Is(err, syscall.ECONNRESET) {
		return nil, false // it was quick
	}
	if err != nil {
		t.Fatal(err)
	}
	return c, served(t, c)
}

// served tells whether a connection gets an echo, or was reset.
func served(t testing.TB, c net.Conn) bool {
	t.Helper()
	hello := frame(t, codec.Data, []byte("hello"))
	_, err := c.Write(hello)
	answer := make([]byte, len(hello))
	if err == nil {
		_, err = io.ReadFull(c, answer)
	}
	switch {
	case err == nil && string(answer) == string(hello):
		return true
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return false
	}
	t.Fatalf("neither served nor reset: %q, %v", answer, err)
	return false
}

// countingFactory counts the codecs that connections ask for.
type countingFactory struct{ made *atomic.Int64 }

func (f countingFactory) Codec() (codec.Codec, error) {
	c, err := codec.Native{}.Codec()
	return countingCodec{c, f.made}, err
}

type countingCodec struct {
	codec.Codec
	made *atomic.Int64
}

func (c countingCodec) PerConn() codec.Codec { c.made.Add(1); return c.Codec.PerConn() }

// Allow is asked about each peer before there is anything of its connection. An
// error, a panic and a Goexit refuse it with a reset, which costs no place and
// no descriptor, and are counted.
func TestAllow(t *testing.T) {
	for way, fail := range map[string]func() error{
		"error":  func() error { return errors.New("not you") },
		"panic":  func() error { panic("as the test wants") },
		"goexit": func() error { runtime.Goexit(); return nil },
	} {
		t.Run(way, func(t *testing.T) {
			const attempts = 10
			var made, asked atomic.Int64
			var refuse atomic.Bool
			var srv *engine.Server
			opened := new(conns)
			var peer atomic.Pointer[netip.AddrPort]
			cfg := listenOne(engine.Handler{Open: opened.open, Message: echo}, heartbeat.Config{})
			cfg.Listeners[0].Codec = countingFactory{&made}
			cfg.MaxConns = 2
			cfg.Loops = 1
			ready := make(chan struct{})
			cfg.Admission.Allow = func(remote netip.AddrPort) error {
				<-ready
				asked.Add(1)
				peer.Store(&remote)
				if refuse.Load() {
					return fail()
				}
				return nil
			}
			srv = serve(t, cfg)
			close(ready)
			first, ok := comeFrom(t, srv, "127.0.0.1")
			if !ok {
				t.Fatal("the first one was refused")
			}
			if got := peer.Load().String(); got != first.LocalAddr().String() {
				t.Errorf("Allow was asked about %s, and it is %v that came", got, first.LocalAddr())
			}
			madeBefore := made.Load() // the configuration is checked with one, too
			refuse.Store(true)
			for i := range attempts {
				if _, ok := comeFrom(t, srv, "127.0.0.1"); ok {
					t.Fatalf("attempt %d was let in", i)
				}
				if !served(t, first) {
					t.Fatal("the first one is not served any more")
				}
			}
			refuse.Store(false)
			if n := made.Load() - madeBefore; n != 0 {
				t.Errorf("%d codecs were made for those who were refused", n)
			}
			if _, ok := comeFrom(t, srv, "127.0.0.1"); !ok { // the second and last place is free
				t.Error("the second one was refused")
			}
			if n := len(opened.wait(t, 2)); n != 2 {
				t.Errorf("%d connections were opened, want 2", n)
			}
			s := srv.Stats().Total
			if s.Refused != attempts || s.Opened != 2 || s.Open != 2 || s.Closed != 0 {
				t.Errorf("%d refused, %d opened, %d open, %d closed", s.Refused, s.Opened, s.Open, s.Closed)
			}
			if n := asked.Load(); n != attempts+2 {
				t.Errorf("Allow was asked %d times, want %d", n, attempts+2)
			}
			if (way == "error") != (s.Panics == 0) {
				t.Errorf("%d panics", s.Panics)
			}
		})
	}
}

// Unix sockets have no address, and are not counted under a prefix.
func TestAdmissionOfUnixSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	var asked atomic.Int64
	cfg := listenOne(engine.Handler{Message: echo}, heartbeat.Config{})
	cfg.Listeners[0].Addr = "unix://" + path
	cfg.Admission.PerPrefix = 1
	cfg.Admission.Allow = func(remote netip.AddrPort) error {
		if remote.IsValid() {
			t.Errorf("a Unix socket from %v", remote)
		}
		if asked.Add(1) == 2 {
			return errors.New("not you")
		}
		return nil
	}
	_ = serve(t, cfg)
	for i := range 4 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		hello := frame(t, codec.Data, []byte("hello"))
		_, err = c.Write(hello)
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, len(hello)))
		}
		if (err == nil) != (i != 1) {
			t.Errorf("connection %d: %v", i, err)
		}
	}
}

// Connections count under /32 and /64, and the zone does not matter.
func TestPrefixes(t *testing.T) {
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1:1", "192.0.2.1:2", true},
		{"192.0.2.1:1", "192.0.2.2:1", false},
		{"[2001:db8::1]:1", "[2001:db8::ffff:2]:2", true},
		{"[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false},
		{"[fe80::1%eth0]:1", "[fe80::2%eth1]:1", true},
	} {
		a, b := engine.PrefixOf(netip.MustParseAddrPort(test.a)), engine.PrefixOf(netip.MustParseAddrPort(test.b))
		if (a == b) != test.same || !a.IsValid() || !b.IsValid() {
			t.Errorf("%s counts under %v, %s under %v", test.a, a, test.b, b)
		}
	}
	if p := engine.PrefixOf(netip.AddrPort{}); p.IsValid() {
		t.Errorf("no address counts under %v", p)
	}
}

// As many connections as PerPrefix are open from one address, on all loops
// together, those above are reset; and each that ends makes room for one more,
// however it ends.
func TestPerPrefix(t *testing.T) {
	const most = 3
	for name, test := range map[string]struct{ addr, source, other string }{
		"IPv4":                  {"tcp4://127.0.0.1:0", "127.0.0.2", "127.0.0.3"},
		"IPv4 on a dual socket": {"tcp://:0", "127.0.0.2", "127.0.0.3"},
		"IPv6":                  {"tcp6://[::1]:0", "::1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if test.addr == "tcp6://[::1]:0" {
				ln, err := net.Listen("tcp6", "[::1]:0")
				if err != nil {
					t.Skip("no IPv6 here:", err)
				}
				_ = ln.Close()
			}
			var refuse atomic.Bool
			cfg := listenOne(engine.Handler{
				Open: func(*engine.Conn) error {
					if refuse.Load() {
						return errors.New("Open says no")
					}
					return nil
				},
				Message: func(c *engine.Conn, p []byte) {
					switch string(p) {
					case "close":
						_ = c.Close()
					case "abort":
						_ = c.Abort()
					case "panic":
						panic("as the test wants")
					case "goexit":
						runtime.Goexit()
					}
					_ = c.Send(p)
				},
			}, heartbeat.Config{})
			cfg.Listeners[0].Addr = test.addr
			cfg.Loops = 2
			cfg.Admission.PerPrefix = most
			srv := serve(t, cfg)
			fill := func() (all []*net.TCPConn) {
				t.Helper()
				eventually(t, "nobody is connected", func() bool { return srv.Stats().Total.Open == 0 })
				for i := range most {
					c, ok := comeFrom(t, srv, test.source)
					if !ok {
						t.Fatalf("connection %d of %d was refused", i, most)
					}
					all = append(all, c)
				}
				return all
			}
			refused := uint64(0)
			full := func() {
				t.Helper()
				for range 3 {
					refused++
					if _, ok := comeFrom(t, srv, test.source); ok {
						t.Fatal("more than PerPrefix were let in")
					}
				}
			}
			for _, way := range []string{"fin", "reset", "close", "abort", "panic", "goexit", "garbage"} {
				all := fill()
				full()
				if test.other != "" {
					c, ok := comeFrom(t, srv, test.other)
					if !ok {
						t.Fatal("another address was refused")
					}
					_ = c.Close()
				}
				for _, c := range all {
					switch way {
					case "fin":
					case "reset":
						_ = c.SetLinger(0)
					case "garbage":
						write(t, c, []byte{0xff, 0xff, 0xff, 0xff, 0xff})
					default:
						write(t, c, frame(t, codec.Data, []byte(way)))
						_, _ = c.Read(make([]byte, 1))
					}
					_ = c.Close()
				}
				all = fill()
				full()
				// One goes, and one comes.
				_ = all[0].Close()
				eventually(t, "one has left", func() bool { return srv.Stats().Total.Open == most-1 })
				again, ok := comeFrom(t, srv, test.source)
				if !ok {
					t.Fatalf("%s: the place of one that left is not free", way)
				}
				full()
				for _, c := range append(all, again) {
					_ = c.Close()
				}
			}
			eventually(t, "nobody is connected", func() bool { return srv.Stats().Total.Open == 0 })
			refuse.Store(true)
			for range 2 * most {
				c, err := dialFrom(t, srv, test.source)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("refused by Open's error: %v", err)
				}
				_ = c.Close()
				eventually(t, "it has left", func() bool { return srv.Stats().Total.Open == 0 })
			}
			refuse.Store(false)
			for _, c := range fill() {
				_ = c.Close()
			}
			if n := srv.Stats().Total.Refused; n != refused {
				t.Errorf("%d refused, want %d", n, refused)
			}
		})
	}
}

// Whenever they are asked for, never more than Burst and what Rate allows for
// the time are taken; one that has to wait is told exactly how long; and all of
// Burst is there after a pause.
func TestBucket(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		rate := int(math.Exp(random.Float64() * math.Log(1e6)))
		burst := 1 + random.IntN(50)
		if random.IntN(4) == 0 {
			burst = 0 // as it comes
		}
		b, err := engine.NewBucket(rate, burst)
		if err != nil {
			t.Fatal(err)
		}
		burst = b.Burst()
		step := int64(time.Second) / int64(rate)
		now := random.Int64N(1 << 50)
		for range burst { // a full bucket
			if wait := b.Take(now); wait != 0 {
				t.Fatalf("rate %d, burst %d: full, and one has to wait for %v", rate, burst, wait)
			}
		}
		if b.Take(now) == 0 {
			t.Fatalf("rate %d: more than %d at once", rate, burst)
		}
		var taken []int64
		for range burst {
			taken = append(taken, now)
		}
		for range 2000 {
			switch random.IntN(6) {
			case 0: // a pause
				now += random.Int64N(int64(burst+2) * step * 2)
			case 1, 2:
				now += random.Int64N(step + 1)
			}
			wait := b.Take(now)
			switch {
			case wait < 0:
				t.Fatalf("rate %d, burst %d: wait for %v", rate, burst, wait)
			case wait == 0 && random.IntN(5) == 0:
				b.GiveBack()
				if b.Take(now) != 0 {
					t.Fatalf("rate %d, burst %d: what was given back is not there", rate, burst)
				}
				fallthrough
			case wait == 0:
				taken = append(taken, now)
			case random.IntN(3) == 0: // wait for as long as it says
				if wait > 1 && b.Take(now+int64(wait)-1) == 0 {
					t.Fatalf("rate %d, burst %d: one that had to wait for %v did not", rate, burst, wait)
				}
				now += int64(wait)
				if again := b.Take(now); again != 0 {
					t.Fatalf("rate %d, burst %d: after waiting for %v, wait for %v", rate, burst, wait, again)
				}
				taken = append(taken, now)
			}
		}
		for i := range taken {
			for j := i + burst; j < len(taken); j++ {
				if most := float64(burst) + float64(taken[j]-taken[i])/float64(step); float64(j-i+1) > most+1e-6 {
					t.Fatalf("rate %d, burst %d: %d within %v", rate, burst, j-i+1, time.Duration(taken[j]-taken[i]))
				}
			}
		}
	}
}

// Loops that ask at once get no more than there are, and extremes are what they
// seem to be.
func TestBucketOfManyLoops(t *testing.T) {
	for range 50 {
		b, err := engine.NewBucket(10, 100)
		if err != nil {
			t.Fatal(err)
		}
		var got atomic.Int64
		var loops sync.WaitGroup
		for range 4 {
			loops.Go(func() {
				for i := range 100 {
					if b.Take(1_000_000) == 0 {
						if i%10 == 0 {
							b.GiveBack()
						} else {
							got.Add(1)
						}
					}
				}
			})
		}
		loops.Wait()
		for b.Take(1_000_000) == 0 {
			got.Add(1)
		}
		if n := got.Load(); n != 100 {
			t.Fatalf("%d of 100 were taken", n)
		}
	}
	for _, test := range []struct{ rate, burst int }{{1, math.MaxInt}, {1_000_000_000, 1}, {1, 1}, {1, math.MaxInt / 2}} {
		b, err := engine.NewBucket(test.rate, test.burst)
		if err != nil {
			continue // refused is well, too
		}
		for now := range int64(min(test.burst, 100)) {
			if wait := b.Take(now); wait != 0 {
				t.Errorf("rate %d, burst %d: the %dth has to wait for %v", test.rate, test.burst, now+1, wait)
				break
			}
		}
	}
	if b, err := engine.NewBucket(0, 0); err != nil || b.Take(0) != 0 {
		t.Error("without Rate there is something to wait for")
	}
}

// A crowd of newcomers is let in at Rate after Burst, and all of them in the end.
// Who is connected is served meanwhile.
func TestRate(t *testing.T) {
	const rate, burst, crowd = 40, 5, 40
	type opening struct {
		at   time.Duration
		loop int
	}
	openings := make(chan opening, 1000)
	cfg := listenOne(engine.Handler{
		Open: func(c *engine.Conn) error {
			openings <- opening{c.Loop().Now(), c.Loop().Index()} // when it was accepted
			return nil
		},
		Message: echo,
	}, heartbeat.Config{})
	cfg.Loops = 1
	cfg.Admission.Rate, cfg.Admission.Burst = rate, burst
	srv := serve(t, cfg)
	established := rawDial(t, srv)
	if !served(t, established) {
		t.Fatal("refused")
	}
	all := []opening{within(t, "the first one", openings)}
	var clients sync.WaitGroup
	release := holdLoop(t, connOf(t, srv, established)) // so that none is let in before all are there
	for range crowd {
		c := rawDial(t, srv) // the kernel lets them in
		clients.Go(func() {
			if !served(t, c) {
				t.Error("a newcomer was refused")
			}
		})
	}
	release()
	echoes := 0
	for len(all) < 1+crowd {
		if !served(t, established) {
			t.Fatal("who was connected is not served any more")
		}
		if len(all)+len(openings) < 1+crowd {
			echoes++
		}
		for len(openings) > 0 {
			all = append(all, <-openings)
		}
		time.Sleep(time.Millisecond)
	}
	clients.Wait()
	if echoes < 3 {
		t.Errorf("%d echoes while others had to wait", echoes)
	}
	for i := range all {
		for j := i + burst; j < len(all); j++ {
			d := all[j].at - all[i].at
			if most := burst + rate*d.Seconds(); float64(j-i+1) > most+1e-6 {
				t.Fatalf("%d were let in within %v, want at most %.1f", j-i+1, d, most)
			}
		}
	}
	s := srv.Stats().Total
	if s.Refused != 0 || s.AcceptErrors != 0 || s.Parks == 0 {
		t.Errorf("%d refused, %d errors, %d times parked", s.Refused, s.AcceptErrors, s.Parks)
	}
	// Nobody is at the door: nothing goes on.
	parks := func() uint64 { return srv.Stats().Total.Parks }
	eventually(t, "the listener is at rest", func() bool {
		before := parks()
		time.Sleep(200 * time.Millisecond)
		return parks() == before
	})
}

// After a pause as many as Burst come in one after another without a wait: an
// accept that found nobody costs nothing.
func TestBurst(t *testing.T) {
	const burst = 8
	cfg := listenOne(engine.Handler{Message: echo}, heartbeat.Config{})
	cfg.Loops = 1
	cfg.Admission.Rate, cfg.Admission.Burst = 1, burst
	srv := serve(t, cfg)
	began := time.Now()
	all := crowdOf(t, srv, burst-1) // the last one empties the bucket
	if n := srv.Stats().Total.Parks; n > 0 {
		t.Errorf("the listener waited %d times", n)
	}
	all = append(all, crowdOf(t, srv, 2)...) // and this is one more
	soon := time.Since(began) < time.Second  // before there is room for another
	if n := srv.Stats().Total.Parks; n == 0 && soon {
		t.Error("more than Burst were let in")
	}
	for _, c := range all {
		if !served(t, c) {
			t.Error("refused")
		}
	}
}

// The same on several loops, which have one allowance together.
func TestRateOfLoops(t *testing.T) {
	const rate, burst, crowd = 50, 4, 40
	var mu sync.Mutex
	var at []time.Duration
	cfg := listenOne(engine.Handler{
		Open: func(c *engine.Conn) error {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, c.Loop().Now())
			return nil
		},
		Message: echo,
	}, heartbeat.Config{})
	cfg.Loops = 3
	cfg.Admission.Rate, cfg.Admission.Burst = rate, burst
	srv := serve(t, cfg)
	began := time.Now()
	var clients sync.WaitGroup
	for range crowd {
		c := rawDial(t, srv)
		clients.Go(func() {
			if !served(t, c) {
				t.Error("a newcomer was refused")
			}
		})
	}
	clients.Wait()
	if took, least := time.Since(began), time.Duration(float64(crowd-burst-1)/rate*float64(time.Second)); took < least {
		t.Errorf("%d were let in within %v, want at least %v", crowd, took, least)
	}
}

// crowdOf connects n peers and has each served, one after another.
func crowdOf(t testing.TB, srv *engine.Server, n int) (all []*net.TCPConn) {
	t.Helper()
	for range n {
		c := rawDial(t, srv)
		if !served(t, c) {
			t.Fatal("refused")
		}
		all = append(all, c)
	}
	return all
}

// With MaxConns reached, a newcomer gets the place of those of which nothing was
// heard for longest; those of which something was heard of late stay.
func TestEvictIdle(t *testing.T) {
	const most, active, idleFor = 40, 20, time.Second
	cs := newCloses()
	cfg := listenOne(engine.Handler{Message: echo, Close: cs.note}, heartbeat.Config{})
	cfg.Loops = 1
	cfg.MaxConns = most
	cfg.Admission.EvictIdle = idleFor
	srv := serve(t, cfg)
	all := crowdOf(t, srv, most-1) // one place is left, so that nobody has to go yet
	idle, busy := all[active:], all[:active]
	byPeer := make(map[string]int)
	for i, c := range idle {
		byPeer[c.LocalAddr().String()] = i
	}
	// The idle ones have been so for ever shorter times, and the busy ones are not.
	for i := range idle {
		if !served(t, idle[len(idle)-1-i]) {
			t.Fatal("closed before the time")
		}
	}
	for began := time.Now(); time.Since(began) < idleFor+500*time.Millisecond; time.Sleep(50 * time.Millisecond) {
		for _, c := range busy {
			if !served(t, c) {
				t.Fatal("an active connection was closed")
			}
		}
	}
	cs.none(t, time.Millisecond) // nobody needed their places so far
	newcomers := crowdOf(t, srv, 3)
	evicted := int(srv.Stats().Total.Evicted)
	if evicted == 0 || evicted >= len(idle) {
		t.Fatalf("%d were evicted, which proves nothing", evicted)
	}
	for range evicted {
		x := cs.next(t)
		if engine.ReasonOf(x.err) != engine.Overloaded {
			t.Errorf("closed with %v", x.err)
		}
		i, ok := byPeer[x.c.RemoteAddr().String()]
		if !ok {
			t.Error("an active connection made room")
		} else if i < len(idle)-evicted {
			t.Errorf("connection %d, counted from the least idle, made room, and %d did so", i, evicted)
		}
	}
	for _, c := range busy {
		if !served(t, c) {
			t.Error("an active connection was closed")
		}
	}
	for _, c := range newcomers {
		if !served(t, c) {
			t.Error("a newcomer was closed")
		}
	}
	s := srv.Stats().Total
	if s.Reasons[engine.Overloaded] != s.Evicted {
		t.Errorf("%d evicted, %d closed with Overloaded", s.Evicted, s.Reasons[engine.Overloaded])
	}
}

// Connections that are idle do no harm while nobody needs their place.
func TestIdleOnesStayWhileNobodyComes(t *testing.T) {
	cs := newCloses()
	cfg := listenOne(engine.Handler{Message: echo, Close: cs.note}, heartbeat.Config{})
	cfg.Loops = 1
	cfg.MaxConns = 4
	cfg.Admission.EvictIdle = 100 * time.Millisecond
	srv := serve(t, cfg)
	all := crowdOf(t, srv, 3)
	time.Sleep(2 * cfg.Admission.EvictIdle)
	all = append(all, crowdOf(t, srv, 1)...) // the last place
	cs.none(t, 1500*time.Millisecond)
	for _, c := range all {
		if !served(t, c) {
			t.Error("closed, and nobody had come")
		}
	}
	if n := srv.Stats().Total.Evicted; n > 0 {
		t.Errorf("%d evicted", n)
	}
}

// While none is idle, newcomers wait; when one leaves, or has become idle, they
// get its place.
func TestNewcomersWaitForIdleOnes(t *testing.T) {
	for name, leave := range map[string]bool{"leaves": true, "becomes idle": false} {
		t.Run(name, func(t *testing.T) {
			const most = 4
			cs := newCloses()
			cfg := listenOne(engine.Handler{Message: echo, Close: cs.note}, heartbeat.Config{})
			cfg.Loops = 1
			cfg.MaxConns = most
			cfg.Admission.EvictIdle = 2 * time.Second
			srv := serve(t, cfg)
			all := crowdOf(t, srv, most)
			newcomer := rawDial(t, srv)
			write(t, newcomer, frame(t, codec.Data, []byte("hello")))
			eventually(t, "the listener is parked", func() bool { return srv.Stats().Total.Parks > 0 })
			for began := time.Now(); time.Since(began) < 2500*time.Millisecond; time.Sleep(50 * time.Millisecond) {
				for _, c := range all {
					if !served(t, c) {
						t.Fatal("an active connection was closed")
					}
				}
			}
			if n := srv.Stats().Total.Opened; n != most {
				t.Fatalf("%d were opened with room for %d", n, most)
			}
			if leave {
				_ = all[0].Close()
				cs.reason(t, engine.PeerClosed)
				all = all[1:]
			}
			expect(t, newcomer, frame(t, codec.Data, []byte("hello")))
			if leave {
				for _, c := range append(all, newcomer) {
					if !served(t, c) {
						t.Error("an active connection was closed")
					}
				}
			} else {
				cs.reason(t, engine.Overloaded)
			}
		})
	}
}

// Idle connections make room whichever loop they are on.
func TestEvictIdleOfOtherLoop(t *testing.T) {
	const most = 60
	path := filepath.Join(t.TempDir(), "s")
	cfg := listenOne(engine.Handler{Message: echo}, heartbeat.Config{})
	cfg.Listeners[0].Addr = "unix://" + path // one listener, and connections are handed over
	cfg.Loops = 2
	cfg.MaxConns = most
	cfg.Admission.EvictIdle = time.Second
	opened := new(conns)
	cfg.Handler.Open = func(c *engine.Conn) error {
		_ = c.Send(fmt.Append(nil, "loop ", c.Loop().Index()))
		return opened.open(c)
	}
	_ = serve(t, cfg)
	unixDial := func() (net.Conn, error) {
		c, err := net.Dial("unix", path)
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		}
		return c, err
	}
	greeting := make([]byte, len(frame(t, codec.Data, []byte("loop 0"))))
	byLoop := make(map[byte][]net.Conn)
	for range most {
		c, err := unixDial()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, greeting); err != nil {
			t.Fatal(err)
		}
		loop := greeting[len(greeting)-1] - '0'
		byLoop[loop] = append(byLoop[loop], c)
	}
	if len(byLoop[1]) == 0 {
		t.Fatal("no connection was handed over")
	}
	hello := frame(t, codec.Data, []byte("hello"))
	stop := make(chan struct{})
	var active sync.WaitGroup
	active.Go(func() { // those of the loop that accepts
		answer := make([]byte, len(hello))
		for {
			for _, c := range byLoop[0] {
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				if _, err := c.Write(hello); err != nil {
					t.Error(err)
					return
				}
				if _, err := io.ReadFull(c, answer); err != nil {
					t.Error(err)
					return
				}
			}
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	defer active.Wait()
	defer close(stop)
	time.Sleep(cfg.Admission.EvictIdle + 500*time.Millisecond)
	c, err := unixDial()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, greeting); err != nil {
		t.Errorf("a newcomer was not let in, and %d connections of another loop are idle: %v", len(byLoop[1]), err)
	}
}

// serverProcess is a server in a process of its own.
type serverProcess struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Scanner
	port  int
}

func startProcess(t testing.TB, test string, env ...string) *serverProcess {
	t.Helper()
	p := &serverProcess{t: t, cmd: exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.v")}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = os.Stderr
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); _ = p.cmd.Wait() })
	p.out = bufio.NewScanner(stdout)
	for p.out.Scan() {
		if n, _ := fmt.Sscanf(p.out.Text(), "listening %d", &p.port); n == 1 {
			return p
		}
	}
	t.Fatalf("the server ended: %v", p.out.Err())
	return nil
}

func (p *serverProcess) stats() (s engine.LoopStats) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.stdin); err != nil {
		p.t.Fatal(err)
	}
	for p.out.Scan() {
		line, ok := strings.CutPrefix(p.out.Text(), "stats ")
		if !ok {
			continue
		}
		raw := struct {
			*engine.LoopStats
			Reasons any // its keys are written as names
		}{LoopStats: &s}
		if err := json.Unmarshal([]byte(line), &raw); err != nil {
			p.t.Fatal(err)
		}
		return s
	}
	p.t.Fatalf("the server ended: %v", p.out.Err())
	return s
}

// end asks the server to shut down, and checks that it has left nothing.
func (p *serverProcess) end() {
	p.t.Helper()
	_ = p.stdin.Close()
	var last string
	for p.out.Scan() {
		last = p.out.Text()
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("the server's process: %v; its last words: %s", err, last)
	}
}

func (p *serverProcess) dial() (*net.TCPConn, error) {
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.port))
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return c.(*net.TCPConn), nil
}

// A server with few descriptors and no limit of its own, which evicts.
func TestMain_evictingServer(t *testing.T) {
	limit, err := strconv.ParseUint(os.Getenv("PULSEWHEEL_TEST_EVICT_NOFILE"), 10, 64)
	if err != nil {
		t.Skip("run by TestEvictIdleOnFileLimit in a process of its own")
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		t.Fatal(err)
	}
	cfg := listenOne(engine.Handler{Message: echo}, heartbeat.Config{})
	cfg.MaxConns = -1
	cfg.Loops = 1
	cfg.Admission.EvictIdle, _ = time.ParseDuration(os.Getenv("PULSEWHEEL_TEST_EVICT_IDLE"))
	cfg.Logger = slog.New(slog.DiscardHandler)
	srv, err := engine.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("listening", srv.Port(0))
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			line, _ := json.Marshal(srv.Stats().Total)
			fmt.Printf("stats %s\n", line)
		}
	}()
	if err := srv.Serve(ctx); err != nil {
		t.Fatal(err)
	}
}

// When descriptors run out, the idle make room, so that every newcomer is served;
// active connections never notice.
func TestEvictIdleOnFileLimit(t *testing.T) {
	const files, active, newcomers = 128, 30, 120
	p := startProcess(t, "TestMain_evictingServer", fmt.Sprint("PULSEWHEEL_TEST_EVICT_NOFILE=", files), "PULSEWHEEL_TEST_EVICT_IDLE=1s")
	hello := frame(t, codec.Data, []byte("hello"))
	stop := make(chan struct{})
	var keepers sync.WaitGroup
	for range active {
		c, err := p.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		keepers.Go(func() {
			answer := make([]byte, len(hello))
			for {
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				_, err := c.Write(hello)
				if err == nil {
					_, err = io.ReadFull(c, answer)
				}
				if err != nil {
					t.Errorf("an active connection: %v", err)
					return
				}
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	answer := make([]byte, len(hello))
	for i := range newcomers {
		c, err := p.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		write(t, c, hello)
		if _, err := io.ReadFull(c, answer); err != nil {
			t.Fatalf("newcomer %d of %d: %v", i, newcomers, err)
		}
	}
	close(stop)
	keepers.Wait()
	s := p.stats()
	if s.AcceptErrors == 0 || s.Evicted < active+newcomers-files || s.Evicted > newcomers {
		t.Errorf("%d evicted, %d errors", s.Evicted, s.AcceptErrors)
	}
	if s.Opened != active+newcomers || s.Opened != s.Closed+uint64(s.Open) || s.Closed != s.Evicted {
		t.Errorf("%d opened, %d closed, %d open, %d evicted", s.Opened, s.Closed, s.Open, s.Evicted)
	}
	p.end()
}

// Ten thousand come at once, and leave at once, in every way: the counts add up,
// nothing is left, and the server goes on.
func TestFlood(t *testing.T) {
	const callers, each = 50, 200
	p := startProcess(t, "TestMain_limitedServer", "PULSEWHEEL_TEST_NOFILE=20000", "PULSEWHEEL_TEST_MAXCONNS=0")
	hello := frame(t, codec.Data, []byte("hello"))
	var lost atomic.Int64
	flood := func(leave func(i int, c *net.TCPConn), hold bool) {
		var here, gone sync.WaitGroup
		leaveNow := make(chan struct{})
		for range callers {
			here.Add(1)
			gone.Go(func() {
				var mine []*net.TCPConn
				for i := range each {
					c, err := p.dial()
					if err != nil {
						lost.Add(1)
						continue
					}
					if hold {
						mine = append(mine, c)
						_, _ = c.Write(hello)
						continue
					}
					leave(i, c)
				}
				answer := make([]byte, len(hello))
				for _, c := range mine {
					if _, err := io.ReadFull(c, answer); err != nil {
						t.Error(err)
					}
				}
				here.Done()
				<-leaveNow
				for i, c := range mine {
					leave(i, c)
				}
			})
		}
		here.Wait()
		if hold {
			if n := p.stats().Open; n != callers*each {
				t.Errorf("%d connections are open, want %d", n, callers*each)
			}
		}
		close(leaveNow)
		gone.Wait()
	}
	leave := func(i int, c *net.TCPConn) {
		switch i % 4 {
		case 0:
		case 1:
			_ = c.SetLinger(0)
		case 2:
			_, _ = c.Write(hello[:3])
		case 3:
			_, _ = c.Write(hello)
			_ = c.SetLinger(0)
		}
		_ = c.Close()
	}
	flood(leave, true)
	held := p.stats().Opened
	if held != callers*each {
		t.Errorf("%d were opened, want %d", held, callers*each)
	}
	flood(leave, false)
	var s engine.LoopStats
	eventually(t, "everybody has left", func() bool {
		s = p.stats()
		return s.Open == 0 && s.Opened+s.AcceptErrors == 2*callers*each
	})
	if s.Opened != s.Closed {
		t.Errorf("%d opened, %d closed", s.Opened, s.Closed)
	}
	if n := lost.Load(); n > 0 {
		t.Errorf("%d were not let in", n)
	}
	if s.Panics > 0 || s.Refused > 0 || s.Evicted > 0 {
		t.Errorf("%d panics, %d refused, %d evicted", s.Panics, s.Refused, s.Evicted)
	}
	c, err := p.dial()
	if err != nil {
		t.Fatal(err)
	}
	write(t, c, hello)
	expect(t, c, hello)
	_ = c.Close()
	p.end()
}

// goexitFactory makes codecs that end the goroutine that asks for a
// connection's.
type goexitFactory struct{ calls *atomic.Int64 }

func (f goexitFactory) Codec() (codec.Codec, error) {
	c, err := codec.Native{}.Codec()
	return goexitCodec{c, f.calls}, err
}

type goexitCodec struct {
	codec.Codec
	calls *atomic.Int64
}

func (c goexitCodec) PerConn() codec.Codec {
	if n := c.calls.Add(1); n > 1 && n <= 11 { // the first is the configuration's check
		runtime.Goexit()
	}
	return c.Codec.PerConn()
}

// A codec that ends the loop's goroutine costs its connection, and no place.
func TestGoexitInPerConn(t *testing.T) {
	cfg := listenOne(engine.Handler{Message: echo}, heartbeat.Config{})
	cfg.Listeners[0].Codec = goexitFactory{new(atomic.Int64)}
	cfg.Loops = 1
	cfg.MaxConns = 2
	cfg.Admission.PerPrefix = 2
	srv := serve(t, cfg)
	for range 10 {
		c, err := dialFrom(t, srv, "127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Read(make([]byte, 1))
		if netErr, ok := errors.AsType[net.Error](err); err == nil || ok && netErr.Timeout() {
			t.Fatalf("a connection without a codec: %v", err)
		}
	}
	for range 2 {
		if _, ok := comeFrom(t, srv, "127.0.0.1"); !ok {
			t.Error("a place is lost")
		}
	}
	if s := srv.Stats().Total; s.Opened != 2 || s.Panics != 10 {
		t.Errorf("%d opened, %d panics", s.Opened, s.Panics)
	}
}
