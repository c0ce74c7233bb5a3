package heartbeat_test

import (
	"flag"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	mutated "github.com/pulsewheel/pulsewheel/internal/mutant"
)

var mutate = flag.String("mutate", "", "run TestMutations for the mutants whose names match this regular expression")

// mutants are mistakes that somebody might make in the package, each a replacement
// of text that occurs once. TestSimulation or one of the other tests must notice.
var mutants = []struct {
	name     string // what is done wrong
	file     string
	old, new string
}{
	// The first ping.
	{"all first pings come at once", "state.go",
		`s.start = add(now, fraction(spread, phase))`,
		`s.start = add(now, fraction(spread, 0))`},
	{"all first pings come an interval late", "state.go",
		`s.start = add(now, fraction(spread, phase))`,
		`s.start = add(now, spread)`},
	{"first pings are spread over Speak alone", "state.go",
		`if p.queries && (spread == 0 || p.interval < spread) {`,
		`if p.queries && spread == 0 {`},
	{"there is no first ping", "state.go",
		`	if spread > 0 {
		s.start`,
		`	if spread < 0 {
		s.start`},
	{"every ping counts as the first", "state.go",
		`		s.start = never // the first ping is out`,
		``},

	// Answers.
	{"an answer does not count as read", "state.go",
		"	s.lastRead = now\n	s.lastAnswer = now\n",
		"	s.lastAnswer = now\n"},
	{"an answer confirms nothing", "state.go",
		"	s.lastRead = now\n	s.lastAnswer = now\n",
		"	s.lastRead = now\n"},
	{"an answer does not end the series", "state.go",
		"	s.endSeries()\n\n	mine :=",
		"	mine :="},
	{"stamps are ignored", "state.go",
		`mine = stamp == s.Stamp()`,
		`mine = true`},
	{"Karn's rule is ignored", "state.go",
		`mine := s.unmatched == 1`,
		`mine := s.unmatched > 0`},
	{"a round trip is measured twice", "state.go",
		"		s.rtt.measured(int64(measured))\n		s.timing = false",
		"		s.rtt.measured(int64(measured))"},
	{"a round trip is measured never", "state.go",
		`	s.timing = true`,
		``},
	{"a ping waits for ever", "state.go",
		"	s.waiting = false\n	if s.unmatched",
		"	if s.unmatched"},
	{"no ping waits", "state.go",
		`	s.waiting = true`,
		``},
	{"answers do not pair off", "state.go",
		`		s.unmatched--`,
		``},
	{"lost pings are waited for", "state.go",
		"	if !s.waiting && sub(now, s.pinged) >= p.retry {\n		s.unmatched = 0\n	}\n",
		``},
	{"the stamp stays", "state.go",
		`	s.pinged = max(s.pinged, now)`,
		``},

	// Pauses.
	{"Excuse does nothing", "state.go",
		"	if d <= 0 {\n		return\n	}\n	s.lastRead",
		"	if d != 0 {\n		return\n	}\n	s.lastRead"},
	{"Excuse forgets what was read", "state.go",
		`	s.lastRead = add(s.lastRead, d)`,
		``},
	{"Excuse forgets the answer", "state.go",
		`	s.lastAnswer = add(s.lastAnswer, d)`,
		``},
	{"Excuse forgets the series", "state.go",
		`		s.start = add(s.start, d)
	}
	s.timing`,
		`	}
	s.timing`},
	{"Excuse excuses from speaking", "state.go",
		`	s.lastRead = add(s.lastRead, d)`,
		"	s.lastRead = add(s.lastRead, d)\n	s.lastWrite = add(s.lastWrite, d)"},
	{"a round trip is measured over a pause", "state.go",
		"	s.timing = false\n}\n\n// PingAt",
		"}\n\n// PingAt"},

	// Hastening.
	{"a series is hastened", "state.go",
		"	if s.asked == 0 {\n		s.start = min(s.start, at)\n	}",
		`	s.start = min(s.start, at)`},
	{"Hasten puts a ping off", "state.go",
		`		s.start = min(s.start, at)`,
		`		s.start = at`},
	{"Hasten does nothing", "state.go",
		`		s.start = min(s.start, at)`,
		``},

	// Series of queries.
	{"a series that has ended keeps its beginning", "state.go",
		"		s.asked = 0\n		s.start = never",
		"		s.asked = 0"},
	{"a series that has ended stays condemned", "state.go",
		"		s.start = never\n		s.condemned = false",
		"		s.start = never"},
	{"data is no answer, whatever Confirm says", "state.go",
		"	if p.anyData && s.asked > 0 && s.lastRead >= s.start {\n		s.endSeries()\n	}\n",
		``},
	{"data is an answer, whatever Confirm says", "state.go",
		"	if p.anyData && s.asked > 0 && s.lastRead >= s.start {\n		s.endSeries()",
		"	if s.asked > 0 && s.lastRead >= s.start {\n		s.endSeries()"},
	{"data of the very turn is no answer", "state.go",
		"	if p.anyData && s.asked > 0 && s.lastRead >= s.start {\n		s.endSeries()",
		"	if p.anyData && s.asked > 0 && s.lastRead > s.start {\n		s.endSeries()"},
	{"data before a series ends it", "state.go",
		"		if p.anyData {\n			s.start = max(s.start, add(s.lastRead, 1)) // or data, which must not end it\n		}\n",
		``},
	{"the first query is older than the answer before it", "state.go",
		`		s.start = max(at+late, s.lastAnswer) // the`,
		`		s.start = at + late // the`},
	{"queries are not sent", "state.go",
		"	if due(ask, now) && s.ask(p, ask, now) {\n		send = true\n	}",
		"	if due(ask, now) {\n		s.ask(p, ask, now)\n	}"},
	{"nobody is asked as long as data comes", "state.go",
		`	return min(s.start, add(s.lastRead, p.interval), after(s.lastAnswer, p.confirm))`,
		`	return min(s.start, add(s.lastRead, p.interval))`},
	{"silence is not asked about", "state.go",
		`	return min(s.start, add(s.lastRead, p.interval), after(s.lastAnswer, p.confirm))`,
		`	return min(s.start, after(s.lastAnswer, max(p.confirm, p.interval*3)))`},
	{"data counts for an interval longer", "state.go",
		`after(s.lastAnswer, p.confirm))`,
		`after(s.lastAnswer, p.confirm+p.interval))`},
	{"the lateness of timers adds up", "state.go",
		"		return add(s.start, mul(int64(s.asked), p.retry))\n	}\n	return min(s.start",
		"		return add(s.pinged, p.retry)\n	}\n	return min(s.start"},
	{"a ping that is out never serves a series", "state.go",
		`		send = !s.waiting || s.pinged <= sub(s.start, p.retry)`,
		`		send = true`},
	{"a ping that is out serves a series however old it is", "state.go",
		`		send = !s.waiting || s.pinged <= sub(s.start, p.retry)`,
		`		send = !s.waiting`},
	{"late polls are not put off", "state.go",
		`	if late < bearable {`,
		`	if bearable > 0 {`},
	{"every lateness puts a series off", "state.go",
		`	if late < bearable {`,
		`	if bearable < 0 {`},
	{"a first query that is late counts from when it was due", "state.go",
		`		bearable = int64(Tick)`,
		`		bearable = p.retry`},
	{"a series that is late is not put off", "state.go",
		`		s.start = add(s.start, late)`,
		``},
	{"a lateness of a Retry is borne", "state.go",
		`	if late < bearable {`,
		`	if late <= bearable {`},
	{"a poll that is too soon comes never again", "state.go",
		"		next = min(next, add(now, p.interval))",
		""},
	{"a poll is due at once", "state.go",
		`	return a, max(next, add(now, 1))`,
		`	return a, next`},
	{"a poll is due too late for the verdict", "state.go",
		`	next = min(s.lostAt(p), s.askAt(p), s.sayAt(p), idle, unused)`,
		`	next = min(s.askAt(p), s.sayAt(p), idle, unused)`},
	{"a poll is due too late for the query", "state.go",
		`	next = min(s.lostAt(p), s.askAt(p), s.sayAt(p), idle, unused)`,
		`	next = min(s.lostAt(p), s.sayAt(p), idle, unused)`},
	{"a poll is due too late for the limits", "state.go",
		`	next = min(s.lostAt(p), s.askAt(p), s.sayAt(p), idle, unused)`,
		`	next = min(s.lostAt(p), s.askAt(p), s.sayAt(p))`},

	// Verdicts.
	{"a miss too few", "state.go",
		`	case int64(s.asked) < p.misses:
		return never
	}
	// By another`,
		`	case int64(s.asked) < p.misses-1:
		return never
	}
	// By another`},
	{"a miss too many", "state.go",
		"	return add(s.start, mul(p.misses, p.retry))\n}",
		"	return add(s.start, mul(p.misses+1, p.retry))\n}"},
	{"tries that the new plan does not want", "state.go",
		"	return add(s.start, mul(p.misses, p.retry))\n}",
		"	return add(s.start, mul(int64(s.asked), p.retry))\n}"},
	{"the read deadline counts from what was written", "state.go",
		`		return after(s.lastRead, p.silence)`,
		`		return after(s.lastWrite, p.silence)`},
	{"the read deadline counts from answers", "state.go",
		`		return after(s.lastRead, p.silence)`,
		`		return after(s.lastAnswer, p.silence)`},
	{"condemned is not set", "state.go",
		`		s.condemned = s.asked > 0`,
		``},
	{"condemned stays with the next query", "state.go",
		"	s.asked++\n	s.condemned = false",
		"	s.asked++"},
	{"of two verdicts, the one that did not try", "state.go",
		`	if due(lost, now) && lost <= idle {`,
		`	if due(lost, now) && lost < idle {`},
	{"of two verdicts, the one due later", "state.go",
		`	if due(lost, now) && lost <= idle {`,
		`	if due(lost, now) {`},
	{"nobody is deaf", "state.go",
		`		return Deaf
	}
	return Lost`,
		`	}
	return Lost`},
	{"everybody is deaf", "state.go",
		"		return Deaf\n	}\n	return Lost",
		"		return Deaf\n	}\n	return Deaf"},
	{"data that was under way makes deaf", "state.go",
		`	grace := p.retry/2 + int64(Tick)`,
		`	grace := int64(0)`},
	{"data of long ago makes deaf", "state.go",
		`	if s.lastRead > max(add(s.start, grace), sub(sub(at, p.interval), grace)) {`,
		`	if s.lastRead > add(s.start, grace) {`},
	{"data of before the query makes deaf", "state.go",
		`	if s.lastRead > max(add(s.start, grace), sub(sub(at, p.interval), grace)) {`,
		`	if s.lastRead > sub(sub(at, p.interval), grace) {`},
	{"who takes data for an answer says deaf", "state.go",
		`	if !p.queries || p.anyData {
		return Lost`,
		`	if !p.queries {
		return Lost`},

	// Speech, and limits.
	{"nothing is said", "state.go",
		`	send := due(say, now)`,
		`	send := false`},
	{"what is read excuses from speaking", "state.go",
		`	at := after(max(s.lastWrite, s.pinged), p.speak)`,
		`	at := after(max(s.lastWrite, s.lastRead, s.pinged), p.speak)`},
	{"what is written does not excuse from speaking", "state.go",
		`	at := after(max(s.lastWrite, s.pinged), p.speak)`,
		`	at := after(s.pinged, p.speak)`},
	{"a ping that the kernel did not take is repeated", "state.go",
		`	at := after(max(s.lastWrite, s.pinged), p.speak)`,
		`	at := after(s.lastWrite, p.speak)`},
	{"a beacon's first ping is not spread", "state.go",
		"		at = min(at, s.start)\n",
		""},
	{"a ping averts no limit on writing", "state.go",
		`	if unused <= min(ask, say) {`,
		`	if unused < never {`},
	{"limits on writing are ignored", "state.go",
		`	if unused <= min(ask, say) {`,
		`	if unused < 0 {`},
	{"IdleWrite looks at what is read", "state.go",
		`after(s.lastWrite, p.idleWrite)`,
		`after(s.lastRead, p.idleWrite)`},
	{"IdleAll does not look at what is written", "state.go",
		`after(max(s.lastRead, s.lastWrite), p.idleAll)`,
		`after(s.lastRead, p.idleAll)`},
	{"IdleAll does not look at what is read", "state.go",
		`after(max(s.lastRead, s.lastWrite), p.idleAll)`,
		`after(s.lastWrite, p.idleAll)`},
	{"IdleRead is ignored", "state.go",
		`	lost, idle := s.lostAt(p), after(s.lastRead, p.idleRead)`,
		`	lost, idle := s.lostAt(p), int64(never)`},

	// What is told.
	{"VerdictAt forgets that data ends a series", "state.go",
		`		s = &ended`,
		`		_ = ended`},
	{"VerdictAt forgets the queries to come", "state.go",
		`		at = add(first, mul(p.misses-int64(s.asked), p.retry))`,
		`		at = first`},
	{"VerdictAt forgets the queries that are out", "state.go",
		"		if s.asked > 0 {\n			at = add(s.start, mul(p.misses, p.retry))\n		}\n",
		``},
	{"a miss is counted while its answer may come", "state.go",
		`		return int(s.asked) - 1`,
		`		return int(s.asked)`},

	// Bounds.
	{"WorstCase forgets late timers", "bounds.go",
		`	return time.Duration(add(worst, int64(Tick)))`,
		`	return time.Duration(worst)`},
	{"WorstCase forgets Confirm", "bounds.go",
		`		worst = add(int64(b.pause), int64(b.tries))`,
		`		worst = add(int64(b.interval), int64(b.tries))`},
	{"WorstCase forgets IdleRead", "bounds.go",
		`	if b.idleRead > 0 && (worst == 0 || int64(b.idleRead) < worst) {`,
		`	if b.idleRead > 0 && worst == 0 {`},
	{"WorstCase is that of IdleRead even if that is longer", "bounds.go",
		`	if b.idleRead > 0 && (worst == 0 || int64(b.idleRead) < worst) {`,
		`	if b.idleRead > 0 {`},
	{"Tolerance forgets late timers", "bounds.go",
		`	return max(0, min(datagram, stream)-Tick)`,
		`	return max(0, min(datagram, stream))`},
	{"Tolerance forgets that copies double their distance", "bounds.go",
		`	stream := (wait - minRTO - 4*rtt) / 2`,
		`	stream := wait - minRTO - 4*rtt`},
	{"Tolerance forgets the least RTO", "bounds.go",
		`	stream := (wait - minRTO - 4*rtt) / 2`,
		`	stream := (wait - 4*rtt) / 2`},
	{"Tolerance forgets round trips of a stream", "bounds.go",
		`	stream := (wait - minRTO - 4*rtt) / 2`,
		`	stream := (wait - minRTO) / 2`},
	{"Tolerance forgets round trips of datagrams", "bounds.go",
		`	datagram := wait - again - 2*rtt`,
		`	datagram := wait - again`},
	{"Tolerance forgets the way to the next query", "bounds.go",
		`	datagram := wait - again - 2*rtt`,
		`	datagram := wait - 0*again - 2*rtt`},
	{"Tolerance takes whoever waits for one that queries", "bounds.go",
		`	again := b.interval // how`,
		`	again := b.retry // how`},
	{"Tolerance forgets IdleRead", "bounds.go",
		`		wait = min(wait, b.idleRead-b.interval)`,
		``},
	{"Tolerance forgets the limits on writing", "bounds.go",
		`			wait = min(wait, b.idleOut-b.interval)`,
		``},
	{"Tolerance forgets that a query is sent late", "bounds.go",
		`	if b.retry < rtt+Tick {`,
		`	if b.retry < rtt {`},

	// Plans.
	{"the read deadline forgets the tries", "plan.go",
		`		p.silence = p.interval + p.misses*p.retry`,
		`		p.silence = p.interval + p.retry`},
	{"Confirm is one interval", "plan.go",
		`		p.confirm = mul(int64(c.confirm()), p.interval)`,
		`		p.confirm = p.interval`},
	{"who only answers does not", "plan.go",
		`answers:   t.Answered && t.PeerMayPing && (role == Both || role == Answer),`,
		`answers:   t.Answered && t.PeerMayPing && role == Both,`},
	{"who only asks answers", "plan.go",
		`answers:   t.Answered && t.PeerMayPing && (role == Both || role == Answer),`,
		`answers:   t.Answered && t.PeerMayPing,`},
	{"Speak has no default", "plan.go",
		`		speak = c.Interval`,
		`		speak = 0`},
	{"who does both does not ask", "plan.go",
		`	queries := c.Interval > 0 && (role == Both || role == Query)`,
		`	queries := c.Interval > 0 && role == Query`},
	{"a beacon asks", "plan.go",
		`	queries := c.Interval > 0 && (role == Both || role == Query)`,
		`	queries := c.Interval > 0 && role != Answer`},
	{"an end without a voice may speak", "plan.go",
		`	if speak > 0 && !role.pings() {`,
		`	if speak < 0 && !role.pings() {`},
	{"both ends of an echo may ask", "plan.go",
		`		case !t.Directed:
			return 0, fault(`,
		`		case t.Directed && !t.MayPing:
			return 0, fault(`},
	{"nobody needs to oblige the peer", "plan.go",
		`	if c.Interval > 0 && !queries && !t.PeerMayPing && `,
		`	if c.Interval < 0 && !queries && !t.PeerMayPing && `},
}

