package engine_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// readNative reads one frame.
func readNative(c net.Conn) (codec.Kind, []byte, error) {
	var header [4]byte
	if _, err := io.ReadFull(c, header[:]); err != nil {
		return 0, nil, err
	}
	payload := make([]byte, int(binary.BigEndian.Uint32(header[:])>>8))
	_, err := io.ReadFull(c, payload)
	return codec.Kind(header[3]), payload, err
}

// Lent payloads, copied ones and heartbeats share a stream to a peer that reads
// in fits and starts: every message arrives whole and in order, no heartbeat
// cuts one in two, and each payload is given back once, and not before it can be
// overwritten.
func TestSendOwnedInOrder(t *testing.T) {
	const count = 600
	released := new(atomic.Int64)
	opened := new(conns)
	cfg := listenOne(engine.Handler{Open: opened.open}, heartbeat.Config{Interval: 20 * time.Millisecond, Misses: 1000, Retry: 20 * time.Millisecond})
	cfg.Backlog.High = 8 << 20
	srv := serve(t, cfg)
	peer := rawDial(t, srv)
	if err := peer.SetReadBuffer(readBuffer); err != nil {
		t.Fatal(err)
	}
	c := opened.wait(t, 1)[0]
	owned := 0
	go func() {
		for i := range count {
			size := 4 + (i*7919)%(64<<10)
			payload := numberedPayload(i, size)
			for {
				var err error
				if i%3 == 0 {
					err = c.Send(payload)
				} else {
					err = c.SendOwned(payload, func() {
						clear(payload) // whatever is still to be written would be garbled
						released.Add(1)
					})
				}
				if err == nil {
					break
				}
				if err != engine.ErrBacklog {
					t.Error(err)
					return
				}
				time.Sleep(time.Millisecond)
			}
		}
	}()
	for i := range count {
		if i%3 != 0 {
			owned++
		}
	}
	next, pings := 0, 0
	for next < count {
		kind, payload, err := readNative(peer)
		if err != nil {
			t.Fatal(err)
		}
		switch kind {
		case codec.Ping:
			pings++
			write(t, peer, frame(t, codec.Pong, payload))
		case codec.Data:
			if !isNumbered(payload, next) {
				t.Fatalf("message %d is not the next, or garbled", next)
			}
			next++
			if next%50 == 0 {
				time.Sleep(50 * time.Millisecond)
			}
		}
	}
	eventually(t, "every payload is given back", func() bool { return released.Load() == int64(owned) })
	if pings == 0 {
		t.Error("no heartbeat came between the messages")
	}
}

// Whatever becomes of a connection, a lent payload is given back exactly once,
// on the loop and never within the call; one that was not taken is not.
func TestSendOwnedIsGivenBack(t *testing.T) {
	big := make([]byte, 8<<20)
	for name, end := range map[string]func(*testing.T, *engine.Server, *engine.Conn, *net.TCPConn){
		"abort": func(t *testing.T, _ *engine.Server, c *engine.Conn, _ *net.TCPConn) {
			if err := c.Abort(); err != nil {
				t.Error(err)
			}
		},
		"reset": func(t *testing.T, _ *engine.Server, _ *engine.Conn, peer *net.TCPConn) {
			_ = peer.SetLinger(0)
			_ = peer.Close()
		},
		"shutdown": func(t *testing.T, srv *engine.Server, _ *engine.Conn, _ *net.TCPConn) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_ = srv.Shutdown(ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			released := new(atomic.Int64)
			inCall := new(atomic.Bool)
			cs := newCloses()
			opened := new(conns)
			cfg := listenOne(engine.Handler{Open: opened.open, Close: cs.note}, heartbeat.Config{})
			cfg.Backlog.High = 64 << 20
			cfg.Listeners[0].Codec = codec.Native{MaxPayload: 1<<24 - 1}
			srv := serve(t, cfg)
			peer := rawDial(t, srv)
			c := opened.wait(t, 1)[0]
			const lent = 4 // more than kernel buffers take of a peer that reads nothing
			for range lent {
				inCall.Store(true)
				err := c.SendOwned(big, func() {
					if inCall.Load() {
						t.Error("given back within the call")
					}
					released.Add(1)
				})
				inCall.Store(false)
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := c.SendOwned(make([]byte, 17<<20), func() { released.Add(1000) }); err == nil {
				t.Error("a payload above the codec's maximum was taken")
			}
			end(t, srv, c, peer)
			ce := cs.next(t).err.(*engine.CloseError)
			eventually(t, "all are given back", func() bool { return released.Load() == lent })
			if ce.Evidence.Unsent == 0 || ce.Evidence.Unsent > lent {
				t.Errorf("%d of %d messages are reported unsent", ce.Evidence.Unsent, lent)
			}
			if err := c.SendOwned(big, func() { released.Add(1000) }); err == nil {
				t.Error("a closed connection took a payload")
			}
			time.Sleep(20 * time.Millisecond)
			if n := released.Load(); n != lent {
				t.Errorf("given back %d times, lent %d", n, lent)
			}
			if held := srv.Stats().Held; held != 0 {
				t.Errorf("%d bytes are still counted as held", held)
			}
		})
	}
}
