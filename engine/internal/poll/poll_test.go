//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package poll_test

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/engine/internal/clock"
	"github.com/pulsewheel/pulsewheel/engine/internal/poll"
)

// recorder hands everything a poller reports to the test.
type recorder struct {
	p       poll.Poller
	ready   func(fd int, ev poll.Events)
	served  func()
	woken   func()
	expired func()
	wait    poll.Wait // what Served says; 0: everything
}

func (r *recorder) Ready(fd int, ev poll.Events) {
	if r.ready != nil {
		r.ready(fd, ev)
	}
}

func (r *recorder) Coming(int) {}

func (r *recorder) Served() poll.Wait {
	if r.served != nil {
		r.served()
	}
	return cmp.Or(r.wait, poll.Ran|poll.Overdue|poll.Soon)
}

func (r *recorder) Woken() {
	if r.woken != nil {
		r.woken()
	}
}

func (r *recorder) Expired() {
	if r.expired != nil {
		r.expired()
	}
}

// start runs a poller until the test ends. Functions sent to do are run by its
// goroutine.
func start(t *testing.T, r *recorder) (do func(func())) {
	t.Helper()
	p, err := poll.Open()
	if err != nil {
		t.Fatal(err)
	}
	r.p = p
	tasks := make(chan func(), 100)
	woken := r.woken
	r.woken = func() {
		if woken != nil {
			woken()
		}
		for len(tasks) > 0 {
			(<-tasks)()
		}
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(r) }()
	do = func(f func()) {
		t.Helper()
		ran := make(chan struct{})
		tasks <- func() { f(); close(ran) }
		if err := p.Wake(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ran:
		case <-time.After(5 * time.Second):
			t.Fatal("the poller was not woken")
		}
	}
	t.Cleanup(func() {
		do(p.Stop)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return do
}

func pair(t *testing.T) (ours, theirs int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if err := unix.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
	}
	return fds[0], fds[1]
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatal("in vain: " + what)
}

func TestReadiness(t *testing.T) {
	var readable, writable, hangups atomic.Int64
	r := &recorder{ready: func(fd int, ev poll.Events) {
		if ev&poll.Readable != 0 {
			readable.Add(1)
			var b [100]byte
			_, _ = unix.Read(fd, b[:])
		}
		if ev&poll.Writable != 0 {
			writable.Add(1)
		}
		if ev&poll.Hangup != 0 {
			hangups.Add(1)
		}
	}}
	do := start(t, r)
	ours, theirs := pair(t)
	do(func() {
		if err := r.p.Add(ours); err != nil {
			t.Error(err)
		}
	})
	_, _ = unix.Write(theirs, []byte("x"))
	eventually(t, "readable", func() bool { return readable.Load() > 0 })
	if writable.Load() > 0 {
		t.Error("reported room to write, which nobody asked for")
	}
	do(func() {
		if err := r.p.Writing(ours, true); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "writable", func() bool { return writable.Load() > 0 })
	do(func() {
		if err := r.p.Writing(ours, false); err != nil {
			t.Error(err)
		}
	})
	do(func() { writable.Store(0) })
	time.Sleep(20 * time.Millisecond)
	if n := writable.Load(); n > 0 {
		t.Errorf("reported room to write %d times after it was turned off", n)
	}
	_ = unix.Shutdown(theirs, unix.SHUT_RDWR)
	eventually(t, "hang-up", func() bool { return hangups.Load() > 0 })
	do(func() { _ = r.p.Remove(ours) })
}

// A paused descriptor reports no data, does not spin, and still reports a
// hang-up; after the resume the data is there.
func TestPause(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("kqueue cannot drop read interest: the caller ignores reports")
	}
	var events, readable, hangups atomic.Int64
	r := &recorder{ready: func(fd int, ev poll.Events) {
		events.Add(1)
		if ev&poll.Readable != 0 {
			readable.Add(1)
			var b [100]byte
			_, _ = unix.Read(fd, b[:])
		}
		if ev&poll.Hangup != 0 {
			hangups.Add(1)
		}
	}}
	do := start(t, r)
	ours, theirs := pair(t)
	do(func() {
		if err := r.p.Add(ours); err != nil {
			t.Error(err)
		}
		if err := r.p.Pause(ours); err != nil {
			t.Error(err)
		}
	})
	for range 50 {
		_, _ = unix.Write(theirs, []byte("x"))
		time.Sleep(time.Millisecond)
	}
	if n := readable.Load(); n > 0 {
		t.Errorf("data reported %d times during a pause", n)
	}
	if n := events.Load(); n > 5 {
		t.Errorf("%d events during a pause", n)
	}
	do(func() {
		if err := r.p.Resume(ours, false); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "what came during the pause", func() bool { return readable.Load() > 0 })
	do(func() {
		if err := r.p.Pause(ours); err != nil {
			t.Error(err)
		}
	})
	_ = unix.Shutdown(theirs, unix.SHUT_RDWR)
	eventually(t, "hang-up during a pause", func() bool { return hangups.Load() > 0 })
}

// Wake-ups from many goroutines are never lost, and are shared.
func TestWake(t *testing.T) {
	var posted, seen atomic.Int64
	r := &recorder{}
	r.woken = func() { seen.Store(posted.Load()) }
	start(t, r)
	const goroutines, each = 4, 2000
	done := make(chan struct{})
	for range goroutines {
		go func() {
			for range each {
				posted.Add(1)
				_ = r.p.Wake()
			}
			done <- struct{}{}
		}()
	}
	for range goroutines {
		<-done
	}
	eventually(t, "the last wake-up", func() bool { return seen.Load() == goroutines*each })
}

// The timer is never early, and a later Arm replaces an earlier one.
func TestArm(t *testing.T) {
	fired := make(chan int64, 100)
	r := &recorder{expired: func() { fired <- clock.Now() }}
	do := start(t, r)
	arm := func(ds ...time.Duration) (at int64) {
		do(func() {
			for _, d := range ds {
				at = clock.Now() + int64(d)
				if err := r.p.Arm(at); err != nil {
					t.Error(err)
				}
			}
		})
		return at
	}
	for _, d := range []time.Duration{-time.Hour, 0, time.Millisecond, 30 * time.Millisecond} {
		at := arm(d)
		select {
		case now := <-fired:
			if now < at {
				t.Errorf("armed for %v: %d ns early", d, at-now)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("armed for %v: did not expire", d)
		}
	}
	at := arm(20*time.Millisecond, 100*time.Millisecond)
	if now := <-fired; now < at {
		t.Errorf("a replaced time expired %v before the new one", time.Duration(at-now))
	}
	select {
	case <-fired:
		t.Error("expired twice")
	case <-time.After(50 * time.Millisecond):
	}
}

// After a Goexit in a callback another goroutine can run the poller.
func TestRunAfterGoexit(t *testing.T) {
	p, err := poll.Open()
	if err != nil {
		t.Fatal(err)
	}
	var wakes atomic.Int64
	r := &recorder{p: p}
	r.woken = func() {
		if wakes.Add(1) == 1 {
			runtime.Goexit()
		}
		p.Stop()
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = p.Run(r) }()
	_ = p.Wake()
	<-ended
	done := make(chan error, 1)
	go func() { done <- p.Run(r) }()
	_ = p.Wake()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the second Run was not woken")
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// Served follows what was ready, before the poller waits again.
func TestServed(t *testing.T) {
	var ready, served atomic.Int64
	var unserved int // the loop's
	r := &recorder{}
	r.ready = func(fd int, _ poll.Events) {
		var b [100]byte
		_, _ = unix.Read(fd, b[:])
		unserved++
		ready.Add(1)
	}
	r.served = func() {
		served.Add(int64(unserved))
		unserved = 0
	}
	do := start(t, r)
	var peers []int
	for range 20 {
		fd, peer := pair(t)
		peers = append(peers, peer)
		do(func() {
			if err := r.p.Add(fd); err != nil {
				t.Error(err)
			}
		})
	}
	for round := range int64(5) {
		for _, peer := range peers {
			if _, err := unix.Write(peer, []byte{1}); err != nil {
				t.Fatal(err)
			}
		}
		want := (round + 1) * int64(len(peers))
		eventually(t, "all that was ready is served", func() bool { return ready.Load() >= want && served.Load() == ready.Load() })
	}
}

// However a poller waits, it keeps nobody else from running for long: not whoever
// sends what it waits for, not who waits for the network in Go's own way, and not
// the collector.
func TestOthersRun(t *testing.T) {
	for _, procs := range []int{1, 2} {
		t.Run(fmt.Sprint(procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			var got atomic.Int64
			r := &recorder{wait: poll.Soon, ready: func(fd int, _ poll.Events) {
				var b [1]byte
				if n, _ := unix.Read(fd, b[:]); n == 1 {
					got.Add(1)
				}
			}}
			do := start(t, r)
			fd, peer := pair(t)
			do(func() {
				if err := r.p.Add(fd); err != nil {
					t.Error(err)
				}
			})
			ours, theirs, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			defer theirs.Close()
			for sent := int64(1); sent <= 50; sent++ {
				if _, err := unix.Write(peer, []byte{1}); err != nil {
					t.Fatal(err)
				}
				eventually(t, "what was sent arrives", func() bool { return got.Load() == sent })
				time.AfterFunc(time.Millisecond, func() { _, _ = theirs.Write([]byte{1}) })
				if _, err := ours.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				if sent%10 == 0 {
					runtime.GC()
				}
			}
		})
	}
}

// Nor does that depend on the signals by which Go's scheduler stops who runs for too
// long, which can be turned off.
func TestOthersRunWithoutSignals(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a test in another process")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestOthersRun$")
	child.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1")
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
