package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/stats"
	"github.com/pulsewheel/pulsewheel/timingwheel"
)

// sample is what one process measured for one subject.
type sample struct {
	Subject string             `json:"subject"`
	Timers  int                `json:"timers"`
	Round   int                `json:"round"`
	Figures map[string]float64 `json:"figures"`
}

// Figures. All that end in "-ns" are CPU time of the whole process per operation, with background goroutines and the
// collector, but for those called wall.
const (
	armStopNS   = "arm+stop-ns"
	armStopWall = "arm+stop-wall-ns"
	armStopB    = "arm+stop-B"
	armStopN    = "arm+stop-allocs"
	armRandomNS = "arm+stop-random-ns"
	replaceNS   = "replace-ns"
	touchNS     = "touch-ns"
	twoWall     = "two-wall-ns" // arm+stop by two goroutines: elapsed time over the operations of both
	twoNS       = "two-ns"
	timerB      = "B/timer"
	gcMS        = "gc-ms"      // CPU time of one collection, by the runtime's account
	gcBaseMS    = "gc-base-ms" // the same before any timer was armed
	idleCPU     = "idle-µs/s"
	idleWakes   = "idle-switches/s" // voluntary context switches
	idleWakeups = "idle-wakeups/s"  // of the Scheduler's goroutine alone
	fireNS      = "fire-ns"
	lateP50     = "late-p50-ms"
	lateP99     = "late-p99-ms"
	lateMax     = "late-max-ms"
	earlyShare  = "early-%"
	earlyMax    = "early-max-ms"
	cascadeP50  = "cascade-p50-µs" // CPU time of one call of Advance with the engine's budget, while timers cascade
	cascadeP999 = "cascade-p99.9-µs"
	cascadeMax  = "cascade-max-µs"
	cascadeWall = "cascade-wall-p99.9-µs"
	cascadeN    = "cascade-calls"
)

// scale says how much work is measured.
type scale struct {
	ops     int           // operations of each kind
	settle  time.Duration // length of the idle window
	windows func(n int) span
}

// full and smoke are the two scales there are.
var (
	full = scale{
		ops:    2_000_000,
		settle: time.Second,
		windows: func(n int) span { // when timers are due that are to fire: 250 a millisecond at most
			lead := 300*time.Millisecond + time.Duration(n)*2500 // to arm them first
			length := max(time.Second, time.Duration(n)*4*time.Microsecond)
			if n > accurate {
				length /= 4 // it is CPU time that counts then
			}
			return span{lead, lead + length}
		},
	}
	smoke = scale{
		ops:    2_000,
		settle: 20 * time.Millisecond,
		windows: func(n int) span {
			return span{300 * time.Millisecond, 340 * time.Millisecond} // a machine may be busy while they are armed
		},
	}
)

// accurate is the largest number of timers for which lateness is measured: beyond it all are late for want of CPU time.
const accurate = 1_000_000

// far is when the outstanding timers are due: long after the measurement. It is also how far timers are armed for.
var far = span{5 * time.Minute, 10 * time.Minute}

// armed is the timeout that is armed and stopped: that of a request, say.
const armed = 30 * time.Second

// measure takes all figures of one subject with n timers outstanding.
func measure(k kind, n int, sc scale) (map[string]float64, error) {
	figures := map[string]float64{}
	if _, err := usage(); err != nil {
		return nil, err
	}
	s := k.open()
	figures[gcBaseMS] = collection(sc)
	before := heap()
	s.fill(n, far)
	figures[timerB] = float64(heap()-before-handles(s, n)) / float64(n)

	figures[gcMS] = collection(sc)

	ops := sc.ops
	s.armStop(ops/10, armed, far) // warm up
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	start := time.Now()
	figures[armStopNS] = cpu(func() { s.armStop(ops, armed, far) }) / float64(ops)
	figures[armStopWall] = float64(time.Since(start).Nanoseconds()) / float64(ops)
	runtime.ReadMemStats(&m1)
	figures[armStopB] = float64(m1.TotalAlloc-m0.TotalAlloc) / float64(ops)
	figures[armStopN] = float64(m1.Mallocs-m0.Mallocs) / float64(ops)
	figures[armRandomNS] = cpu(func() { s.armStop(ops, 0, far) }) / float64(ops)

	if k.concurrent {
		start := time.Now()
		figures[twoNS] = cpu(func() {
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() { s.armStop(ops/2, armed, far) })
			}
			wg.Wait()
		}) / float64(ops)
		figures[twoWall] = float64(time.Since(start).Nanoseconds()) / float64(ops)
	}

	s.touch(ops/10, far.to+time.Minute)
	figures[touchNS] = cpu(func() { s.touch(ops, far.to+2*time.Minute) }) / float64(ops)
	s.replace(ops/10, far)
	figures[replaceNS] = cpu(func() { s.replace(ops, far) }) / float64(ops)

	if !k.manual {
		runtime.GC()
		time.Sleep(sc.settle / 10)
		var wakeups uint64
		if o, ok := s.(*ownedSubject); ok {
			wakeups = o.s.Stats().Wakeups
		}
		u0, _ := usage()
		time.Sleep(sc.settle)
		u1, _ := usage()
		if o, ok := s.(*ownedSubject); ok {
			figures[idleWakeups] = float64(o.s.Stats().Wakeups-wakeups) / sc.settle.Seconds()
		}
		figures[idleCPU] = float64(u1.cpu-u0.cpu) / 1e3 / sc.settle.Seconds()
		figures[idleWakes] = float64(u1.switches-u0.switches) / sc.settle.Seconds()
	}
	s.close()
	s = nil
	runtime.GC()

	if err := measureFire(k, n, sc, figures); err != nil {
		fmt.Fprintln(os.Stderr, "timingwheel: left out:", err)
	}
	if k.manual {
		measureCascade(n, figures)
	}
	return figures, nil
}

