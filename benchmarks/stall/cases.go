//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// scenario is one way to watch, and how long its watchers are stopped.
type scenario struct {
	Name string `json:"name"`
	// About tells why the scenario is there.
	About string `json:"about"`
	// Watch is the liveness of whoever is stopped, Patient that of its peers.
	Watch   heartbeat.Config `json:"watch"`
	Patient heartbeat.Config `json:"patient"`
	// Delay is how long peers take to answer that are no engine, and wait for
	// ever; 0: they are as Patient says.
	Delay time.Duration `json:"delay"`
	// NeedsGuard: without the guard there must be false verdicts.
	NeedsGuard bool `json:"needs_guard"`

	Peers  int `json:"peers"`  // that live on
	Doomed int `json:"doomed"` // that die during the long stop, and as many during a short one

	Long time.Duration `json:"long_stop"`
	// Then, Cycles times, Short of running and Short of being stopped.
	Short  time.Duration `json:"short_stop"`
	Cycles int           `json:"cycles"`

	// Slack is by how much a verdict may be later than its bound plus the time
	// that the watcher was stopped: what its loops are behind because others use
	// the machine.
	Slack time.Duration `json:"slack"`
}

// Peers that bear to hear nothing for longer than any stop. They either watch
// in turn, or only answer: then they are heard only when they are asked.
var (
	watching  = heartbeat.Config{Interval: 30 * time.Second, Misses: 3, Retry: 30 * time.Second}
	answering = heartbeat.Config{Interval: 30 * time.Second, Misses: 3, Retry: 30 * time.Second, Role: heartbeat.Answer}
)

// withIdleRead returns a configuration with one more detector.
func withIdleRead(c heartbeat.Config, limit time.Duration) heartbeat.Config {
	c.IdleRead = limit
	return c
}

const (
	strictName   = "strict"
	backstopName = "strict, IdleRead 9s"
	quickName    = "realtime, IdleRead 900ms"
	oneMissName  = "one miss, 50ms away"
)

func fullCases() []scenario {
	return []scenario{
		{
			Name: strictName, About: "the preset. Its peers watch, too",
			Watch: heartbeat.Strict(), Patient: watching,
			Peers: 5000, Doomed: 250, Long: 30 * time.Second, Short: time.Second, Cycles: 36, Slack: time.Second,
		},
		{
			Name: backstopName, About: "the same bounds, but silence as such is limited, too, and peers speak only when asked",
			Watch: withIdleRead(heartbeat.Strict(), 9*time.Second), Patient: answering, NeedsGuard: true,
			Peers: 5000, Doomed: 250, Long: 30 * time.Second, Short: time.Second, Cycles: 36, Slack: time.Second,
		},
		{
			Name: quickName, About: "a limit on silence below one second, so that short stops exceed it. The long stop is no longer than they are",
			Watch: withIdleRead(heartbeat.Realtime(), 900*time.Millisecond), Patient: answering, NeedsGuard: true,
			Peers: 500, Doomed: 50, Long: time.Second, Short: time.Second, Cycles: 15, Slack: time.Second,
		},
		{
			Name: oneMissName, About: "one query decides, and waits hardly longer than a short stop lasts. It counts from when it goes out, not from when it was due",
			Watch: heartbeat.Config{Interval: 2 * time.Second, Misses: 1, Retry: 1020 * time.Millisecond, Speak: -1}, Delay: 50 * time.Millisecond,
			Peers: 1000, Doomed: 50, Long: time.Second, Short: time.Second, Cycles: 15, Slack: time.Second,
		},
	}
}

// smokeCases only show that everything works: on a machine that does much else
// besides, too.
func smokeCases() []scenario {
	c := fullCases()[1]
	c.Peers, c.Doomed, c.Long, c.Cycles, c.Slack = 50, 5, 10*time.Second, 2, 10*time.Second
	return []scenario{c}
}

// choose returns the cases of a comma-separated list, all if it is empty.
func choose(all []scenario, list string) ([]scenario, error) {
	if list == "" {
		return all, nil
	}
	var chosen []scenario
	var names []string
	for _, c := range all {
		names = append(names, fmt.Sprintf("%q", short(c.Name)))
	}
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(c scenario) bool { return short(c.Name) == name })
		if i < 0 {
			return nil, fmt.Errorf("no case %q; there are %s", name, strings.Join(names, ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// short is a case's name on the command line: without commas and blanks.
func short(name string) string {
	return strings.NewReplacer(", ", "-", " ", "-").Replace(name)
}

// tolerance is the longest that peers bear to hear nothing.
func (s *scenario) tolerance() time.Duration {
	if s.Delay > 0 {
		return math.MaxInt64
	}
	return s.Patient.Tolerance()
}

// check finds scenarios that would prove nothing.
func (s *scenario) check() error {
	if t := s.tolerance(); t <= s.Long {
		return fmt.Errorf("case %s: peers that tolerate %v, and a stop of %v", s.Name, t, s.Long)
	}
	if s.Peers < 1 || s.Doomed < 1 || s.Cycles < 1 {
		return fmt.Errorf("case %s: %d peers, %d doomed, %d short stops", s.Name, s.Peers, s.Doomed, s.Cycles)
	}
	return nil
}
