package serverstats_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/serverstats"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func stats(open int64, resets uint64) engine.Stats {
	return engine.Stats{Total: engine.LoopStats{
		Open: open, Closed: resets, Reasons: map[engine.Reason]uint64{engine.PeerReset: resets},
	}}
}

func answer(t *testing.T, body func() any) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(body())
	}))
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		srv.Close()
	})
	return srv.URL
}

// Stats are found by what they look like, at the top or among an expvar page's
// other variables; of several engines they are added up.
func TestGet(t *testing.T) {
	for name, body := range map[string]any{
		"alone":  stats(3, 2),
		"expvar": map[string]any{"cmdline": []string{"x"}, "memstats": map[string]any{"Total": 1}, "game": stats(1, 2), "chat": stats(2, 0)},
	} {
		p, err := serverstats.Get(t.Context(), answer(t, func() any { return body }))
		if err != nil || p.Open != 3 || p.Closed != 2 || p.Reasons["PeerReset"] != 2 || p.At == 0 {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	for name, body := range map[string]any{"nothing of ours": map[string]any{"cmdline": "x"}, "no object": 5} {
		if _, err := serverstats.Get(t.Context(), answer(t, func() any { return body })); err == nil || !strings.Contains(err.Error(), "-stats") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Following keeps what changes, in order, and ends with its context.
func TestFollow(t *testing.T) {
	var closed atomic.Uint64
	url := answer(t, func() any { return stats(10, closed.Load()) })
	first, err := serverstats.Get(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	points := serverstats.Follow(ctx, url, first)
	closed.Store(4)
	time.Sleep(5 * serverstats.Every)
	cancel()
	got := points()
	if len(got) != 2 || got[0].Closed != 0 || got[1].Closed != 4 || got[1].At <= got[0].At {
		t.Errorf("%+v", got)
	}
}
