// Package generator is one worker of pulsebench: one thread, one epoll loop,
// its share of the connections.
//
// It is written by hand, and not on this project's engine, for two reasons. A
// load generator must not share the mistakes of what it measures; and an open
// loop sends at times that are due to the microsecond, where the engine's
// timers go by ticks. So the thread sleeps in epoll_pwait2 until the next due
// time, with the least timer slack, and looks at the clock after every read.
//
// Bytes are checked: what a message contains follows from its connection and
// number, so one that is lost, doubled, reordered, damaged or delivered to
// another connection is noticed, and ends the run.
package generator
