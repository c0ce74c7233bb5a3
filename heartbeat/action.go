package heartbeat

import "strconv"

// Action is what [State.Poll] wants done.
type Action uint8

const (
	// None: nothing is due.
	None Action = iota
	// Ping: send one ping, carrying [State.Stamp] and [Plan.Announce] where
	// the format has room for them, and call [State.Wrote] once the kernel
	// has it. Whether it serves as a query or as speech is the State's
	// business.
	Ping
	// Lost: no answer, and nothing heard either.
	Lost
	// Deaf: no answer, although the peer was heard: it sends, but does not
	// read what this side sends.
	Deaf
	// Idle: a limit among IdleRead, IdleWrite and IdleAll was reached.
	Idle
)

var actionNames = [...]string{None: "None", Ping: "Ping", Lost: "Lost", Deaf: "Deaf", Idle: "Idle"}

// String returns the name of the constant.
func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return "Action(" + strconv.Itoa(int(a)) + ")"
}

// Verdict reports whether a is one of Lost, Deaf and Idle.
func (a Action) Verdict() bool { return a >= Lost }
