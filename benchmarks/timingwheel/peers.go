package main

import (
	"time"

	russellluo "github.com/RussellLuo/timingwheel"
	antlabs "github.com/antlabs/timer"
	nbio "github.com/lesismal/nbio/timer"
)

func openTime() subject {
	return &afterFuncSubject[*time.Timer]{
		r:         newSource(),
		never:     func() {},
		afterFunc: time.AfterFunc,
		reset:     (*time.Timer).Reset,
	}
}

// reusedSubject is package time for those who keep a timer and reset it: it allocates nothing.
type reusedSubject struct {
	afterFuncSubject[*time.Timer]
}

func openTimeReused() subject {
	return &reusedSubject{*openTime().(*afterFuncSubject[*time.Timer])}
}

func (s *reusedSubject) armStop(ops int, d time.Duration, sp span) {
	r := newSource()
	t := time.AfterFunc(sp.to, s.never)
	defer t.Stop()
	if d != 0 {
		for range ops {
			t.Reset(d)
			t.Stop()
		}
		return
	}
	for range ops {
		t.Reset(sp.random(r))
		t.Stop()
	}
}

func (s *reusedSubject) replace(ops int, sp span) {
	n := uint64(len(s.timers))
	for range ops {
		t := s.timers[s.r.below(n)]
		t.Stop()
		t.Reset(sp.random(s.r))
	}
}

func openRussellLuo() subject {
	w := russellluo.NewTimingWheel(time.Millisecond, 20)
	w.Start()
	return &afterFuncSubject[*russellluo.Timer]{
		r:         newSource(),
		never:     func() {},
		afterFunc: w.AfterFunc,
		shut:      w.Stop,
	}
}

// antlabsTimer is what its AfterFunc returns.
type antlabsTimer = antlabs.TimeNoder

func openAntlabs() subject {
	t := antlabs.NewTimer(antlabs.WithTimeWheel())
	go t.Run()
	time.Sleep(20 * time.Millisecond) // it has no other sign of having started
	return &afterFuncSubject[antlabs.TimeNoder]{
		r:         newSource(),
		never:     func() {},
		afterFunc: t.AfterFunc,
		// No reset: it locks the old slot and then the new one, and waits for itself for ever if they are the same.
		shut: t.Stop,
	}
}

func openNbio() subject {
	t := nbio.New("bench")
	return &afterFuncSubject[*time.Timer]{
		r:         newSource(),
		never:     func() {},
		afterFunc: t.AfterFunc,
		reset:     (*time.Timer).Reset,
	}
}
