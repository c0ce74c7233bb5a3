// Package spec is the plan of a run, as the command line makes it and as worker
// processes get it, and what workers say about it.
package spec

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/sizes"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/wire"
)

// Workload is what a run does.
type Workload string

const (
	Closed    Workload = "closed"    // a new message for each answer
	Open      Workload = "open"      // messages at a fixed rate, whatever the answers do
	Ramp      Workload = "ramp"      // connections at a fixed rate
	Idle      Workload = "idle"      // connections that only stay alive
	Churn     Workload = "churn"     // connections that come and go
	Broadcast Workload = "broadcast" // few send, all receive
	DeadPeer  Workload = "deadpeer"  // connections that vanish
)

// Workloads are all workloads, in the order in which they are explained.
var Workloads = []Workload{Closed, Open, Ramp, Idle, Churn, Broadcast, DeadPeer}

// Way is a way to vanish.
type Way string

const (
	Silent Way = "silent" // reads, and sends nothing any more
	Frozen Way = "frozen" // neither reads nor sends, as a stopped process
	Deaf   Way = "deaf"   // sends heartbeats, and reads nothing any more
	Fin    Way = "fin"    // ends its stream in good order, and waits for the server's end
	Reset  Way = "reset"  // resets the connection
	Cut    Way = "cut"    // no packet gets out any more, as with the cable pulled
)

// Ways are all ways to vanish.
var Ways = []Way{Silent, Frozen, Deaf, Fin, Reset, Cut}

// Seen reports whether the client's own socket shows that the server has closed
// the connection. After a reset there is no socket any more.
func (w Way) Seen() bool { return w != Reset }

// Ends of connections, for Spec.End.
const (
	EndFin   = "fin"
	EndReset = "reset"
)

// Arrivals, for Spec.Arrivals.
const (
	Uniform = "uniform"
	Poisson = "poisson"
)

// Spec is the plan of a run. Durations are in nanoseconds in JSON.
type Spec struct {
	Target   string       `json:"target"`
	Workload Workload     `json:"workload"`
	Protocol wire.Options `json:"protocol"`
	Conns    int          `json:"conns"`
	// Payload is a sizes.Distribution.
	Payload string `json:"payload,omitempty"`
	Seed    uint64 `json:"seed"`

	Depth     int           `json:"depth,omitempty"`    // closed
	Rate      float64       `json:"rate,omitempty"`     // open, broadcast: messages a second; churn: connections
	Arrivals  string        `json:"arrivals,omitempty"` // open
	Heartbeat time.Duration `json:"heartbeat_ns,omitempty"`

	ConnectRate  float64       `json:"connect_rate,omitempty"` // connections a second; 0: as fast as it goes
	Connecting   int           `json:"connecting,omitempty"`   // under way at once
	ConnectLimit time.Duration `json:"connect_limit_ns"`

	PerConn int    `json:"messages_per_connection,omitempty"` // churn
	End     string `json:"end,omitempty"`                     // churn

	Senders int `json:"senders,omitempty"` // broadcast
	FanOut  int `json:"fan_out,omitempty"` // broadcast: deliveries expected of each message

	Share       float64       `json:"dead_share,omitempty"` // deadpeer
	Ways        []Way         `json:"ways,omitempty"`
	Promise     time.Duration `json:"promise_ns,omitempty"`      // detection is to take no longer
	DetectLimit time.Duration `json:"detect_limit_ns,omitempty"` // how long verdicts are awaited

	Warmup   time.Duration `json:"warmup_ns"`
	Duration time.Duration `json:"duration_ns"`
	Drain    time.Duration `json:"drain_ns"`
	Step     time.Duration `json:"step_ns"` // of the series over time

	// MaxOutstanding bounds the messages of an open loop that wait for answers.
	MaxOutstanding int `json:"max_outstanding,omitempty"`

	// Spin is the longest wait that is spent awake.
	Spin time.Duration `json:"spin_ns,omitempty"`

	Sources []string `json:"sources,omitempty"`
	Workers int      `json:"workers"`
	// SaturatedAt is the share of a processor above which the load itself is
	// the bottleneck.
	SaturatedAt float64 `json:"saturated_at"`

	// What one worker is told; not part of a result.
	Worker *Assignment `json:"worker,omitempty"`
}

