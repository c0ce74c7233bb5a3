package engine

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine/internal/sys"
)

// Reason says why a connection ended.
type Reason uint8

const (
	Unknown          Reason = iota
	PeerClosed              // the peer ended its stream (FIN)
	PeerReset               // the peer's system refused to go on (RST): it crashed, rebooted, or aborted
	Unreachable             // a router said that there is no way to the peer
	KernelTimeout           // the kernel's own probes or retransmissions were not answered
	HeartbeatLost           // nothing was heard in spite of our queries
	Deaf                    // the peer sends, but does not answer: it does not read, or cannot be reached
	Idle                    // an idle limit passed
	SlowConsumer            // the peer does not read as fast as it must
	HandshakeTimeout        // the peer did not introduce itself in time
	FrameTimeout            // a frame was begun and not finished in time
	ProtocolError           // the peer sent what is no frame
	FrameTooLarge           // the peer announced a frame above the maximum
	Overloaded              // a limit of ours left no room for it
	Replaced                // a newer connection of the same identity took its place
	Local                   // the application closed it
	Panic                   // a callback of ours panicked or ended its goroutine
	Shutdown                // the server or client was shut down
	numReasons
)

var reasonNames = [numReasons]string{
	"Unknown", "PeerClosed", "PeerReset", "Unreachable", "KernelTimeout", "HeartbeatLost", "Deaf", "Idle",
	"SlowConsumer", "HandshakeTimeout", "FrameTimeout", "ProtocolError", "FrameTooLarge", "Overloaded",
	"Replaced", "Local", "Panic", "Shutdown",
}

// String returns the reason's name.
func (r Reason) String() string {
	if r < numReasons {
		return reasonNames[r]
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

// MarshalText writes the reason's name, for JSON among others.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Timeout reports whether the reason is that something did not happen in time.
func (r Reason) Timeout() bool {
	switch r {
	case KernelTimeout, HeartbeatLost, Deaf, Idle, HandshakeTimeout, FrameTimeout:
		return true
	}
	return false
}

var (
	// ErrClosed is returned by the methods of a connection that is closing or
	// closed, and of an engine that is shut down.
	ErrClosed = fmt.Errorf("engine: %w", net.ErrClosed)
	// ErrBacklog is returned by Send when the connection's backlog is at its
	// high watermark. The message was not taken.
	ErrBacklog = errors.New("engine: backlog is full")
)

// CloseError is what Handler.Close receives. It wraps the cause, so that
// errors.Is(err, syscall.ECONNRESET) tells; where a limit of time has no errno,
// it wraps os.ErrDeadlineExceeded, and a Shutdown wraps net.ErrClosed.
type CloseError struct {
	Reason Reason
	// Err is the cause: an errno, the codec's error, what Open returned, the
	// panic. Nil where the reason says it all.
	Err      error
	Evidence Evidence
}

// Evidence is what was known of a connection when it ended.
type Evidence struct {
	Age       time.Duration // since it was opened
	LastRead  time.Duration // since anything was read; since it was opened, if nothing was
	LastWrite time.Duration // since the kernel took anything to send; likewise
	Missed    int           // queries without an answer, in a row
	RTT       time.Duration // smoothed round trip time of our queries; 0: none was measured
	// Unsent counts the messages that Send had accepted and that were not
	// wholly handed to the kernel. The peer got none of them whole.
	Unsent int
	// Unacked counts the bytes, heartbeats and all, that were handed to the
	// kernel and that the peer's kernel had not acknowledged; -1: unknown. What
	// was acknowledged reached the peer's kernel, not necessarily the peer.
	Unacked int
	// Kernel is the kernel's own view, taken just before the descriptor was
	// freed; zero after a reset, with which the kernel lets go of all it knew.
	Kernel KernelView
}

// KernelView is TCP_INFO in small, where the system has it.
type KernelView struct {
	RTT         time.Duration // smoothed round trip time of segments
	Retransmits int           // of the oldest unacknowledged segment, in a row
	Unheeded    time.Duration // for how long at least that segment has been under way; 0: unknown
	LastAck     time.Duration // since the peer's kernel acknowledged anything
	InFlight    int           // segments sent and not acknowledged
	NotSent     int           // bytes that wait for room in the peer's window, or in the network
}

// ReasonOf returns the reason inside an error that Handler.Close received, and
// Unknown for any other error.
func ReasonOf(err error) Reason {
	if ce, ok := errors.AsType[*CloseError](err); ok {
		return ce.Reason
	}
	return Unknown
}

func (e *CloseError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "connection closed: %v", e.Reason)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	ev := e.Evidence
	if d := e.Diagnosis(); d != Undiagnosed && e.Reason.Timeout() {
		fmt.Fprintf(&b, ": %v", d)
	}
	if e.Reason.Timeout() {
		fmt.Fprintf(&b, " (silent for %v, %d queries unanswered)", ev.LastRead.Round(time.Millisecond), ev.Missed)
	}
	if ev.Unsent > 0 {
		fmt.Fprintf(&b, "; %d messages unsent", ev.Unsent)
	}
	if ev.Unacked > 0 {
		fmt.Fprintf(&b, "; %d bytes unacknowledged", ev.Unacked)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *CloseError) Unwrap() error {
	switch {
	case e.Err != nil:
		return e.Err
	case e.Reason.Timeout():
		return os.ErrDeadlineExceeded
	case e.Reason == Shutdown:
		return ErrClosed
	}
	return nil
}

// reasonOfError tells what an error of read, write or SO_ERROR says of the
// peer (tcp(7), RFC 9293 section 3.10).
func reasonOfError(err error) Reason {
	switch {
	case errors.Is(err, sys.ECONNRESET), errors.Is(err, sys.EPIPE):
		return PeerReset
	case errors.Is(err, sys.ETIMEDOUT):
		return KernelTimeout
	case errors.Is(err, sys.EHOSTUNREACH), errors.Is(err, sys.ENETUNREACH):
		return Unreachable
	case errors.Is(err, codec.ErrTooLarge):
		return FrameTooLarge
	case errors.Is(err, codec.ErrMalformed):
		return ProtocolError
	}
	return Unknown
}
