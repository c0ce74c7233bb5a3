package heartbeat_test

import (
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

func TestRoles(t *testing.T) {
	const (
		auto   = heartbeat.Auto
		both   = heartbeat.Both
		query  = heartbeat.Query
		answer = heartbeat.Answer
		beacon = heartbeat.Beacon
	)
	for _, tt := range []struct {
		name     string
		traits   heartbeat.Traits
		ask      heartbeat.Role
		interval time.Duration
		speak    time.Duration

		role     heartbeat.Role
		queries  bool
		answers  bool
		announce time.Duration
	}{
		{"directed", directed, auto, sec, 0, both, true, true, sec},
		{"directed, rare speech", directed, auto, sec, 3 * sec, both, true, true, 3 * sec},
		{"directed, no speech", directed, auto, sec, -1, both, true, true, 0},
		{"directed, off", directed, auto, 0, 0, both, false, true, 0},
		{"directed, speech only", directed, auto, 0, sec, both, false, true, sec},
		{"directed, query", directed, query, sec, 0, query, true, false, sec},
		{"directed, answer", directed, answer, sec, 0, answer, false, true, 0},
		{"directed, beacon", directed, beacon, sec, 0, beacon, false, false, sec},
		{"client pings", pingOnly, auto, sec, 0, query, true, false, sec},
		{"server answers", pongOnly, auto, sec, 0, answer, false, true, 0},
		{"server answers without heartbeat", pongOnly, auto, 0, 0, answer, false, true, 0},
		{"echo asks", echoAsker, auto, sec, 0, query, true, false, sec},
		{"echo answers", echoAnswerer, auto, sec, 0, answer, false, true, 0},
		{"echo either, asked off", echoEither, auto, 0, 0, answer, false, true, 0},
		{"echo either, query", echoEither, query, sec, 0, query, true, false, sec},
		{"echo either, answer", echoEither, answer, sec, 0, answer, false, true, 0},
		{"beacons", beacons, auto, sec, 0, beacon, false, false, sec},
		{"beacon only", beaconOnly, auto, 0, sec, beacon, false, false, sec},
		{"listens", listenOnly, auto, sec, 0, answer, false, false, 0},
		{"beacons, listens only", beacons, answer, sec, 0, answer, false, false, 0},
		{"nothing", mute, auto, 0, 0, answer, false, false, 0},
	} {
		c := heartbeat.Config{Interval: tt.interval, Speak: tt.speak, Role: tt.ask}
		if tt.interval > 0 {
			c.Misses = 2
		}
		p := planFor(t, c, tt.traits)
		if p.Role() != tt.role || p.Queries() != tt.queries || p.Answers() != tt.answers ||
			p.Announce() != tt.announce || p.Speaks() != (tt.announce > 0) {
			t.Errorf("%s: role %v, queries %v, answers %v, speaks %v, announces %v",
				tt.name, p.Role(), p.Queries(), p.Answers(), p.Speaks(), p.Announce())
		}
		if p.Config() != c || p.Traits() != tt.traits {
			t.Errorf("%s: the plan was made from something else: %+v, %+v", tt.name, p.Config(), p.Traits())
		}
		if !tt.traits.Directed && p.Answers() && (p.Queries() || p.Speaks()) {
			t.Errorf("%s: would echo for ever", tt.name)
		}
	}
}

// TestNoEcho looks at every combination: no accepted plan pings and answers in a
// format where the two look alike, and none does what the format forbids.
func TestNoEcho(t *testing.T) {
	for bits := range 32 {
		tr := heartbeat.Traits{MayPing: bits&1 != 0, PeerMayPing: bits&2 != 0, Directed: bits&4 != 0,
			Answered: bits&8 != 0, Stamped: bits&16 != 0}
		for role := heartbeat.Auto; role <= heartbeat.Beacon; role++ {
			for _, interval := range []time.Duration{0, sec} {
				for _, speak := range []time.Duration{-1, 0, sec} {
					c := heartbeat.Config{Interval: interval, Speak: speak, Role: role}
					if interval > 0 {
						c.Misses = 1
					}
					p, err := c.Plan(tr)
					if err != nil {
						continue
					}
					pings := p.Queries() || p.Speaks()
					switch {
					case pings && !tr.MayPing,
						p.Queries() && !tr.Answered,
						p.Answers() && !(tr.Answered && tr.PeerMayPing),
						pings && p.Answers() && !tr.Directed,
						role != heartbeat.Auto && p.Role() != role:
						t.Errorf("%+v for %+v: role %v, queries %v, speaks %v, answers %v",
							c, tr, p.Role(), p.Queries(), p.Speaks(), p.Answers())
					}
				}
			}
		}
	}
}

func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		heartbeat.Auto.String():       "Auto",
		heartbeat.Both.String():       "Both",
		heartbeat.Query.String():      "Query",
		heartbeat.Answer.String():     "Answer",
		heartbeat.Beacon.String():     "Beacon",
		heartbeat.Role(9).String():    "Role(9)",
		heartbeat.None.String():       "None",
		heartbeat.Ping.String():       "Ping",
		heartbeat.Lost.String():       "Lost",
		heartbeat.Deaf.String():       "Deaf",
		heartbeat.Idle.String():       "Idle",
		heartbeat.Action(99).String(): "Action(99)",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for a, want := range map[heartbeat.Action]bool{
		heartbeat.None: false, heartbeat.Ping: false, heartbeat.Lost: true, heartbeat.Deaf: true, heartbeat.Idle: true,
	} {
		if a.Verdict() != want {
			t.Errorf("%v.Verdict() = %v", a, !want)
		}
	}
}
