// Package poll is the engine's one seam to the operating system's readiness:
// which descriptors may be read or written, a wake-up from another goroutine,
// and a one-shot timer.
//
// [Open] gives the system's poller: on Linux one over epoll (epoll_linux.go), on
// kqueue, and with build tag poll_opt on Linux, one over gnet's published netpoll
// package (gnet*.go). The simulated poller of package sim implements the same
// interface, so a whole engine runs on either.
//
// What a poller reports are hints. A batch may hold an event of a descriptor
// that was closed meanwhile and whose number a new connection already has, so
// only what read, write or SO_ERROR answer may decide a connection's fate.
package poll

// Events says what a descriptor may be ready for.
type Events uint8

const (
	Readable Events = 1 << iota
	Writable
	// Hangup is an error, a reset, a hang-up, or data that a read stops short of
	// (urgent data). Reading to the end, or writing, tells which.
	Hangup
)

// Wait is what a handler knows about the wait to come. A poller may ignore it.
type Wait uint8

const (
	// Ran: code of the application's has run, and may have made other goroutines
	// runnable, since that was last said.
	Ran Wait = 1 << iota
	// Overdue: other goroutines have not been given the processor for a while.
	Overdue
	// Soon: the next event is likely to come within a millisecond.
	Soon
)

// Handler receives what a Poller sees, on the goroutine that is in Run.
type Handler interface {
	// Coming tells that Ready will be called for fd shortly, so that what is known
	// of it can be fetched from memory meanwhile. It is a hint, and may be missing.
	Coming(fd int)
	// Ready reports a registered descriptor.
	Ready(fd int, ev Events)
	// Served follows the calls of Ready that came together, and precedes the next
	// wait: what they have left to be done for all of them at once is due. There
	// may have been none. After Stop it may be missing. It says how to wait.
	Served() Wait
	// Woken follows at least one Wake since the last Woken.
	Woken()
	// Expired follows the armed time. It may come for a time that was armed
	// earlier and replaced since.
	Expired()
}

// Poller watches descriptors for one loop. Only Wake may be called by another
// goroutine than the one in Run.
//
// Connections are edge-triggered: readiness is told when something comes, and when
// interest in it is taken up, not as long as it lasts. The caller reads until a
// read comes short of its buffer, or to the end after a Hangup, and writes until the
// kernel takes no more.
type Poller interface {
	// AddListener watches a listener. That connections wait is told as long as they
	// do or, where EdgeListeners, when one comes.
	AddListener(fd int) error
	EdgeListeners() bool

	// Add watches fd for reading, hang-up and errors.
	Add(fd int) error
	// AddWrite watches fd for writing only, as if it had been added and paused: an
	// outgoing connection that is being established. Resume follows.
	AddWrite(fd int) error
	// Writing turns the interest in writing on or off, for a descriptor that
	// is watched for reading. Reading stays on.
	Writing(fd int, on bool) error
	// Pause stops reports of arriving data, while resets, hang-ups and room to
	// write are reported, each once. Where the system cannot drop read interest
	// (kqueue), reports of data may go on and the caller ignores them.
	Pause(fd int) error
	// Resume undoes Pause; writing tells whether room to write is wanted too.
	// Data that came meanwhile is the caller's to read, whether it is reported
	// or not.
	Resume(fd int, writing bool) error
	// Remove forgets fd, which stays open. Closing a descriptor removes it, too.
	Remove(fd int) error

	// Arm replaces the time of the one-shot timer, in nanoseconds on the
	// engine's monotonic clock. A time that has passed expires at once.
	Arm(at int64) error
	// Wake makes Woken run soon. Calls made before it ran share that one run.
	// Safe from any goroutine until Close; not after.
	Wake() error

	// Run reports to h until Stop is called from within h, and then returns
	// nil. After a Goexit within h ended its goroutine, Run may be called
	// again from another; the reports of the interrupted batch are lost, so the
	// caller calls Wake and looks at every descriptor.
	Run(h Handler) error
	// Stop makes Run return. Called from within h.
	Stop()
	// Close frees the poller's own descriptors, after Run returned or if it
	// never ran. Descriptors given to Add stay open.
	Close() error
}