// measureFire takes the CPU time of firing, and then, with other timers, when they fire.
func measureFire(k kind, n int, sc scale, figures map[string]float64) error {
	window := sc.windows(n)
	for _, record := range []bool{false, true} {
		if record && n > accurate {
			return nil
		}
		s := k.open()
		r := newRecorder(n, record)
		var from usageOf
		late := false
		s.fire(n, window, r, func() {
			late = r.now() > window.from
			from, _ = usage()
		})
		to, _ := usage()
		s.close()
		if late {
			return fmt.Errorf("%s: arming %d timers took longer than the first one's %v", k.name, n, window.from)
		}
		if !record {
			figures[fireNS] = float64(to.cpu-from.cpu) / float64(n)
			continue
		}
		ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
		figures[lateP50], figures[lateP99], figures[lateMax] = ms(r.late(0.5)), ms(r.late(0.99)), ms(r.late(1))
		figures[earlyShare] = 100 * float64(r.early.Load()) / float64(n)
		figures[earlyMax] = ms(time.Duration(-r.earliest.Load()))
	}
	return nil
}

// measureCascade moves a wheel with n timers, spread over 100,000 ticks on higher levels, tick by tick. Every call of
// Advance is measured; where the budget ends a call, the loop would serve its connections before the next.
func measureCascade(n int, figures map[string]float64) {
	r := newSource()
	w := timingwheel.New(0)
	for i := range n {
		w.Add(1<<18+r.below(100_000), uint32(i)) // all of them in one slot at first
	}
	runtime.GC()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fire := func(timingwheel.Timer, uint32) uint64 { return 0 }
	var calls, walls []time.Duration
	for now := uint64(1<<18 - 1); w.Len() > 0; {
		start, from := time.Now(), threadCPU()
		done := w.Advance(now, engineBudget, fire)
		calls = append(calls, threadCPU()-from)
		walls = append(walls, time.Since(start))
		if done {
			now++
		}
	}
	slices.Sort(calls)
	slices.Sort(walls)
	quantile := func(ds []time.Duration, q float64) float64 {
		return float64(ds[min(int(q*float64(len(ds))), len(ds)-1)]) / float64(time.Microsecond)
	}
	figures[cascadeP50], figures[cascadeP999] = quantile(calls, 0.5), quantile(calls, 0.999)
	figures[cascadeMax], figures[cascadeWall] = quantile(calls, 1), quantile(walls, 0.999)
	figures[cascadeN] = float64(len(calls))
}

// cpu returns the CPU time of the process during f, in ns.
func cpu(f func()) float64 {
	from, _ := usage()
	f()
	to, _ := usage()
	return float64(to.cpu - from.cpu)
}

// collection returns the CPU time of one collection in ms, as the runtime accounts for it: the median of many. The time
// of the whole process would hold what it costs to wake and to stop processors, which is more and has nothing to do with
// timers.
func collection(sc scale) float64 {
	total := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}}
	times := make([]float64, 21)
	for i := range times {
		time.Sleep(sc.settle / 100) // until the sweeper and the workers of the last one have gone to sleep
		metrics.Read(total)
		before := total[0].Value.Float64()
		runtime.GC()
		metrics.Read(total)
		times[i] = (total[0].Value.Float64() - before) * 1e3
	}
	return stats.Median(times)
}

// heap returns the bytes in use after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC() // the second one frees what only finalizers and pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// handles returns the bytes of the slice in which a subject keeps what it needs to stop its timers: the caller's, so
// they do not count. Timers that the caller owns are themselves what is stopped, and count.
func handles(s subject, n int) int64 {
	switch s.(type) {
	case *ownedSubject:
		return 0
	case *afterFuncSubject[antlabsTimer]:
		return 16 * int64(n) // an interface
	default:
		return 8 * int64(n)
	}
}
