package timingwheel_test

import (
	"fmt"
	"time"

	"github.com/pulsewheel/pulsewheel/timingwheel"
)

func ExampleWheel() {
	w := timingwheel.New(100)
	names := []string{"tea", "eggs", "cake"}
	tea := w.Add(104, 0)
	eggs := w.Add(106, 1)
	w.Add(1900, 2)
	w.Stop(tea)
	w.Reset(eggs, 110)

	for {
		next, ok := w.Next()
		if !ok {
			break
		}
		// A driver would sleep until next here. It may wake before a deadline: a cascade is work too.
		w.Advance(next, 512, func(t timingwheel.Timer, data uint32) uint64 {
			fmt.Println(w.Now(), names[data])
			return 0
		})
	}
	// Output:
	// 110 eggs
	// 1900 cake
}

// An idle timeout without a timer operation per message: whoever reads stores the time, and the timer looks when it
// fires.
func ExampleWheel_Advance_postpone() {
	const timeout = 30
	type conn struct{ lastRead uint64 }

	w := timingwheel.New(0)
	conns := []*conn{{}, {}}
	for i := range conns {
		w.Add(timeout, uint32(i))
	}
	check := func(t timingwheel.Timer, data uint32) uint64 {
		if deadline := conns[data].lastRead + timeout; deadline > w.Now() {
			return deadline // the same timer again, later
		}
		fmt.Println("connection", data, "idle at", w.Now())
		return 0
	}
	for now := uint64(1); now <= 100; now++ {
		if now <= 60 {
			conns[1].lastRead = now // one store a message
		}
		w.Advance(now, 512, check)
	}
	// Output:
	// connection 0 idle at 30
	// connection 1 idle at 90
}

func ExampleScheduler() {
	s := timingwheel.NewScheduler(timingwheel.Config{Tick: time.Millisecond})
	defer s.Close()

	done := make(chan struct{})
	slow := s.AfterFunc(time.Minute, func() { fmt.Println("too slow") })
	n := 0
	s.Every(2*time.Millisecond, func() {
		if n++; n == 3 {
			close(done)
		}
	})
	<-done
	fmt.Println("stopped in time:", slow.Stop())
	// Output:
	// stopped in time: true
}

// A timer that is part of the caller's struct costs no allocation.
func ExampleScheduler_Bind() {
	type session struct {
		idle timingwheel.FuncTimer
	}
	s := timingwheel.NewScheduler(timingwheel.Config{})
	defer s.Close()

	expired := make(chan struct{})
	var c session
	s.Bind(&c.idle, func() { close(expired) })
	c.idle.Reset(20 * time.Millisecond)

	deadline := s.Now() + 30*time.Millisecond // with one look at the clock for a batch of messages
	c.idle.Postpone(deadline)

	<-expired
	fmt.Println("in time:", s.Now() >= deadline)
	// Output:
	// in time: true
}
