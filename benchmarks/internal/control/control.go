// Package control is how a driver and a server under measurement talk.
//
// A server is started with a port (0: it picks one) as its only argument,
// prints "listening PORT", and from then on answers each collect signal
// (SIGUSR1) by collecting its garbage, giving free memory back to the system
// and printing one [Report] as a line of JSON. SIGTERM ends it. Servers
// written in other languages do the same without this package.
package control

import (
	"fmt"
	"os"
	"strconv"
)

// Report is a server's answer to a collect signal.
type Report struct {
	// Goroutines counts every goroutine of the process, the one that answers
	// included; 0 where there are none.
	Goroutines int `json:"goroutines"`
	// Open connections now, and connections closed since the start.
	Open   int64 `json:"open"`
	Closed int64 `json:"closed"`
	// Verdicts counts connections that the server itself gave up on.
	Verdicts int64 `json:"verdicts"`
}

// Announcement is the format of the first line a server prints.
const Announcement = "listening %d"

// Port returns the port the process was asked to listen on.
func Port() int {
	if len(os.Args) == 2 {
		if port, err := strconv.ParseUint(os.Args[1], 10, 16); err == nil {
			return int(port)
		}
	}
	fmt.Fprintf(os.Stderr, "usage: %s PORT\n", os.Args[0])
	os.Exit(2)
	return 0
}

// Announce says that connections are welcome on port.
func Announce(port int) { fmt.Printf(Announcement+"\n", port) }

// Fail ends a server that cannot go on.
func Fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
