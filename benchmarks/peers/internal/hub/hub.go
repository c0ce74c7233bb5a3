// Package hub knows, for the peers written in Go, who gets a frame where the
// work is not to echo it. How it gets there is each peer's own.
package hub

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/wire"
)

// ErrJoin says that a connection's first message names no room.
var ErrJoin = errors.New("the first message must be the number of a room, 4 bytes")

// Hub relays frames between connections that are known as C.
type Hub[C any] struct {
	// Copy has each run of frames copied once, so that send may keep it.
	Copy bool

	work  control.Work
	rooms map[uint32]*room[C]
	all   room[C]
	mu    rwLocker
}

type rwLocker interface {
	sync.Locker
	RLock()
	RUnlock()
}

type room[C any] struct {
	number  uint32
	members []*Member[C]
}

// Member is a connection's place in a hub.
type Member[C any] struct {
	Conn C
	// joined is for who brings the frames; room and at belong to the hub's lock.
	joined bool
	room   *room[C]
	at     int
}

// New returns a hub for work. A shared one may be used by several goroutines
// at a time; the other belongs to one loop, and its send may call Leave for
// the member that it cannot send to.
func New[C any](work control.Work, shared bool) *Hub[C] {
	h := &Hub[C]{work: work, rooms: make(map[uint32]*room[C]), mu: new(nobody)}
	if shared {
		h.mu = new(sync.RWMutex)
	}
	return h
}

// nobody is the lock of a hub that one goroutine owns.
type nobody struct{}

func (*nobody) Lock()    {}
func (*nobody) Unlock()  {}
func (*nobody) RLock()   {}
func (*nobody) RUnlock() {}

// Enter makes a connection known.
func (h *Hub[C]) Enter(m *Member[C]) {
	if h.work == control.Broadcast {
		h.mu.Lock()
		h.all.add(m)
		h.mu.Unlock()
		m.joined = true
	}
}

// Leave forgets a connection.
func (h *Hub[C]) Leave(m *Member[C]) {
	h.mu.Lock()
	if r := m.room; r != nil {
		r.remove(m)
		if len(r.members) == 0 && h.rooms[r.number] == r {
			delete(h.rooms, r.number)
		}
	}
	h.mu.Unlock()
}

// Frames relays complete frames of one member, each to whom it is for. Frames
// that follow each other and go the same way are handed to send together; without
// Copy it may not keep them. An error ends the connection.
func (h *Hub[C]) Frames(from *Member[C], frames []byte, send func(to C, frames []byte)) error {
	for len(frames) > 0 {
		run, rest, beats := wire.Run(frames)
		if !beats && !from.joined {
			size, err := wire.Size(run)
			if err != nil {
				return err
			}
			run, rest = run[:size], frames[size:]
		}
		if h.Copy {
			run = bytes.Clone(run)
		}
		switch {
		case beats:
			send(from.Conn, run)
		case !from.joined:
			if err := h.Join(from, run[wire.Header:]); err != nil {
				return err
			}
			send(from.Conn, run)
		default:
			h.Relay(from, run, send)
		}
		frames = rest
	}
	return nil
}

// Relay calls send for everyone that a message of from is for.
func (h *Hub[C]) Relay(from *Member[C], run []byte, send func(to C, frames []byte)) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if from.room == nil {
		return // it has left
	}
	// From the end, so that one that leaves meanwhile, whose place the last one
	// takes, makes nobody miss the message or get it twice.
	members := from.room.members
	for i := len(members) - 1; i >= 0; i-- {
		if to := members[i]; to != from || h.work == control.Broadcast {
			send(to.Conn, run)
		}
	}
}

// Joined says whether m is in a room, so that its frames are messages. Only who
// brings its frames may ask.
func (m *Member[C]) Joined() bool { return m.joined }

// Join puts m into the room that its first message names.
func (h *Hub[C]) Join(m *Member[C], number []byte) error {
	if len(number) != 4 {
		return ErrJoin
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	n := binary.BigEndian.Uint32(number)
	r := h.rooms[n]
	if r == nil {
		r = &room[C]{number: n}
		h.rooms[n] = r
	}
	r.add(m)
	m.joined = true
	return nil
}

func (r *room[C]) add(m *Member[C]) {
	m.room, m.at = r, len(r.members)
	r.members = append(r.members, m)
}

func (r *room[C]) remove(m *Member[C]) {
	last := len(r.members) - 1
	moved := r.members[last]
	r.members[m.at], moved.at = moved, m.at
	r.members[last] = nil
	r.members = r.members[:last]
	m.room = nil
}
