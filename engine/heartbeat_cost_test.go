package engine_test

import (
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/engine/internal/poll"
	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// Nothing is allocated for a heartbeat: neither by whoever asks, from the timer
// to the answer that has come, nor by whoever answers. Both sides do both.
func TestHeartbeatsAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget on purpose")
	}
	beating := heartbeat.Config{Interval: 20 * time.Millisecond, Retry: 20 * time.Millisecond, Misses: 500}
	srv := serve(t, listenOne(engine.Handler{}, beating))
	cl := client(t, engine.ClientConfig{Codec: codec.Native{}, Liveness: beating})
	for range 8 {
		dial(t, cl, srv.Addrs()[0])
	}
	beats := func() (asked [2]uint64) {
		s, c := srv.Stats().Total, cl.Stats().Total
		if s.Closed+c.Closed > 0 {
			t.Fatal("a connection has ended")
		}
		// Counted by those who answer, so that both halves are in it.
		return [2]uint64{c.PingsIn, s.PingsIn}
	}
	eventually(t, "both sides have asked many times", func() bool { b := beats(); return min(b[0], b[1]) > 100 })

	// A collection empties the pools of buffers.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	const least = 200 // heartbeats of each side, which a quick machine has in half a second
	var before, after runtime.MemStats
	var mallocs uint64
	first := beats()
	var asked [2]uint64
	for range 60 {
		runtime.ReadMemStats(&before)
		time.Sleep(500 * time.Millisecond)
		runtime.ReadMemStats(&after)
		mallocs += after.Mallocs - before.Mallocs
		now := beats()
		if asked = [2]uint64{now[0] - first[0], now[1] - first[1]}; min(asked[0], asked[1]) >= least {
			break
		}
	}
	if min(asked[0], asked[1]) < least {
		t.Fatalf("the server asked %d times, the client %d times", asked[0], asked[1])
	}
	// The watch looks after blocked loops once a second, and is not free.
	if per := float64(mallocs) / float64(asked[0]+asked[1]); per > 0.1 {
		t.Errorf("%d allocations in %d heartbeats, %.2f each", mallocs, asked[0]+asked[1], per)
	}
}

// A verdict takes three system calls to come to: one read, in case something has
// just arrived, and the two of sys.Kernel.Info, TCP_INFO and SIOCOUTQ. What ends
// the connection is not counted: close, and SO_LINGER before it where the end is
// a reset. Nor is the timer, which is armed once for all that is due in a turn.
func TestSystemCallsOfAVerdict(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere the kernel is asked for less, and where readiness is told once, read until there is no more")
	}
	verdicts := []struct {
		name     string
		liveness heartbeat.Config
		talks    bool // the peer sends, and answers nothing
		want     []string
	}{
		{"HeartbeatLost", quick, false, []string{"Read", "Info", "Reset"}},
		{"Deaf", quick, true, []string{"Read", "Info", "Reset"}},
		{"Idle", heartbeat.Config{IdleRead: 300 * time.Millisecond}, false, []string{"Read", "Info", "Close"}},
	}
	for _, tt := range verdicts {
		t.Run(tt.name, func(t *testing.T) {
			cs := newCloses()
			k := new(tallyKernel)
			cfg := listenOne(engine.Handler{Close: cs.note}, tt.liveness)
			cfg.Loops, cfg.Logger = 1, slog.New(slog.DiscardHandler)
			srv, err := engine.ListenOn(k, cfg)
			serving(t, srv, err)
			const peers = 10
			stop := make(chan struct{})
			var talking sync.WaitGroup
			defer talking.Wait()
			defer close(stop)
			for range peers {
				c := rawDial(t, srv)
				if tt.talks {
					talking.Go(func() { talk(c, stop) })
				}
			}
			for range peers {
				if x := cs.next(t); engine.ReasonOf(x.err).String() != tt.name {
					t.Fatalf("closed with %v", x.err)
				}
			}
			ended := 0
			for _, turn := range k.turns() {
				arms := 0
				mine := make(map[int][]string)
				for _, x := range turn {
					if x.name == "Arm" {
						arms++
						continue
					}
					mine[x.fd] = append(mine[x.fd], x.name)
				}
				for fd, calls := range mine {
					if last := calls[len(calls)-1]; last != "Reset" && last != "Close" {
						continue // a query to another peer
					}
					ended++
					if !slices.Equal(calls, tt.want) {
						t.Errorf("the verdict on %d took the calls %v, want %v", fd, calls, tt.want)
					}
				}
				if arms > 1 {
					t.Errorf("the timer was armed %d times in one turn", arms)
				}
			}
			if ended != peers {
				t.Errorf("%d of %d connections were ended by the timer", ended, peers)
			}
		})
	}
}