// Assignment is one worker's part: connections First to First+Conns-1.
type Assignment struct {
	Index   int    `json:"index"`
	Address string `json:"address"`
	First   int    `json:"first"`
	Conns   int    `json:"conns"`
	PIDs    []int  `json:"pids,omitempty"`
	Mark    int    `json:"mark,omitempty"` // of packets that are to be cut
}

// Opens reports whether all connections are opened before the run begins.
func (w Workload) Opens() bool { return w != Ramp && w != Churn }

// Echoes reports whether every message comes back on its connection.
func (w Workload) Echoes() bool { return w == Closed || w == Open || w == Churn }

// StampSize is the least payload of a broadcast: sender, number and due time.
const StampSize = 16

// MaxDuration bounds every duration of a plan.
const MaxDuration = 24 * time.Hour

// Check completes a plan and returns it with its protocol and sizes, or an
// error that names the flag at fault.
func (s Spec) Check() (Spec, wire.Protocol, sizes.Distribution, error) {
	fail := func(err error) (Spec, wire.Protocol, sizes.Distribution, error) {
		return s, nil, sizes.Distribution{}, err
	}
	if !slices.Contains(Workloads, s.Workload) {
		return fail(fmt.Errorf("-workload %q: there are %s", s.Workload, join(Workloads)))
	}
	if err := s.checkNumbers(); err != nil {
		return fail(err)
	}
	if err := s.checkWorkload(); err != nil {
		return fail(err)
	}
	s.Protocol.Broadcast = s.Workload == Broadcast
	// A client that keeps its word with time to spare.
	s.Protocol.KeepAlive = 2 * s.Heartbeat
	if s.Protocol.Room > 0 && !s.Protocol.Rooms() {
		return fail(errors.New("-room: only with -protocol mqtt, or custom and a -greeting that has {room}; elsewhere the server decides who receives what"))
	}
	p, err := wire.New(s.Protocol)
	if err != nil {
		return fail(fmt.Errorf("-protocol: %w", err))
	}
	sent, _ := p.Heartbeats()
	switch {
	case s.Heartbeat > 0 && !sent:
		return fail(fmt.Errorf("-heartbeat %v: protocol %s has no heartbeat that a client sends", s.Heartbeat, s.Protocol.Name))
	case s.Workload == Idle && s.Heartbeat == 0:
		return fail(errors.New("-heartbeat: idle connections need an interval"))
	}
	d, err := sizes.Parse(s.Payload)
	if err != nil {
		return fail(fmt.Errorf("-payload: %w", err))
	}
	least := p.MinPayload()
	if s.Workload == Broadcast {
		least = max(least, StampSize)
	}
	if s.Workload.Echoes() || s.Workload == Broadcast {
		if d.Max() > p.MaxPayload() || d.Min() < least {
			return fail(fmt.Errorf("-payload %s: %s with protocol %s takes %d to %d bytes", d, s.Workload, s.Protocol.Name, least, p.MaxPayload()))
		}
	}
	return s, p, d, nil
}

func join[T ~string](list []T) string {
	var names []string
	for _, x := range list {
		names = append(names, string(x))
	}
	return strings.Join(names, ", ")
}

// maxConns is what the numbers on the wire and 32-bit systems allow.
const maxConns = 10_000_000

