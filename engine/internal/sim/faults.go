package sim

// Faults says how often, in a thousand times, a kernel is nasty where it may
// be. The zero Faults is a kernel on a good day.
type Faults struct {
	// ShortRead and ShortWrite: fewer bytes than possible. AgainRead and
	// AgainWrite: EAGAIN although something is possible. The rest is then
	// reported as if it had come later, so that an edge-triggered caller
	// hears of it, too.
	ShortRead, ShortWrite, AgainRead, AgainWrite int
	// Interrupted: EAGAIN at urgent data, whatever is behind it, because the thread
	// has a signal to take. Nothing is reported again.
	Interrupted int

	// What Accept may answer, although there is a connection; it stays queued
	// except after AcceptAborted.
	AcceptAgain, AcceptAborted, AcceptNFile, AcceptNoBufs, AcceptNoMem int

	// ConnectFails: connect answers ENETUNREACH or EADDRNOTAVAIL.
	ConnectFails int
	// OpenFails: a poller cannot be opened, with EMFILE.
	OpenFails int

	// SpuriousHint: a batch holds one more event, of a registered descriptor
	// that has nothing to tell.
	SpuriousHint int
	// SmallBatch: a batch holds less than what is ready.
	SmallBatch int
	// Shuffle: a batch is in random order instead of that of arrival.
	Shuffle int
	// Preempt: a loop loses its processor for a moment between two events of a
	// batch, or before a call into the kernel, and others run meanwhile.
	Preempt int
	// Hiccup: a loop gets its processor up to 30 ms late.
	Hiccup int
}

// counter numbers what a test may want to see happen at least once.
type counter int

const (
	cShortRead counter = iota
	cShortWrite
	cAgainRead
	cAgainWrite
	cInterrupted
	cAcceptAgain
	cAcceptAborted
	cAcceptNFile
	cAcceptNoBufs
	cAcceptNoMem
	cAcceptMFile
	cConnectFails
	cOpenFails
	cSpuriousHint
	cSmallBatch
	cPreempt
	cHiccup
	cStall
	cOutage
	cFDReuse
	cStaleEvent
	cReusedEvent
	cGoexit
	cReset
	cBrokenPipe
	cUnreadClose
	cLateData
	cUserTimeout
	cKeepAlive
	cUnreachable
	cRefused
	cBacklogFull
	cZeroWindow
	cNoSpace
	cVanish
	cFreeze
	cReboot
	cHalfClose
	cUrgent
	lastCounter
)

var counterNames = [lastCounter]string{
	cShortRead:     "short read",
	cShortWrite:    "short write",
	cAgainRead:     "spurious EAGAIN on read",
	cAgainWrite:    "spurious EAGAIN on write",
	cInterrupted:   "read at urgent data interrupted",
	cAcceptAgain:   "accept: EAGAIN",
	cAcceptAborted: "accept: ECONNABORTED",
	cAcceptNFile:   "accept: ENFILE",
	cAcceptNoBufs:  "accept: ENOBUFS",
	cAcceptNoMem:   "accept: ENOMEM",
	cAcceptMFile:   "accept: EMFILE",
	cConnectFails:  "connect fails at once",
	cOpenFails:     "poller cannot be opened",
	cSpuriousHint:  "spurious event",
	cSmallBatch:    "small batch",
	cPreempt:       "loop preempted",
	cHiccup:        "loop scheduled late",
	cStall:         "machine stalled",
	cOutage:        "link outage",
	cFDReuse:       "descriptor number reused",
	cStaleEvent:    "event of a closed descriptor",
	cReusedEvent:   "event of a reused descriptor",
	cGoexit:        "Goexit in a callback",
	cReset:         "reset received",
	cBrokenPipe:    "reset after the peer's FIN",
	cUnreadClose:   "close with unread input",
	cLateData:      "data for a closed socket",
	cUserTimeout:   "kernel gives up on unacknowledged data",
	cKeepAlive:     "keepalive gives up",
	cUnreachable:   "host unreachable",
	cRefused:       "connection refused",
	cBacklogFull:   "listen queue full",
	cZeroWindow:    "receive window closed",
	cNoSpace:       "send buffer full",
	cVanish:        "peer vanished",
	cFreeze:        "peer frozen",
	cReboot:        "peer rebooted",
	cHalfClose:     "half-closed",
	cUrgent:        "urgent data received",
}

// Counts tells how often each kind of fault or mishap happened so far. Every
// kind is in it, also those that never did.
func (w *World) Counts() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := make(map[string]int, lastCounter)
	for c, n := range w.counts {
		m[counterNames[c]] = n
	}
	return m
}
