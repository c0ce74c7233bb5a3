package engine_test

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

func TestAfterFunc(t *testing.T) {
	srv := serve(t, listenOne(engine.Handler{}, heartbeat.Config{}))
	l := srv.Loops()[0]
	for _, d := range []time.Duration{-time.Second, 0, time.Millisecond, 25 * time.Millisecond, 130 * time.Millisecond} {
		began := time.Now()
		ran := make(chan time.Duration, 1)
		timer := l.AfterFunc(d, func() { ran <- time.Since(began) })
		select {
		case took := <-ran:
			if took < d {
				t.Errorf("after %v: ran %v early", d, d-took)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("after %v: did not run", d)
		}
		if timer.Stop() {
			t.Error("Stop stopped a timer that had run")
		}
	}
}

func TestAfterFuncStop(t *testing.T) {
	srv := serve(t, listenOne(engine.Handler{}, heartbeat.Config{}))
	l := srv.Loops()[0]
	var ran, stopped atomic.Int64
	for i := range 1000 {
		timer := l.AfterFunc(time.Duration(i%40)*time.Millisecond, func() { ran.Add(1) })
		if i%2 == 0 {
			if timer.Stop() {
				stopped.Add(1)
			}
		}
	}
	eventually(t, "every timer ran or was stopped", func() bool { return ran.Load()+stopped.Load() == 1000 })
	time.Sleep(60 * time.Millisecond)
	if n := ran.Load() + stopped.Load(); n != 1000 {
		t.Errorf("%d timers ran or were stopped", n)
	}
	far := l.AfterFunc(1<<63-1, func() { t.Error("ran") })
	if !far.Stop() {
		t.Error("Stop did not stop a timer of 292 years")
	}
}

// Every does not drift: after n periods it has run n times, whatever each run
// took, and Stop ends it.
func TestEvery(t *testing.T) {
	srv := serve(t, listenOne(engine.Handler{}, heartbeat.Config{}))
	l := srv.Loops()[0]
	const period = 20 * time.Millisecond
	began := time.Now()
	runs := make(chan time.Duration, 1000)
	timer := l.Every(period, func() { runs <- time.Since(began) })
	for i := 1; i <= 20; i++ {
		select {
		case at := <-runs:
			if at < time.Duration(i)*period {
				t.Errorf("run %d came at %v", i, at)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("run %d did not come", i)
		}
	}
	if !timer.Stop() {
		t.Error("Stop: false")
	}
	if timer.Stop() {
		t.Error("second Stop: true")
	}
	time.Sleep(3 * period)
	for len(runs) > 0 {
		<-runs
	}
	time.Sleep(3 * period)
	if len(runs) > 0 {
		t.Error("it runs on after Stop")
	}
}

// A timer is late by less than a tick and what LoopStats.Lag says, also where
// many are due at once and each waits for those before it, where some of them end the
// loop's goroutine, and where the loop has no time for them before they are due.
func TestLagOfMany(t *testing.T) {
	const n, delay, each = 3000, 20 * time.Millisecond, 50 * time.Microsecond
	spin := func(d time.Duration) {
		for began := time.Now(); time.Since(began) < d; {
		}
	}
	for name, x := range map[string]struct {
		goexits bool
		held    time.Duration
	}{"calm": {}, "Goexit": {goexits: true}, "held": {held: 5 * delay}} {
		t.Run(name, func(t *testing.T) {
			srv := serve(t, listenOne(engine.Handler{}, heartbeat.Config{}))
			l := srv.Loops()[0]
			var (
				wg     sync.WaitGroup
				latest time.Duration // on the loop
				span   time.Duration // from when the first is due to the last
			)
			wg.Add(n)
			if err := l.Post(func() {
				first := time.Now()
				for i := range n {
					var at time.Time
					l.AfterFunc(delay, func() {
						latest = max(latest, time.Since(at))
						spin(each)
						wg.Done()
						if x.goexits && i%500 == 200 {
							runtime.Goexit()
						}
					})
					at = time.Now().Add(delay)
				}
				span = time.Since(first)
				spin(x.held)
			}); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
			if most := 10*time.Millisecond + loopLag(t, l, srv); latest > most || latest < (n-1)*each-span {
				t.Errorf("the last of %d was late by %v, at most %v by the loop's own account", n, latest, most)
			}
		})
	}
}

// loopLag returns what a loop says of its lag once it is done with what it does.
func loopLag(t *testing.T, l *engine.Loop, srv *engine.Server) time.Duration {
	lag := make(chan time.Duration)
	if err := l.Post(func() { lag <- srv.Stats().Loops[l.Index()].Lag }); err != nil {
		t.Fatal(err)
	}
	return <-lag
}
