package heartbeat_test

import (
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	simSeeds = flag.Int("sim.seeds", 0, "how many seeds TestSimulation runs; 0: some seconds' worth")
	simSeed  = flag.Int64("sim.seed", -1, "let TestSimulation run this one seed and print its trace")
	simKeep  = flag.Bool("sim.keep", true, "let TestSimulation enter a seed that fails in testdata/seeds")
)

const keptSeeds = "testdata/seeds"

// TestSimulation lets links at random live through faults at random, and holds
// what their ends say against what the package promises. The seeds that have once
// failed come first. A seed that fails prints its trace. With -v, it prints how
// often each detector met each fault; pairs that can occur must.
//
//	go test ./heartbeat -run TestSimulation -args -sim.seeds=1000000
func TestSimulation(t *testing.T) {
	if *simSeed >= 0 {
		problem, trace := replay(uint64(*simSeed), math.MaxInt)
		t.Log(trace)
		if problem != "" {
			t.Error(problem)
		}
		return
	}
	seeds := *simSeeds
	if seeds == 0 {
		seeds = defaultSeeds / raceSlowdown
		if testing.Short() {
			seeds /= 10
		}
	}
	kept := readSeeds(t)
	began := time.Now()
	count, events, endless, failed := simulate(kept, seeds)
	took := time.Since(began)
	t.Logf("%d seeds, %d events, %.1f s, %v a seed", len(kept)+seeds, events, took.Seconds(), took/time.Duration(len(kept)+seeds))
	t.Logf("%d were given up, because they take too long\n%v", endless, &count)
	if endless > int64(len(kept)+seeds)/50+1 {
		t.Errorf("%d seeds of %d were given up", endless, len(kept)+seeds)
	}

	if seeds >= defaultSeeds && len(failed) == 0 {
		for _, gap := range count.gaps() {
			t.Error(gap)
		}
	}

	slices.Sort(failed)
	for _, seed := range failed[:min(len(failed), 3)] {
		_, trace := replay(seed, 300)
		t.Errorf("seed %d: %s\nreplay: go test ./heartbeat -run TestSimulation -v -args -sim.seed=%d", seed, trace, seed)
	}
	if len(failed) > 0 {
		problem, _ := replay(failed[0], 0)
		keep(t, kept, failed[0], problem)
		t.Fatalf("%d seeds fail", len(failed))
	}
}

const defaultSeeds = 150_000

// simulate runs the kept seeds and then those below n, on every processor. It
// returns those that fail; there are few, as it stops soon after the first.
func simulate(kept []uint64, n int) (count coverage, events, endless int64, failed []uint64) {
	var (
		next    atomic.Int64
		stop    atomic.Bool
		running sync.WaitGroup
		mutex   sync.Mutex
	)
	for range runtime.GOMAXPROCS(0) {
		running.Add(1)
		go func() {
			defer running.Done()
			s := &scenario{link: emptyLink()}
			var mine coverage
			var served, givenUp int64
			for !stop.Load() {
				k := next.Add(1) - 1
				if k >= int64(len(kept)+n) {
					break
				}
				var seed uint64
				if k < int64(len(kept)) {
					seed = kept[k]
				} else {
					seed = uint64(k) - uint64(len(kept))
				}
				s.tryTo(seed, &mine)
				served += int64(s.events)
				if s.endless {
					givenUp++
				}
				if s.problem != "" {
					stop.Store(true)
					mutex.Lock()
					failed = append(failed, seed)
					mutex.Unlock()
				}
			}
			mutex.Lock()
			count.add(&mine)
			events += served
			endless += givenUp
			mutex.Unlock()
		}()
	}
	running.Wait()
	return count, events, endless, failed
}

// tryTo plays a scenario; a panic is a problem like any other.
func (s *scenario) tryTo(seed uint64, count *coverage) {
	defer func() {
		if p := recover(); p != nil {
			s.problem = fmt.Sprintf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	s.play(seed, count)
}

// replay plays a scenario once more, and returns what was wrong and the end of its
// trace.
func replay(seed uint64, lines int) (problem, trace string) {
	s := &scenario{link: emptyLink()}
	s.tracing = true
	s.tryTo(seed, &coverage{})
	return s.problem, s.dump(lines)
}

// readSeeds returns the seeds that are run always: a line of testdata/seeds begins
// with one, and says why.
func readSeeds(t *testing.T) (seeds []uint64) {
	b, err := os.ReadFile(keptSeeds)
	if err != nil {
		t.Fatal(err)
	}
	for n, line := range strings.Split(string(b), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		first, _, _ := strings.Cut(line, " ")
		seed, err := strconv.ParseUint(first, 10, 64)
		if err != nil {
			t.Fatalf("%s:%d: %v", keptSeeds, n+1, err)
		}
		seeds = append(seeds, seed)
	}
	return seeds
}

// keep enters a seed in testdata/seeds.
func keep(t *testing.T, kept []uint64, seed uint64, problem string) {
	if !*simKeep || slices.Contains(kept, seed) {
		return
	}
	f, err := os.OpenFile(keptSeeds, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Log(err)
		return
	}
	problem, _, _ = strings.Cut(problem, "\n")
	_, err = fmt.Fprintf(f, "%d %s\n", seed, problem)
	if err := f.Close(); err != nil {
		t.Log(err)
	}
	if err != nil {
		t.Log(err)
	}
}
