package engine_test

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// pingOf returns a ping that announces an interval.
func pingOf(t *testing.T, interval time.Duration) []byte {
	t.Helper()
	c, err := codec.Native{}.Codec()
	if err != nil {
		t.Fatal(err)
	}
	return c.AppendPing(nil, codec.Beat{Stamp: 1, HasStamp: true, Interval: interval})
}

// A peer that announces an interval is given that long, within bounds, and one
// that announces none is watched as configured.
func TestFollow(t *testing.T) {
	const second = time.Second
	for name, x := range map[string]struct {
		announced, interval time.Duration
	}{
		"nothing":           {0, 300 * time.Millisecond},
		"within the bounds": {second, second},
		"too long":          {time.Hour, 1500 * time.Millisecond},
		"too short":         {time.Millisecond, 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cs := newCloses()
			live := heartbeat.Config{Interval: 300 * time.Millisecond, Retry: 500 * time.Millisecond, Misses: 2}
			cfg := listenOne(engine.Handler{Close: cs.note}, live)
			cfg.Listeners[0].Follow = engine.Follow{Min: 100 * time.Millisecond, Max: 1500 * time.Millisecond}
			srv := serve(t, cfg)
			c := rawDial(t, srv)
			write(t, c, pingOf(t, x.announced))
			// The very first query of all comes at a random time. It is answered;
			// from then on the peer is dead.
			query := make([]byte, len(pingOf(t, 0)))
			for query[3] != byte(codec.Ping) {
				if _, err := io.ReadFull(c, query); err != nil {
					t.Fatal(err)
				}
			}
			write(t, c, frame(t, codec.Pong, query[4:]))
			go func() { _, _ = io.Copy(io.Discard, c) }()
			ce := cs.reason(t, engine.HeartbeatLost)
			// The silence before the first query is up to what was announced, the
			// rest is the queries'.
			silent := ce.Evidence.LastRead
			st := srv.Stats().Total
			if most := x.interval + 2*live.Retry + 20*time.Millisecond + st.Lag + st.Stalled; silent > most {
				t.Errorf("silent for %v before the verdict, want at most %v", silent, most)
			}
			if least := x.interval + 2*live.Retry; silent < least {
				t.Errorf("silent for only %v, want at least %v", silent, least)
			}
		})
	}
}

// SetLiveness decides how one connection is watched, whatever is announced.
func TestSetLiveness(t *testing.T) {
	cs := newCloses()
	cfg := listenOne(engine.Handler{
		Close: cs.note,
		Message: func(c *engine.Conn, _ []byte) {
			if err := c.SetLiveness(heartbeat.Config{Interval: 50 * time.Millisecond}); err == nil {
				t.Error("an interval without misses was accepted")
			}
			if err := c.SetLiveness(quick); err != nil {
				t.Error(err)
			}
		},
	}, heartbeat.Relaxed())
	cfg.Listeners[0].Follow = engine.Follow{Min: time.Second, Max: time.Minute}
	srv := serve(t, cfg)
	c := rawDial(t, srv)
	go func() { _, _ = io.Copy(io.Discard, c) }()
	began := time.Now()
	write(t, c, pingOf(t, time.Minute))
	write(t, c, frame(t, codec.Data, []byte("watch me closely")))
	ce := cs.reason(t, engine.HeartbeatLost)
	st := srv.Stats().Total
	if most := quick.WorstCase() + 20*time.Millisecond + st.Lag + st.Stalled; ce.Evidence.LastRead > most {
		t.Errorf("silent for %v before the verdict, want at most %v", ce.Evidence.LastRead, most)
	}
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("a verdict after %v", took)
	}

	closed := make(chan *engine.Conn, 1)
	srv = serve(t, listenOne(engine.Handler{Open: func(c *engine.Conn) error { closed <- c; return nil }, Close: cs.note}, heartbeat.Config{}))
	_ = rawDial(t, srv).Close()
	gone := <-closed
	cs.reason(t, engine.PeerClosed)
	if err := gone.SetLiveness(quick); !errors.Is(err, net.ErrClosed) {
		t.Errorf("SetLiveness of a closed connection: %v", err)
	}
}