// equivalent are mutants that nobody can tell from the original, and why. They are
// not run.
var equivalent = map[string]string{
	"a series that has ended stays condemned": "condemned is looked at in a series only, and its first query lifts it",
	"who takes data for an answer says deaf":  "data of after the first query has ended the series before reason is asked",
	"VerdictAt forgets the queries that are out": "the next query of a series is due as many Retries after its beginning as " +
		"have been sent, so both ways add up to the same",
}

// TestMutantsApply keeps the mutants up to date: each replaces text that the
// package has once, and has a name of its own.
func TestMutantsApply(t *testing.T) {
	names := map[string]bool{}
	for _, m := range mutants {
		if _, err := mutated.Source(m.file, m.old, m.new); err != nil {
			t.Errorf("%q: %v", m.name, err)
		}
		if names[m.name] {
			t.Errorf("%q is there twice", m.name)
		}
		names[m.name] = true
	}
	for name := range equivalent {
		if !names[name] {
			t.Errorf("%q is equivalent, and no mutant", name)
		}
	}
}

// TestMutations shows that the tests notice mistakes: it builds the package anew
// with each mutant in turn, by an overlay, and runs the simulation, and then the
// other tests if that has noticed nothing.
//
//	go test ./heartbeat -run TestMutations -mutate . -timeout 1h -v
func TestMutations(t *testing.T) {
	if *mutate == "" {
		t.Skip("takes some minutes; run with -mutate .")
	}
	wanted, err := regexp.Compile(*mutate)
	if err != nil {
		t.Fatal(err)
	}
	// run returns what noticed the mutant: the simulation, another test, or nothing.
	run := func(t *testing.T, file, source string) (by, how string) {
		binary := mutated.Build(t, file, source)
		for _, tests := range []struct{ by, which, skip string }{
			{"the simulation", "^TestSimulation$", "^$"},
			{"another test", ".", "^(TestSimulation|TestMutations)$"},
		} {
			out, err := exec.Command(binary, "-test.run", tests.which, "-test.skip", tests.skip, "-test.timeout", "2m",
				"-sim.seeds", "20000", "-sim.keep=false").CombinedOutput()
			if err != nil {
				return tests.by, verdictOn(string(out))
			}
		}
		return "", ""
	}
	t.Run("none", func(t *testing.T) {
		source, err := os.ReadFile("state.go")
		if err != nil {
			t.Fatal(err)
		}
		if by, how := run(t, "state.go", string(source)); by != "" {
			t.Fatalf("the package as it is fails already, by %s: %s", by, how)
		}
	})
	if t.Failed() {
		return
	}
	caught := map[string]int{}
	for _, m := range mutants {
		if !wanted.MatchString(m.name) || equivalent[m.name] != "" {
			continue
		}
		t.Run(strings.ReplaceAll(m.name, " ", "_"), func(t *testing.T) {
			source, err := mutated.Source(m.file, m.old, m.new)
			if err != nil {
				t.Fatal(err)
			}
			by, how := run(t, m.file, source)
			caught[by]++
			if by == "" {
				t.Fatalf("%q survives", m.name)
			}
			t.Logf("%-55s %s: %s", m.name, by, how)
		})
	}
	t.Logf("caught by the simulation: %d, by other tests: %d; survivors: %d", caught["the simulation"], caught["another test"], caught[""])
}

var (
	failedSeed = regexp.MustCompile(`(?m)^\s*simulation_test\.go:\d+: (seed \d+: .*)`)
	failedTest = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)
)

// verdictOn says which seed or test noticed a mutant first, and how.
func verdictOn(output string) string {
	if m := failedSeed.FindStringSubmatch(output); m != nil {
		return m[1]
	}
	if m := failedTest.FindStringSubmatch(output); m != nil {
		return m[1]
	}
	lines := strings.SplitAfter(output, "\n")
	return strings.Join(lines[:min(len(lines), 3)], "")
}
