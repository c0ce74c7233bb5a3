package engine_test

import (
	"flag"
	"fmt"
	"maps"
	"math"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "let TestSim run this one seed and print its trace")
	simSeeds = flag.Int("sim.seeds", 0, "how many seeds TestSim runs; 0: 10,000, 2,000 under the race detector, 500 with -short")
)

// TestSim lets whole engines live through thousands of short lives on simulated
// machines, in virtual time. Each seed draws a configuration, a crowd of peers
// of every nasty kind and an application that misbehaves in every way it may,
// and checks what must always hold (see simLife.check and simApp).
func TestSim(t *testing.T) {
	if *simSeed != 0 {
		life := liveOnce(t, *simSeed, true)
		t.Logf("seed %d: %s, trace %x\n%s", life.seed, life.summary(), life.course, life.w.Trace())
		for _, p := range life.problems {
			t.Error(p)
		}
		return
	}
	seeds := *simSeeds
	switch {
	case seeds != 0:
	case testing.Short():
		seeds = 500
	case raceEnabled:
		seeds = 2_000
	default:
		seeds = 10_000
	}
	var mu sync.Mutex
	seen := make(map[string]int)
	var failed atomic.Uint64 // the lowest seed that did; beyond it nobody looks
	failed.Store(math.MaxUint64)
	const shards = 8
	t.Run("seeds", func(t *testing.T) {
		for shard := range shards {
			t.Run(fmt.Sprintf("shard=%d", shard), func(t *testing.T) {
				t.Parallel()
				mine := make(map[string]int)
				for seed := uint64(shard + 1); seed <= uint64(seeds) && seed < failed.Load(); seed += shards {
					if liveSeed(t, seed, mine) {
						continue
					}
					for lowest := failed.Load(); seed < lowest && !failed.CompareAndSwap(lowest, seed); lowest = failed.Load() {
					}
				}
				mu.Lock()
				defer mu.Unlock()
				for what, n := range mine {
					seen[what] += n
				}
			})
		}
	})
	if !t.Failed() {
		checkCoverage(t, seen, seeds)
	}
}

// liveSeed lives one life, now and then a second time to see that it is the
// same, and shows a failed one from the start.
func liveSeed(t *testing.T, seed uint64, seen map[string]int) (passed bool) {
	life := liveOnce(t, seed, false)
	const again = 50 // one in so many seeds
	if len(life.problems) == 0 && seed%again == 0 {
		if second := liveOnce(t, seed, false); second.course != life.course {
			life.problem("a second run of the same seed took another course")
		}
	}
	if len(life.problems) > 0 {
		t.Errorf("seed %d, %s:\n  %s\nreplay with its whole trace: go test ./engine -run 'TestSim$' -sim.seed=%d",
			seed, life.summary(), strings.Join(life.problems, "\n  "), seed)
		lines := strings.SplitAfter(liveOnce(t, seed, true).w.Trace(), "\n")
		const most = 200
		t.Logf("the end of its trace:\n%s", strings.Join(lines[max(0, len(lines)-most):], ""))
		return false
	}
	for what, n := range life.w.Counts() {
		seen["world: "+what] += n
	}
	for what, n := range life.seen {
		seen[what] += n
	}
	return true
}

// liveOnce lives the life of one seed in a bubble of its own.
func liveOnce(t *testing.T, seed uint64, trace bool) *simLife {
	done := make(chan struct{})
	defer close(done)
	go func() {
		for range 3 { // once may be that the machine was suspended
			select {
			case <-done:
				return
			case <-time.After(20 * time.Second):
			}
		}
		debug.SetTraceback("all")
		panic(fmt.Sprintf("seed %d hangs", seed))
	}()
	var life *simLife
	defer func() {
		if r := recover(); r != nil {
			// The bubble is broken: a goroutine is left over, say.
			panic(fmt.Sprintf("seed %d: %v\n  %s\n%s", seed, r, strings.Join(life.problems, "\n  "), life.w.Trace()))
		}
	}()
	synctest.Test(t, func(*testing.T) {
		life = newSimLife(seed, trace)
		life.live()
	})
	return life
}

// checkCoverage fails if something that the seeds are there to provoke did not
// happen: a check that never meets what it is for says nothing.
func checkCoverage(t *testing.T, seen map[string]int, seeds int) {
	const enough = 10_000 // seeds, after which each kind must have come up
	least := 20
	if seeds < enough {
		least = 0
	}
	for _, what := range simMustHappen() {
		seen[what] += 0
	}
	var report strings.Builder
	for _, what := range slices.Sorted(maps.Keys(seen)) {
		fmt.Fprintf(&report, "%8d  %s\n", seen[what], what)
		if seen[what] < least {
			t.Errorf("%s: happened %d times in %d seeds, want at least %d", what, seen[what], seeds, least)
		}
	}
	t.Logf("in %d seeds:\n%s", seeds, report.String())
}
