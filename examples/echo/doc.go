// Package echo holds the smallest complete pair of programs: a server that
// sends back what it gets, and a client that talks to it.
//
//	go run ./examples/echo/server
//	go run ./examples/echo/client
//
// Both watch each other with heartbeats: freeze one of them (kill -STOP), and
// the other finds out. With -codec length4 the format is one that any language
// speaks in a few lines: the payload's length in four bytes, big endian, then
// the payload. An empty frame is the client's heartbeat, and the server answers
// it with another.
package echo
