package hub_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/hub"
)

type (
	conn   struct{ got []byte }
	member = hub.Member[*conn]
)

func send(to *conn, frames []byte) { to.got = append(to.got, frames...) }

func frame(payload ...byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), payload...)
}

func room(number byte) []byte { return frame(0, 0, 0, number) }

func join(t *testing.T, h *hub.Hub[*conn], number byte) *member {
	t.Helper()
	m := &member{Conn: new(conn)}
	h.Enter(m)
	if err := h.Frames(m, room(number), send); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.Conn.got, room(number)) {
		t.Fatalf("joining was answered by % x", m.Conn.got)
	}
	m.Conn.got = nil
	return m
}

// TestRoom: messages go to the others of a room, heartbeats back, the number of
// the room may come in one piece with both, and who left gets nothing.
func TestRoom(t *testing.T) {
	for _, shared := range []bool{false, true} {
		h := hub.New[*conn](control.Room, shared)
		a, b, c, stranger := join(t, h, 1), join(t, h, 1), join(t, h, 1), join(t, h, 2)
		late := &member{Conn: new(conn)}
		h.Enter(late)
		h.Leave(b)
		h.Leave(b) // twice does no harm
		if err := h.Frames(late, slices.Concat(frame(), room(1), frame(7), frame(8), frame(), frame(9)), send); err != nil {
			t.Fatal(err)
		}
		if err := h.Frames(b, frame(5), send); err != nil { // it had been read already
			t.Fatal(err)
		}
		heard := slices.Concat(frame(7), frame(8), frame(9))
		for name, want := range map[*member][]byte{a: heard, b: nil, c: heard, stranger: nil, late: slices.Concat(frame(), room(1), frame())} {
			if !bytes.Equal(name.Conn.got, want) {
				t.Errorf("shared %v: % x arrived, want % x", shared, name.Conn.got, want)
			}
		}
	}
}

// TestLeaveMeanwhile: one that cannot be sent to leaves while a message goes out,
// and all others get it once.
func TestLeaveMeanwhile(t *testing.T) {
	for leaving := range 6 {
		h := hub.New[*conn](control.Room, false)
		var all []*member
		for range 6 {
			all = append(all, join(t, h, 3))
		}
		from := all[(leaving+1)%len(all)]
		err := h.Frames(from, frame(1), func(to *conn, frames []byte) {
			if to == all[leaving].Conn {
				h.Leave(all[leaving])
				return
			}
			send(to, frames)
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range all {
			want := frame(1)
			if m == from || i == leaving {
				want = nil
			}
			if !bytes.Equal(m.Conn.got, want) {
				t.Errorf("%d leaves: %d got % x", leaving, i, m.Conn.got)
			}
		}
	}
}

// TestBroadcast: everyone gets a message, its sender, too, and nobody joins.
func TestBroadcast(t *testing.T) {
	h := hub.New[*conn](control.Broadcast, true)
	a, b := &member{Conn: new(conn)}, &member{Conn: new(conn)}
	h.Enter(a)
	h.Enter(b)
	if err := h.Frames(a, slices.Concat(room(1), frame()), send); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Conn.got, slices.Concat(room(1), frame())) || !bytes.Equal(b.Conn.got, room(1)) {
		t.Errorf("the sender got % x, the other % x", a.Conn.got, b.Conn.got)
	}
}

// TestCopy: with Copy what send keeps does not change with the reader's buffer.
func TestCopy(t *testing.T) {
	h := hub.New[*conn](control.Broadcast, false)
	h.Copy = true
	m := &member{Conn: new(conn)}
	h.Enter(m)
	frames := frame(1, 2, 3)
	var kept []byte
	if err := h.Frames(m, frames, func(_ *conn, frames []byte) { kept = frames }); err != nil {
		t.Fatal(err)
	}
	clear(frames)
	if !bytes.Equal(kept, frame(1, 2, 3)) {
		t.Errorf("kept % x", kept)
	}
}

func TestJoinRefuses(t *testing.T) {
	h := hub.New[*conn](control.Room, false)
	m := &member{Conn: new(conn)}
	if err := h.Frames(m, frame(1, 2, 3), send); !errors.Is(err, hub.ErrJoin) || m.Joined() {
		t.Errorf("a room of 3 bytes: %v, joined %v", err, m.Joined())
	}
}
