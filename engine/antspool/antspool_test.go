package antspool_test

import (
	"runtime"
	"sync"
	"testing"

	"github.com/panjf2000/ants/v2"

	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/engine/antspool"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

func TestMain(m *testing.M) {
	ants.Release() // its package-level pool, which is not what is tested
	leak.Main(m)
}

var _ engine.Pool = (*antspool.Pool)(nil)

// A pool runs everything it was given, whatever became of other functions, and
// nothing after Close.
func TestPool(t *testing.T) {
	p, err := antspool.New()
	if err != nil {
		t.Fatal(err)
	}
	var ran sync.WaitGroup
	for i := range 1000 {
		ran.Add(1)
		if err := p.Go(func() {
			defer ran.Done()
			if i%10 == 0 {
				runtime.Goexit()
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	ran.Wait()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p.Go(func() { t.Error("ran after Close") }) == nil {
		t.Error("a closed pool took a function")
	}
}
