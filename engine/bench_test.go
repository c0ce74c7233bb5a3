package engine_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/engine/internal/poll"
	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// The benchmarks here leave out the operating system: what they show is what the
// engine itself spends, which beside a system call is little and in a profile of
// the whole is lost in its noise. benchmarks/ measures the whole.

// benchKernel is an operating system that costs nothing: connections are numbers,
// each read finds the same bytes, and each write is taken.
type benchKernel struct {
	sys.Kernel
	poller *benchPoller
	first  int // descriptor; the listener's is the one before
	conns  int // still to be accepted
	input  []byte
}

const benchListener = 1000

func newBenchKernel(conns int, input []byte) *benchKernel {
	k := &benchKernel{first: benchListener + 1, conns: conns, input: input}
	k.poller = &benchPoller{turns: make(chan func(poll.Handler)), done: make(chan struct{}), woken: make(chan struct{}, 1)}
	return k
}

func (k *benchKernel) OpenPoller() (poll.Poller, error) { return k.poller, nil }

func (k *benchKernel) Listen(a sys.Addr, _ int, _ sys.Options) ([]int, sys.Addr, error) {
	return []int{benchListener}, a, nil
}

func (k *benchKernel) Accept(int) (int, netip.AddrPort, error) {
	if k.conns == 0 {
		return -1, netip.AddrPort{}, sys.EAGAIN
	}
	k.conns--
	return k.first + k.conns, netip.AddrPort{}, nil
}

func (k *benchKernel) Read(_ int, p []byte) (int, error)  { return copy(p, k.input), nil }
func (k *benchKernel) Write(_ int, p []byte) (int, error) { return len(p), nil }
func (k *benchKernel) Writev(_ int, bufs [][]byte) (n int, _ error) {
	for _, b := range bufs {
		n += len(b)
	}
	return n, nil
}
func (k *benchKernel) CloseWrite(int) error            { return nil }
func (k *benchKernel) Close(int) error                 { return nil }
func (k *benchKernel) Reset(int) error                 { return nil }
func (k *benchKernel) SetProbes(int, sys.Probes) error { return nil }
func (k *benchKernel) Info(int) sys.Info               { return sys.Info{Unacked: -1} }
func (k *benchKernel) Local(int) netip.AddrPort        { return netip.AddrPort{} }
func (k *benchKernel) Unlink(sys.Addr)                 {}

// benchPoller reports what the benchmark has it report, on the loop's goroutine.
type benchPoller struct {
	turns   chan func(poll.Handler)
	done    chan struct{}
	woken   chan struct{}
	stopped bool
}

func (p *benchPoller) Add(int) error           { return nil }
func (p *benchPoller) AddWrite(int) error      { return nil }
func (p *benchPoller) Writing(int, bool) error { return nil }
func (p *benchPoller) Pause(int) error         { return nil }
func (p *benchPoller) Resume(int, bool) error  { return nil }
func (p *benchPoller) Remove(int) error        { return nil }
func (p *benchPoller) AddListener(int) error   { return nil }
func (p *benchPoller) EdgeListeners() bool     { return false }
func (p *benchPoller) Arm(int64) error         { return nil }
func (p *benchPoller) Stop()                   { p.stopped = true }
func (p *benchPoller) Close() error            { return nil }

func (p *benchPoller) Wake() error {
	select {
	case p.woken <- struct{}{}:
	default:
	}
	return nil
}

func (p *benchPoller) Run(h poll.Handler) error {
	for !p.stopped {
		select {
		case f := <-p.turns:
			f(h)
			p.done <- struct{}{}
		case <-p.woken:
			h.Woken()
		}
	}
	return nil
}

// on runs f on the loop.
func (p *benchPoller) on(f func(poll.Handler)) {
	p.turns <- f
	<-p.done
}

// benchServer is a server of one loop and its connections on a benchKernel.
func benchServer(b *testing.B, k *benchKernel, handler engine.Handler) *engine.Server {
	b.Helper()
	conns := k.conns
	srv, err := engine.ListenOn(k, engine.Config{
		Listeners: []engine.Listener{{Addr: "tcp4://127.0.0.1:1", Codec: codec.Length4(), Liveness: heartbeat.Relaxed()}},
		Handler:   handler,
		Limits:    engine.Limits{Loops: 1, MaxConns: conns + 1, DrainTimeout: -1, BlockedAfter: -1},
		Logger:    slog.New(slog.DiscardHandler),
	})
	serving(b, srv, err)
	k.poller.on(func(h poll.Handler) {
		for k.conns > 0 {
			h.Ready(benchListener, poll.Readable)
		}
	})
	return srv
}

