// Death lets peers die in every way that a network, a host or a program can,
// between two machines made of network namespaces, and checks how long each
// detector of the engine takes to know, and what it makes of it.
//
//	go run ./benchmarks/death                # every fault, each by each detector
//	go run ./benchmarks/death -smoke         # half a minute of it
//	go run ./benchmarks/death -capture       # what goes over the wire, as tshark sees it
//
// A server process runs on one host, with an engine for each detector, and for
// each run of a fault a client process on a host of its own; a router connects
// them, and breaks. The clients of one host share one fault, and are found each
// by itself. On one more host nothing is ever broken: there nobody may be
// suspected.
//
// It needs root, iproute2 and nftables, and for -capture tshark.
package main
