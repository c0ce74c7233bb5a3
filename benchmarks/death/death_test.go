//go:build linux

package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/internal/lack"
	"github.com/pulsewheel/pulsewheel/internal/leak"
	"github.com/pulsewheel/pulsewheel/internal/netns"
)

// mainVar makes the test binary the program under test.
const mainVar = "PULSEWHEEL_DEATH_MAIN"

// The children of the tests' driver are this binary.
func TestMain(m *testing.M) {
	if childMain() {
		os.Exit(0)
	}
	if os.Getenv(mainVar) != "" {
		main()
		os.Exit(0)
	}
	leak.Main(m)
}

func faultByName(t *testing.T, name string) *fault {
	t.Helper()
	for _, f := range faults() {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no fault %q", name)
	return nil
}

// Every pair of fault and detector has an expectation that can be met and can
// be missed, and every fault is seen by all detectors together.
func TestExpectations(t *testing.T) {
	for _, f := range faults() {
		for _, d := range detectors() {
			e := expect(f, d)
			if e.Blind != "" {
				if d.Name == together {
					t.Errorf("%s: cannot be found", f.Name)
				}
				continue
			}
			if len(e.Reasons) == 0 || len(e.Diagnoses) == 0 || e.Within < d.Within {
				t.Errorf("%s, %s: %+v", f.Name, d.Name, e)
			}
			for _, r := range e.Reasons {
				if r == engine.Unknown || r == engine.PeerClosed || r == engine.Local {
					t.Errorf("%s, %s: would take %v for right", f.Name, d.Name, r)
				}
			}
			if slices.Contains(e.Diagnoses, engine.Undiagnosed) && d.Name != idleLimit {
				t.Errorf("%s, %s: would take no diagnosis for right", f.Name, d.Name)
			}
		}
	}
}

// Each forged end is noticed for what is wrong with it, and one with which
// nothing is wrong is not.
func TestJudge(t *testing.T) {
	const second = int64(time.Second)
	const from, to = 100 * second, 101 * second
	right := func(d *detector, at time.Duration) End {
		return End{Place: Place{3, d.Name}, At: from + int64(at), Reason: engine.HeartbeatLost, Diagnosis: engine.HostGone, Stalled: 7 * time.Second}
	}
	limit := detectorByName(strict).Within + tick + 20*time.Millisecond + 2*time.Second + time.Second
	for _, tt := range []struct {
		name  string
		fault string
		forge func(ends []End) []End
		says  string // "": nothing is wrong
	}{
		{"nothing", "cut", func(e []End) []End { return e }, ""},
		{"found in the last moment", "cut", func(e []End) []End { e[0].At = from + int64(limit); return e }, ""},
		{"found too late", "cut", func(e []End) []End { e[0].At = from + int64(limit) + 1; return e }, "1 too late"},
		{"late, but for a stall", "cut", func(e []End) []End {
			e[0].At, e[0].Stalled = from+int64(limit+time.Second), 8*time.Second
			return e
		}, ""},
		{"not found", "cut", func(e []End) []End { return e[1:] }, "1 not found"},
		{"suspected before", "cut", func(e []End) []End { e[0].At = from - 1; return e }, "1 false verdicts"},
		{"one wrong reason of a hundred", "cut", func(e []End) []End { e[0].Reason = engine.PeerReset; return e }, ""},
		{"two wrong reasons", "cut", func(e []End) []End { e[0].Reason, e[1].Reason = engine.PeerReset, engine.Idle; return e }, "2 wrong reasons"},
		{"two wrong diagnoses", "cut", func(e []End) []End { e[0].Diagnosis, e[1].Diagnosis = engine.Hung, engine.CutOneWay; return e }, "2 wrong diagnoses"},
		{"slower than the preset", "cut", func(e []End) []End {
			e[0].At = from + int64(9*time.Second+3*time.Second+20*time.Millisecond) + 1
			e[0].Stalled = 7 * time.Second
			return e
		}, "the preset says"},
		{"nobody", "cut", func([]End) []End { return nil }, "100 not found"},
	} {
		f, d := faultByName(t, tt.fault), detectorByName(strict)
		x := newCell(f, d, expect(f, d))
		var ends []End
		for i := range 100 {
			ends = append(ends, right(d, time.Duration(i)*10*time.Millisecond+4*time.Second))
		}
		x.judge(100, tt.forge(ends), strike{
			from: from, to: to, until: 200 * second, lag: 20 * time.Millisecond, stalled: map[string]time.Duration{strict: 5 * time.Second},
		})
		got := x.problems()
		if (got == "") != (tt.says == "") || !strings.Contains(got, tt.says) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.says)
		}
		table := table{config: newTableConfig(1, true), cells: []*cell{x}}
		if text := table.markdown(machine.Facts{}); strings.Contains(text, "**") != (tt.says != "") {
			t.Errorf("%s: the report says\n%s", tt.name, text)
		}
		if (len(table.broken()) > 0) != (tt.says != "") {
			t.Errorf("%s: broken is %q", tt.name, table.broken())
		}
	}
}

