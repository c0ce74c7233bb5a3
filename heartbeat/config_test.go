package heartbeat_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/heartbeat"
)

func ExampleConfig() {
	for _, c := range []heartbeat.Config{heartbeat.Relaxed(), heartbeat.Strict(), heartbeat.Realtime()} {
		fmt.Println(c)
	}
	fmt.Println(heartbeat.Config{})
	// Output:
	// Interval=12s Misses=3 Retry=9s WorstCase=39.01s Tolerance=12.99s
	// Interval=2.5s Misses=3 Retry=2s WorstCase=8.51s Tolerance=2.49s
	// Interval=300ms Misses=3 Retry=550ms WorstCase=1.96s Tolerance=315ms
	// Interval=0s Misses=0 Retry=0s WorstCase=none Tolerance=unlimited
}

func ExampleConfig_Plan() {
	// A format whose heartbeat is an empty frame cannot tell a ping from its
	// answer, so not both sides may ping.
	emptyFrame := heartbeat.Traits{MayPing: true, PeerMayPing: true, Answered: true}
	c := heartbeat.Strict()
	_, err := c.Plan(emptyFrame)
	fmt.Println(err)

	c.Role = heartbeat.Query
	p, err := c.Plan(emptyFrame)
	fmt.Println(p.Queries(), p.Answers(), p.Announce(), err)
	// Output:
	// invalid heartbeat configuration: Role: Auto, but a ping and its answer look alike and either side may ping: give one side Query and the other Answer, or they would echo each other for ever
	// true false 2.5s <nil>
}

func ExampleState() {
	c := heartbeat.Config{Interval: time.Second, Misses: 2, Retry: 300 * time.Millisecond}
	plan, err := c.Plan(heartbeat.Traits{MayPing: true, Answered: true, Directed: true, Stamped: true})
	if err != nil {
		panic(err)
	}
	var s heartbeat.State
	now := int64(0)
	s.Start(plan, now, 1<<31-1)
	for {
		action, next := s.Poll(plan, now)
		fmt.Println(time.Duration(now), action, "missed", s.Missed())
		if action.Verdict() {
			break
		}
		if action == heartbeat.Ping {
			s.Wrote(now)
			if now < int64(time.Second) { // the peer answers the first ping only
				s.Answer(plan, now, s.Stamp(), true)
			}
		}
		now = next // a timer would wait until then
	}
	// Output:
	// 0s None missed 0
	// 500ms Ping missed 0
	// 800ms None missed 0
	// 1.5s Ping missed 0
	// 1.8s Ping missed 1
	// 2.1s Lost missed 2
}

