package main

import (
	"strings"
	"testing"
)

func TestPlan(t *testing.T) {
	for _, n := range []int{20, 39, 40, 140, 2000, 25_000} {
		p, err := newPlan(n, 1<<20, ways)
		if err != nil {
			t.Fatal(err)
		}
		counts := make(map[way]int)
		processes := make(map[way]int)
		total := 0
		for _, s := range p.crews {
			if s.Clients < 1 || s.Clients > perProcess {
				t.Errorf("-n %d: a process of %d %s clients", n, s.Clients, s.Way)
			}
			counts[s.Way] += s.Clients
			processes[s.Way]++
			total += s.Clients
		}
		for w, want := range p.counts {
			if counts[w] != want || want == 0 {
				t.Errorf("-n %d: %d %s clients in processes, %d planned", n, counts[w], w, want)
			}
		}
		if total != n || p.victims() > n/2 || p.victims()+counts[healthy] != n || p.talkers()+counts[silent] != n {
			t.Errorf("-n %d: %d clients, %d victims, %d talkers", n, total, p.victims(), p.talkers())
		}
		if want := min(batches, counts[frozen]); processes[frozen] < want || processes[killed] < want {
			t.Errorf("-n %d: %v", n, processes)
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	for _, tt := range []struct {
		n     int
		files uint64
		says  string
	}{
		{minClients - 1, 1 << 20, "at least 20"},
		{-1, 1 << 20, "at least 20"},
		{2000, 1024, "the limit (ulimit -Hn) is 1024"},
		{2000, uint64(1999 + spareFiles), "use -n 1999"},
	} {
		if _, err := newPlan(tt.n, tt.files, ways); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("newPlan(%d, %d): %v, want %q", tt.n, tt.files, err, tt.says)
		}
	}
	if _, err := newPlan(1999, uint64(1999+spareFiles), ways); err != nil {
		t.Error(err)
	}
}