func (s Spec) checkNumbers() error {
	for _, n := range []struct {
		flag      string
		value     int
		low, high int
	}{
		{"-conns", s.Conns, 1, maxConns},
		{"-depth", s.Depth, 1, 1 << 16},
		{"-connecting", s.Connecting, 1, 1 << 16},
		{"-workers", s.Workers, 1, min(s.Conns, 1024)},
		{"-messages", s.PerConn, 0, 1 << 20},
		{"-senders", s.Senders, 1, s.Conns},
		{"-fanout", s.FanOut, 0, s.Conns},
		{"-room", s.Protocol.Room, 0, s.Conns},
		{"-max-outstanding", s.MaxOutstanding, 1, 100_000_000},
		{"-max-frame", s.Protocol.MaxFrame, 0, 1 << 28},
	} {
		if n.value < n.low || n.value > n.high {
			return fmt.Errorf("%s %d: not from %d to %d", n.flag, n.value, n.low, n.high)
		}
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
		least time.Duration
	}{
		{"-duration", s.Duration, 10 * time.Millisecond},
		{"-warmup", s.Warmup, 0},
		{"-drain", s.Drain, 0},
		{"-connect-limit", s.ConnectLimit, 10 * time.Millisecond},
		{"-detect-limit", s.DetectLimit, 10 * time.Millisecond},
		{"-promise", s.Promise, 0},
		{"-step", s.Step, 10 * time.Millisecond},
		{"-spin", s.Spin, 0},
	} {
		if d.value < d.least || d.value > MaxDuration {
			return fmt.Errorf("%s %v: not from %v to %v", d.flag, d.value, d.least, MaxDuration)
		}
	}
	if s.Heartbeat != 0 && (s.Heartbeat < time.Millisecond || s.Heartbeat > MaxDuration) {
		return fmt.Errorf("-heartbeat %v: not 0 or from 1ms to %v", s.Heartbeat, MaxDuration)
	}
	for _, r := range []struct {
		flag  string
		value float64
	}{{"-rate", s.Rate}, {"-connect-rate", s.ConnectRate}} {
		if !(r.value >= 0 && r.value <= 1e9) {
			return fmt.Errorf("%s %g: not from 0 to 1e9 a second", r.flag, r.value)
		}
	}
	if !(s.SaturatedAt > 0 && s.SaturatedAt <= 1) {
		return fmt.Errorf("-saturated %g: not above 0 and up to 1", s.SaturatedAt)
	}
	return nil
}

func (s Spec) checkWorkload() error {
	switch s.Workload {
	case Open, Broadcast:
		if s.Rate == 0 {
			return fmt.Errorf("-rate: %s needs a rate in messages a second", s.Workload)
		}
	}
	if s.Arrivals != Uniform && s.Arrivals != Poisson {
		return fmt.Errorf("-arrivals %q: want %s or %s", s.Arrivals, Uniform, Poisson)
	}
	if s.End != EndFin && s.End != EndReset {
		return fmt.Errorf("-end %q: want %s or %s", s.End, EndFin, EndReset)
	}
	if s.Workload != DeadPeer {
		return nil
	}
	if !(s.Share > 0 && s.Share <= 1) {
		return fmt.Errorf("-dead %g: not above 0 and up to 1", s.Share)
	}
	if len(s.Ways) == 0 {
		return fmt.Errorf("-vanish: names no way; there are %s", join(Ways))
	}
	for _, w := range s.Ways {
		if !slices.Contains(Ways, w) {
			return fmt.Errorf("-vanish %q: there are %s", w, join(Ways))
		}
	}
	if s.Victims() == 0 {
		return fmt.Errorf("-dead %g of %d connections is nobody", s.Share, s.Conns)
	}
	return nil
}

// Victims is how many connections vanish.
func (s Spec) Victims() int { return int(s.Share * float64(s.Conns)) }

// Resolve returns the address of the target.
func (s Spec) Resolve() (netip.AddrPort, error) {
	if _, _, err := net.SplitHostPort(s.Target); err != nil {
		return netip.AddrPort{}, fmt.Errorf("-addr %q: want HOST:PORT: %w", s.Target, err)
	}
	a, err := net.ResolveTCPAddr("tcp", s.Target)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("-addr %q: %w", s.Target, err)
	}
	if a.IP == nil || a.Port == 0 {
		return netip.AddrPort{}, fmt.Errorf("-addr %q: want a host and a port", s.Target)
	}
	p := a.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port()), nil
}

// Assign is worker i's part of the plan.
func (s Spec) Assign(i int, address string, pids []int, mark int) Spec {
	first := i * s.Conns / s.Workers
	s.Worker = &Assignment{
		Index: i, Address: address, First: first, Conns: (i+1)*s.Conns/s.Workers - first,
		PIDs: pids, Mark: mark,
	}
	return s
}
