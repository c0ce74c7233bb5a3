//go:build linux

package main

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/pulsewheel/pulsewheel/engine"
)

// kind is one way in which clients behave.
type kind struct {
	name, about string
	// reasons are those for which a connection of this kind may end.
	reasons []engine.Reason
	// prepare, if not nil, sets up a client before it connects.
	prepare func(c *clientConn)
	// life is what a client does once it is connected.
	life func(c *clientConn)
	// many is how many run at a time in the storm, few in a smoke test.
	many, few int
	// rest is how long a slot waits between two clients, on average.
	rest time.Duration
	// receive is the client's SO_RCVBUF; 0: the system's.
	receive int
	// patience is how long it tries to connect; 0: dialPatience.
	patience time.Duration
	// garbage: what it sends is not in order.
	garbage bool
	// special: it is the driver who says when there are any.
	special bool
	// healthy: it is there in the calm, too.
	healthy bool

	index byte
}

// greeting is what every connection gets when it opens.
const greeting = 1

var kinds []*kind

func init() {
	kinds = []*kind{
		{
			name: "untouched", about: "echo of 25 to 537 bytes at a steady rate, for the whole run; half of them at each listener",
			reasons: []engine.Reason{engine.PeerClosed},
			prepare: func(c *clientConn) { c.target = c.index % len(c.l.config.Targets) },
			life:    untouched, many: 200, few: 60, special: true, healthy: true,
		},
		{
			name: "member", about: "joins a group, reads its broadcasts for some seconds, broadcasts now and then, leaves the group, leaves",
			reasons: []engine.Reason{engine.PeerClosed},
			life:    member, many: 40, few: 20, rest: 500 * time.Millisecond, healthy: true,
		},
		{
			name: "slow reader", about: "asks for 8 MiB and reads 1 KiB a second for 12 s, then what is there",
			reasons: []engine.Reason{engine.SlowConsumer, engine.HeartbeatLost, engine.Deaf, engine.PeerClosed, engine.PeerReset, engine.Overloaded},
			life:    slowReader, many: 40, few: 10, rest: time.Second, receive: 64 << 10,
		},
		{
			name: "slow writer", about: "sends whole messages, a byte at a time",
			reasons: []engine.Reason{engine.PeerClosed},
			life:    slowWriter, many: 20, few: 10, rest: 200 * time.Millisecond,
		},
		{
			name: "slow beginner", about: "never gets its first frame done, a byte at a time",
			reasons: []engine.Reason{engine.HandshakeTimeout},
			life:    slowBeginner, many: 20, few: 5, rest: 500 * time.Millisecond,
		},
		{
			name: "slow framer", about: "one message, then never gets the next one done, a byte at a time",
			reasons: []engine.Reason{engine.FrameTimeout},
			life:    slowFramer, many: 20, few: 5, rest: 500 * time.Millisecond,
		},
		{
			name: "half-closer", about: "asks for echoes, bursts, lent payloads and tasks, ends its stream at once and reads all the answers",
			reasons: []engine.Reason{engine.PeerClosed},
			life:    halfCloser, many: 20, few: 10, rest: 300 * time.Millisecond,
		},
		{
			name: "resetter", about: "some messages, then half a frame and RST",
			reasons: []engine.Reason{engine.PeerReset},
			life:    resetter, many: 20, few: 10, rest: 200 * time.Millisecond,
		},
		{
			name: "flood", about: "connects, says little or nothing, and goes, more of them than are accepted",
			reasons: []engine.Reason{engine.PeerClosed, engine.PeerReset, engine.HandshakeTimeout},
			life:    flood, special: true, patience: time.Second,
		},
		{
			name: "oversized", about: "announces a frame of 16 MiB",
			reasons: []engine.Reason{engine.FrameTooLarge},
			life:    oversized, many: 10, few: 5, rest: 300 * time.Millisecond,
		},
		{
			name: "random", about: "random bytes",
			reasons: []engine.Reason{
				engine.ProtocolError, engine.FrameTooLarge, engine.HandshakeTimeout, engine.FrameTimeout, engine.Local,
				engine.HeartbeatLost, engine.Deaf, engine.PeerReset, engine.Overloaded,
			},
			life: random, many: 10, few: 5, rest: 300 * time.Millisecond, garbage: true,
		},
		{
			name: "blocker", about: "handlers that block, at Ordered's listener, and tasks that do, at the other",
			reasons: []engine.Reason{engine.PeerClosed},
			life:    blocker, many: 20, few: 8, rest: 200 * time.Millisecond,
		},
		{
			name: "panicker", about: "panics in handlers, posted functions and tasks",
			reasons: []engine.Reason{engine.Panic},
			life:    func(c *clientConn) { fails(c, orderPanic, orderPostPanic, orderTaskPanic) }, many: 8, few: 4, rest: 300 * time.Millisecond,
		},
		{
			name: "goexiter", about: "runtime.Goexit in handlers and tasks",
			reasons: []engine.Reason{engine.Panic},
			life:    func(c *clientConn) { fails(c, orderGoexit, orderTaskGoexit) }, many: 8, few: 4, rest: 300 * time.Millisecond,
		},
		{
			name: "never", about: "a task that does not return before the end of the run, then the end of the stream",
			reasons: []engine.Reason{engine.PeerClosed, engine.Overloaded},
			life:    never, many: 4, few: 2, rest: 5 * time.Second,
		},
		{
			name: "closer", about: "has the server close the connection after some answers",
			reasons: []engine.Reason{engine.Local},
			life:    func(c *clientConn) { dismissed(c, orderClose) }, many: 10, few: 5, rest: 200 * time.Millisecond,
		},
		{
			name: "aborter", about: "has the server abort the connection after some answers",
			reasons: []engine.Reason{engine.Local},
			life:    func(c *clientConn) { dismissed(c, orderAbort) }, many: 10, few: 5, rest: 200 * time.Millisecond,
		},
		{
			name: "pauser", about: "has the server stop reading for a while, goes on sending, and gets every answer",
			reasons: []engine.Reason{engine.PeerClosed},
			life:    pauser, many: 20, few: 8, rest: 200 * time.Millisecond,
		},
		{
			name: "silent liar", about: "one message, then nothing: no heartbeat is answered",
			reasons: []engine.Reason{engine.HeartbeatLost, engine.Overloaded},
			life:    silentLiar, many: 20, few: 5, rest: 500 * time.Millisecond,
		},
		{
			name: "talking liar", about: "goes on sending, but answers no heartbeat",
			reasons: []engine.Reason{engine.Deaf},
			life:    talkingLiar, many: 20, few: 5, rest: 500 * time.Millisecond,
		},
		{
			name: "mass", about: "all connect, wait for each other, and leave at once: a third in good order, a third with RST, a third with answers unread",
			reasons: []engine.Reason{engine.PeerClosed, engine.PeerReset},
			special: true,
		},
		{
			name: "exhauster", about: "connects while the server has no descriptors left",
			reasons: []engine.Reason{engine.PeerClosed, engine.PeerReset, engine.Overloaded},
			special: true,
		},
		{
			name: "loop blocker", about: "blocks an event loop, in windows of its own",
			reasons: []engine.Reason{engine.PeerClosed},
			prepare: func(c *clientConn) { c.target = 0 },
			life:    loopBlocker, special: true,
		},
		{
			name: "healthy member", about: "joins the group and reads every broadcast, until the end",
			reasons: []engine.Reason{engine.PeerClosed},
			life:    func(c *clientConn) { steadyMember(c, "healthy") }, special: true,
		},
		{
			name: "slow member", about: "joins the group and reads 1 KiB a second",
			reasons: []engine.Reason{engine.SlowConsumer},
			life:    slowMember, special: true, receive: 64 << 10,
		},
		{
			name: "prober", about: "one echo, to see that the server is there",
			reasons: []engine.Reason{engine.PeerClosed, engine.PeerReset},
			special: true,
		},
	}
	for i, k := range kinds {
		k.index = byte(i + 1)
	}
}