// A detector that cannot see a fault must see nothing, and a cell that nobody
// ran is not fulfilled.
func TestJudgeBlind(t *testing.T) {
	f, d := faultByName(t, "frozen"), detectorByName(keepAlive)
	x := newCell(f, d, expect(f, d))
	if got := x.problems(); got != "nothing was run" {
		t.Errorf("not run: %q", got)
	}
	s := strike{from: 1, to: 2, until: 1 << 40, stalled: map[string]time.Duration{}}
	x.judge(20, nil, s)
	if got := x.problems(); got != "" {
		t.Errorf("nothing seen: %q", got)
	}
	x.judge(20, []End{{At: 3, Reason: engine.KernelTimeout}}, s)
	if got := x.problems(); got != "1 false verdicts" {
		t.Errorf("something seen: %q", got)
	}
}

func TestControl(t *testing.T) {
	for says, c := range map[string]control{
		"":                                {Planned: 2, Answered: 2},
		"1 of 2 were answered at the end": {Planned: 2, Answered: 1},
		"1 false verdicts, as by x: y":    {Planned: 2, Answered: 2, Suspects: []End{{Place: Place{Detector: "x"}, Err: "y"}}},
		"clients left: HeartbeatLost":     {Planned: 2, Answered: 2, Left: "HeartbeatLost"},
	} {
		if got := c.problems(); got != says {
			t.Errorf("%q, want %q", got, says)
		}
	}
}

// privileged skips a test where network namespaces are not permitted.
func privileged(t *testing.T) {
	t.Helper()
	if err := netns.Permitted(); err != nil {
		lack.Skip(t, err)
	}
}

// A small table, for real: what the detectors see of a cut cable, of one that is
// cut one way, and of a stopped process is what is promised.
func TestTable(t *testing.T) {
	privileged(t)
	c := &tableConfig{
		Faults: []string{"cut", "cut-to", "frozen"}, Detectors: []string{realtime, idleLimit, userTimeout, drainRate},
		Rounds: 1, Conns: 10, Kernel: 2, Parallel: 3, Control: 5, progress: io.Discard,
	}
	found, err := c.run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if broken := found.broken(); len(broken) > 0 {
		t.Errorf("broken:\n\t%s", strings.Join(broken, "\n\t"))
	}
	if text := found.markdown(machine.Facts{}); strings.Count(text, "| ok |") != 12 {
		t.Errorf("the report says\n%s", text)
	}
}

// A run that is interrupted leaves no namespace, and reports nothing.
func TestInterrupt(t *testing.T) {
	privileged(t)
	cmd := exec.Command(os.Args[0], "-smoke", "-faults", "cut")
	cmd.Env = append(os.Environ(), mainVar+"=1")
	var said strings.Builder
	cmd.Stdout = &said
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	seen := ""
	for buf := make([]byte, 1024); !strings.Contains(seen, "cable cut"); {
		n, err := stderr.Read(buf)
		if seen += string(buf[:n]); err != nil {
			t.Fatalf("it never got so far: %q, %v", seen, err)
		}
	}
	if len(namespaces(t, cmd.Process.Pid)) == 0 {
		t.Error("there are no namespaces while it runs")
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	rest, _ := io.ReadAll(stderr)
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %v: %s", err, rest)
	}
	if said.Len() > 0 {
		t.Errorf("it reported %s", said.String())
	}
	if left := namespaces(t, cmd.Process.Pid); len(left) > 0 {
		t.Errorf("it left the namespaces %q", left)
	}
}

// namespaces returns those that a process has made.
func namespaces(t *testing.T, pid int) (names []string) {
	t.Helper()
	entries, err := os.ReadDir("/run/netns")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), fmt.Sprintf("pulsewheel-%d-", pid)) {
			names = append(names, e.Name())
		}
	}
	return names
}

