package peers_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/cc/cctest"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/netty"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

const limit = 30 * time.Second

// frames returns one frame for each payload length. The content follows from
// the seed.
func frames(seed byte, lengths ...int) []byte {
	random := rand.NewChaCha8([32]byte{seed})
	var b []byte
	for _, n := range lengths {
		b = binary.BigEndian.AppendUint32(slices.Grow(b, 4+n), uint32(n))
		b = b[:len(b)+n]
		random.Read(b[len(b)-n:]) // never fails
	}
	return b
}

func dial(t *testing.T, r *peers.Running) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", r.Port), limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// expect reads as much as was sent and compares. Answers to heartbeats may
// overtake data that waits for a slow reader; nothing else may change places.
func expect(t *testing.T, c net.Conn, sent []byte) {
	t.Helper()
	got := make([]byte, len(sent))
	if n, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("%v after %d of %d bytes", err, n, len(sent))
	}
	gotData, gotBeats := sorted(t, got)
	data, beats := sorted(t, sent)
	if gotBeats != beats {
		t.Fatalf("%d empty frames came back, %d were sent", gotBeats, beats)
	}
	if !bytes.Equal(gotData, data) {
		t.Fatal("the echo differs from what was sent")
	}
}

// sorted takes frames apart: those with content, and how many were empty.
func sorted(t *testing.T, b []byte) (data []byte, beats int) {
	t.Helper()
	data = make([]byte, 0, len(b))
	for len(b) > 0 {
		if len(b) < 4 || uint64(len(b)-4) < uint64(binary.BigEndian.Uint32(b)) {
			t.Fatal("what came back is not made of whole frames")
		}
		n := 4 + int(binary.BigEndian.Uint32(b))
		if n == 4 {
			beats++
		} else {
			data = append(data, b[:n]...)
		}
		b = b[n:]
	}
	return data, beats
}

// TestDuties holds every peer to what is expected of all of them, so that none
// is fast because it leaves something out.
func TestDuties(t *testing.T) {
	cctest.Linux(t)
	all, err := peers.Lookup("all")
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]bool) // programs
	for _, peer := range all {
		again := known[peer.Program()]
		known[peer.Program()] = true
		t.Run(peer.Name, func(t *testing.T) {
			t.Parallel()
			server := build(t, peer)
			t.Run("echo", func(t *testing.T) { echoes(t, server.Peer, start(t, server), again) })
			if work, err := server.For(control.Room); err == nil && !again {
				server.Peer = work
				t.Run("room", func(t *testing.T) { rooms(t, work, start(t, server)) })
			}
			if work, err := server.For(control.Broadcast); err == nil && !again {
				server.Peer = work
				t.Run("broadcast", func(t *testing.T) { broadcasts(t, work, start(t, server)) })
			}
			server.Work, server.Idle = control.Echo, idle
			t.Run("idle", func(t *testing.T) { ends(t, server.Peer, start(t, server)) })
		})
	}
}

// build builds one peer. What is missing here must not be missing in CI, but
// for Java, which only one peer needs.
func build(t *testing.T, peer peers.Peer) peers.Server {
	t.Helper()
	servers, err := peers.Build(t.Context(), t.TempDir(), []peers.Peer{peer})
	if errors.Is(err, netty.ErrMissing) {
		t.Skip(err)
	}
	cctest.Check(t, err)
	return servers[0]
}

