package engine_test

import (
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// What has become of a peer is told from its reason and from what its kernel
// acknowledges: here every peer has a kernel that does. The ways to die that
// take a network are in the namespace tests.
func TestDiagnosis(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs to know what the peer's kernel has acknowledged")
	}
	for name, x := range map[string]struct {
		reason engine.Reason
		want   engine.Diagnosis
		live   heartbeat.Config
		limits engine.Limits
		open   func(*engine.Conn) error
		peer   func(*testing.T, *net.TCPConn)
	}{
		"a peer that says nothing": {reason: engine.HeartbeatLost, want: engine.Hung, live: quick},
		"a peer that says nothing, and to whom nothing was said": {
			reason: engine.Idle, want: engine.Undiagnosed, live: heartbeat.Config{IdleRead: 200 * time.Millisecond},
		},
		"a peer whose buffers are full": {
			reason: engine.HeartbeatLost, want: engine.NotReading, live: quick,
			open: func(c *engine.Conn) error {
				for c.Send(make([]byte, 64<<10)) == nil {
				}
				return nil
			},
			limits: engine.Limits{Backlog: engine.Backlog{High: 4 << 20}, SendBuffer: 64 << 10},
		},
		"a peer that talks and never answers": {
			reason: engine.Deaf, want: engine.NotReading, live: quick,
			peer: func(t *testing.T, c *net.TCPConn) {
				message := frame(t, codec.Data, []byte("la la la"))
				for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(20 * time.Millisecond) {
					if _, err := c.Write(message); err != nil {
						return
					}
				}
			},
		},
		"a peer that ends": {
			reason: engine.PeerClosed, want: engine.Ended,
			peer: func(_ *testing.T, c *net.TCPConn) { _ = c.Close() },
		},
		"a peer that aborts": {
			reason: engine.PeerReset, want: engine.Reset,
			peer: func(_ *testing.T, c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() },
		},
	} {
		t.Run(name, func(t *testing.T) {
			cs := newCloses()
			cfg := listenOne(engine.Handler{Open: x.open, Close: cs.note}, x.live)
			cfg.Limits = x.limits
			srv := serve(t, cfg)
			c := rawDial(t, srv)
			if x.peer != nil {
				x.peer(t, c)
			}
			ce := cs.reason(t, x.reason)
			if got := ce.Diagnosis(); got != x.want {
				t.Errorf("diagnosis %v, want %v: %v %+v", got, x.want, ce, ce.Evidence)
			}
		})
	}
}