func kindByName(name string) *kind {
	for _, k := range kinds {
		if k.name == name {
			return k
		}
	}
	return nil
}

// rules are the reasons by kind, as the ledger wants them.
func rules() map[string][]string {
	m := make(map[string][]string)
	for _, k := range kinds {
		for _, r := range k.reasons {
			m[k.name] = append(m[k.name], r.String())
		}
	}
	return m
}

// source is an address of the loopback network that tells the kind: the kernel
// accepts all of 127.0.0.0/8 as its own.
func (k *kind) source(child uint64, index int) net.IP {
	return net.IPv4(127, byte(1+child), k.index, byte(1+index%32))
}

// key is a client's sender: whose, of which kind, and its how-manieth.
func (k *kind) key(child, number uint64) uint64 { return child<<48 | uint64(k.index)<<40 | number }

func kindOfKey(key uint64) string {
	if i := int(key >> 40 & 0xff); i >= 1 && i <= len(kinds) {
		return kinds[i-1].name
	}
	return ""
}

// kindOf tells the kind of a connection by its address; "" if it does not say.
func kindOf(remote netip.AddrPort) string {
	if !remote.Addr().Is4() {
		return ""
	}
	if i := int(remote.Addr().As4()[2]); i >= 1 && i <= len(kinds) {
		return kinds[i-1].name
	}
	return ""
}

