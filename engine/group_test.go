package engine_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// Members get every broadcast in order, on whichever loop they are, small ones
// that are copied and large ones that are shared; others get none.
func TestBroadcast(t *testing.T) {
	const members, others, count = 20, 5, 200
	opened := new(conns)
	cfg := listenOne(engine.Handler{Open: opened.open}, heartbeat.Config{})
	cfg.Loops = 3
	cfg.Backlog.High = 64 << 20
	srv := serve(t, cfg)
	var peers []*net.TCPConn
	for range members + others {
		peers = append(peers, rawDial(t, srv))
		opened.wait(t, len(peers))
	}
	group := srv.Group("room")
	if srv.Group("room") != group || group.Name() != "room" {
		t.Error("a name means two groups")
	}
	inside := make(map[string]bool)
	for _, c := range opened.wait(t, members+others)[:members] {
		for range 2 { // the second time changes nothing
			if err := group.Add(c); err != nil {
				t.Fatal(err)
			}
		}
		inside[c.RemoteAddr().String()] = true
	}
	for i := range count {
		payload := numberedPayload(i, 4+(i*911)%5000)
		if err := group.Broadcast(payload); err != nil {
			t.Fatal(err)
		}
		clear(payload) // it has been copied
	}
	if err := srv.Broadcast([]byte("to all")); err != nil {
		t.Fatal(err)
	}
	for _, peer := range peers {
		if inside[peer.LocalAddr().String()] {
			for i := range count {
				if _, payload, err := readNative(peer); err != nil || !isNumbered(payload, i) {
					t.Fatalf("broadcast %d: %v, or garbled", i, err)
				}
			}
		}
		expect(t, peer, frame(t, codec.Data, []byte("to all")))
	}
	if n := group.Len(); n != members {
		t.Errorf("%d members, want %d", n, members)
	}
	eventually(t, "nothing is held", func() bool { return srv.Stats().Held == 0 })
	if n := srv.Stats().Total.Broadcasts; n != members*count+members+others {
		t.Errorf("%d deliveries were counted", n)
	}
	for _, peer := range peers {
		_ = peer.Close()
	}
	eventually(t, "members that close leave", func() bool { return group.Len() == 0 })
	if err := group.Broadcast(make([]byte, 2<<20)); !errors.Is(err, codec.ErrTooLarge) {
		t.Errorf("a message above the maximum: %v", err)
	}
	group.Drop()
	if srv.Group("room") == group {
		t.Error("a dropped group is still there")
	}
}

// Memberships of many connections in many groups that come and go at random are
// those of a model.
func TestGroupMemberships(t *testing.T) {
	const connections, groups, steps = 12, 5, 3000
	opened := new(conns)
	cfg := listenOne(engine.Handler{Open: opened.open}, heartbeat.Config{})
	cfg.Loops = 2
	srv := serve(t, cfg)
	var peers []*net.TCPConn
	for range connections {
		peers = append(peers, rawDial(t, srv))
		opened.wait(t, len(peers))
	}
	peerOf := make(map[string]*net.TCPConn)
	for _, p := range peers {
		peerOf[p.LocalAddr().String()] = p
	}
	all := opened.wait(t, connections)
	rng := rand.New(rand.NewPCG(1, 1))
	var model [groups][connections]bool
	var sent [connections][]string
	group := func(g int) *engine.Group { return srv.Group(fmt.Sprint("group ", g)) }
	for step := range steps {
		g, i := rng.IntN(groups), rng.IntN(connections)
		switch rng.IntN(3) {
		case 0:
			if err := group(g).Add(all[i]); err != nil {
				t.Fatal(err)
			}
			model[g][i] = true
		case 1:
			if err := group(g).Remove(all[i]); err != nil {
				t.Fatal(err)
			}
			model[g][i] = false
		default:
			text := fmt.Sprint("step ", step)
			if err := group(g).Broadcast([]byte(text)); err != nil {
				t.Fatal(err)
			}
			for i, in := range model[g] {
				if in {
					sent[i] = append(sent[i], text)
				}
			}
		}
	}
	for i, c := range all {
		peer := peerOf[c.RemoteAddr().String()]
		for _, want := range sent[i] {
			if _, payload, err := readNative(peer); err != nil || string(payload) != want {
				t.Fatalf("connection %d got %q, %v; want %q", i, payload, err, want)
			}
		}
	}
	for g := range model {
		want := 0
		for _, in := range model[g] {
			if in {
				want++
			}
		}
		if n := group(g).Len(); n != want {
			t.Errorf("group %d has %d members, want %d", g, n, want)
		}
	}
}

// privateCodec is Native with a codec object for each connection.
type privateCodec struct{ codec.Codec }

func (c privateCodec) PerConn() codec.Codec { return &privateCodec{c.Codec} }

type privateFactory struct{}

func (privateFactory) Codec() (codec.Codec, error) {
	c, err := codec.Native{}.Codec()
	return privateCodec{c}, err
}

// Connections of several listeners get a broadcast in the encoding of each.
func TestBroadcastInEveryCodec(t *testing.T) {
	opened := new(conns)
	srv := serve(t, engine.Config{
		Listeners: []engine.Listener{
			{Addr: "tcp://127.0.0.1:0", Codec: codec.Native{}},
			{Addr: "tcp://127.0.0.1:0", Codec: codec.Length4()},
			{Addr: "tcp://127.0.0.1:0", Codec: privateFactory{}},
		},
		Handler: engine.Handler{Open: opened.open},
	})
	message := []byte(fmt.Sprintf("%01000d", 7))
	var peers []net.Conn
	for i := range 3 {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", srv.Port(i)))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		peers = append(peers, c)
	}
	opened.wait(t, 3)
	if err := srv.Broadcast(message); err != nil {
		t.Fatal(err)
	}
	expect(t, peers[0], frame(t, codec.Data, message))
	expect(t, peers[1], append([]byte{0, 0, 3, 0xe8}, message...))
	expect(t, peers[2], frame(t, codec.Data, message))
}

// What a broadcast allocates does not depend on how many get it.
func TestBroadcastAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget on purpose")
	}
	allocations := func(members int) float64 {
		opened := new(conns)
		srv := serve(t, listenOne(engine.Handler{Open: opened.open}, heartbeat.Config{}))
		var peers []*net.TCPConn
		for range members {
			peers = append(peers, rawDial(t, srv))
		}
		opened.wait(t, members)
		message := frame(t, codec.Data, make([]byte, 4096))
		got := make([]byte, len(message))
		round := func() {
			if err := srv.Broadcast(make([]byte, 4096)); err != nil {
				t.Fatal(err)
			}
			for _, p := range peers {
				for n := 0; n < len(got); {
					m, err := p.Read(got[n:])
					if err != nil {
						t.Fatal(err)
					}
					n += m
				}
			}
		}
		for range 50 {
			round()
		}
		const rounds = 200
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range rounds {
			round()
		}
		runtime.ReadMemStats(&after)
		return float64(after.Mallocs-before.Mallocs) / rounds
	}
	few, many := allocations(2), allocations(200)
	if many > few+20 { // 198 more members
		t.Errorf("%.1f allocations for 2 members, %.1f for 200", few, many)
	}
}
