package heartbeat

import "strconv"

// Role is the part that one side plays in the heartbeat of a connection.
type Role uint8

const (
	// Auto derives the role from the codec and the side: Both where the
	// format can do it, else Query or Answer, whichever this side may do,
	// and Beacon where heartbeats are never answered.
	Auto Role = iota
	// Both queries, speaks, and answers the peer's queries. The format must
	// tell a ping from its answer.
	Both
	// Query queries and speaks, and never answers.
	Query
	// Answer only answers. Where heartbeats are never answered, it only
	// listens.
	Answer
	// Beacon only speaks: it sends pings, waits for no answer and gives none.
	Beacon

	lastRole = Beacon
)

var roleNames = [...]string{Auto: "Auto", Both: "Both", Query: "Query", Answer: "Answer", Beacon: "Beacon"}

// String returns the name of the constant.
func (r Role) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return "Role(" + strconv.Itoa(int(r)) + ")"
}

// pings reports whether the role ever sends a ping.
func (r Role) pings() bool { return r == Both || r == Query || r == Beacon }