// isGarbage reports whether what a kind sends is not in order.
func isGarbage(name string) bool {
	k := kindByName(name)
	return k != nil && k.garbage
}

// fromSending is added to the name of what is measured from when a message was
// sent, not from when it was due: the difference is the client's own.
const fromSending = ", from sending"

// untouched measures how long answers take, from when the question was due.
func untouched(c *clientConn) {
	what := "loop"
	if c.target > 0 {
		what = "Ordered"
	}
	var sent [64]atomic.Int64 // when, by number; answers come in the same order
	c.onFrame = func(m message) {
		if m.stamp != 0 {
			at := now()
			c.l.latencies.note(what, m.stamp, time.Duration(at-m.stamp))
			c.l.latencies.note(what+fromSending, m.stamp, time.Duration(at-sent[(m.number-greeting)%uint32(len(sent))].Load()))
		}
	}
	every := int64(c.l.config.Every)
	done := make(chan struct{})
	go func() {
		defer close(done)
		due := now() + c.random.Int64N(every)
		for ; ; due += every {
			if !c.sleep(time.Duration(due - now())) {
				break
			}
			if now()-due > int64(time.Second) {
				c.l.missed.Add(1)
			}
			size := messageHeader + c.random.IntN(513)
			sent[c.entry.Sent%uint32(len(sent))].Store(now())
			if c.send(orderEcho, uint32(size), messageHeader+c.random.IntN(100), due) != nil {
				break
			}
		}
		c.endStream()
	}()
	for c.entry.End == "" {
		if _, err := c.receive(time.Now().Add(patience)); err != nil {
			c.ended(err)
		}
	}
	c.write.Lock()
	c.write.broken = net.ErrClosed // should it end before its time
	c.write.Unlock()
	<-done
	c.entry.Expect, c.entry.All = greeting+int(c.entry.Sent), true
}

func (c *clientConn) echo(n int) {
	for range n {
		_ = c.send(orderEcho, uint32(messageHeader+c.random.IntN(1000)), messageHeader+c.random.IntN(300), 0)
	}
}

func member(c *clientConn) {
	if c.send(orderJoin, 0, messageHeader, 0) != nil || c.await(greeting+1) != nil {
		return
	}
	if c.watch(time.Duration(5+c.random.IntN(15))*time.Second) != nil {
		return
	}
	c.entry.Expect = greeting + 2
	if c.random.IntN(2) == 0 {
		_ = c.send(orderCast, uint32(c.random.IntN(5000)), messageHeader, 0)
		c.entry.Expect++
	}
	if c.send(orderLeave, 0, messageHeader, 0) != nil || c.await(uint32(c.entry.Expect)) != nil {
		return
	}
	c.entry.All = true
	c.finish()
}

