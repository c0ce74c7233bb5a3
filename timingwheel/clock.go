package timingwheel

import "time"

// Clock is where a [Scheduler] gets the time and its wake-ups from. The default is the monotonic clock of package time,
// which is a virtual one inside a testing/synctest bubble.
type Clock interface {
	// Now returns the time passed since some fixed moment. It is never negative, never decreases, and may be called by
	// several goroutines at once.
	Now() time.Duration

	// NewAlarm returns an alarm that is not set. A Scheduler asks for one when it starts.
	NewAlarm() Alarm
}

// Alarm wakes the goroutine of a [Scheduler], the only one to use it. An alarm that rings too soon or too often costs
// only a look at the clock.
type Alarm interface {
	// C returns the channel on which the alarm rings, always the same.
	C() <-chan time.Time

	// Reset sets the alarm to ring once, when the clock has moved by d or more, in place of any earlier setting.
	Reset(d time.Duration) bool

	// Stop unsets the alarm for good.
	Stop() bool
}

// monotonic is the clock of package time. Go's monotonic clock stands still while a Linux machine is suspended.
type monotonic struct{ start time.Time }

func (c monotonic) Now() time.Duration { return time.Since(c.start) }

func (c monotonic) NewAlarm() Alarm {
	t := time.NewTimer(maxDuration)
	t.Stop()
	return alarm{t}
}

type alarm struct{ *time.Timer }

func (a alarm) C() <-chan time.Time { return a.Timer.C }
