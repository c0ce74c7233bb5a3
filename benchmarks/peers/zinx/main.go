//go:build linux

// Zinx is github.com/aceld/zinx as a peer.
//
// Its idiom, and why it is the cheapest. Zinx reads on a goroutine a connection
// (a second one waits for its end), and hands what it read down a chain of
// interceptors, the first of which is the decoder. The usual end of the chain
// sends each message through a channel to a pool of workers. Here the decoder
// answers and hands nothing on, which saves the channel and keeps the order; it
// asks for no LengthField, so that it is given all that was read at once, and
// answers all complete frames by one Send. Zinx's own frame decoder would copy
// each frame and leave one Send for each. The pool of requests is on, the log is
// off, and the read buffer is 4 KiB, as bufio's.
//
// Idle timeout: its heartbeat checker, a goroutine and ticker a connection, which
// looks four times within the timeout (HeartbeatMax, in whole seconds, rounded
// up). Sending, which it would do each time, is replaced by nothing.
//
// Room and broadcast: Connection.Send to the others, a blocking write. Its other
// way, SendToQueue, is written every 10 ms only, and drops messages when 1,024
// wait.
//
// Known: what was read is turned to hexadecimal for the debug log even when that
// is off (v1.2.8, StartReader), and the time of the last activity is shared by
// goroutines without a lock.
package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/aceld/zinx/zconf"
	"github.com/aceld/zinx/ziface"
	"github.com/aceld/zinx/zlog"
	"github.com/aceld/zinx/znet"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/control"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/hub"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/listener"
	"github.com/pulsewheel/pulsewheel/benchmarks/peers/internal/wire"
)

// property is the name under which a connection keeps its session.
const property = "session"

const (
	readSize   = 4 << 10
	checks     = 4 // of the heartbeat checker within the timeout
	startLimit = 10 * time.Second
)

type server struct {
	control.Options
	hub *hub.Hub[ziface.IConnection]

	open, closed, verdicts atomic.Int64
}

type session struct {
	rest   wire.Rest
	member *hub.Member[ziface.IConnection]
}

func (s *server) opened(c ziface.IConnection) {
	s.open.Add(1)
	state := new(session)
	if s.Work != control.Echo {
		state.member = &hub.Member[ziface.IConnection]{Conn: c}
		s.hub.Enter(state.member)
	}
	c.SetProperty(property, state)
}

func (s *server) ended(c ziface.IConnection) {
	if state, err := c.GetProperty(property); err == nil {
		if m := state.(*session).member; m != nil {
			s.hub.Leave(m)
		}
	}
	s.open.Add(-1)
	s.closed.Add(1)
}

// GetLengthField asks for what was read as it is.
func (s *server) GetLengthField() *ziface.LengthField { return nil }

// Intercept is the head of the chain.
func (s *server) Intercept(chain ziface.IChain) ziface.IcResp {
	request := chain.Request().(ziface.IRequest)
	c := request.GetConnection()
	if err := s.data(c, request.GetData()); err != nil {
		c.Stop()
	}
	znet.PutRequest(request)
	return nil
}

func (s *server) data(c ziface.IConnection, b []byte) error {
	value, err := c.GetProperty(property)
	if err != nil {
		return err
	}
	state := value.(*session)
	first, frames, err := state.rest.Feed(b)
	if err == nil && len(first) > 0 {
		err = s.frames(c, state, first)
		wire.Free(first)
	}
	if err == nil && len(frames) > 0 {
		err = s.frames(c, state, frames)
	}
	return err
}

func (s *server) frames(c ziface.IConnection, state *session, b []byte) error {
	if state.member != nil {
		return s.hub.Frames(state.member, b, send)
	}
	return c.Send(b)
}

func send(to ziface.IConnection, frames []byte) {
	if to.Send(frames) != nil {
		to.Stop()
	}
}

// watch ends connections that were silent for too long.
func (s *server) watch(z ziface.IServer) {
	z.StartHeartBeatWithOption(s.Idle/checks, &ziface.HeartBeatOption{
		OnRemoteNotAlive: func(c ziface.IConnection) {
			s.verdicts.Add(1)
			c.Stop()
		},
	})
	z.GetHeartBeat().SetHeartbeatFunc(func(ziface.IConnection) error { return nil })
}

// silence is a log that says nothing.
type silence struct{}

func (silence) InfoF(string, ...any)                    {}
func (silence) ErrorF(string, ...any)                   {}
func (silence) DebugF(string, ...any)                   {}
func (silence) InfoFX(context.Context, string, ...any)  {}
func (silence) ErrorFX(context.Context, string, ...any) {}
func (silence) DebugFX(context.Context, string, ...any) {}

func main() {
	s := &server{Options: control.Parse()}
	s.hub = hub.New[ziface.IConnection](s.Work, true)

	// Zinx prints its logo and settings on standard output, which is the driver's.
	stdout := os.Stdout
	os.Stdout = os.Stderr
	zlog.SetLogger(silence{})
	conf := zconf.GlobalObject // a 0 in another one would not count as set
	conf.Mode = zconf.ServerModeTcp
	conf.Host, conf.TCPPort = "127.0.0.1", s.Port
	conf.MaxConn = 1 << 20
	conf.WorkerPoolSize = 0
	conf.IOReadBuffSize = readSize
	conf.RequestPoolMode = true
	conf.HeartbeatMax = int((s.Idle + time.Second - 1) / time.Second)
	z := znet.NewUserConfServer(conf)
	z.SetOnConnStart(s.opened)
	z.SetOnConnStop(s.ended)
	z.SetDecoder(s)
	if s.Idle > 0 {
		s.watch(z)
	}
	z.Start()
	port, err := listener.Wait(startLimit)
	if err != nil {
		control.Fail(fmt.Errorf("zinx: %w", err))
	}
	os.Stdout = stdout
	control.Announce(port)
	control.Serve(func(r *control.Report) {
		r.Open, r.Closed, r.Verdicts = s.open.Load(), s.closed.Load(), s.verdicts.Load()
	})
}