// start starts a server that ends after the test's connections, all of which it
// has to notice.
func start(t *testing.T, server peers.Server) *peers.Running {
	t.Helper()
	// The cleanup below outlives the test's context.
	r, err := server.Start(context.WithoutCancel(t.Context()), proc.AnyCPU)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := r.WaitOpen(0); err != nil {
			t.Error(err)
		}
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// echoes: a program that is known already, with other arguments, is only tried.
func echoes(t *testing.T, p peers.Peer, r *peers.Running, again bool) {
	t.Run("report", func(t *testing.T) { reports(t, r) })
	if again {
		return
	}
	t.Run("split=1B", func(t *testing.T) { splitEverywhere(t, r) })
	t.Run("split=cut", func(t *testing.T) { splitOnce(t, r) })
	t.Run("split=random", func(t *testing.T) { splitAtRandom(t, r) })
	t.Run("slow-reader", func(t *testing.T) { slowReader(t, r) })
	t.Run("largest", func(t *testing.T) { largest(t, r) })
	t.Run("too-large", func(t *testing.T) { tooLarge(t, r) })
	if p.AnswersLast() {
		t.Run("half-close", func(t *testing.T) { halfClose(t, r) })
	}
	t.Run("report", func(t *testing.T) { reports(t, r) })
}

// splitEverywhere sends byte by byte, with TCP_NODELAY, which Go sets.
func splitEverywhere(t *testing.T, r *peers.Running) {
	c := dial(t, r)
	stream := frames(1, 0, 1, 0, 3, 64, 0, 0, 300)
	for i := range stream {
		if _, err := c.Write(stream[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, c, stream)
}

// splitOnce cuts a frame at each of its bytes, behind another one whose answer
// shows that what came before the cut was read, and must not wait for the rest.
func splitOnce(t *testing.T, r *peers.Running) {
	c := dial(t, r)
	before := frames(7, 3)
	for _, length := range []int{0, 1, 40, 5_000} {
		frame := frames(8, length)
		for cut := 1; cut < len(frame); cut++ {
			if cut == 50 {
				cut = len(frame) - 2
			}
			if _, err := c.Write(slices.Concat(before, frame[:cut])); err != nil {
				t.Fatal(err)
			}
			expect(t, c, before)
			if _, err := c.Write(slices.Concat(frame[cut:], before)); err != nil {
				t.Fatal(err)
			}
			expect(t, c, slices.Concat(frame, before))
		}
	}
}

func splitAtRandom(t *testing.T, r *peers.Running) {
	random := rand.New(rand.NewPCG(2, 2))
	c := dial(t, r)
	var lengths []int
	for range 200 {
		lengths = append(lengths, []int{0, 1, 64, 5_000, 70_000}[random.IntN(5)])
	}
	stream := frames(2, lengths...)
	written := make(chan error, 1)
	go func() {
		for rest := stream; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN([]int{6, 100, 90_000}[random.IntN(3)]))
			if _, err := c.Write(rest[:n]); err != nil {
				written <- err
				return
			}
			rest = rest[n:]
		}
		written <- nil
	}()
	expect(t, c, stream)
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// slowReader lets answers pile up until the server's writes are taken in part
// or not at all.
func slowReader(t *testing.T, r *peers.Running) {
	c := dial(t, r)
	var lengths []int
	for range 30 { // more than a socket may hold of what is not read
		lengths = append(lengths, 200_000, 0, 10)
	}
	lengths = append(lengths, peers.MaxPayload, 0, peers.MaxPayload)
	stream := frames(3, lengths...)
	written := make(chan error, 1)
	go func() {
		_, err := c.Write(stream)
		written <- err
	}()
	time.Sleep(100 * time.Millisecond) // being slow is the point
	expect(t, c, stream)
	if err := <-written; err != nil {
		t.Error(err)
	}
}

func largest(t *testing.T, r *peers.Running) {
	c := dial(t, r)
	stream := frames(4, 10, peers.MaxPayload, 0, peers.MaxPayload, 10)
	written := make(chan error, 1)
	go func() {
		_, err := c.Write(stream)
		written <- err
	}()
	expect(t, c, stream)
	if err := <-written; err != nil {
		t.Error(err)
	}
}

func tooLarge(t *testing.T, r *peers.Running) {
	before, after := dial(t, r), dial(t, r)
	for _, c := range []net.Conn{before, after} {
		// The second offence hides behind a frame that is fine.
		stream := frames(5, 10)
		if c == before {
			stream = nil
		}
		stream = binary.BigEndian.AppendUint32(stream, peers.MaxPayload+1)
		if _, err := c.Write(append(stream, 1, 2, 3)); err != nil {
			t.Fatal(err)
		}
		_, err := io.Copy(io.Discard, c)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Error("a frame above the limit did not end its connection")
		}
	}
	alive := dial(t, r)
	beat := frames(0, 0)
	if _, err := alive.Write(beat); err != nil {
		t.Fatal(err)
	}
	expect(t, alive, beat)
}

// halfClose: what was asked before the end of the stream is still answered.
func halfClose(t *testing.T, r *peers.Running) {
	c := dial(t, r)
	stream := frames(6, 64, 0, 64)
	if _, err := c.Write(stream); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	expect(t, c, stream)
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the answers came %d bytes, %v; want the end", n, err)
	}
}

