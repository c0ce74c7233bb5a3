package sim_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/engine/internal/poll"
	"github.com/pulsewheel/pulsewheel/engine/internal/sim"
	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// echoLoop is the smallest loop there can be: it accepts, and sends back what
// it reads. Its world has no Settle, because it has no other goroutines.
type echoLoop struct {
	t    testing.TB
	k    *sim.Kernel
	p    poll.Poller
	lfd  int
	addr sys.Addr
	done chan struct{}

	pending  map[int][]byte // read and not yet sent back
	eof      map[int]bool
	goexit   map[int]bool // end the goroutine when one of these is ready
	onReady  func(fd int, ev poll.Events)
	onTimer  func()
	expired  []int64
	woken    int
	stopping bool
	ready    int
	buf      [4096]byte
}

func newEchoLoop(t testing.TB, k *sim.Kernel) *echoLoop {
	t.Helper()
	fds, bound, err := k.Listen(sys.Addr{Network: "tcp", Address: ":7000"}, 1, sys.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := k.OpenPoller()
	if err != nil {
		t.Fatal(err)
	}
	e := &echoLoop{
		t: t, k: k, p: p, lfd: fds[0], addr: bound, done: make(chan struct{}),
		pending: make(map[int][]byte), eof: make(map[int]bool), goexit: make(map[int]bool),
	}
	if err := p.AddListener(e.lfd); err != nil {
		t.Fatal(err)
	}
	go e.run()
	sim.AwaitRun(p)
	return e
}

func (e *echoLoop) run() {
	returned := false
	defer func() {
		if !returned {
			go func() {
				for fd := range e.pending { // what the batch held is not reported again
					e.echo(fd)
				}
				e.run()
			}()
			return
		}
		for fd := range e.pending {
			_ = e.k.Close(fd)
		}
		_ = e.k.Close(e.lfd)
		_ = e.p.Close()
		close(e.done)
	}()
	err := e.p.Run(e)
	returned = true
	if err != nil {
		e.t.Error(err)
	}
}

// stop ends the loop and reports what it left behind.
func (e *echoLoop) stop(w *sim.World) {
	e.t.Helper()
	e.onReady, e.stopping = nil, true
	w.After(0, func() { _ = e.p.Wake() })
	w.RunFor(time.Second)
	select {
	case <-e.done:
	case <-time.After(10 * time.Second):
		e.t.Fatal("the loop did not end")
	}
	for _, v := range w.Violations() {
		e.t.Error("violation ", v)
	}
	for _, l := range w.Leaks() {
		e.t.Error("leak: ", l)
	}
	if e.t.Failed() {
		e.t.Log("\n" + w.Trace())
	}
}

func (e *echoLoop) Woken() {
	e.woken++
	if e.stopping {
		e.p.Stop()
	}
}

func (e *echoLoop) Coming(int) {}

func (e *echoLoop) Served() poll.Wait { return 0 }

func (e *echoLoop) Expired() {
	e.expired = append(e.expired, e.k.Now())
	if e.onTimer != nil {
		e.onTimer()
	}
}

func (e *echoLoop) Ready(fd int, ev poll.Events) {
	e.ready++
	if e.goexit[fd] {
		delete(e.goexit, fd)
		runtime.Goexit()
	}
	if e.onReady != nil {
		e.onReady(fd, ev)
	}
	if fd == e.lfd {
		for {
			nfd, _, err := e.k.Accept(fd)
			if err != nil {
				return // it is reported again
			}
			if err := e.p.Add(nfd); err != nil {
				e.t.Error(err)
			}
			e.pending[nfd] = nil
			e.echo(nfd)
		}
	}
	if _, ok := e.pending[fd]; ok {
		e.echo(fd)
	}
}

func (e *echoLoop) echo(fd int) {
	for !e.eof[fd] {
		n, err := e.k.Read(fd, e.buf[:])
		if err == error(sys.EAGAIN) {
			break
		}
		if err != nil {
			e.close(fd)
			return
		}
		if n == 0 {
			e.eof[fd] = true
			break
		}
		e.pending[fd] = append(e.pending[fd], e.buf[:n]...)
	}
	for len(e.pending[fd]) > 0 {
		n, err := e.k.Write(fd, e.pending[fd])
		if err == error(sys.EAGAIN) {
			if err := e.p.Writing(fd, true); err != nil {
				e.t.Error(err)
			}
			if e.eof[fd] {
				_ = e.p.Pause(fd)
			}
			return
		}
		if err != nil {
			e.close(fd)
			return
		}
		e.pending[fd] = e.pending[fd][n:]
	}
	if e.eof[fd] {
		e.close(fd)
		return
	}
	_ = e.p.Writing(fd, false)
}

func (e *echoLoop) close(fd int) {
	delete(e.pending, fd)
	delete(e.eof, fd)
	if err := e.k.Close(fd); err != nil {
		e.t.Error(err)
	}
}

func url(k *sim.Kernel) string { return "tcp://" + netip.AddrPortFrom(k.Addr(), 7000).String() }

var nasty = sim.Faults{
	ShortRead: 300, ShortWrite: 300, AgainRead: 200, AgainWrite: 200,
	AcceptAgain: 100, AcceptNFile: 50, AcceptNoBufs: 50, AcceptNoMem: 50,
	SpuriousHint: 200, SmallBatch: 300, Shuffle: 500, Preempt: 50, Hiccup: 20,
}

// transfer lets peers send random amounts through an echo loop on a nasty
// kernel, and checks that every byte comes back.
func transfer(t testing.TB, seed uint64, kqueue bool) (hash uint64) {
	w := sim.New(sim.Config{Seed: seed, Trace: testing.Verbose(), Buffers: sim.Range{Min: 512, Max: 32 << 10}})
	k := w.Machine(sim.Machine{Name: "server", Kqueue: kqueue, Faults: nasty})
	e := newEchoLoop(t, k)
	for i := range 5 {
		size := 1 + w.Int(100_000)
		want := make([]byte, size)
		for j := range want {
			want[j] = byte(j*7 + j>>8 + i)
		}
		var got []byte
		p := w.Dial(url(k))
		p.OnData = func(b []byte) { got = append(got, b...) }
		p.OnClose = func(err error) {
			if err != io.EOF {
				t.Errorf("seed %d: peer %d ended with %v", seed, i, err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("seed %d: peer %d: %d bytes came back of %d, or differ", seed, i, len(got), len(want))
			}
		}
		p.Send(want[:size/2])
		w.After(time.Duration(w.Int(1e9)), func() { p.Send(want[size/2:]); p.CloseWrite() })
		defer func() {
			if !p.Closed() {
				t.Errorf("seed %d: peer %d is still open with %d bytes of %d", seed, i, len(got), size)
			}
		}()
	}
	w.RunFor(time.Minute)
	hash = w.TraceHash() // before the loop ends, which the world does not wait for
	e.stop(w)
	return hash
}

func TestTransfer(t *testing.T) {
	for seed := range uint64(100) {
		for _, kqueue := range []bool{false, true} {
			transfer(t, seed, kqueue)
			if t.Failed() {
				t.FailNow()
			}
		}
	}
}

func TestDeterministic(t *testing.T) {
	hashes := make(map[uint64]bool)
	for seed := range uint64(10) {
		for _, kqueue := range []bool{false, true} {
			a, b := transfer(t, seed, kqueue), transfer(t, seed, kqueue)
			if a != b {
				t.Errorf("seed %d, kqueue %v: two runs differ", seed, kqueue)
			}
			if hashes[a] {
				t.Errorf("seed %d, kqueue %v: same as another", seed, kqueue)
			}
			hashes[a] = true
		}
	}
}

// A loop that ends its goroutine in a callback gives the baton back, and the
// goroutine that takes over is waited for.
func TestGoexit(t *testing.T) {
	w := sim.New(sim.Config{Seed: 1, Trace: true})
	k := w.Machine(sim.Machine{})
	e := newEchoLoop(t, k)
	var got string
	p := w.Dial(url(k))
	p.OnData = func(b []byte) { got += string(b) }
	for i := range 5 {
		w.RunFor(time.Second)
		for fd := range e.pending {
			e.goexit[fd] = true
		}
		p.Send(fmt.Append(nil, i))
	}
	w.RunFor(time.Second)
	if got != "01234" {
		t.Errorf("got %q", got)
	}
	if n := w.Counts()["Goexit in a callback"]; n != 5 {
		t.Errorf("%d Goexits", n)
	}
	p.Close()
	w.RunFor(time.Second)
	e.stop(w)
}

// A number that was closed is reused at once, and a batch holds the events of
// both owners.
func TestNumbersAreReused(t *testing.T) {
	reused := 0
	for seed := range uint64(200) {
		w := sim.New(sim.Config{Seed: seed})
		k := w.Machine(sim.Machine{Faults: sim.Faults{Shuffle: 1000}})
		e := newEchoLoop(t, k)
		peers := make([]*sim.Peer, 4)
		for i := range peers {
			peers[i] = w.Dial(url(k))
		}
		w.RunFor(time.Second)
		// All at once while the machine stands still: data on every
		// connection, and a new one in the queue.
		k.Stall(time.Second)
		for _, p := range peers {
			p.Send([]byte("x"))
		}
		w.Dial(url(k))
		first := true
		e.onReady = func(fd int, _ poll.Events) {
			if fd != e.lfd && first {
				first = false
				for fd := range e.pending {
					e.close(fd)
				}
			}
		}
		w.RunFor(2 * time.Second)
		e.onReady = nil
		counts := w.Counts()
		if counts["event of a closed descriptor"] == 0 {
			t.Fatalf("seed %d: no stale event", seed)
		}
		reused += counts["event of a reused descriptor"]
		e.stop(w)
	}
	if reused == 0 {
		t.Error("no event of a reused descriptor in 200 seeds")
	}
}

func TestDescriptorLimit(t *testing.T) {
	w := sim.New(sim.Config{Seed: 1})
	k := w.Machine(sim.Machine{MaxFiles: 10})
	e := newEchoLoop(t, k)
	peers := make([]*sim.Peer, 5)
	for i := range peers {
		peers[i] = w.Dial(url(k))
	}
	w.RunFor(50 * time.Microsecond)
	w.Await(time.Second, func() bool { return len(e.pending) == 2 })
	w.RunFor(5 * time.Millisecond)
	if len(e.pending) != 2 || k.Files() != 7 { // 4 of the poller, 1 listener
		t.Errorf("%d connections, %d descriptors", len(e.pending), k.Files())
	}
	k.SetMaxFiles(100)
	w.RunFor(time.Second)
	if len(e.pending) != 5 {
		t.Errorf("%d connections once there is room", len(e.pending))
	}
	if w.Counts()["accept: EMFILE"] == 0 {
		t.Error("no EMFILE")
	}
	if len(w.Violations()) > 0 && !strings.Contains(w.Violations()[0], "spins") {
		t.Error(w.Violations())
	}
}

func TestTimerIsLateButNeverEarly(t *testing.T) {
	for _, kqueue := range []bool{false, true} {
		for seed := range uint64(50) {
			w := sim.New(sim.Config{Seed: seed})
			k := w.Machine(sim.Machine{Kqueue: kqueue, Faults: sim.Faults{Hiccup: 100}})
			e := newEchoLoop(t, k)
			var due []int64
			e.onTimer = func() {
				at := k.Now() + int64(w.Int(50e6))
				due = append(due, at)
				if err := e.p.Arm(at); err != nil {
					t.Error(err)
				}
			}
			w.After(0, func() { _ = e.p.Wake() })
			w.RunFor(time.Second)
			start := k.Now() + 1e9
			if err := armFromOutside(e, start); err != nil {
				t.Fatal(err)
			}
			w.RunFor(20 * time.Second)
			due = append([]int64{start}, due...)
			if len(e.expired) < 100 {
				t.Fatalf("seed %d: %d expiries", seed, len(e.expired))
			}
			for i, at := range e.expired {
				if late := at - due[i]; late < 0 || late > int64(50*time.Millisecond) {
					t.Fatalf("seed %d: expiry %d is %v late", seed, i, time.Duration(late))
				}
			}
			if k.MaxLate() <= 0 {
				t.Error("MaxLate is not measured")
			}
		}
	}
}

// armFromOutside arms the first timer on the loop's own goroutine, by way of a
// connection's first event.
func armFromOutside(e *echoLoop, at int64) error {
	var err error
	armed := false
	e.onReady = func(int, poll.Events) {
		if !armed {
			armed = true
			err = e.p.Arm(at)
		}
	}
	w := sim.WorldOf(e.k)
	w.Dial(url(e.k))
	w.RunFor(100 * time.Millisecond)
	if !armed {
		return errors.New("not armed")
	}
	return err
}

// Wakes made before Woken runs share one run; one made in it gets its own.
func TestWakesAreShared(t *testing.T) {
	for _, kqueue := range []bool{false, true} {
		w := sim.New(sim.Config{Seed: 1})
		k := w.Machine(sim.Machine{Kqueue: kqueue})
		e := newEchoLoop(t, k)
		w.RunFor(time.Millisecond)
		for range 10 {
			_ = e.p.Wake()
		}
		w.RunFor(time.Second)
		if e.woken != 1 {
			t.Errorf("kqueue %v: woken %d times by 10 wakes", kqueue, e.woken)
		}
		_ = e.p.Wake()
		w.RunFor(time.Second)
		if e.woken != 2 {
			t.Errorf("kqueue %v: woken %d times by another one", kqueue, e.woken)
		}
	}
}

// An arrival is told once, with both kinds of poller.
func TestEdgeTriggered(t *testing.T) {
	for _, kqueue := range []bool{false, true} {
		t.Run(fmt.Sprintf("kqueue=%v", kqueue), func(t *testing.T) {
			w := sim.New(sim.Config{Seed: 1})
			k := w.Machine(sim.Machine{Kqueue: kqueue})
			e := newEchoLoop(t, k)
			p := w.Dial(url(k))
			w.RunFor(time.Second)
			for fd := range e.pending {
				delete(e.pending, fd) // it reads no more
				defer func() { _ = k.Close(fd) }()
			}
			for i := range 3 {
				before := e.ready
				p.Send([]byte("x"))
				w.RunFor(time.Second)
				if n := e.ready - before; n != 1 {
					t.Errorf("arrival %d was told %d times", i, n)
				}
			}
		})
	}
}

func TestViolations(t *testing.T) {
	open := func(k *sim.Kernel) int {
		fd, err := k.Connect(sys.Addr{Network: "tcp", Address: "10.9.9.9:1"}, sys.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	for name, misuse := range map[string]func(w *sim.World, k *sim.Kernel, p poll.Poller) error{
		"read of descriptor 77, which is not open": func(_ *sim.World, k *sim.Kernel, _ poll.Poller) error {
			_, err := k.Read(77, make([]byte, 1))
			return err
		},
		"close of descriptor 7, which is not open": func(_ *sim.World, k *sim.Kernel, _ poll.Poller) error {
			fd := open(k)
			_ = k.Close(fd)
			return k.Close(fd)
		},
		"write of descriptor -1, which is not open": func(_ *sim.World, k *sim.Kernel, _ poll.Poller) error {
			_, err := k.Write(-1, []byte("x"))
			return err
		},
		"into an empty buffer": func(_ *sim.World, k *sim.Kernel, _ poll.Poller) error {
			_, err := k.Read(open(k), nil)
			return err
		},
		"accept of descriptor 7, which is socket": func(_ *sim.World, k *sim.Kernel, _ poll.Poller) error {
			_, _, err := k.Accept(open(k))
			return err
		},
		"read of descriptor 3, which is poller": func(_ *sim.World, k *sim.Kernel, _ poll.Poller) error {
			_, err := k.Read(3, make([]byte, 1))
			return err
		},
		"Add of descriptor 7, which is listener": func(_ *sim.World, k *sim.Kernel, p poll.Poller) error {
			fds, _, err := k.Listen(sys.Addr{Network: "tcp", Address: ":7000"}, 1, sys.Options{})
			if err != nil {
				return err
			}
			return p.Add(fds[0])
		},
		"AddListener of descriptor 7, which is socket": func(_ *sim.World, k *sim.Kernel, p poll.Poller) error {
			return p.AddListener(open(k))
		},
		"Add of descriptor 50, which is not open": func(_ *sim.World, _ *sim.Kernel, p poll.Poller) error { return p.Add(50) },
		"watched already": func(_ *sim.World, k *sim.Kernel, p poll.Poller) error {
			fd := open(k)
			return errors.Join(p.Add(fd), p.Add(fd))
		},
		"which is not watched": func(_ *sim.World, k *sim.Kernel, p poll.Poller) error { return p.Remove(open(k)) },
		"Wake of closed poller": func(_ *sim.World, _ *sim.Kernel, p poll.Poller) error {
			_ = p.Close()
			return p.Wake()
		},
		"Arm of closed poller": func(_ *sim.World, _ *sim.Kernel, p poll.Poller) error {
			_ = p.Close()
			return p.Arm(0)
		},
		"Run of a closed poller": func(_ *sim.World, _ *sim.Kernel, p poll.Poller) error {
			_ = p.Close()
			return p.Run(nil)
		},
		"Close of a closed poller": func(_ *sim.World, _ *sim.Kernel, p poll.Poller) error {
			_ = p.Close()
			return p.Close()
		},
		"from outside its Run": func(w *sim.World, k *sim.Kernel, p poll.Poller) error {
			w.Start(func() { _ = p.Run(&echoLoop{}) })
			sim.AwaitRun(p)
			_ = p.Add(open(k))
			return errors.New("recorded")
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := sim.New(sim.Config{Seed: 1})
			k := w.Machine(sim.Machine{Name: "m"})
			p, err := k.OpenPoller()
			if err != nil {
				t.Fatal(err)
			}
			if err := misuse(w, k, p); err == nil {
				t.Error("misuse succeeded")
			}
			got := w.Violations()
			if len(got) == 0 || !strings.Contains(got[0], name) {
				t.Errorf("violations: %q", got)
			}
		})
	}
}

func TestLeaks(t *testing.T) {
	w := sim.New(sim.Config{Seed: 1})
	k := w.Machine(sim.Machine{Name: "m"})
	if leaks := w.Leaks(); len(leaks) != 0 {
		t.Errorf("leaks of a new machine: %q", leaks)
	}
	_, _, err := k.Listen(sys.Addr{Network: "tcp", Address: ":1"}, 2, sys.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.OpenPoller(); err != nil {
		t.Fatal(err)
	}
	if leaks := w.Leaks(); len(leaks) != 3 {
		t.Errorf("leaks: %q", leaks)
	}
}

// What a peer does, and what the engine's side learns of it.
func TestPeers(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  sim.Config
		act  func(w *sim.World, p *sim.Peer)
		send bool // the engine's side has something unacknowledged
		want error
	}{
		"close":     {act: func(_ *sim.World, p *sim.Peer) { p.Close() }, want: io.EOF},
		"reset":     {act: func(_ *sim.World, p *sim.Peer) { p.Reset() }, want: sys.ECONNRESET},
		"vanish":    {act: func(_ *sim.World, p *sim.Peer) { p.Vanish() }, want: sys.EAGAIN},
		"freeze":    {act: func(_ *sim.World, p *sim.Peer) { p.Freeze() }, send: true, want: sys.EAGAIN},
		"keepalive": {cfg: sim.Config{KeepAlive: time.Second}, act: func(_ *sim.World, p *sim.Peer) { p.Vanish() }, want: sys.ETIMEDOUT},
		"keepalive is suspended": {cfg: sim.Config{KeepAlive: time.Second}, send: true,
			act: func(_ *sim.World, p *sim.Peer) { p.Vanish() }, want: sys.EAGAIN},
		"user timeout": {cfg: sim.Config{UserTimeout: time.Second}, send: true,
			act: func(_ *sim.World, p *sim.Peer) { p.Vanish() }, want: sys.ETIMEDOUT},
		"user timeout needs data": {cfg: sim.Config{UserTimeout: time.Second},
			act: func(_ *sim.World, p *sim.Peer) { p.Vanish() }, want: sys.EAGAIN},
		"unreachable": {send: true,
			act: func(_ *sim.World, p *sim.Peer) { p.Unreachable(sys.EHOSTUNREACH, time.Second) }, want: sys.EHOSTUNREACH},
		"reboot":        {send: true, act: func(_ *sim.World, p *sim.Peer) { p.Reboot(3 * time.Second) }, want: sys.ECONNRESET},
		"silent reboot": {act: func(_ *sim.World, p *sim.Peer) { p.Reboot(3 * time.Second) }, want: sys.EAGAIN},
		"outage": {send: true, act: func(w *sim.World, p *sim.Peer) {
			p.Outage(3 * time.Second)
			p.Send([]byte("x"))
		}, want: nil},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.Seed = 3
			w := sim.New(c.cfg)
			k := w.Machine(sim.Machine{})
			fds, _, err := k.Listen(sys.Addr{Network: "tcp", Address: ":7000"}, 1, sys.Options{})
			if err != nil {
				t.Fatal(err)
			}
			p := w.Dial(url(k))
			w.RunFor(time.Second)
			fd, remote, err := k.Accept(fds[0])
			if err != nil || remote != p.Local() {
				t.Fatalf("accept: %v, %v", remote, err)
			}
			c.act(w, p)
			if c.send {
				if _, err := k.Write(fd, []byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			w.RunFor(10 * time.Second)
			n, err := k.Read(fd, make([]byte, 10))
			if n == 0 && err == nil {
				err = io.EOF
			}
			if err != c.want {
				t.Errorf("read: %d, %v, want %v", n, err, c.want)
			}
		})
	}
}

// A peer that does not read fills both buffers and closes its window; once it
// reads, everything arrives.
func TestZeroWindow(t *testing.T) {
	w := sim.New(sim.Config{Seed: 1, Buffers: sim.Range{Min: 1000, Max: 1000}})
	k := w.Machine(sim.Machine{})
	e := newEchoLoop(t, k)
	p := w.Dial(url(k))
	got := 0
	p.OnData = func(b []byte) { got += len(b) }
	p.Pause()
	const size = 10_000
	p.Send(make([]byte, size))
	w.RunFor(time.Minute)
	if got != 0 || len(e.pending) != 1 {
		t.Fatalf("a paused peer read %d bytes", got)
	}
	for _, b := range e.pending {
		if len(b) != size-2000 {
			t.Errorf("%d bytes wait, want all but two buffers", len(b))
		}
	}
	p.Resume()
	w.RunFor(time.Minute)
	if got != size {
		t.Errorf("got %d bytes", got)
	}
	p.Close()
	w.RunFor(time.Second)
	e.stop(w)
}

func TestBacklog(t *testing.T) {
	w := sim.New(sim.Config{Seed: 1})
	k := w.Machine(sim.Machine{Backlog: 2})
	fds, _, err := k.Listen(sys.Addr{Network: "tcp", Address: ":7000"}, 1, sys.Options{})
	if err != nil {
		t.Fatal(err)
	}
	peers := make([]*sim.Peer, 4)
	for i := range peers {
		peers[i] = w.Dial(url(k))
	}
	connected := func() (n int) {
		for _, p := range peers {
			if p.Connected() {
				n++
			}
		}
		return n
	}
	w.RunFor(500 * time.Millisecond)
	if n := connected(); n != 2 {
		t.Errorf("%d of 4 are connected, want 2", n)
	}
	for range 2 {
		if _, _, err := k.Accept(fds[0]); err != nil {
			t.Error(err)
		}
	}
	w.RunFor(2 * time.Second)
	if n := connected(); n != 4 {
		t.Errorf("%d of 4 are connected, want all", n)
	}
}

// Connections to one address are spread over its listeners.
func TestReusePort(t *testing.T) {
	w := sim.New(sim.Config{Seed: 1})
	k := w.Machine(sim.Machine{})
	fds, bound, err := k.Listen(sys.Addr{Network: "tcp", Address: ":0"}, 3, sys.Options{})
	if err != nil || len(fds) != 3 {
		t.Fatal(fds, err)
	}
	_, port, _ := strings.Cut(bound.Address, ":")
	for range 60 {
		w.Dial("tcp://" + k.Addr().String() + ":" + port)
	}
	w.RunFor(time.Second)
	for _, fd := range fds {
		n := 0
		for {
			if _, _, err := k.Accept(fd); err != nil {
				break
			}
			n++
		}
		if n < 5 {
			t.Errorf("a listener got %d of 60 connections", n)
		}
	}
}

func TestConnecting(t *testing.T) {
	w := sim.New(sim.Config{Seed: 1})
	k := w.Machine(sim.Machine{})
	w.Serve("10.1.2.3:80", func(p *sim.Peer) { p.Send([]byte("welcome")) })
	connect := func(addr string) int {
		t.Helper()
		fd, err := k.Connect(sys.Addr{Network: "tcp", Address: addr}, sys.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	good, refused, nowhere := connect("10.1.2.3:80"), connect("10.1.2.3:81"), connect("10.1.2.4:80")
	w.RunFor(time.Second)
	buf := make([]byte, 10)
	if n, err := k.Read(good, buf); err != nil || string(buf[:n]) != "welcome" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	if err := k.SocketError(refused); err != error(syscall.ECONNREFUSED) {
		t.Error(err)
	}
	if err := k.SocketError(nowhere); err != nil {
		t.Error(err)
	}
	w.RunFor(3 * time.Minute)
	if err := k.SocketError(nowhere); err != error(sys.ETIMEDOUT) {
		t.Error(err)
	}
}

// Time spent in a callback passes for the network and for peers, not for loops.
func TestSpend(t *testing.T) {
	w := sim.New(sim.Config{Seed: 1})
	k := w.Machine(sim.Machine{})
	e := newEchoLoop(t, k)
	p := w.Dial(url(k))
	beats := 0
	p.OnConnect = func() { p.Every(100*time.Millisecond, func() { beats++ }) }
	w.RunFor(time.Second)
	script := false
	spent := false
	e.onReady = func(int, poll.Events) {
		if !spent {
			spent = true
			before, ready := beats, e.ready
			start := k.Now()
			w.After(time.Second, func() { script = true })
			w.Spend(3 * time.Second)
			if took := k.Now() - start; took != 3e9 {
				t.Errorf("took %v", time.Duration(took))
			}
			if n := beats - before; n < 29 || n > 31 {
				t.Errorf("%d beats in 3 s", n)
			}
			if script || e.ready != ready {
				t.Error("a loop or a script ran meanwhile")
			}
		}
	}
	p.Send([]byte("x"))
	w.RunFor(4 * time.Second)
	if !script || !spent {
		t.Error("script or callback did not run")
	}
	p.Close()
	w.RunFor(time.Second)
	e.stop(w)
}

func TestStall(t *testing.T) {
	w := sim.New(sim.Config{Seed: 1})
	k := w.Machine(sim.Machine{})
	e := newEchoLoop(t, k)
	p := w.Dial(url(k))
	w.RunFor(time.Second)
	var at int64
	p.OnData = func([]byte) { at = w.Now() }
	start := w.Now()
	k.Stall(5 * time.Second)
	p.Send([]byte("x"))
	w.RunFor(10 * time.Second)
	if late := time.Duration(at - start); late < 5*time.Second || late > 5100*time.Millisecond {
		t.Errorf("answered after %v", late)
	}
	p.Close()
	w.RunFor(time.Second)
	e.stop(w)
}

// BenchmarkWorld measures how much simulated life a second of CPU buys:
// entries of the world's queue, and reports to the loop.
func BenchmarkWorld(b *testing.B) {
	w := sim.New(sim.Config{Seed: 1})
	k := w.Machine(sim.Machine{})
	e := newEchoLoop(b, k)
	msg := make([]byte, 100)
	for range 100 {
		p := w.Dial(url(k))
		p.OnConnect = func() { p.Send(msg) }
		p.OnData = func(m []byte) { p.Send(m) }
	}
	w.RunFor(time.Second)
	reports := e.ready
	for b.Loop() {
		w.Step()
	}
	b.ReportMetric(float64(e.ready-reports)/float64(b.N), "reports/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
