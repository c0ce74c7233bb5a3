package engine_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// handles are the latest connections that were opened, most of them closed since.
type handles struct {
	latest [64]atomic.Pointer[handle]
	next   atomic.Uint64
}

// handle is a connection, and the token of the peer whose it is, or was.
type handle struct {
	c     *engine.Conn
	token []byte
}

func (hs *handles) add(h *handle) {
	hs.latest[hs.next.Add(1)%uint64(len(hs.latest))].Store(h)
}

// Numbers of descriptors come back at once, on the same loop and on another,
// while handles of what had them before are used, and while what had come for
// them waits to be served: no connection ever gets another one's bytes, posts or
// end.
func TestDescriptorReuse(t *testing.T) {
	want := int64(100_000)
	if testing.Short() {
		want = 10_000
	}
	const callers, hammers = 8, 2
	var (
		recent          handles
		owners          sync.Map // token → ID of the one connection that it came on
		slots           [1 << 12]atomic.Uint64
		reused, crossed atomic.Int64 // numbers that came back; on the other loop
		opened, closed  atomic.Int64
		stale           atomic.Int64 // calls of handles that had been closed
	)
	cfg := listenOne(engine.Handler{
		Open: func(c *engine.Conn) error {
			opened.Add(1)
			// A connection's descriptor is the lower part of its ID.
			slot := uint64(c.ID()) & (1<<24 - 1)
			if slot >= uint64(len(slots)) {
				t.Errorf("descriptor %d", slot)
				return nil
			}
			switch before := slots[slot].Swap(uint64(1 + c.Loop().Index())); {
			case before == 0:
			case before != uint64(1+c.Loop().Index()):
				crossed.Add(1)
				fallthrough
			default:
				reused.Add(1)
			}
			return nil
		},
		Message: func(c *engine.Conn, p []byte) {
			token := binary.BigEndian.Uint64(p)
			if id, known := owners.LoadOrStore(token, c.ID()); known && id != c.ID() {
				t.Errorf("connection %#x gets what was sent to %#x", c.ID(), id)
			}
			if c.Get() == nil {
				h := &handle{c, append([]byte(nil), p...)}
				c.Set(h)
				recent.add(h)
			} else if mine := c.Get().(*handle).token; string(mine) != string(p) {
				t.Errorf("connection %#x gets % x and had % x", c.ID(), p, mine)
			}
			_ = c.Send(p)
		},
		Close: func(c *engine.Conn, err error) {
			closed.Add(1)
			if r := engine.ReasonOf(err); r == engine.ProtocolError || r == engine.Unknown || r == engine.Panic {
				t.Error(err)
			}
		},
	}, heartbeat.Config{})
	cfg.Loops = 2
	srv := serve(t, cfg)
	address := srv.Addrs()[0][len("tcp://"):]

	stop := make(chan struct{})
	var hammering sync.WaitGroup
	for i := range hammers {
		hammering.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 3))
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				h := recent.latest[random.IntN(len(recent.latest))].Load()
				if h == nil {
					runtime.Gosched()
					continue
				}
				switch err := h.c.Send(h.token); {
				case errors.Is(err, engine.ErrClosed):
					stale.Add(1)
				case err != nil && !errors.Is(err, engine.ErrBacklog):
					t.Error(err)
				}
				switch random.IntN(8) {
				case 0:
					_ = h.c.Close()
				case 1:
					_ = h.c.Abort()
				case 2:
					_ = h.c.Post(func() {
						if h.c.Get().(*handle) != h {
							t.Error("a function runs for another connection")
						}
					})
				case 3:
					_ = h.c.Pause()
					_ = h.c.Resume()
				case 4:
					if c := srv.Conn(h.c.ID()); c != nil && c != h.c {
						t.Error("an ID finds another connection")
					}
					_ = h.c.LocalAddr()
				}
				if n%8 == 0 {
					time.Sleep(100 * time.Microsecond) // others need the processor, too
				}
			}
		})
	}

	var tokens atomic.Uint64
	var calling sync.WaitGroup
	for range callers {
		calling.Go(func() {
			for !t.Failed() && reused.Load() < want {
				token := tokens.Add(1)
				hello := frame(t, codec.Data, binary.BigEndian.AppendUint64(nil, token))
				if err := call(address, hello, token); err != nil {
					t.Error(err)
				}
			}
		})
	}
	calling.Wait()
	close(stop)
	hammering.Wait()
	eventually(t, "all connections are closed", func() bool { return srv.Stats().Total.Open == 0 })
	if o, c := opened.Load(), closed.Load(); o != c {
		t.Errorf("%d opened, %d closed", o, c)
	}
	if crossed.Load() == 0 || stale.Load() == 0 {
		t.Errorf("%d numbers came back on the other loop, %d calls of closed handles: it proves nothing", crossed.Load(), stale.Load())
	}
	t.Logf("%d numbers came back, %d on the other loop; %d calls of closed handles", reused.Load(), crossed.Load(), stale.Load())
}

// call is one short life of a peer: it sends its token, checks that nothing else
// comes back, and resets the connection, so that its port is free at once.
func call(address string, hello []byte, token uint64) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.(*net.TCPConn).SetLinger(0)
	if _, err := c.Write(hello); err != nil {
		return ended(err)
	}
	if token%4 == 0 {
		return nil // it goes while its message is under way
	}
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	got := make([]byte, len(hello))
	for range 1 + token%3 {
		if _, err := io.ReadFull(c, got); err != nil {
			return ended(err)
		}
		if string(got) != string(hello) {
			return fmt.Errorf("a connection that sent % x got % x", hello, got)
		}
		if _, err := c.Write(hello); err != nil {
			return ended(err)
		}
	}
	return nil
}

// ended returns nil for the errors of a connection that the server ended.
func ended(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return nil
}