// contradictions are configurations that must be refused, with the field that
// the error must name and words it must use.
var contradictions = []struct {
	name   string
	config heartbeat.Config
	traits heartbeat.Traits
	field  string
	says   string
}{
	{"zero misses", heartbeat.Config{Interval: sec}, directed, "Misses", "0, but an Interval needs at least 1"},
	{"negative misses", heartbeat.Config{Interval: sec, Misses: -1}, directed, "Misses", "-1, but an Interval"},
	{"absurd misses", heartbeat.Config{Interval: sec, Misses: 1<<20 + 1, Retry: 10 * ms}, directed, "Misses", "1048577 is above 1048576"},
	{"negative interval", heartbeat.Config{Interval: -sec, Misses: 1}, directed, "Interval", "-1s is negative"},
	{"negative retry", heartbeat.Config{Interval: sec, Misses: 1, Retry: -1}, directed, "Retry", "-1ns is negative"},
	{"negative idle read", heartbeat.Config{IdleRead: -sec}, mute, "IdleRead", "-1s is negative"},
	{"negative idle write", heartbeat.Config{IdleWrite: -sec}, mute, "IdleWrite", "-1s is negative"},
	{"negative idle all", heartbeat.Config{IdleAll: -sec}, mute, "IdleAll", "-1s is negative"},
	{"interval below a tick", heartbeat.Config{Interval: 10*ms - 1, Misses: 1, Retry: sec}, directed, "Interval", "9.999999ms is shorter than the timer tick of 10ms"},
	{"retry below a tick", heartbeat.Config{Interval: sec, Misses: 1, Retry: ms}, directed, "Retry", "1ms is shorter than the timer tick"},
	{"speak below a tick", heartbeat.Config{Speak: ms}, directed, "Speak", "1ms is shorter"},
	{"idle read below a tick", heartbeat.Config{IdleRead: ms}, mute, "IdleRead", "1ms is shorter"},
	{"idle write below a tick", heartbeat.Config{IdleWrite: ms}, mute, "IdleWrite", "1ms is shorter"},
	{"idle all below a tick", heartbeat.Config{IdleAll: ms}, mute, "IdleAll", "1ms is shorter"},
	{"no such role", heartbeat.Config{Role: 77}, directed, "Role", "Role(77) is no role"},

	{"misses alone", heartbeat.Config{Misses: 3}, directed, "Misses", "3, but without an Interval"},
	{"retry alone", heartbeat.Config{Retry: sec}, directed, "Retry", "1s, but without an Interval"},
	{"confirm alone", heartbeat.Config{Confirm: 1}, directed, "Confirm", "1, but without an Interval"},

	{"tries overflow", heartbeat.Config{Interval: sec, Misses: 3, Retry: long / 2}, directed, "Retry", "3 tries of 1281023h53m38.427387903s overflow"},
	{"confirm overflows", heartbeat.Config{Interval: long / 2, Misses: 1, Retry: sec, Confirm: 3}, directed, "Confirm", "3 intervals of"},
	{"the sum overflows", heartbeat.Config{Interval: long - sec, Misses: 1, Retry: sec}, directed, "Interval", "1 tries of 1s overflow"},

	{"idle read within the interval", heartbeat.Config{Interval: 2 * sec, Misses: 3, Retry: sec, IdleRead: sec}, directed, "IdleRead", "1s is shorter than Interval + Retry = 3s"},
	{"idle read within the first query", heartbeat.Config{Interval: 2 * sec, Misses: 3, IdleRead: 4*sec - 1}, directed, "IdleRead", "shorter than Interval + Retry = 4s"},
	{"idle write within the interval", heartbeat.Config{Interval: 2 * sec, Misses: 3, IdleWrite: 2 * sec}, directed, "IdleWrite", "2s does not exceed the Interval of 2s"},
	{"idle all within the interval", heartbeat.Config{Interval: 2 * sec, Misses: 3, IdleAll: sec}, directed, "IdleAll", "1s does not exceed the Interval of 2s"},
	{"idle write before speech", heartbeat.Config{Interval: sec, Misses: 3, Speak: 3 * sec, IdleWrite: 3 * sec}, directed, "IdleWrite", "3s does not exceed Speak, which is 3s"},
	{"idle all before speech", heartbeat.Config{Interval: sec, Misses: 3, Speak: 3 * sec, IdleAll: 2 * sec}, directed, "IdleAll", "2s does not exceed Speak, which is 3s"},
	{"idle write before speech alone", heartbeat.Config{Speak: 3 * sec, IdleWrite: sec}, directed, "IdleWrite", "1s does not exceed Speak"},

	{"interval without heartbeat", heartbeat.Relaxed(), mute, "Interval", "12s, but the codec has no heartbeat"},
	{"speech without heartbeat", heartbeat.Config{Speak: sec}, mute, "Speak", "1s, but the codec has no heartbeat"},
	{"either side may echo", heartbeat.Strict(), echoEither, "Role", "Auto, but a ping and its answer look alike"},
	{"either side may echo speech", heartbeat.Config{Speak: sec}, echoEither, "Role", "look alike"},
	{"asks and echoes", heartbeat.Config{Interval: sec, Misses: 1, Role: heartbeat.Both}, echoEither, "Role", "would echo for ever"},
	{"both, but may not ping", heartbeat.Config{Role: heartbeat.Both}, pongOnly, "Role", "Both, but in this codec this side may not ping"},
	{"both, but is not asked", heartbeat.Config{Role: heartbeat.Both}, pingOnly, "Role", "the peer may not ping"},
	{"both, but beacons", heartbeat.Config{Role: heartbeat.Both}, beacons, "Role", "pings are not answered"},
	{"query, but may not ping", heartbeat.Config{Role: heartbeat.Query}, echoAnswerer, "Role", "Query, but in this codec this side may not ping"},
	{"query, but beacons", heartbeat.Config{Role: heartbeat.Query}, beacons, "Role", "Query, but in this codec pings are not answered"},
	{"answer, but is not asked", heartbeat.Config{Role: heartbeat.Answer}, pingOnly, "Role", "Answer, but in this codec the peer may not ping"},
	{"beacon, but may not ping", heartbeat.Config{Role: heartbeat.Beacon}, listenOnly, "Role", "Beacon, but in this codec this side may not ping"},
	{"answers and speaks", heartbeat.Config{Interval: sec, Misses: 1, Speak: sec, Role: heartbeat.Answer}, directed, "Speak", "in role Answer this side sends no ping"},
	{"may not speak", heartbeat.Config{Speak: sec}, pongOnly, "Speak", "in role Answer this side sends no ping"},
	{"waits for nobody", heartbeat.Relaxed(), beaconOnly, "Interval", "nothing obliges the peer to send"},
	{"waits without speaking", heartbeat.Config{Interval: sec, Misses: 1, Speak: -1, Role: heartbeat.Beacon}, pingOnly, "Interval", "not asked in role Beacon"},
}