// talk sends until it fails or is told to stop.
func talk(c net.Conn, stop <-chan struct{}) {
	message := []byte{0, 0, 1, byte(codec.Data), 'x'}
	beat := time.NewTicker(10 * time.Millisecond)
	defer beat.Stop()
	for {
		select {
		case <-stop:
			return
		case <-beat.C:
			if _, err := c.Write(message); err != nil {
				return
			}
		}
	}
}

// tallyKernel is the real kernel, and writes down what its loops ask of it.
type tallyKernel struct {
	sys.Kernel
	mu  sync.Mutex
	log []tallyCall
}

// tallyCall is one call, or the beginning of an event: those have no descriptor
// of a connection.
type tallyCall struct {
	name  string
	fd    int
	event bool
}

func (k *tallyKernel) note(x tallyCall) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.log = append(k.log, x)
}

func (k *tallyKernel) call(name string, fd int) { k.note(tallyCall{name: name, fd: fd}) }

// turns returns the calls of each event of the timer.
func (k *tallyKernel) turns() (list [][]tallyCall) {
	k.mu.Lock()
	defer k.mu.Unlock()
	inTimer := false
	for _, x := range k.log {
		switch {
		case x.event:
			if inTimer = x.name == "Expired"; inTimer {
				list = append(list, nil)
			}
		case inTimer:
			list[len(list)-1] = append(list[len(list)-1], x)
		}
	}
	return list
}

func (k *tallyKernel) SetProbes(fd int, p sys.Probes) error {
	k.call("SetProbes", fd)
	return k.Kernel.SetProbes(fd, p)
}

func (k *tallyKernel) SocketError(fd int) error {
	k.call("SocketError", fd)
	return k.Kernel.SocketError(fd)
}

func (k *tallyKernel) Read(fd int, p []byte) (int, error) {
	k.call("Read", fd)
	return k.Kernel.Read(fd, p)
}

func (k *tallyKernel) Write(fd int, p []byte) (int, error) {
	k.call("Write", fd)
	return k.Kernel.Write(fd, p)
}

func (k *tallyKernel) Writev(fd int, bufs [][]byte) (int, error) {
	k.call("Writev", fd)
	return k.Kernel.Writev(fd, bufs)
}

func (k *tallyKernel) CloseWrite(fd int) error {
	k.call("CloseWrite", fd)
	return k.Kernel.CloseWrite(fd)
}

func (k *tallyKernel) Close(fd int) error {
	k.call("Close", fd)
	return k.Kernel.Close(fd)
}

func (k *tallyKernel) Reset(fd int) error {
	k.call("Reset", fd)
	return k.Kernel.Reset(fd)
}

func (k *tallyKernel) Info(fd int) sys.Info {
	k.call("Info", fd)
	return k.Kernel.Info(fd)
}

func (k *tallyKernel) OpenPoller() (poll.Poller, error) {
	p, err := k.Kernel.OpenPoller()
	return &tallyPoller{p, k}, err
}

// tallyPoller is a poller whose calls and events are written down, too.
type tallyPoller struct {
	poll.Poller
	k *tallyKernel
}

func (p *tallyPoller) Add(fd int) error {
	p.k.call("Add", fd)
	return p.Poller.Add(fd)
}

func (p *tallyPoller) Writing(fd int, on bool) error {
	p.k.call("Writing", fd)
	return p.Poller.Writing(fd, on)
}

func (p *tallyPoller) Pause(fd int) error {
	p.k.call("Pause", fd)
	return p.Poller.Pause(fd)
}

func (p *tallyPoller) Resume(fd int, writing bool) error {
	p.k.call("Resume", fd)
	return p.Poller.Resume(fd, writing)
}

func (p *tallyPoller) Remove(fd int) error {
	p.k.call("Remove", fd)
	return p.Poller.Remove(fd)
}

func (p *tallyPoller) Arm(at int64) error {
	p.k.call("Arm", -1)
	return p.Poller.Arm(at)
}

func (p *tallyPoller) Run(h poll.Handler) error { return p.Poller.Run(&tallyHandler{h, p.k}) }

type tallyHandler struct {
	h poll.Handler
	k *tallyKernel
}

func (h *tallyHandler) Ready(fd int, ev poll.Events) {
	h.k.note(tallyCall{name: "Ready", event: true})
	h.h.Ready(fd, ev)
}

func (h *tallyHandler) Coming(int) {}

func (h *tallyHandler) Served() poll.Wait {
	h.k.note(tallyCall{name: "Served", event: true})
	return h.h.Served()
}

func (h *tallyHandler) Woken() {
	h.k.note(tallyCall{name: "Woken", event: true})
	h.h.Woken()
}

func (h *tallyHandler) Expired() {
	h.k.note(tallyCall{name: "Expired", event: true})
	h.h.Expired()
}