// steadyMember reads broadcasts and measures how late they are.
func steadyMember(c *clientConn, what string) {
	measured := collector{to: &c.l.latencies, key: latencyKey{what: what}}
	defer measured.flush()
	c.onFrame = func(m message) {
		if m.sender == castSender {
			measured.note(m.stamp, time.Duration(now()-m.stamp))
		}
	}
	if c.send(orderJoin, 0, messageHeader, 0) != nil || c.await(greeting+1) != nil {
		return
	}
	for !c.stopped() {
		if c.watch(time.Hour) != nil {
			return
		}
	}
	if c.send(orderLeave, 0, messageHeader, 0) != nil || c.await(greeting+2) != nil {
		return
	}
	c.entry.Expect, c.entry.All = greeting+2, true
	c.finish()
}

func slowMember(c *clientConn) {
	if c.send(orderJoin, 0, messageHeader, 0) != nil || c.await(greeting+1) != nil {
		return
	}
	c.sleep(time.Duration(c.random.Int64N(int64(time.Second))))
	c.trickle()
}

func slowReader(c *clientConn) {
	_ = c.send(orderFlood, 2048, messageHeader, 0)
	c.trickle()
}

// trickle reads as slowly as is configured, then what is there.
func (c *clientConn) trickle() {
	for end := time.Now().Add(c.l.config.SlowFor); time.Now().Before(end); {
		c.deadline = time.Now().Add(patience)
		_ = c.conn.SetReadDeadline(c.deadline)
		if err := c.fill(c.l.config.SlowRate); err != nil {
			c.ended(err)
			return
		}
		for {
			_, ok, err := c.parse()
			if err != nil {
				c.ended(err)
				return
			}
			if !ok {
				break
			}
		}
		if !c.sleep(time.Second) {
			break
		}
	}
	c.finish()
}

// dribble writes a frame a byte at a time, and stops after the first error.
func (c *clientConn) dribble(b []byte, pause time.Duration) (whole bool) {
	for i := range b {
		if c.write.broken != nil || c.raw(b[i:i+1]) != nil {
			return false
		}
		time.Sleep(pause)
	}
	return true
}

func slowWriter(c *clientConn) {
	n := 2 + c.random.IntN(3)
	for i := range n {
		c.write.Lock()
		b := append([]byte(nil), c.frame(orderEcho, uint32(c.random.IntN(2000)), messageHeader+c.random.IntN(100), 0)...)
		c.write.Unlock()
		if !c.dribble(b, time.Duration(1+c.random.IntN(8))*time.Millisecond) {
			break
		}
		c.entry.Sent++
		if c.await(greeting+1+uint32(i)) != nil {
			return
		}
	}
	c.entry.Expect, c.entry.All = greeting+n, true
	c.finish()
}

// endless is the beginning of a frame that does not get done.
var endless = binary.BigEndian.AppendUint32(nil, 1000<<8|frameData)

func (c *clientConn) never(pause time.Duration) {
	_ = c.raw(endless[:2])
	_ = c.raw(endless[2:])
	for range 500 {
		if c.raw([]byte{0}) != nil {
			break
		}
		// Look whether it has ended, without answering heartbeats in the
		// middle of a frame.
		if _, err := c.receive(time.Now().Add(pause)); err != nil {
			if c.ended(err); c.entry.End != endStuck {
				return
			}
			c.entry.End, c.entry.Err = "", ""
		}
	}
	c.drain()
}

func slowBeginner(c *clientConn) {
	c.honest = false
	c.never(200 * time.Millisecond)
}

func slowFramer(c *clientConn) {
	c.echo(1)
	if c.await(greeting+1) == nil {
		c.honest = false
		c.never(200 * time.Millisecond)
	}
}

