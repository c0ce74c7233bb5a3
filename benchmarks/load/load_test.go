package load_test

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/cc/cctest"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

const slice = 20 * time.Millisecond

func build(t *testing.T) load.Program {
	t.Helper()
	cctest.Linux(t)
	program, err := load.Build(t.Context(), t.TempDir())
	cctest.Check(t, err)
	return program
}

// Every mode serves window after window on a server that is right, and the
// server has nothing to do between them.
func TestModes(t *testing.T) {
	program := build(t)
	for _, c := range []struct {
		name string
		work control.Work
		mode load.Mode
		// each is what messages come in.
		each int64
	}{
		{"echo", control.Echo, load.Echo{Conns: 150, Depth: 3, Payload: 64}, 1},
		{"echo", control.Echo, load.Echo{Conns: 2, Depth: 2, Payload: 200_000}, 1},
		{"echo", control.Echo, load.Echo{Conns: 2, Depth: 2, Payload: 1}, 1},
		{"idle", control.Echo, load.Idle{Conns: 20, Interval: time.Second, Warmup: 10 * time.Millisecond}, 1},
		{"idle", control.Echo, load.Idle{Conns: 20, Interval: 100 * time.Millisecond, Warmup: 10 * time.Millisecond, Quiet: true}, 1},
		{"room", control.Room, load.Room{Conns: 42, Members: 21, Depth: 1, Payload: 64}, 1},
		{"room", control.Room, load.Room{Conns: 9, Members: 3, Depth: 3, Payload: 100_000}, 1},
		{"broadcast", control.Broadcast, load.Broadcast{Conns: 50, Depth: 1, Payload: 64}, 50},
		{"broadcast", control.Broadcast, load.Broadcast{Conns: 20, Depth: 7, Payload: 9}, 20},
		{"churn", control.Echo, load.Churn{AtOnce: 8, Payload: 64}, 1},
		{"open", control.Echo, load.Open{Conns: 20, Payload: 64, Rate: 2000}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			found, err := peers.Lookup("cfloor")
			if err != nil {
				t.Fatal(err)
			}
			if found[0], err = found[0].For(c.work); err != nil {
				t.Fatal(err)
			}
			servers, err := peers.Build(t.Context(), t.TempDir(), found)
			cctest.Check(t, err)
			running, err := servers[0].Start(t.Context(), proc.AnyCPU)
			if err != nil {
				t.Fatal(err)
			}
			session, err := program.Start(t.Context(), proc.AnyCPU, load.Target{Port: running.Port, PID: running.PID()}, c.mode)
			if err != nil {
				t.Fatal(err)
			}
			var sum load.Result
			for range 3 {
				r, err := session.Window(10 * slice)
				if err != nil {
					t.Fatal(err)
				}
				if r.Mode != c.name || r.Messages%c.each != 0 || r.ServerCPU <= 0 || r.Seconds < 10*slice.Seconds() {
					t.Errorf("implausible window %+v", r)
				}
				sum = sum.Plus(r)
			}
			if sum.Seconds < 30*slice.Seconds() || sum.Mode != c.name || sum.Rate() <= 0 {
				t.Errorf("implausible sum %+v", sum)
			}
			if err := session.End(); err != nil {
				t.Error(err)
			}
			if err := running.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// What a mode cannot do is refused.
func TestRefused(t *testing.T) {
	program := build(t)
	for _, m := range []load.Mode{
		load.Echo{Conns: 1, Depth: 0, Payload: 1},
		load.Room{Conns: 10, Members: 3, Depth: 1, Payload: 64},
		load.Room{Conns: 9, Members: 3, Depth: 4, Payload: 64},
		load.Broadcast{Conns: 9, Depth: 1, Payload: 7},
		load.Open{Conns: 1, Payload: 1},
	} {
		if s, err := program.Start(t.Context(), proc.AnyCPU, load.Target{Port: 1}, m); err == nil {
			t.Errorf("%+v is accepted", m)
			_ = s.End()
		}
	}
}

// liar is a server that does its work but for what lie makes of it.
type liar struct {
	listener net.Listener
	work     control.Work
	// lie returns what is sent to a member instead of a frame; n counts the frames
	// that it received before.
	lie func(m *guest, n int, frame []byte) []byte

	mu      sync.Mutex
	guests  []*guest
	serving sync.WaitGroup
}

type guest struct {
	net.Conn
	id     int
	room   uint32
	joined bool
	got    int
	kept   []byte // that lie wants to send later
}

// start serves until the test ends.
func (l *liar) start(t *testing.T) (port int) {
	t.Helper()
	var err error
	if l.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	l.serving.Go(func() {
		for {
			c, err := l.listener.Accept()
			if err != nil {
				return
			}
			l.mu.Lock()
			g := &guest{Conn: c, id: len(l.guests)}
			l.guests = append(l.guests, g)
			l.mu.Unlock()
			l.serving.Go(func() { l.serve(g) })
		}
	})
	t.Cleanup(func() {
		l.listener.Close()
		l.mu.Lock()
		for _, g := range l.guests {
			g.Close()
		}
		l.mu.Unlock()
		l.serving.Wait()
	})
	return l.listener.Addr().(*net.TCPAddr).Port
}

func (l *liar) serve(g *guest) {
	for {
		frame := make([]byte, 4)
		if _, err := io.ReadFull(g, frame); err != nil {
			return
		}
		frame = append(frame, make([]byte, binary.BigEndian.Uint32(frame))...)
		if _, err := io.ReadFull(g, frame[4:]); err != nil {
			return
		}
		l.mu.Lock()
		switch {
		case len(frame) == 4: // a heartbeat
			_, _ = g.Write(frame)
		case l.work == control.Room && !g.joined:
			g.room, g.joined = binary.BigEndian.Uint32(frame[4:]), true
			_, _ = g.Write(frame)
		default:
			for _, to := range l.guests {
				if (l.work == control.Echo && to != g) || (l.work == control.Room && (to == g || to.room != g.room)) {
					continue
				}
				_, _ = to.Write(l.lie(to, to.got, frame))
				to.got++
			}
		}
		l.mu.Unlock()
	}
}

// Every way in which a server can be wrong is found. At guest 2's fifth message
// it happens.
func TestMistakes(t *testing.T) {
	program := build(t)
	modes := map[control.Work]load.Mode{
		control.Echo:      load.Echo{Conns: 4, Depth: 2, Payload: 64},
		control.Room:      load.Room{Conns: 8, Members: 4, Depth: 2, Payload: 64},
		control.Broadcast: load.Broadcast{Conns: 4, Depth: 2, Payload: 64},
	}
	all := []control.Work{control.Echo, control.Room, control.Broadcast}
	many := []control.Work{control.Room, control.Broadcast}
	changed := func(at int) func(*guest, []byte) []byte {
		return func(_ *guest, frame []byte) []byte {
			frame = append([]byte(nil), frame...)
			frame[at] ^= 1
			return frame
		}
	}
	for _, c := range []struct {
		name  string
		works []control.Work
		lie   func(g *guest, frame []byte) []byte
	}{
		{"length", all, changed(3)},
		{"sender", all, changed(7)},
		{"number", all, changed(11)},
		{"content", all, changed(20)},
		{"end", all, changed(67)},
		{"doubled", all, func(_ *guest, frame []byte) []byte { return append(frame[:len(frame):len(frame)], frame...) }},
		{"lost", all, func(*guest, []byte) []byte { return nil }},
		{"cut", all, func(_ *guest, frame []byte) []byte { return frame[:30] }},
		{"heartbeat", all, func(*guest, []byte) []byte { return make([]byte, 4) }},
		{"closed", all, func(g *guest, _ []byte) []byte { g.Close(); return nil }},
		{"own", []control.Work{control.Room}, func(g *guest, frame []byte) []byte {
			own := append([]byte(nil), frame...)
			binary.BigEndian.PutUint32(own[4:], uint32(g.id))
			return own
		}},
		{"elsewhere", []control.Work{control.Room}, func(g *guest, frame []byte) []byte {
			other := append([]byte(nil), frame...)
			binary.BigEndian.PutUint32(other[4:], uint32((g.id+4)%8))
			return other
		}},
	} {
		for _, work := range c.works {
			t.Run(c.name+"/"+string(work), func(t *testing.T) {
				t.Parallel()
				mistaken(t, program, work, modes[work], func(g *guest, n int, frame []byte) []byte {
					if g.id == 2 && n == 4 {
						return c.lie(g, frame)
					}
					return frame
				})
			})
		}
	}
	// Two messages of one sender, which members of a room are only sent one after
	// the other: the second is sent again as if it were late.
	for _, work := range many {
		t.Run("late/"+string(work), func(t *testing.T) {
			t.Parallel()
			mistaken(t, program, work, modes[work], func(g *guest, n int, frame []byte) []byte {
				switch {
				case g.id == 2 && n == 4:
					g.kept = frame
				case g.id == 2 && n == 12:
					return g.kept
				}
				return frame
			})
		})
	}
}

func mistaken(t *testing.T, program load.Program, work control.Work, m load.Mode, lie func(*guest, int, []byte) []byte) {
	l := &liar{work: work, lie: lie}
	port := l.start(t)
	s, err := program.Start(t.Context(), proc.AnyCPU, load.Target{Port: port, PID: 1}, m)
	if err == nil {
		_, err = s.Window(10 * slice)
		if end := s.End(); err == nil {
			err = end
		}
	}
	if err == nil || !strings.Contains(err.Error(), "load: ") {
		t.Errorf("the load says %v", err)
	}
}

// What goes wrong between two windows is found, too.
func TestBetweenWindows(t *testing.T) {
	program := build(t)
	l := &liar{work: control.Echo, lie: func(_ *guest, _ int, frame []byte) []byte { return frame }}
	port := l.start(t)
	s, err := program.Start(t.Context(), proc.AnyCPU, load.Target{Port: port, PID: 1}, load.Echo{Conns: 4, Depth: 2, Payload: 64})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Window(slice); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	l.guests[3].Close()
	l.mu.Unlock()
	if err := s.End(); err == nil || !strings.Contains(err.Error(), "closed by the server") {
		t.Errorf("the load says %v", err)
	}
}

// A window in which a slow server, or a busy machine, answers nothing is longer.
func TestSlowServer(t *testing.T) {
	program := build(t)
	const pause = 5 * slice
	l := &liar{work: control.Echo, lie: func(_ *guest, _ int, frame []byte) []byte {
		time.Sleep(pause) // being slow is the point
		return frame
	}}
	s, err := program.Start(t.Context(), proc.AnyCPU, load.Target{Port: l.start(t), PID: 1}, load.Echo{Conns: 1, Depth: 1, Payload: 64})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Window(slice)
	if err != nil || r.Messages == 0 || r.Seconds < 2*slice.Seconds() {
		t.Errorf("window %+v, %v", r, err)
	}
	if err := s.End(); err != nil {
		t.Error(err)
	}
}

// A server that stands still is sent what is due all the same, and what waits for
// it counts from when it was due: as many messages as the rate says, and the
// slowest nearly as late as the pause is long.
func TestOpenLoop(t *testing.T) {
	program := build(t)
	const pause, window, messages = 200 * time.Millisecond, 600 * time.Millisecond, 600
	stands := sync.OnceFunc(func() { time.Sleep(pause) })
	l := &liar{work: control.Echo, lie: func(_ *guest, n int, frame []byte) []byte {
		if n == 12 { // each of 20 connections has a message every 20 ms
			stands() // being slow is the point
		}
		return frame
	}}
	s, err := program.Start(t.Context(), proc.AnyCPU, load.Target{Port: l.start(t), PID: 1},
		load.Open{Conns: 20, Payload: 64, Rate: messages / window.Seconds()})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Window(window)
	if err != nil || r.Messages < messages-2 || r.Messages > messages+2 {
		t.Errorf("window %+v, %v", r, err)
	}
	const micro = float64(time.Microsecond)
	if r.P99 < 0.9*float64(pause)/micro || r.P50 <= 0 || r.P50 > r.P99 {
		t.Errorf("latencies of %v and %v µs with a pause of %v", r.P50, r.P99, pause)
	}
	if err := s.End(); err != nil {
		t.Error(err)
	}
}
