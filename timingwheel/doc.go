// Package timingwheel holds timers: millions of them, each armed, moved and stopped in constant time, and fired exactly.
//
//	level   slot width, ticks   slot width   range (ticks of 1 ms)
//	    0                   1         1 ms                   64 ms
//	    1                  64        64 ms                   4.1 s
//	    2               4,096        4.1 s                 4.4 min
//	    3             262,144      4.4 min                   4.7 h
//	    4            1.68e+07        4.7 h                  12.4 d
//	    5            1.07e+09       12.4 d                   2.2 y
//	    6            6.87e+10        2.2 y                   139 y
//	    7            4.40e+12        139 y                 8,920 y
//	    8            2.81e+14      8,920 y               571,000 y
//	    9            1.80e+16    571,000 y              3.7e+07 y
//	   10            1.15e+18   3.7e+07 y               5.8e+08 y   (16 slots, to the last tick, 2^64-1)
//
// A [Wheel] is such a hierarchy of eleven levels of 64 slots (G. Varghese and A. Lauck, "Hashed and Hierarchical Timing
// Wheels", 1987, scheme 7). It covers every uint64 tick, so no deadline is clipped. A timer waits on the level of the
// highest base-64 digit in which its deadline differs from the present tick; when time comes to its slot it cascades, which
// means it moves to a lower level, until it fires at its own tick. A bitmap per level finds the next occupied slot at
// once, whatever the gap. One goroutine owns a Wheel and passes the time in.
//
// Level 0, whose slots are the near ones, can have more than 64: see [NewNear]. It then holds not only the deadlines of the
// present block of 64 ticks but also those of as many blocks after it as there are slots for, and the other levels count
// from the last of these, the horizon, instead of the present. So a timer that is near when it is armed never cascades, and
// one that cascades to level 0 does so long before it is due. A second bitmap finds the words of level 0's that are not zero.
//
// A [Scheduler] is for everyone else: it is safe for concurrent use, reads the clock itself and calls functions, as
// AfterFunc and NewTicker of package time do. Its timers, each a [FuncTimer], are allocated by it or belong to the caller,
// who then pays no allocation.
//
// # What is promised
//
// Never early: a timer does not fire before its deadline. Users of a Wheel convert their time to ticks, and must round
// deadlines up and the time handed to Advance down; the Scheduler does so.
//
// Late by at most a tick, plus the time the driver takes: for a Wheel, until Advance is called and its budget comes to the
// timer; for a Scheduler, until its goroutine wakes up and the functions called before it have returned.
//
// Order: deadlines at different ticks fire in the order of the ticks. At the same tick, the timers of a Wheel fire in the
// order in which they were armed; those of a Scheduler in no set order, unless [Config] sets one.
//
// Stop returns true if and only if the timer does not fire (or its function is not called) for that arming.
//
// Suspend: the monotonic clock of package time, which a Scheduler uses by default, stands still on Linux while the machine
// is suspended, and so do its timers: after a suspend of an hour, a timer with a minute left fires in a minute. With a
// [Clock] that counts the suspend the timer is overdue, but wakes the Scheduler only when its alarm rings. On Windows and
// macOS what the clock does differs by version; package time documents it.
//
// # Postponing
//
// Timeouts are mostly moved, not met. Both types make that nearly free by not telling the wheel. The owner of a Wheel
// stores a new deadline in a field of its own, and returns it when the timer fires too soon (see [Wheel.Advance]). With a
// Scheduler, [FuncTimer.Postpone] is one atomic operation, and so is [FuncTimer.Reset] to a later deadline, besides a look
// at the clock.
//
// # Limits
//
// A Wheel holds up to 2^32-704 timers of 24 bytes, less its near slots, which take as much each. Its memory grows in steps
// of 96 KiB, the first of which every Wheel has, and is reused but not given back. The collector does not look inside. A
// Scheduler has a Wheel for each of its shards, once used, and 8 bytes more per timer besides the 64 of a FuncTimer; its
// deadlines reach 292 years from the start of its clock, and what would be later is never due.
package timingwheel
