package sys

import (
	"errors"
	"fmt"
	"time"
)

// Probes are the kernel's own checks of a TCP peer, set on a socket before its
// first byte. The zero value asks for none.
type Probes struct {
	// Idle is how long nothing was received before the kernel sends its first
	// keepalive probe, Interval the time between two, Count how many without an
	// answer end the connection with ETIMEDOUT. Idle of 0: no keepalive.
	Idle, Interval time.Duration
	Count          int
	// UserTimeout is how long sent data may go unacknowledged before the
	// connection ends with ETIMEDOUT (RFC 5482). 0: the system's, some minutes.
	UserTimeout time.Duration
}

// Resolution is the kernel's unit of Idle and Interval, and what they and Count
// may be at most.
type resolution struct {
	unit     time.Duration
	longest  time.Duration
	maxCount int // 0: the system has a count of its own
}

// Check returns p as this system will apply it, durations rounded up to the
// kernel's unit, and an error if it cannot. The note tells a degradation that
// an operator should know of: what was rounded, and what this system lacks.
func (p Probes) Check() (applied Probes, note string, err error) {
	applied = p
	var errs []error
	var notes []error // joined, one a line
	if p.Idle != 0 {
		round := func(name string, d *time.Duration) {
			if *d <= 0 || *d > keepalive.longest {
				errs = append(errs, fmt.Errorf("keepalive %s is %v, want above 0 and at most %v", name, *d, keepalive.longest))
				return
			}
			if up := (*d + keepalive.unit - 1) / keepalive.unit * keepalive.unit; up != *d {
				notes = append(notes, fmt.Errorf("keepalive %s of %v is rounded up to %v", name, *d, up))
				*d = up
			}
		}
		if keepalive.unit == 0 {
			errs = append(errs, errors.New("this system has no keepalive times of a socket's own"))
		} else {
			round("idle", &applied.Idle)
			round("interval", &applied.Interval)
		}
		switch {
		case p.Count < 1 || keepalive.maxCount > 0 && p.Count > keepalive.maxCount:
			errs = append(errs, fmt.Errorf("keepalive count is %d, want 1 to %d", p.Count, max(keepalive.maxCount, 1)))
		case keepalive.maxCount == 0 && keepalive.unit != 0:
			notes = append(notes, errors.New("this system has a keepalive count of its own"))
		}
	} else if p.Interval != 0 || p.Count != 0 {
		errs = append(errs, errors.New("keepalive interval or count without idle"))
	}
	if p.UserTimeout < 0 || p.UserTimeout > maxUserTimeout {
		errs = append(errs, fmt.Errorf("user timeout is %v, want 0 to %v", p.UserTimeout, maxUserTimeout))
	} else if p.UserTimeout > 0 {
		switch up := (p.UserTimeout + userTimeoutUnit - 1) / max(userTimeoutUnit, 1) * userTimeoutUnit; {
		case userTimeoutUnit == 0:
			notes = append(notes, errors.New("this system has no user timeout: unacknowledged data suspends keepalive, and the heartbeat alone finds a dead peer then"))
			applied.UserTimeout = 0
		case up != p.UserTimeout:
			notes = append(notes, fmt.Errorf("user timeout of %v is rounded up to %v", p.UserTimeout, up))
			applied.UserTimeout = up
		}
	}
	if err := errors.Join(notes...); err != nil {
		note = err.Error()
	}
	return applied, note, errors.Join(errs...)
}

// maxUserTimeout is what 32 bits of milliseconds hold with a sign.
const maxUserTimeout = (1<<31 - 1) * time.Millisecond

// seconds of a duration that is a multiple of them.
func seconds(d time.Duration) int { return int(d / time.Second) }
