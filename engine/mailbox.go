package engine

import "sync"

// letter is one entry of a loop's mailbox. A connection alone asks for it to be
// settled: flushed, and closed if that was asked for. A function alone is run.
// Both: the function is run as one of the connection's callbacks.
type letter struct {
	c *Conn
	f func()
}

// mailbox is how other goroutines, and callbacks of other connections, reach a
// loop: a slice that the loop swaps for an empty one. Order is kept, nothing is
// allocated in steady state, and one wake-up is in flight at most.
type mailbox struct {
	mu      sync.Mutex
	letters []letter
	awake   bool // a wake-up is in flight
	closed  bool
	wake    func() error
}

// post appends a letter and wakes the loop. It returns false, and has taken
// nothing, once the mailbox is closed. Waking under the lock means that after
// close nobody touches the wake-up's descriptor any more.
func (m *mailbox) post(x letter) bool {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return false
	}
	m.letters = append(m.letters, x)
	if !m.awake {
		m.awake = true
		// It can only fail on a descriptor that is no longer ours.
		_ = m.wake()
	}
	m.mu.Unlock()
	return true
}

// poke wakes the loop with no letter. Only the loop itself may call it, for it
// works on a closed mailbox, too.
func (m *mailbox) poke() {
	m.mu.Lock()
	if !m.awake {
		m.awake = true
		_ = m.wake()
	}
	m.mu.Unlock()
}

// maxKept is the largest slice of letters that is used again after a burst.
const maxKept = 4096

// take hands over what has come, in exchange for an empty slice.
func (m *mailbox) take(empty []letter) []letter {
	if cap(empty) > maxKept {
		empty = nil
	}
	m.mu.Lock()
	taken := m.letters
	m.letters = empty[:0]
	m.awake = false
	m.mu.Unlock()
	return taken
}

// waiting reports whether anything was posted that was not taken.
func (m *mailbox) waiting() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.letters) > 0
}

// rearm notes that no wake-up is in flight, so that the next post or poke makes
// one: it has come, or a Goexit has lost it.
func (m *mailbox) rearm() {
	m.mu.Lock()
	m.awake = false
	m.mu.Unlock()
}

// close refuses all further posts. What was posted is there to be taken.
func (m *mailbox) close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
}
