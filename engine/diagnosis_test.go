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

// What takes a network to happen is concluded from evidence that was met in one:
// benchmarks/death makes it happen, and finds these numbers.
func TestDiagnosisOfNetworks(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name   string
		reason engine.Reason
		ev     engine.Evidence
		want   engine.Diagnosis
	}{
		{"queries into a cut cable", engine.HeartbeatLost, engine.Evidence{
			LastRead: 8500 * ms, LastWrite: 2000 * ms, Missed: 3, Unacked: 48,
			Kernel: engine.KernelView{RTT: ms, Retransmits: 4, Unheeded: 6000 * ms, LastAck: 8400 * ms, InFlight: 1, NotSent: 32},
		}, engine.HostGone},
		{"queries that do not get there, and a peer that sends again what we do not acknowledge", engine.HeartbeatLost, engine.Evidence{
			LastRead: 5222 * ms, LastWrite: 2001 * ms, Missed: 3, Unacked: 48,
			Kernel: engine.KernelView{RTT: ms, Retransmits: 4, Unheeded: 6000 * ms, LastAck: 3200 * ms, InFlight: 1, NotSent: 32},
		}, engine.CutOneWay},
		{"the same, heard in this very moment", engine.HeartbeatLost, engine.Evidence{
			LastRead: 6503 * ms, LastWrite: 2001 * ms, Missed: 3, Unacked: 48,
			Kernel: engine.KernelView{RTT: ms, Retransmits: 4, Unheeded: 6000 * ms, InFlight: 1, NotSent: 32},
		}, engine.CutOneWay},
		{"a hung peer, with data that was sent just now", engine.HeartbeatLost, engine.Evidence{
			LastRead: 8400 * ms, LastWrite: 20 * ms, Missed: 3, Unacked: 8,
			Kernel: engine.KernelView{RTT: 15 * ms, LastAck: 480 * ms, InFlight: 1},
		}, engine.Hung},
		{"a deaf peer, with data that was sent just now", engine.Deaf, engine.Evidence{
			LastRead: 501 * ms, LastWrite: 19 * ms, Missed: 3, Unacked: 8,
			Kernel: engine.KernelView{RTT: 15 * ms, LastAck: 516 * ms, InFlight: 1},
		}, engine.NotReading},
		{"data that is sent again to a deaf peer", engine.Deaf, engine.Evidence{
			LastRead: 501 * ms, LastWrite: 19 * ms, Missed: 3, Unacked: 8,
			Kernel: engine.KernelView{RTT: 15 * ms, Retransmits: 2, Unheeded: 6000 * ms, LastAck: 516 * ms, InFlight: 1},
		}, engine.CutOneWay},
		{"a stream into a cut cable", engine.SlowConsumer, engine.Evidence{
			LastRead: 4438 * ms, LastWrite: 4008 * ms, Unsent: 33, Unacked: 7000,
			Kernel: engine.KernelView{RTT: ms, Retransmits: 4, Unheeded: 3000 * ms, LastAck: 4420 * ms, InFlight: 2, NotSent: 4948},
		}, engine.HostGone},
		{"a stream that does not get there", engine.SlowConsumer, engine.Evidence{
			LastRead: 3432 * ms, LastWrite: 4019 * ms, Unsent: 33, Unacked: 7000,
			Kernel: engine.KernelView{RTT: ms, Retransmits: 4, Unheeded: 3000 * ms, LastAck: 92 * ms, InFlight: 2, NotSent: 4948},
		}, engine.CutOneWay},
		{"a stream that is not read", engine.SlowConsumer, engine.Evidence{
			LastRead: 3432 * ms, LastWrite: 4019 * ms, Unsent: 33, Unacked: 7000,
			Kernel: engine.KernelView{RTT: ms, LastAck: 1800 * ms, NotSent: 7000},
		}, engine.NotReading},
		{"the user timeout of a closed window", engine.KernelTimeout, engine.Evidence{
			LastRead: 5609 * ms, LastWrite: 281 * ms, Unsent: 5, Unacked: -1,
			Kernel: engine.KernelView{RTT: 17 * ms, LastAck: 1868 * ms, NotSent: 101732},
		}, engine.NotReading},
		{"the user timeout of a cut cable", engine.KernelTimeout, engine.Evidence{
			LastRead: 4975 * ms, LastWrite: 472 * ms, Unacked: -1,
			Kernel: engine.KernelView{RTT: 8 * ms, Retransmits: 4, Unheeded: 5000 * ms, LastAck: 5900 * ms, NotSent: 80},
		}, engine.HostGone},
		{"the user timeout of a path cut one way", engine.KernelTimeout, engine.Evidence{
			LastRead: 4975 * ms, LastWrite: 472 * ms, Unacked: -1,
			Kernel: engine.KernelView{RTT: 8 * ms, Retransmits: 4, Unheeded: 5000 * ms, LastAck: 1636 * ms, NotSent: 80},
		}, engine.CutOneWay},
		{"keepalive probes that nobody answers", engine.KernelTimeout, engine.Evidence{
			LastRead: 7041 * ms, LastWrite: 7041 * ms, Unacked: -1,
			Kernel: engine.KernelView{RTT: ms, LastAck: 5088 * ms},
		}, engine.HostGone},
		{"a system that tells nothing", engine.HeartbeatLost, engine.Evidence{LastRead: 8400 * ms, Missed: 3, Unacked: -1}, engine.Undiagnosed},
	} {
		if got := (&engine.CloseError{Reason: tt.reason, Evidence: tt.ev}).Diagnosis(); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
