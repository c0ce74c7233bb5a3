package engine

import (
	"fmt"
	"math"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// pacer keeps a loop's pings within Limits.PingRate. Time is cut into slots, and
// a slot has places for so many of the connections' timers. A timer takes one
// where its ping is due. If there is none, the ping is sent there and then if the
// timer has just fired in a place of its own, or finds one there; otherwise the
// timer takes a place in an earlier slot. So pings only ever move forward, and
// whatever made many of them fall due together, they part for good, since each is
// followed by the next an interval later.
//
// A place is not given back when a connection ends or is heard: a slot is then
// less full than it seems.
type pacer struct {
	width int64 // of a slot, ns; 0: nothing is paced
	room  int32 // timers that a slot takes
	slots []paceSlot
}

type paceSlot struct {
	number int64 // the slot's time divided by width; entries are used in turn
	taken  int32
}

const (
	// paceSlots is into how many slots the longest interval is cut at most, and
	// paceRoom what one has room for at least, unless it would get longer than
	// maxPaceWidth.
	paceSlots    = 1024
	paceRoom     = 16
	maxPaceWidth = time.Second
	// maxPaceSlots bounds the memory; what is due beyond them all is not paced.
	maxPaceSlots = 8192
	// paceTries is how many earlier slots are tried at random before all are.
	paceTries = 4
)

// newPacer returns the pacer of a loop that may send rate pings a second, at
// intervals of up to longest.
func newPacer(rate float64, longest, tick time.Duration) pacer {
	if rate <= 0 || longest <= 0 {
		return pacer{}
	}
	width := max(longest/paceSlots, tick).Seconds()
	room := max(math.Ceil(rate*width), min(paceRoom, math.Floor(rate*maxPaceWidth.Seconds())), 1)
	width = room / rate // so that no part of the rate is lost
	slots := longest.Seconds()/width + 2
	return pacer{
		width: int64(width * 1e9),
		room:  int32(min(room, math.MaxInt32)),
		slots: make([]paceSlot, int(min(slots, maxPaceSlots))),
	}
}

// slot returns the slot of that number, emptied if it was another's.
func (p *pacer) slot(number int64) *paceSlot {
	s := &p.slots[number%int64(len(p.slots))]
	if s.number != number {
		*s = paceSlot{number: number}
	}
	return s
}

// earlier takes a place between now and due, and returns when that is. Where
// there is none, it is due when it is due.
func (p *pacer) earlier(now, due int64, random func() uint32) (at int64, ok bool) {
	first, last := now/p.width+1, due/p.width
	if first >= last {
		return due, false
	}
	for range paceTries {
		if at, ok := p.take(first + int64(random())%(last-first)); ok {
			return at, true
		}
	}
	for number := last - 1; number >= first; number-- {
		if at, ok := p.take(number); ok {
			return at, true
		}
	}
	return due, false
}

// take takes a place in a slot, if there is one, and returns when that is: those
// of a slot are spread over it.
func (p *pacer) take(number int64) (at int64, ok bool) {
	s := p.slot(number)
	if s.taken >= p.room {
		return 0, false
	}
	at = number*p.width + p.width*int64(s.taken)/int64(p.room)
	s.taken++
	return at, true
}

// pace returns when c's timer, which is due at next, is to fire so that its ping
// keeps to the rate, or, if it has just fired, that the ping is to be sent now.
func (c *Conn) pace(plan *heartbeat.Plan, next int64, fired bool) (at int64, now bool) {
	l := c.loop
	p := &l.pacer
	placed := c.state.Load()&pingPlaced != 0
	if placed {
		c.state.And(^uint32(pingPlaced))
	}
	due := c.heart.PingAt(plan)
	if c.heart.Asking() || due > next || due-l.beat >= p.width*int64(len(p.slots)-1) {
		return next, false // a silent peer's queries are neither late nor early
	}
	at = due
	_, ok := p.take(due / p.width)
	if !ok {
		if !placed && fired {
			_, placed = p.take(l.beat / p.width)
		}
		if placed {
			return next, true
		}
		at, ok = p.earlier(l.beat, due, l.core.kernel.Random)
	}
	if ok {
		c.state.Or(pingPlaced)
	}
	return at, false
}

// pingSpan returns between what intervals a connection of p sends its pings as
// long as its peer answers; 0 and 0 if it sends none.
func (p *profile) pingSpan() (shortest, longest time.Duration) {
	cfg := p.plan.Config()
	if p.plan.Speaks() {
		shortest, longest = p.plan.Announce(), p.plan.Announce()
	}
	if p.plan.Queries() {
		least, most := cfg.Interval, cfg.Interval
		if p.follow != (Follow{}) {
			least, most = p.follow.Min, p.follow.Max
		}
		if shortest == 0 || least < shortest {
			shortest = least
		}
		longest = max(longest, most)
	}
	return shortest, longest
}

// checkPingRate reports whether all connections can be pinged as often as their
// liveness says within PingRate.
func (l *Limits) checkPingRate(profiles []*profile) error {
	for _, p := range profiles {
		shortest, _ := p.pingSpan()
		if l.PingRate == 0 || shortest == 0 {
			continue
		}
		if need := float64(l.MaxConns) / shortest.Seconds(); need > float64(l.PingRate) {
			return fmt.Errorf("PingRate is %d a second, but MaxConns (%d) connections with a ping every %v each need %.0f",
				l.PingRate, l.MaxConns, shortest, need)
		}
	}
	return nil
}
