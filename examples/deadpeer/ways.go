package main

import (
	"slices"

	"github.com/pulsewheel/pulsewheel/engine"
)

// way is a way to vanish.
type way string

const (
	healthy way = "healthy" // does not vanish
	fin     way = "FIN"
	rst     way = "RST"
	killed  way = "killed"
	frozen  way = "frozen"
	hung    way = "hung"
	deaf    way = "deaf"
	silent  way = "silent"
	cut     way = "cut"
	oneWay  way = "one-way"
	refused way = "refused"
)

// ways are the ways to vanish, in the order of the table. Those of farWays take
// a network that can be broken.
var (
	ways    = []way{fin, rst, killed, frozen, hung, deaf, silent}
	farWays = []way{cut, oneWay, refused}
)

// far reports whether the client is on a host of its own, whose network breaks.
func (w way) far() bool { return slices.Contains(farWays, w) }

var meanings = map[way]string{
	fin:     "closes its connection",
	rst:     "aborts its connection",
	killed:  "its process is killed",
	frozen:  "its process is stopped",
	hung:    "a callback never returns",
	deaf:    "sends, but does not read",
	silent:  "never sends a byte",
	cut:     "its cable is cut",
	oneWay:  "what it sends gets lost",
	refused: "router: host unreachable",
	healthy: "talks all the time",
}

// reasons are the right verdicts. Of a killed process the kernel closes the
// sockets: with RST where something was unread, else with FIN.
var reasons = map[way][]engine.Reason{
	fin:    {engine.PeerClosed},
	rst:    {engine.PeerReset},
	killed: {engine.PeerClosed, engine.PeerReset},
	frozen: {engine.HeartbeatLost},
	hung:   {engine.HeartbeatLost},
	deaf:   {engine.Deaf},
	silent: {engine.HeartbeatLost},

	cut: {engine.HeartbeatLost}, oneWay: {engine.HeartbeatLost}, refused: {engine.HeartbeatLost},
}

// right reports whether reason is a right verdict on a peer that vanished so.
func (w way) right(reason string) bool {
	return slices.ContainsFunc(reasons[w], func(r engine.Reason) bool { return r.String() == reason })
}