func reports(t *testing.T, r *peers.Running) {
	before, err := r.Collect()
	if err != nil {
		t.Fatal(err)
	}
	beat := frames(0, 0)
	for range 3 {
		c := dial(t, r)
		if _, err := c.Write(beat); err != nil {
			t.Fatal(err)
		}
		expect(t, c, beat)
	}
	report, err := r.WaitOpen(3) // those of earlier subtests may still be closing
	if err != nil {
		t.Fatal(err)
	}
	if report.Verdicts != 0 || report.Goroutines > 16 || report.Closed < before.Closed {
		t.Errorf("report %+v", report)
	}
}

// member is a connection of a room, or of everybody, as seen from outside.
type member struct {
	*net.TCPConn
	id      uint32
	says    int   // messages
	lengths []int // of their payloads, one of which each has
	beats   int   // heartbeats sent, so answers to come
	wrote   chan error
}

func newMember(c *net.TCPConn, id uint32) *member {
	m := &member{TCPConn: c, id: id, says: 30, lengths: []int{12, 64, 3_000, 70_000}, wrote: make(chan error, 1)}
	m.wrote <- nil
	return m
}

// speak begins to send messages, each with the room, the sender and its number,
// and heartbeats between them, cut anywhere.
func (m *member) speak(room uint32) {
	random := rand.New(rand.NewPCG(uint64(m.id), 9))
	var stream []byte
	for n := range m.says {
		length := m.lengths[random.IntN(len(m.lengths))]
		begin := len(stream)
		stream = slices.Grow(stream, 4+length)[:begin+4+length]
		for i, word := range []uint32{uint32(length), room, m.id, uint32(n)} {
			binary.BigEndian.PutUint32(stream[begin+4*i:], word)
		}
		if random.IntN(3) == 0 {
			stream = append(stream, 0, 0, 0, 0)
			m.beats++
		}
	}
	<-m.wrote
	go func() {
		for len(stream) > 0 {
			n := min(len(stream), 1+random.IntN(20_000))
			if _, err := m.Write(stream[:n]); err != nil {
				m.wrote <- err
				return
			}
			stream = stream[n:]
		}
		m.wrote <- nil
	}()
}

// listen reads until every message of every sender was received, each once and
// in order, and every heartbeat answered.
func (m *member) listen(room uint32, senders []*member) error {
	r := bufio.NewReaderSize(m, 256<<10)
	next := make(map[uint32]uint32)
	left, beats := 0, m.beats
	for _, sender := range senders {
		next[sender.id] = 0
		left += sender.says
	}
	for left > 0 || beats > 0 {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return fmt.Errorf("%d: %w, %d messages and %d heartbeats before the end", m.id, err, left, beats)
		}
		length := binary.BigEndian.Uint32(head[:])
		if length == 0 {
			beats--
			continue
		}
		var content [12]byte
		if _, err := io.ReadFull(r, content[:]); err != nil || length < 12 {
			return fmt.Errorf("%d: %w in a frame of %d bytes", m.id, err, length)
		}
		if _, err := r.Discard(int(length) - len(content)); err != nil {
			return fmt.Errorf("%d: %w in a frame of %d bytes", m.id, err, length)
		}
		from, id, n := binary.BigEndian.Uint32(content[:]), binary.BigEndian.Uint32(content[4:]), binary.BigEndian.Uint32(content[8:])
		want, expected := next[id]
		if from != room || !expected || n != want {
			return fmt.Errorf("%d in room %d: message %d of %d in room %d, want number %d", m.id, room, n, id, from, want)
		}
		next[id]++
		left--
	}
	m.beats = 0
	err := <-m.wrote
	m.wrote <- nil
	return err
}

// talk has some speak and some listen, to the others or to themselves, too, until
// those have heard everything.
func talk(t *testing.T, room uint32, speak, listen []*member, self bool) {
	t.Helper()
	for _, m := range speak {
		m.speak(room)
	}
	heard := make(chan error)
	for _, m := range listen {
		senders := slices.DeleteFunc(slices.Clone(speak), func(other *member) bool { return other == m && !self })
		go func() { heard <- m.listen(room, senders) }()
	}
	for range listen {
		if err := <-heard; err != nil {
			t.Error(err)
		}
	}
}

