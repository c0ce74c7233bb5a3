// Package engine serves many thousands of long-lived connections from a few
// event loops, and knows which of them are alive.
//
// A [Server] listens, a [Client] dials; both run the same [Loop]s. A loop is
// one goroutine over one epoll or kqueue instance: it owns its connections,
// reads and frames their bytes, calls the [Handler], flushes what was sent and
// runs the liveness of each connection on its timing wheel. A [Conn] is one
// connection; all of its callbacks run on its loop, one at a time.
//
// # Concurrency
//
// A callback owns the loop while it runs: it must not block, for it holds up
// every other connection of that loop. Methods of Conn, Loop, Server and
// Client may be called from any goroutine, callbacks included, with the
// application's own locks held: none of them runs a callback or waits for one,
// but for those that say that they wait: Serve, Shutdown, Dial and Explain.
// [Conn.Post] and [Loop.Post] lead from other goroutines back to the loop.
//
// # Lifetime
//
// Every connection whose Open was called gets exactly one Close, the last of
// its callbacks, with an error that is a [*CloseError]: the [Reason], the cause
// and the evidence. From then on every method returns an error that wraps
// net.ErrClosed. A Conn is never used again for another connection.
//
// # Liveness
//
// The [heartbeat.Config] of a listener or a client says how a peer is watched.
// A dead peer is closed at latest WorstCase after it died ([Server.Promises]),
// plus what the loop itself was late: its lag, and the time during which it was
// stalled, which does not count against peers. Both are in [LoopStats]. A peer
// that dies while its input is not read is found up to [Limits.MaxPause] later,
// and while the fault may be ours verdicts wait for a grace, if [Outage] says so.
//
// # Limits
//
// A peer can make the engine hold at most one incomplete frame (the codec's
// maximum), about twice [Backlog].High plus one message of output, [Work].Bytes
// of messages for a handler that is [Ordered], and a few kilobytes of
// heartbeats; while it is paused, one read buffer of 64 KiB, or of the length of its
// frames where they are longer. All connections
// together hold [Limits.Budget] of output. Connections above [Limits.MaxConns]
// wait in the kernel's queue, and so do those above [Admission].Rate. Running
// out of descriptors parks the listener and nothing else.
//
// A peer must keep up, too: begin with a frame in time, finish the frames that
// it begins, and read what it is sent. See [Admission], [Limits.FrameTimeout] and
// [Backlog].
//
// # Blocking work
//
// [Conn.Do] runs a task on a worker, in order with the other tasks of its
// connection, and [Ordered] does so with a whole handler. When a queue is full the
// connection is not read until there is room, which is how its peer learns to
// wait. [Conn.Pause] does the same by hand.
package engine