// native encodes frames as they go over the wire.
func native(t *testing.T, frames ...codec.Kind) (wire []byte) {
	t.Helper()
	format, err := codec.Native{}.Codec()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range frames {
		if kind == codec.Ping {
			wire = format.AppendPing(wire, codec.Beat{Stamp: 7, HasStamp: true})
		} else if wire, err = format.Append(wire, kind, []byte("news")); err != nil {
			t.Fatal(err)
		}
	}
	return wire
}

// What tshark prints is read as it is meant.
func TestParsePacket(t *testing.T) {
	wire := native(t, codec.Ping, codec.Data, codec.Ping)
	p, err := parsePacket("1790000000.000123456\t10.0.1.2\t7000\t40001\t4294967295\t0x0018\t" + hex.EncodeToString(wire) + "\t")
	if err != nil {
		t.Fatal(err)
	}
	if !p.fromServer || p.server != 7000 || p.client != 40001 || p.seq != 1<<32-1 || p.flags != 0x18 || p.keepAlive ||
		!p.at.Equal(time.Unix(1790000000, 123456)) || p.pings() != 2 {
		t.Errorf("%+v, %d pings", p, p.pings())
	}
	p, err = parsePacket("1790000000.5\t10.0.2.2\t40001\t7000\t1\t0x0010\t\t1")
	if err != nil || p.fromServer || p.server != 7000 || p.client != 40001 || !p.keepAlive || p.at.Nanosecond() != 5e8 || p.pings() != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, line := range []string{"", "a\tb\tc\td\te\tf\tg\th", "1.5\t10.0.1.2\t70000\t1\t1\t0x1\t\t"} {
		if _, err := parsePacket(line); err == nil {
			t.Errorf("%q was read", line)
		}
	}
}

// wireAt is a packet of a forged capture, so many ms after its beginning.
func wireAt(t *testing.T, ms int, client uint16, fromServer bool, frames ...codec.Kind) packet {
	return packet{at: captureBegin.Add(time.Duration(ms) * time.Millisecond), server: 7000, client: client, fromServer: fromServer, payload: native(t, frames...)}
}

var captureBegin = time.Unix(1790000000, 0)

// Pings that come in step, or not at all, are noticed.
func TestJudgeSpread(t *testing.T) {
	uniform := func() (all []packet) {
		for i := range 1000 {
			all = append(all, wireAt(t, i, uint16(i), true, codec.Ping))
		}
		return all
	}
	for _, tt := range []struct {
		name         string
		forge        func(all []packet) []packet
		even, within bool
	}{
		{"even", func(all []packet) []packet { return all }, true, true},
		{"one tenth is missing", func(all []packet) []packet { return all[100:] }, false, true},
		{"a tenth has a quarter more", func(all []packet) []packet {
			for i := range 25 {
				all[4*i].at = captureBegin.Add(550 * time.Millisecond)
			}
			return all
		}, false, true},
		{"all in step", func(all []packet) []packet {
			for i := range all {
				all[i].at = captureBegin.Add(550 * time.Millisecond)
			}
			return all
		}, false, false},
		{"too few", func(all []packet) []packet {
			return slices.DeleteFunc(all, func(p packet) bool { return p.client%2 == 0 })
		}, false, false},
		{"nothing", func([]packet) []packet { return nil }, false, false},
		{"data is no ping", func(all []packet) []packet {
			for i := range all[:100] {
				all[i].payload = native(t, codec.Data)
			}
			return all
		}, false, true},
	} {
		x := &captured{bins: make(map[string][]int)}
		x.judgeSpread(tt.forge(uniform()), "forged", captureBegin, time.Second, 1000, even)
		x.judgeSpread(tt.forge(uniform()), "forged", captureBegin, time.Second, 1000, withinRate)
		if x.checks[0].Holds != tt.even || x.checks[1].Holds != tt.within || (len(x.broken()) == 0) != (tt.even && tt.within) {
			t.Errorf("%s: %+v", tt.name, x.checks)
		}
	}
}