// backlog: a member that does not read keeps nobody from it, and gets everything
// once it does, with what is said meanwhile.
func backlog(t *testing.T, dial func() *net.TCPConn, self bool) {
	var all []*member
	for id := range uint32(4) {
		m := newMember(dial(), id)
		m.says, m.lengths = 35, []int{10_000, 400_000}
		all = append(all, m)
	}
	last, late := all[2], all[3]
	talk(t, 7, all[:2], all[:3], self)
	heard := make(chan error, 1)
	go func() { heard <- late.listen(7, all[:3]) }()
	talk(t, 7, []*member{last}, all[:3], self)
	if err := <-heard; err != nil {
		t.Error(err)
	}
}

// join makes a connection a member of a room.
func join(t *testing.T, r *peers.Running, room uint32) *net.TCPConn {
	t.Helper()
	c := dial(t, r)
	hello := binary.BigEndian.AppendUint32([]byte{0, 0, 0, 0, 0, 0, 0, 4}, room)
	if _, err := c.Write(hello); err != nil {
		t.Fatal(err)
	}
	expect(t, c, hello)
	return c
}

// rooms: each message reaches every other member of its room once, in order,
// and nobody else. Members that leave are no trouble to those that stay.
func rooms(t *testing.T, p peers.Peer, r *peers.Running) {
	var all [][]*member
	for room := range uint32(3) {
		var members []*member
		for i := range uint32(6) {
			members = append(members, newMember(join(t, r, room), i))
		}
		all = append(all, members)
	}
	// The first leaves, the last, which may have got its place, and one between.
	open := int64(3 * 6)
	for _, room := range all {
		for _, i := range []int{0, 5, 2} {
			if err := room[i].Close(); err != nil {
				t.Fatal(err)
			}
			open--
			if _, err := r.WaitOpen(open); err != nil {
				t.Fatal(err)
			}
		}
	}
	var done sync.WaitGroup
	for i, room := range all {
		members := []*member{room[1], room[3], room[4], newMember(join(t, r, uint32(i)), 50)}
		done.Go(func() { talk(t, uint32(i), members, members, false) })
	}
	done.Wait()
	if p.Patient() {
		t.Run("backlog", func(t *testing.T) {
			backlog(t, func() *net.TCPConn { return join(t, r, 7) }, false)
		})
	}

	c := dial(t, r)
	if _, err := c.Write(frames(1, 5)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a first message that names no room was answered by %d bytes, %v", n, err)
	}
}

