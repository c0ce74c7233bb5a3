package engine

import "github.com/pulsewheel/pulsewheel/codec"

// Handler is the application. Nil fields do nothing. Every callback of a
// connection runs on that connection's loop, never two at a time, and must not
// block. A panic or a runtime.Goexit in a callback closes that connection with
// reason Panic and harms no other.
type Handler struct {
	// Open is the first callback. An error closes the connection, which then
	// gets its Close like any other, with that error inside.
	Open func(c *Conn) error
	// Message receives each data frame, in order. The payload is in a buffer of
	// the loop's: it is valid until Message returns, and may be written to.
	Message func(c *Conn, payload []byte)
	// Frame receives each frame that is neither data nor heartbeat. What holds
	// for Message's payload holds for the frame's.
	Frame func(c *Conn, f codec.Frame)
	// Healthy is asked before a peer's heartbeat is answered: an answer from
	// the loop proves the loop, not the application behind it. While it returns
	// false the peer is not answered, and comes to its own verdict.
	Healthy func(c *Conn) bool
	// Idle runs when an idle limit of Liveness has passed, and again each time it
	// passes once more. While it returns true the connection stays; then it ends
	// with reason Idle, as it does at the first limit without an Idle.
	Idle func(c *Conn, e IdleEvent) (stay bool)
	// Writable runs when the backlog of a connection on which Send returned
	// ErrBacklog has fallen below Backlog.Low.
	Writable func(c *Conn)
	// EOF runs when the peer has ended its stream: no Message follows, but it
	// may still read. Then the connection stays open for what is yet to be
	// sent, until Close is called, at most for Limits.MaxPause. Without EOF the
	// connection ends by itself once what was sent is delivered and its tasks
	// (Conn.Do) are done.
	EOF func(c *Conn)
	// Outage runs on a loop that presumes that the fault is on our side (see
	// Limits.Outage), once each time. It belongs to no connection.
	Outage func(e OutageEvent)
	// Close is the last callback, after the descriptor was freed. err is a
	// *CloseError and never nil.
	Close func(c *Conn, err error)
}
