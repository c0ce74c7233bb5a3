// Package control is how a driver and a server under measurement talk.
//
// A server is started as
//
//	server [-work echo|room|broadcast] [-idle MILLISECONDS] PORT
//
// with port 0 if it is to pick one. It prints "listening PORT", and from then on
// answers each collect signal (SIGUSR1) by collecting its garbage, giving free
// memory back to the system and printing one [Report] as a line of JSON.
// SIGTERM ends it. Servers written in other languages do the same without this
// package. What the options mean is said in package peers.
package control

import (
	"flag"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

// Work is what a server does with a frame that has a payload.
type Work string

// What servers do; package peers says what each means on the wire.
const (
	Echo      Work = "echo"
	Room      Work = "room"
	Broadcast Work = "broadcast"
)

// Works lists every Work.
var Works = []Work{Echo, Room, Broadcast}

// Options are what a server was asked for.
type Options struct {
	Port int
	Work Work
	// Idle is how long a connection may be silent before it is ended; 0: for
	// ever.
	Idle time.Duration
}

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

// Parse returns what the command line asks for, or ends the process. A server
// with options of its own defines them by package flag before. From then on
// signals wait for Serve.
func Parse() Options {
	hear()
	work := flag.String("work", string(Echo), "what to do with frames: echo, room or broadcast")
	idle := flag.Int64("idle", 0, "milliseconds of silence that end a connection; 0: none do")
	flag.Parse()
	port, err := strconv.ParseUint(strings.Join(flag.Args(), " "), 10, 16)
	if err != nil || *idle < 0 || *idle > math.MaxInt32 || !known(Work(*work)) {
		fmt.Fprintf(os.Stderr, "usage: %s [options] PORT\n", os.Args[0])
		flag.PrintDefaults()
		os.Exit(2)
	}
	return Options{Port: int(port), Work: Work(*work), Idle: time.Duration(*idle) * time.Millisecond}
}

func known(w Work) bool {
	for _, known := range Works {
		if w == known {
			return true
		}
	}
	return false
}

// Arguments returns the options of a command line that asks for o, without its
// port. What is the default is left out.
func (o Options) Arguments() []string {
	var args []string
	if o.Work != "" && o.Work != Echo {
		args = append(args, "-work", string(o.Work))
	}
	if o.Idle > 0 {
		args = append(args, "-idle", strconv.FormatInt(o.Idle.Milliseconds(), 10))
	}
	return args
}

// Announce says that connections are welcome on port.
func Announce(port int) { fmt.Printf(Announcement+"\n", port) }

// Fail ends a server that cannot go on.
func Fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
