//go:build linux

package bench_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/bench"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/result"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/lack"
)

// slack is what detection may take beyond a promise on a machine that is busy
// with other things.
const slack = 3 * time.Second

// deadPlan has half of the connections vanish within a second.
func deadPlan(srv *engine.Server, ways ...spec.Way) spec.Spec {
	p := plan(srv, spec.DeadPeer, "native")
	p.Conns, p.Ways, p.Warmup = 48, ways, 200*time.Millisecond
	p.Duration, p.Heartbeat = time.Second, 200*time.Millisecond
	return p
}

// way returns how the victims of one way were found.
func way(t *testing.T, r result.Run, w spec.Way) result.Detection {
	t.Helper()
	for _, d := range r.DeadPeer.Ways {
		if d.Way == w {
			return d
		}
	}
	t.Fatalf("nothing about %s in %+v", w, r.DeadPeer)
	return result.Detection{}
}

// What is reported about peers that vanish is what the server knows about them:
// as many as it closed for that reason, and found when it found them.
func TestDeadPeer(t *testing.T) {
	var mu sync.Mutex
	var silences []time.Duration // how long peers were silent before they were given up
	srv := serve(t, engine.Config{
		Listeners: []engine.Listener{{Codec: codec.Native{}, Liveness: heartbeat.Realtime()}},
		Handler: engine.Handler{
			Message: echo().Message,
			Close: func(c *engine.Conn, err error) {
				var end *engine.CloseError
				if errors.As(err, &end) && end.Reason == engine.HeartbeatLost {
					mu.Lock()
					silences = append(silences, end.Evidence.LastRead)
					mu.Unlock()
				}
			},
		},
	})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"cmdline": []string{"x"}, "pulsewheel": srv.Stats()})
	}))
	defer web.Close()
	defer http.DefaultClient.CloseIdleConnections()

	p := deadPlan(srv, spec.Silent, spec.Frozen, spec.Deaf, spec.Fin, spec.Reset)
	r := run(t, bench.Bench{Plan: p, StatsURL: web.URL + "/debug/vars"})
	d := r.DeadPeer
	if d.FalseVerdicts != 0 || d.Healthy != 24 {
		t.Errorf("%d false verdicts on %d healthy connections", d.FalseVerdicts, d.Healthy)
	}
	worst := heartbeat.Realtime().WorstCase()
	for _, w := range p.Ways {
		got := way(t, r, w)
		if got.Vanished < 4 || got.Found != got.Vanished {
			t.Errorf("%s: %d of %d found", w, got.Found, got.Vanished)
		}
		switch w {
		case spec.Silent, spec.Frozen:
			// Three tries of 550 ms each come first; at the earliest they began
			// a beat before the peer vanished.
			if got.Min < 1.2 || got.Max > (worst+slack).Seconds() {
				t.Errorf("%s: found after %.3f to %.3f s, promised %v", w, got.Min, got.Max, worst)
			}
		case spec.Deaf:
			if got.Max > (worst + slack).Seconds() {
				t.Errorf("deaf: found after %.3f s, promised %v", got.Max, worst)
			}
		default:
			if got.P50 > 1 {
				t.Errorf("%s: found after %.3f s; the server is told at once", w, got.P50)
			}
		}
	}
	for reason, want := range map[engine.Reason]int{
		engine.HeartbeatLost: way(t, r, spec.Silent).Vanished + way(t, r, spec.Frozen).Vanished,
		engine.Deaf:          way(t, r, spec.Deaf).Vanished,
		engine.PeerClosed:    way(t, r, spec.Fin).Vanished,
		engine.PeerReset:     way(t, r, spec.Reset).Vanished,
	} {
		if got := d.Reasons[reason.String()]; got != int64(want) {
			t.Errorf("the server closed %d as %v, %d vanished so", got, reason, want)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(silences) == 0 {
		t.Fatal("the server saw no lost heartbeat")
	}
	// A peer vanished after it was last heard, by one interval of its heartbeats
	// at most; what is left for clocks and busy machines is half a second, and the time
	// for which the server stood still, which silences leave out.
	const off = 0.5
	least, most := slices.Min(silences).Seconds()-p.Heartbeat.Seconds()-off, slices.Max(silences).Seconds()+off+srv.Stats().Total.Stalled.Seconds()
	for _, w := range []spec.Way{spec.Silent, spec.Frozen} {
		if got := way(t, r, w); got.Min < least || got.Max > most {
			t.Errorf("%s: found after %.3f to %.3f s; the server had heard nothing for %.3f to %.3f s", w, got.Min, got.Max,
				slices.Min(silences).Seconds(), slices.Max(silences).Seconds())
		}
	}
}

// Peers whose packets are dropped are found like silent ones. The rule is made
// in a network namespace of its own.
func TestCut(t *testing.T) {
	const inside = "PULSEBENCH_TEST_NAMESPACE"
	if os.Geteuid() != 0 {
		lack.Skip(t, "needs root")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		lack.Skip(t, "needs nft")
	}
	if os.Getenv(inside) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCut$", "-test.v", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		if err != nil {
			if cmd.Process == nil {
				lack.Skip(t, "no network namespace is to be had: ", err)
			}
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	raiseLoopback(t)
	srv := serve(t, engine.Config{
		Listeners: []engine.Listener{{Codec: codec.Native{}, Liveness: heartbeat.Realtime()}}, Handler: echo(),
	})
	r := run(t, bench.Bench{Plan: deadPlan(srv, spec.Cut)})
	worst := heartbeat.Realtime().WorstCase()
	got := way(t, r, spec.Cut)
	if got.Vanished != 24 || got.Found != 24 || got.Min < 1.2 || got.Max > (worst+slack).Seconds() || r.DeadPeer.FalseVerdicts != 0 {
		t.Errorf("%+v, %d false verdicts", got, r.DeadPeer.FalseVerdicts)
	}
	if out, err := exec.Command("nft", "list", "tables").CombinedOutput(); err != nil || len(out) != 0 {
		t.Errorf("left behind: %s (%v)", out, err)
	}
}

// raiseLoopback brings up the loopback interface of a new namespace.
func raiseLoopback(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatal(err)
	}
}

