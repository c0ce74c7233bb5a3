package timingwheel_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/timingwheel"
)

func BenchmarkSched(b *testing.B) {
	const n = 1_000_000
	s := timingwheel.NewScheduler(timingwheel.Config{})
	defer s.Close()
	ts := make([]timingwheel.FuncTimer, n)
	f := func() {}
	for i := range ts {
		s.Bind(&ts[i], f)
		ts[i].Reset(time.Minute + time.Duration(rand.Int64N(int64(time.Minute))))
	}
	var own timingwheel.FuncTimer
	s.Bind(&own, f)
	b.Run("own/armstop", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i++ {
			own.Reset(time.Minute*2 + time.Duration(i&1023)*time.Millisecond)
			own.Stop()
		}
	})
	b.Run("own/armstop2", func(b *testing.B) {
		b.ReportAllocs()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				own := new(struct {
					_ [64]byte
					timingwheel.FuncTimer
					_ [64]byte
				})
				s.Bind(&own.FuncTimer, f)
				for i := 0; i < b.N/2; i++ {
					own.Reset(time.Minute*2 + time.Duration(i&1023)*time.Millisecond)
					own.Stop()
				}
			})
		}
		wg.Wait()
	})
	b.Run("afterfunc", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i++ {
			s.AfterFunc(time.Minute*2+time.Duration(i&1023)*time.Millisecond, f).Stop()
		}
	})
	b.Run("reset", func(b *testing.B) {
		r := rand.New(rand.NewPCG(1, 2))
		for i := 0; i < b.N; i++ {
			ts[r.IntN(n)].Reset(3*time.Minute + time.Duration(i&1023)*time.Millisecond)
		}
	})
	b.Run("postpone", func(b *testing.B) {
		r := rand.New(rand.NewPCG(1, 2))
		now := s.Now()
		for i := 0; i < b.N; i++ {
			ts[r.IntN(n)].Postpone(now + 5*time.Minute + time.Duration(i))
		}
	})
	b.Run("now", func(b *testing.B) {
		for i := 0; i < b.N; i++ {
			s.Now()
		}
	})
}

func BenchmarkTime(b *testing.B) {
	const n = 1_000_000
	ts := make([]*time.Timer, n)
	f := func() {}
	for i := range ts {
		ts[i] = time.AfterFunc(time.Minute+time.Duration(rand.Int64N(int64(time.Minute))), f)
	}
	defer func() {
		for _, t := range ts {
			t.Stop()
		}
	}()
	b.Run("afterfunc", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i++ {
			time.AfterFunc(time.Minute*2+time.Duration(i&1023)*time.Millisecond, f).Stop()
		}
	})
	b.Run("afterfunc2", func(b *testing.B) {
		b.ReportAllocs()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for i := 0; i < b.N/2; i++ {
					time.AfterFunc(time.Minute*2+time.Duration(i&1023)*time.Millisecond, f).Stop()
				}
			})
		}
		wg.Wait()
	})
	b.Run("resetstop", func(b *testing.B) {
		own := time.AfterFunc(time.Hour, f)
		b.ReportAllocs()
		for i := 0; i < b.N; i++ {
			own.Reset(time.Minute*2 + time.Duration(i&1023)*time.Millisecond)
			own.Stop()
		}
	})
	b.Run("resetstop2", func(b *testing.B) {
		b.ReportAllocs()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				own := time.AfterFunc(time.Hour, f)
				for i := 0; i < b.N/2; i++ {
					own.Reset(time.Minute*2 + time.Duration(i&1023)*time.Millisecond)
					own.Stop()
				}
			})
		}
		wg.Wait()
	})
	b.Run("reset", func(b *testing.B) {
		r := rand.New(rand.NewPCG(1, 2))
		for i := 0; i < b.N; i++ {
			ts[r.IntN(n)].Reset(3*time.Minute + time.Duration(i&1023)*time.Millisecond)
		}
	})
}
