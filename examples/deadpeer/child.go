package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/pulsewheel/pulsewheel/engine"
)

// specVar is the environment variable that makes this program a child.
const specVar = "PULSEWHEEL_DEADPEER"

// spec says what a child is.
type spec struct {
	Way     way    // of its clients; empty: it is the server
	Addr    string // of the server; on a server: where to listen
	Preset  string
	Clients int           // on a server: of all processes
	Spread  time.Duration // time in which all clients connect
}

// order is what a child is told, one line of JSON on its standard input. When
// that ends the child ends.
type order struct {
	// Vanish tells victims to vanish, one after another, between From (Unix
	// time in ns) and Window later. Killed and frozen ones need no order.
	Vanish bool
	From   int64
	Window time.Duration
	// Check tells healthy clients to ask the server once more.
	Check bool
}

// at returns when the one numbered i of n vanishes.
func (o order) at(i, n int) time.Time {
	return time.Unix(0, o.From+int64(o.Window)*int64(2*i+1)/int64(2*n))
}

// event is what a child tells, one line of JSON on its standard output. Times
// are time.Now().UnixNano(): one clock for all processes of a machine. That it
// was not set meanwhile is checked at the end.
type event struct {
	Kind kind
	Peer engine.ID `json:",omitzero"` // as the server numbers its connections
	At   int64     `json:",omitzero"`

	Addr   string `json:",omitzero"` // listening
	Reason string `json:",omitzero"` // closed, left
	Loop   int    `json:",omitzero"` // closed: index of its loop
	Loops  []loop `json:",omitzero"` // sample
	Text   string `json:",omitzero"` // failed
}

type kind string

const (
	listening kind = "listening" // server: at Addr
	closed    kind = "closed"    // server: the verdict on a peer; Loops has its loop alone
	sample    kind = "sample"    // server: counters of each loop
	connected kind = "connected" // client: was greeted
	vanished  kind = "vanished"  // client: the moment of the fault
	left      kind = "left"      // client: lost its connection, and did not want to
	alive     kind = "alive"     // client: was answered when told to check
	failed    kind = "failed"    // child: cannot go on
	exited    kind = "exited"    // conductor: the process is gone
)

// loop is a loop's counters, as engine.LoopStats has them.
type loop struct {
	Lag     time.Duration
	Stalled time.Duration
}

// link is a child's connection with the conductor.
type link struct {
	orders chan order
	events chan event
}

// child is the main function of a server or client process.
func child(text string) (status int) {
	var s spec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		fmt.Fprintln(os.Stderr, "deadpeer:", err)
		return broken
	}
	// Callbacks report, and must not block.
	l := link{orders: make(chan order, 1), events: make(chan event, 4*s.Clients+1000)}
	written := make(chan struct{})
	go l.read()
	go l.write(written)
	var err error
	switch s.Way {
	case "":
		err = serve(s, l)
	case deaf, silent:
		err = sockets(s, l)
	default:
		err = clients(s, l)
	}
	l.events <- event{Kind: failed, Text: err.Error()}
	close(l.events)
	<-written
	return broken
}

// read ends the process when the conductor is gone.
func (l link) read() {
	for in := json.NewDecoder(os.Stdin); ; {
		var o order
		if in.Decode(&o) != nil {
			os.Exit(0)
		}
		l.orders <- o
	}
}

func (l link) write(written chan<- struct{}) {
	defer close(written)
	out := json.NewEncoder(os.Stdout)
	for e := range l.events {
		if out.Encode(e) != nil {
			os.Exit(0)
		}
	}
}

// now is the clock that all processes share.
func now() int64 { return time.Now().UnixNano() }
