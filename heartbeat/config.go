package heartbeat

import (
	"fmt"
	"time"
)

// Tick is the resolution of the timers that drive Poll, and the longest that
// they may be late: the default of package timingwheel. A shorter duration in a
// Config is an error.
const Tick = 10 * time.Millisecond

// maxMisses is a bound on Misses that nobody will miss.
const maxMisses = 1 << 20

// Config is what a listener or client is configured with. Its zero value asks
// for nothing: no heartbeat of its own (a peer's queries are still answered)
// and no idle limits. No duration may lie between 0 and [Tick].
type Config struct {
	// Interval is the silence after which the peer is queried; on a side that
	// cannot query, the silence that is still normal. 0: no heartbeat.
	// Negative: an error.
	Interval time.Duration

	// Misses is how many queries in a row must stay unanswered for a verdict.
	// With an Interval 1 to 1,048,576: zero is an error and has no default.
	// Without one it must be 0.
	Misses int

	// Retry is how long each query waits for its answer before the next one,
	// or the verdict. 0: Interval. Negative: an error.
	Retry time.Duration

	// Confirm bounds, in intervals, how long data alone counts as a sign of
	// life: the peer is queried that often even while data keeps arriving, so
	// that one which sends but does not read is found ([Deaf]). 0: 1.
	// Negative: never; then any data is as good as an answer, and Deaf is not
	// found. It does nothing on a side that does not query.
	Confirm int

	// Speak is how often something is written at least, a ping if there is
	// nothing else; pings announce it to the peer where the format has room.
	// 0: Interval, if this side may ping. Negative: off. It may be set without
	// an Interval, to keep a NAT mapping open, say.
	Speak time.Duration

	// Role is the part this side plays. Auto: derived from codec and side.
	Role Role

	// IdleRead, IdleWrite and IdleAll end a connection with the verdict Idle
	// when nothing was read, nothing was written, or neither, for so long.
	// Heartbeats count as reading and writing. 0: off. Negative: an error.
	// With an Interval, IdleRead must leave the first query its Retry, and the
	// other two must exceed both Interval and Speak. On a side that only answers,
	// or with a negative Speak, IdleWrite ends a healthy connection on which this
	// side has nothing to write for so long, whatever Tolerance says.
	IdleRead, IdleWrite, IdleAll time.Duration
}

// retry returns Retry with its default applied.
func (c Config) retry() time.Duration {
	if c.Retry == 0 {
		return c.Interval
	}
	return c.Retry
}

// confirm returns Confirm with its default applied.
func (c Config) confirm() int {
	if c.Confirm == 0 {
		return 1
	}
	return c.Confirm
}

// Validate reports the first contradiction that can be seen without knowing
// the wire format, as a [*FieldError]. [Config.Plan] includes it.
func (c Config) Validate() error {
	for _, f := range []struct {
		name string
		d    time.Duration
	}{
		{"Interval", c.Interval}, {"Retry", c.Retry}, {"Speak", c.Speak},
		{"IdleRead", c.IdleRead}, {"IdleWrite", c.IdleWrite}, {"IdleAll", c.IdleAll},
	} {
		if f.d < 0 && f.name != "Speak" {
			return fault(f.name, "%v is negative", f.d)
		}
		if f.d > 0 && f.d < Tick {
			return fault(f.name, "%v is shorter than the timer tick of %v", f.d, Tick)
		}
	}
	if c.Role > lastRole {
		return fault("Role", "%v is no role", c.Role)
	}
	if c.Interval == 0 {
		switch {
		case c.Misses != 0:
			return fault("Misses", "%d, but without an Interval nothing is queried", c.Misses)
		case c.Retry != 0:
			return fault("Retry", "%v, but without an Interval nothing is queried", c.Retry)
		case c.Confirm != 0:
			return fault("Confirm", "%d, but without an Interval nothing is queried", c.Confirm)
		}
		return c.validateSpeech(c.Speak)
	}

	if c.Misses < 1 {
		return fault("Misses", "%d, but an Interval needs at least 1", c.Misses)
	}
	if c.Misses > maxMisses {
		return fault("Misses", "%d is above %d", c.Misses, maxMisses)
	}
	tries := mul(int64(c.Misses), int64(c.retry()))
	if tries == never {
		return fault("Retry", "%d tries of %v overflow a duration", c.Misses, c.retry())
	}
	pause := mul(int64(max(1, c.Confirm)), int64(c.Interval))
	if pause == never {
		return fault("Confirm", "%d intervals of %v overflow a duration", c.Confirm, c.Interval)
	}
	if add(add(pause, tries), int64(Tick)) == never {
		return fault("Interval", "%v and %d tries of %v overflow a duration", time.Duration(pause), c.Misses, c.retry())
	}

	if first := add(int64(c.Interval), int64(c.retry())); c.IdleRead > 0 && int64(c.IdleRead) < first {
		return fault("IdleRead", "%v is shorter than Interval + Retry = %v, "+
			"within which a quiet peer may answer its first query", c.IdleRead, time.Duration(first))
	}
	if c.IdleWrite > 0 && c.IdleWrite <= c.Interval {
		return fault("IdleWrite", "%v does not exceed the Interval of %v", c.IdleWrite, c.Interval)
	}
	if c.IdleAll > 0 && c.IdleAll <= c.Interval {
		return fault("IdleAll", "%v does not exceed the Interval of %v", c.IdleAll, c.Interval)
	}
	return c.validateSpeech(c.Speak)
}

// validateSpeech finds limits on writing that end a connection before it would
// speak.
func (c Config) validateSpeech(speak time.Duration) error {
	if speak <= 0 {
		return nil
	}
	if c.IdleWrite > 0 && c.IdleWrite <= speak {
		return fault("IdleWrite", "%v does not exceed Speak, which is %v", c.IdleWrite, speak)
	}
	if c.IdleAll > 0 && c.IdleAll <= speak {
		return fault("IdleAll", "%v does not exceed Speak, which is %v", c.IdleAll, speak)
	}
	return nil
}

// String prints the numbers that matter to an operator.
func (c Config) String() string {
	worst, tolerance := "none", "unlimited"
	if w := c.WorstCase(); w != 0 {
		worst = w.String()
	}
	if t := c.Tolerance(); t != never {
		tolerance = t.String()
	}
	return fmt.Sprintf("Interval=%v Misses=%d Retry=%v WorstCase=%s Tolerance=%s",
		c.Interval, c.Misses, c.retry(), worst, tolerance)
}