// connsOf returns all connections of a server.
func connsOf(srv *engine.Server) (all []*engine.Conn) {
	srv.Range(func(c *engine.Conn) bool {
		all = append(all, c)
		return true
	})
	return all
}

// BenchmarkTurn is one event of a connection: a read, its frames, the handler, what
// it sends, and the write. With many connections each is far away in memory when
// its turn comes, as in life.
func BenchmarkTurn(b *testing.B) {
	for _, conns := range []int{1, 10_000} {
		for _, frames := range []int{1, 4} {
			b.Run(fmt.Sprintf("conns=%d/frames=%d", conns, frames), func(b *testing.B) {
				input := bytes.Repeat(append([]byte{0, 0, 0, 64}, make([]byte, 64)...), frames)
				k := newBenchKernel(conns, input)
				benchServer(b, k, engine.Handler{Message: echo})
				b.ReportAllocs()
				k.poller.on(func(h poll.Handler) {
					b.ResetTimer()
					for i := range b.N {
						h.Ready(k.first+i*7919%conns, poll.Readable)
						if i%8 == 7 {
							h.Served()
						}
					}
					b.StopTimer()
				})
			})
		}
	}
}

// BenchmarkPost is a letter to a loop and the function that it makes run, from one
// goroutine and from several.
func BenchmarkPost(b *testing.B) {
	for _, parallel := range []bool{false, true} {
		b.Run(fmt.Sprintf("parallel=%t", parallel), func(b *testing.B) {
			k := newBenchKernel(1, nil)
			loop := benchServer(b, k, engine.Handler{}).Loops()[0]
			var ran atomic.Int64
			f := func() { ran.Add(1) }
			post := func(more func() bool) {
				for more() {
					if err := loop.Post(f); err != nil {
						b.Error(err)
						return
					}
				}
			}
			b.ReportAllocs()
			if parallel {
				b.RunParallel(func(p *testing.PB) { post(p.Next) })
			} else {
				post(b.Loop)
			}
			for ran.Load() < int64(b.N) {
				k.poller.on(poll.Handler.Woken)
			}
		})
	}
}

// BenchmarkSend is a message from a goroutine that is not the loop's, up to the
// kernel, to one connection after another.
func BenchmarkSend(b *testing.B) {
	for _, conns := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("from=goroutine/conns=%d", conns), func(b *testing.B) {
			k := newBenchKernel(conns, nil)
			srv := benchServer(b, k, engine.Handler{})
			all := connsOf(srv)
			payload := make([]byte, 64)
			at := 0
			b.ReportAllocs()
			for b.Loop() {
				for all[at].Send(payload) == engine.ErrBacklog {
					k.poller.on(poll.Handler.Woken) // it has no turn by itself so soon
				}
				at = (at + 1) % len(all)
			}
			k.poller.on(poll.Handler.Woken)
		})
	}
}

// BenchmarkBroadcast is one message to all connections. What it allocates does not
// depend on their number.
func BenchmarkBroadcast(b *testing.B) {
	for _, conns := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("conns=%d", conns), func(b *testing.B) {
			k := newBenchKernel(conns, nil)
			srv := benchServer(b, k, engine.Handler{})
			payload := make([]byte, 64)
			b.ReportAllocs()
			for b.Loop() {
				if err := srv.Broadcast(payload); err != nil {
					b.Fatal(err)
				}
				k.poller.on(poll.Handler.Woken)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(conns), "ns/delivery")
			if got := srv.Stats().Total.Broadcasts; got < uint64(b.N*conns) {
				b.Errorf("%d deliveries of %d broadcasts to %d", got, b.N, conns)
			}
		})
	}
}

// BenchmarkDo is a task on a worker, of one connection after another.
func BenchmarkDo(b *testing.B) {
	const conns = 100
	k := newBenchKernel(conns, nil)
	srv := benchServer(b, k, engine.Handler{})
	all := connsOf(srv)
	var done atomic.Int64
	task := func() { done.Add(1) }
	at := 0
	b.ReportAllocs()
	for b.Loop() {
		for all[at].Do(task) == engine.ErrBusy {
			runtime.Gosched()
		}
		at = (at + 1) % conns
	}
	for done.Load() < int64(b.N) {
		runtime.Gosched()
	}
}
