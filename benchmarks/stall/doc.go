// Stall stops a process that watches thousands of peers (SIGSTOP, as a debugger,
// a suspended virtual machine or a starved host would do), and checks whom it
// blames for the time it has slept through.
//
//	go run ./benchmarks/stall                # about six minutes
//	go run ./benchmarks/stall -unguarded     # only without the guard: there must be false verdicts
//	go run ./benchmarks/stall -smoke         # half a minute, with few peers
//
// The watcher is stopped once for long, and then for one second in every two.
// Its peers live on, and are patient enough not to give up on it. Some of them,
// in processes of their own, are stopped meanwhile and stay so: their kernels
// acknowledge, they never answer again. The watcher must end those, within its
// WorstCase plus the time for which it was stopped itself, and no other. Once
// it is the server that watches and is stopped, and once it is the client.
//
// Beside each watcher runs another one without the guard: Limits.StallCap is
// negative, so that the time it was stopped counts against its peers.
//
// What the guard is needed for follows from what goes on while a process is
// stopped. Its kernel goes on receiving, and before a verdict the engine reads
// once more, so nothing is lost of a peer that speaks by itself. A query that
// should have gone out meanwhile is asked late, and heartbeat.State counts a
// series from when it really began, and puts off one that is late by a Retry or
// more later on; so Strict alone survives without the guard, and so does a single
// query that waits hardly longer than a stop, which the report shows. One thing
// remains: what a peer sends only when it is asked cannot have arrived while
// nobody asked. A limit on silence as such, IdleRead, ends such peers as soon as
// the watcher goes on. Where it is shorter than one second, so do the short stops.
//
// Where the whole machine stood still, and its kernel received nothing, Strict
// alone needs the guard, too. No signal does that to a machine; the simulated
// one of the engine's TestStalledServer does.
//
// The guard does one thing more: as time has stood still for all connections,
// their queries stay spread over the interval. Without it all are due at once
// when the watcher goes on, and march in step from then on.
package main