// Who speaks too seldom, or is kept from it by what it hears, or speaks in
// between what it says, is noticed.
func TestJudgeSpeech(t *testing.T) {
	const seconds = 10
	story := func(ping, hear, say int) (all []packet) { // so many ms apart; 0: never
		for c := range smallGroup {
			for ms := 1; ms < seconds*1000; ms++ {
				if ping > 0 && ms%ping == 0 {
					all = append(all, wireAt(t, ms, uint16(c), true, codec.Ping))
				}
				if hear > 0 && ms%hear == 0 {
					all = append(all, wireAt(t, ms, uint16(c), false, codec.Data))
				}
				if say > 0 && ms%say == 0 {
					all = append(all, wireAt(t, ms, uint16(c), true, codec.Data))
				}
			}
		}
		return all
	}
	for _, tt := range []struct {
		group           string
		ping, hear, say int
		holds           bool
	}{
		{quiet, 1010, 0, 0, true},
		{quiet, 1200, 0, 0, false},
		{quiet, 900, 0, 0, false},
		{quiet, 0, 0, 0, false},
		{listening, 1010, 200, 0, true},
		{listening, 0, 200, 0, false},
		{listening, 2000, 200, 0, false},
		{talking, 0, 0, 400, true},
		{talking, 1000, 0, 400, false},
		{talking, 0, 0, 0, false},
	} {
		x := &captured{}
		x.judgeSpeech(story(tt.ping, tt.hear, tt.say), tt.group, 7000, captureBegin, captureBegin.Add(seconds*time.Second))
		if x.checks[0].Holds != tt.holds {
			t.Errorf("%s, %+v: %+v", tt.group, tt, x.checks[0])
		}
	}
}

// Probes that come too early or late, too often or too seldom, are noticed.
func TestJudgeProbes(t *testing.T) {
	type when struct{ lone, first, second, third, reset int } // s after the client was last heard; 0: not at all
	for _, tt := range []struct {
		name string
		when when
		ends int
		says string // the check that does not hold; "": all do
	}{
		{"as configured", when{5, 5, 10, 15, 20}, smallGroup, ""},
		{"the first too soon", when{5, 4, 9, 14, 19}, smallGroup, "Idle after"},
		{"one while well is late", when{6, 5, 10, 15, 20}, smallGroup, "Idle after"},
		{"further apart", when{5, 5, 12, 17, 22}, smallGroup, "an Interval apart"},
		{"one too few", when{5, 5, 10, 0, 15}, smallGroup, "Count probes"},
		{"no end", when{5, 5, 10, 15, 0}, smallGroup, "gives up"},
		{"an end too soon", when{5, 5, 10, 15, 16}, smallGroup, "gives up"},
		{"not told", when{5, 5, 10, 15, 20}, 0, "KernelTimeout"},
	} {
		var all []packet
		for c := range uint16(smallGroup) {
			probe := func(at int) {
				if at > 0 {
					p := wireAt(t, 1000*at, c, true)
					p.keepAlive = true
					all = append(all, p)
				}
			}
			all = append(all, wireAt(t, 0, c, false))
			probe(tt.when.lone)
			all = append(all, wireAt(t, 1000*tt.when.lone, c, false))
			last := tt.when.lone
			for _, at := range []int{tt.when.first, tt.when.second, tt.when.third} {
				if at > 0 {
					probe(last + at)
				}
			}
			if tt.when.reset > 0 {
				p := wireAt(t, 1000*(last+tt.when.reset), c, true)
				p.flags = flagRST
				all = append(all, p)
			}
		}
		var ends []End
		for range tt.ends {
			ends = append(ends, End{Place: Place{2, probed}, Reason: engine.KernelTimeout})
		}
		x := &captured{}
		x.judgeProbes(all, 7000, captureBegin.Add(7*time.Second), ends)
		broken := strings.Join(x.broken(), "\n")
		if (broken == "") != (tt.says == "") || !strings.Contains(broken, tt.says) {
			t.Errorf("%s: broken is %q, want %q", tt.name, broken, tt.says)
		}
	}
}

// A bound that is not the engine's own is noticed.
func TestAsPromised(t *testing.T) {
	promise := engine.Promise{Detectors: []engine.Detector{
		{By: "IdleRead", Within: limitOfSilence + tick}, {By: "KeepAlive", Within: 6 * time.Second},
	}}
	if err := detectorByName(idleLimit).asPromised(promise); err != nil {
		t.Error(err)
	}
	if err := detectorByName(keepAlive).asPromised(promise); err == nil {
		t.Error("a keepalive that takes a second longer was let pass")
	}
	if err := detectorByName(strict).asPromised(promise); err == nil {
		t.Error("a detector of which nothing is promised was let pass")
	}
}
