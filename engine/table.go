package engine

import (
	"sync"
	"sync/atomic"
)

// ID names a connection for the life of the process. It is never zero.
//
// The lower 24 bits are the connection's place in the table, which makes a
// lookup one load; the upper 40 are a serial number, which tells it from every
// other connection that ever had that place.
type ID uint64

const (
	slotBits  = 24
	maxSlots  = 1 << slotBits
	pageBits  = 10
	pageSlots = 1 << pageBits
)

var serial atomic.Uint64

func newID(slot int) ID { return ID(serial.Add(1)<<slotBits | uint64(slot)) }

func (id ID) slot() int { return int(id & (maxSlots - 1)) }

type page [pageSlots]atomic.Pointer[Conn]

// table finds an engine's connections by descriptor. Its pages are added as
// descriptors grow and never freed while the engine lives. Lookups take no
// lock; only the loop that owns a descriptor changes its entry.
type table struct {
	pages [maxSlots / pageSlots / 64]atomic.Pointer[[64]atomic.Pointer[page]]
	mu    sync.Mutex
	high  atomic.Int64 // one above the highest slot ever used
}

// at returns the connection at a slot, nil if there is none.
func (t *table) at(slot int) *Conn {
	if p := t.page(slot); p != nil {
		return p[slot%pageSlots].Load()
	}
	return nil
}

func (t *table) page(slot int) *page {
	if slot < 0 || slot >= maxSlots {
		return nil
	}
	dir := t.pages[slot>>(pageBits+6)].Load()
	if dir == nil {
		return nil
	}
	return dir[slot>>pageBits&63].Load()
}

// put stores c, which may be nil, at a slot below maxSlots.
func (t *table) put(slot int, c *Conn) {
	p := t.page(slot)
	if p == nil {
		p = t.addPage(slot)
	}
	p[slot%pageSlots].Store(c)
}

func (t *table) addPage(slot int) *page {
	t.mu.Lock()
	defer t.mu.Unlock()
	dirAt := &t.pages[slot>>(pageBits+6)]
	dir := dirAt.Load()
	if dir == nil {
		dir = new([64]atomic.Pointer[page])
		dirAt.Store(dir)
	}
	p := dir[slot>>pageBits&63].Load()
	if p == nil {
		p = new(page)
		dir[slot>>pageBits&63].Store(p)
	}
	t.high.Store(max(t.high.Load(), int64(slot|(pageSlots-1))+1))
	return p
}

// all calls f for every connection until it returns false.
func (t *table) all(f func(*Conn) bool) {
	for base := 0; base < int(t.high.Load()); base += pageSlots {
		p := t.page(base)
		if p == nil {
			continue
		}
		for i := range p {
			if c := p[i].Load(); c != nil && !f(c) {
				return
			}
		}
	}
}