// A server that gives up on peers that are well is caught at it, and so is one
// that takes longer than it was to.
func TestFalseVerdicts(t *testing.T) {
	srv := serve(t, engine.Config{
		Listeners: []engine.Listener{{Codec: codec.Native{}, Liveness: heartbeat.Realtime()}},
		Handler: engine.Handler{Open: func(c *engine.Conn) error {
			if c.ID()%8 == 0 || c.ID()%8 == 3 { // every other connection is to vanish
				c.Loop().AfterFunc(1500*time.Millisecond, func() { _ = c.Abort() })
			}
			return nil
		}},
	})
	p := deadPlan(srv, spec.Silent)
	p.Promise = time.Second // it takes about two
	r, err := bench.Bench{Plan: p}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(r.Problems, " "), "the promise was 1s") {
		t.Errorf("a broken promise went unnoticed: %q", r.Problems)
	}
	if n := r.DeadPeer.FalseVerdicts; n == 0 || n > 12 || len(r.Problems) == 0 {
		t.Errorf("%d false verdicts of 12 at most, problems %q", n, r.Problems)
	}
}

// A server that never notices is reported as one, within the limit.
func TestNotFound(t *testing.T) {
	srv := echoServer(t, codec.Native{}) // it takes 40 s
	p := deadPlan(srv, spec.Silent, spec.Fin)
	p.DetectLimit = 2 * time.Second
	r, err := bench.Bench{Plan: p}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := way(t, r, spec.Silent); d.Vanished == 0 || d.Found != 0 {
		t.Errorf("%d of %d silent peers found", d.Found, d.Vanished)
	}
	if d := way(t, r, spec.Fin); d.Found != d.Vanished {
		t.Errorf("%d of %d that closed were found", d.Found, d.Vanished)
	}
	if len(r.Problems) == 0 {
		t.Error("no problem is reported")
	}
}
