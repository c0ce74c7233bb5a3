package engine_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// Of an open connection it is told what would end it and when, and that comes
// true; of a closed one, what did.
func TestExplain(t *testing.T) {
	cs := newCloses()
	opened := make(chan *engine.Conn, 1)
	live := quick
	live.Retry = time.Second // this test may be late, too
	cfg := listenOne(engine.Handler{Open: func(c *engine.Conn) error { opened <- c; return nil }, Close: cs.note}, live)
	cfg.Limits.FrameTimeout = time.Minute
	srv := serve(t, cfg)
	peer := rawDial(t, srv)
	write(t, peer, frame(t, codec.Data, []byte("begun, and not finished"))[:7])
	go func() { _, _ = io.Copy(io.Discard, peer) }()
	c := <-opened
	var x *engine.Explanation
	var asked time.Time
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		var err error
		asked = time.Now()
		if x, err = srv.Explain(t.Context(), c.ID()); err != nil {
			t.Fatal(err)
		}
		if len(x.Deadlines) == 2 {
			break
		}
		if time.Since(began) > 20*time.Second {
			t.Fatalf("explained as %v", x)
		}
	}
	if x.ID != c.ID() || x.Err != nil || x.Liveness != live || x.Paused {
		t.Errorf("explained as %+v", x)
	}
	verdict := x.Deadlines[0]
	if verdict.Reason != engine.HeartbeatLost || verdict.In > live.WorstCase() {
		t.Errorf("the verdict is explained as %+v", verdict)
	}
	if d := x.Deadlines[1]; d.Reason != engine.FrameTimeout || d.In > time.Minute || d.In < 50*time.Second {
		t.Errorf("the unfinished frame is explained as %+v", d)
	}
	for _, want := range []string{"open for", "HeartbeatLost in", "unless it is heard", "FrameTimeout in"} {
		if !strings.Contains(x.String(), want) {
			t.Errorf("%q is missing in: %v", want, x)
		}
	}

	ce := cs.reason(t, engine.HeartbeatLost)
	st := srv.Stats().Total
	if late := time.Since(asked) - verdict.In; late < -20*time.Millisecond || late > time.Second+st.Lag+st.Stalled {
		t.Errorf("the verdict came %v after it was announced for", late)
	}
	x, err := srv.Explain(t.Context(), c.ID())
	if err != nil {
		t.Fatal(err)
	}
	if x.Err != ce || x.Closed <= 0 || !strings.Contains(x.String(), "HeartbeatLost") {
		t.Errorf("a closed connection is explained as %+v", x)
	}
	if _, err := srv.Explain(t.Context(), 12345); err == nil {
		t.Error("an ID that never was is explained")
	}
	if n := st.Detection.Count(); n != 1 {
		t.Errorf("%d detections were counted", n)
	}
	if d := st.Detection.Quantile(1); d < ce.Evidence.LastRead || d > 2*ce.Evidence.LastRead+time.Millisecond {
		t.Errorf("the detection took %v, and is counted as %v", ce.Evidence.LastRead, d)
	}
}

// Explain does not wait for a loop for longer than its context.
func TestExplainBlockedLoop(t *testing.T) {
	release := make(chan struct{})
	opened := make(chan *engine.Conn, 1)
	srv := serve(t, listenOne(engine.Handler{
		Open:    func(c *engine.Conn) error { opened <- c; return nil },
		Message: func(*engine.Conn, []byte) { <-release },
	}, heartbeat.Config{}))
	defer close(release)
	peer := rawDial(t, srv)
	c := <-opened
	write(t, peer, frame(t, codec.Data, []byte("block")))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	// Before the message has come the loop still answers.
	for ctx.Err() == nil {
		if _, err := srv.Explain(ctx, c.ID()); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
}

// A quantile is at least the true one, and at most twice that.
func TestHistogram(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var ds []time.Duration
	for range 10_000 {
		ds = append(ds, time.Duration(rng.ExpFloat64()*float64(30*time.Millisecond)))
	}
	h := engine.HistogramOf(ds)
	slices.Sort(ds)
	if h.Count() != uint64(len(ds)) {
		t.Errorf("counted %d of %d", h.Count(), len(ds))
	}
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		at := ds[max(int(q*float64(len(ds)))-1, 0)]
		if got := h.Quantile(q); got < at || got > 2*at+time.Microsecond {
			t.Errorf("quantile %v is %v, true is %v", q, got, at)
		}
	}
	if q := engine.HistogramOf(nil).Quantile(0.5); q != 0 {
		t.Errorf("of nothing the quantile is %v", q)
	}
	if q := engine.HistogramOf([]time.Duration{1 << 62, -1, 0}); q.Count() != 3 || q.Counts[0] != 2 {
		t.Errorf("extremes are counted as %v", q)
	}
}