// A Follow that Liveness could not carry out is refused at the start.
func TestFollowConfig(t *testing.T) {
	for name, x := range map[string]struct {
		follow engine.Follow
		live   heartbeat.Config
	}{
		"Min above Max":      {engine.Follow{Min: 2, Max: 1}, quick},
		"no Min":             {engine.Follow{Max: time.Second}, quick},
		"no Interval":        {engine.Follow{Min: time.Second, Max: time.Minute}, heartbeat.Config{}},
		"Min below the tick": {engine.Follow{Min: time.Millisecond, Max: time.Minute}, quick},
		"Max above IdleRead": {engine.Follow{Min: time.Second, Max: time.Hour}, heartbeat.Config{Interval: time.Second, Misses: 1, IdleRead: time.Minute}},
	} {
		cfg := listenOne(engine.Handler{}, x.live)
		cfg.Listeners[0].Follow = x.follow
		srv, err := engine.Listen(cfg)
		if err == nil {
			t.Errorf("%s: no error", name)
			_ = srv.Shutdown(t.Context())
		}
	}
}

// While the application says that it is not well its peers are not answered, and
// can draw their conclusions.
func TestHealthy(t *testing.T) {
	var well atomic.Bool
	well.Store(true)
	srv := serve(t, listenOne(engine.Handler{Healthy: func(*engine.Conn) bool { return well.Load() }}, heartbeat.Config{}))
	lost := make(chan error, 1)
	opened := make(chan *engine.Conn, 1)
	live := quick
	live.Retry = 500 * time.Millisecond // the server may be late
	cl, err := engine.NewClient(engine.ClientConfig{
		Codec: codec.Native{}, Liveness: live,
		Handler: engine.Handler{
			Open:  func(c *engine.Conn) error { opened <- c; return nil },
			Close: func(_ *engine.Conn, err error) { lost <- err },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cl.Shutdown(t.Context()) }()
	if _, err := cl.Dial(t.Context(), srv.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	<-opened
	select {
	case err := <-lost:
		t.Fatalf("lost a server that is well: %v", err)
	case <-time.After(time.Second):
	}
	well.Store(false)
	select {
	case err := <-lost:
		if engine.ReasonOf(err) != engine.HeartbeatLost {
			t.Errorf("closed with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a server that does not answer was not found")
	}
}

// A flood of pings is answered at a rate, and the connection stays.
func TestPingFlood(t *testing.T) {
	cs := newCloses()
	srv := serve(t, listenOne(engine.Handler{Message: echo, Close: cs.note}, heartbeat.Config{}))
	c := rawDial(t, srv)
	began := time.Now()
	const floods = 50
	flood := make([]byte, 0, 1000*16)
	for range 1000 {
		flood = append(flood, pingOf(t, 0)...)
	}
	last := frame(t, codec.Data, []byte("the last word"))
	go func() {
		for range floods {
			if _, err := c.Write(flood); err != nil {
				return
			}
		}
		_, _ = c.Write(last)
	}()
	answers := 0
	for {
		var header [4]byte
		if _, err := io.ReadFull(c, header[:]); err != nil {
			t.Fatal(err)
		}
		if codec.Kind(header[3]) == codec.Data {
			break
		}
		if _, err := io.ReadFull(c, make([]byte, 12)); err != nil {
			t.Fatal(err)
		}
		answers++
	}
	if most := 101 + int(time.Since(began)/(10*time.Millisecond)) + 1; answers > most || answers < 100 {
		t.Errorf("%d pings were answered, want 100 to %d", answers, most)
	}
	st := srv.Stats().Total
	if st.PingsIn != floods*1000 || st.PingsIgnored != uint64(floods*1000-answers) {
		t.Errorf("%d pings came, %d were ignored, %d answered", st.PingsIn, st.PingsIgnored, answers)
	}
	cs.none(t, 10*time.Millisecond)
}