func halfCloser(c *clientConn) {
	c.entry.Expect = greeting
	for range 1 + c.random.IntN(12) {
		switch c.random.IntN(5) {
		case 0, 1:
			c.echo(1)
			c.entry.Expect++
		case 2:
			n := 1 + c.random.IntN(20)
			_ = c.send(orderBurst, uint32(n), messageHeader, 0)
			c.entry.Expect += n
		case 3:
			_ = c.send(orderOwned, uint32(c.random.IntN(20<<10)), messageHeader, 0)
			c.entry.Expect++
		case 4:
			_ = c.send(orderTask, uint32(c.random.IntN(100)), messageHeader, 0)
			c.entry.Expect++
		}
	}
	c.entry.All = true
	c.finish()
}

func resetter(c *clientConn) {
	n := c.random.IntN(10)
	c.echo(n)
	if c.random.IntN(2) == 0 && c.await(greeting+uint32(n)) != nil {
		return
	}
	_ = c.raw(endless)
	c.sleep(time.Duration(c.random.IntN(20)) * time.Millisecond)
	c.reset()
}

func flood(c *clientConn) {
	if c.random.IntN(4) == 0 {
		c.echo(1)
	}
	c.sleep(time.Duration(c.random.IntN(200)) * time.Millisecond)
	if c.random.IntN(2) == 0 {
		c.reset()
	}
}

func oversized(c *clientConn) {
	c.echo(1)
	if c.await(greeting+1) != nil {
		return
	}
	_ = c.raw([]byte{0xff, 0xff, 0xff, frameData})
	c.drain()
}

func random(c *clientConn) {
	c.honest = false
	b := make([]byte, 1+c.random.IntN(20<<10))
	for i := range b {
		b[i] = byte(c.random.Uint32())
	}
	if c.random.IntN(2) == 0 && c.target == 0 {
		c.echo(1)
	}
	_ = c.raw(b)
	deadline := time.Now().Add(15 * time.Second)
	for {
		if _, err := c.receive(deadline); err != nil {
			if c.ended(err); c.entry.End == endStuck {
				c.entry.End = endLeft // it was not told why it should end
				c.reset()
			}
			return
		}
	}
}

func blocker(c *clientConn) {
	n := 1 + c.random.IntN(4)
	for range n {
		_ = c.send(orderBlock, uint32(20+c.random.IntN(400)), messageHeader, 0)
	}
	c.entry.Expect, c.entry.All = greeting+n, true
	c.finish()
}

func fails(c *clientConn, how ...order) {
	n := c.random.IntN(4)
	c.echo(n)
	if c.await(greeting+uint32(n)) != nil {
		return
	}
	_ = c.send(how[c.random.IntN(len(how))], 0, messageHeader, 0)
	c.drain()
}

func never(c *clientConn) {
	if c.l.nevers.Add(1) <= c.l.config.Nevers {
		_ = c.send(orderNever, 0, messageHeader, 0)
		if c.await(greeting+1) != nil {
			return
		}
	}
	c.finish()
}

func dismissed(c *clientConn, how order) {
	n := c.random.IntN(20)
	c.echo(n)
	_ = c.send(how, 0, messageHeader, 0)
	if how == orderClose {
		c.entry.Expect, c.entry.All = greeting+n+1, true
	}
	c.drain()
}

func pauser(c *clientConn) {
	_ = c.send(orderPause, uint32(100+c.random.IntN(1500)), messageHeader, 0)
	if c.await(greeting+1) != nil {
		return
	}
	n := 10 + c.random.IntN(100)
	c.echo(n)
	c.entry.Expect, c.entry.All = greeting+1+n, true
	c.finish()
}

func silentLiar(c *clientConn) {
	c.honest = false
	c.echo(1)
	c.drain()
}

func talkingLiar(c *clientConn) {
	c.honest = false
	for range 200 {
		if c.send(orderEcho, messageHeader, messageHeader, 0) != nil {
			break
		}
		_, err := c.receive(time.Now().Add(300 * time.Millisecond))
		if err == nil {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		if c.ended(err); c.entry.End != endStuck {
			return
		}
		c.entry.End, c.entry.Err = "", ""
	}
	c.drain()
}

func loopBlocker(c *clientConn) {
	_ = c.send(orderBlockLoop, uint32(100+c.random.IntN(700)), messageHeader, 0)
	c.entry.Expect, c.entry.All = greeting+1, true
	c.finish()
}
