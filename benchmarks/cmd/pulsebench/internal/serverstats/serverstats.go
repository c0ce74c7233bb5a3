// Package serverstats follows what a server of this project says about itself
// (engine.Stats as JSON, as package engine/expvars publishes it) while it is
// under load.
package serverstats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/monotonic"
)

// Every is the time between two looks, which bounds how exact times are.
const Every = 100 * time.Millisecond

// Point is what the server said at one time.
type Point struct {
	At      int64            `json:"at_ns"` // monotonic
	Open    int64            `json:"open"`
	Closed  uint64           `json:"closed"`
	Reasons map[string]int64 `json:"reasons"`
}

// stats is the part of engine.Stats that is of interest.
type stats struct {
	Total *struct {
		Open    int64
		Closed  uint64
		Reasons map[string]int64
	}
}

// maxBody bounds what is read of an answer.
const maxBody = 8 << 20

var errNoStats = errors.New("no variable that looks like engine.Stats")

// find looks for engine.Stats at the top of a JSON object and among its
// variables.
func find(body []byte) (Point, error) {
	var s stats
	if json.Unmarshal(body, &s) == nil && s.Total != nil {
		return Point{Open: s.Total.Open, Closed: s.Total.Closed, Reasons: s.Total.Reasons}, nil
	}
	var variables map[string]json.RawMessage
	if err := json.Unmarshal(body, &variables); err != nil {
		return Point{}, fmt.Errorf("no JSON object: %w", err)
	}
	sum, found := Point{Reasons: make(map[string]int64)}, false
	for _, v := range variables {
		var s stats
		if json.Unmarshal(v, &s) != nil || s.Total == nil || s.Total.Reasons == nil {
			continue
		}
		found = true
		sum.Open += s.Total.Open
		sum.Closed += s.Total.Closed
		for reason, n := range s.Total.Reasons {
			sum.Reasons[reason] += n
		}
	}
	if !found {
		return Point{}, errNoStats
	}
	return sum, nil
}

// Get looks once.
func Get(ctx context.Context, url string) (Point, error) {
	fail := func(err error) (Point, error) { return Point{}, fmt.Errorf("-stats %s: %w", url, err) }
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fail(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fail(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fail(fmt.Errorf("status %s", answer.Status))
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxBody))
	if err != nil {
		return fail(err)
	}
	p, err := find(body)
	if err != nil {
		return fail(err)
	}
	p.At = monotonic.Now()
	return p, nil
}

// Follow looks again and again until the context ends, and returns the function
// that waits for the end and yields all points: the first is given, and of the
// rest only those that differ from the one before are kept.
func Follow(ctx context.Context, url string, first Point) (points func() []Point) {
	all := []Point{first}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer http.DefaultClient.CloseIdleConnections()
		ticks := time.NewTicker(Every)
		defer ticks.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticks.C:
			}
			p, err := Get(ctx, url)
			last := all[len(all)-1]
			if err == nil && (p.Closed != last.Closed || p.Open != last.Open) {
				all = append(all, p)
			}
		}
	}()
	return func() []Point {
		<-ended
		return all
	}
}
