package heartbeat_test

import (
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// Wire formats that occur, each seen from both sides.
var (
	directed     = heartbeat.Traits{MayPing: true, PeerMayPing: true, Directed: true, Answered: true, Stamped: true}
	pingOnly     = heartbeat.Traits{MayPing: true, Directed: true, Answered: true} // an MQTT client
	pongOnly     = heartbeat.Traits{PeerMayPing: true, Directed: true, Answered: true}
	echoAsker    = heartbeat.Traits{MayPing: true, Answered: true} // the empty frame
	echoAnswerer = heartbeat.Traits{PeerMayPing: true, Answered: true}
	echoEither   = heartbeat.Traits{MayPing: true, PeerMayPing: true, Answered: true}
	beacons      = heartbeat.Traits{MayPing: true, PeerMayPing: true} // BGP, AMQP
	beaconOnly   = heartbeat.Traits{MayPing: true}
	listenOnly   = heartbeat.Traits{PeerMayPing: true}
	mute         = heartbeat.Traits{}
)

const (
	ms   = time.Millisecond
	sec  = time.Second
	long = time.Duration(1<<63 - 1)
)

func planFor(t testing.TB, c heartbeat.Config, tr heartbeat.Traits) *heartbeat.Plan {
	t.Helper()
	p, err := c.Plan(tr)
	if err != nil {
		t.Fatalf("%+v for %+v: %v", c, tr, err)
	}
	return p
}
