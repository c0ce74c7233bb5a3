// Package heartbeat decides whether the other end of a connection is alive.
//
// A [Config] says how often to ask, how many unanswered queries make a verdict
// and how long each may take. [Traits] say what the heartbeat of the wire
// format can do, seen from one side. [Config.Plan] joins the two into a
// [Plan], or reports the contradiction between them; one Plan serves all
// connections of a listener. Each connection embeds a [State]. It is told what
// was read, written and answered, and [State.Poll] says what to do now, an
// [Action], and when to ask again.
//
// Two duties are kept apart. To speak is to write something at least every
// Speak, so that the other side sees life; what is received does not excuse
// from it. To query is to ask when nothing was read for an Interval, and every
// Confirm intervals even while data arrives. Queries that stay unanswered end
// in [Lost], or in [Deaf] when the peer was heard all the same. A side that
// cannot query still has a read deadline, so that no half-open connection is
// kept for ever.
//
// The kernel's keepalive replaces neither duty: by default it starts after two
// hours of idleness (RFC 1122 section 4.2.3.6 asks for no less; tcp(7),
// tcp_keepalive_time), data without an acknowledgement suspends it, and its
// probes are answered by the peer's kernel, whatever has become of the peer's
// process. UDP and browser clients have none.
//
// Two numbers follow from a configuration. [Config.WorstCase] is the longest
// time from the last sign of life to the verdict. [Config.Tolerance] is the
// longest outage that can never cause one.
//
// The package has no sockets, no goroutines and no clock. Times are int64
// nanoseconds on the caller's monotonic clock, with any zero point, and must
// not decrease from one call on a State to the next. A clock that stands still
// while the caller is stalled keeps the stall from counting against peers.
// Sums saturate instead of wrapping.
//
// A Plan is immutable and safe for concurrent use. A State belongs to one
// goroutine; it holds no pointers, and no method on it allocates.
package heartbeat