func TestContradictions(t *testing.T) {
	for _, tt := range contradictions {
		t.Run(tt.name, func(t *testing.T) {
			p, err := tt.config.Plan(tt.traits)
			if err == nil {
				t.Fatalf("no error; role %v", p.Role())
			}
			if p != nil {
				t.Error("a plan beside the error")
			}
			var f *heartbeat.FieldError
			if !errors.As(err, &f) || !errors.Is(err, heartbeat.ErrConfig) {
				t.Fatalf("%T %v", err, err)
			}
			if f.Field != tt.field || !strings.Contains(f.Problem, tt.says) {
				t.Errorf("got  %v\nwant %s: … %s …", err, tt.field, tt.says)
			}
			if want := "invalid heartbeat configuration: " + f.Field + ": " + f.Problem; err.Error() != want {
				t.Errorf("message %q, want %q", err, want)
			}
		})
	}
}

func TestBarelyConsistent(t *testing.T) {
	for _, tt := range []struct {
		config heartbeat.Config
		traits heartbeat.Traits
	}{
		{heartbeat.Config{Interval: 10 * ms, Misses: 1}, directed},
		{heartbeat.Config{Interval: 2 * sec, Misses: 3, IdleRead: 4 * sec}, directed},
		{heartbeat.Config{Interval: 2 * sec, Misses: 3, IdleWrite: 2*sec + 1, IdleAll: 2*sec + 1}, directed},
		{heartbeat.Config{Interval: sec, Misses: 3, Speak: -1, IdleWrite: sec + 1}, directed},
		{heartbeat.Config{Interval: long - 2*sec, Misses: 1, Retry: sec}, directed},
		{heartbeat.Config{Interval: sec, Misses: 3, Role: heartbeat.Answer}, echoEither},
		{heartbeat.Config{Interval: sec, Misses: 3, Role: heartbeat.Query}, echoEither},
		{heartbeat.Config{Interval: sec, Misses: 3, Role: heartbeat.Beacon}, pingOnly},
		{heartbeat.Config{IdleRead: 10 * ms, IdleWrite: long, IdleAll: long}, mute},
		{heartbeat.Config{Speak: 10 * ms}, beaconOnly},
	} {
		if _, err := tt.config.Plan(tt.traits); err != nil {
			t.Errorf("%+v for %+v: %v", tt.config, tt.traits, err)
		}
	}
}