// broadcasts: each message reaches every connection once, its sender included,
// in order.
func broadcasts(t *testing.T, p peers.Peer, r *peers.Running) {
	known := func() *net.TCPConn {
		c := dial(t, r)
		beat := frames(0, 0)
		if _, err := c.Write(beat); err != nil {
			t.Fatal(err)
		}
		expect(t, c, beat)
		return c
	}
	var all []*member
	for id := range uint32(6) {
		all = append(all, newMember(known(), id))
	}
	if err := all[2].Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.WaitOpen(int64(len(all) - 1)); err != nil {
		t.Fatal(err)
	}
	all = slices.Delete(all, 2, 3)
	talk(t, 0, all, all, true)
	if !p.Patient() {
		return
	}
	for _, m := range all {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.WaitOpen(0); err != nil {
		t.Fatal(err)
	}
	t.Run("backlog", func(t *testing.T) { backlog(t, known, true) })
}

const (
	idle = 2 * time.Second
	// early is how much too early some framework's clock ends a connection.
	early = time.Second
	// lag is what a busy machine may add.
	lag = 2 * time.Second
)

// ends: with an idle timeout a silent connection is ended after it and within
// twice that time, and one of which something is received is not.
func ends(t *testing.T, p peers.Peer, r *peers.Running) {
	beat := frames(0, 0)
	silent, quiet, alive, slow := dial(t, r), dial(t, r), dial(t, r), dial(t, r)
	if _, err := quiet.Write(beat); err != nil {
		t.Fatal(err)
	}
	expect(t, quiet, beat)
	since := time.Now()

	// Those that stay: one beats, and a frame takes its time to the other.
	done := make(chan error, 2)
	stop := make(chan struct{})
	ticking := func(each func(n int) error) {
		ticker := time.NewTicker(idle / 20)
		defer ticker.Stop()
		for n := 0; ; n++ {
			if err := each(n); err != nil {
				done <- err
				return
			}
			select {
			case <-ticker.C:
			case <-stop:
				done <- nil
				return
			}
		}
	}
	go ticking(func(int) error {
		if _, err := alive.Write(beat); err != nil {
			return err
		}
		_, err := io.ReadFull(alive, make([]byte, len(beat)))
		return err
	})
	large := frames(3, 1_000)
	go ticking(func(n int) error {
		_, err := slow.Write(large[n : n+1])
		return err
	})

	limit := since.Add(2*idle + lag)
	for name, c := range map[string]net.Conn{"from the start": silent, "after a frame": quiet} {
		if err := c.SetReadDeadline(limit); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(make([]byte, 1))
		after := time.Since(since)
		switch {
		case n != 0:
			t.Errorf("a connection that was silent %s received something", name)
		case !p.Watches() && !errors.Is(err, os.ErrDeadlineExceeded):
			t.Errorf("a connection that was silent %s, but is there, ended after %v: %v", name, after, err)
		case p.Watches() && errors.Is(err, os.ErrDeadlineExceeded):
			t.Errorf("a connection that was silent %s is still open after %v", name, after)
		case p.Watches() && after < idle-early:
			t.Errorf("a connection that was silent %s ended after %v, the timeout is %v", name, after, idle)
		}
	}
	if err := waitUntil(t, since.Add(2*idle), done); err != nil {
		t.Fatalf("a connection of which something was received ended: %v", err)
	}
	close(stop)
	for range 2 {
		if err := <-done; err != nil {
			t.Errorf("a connection of which something was received ended: %v", err)
		}
	}
	report, err := r.Collect()
	if err != nil {
		t.Fatal(err)
	}
	// Gev does not tell why it closed.
	if want := map[bool]int64{true: 2}[p.Watches()]; report.Verdicts != want && p.Name != "gev" {
		t.Errorf("%d verdicts, want %d", report.Verdicts, want)
	}
}

// waitUntil returns at that time, or with what comes from failed before.
func waitUntil(t *testing.T, at time.Time, failed <-chan error) error {
	t.Helper()
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case err := <-failed:
		return err
	case <-timer.C:
		return nil
	}
}

func TestLookup(t *testing.T) {
	names := func(list string) (s []string) {
		found, err := peers.Lookup(list)
		if err != nil {
			t.Fatalf("%q: %v", list, err)
		}
		for _, p := range found {
			s = append(s, p.Name)
		}
		return s
	}
	if got := names("gnet@3,cfloor"); len(got) != 2 || got[0] != "gnet@3" || got[1] != "cfloor" {
		t.Errorf("Lookup = %v", got)
	}
	if got := names(""); len(got) == 0 || got[0] != peers.Floor {
		t.Errorf("the defaults are %v", got)
	}
	if got := names("gnet@2+idle=9s,netty+idle=1m"); len(got) != 2 || got[0] != "gnet@2+idle=9s" {
		t.Errorf("Lookup = %v", got)
	}
	all, detectors := names("all"), names("detectors")
	if len(all) < 13 || len(detectors) < 10 || detectors[0] != "pulsewheel-strict" {
		t.Errorf("all are %v, detectors %v", all, detectors)
	}
	found, err := peers.Lookup("pulsewheel@3+loops=2,pulsewheel+idle=9s+loops=2,pulsewheel")
	if err != nil || found[0].Loops() != 2 || found[1].Loops() != 2 || found[1].Idle != 9*time.Second || found[2].Loops() != 1 {
		t.Errorf("Lookup = %+v, %v", found, err)
	}
	for _, bad := range []string{"pulsewheel+loops=0", "gnet+loops=2", "pulsewheel+", "pulsewheel+loops", "nobody", "gnet,", "gnet@0", "gnet@x", "cfloor@2", "gnet+idle=1", "gnet+idle=1ms", "gnet+work=room"} {
		if _, err := peers.Lookup(bad); err == nil {
			t.Errorf("Lookup(%q) found something", bad)
		}
	}
}
