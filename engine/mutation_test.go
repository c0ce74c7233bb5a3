package engine_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var mutate = flag.String("mutate", "", "run TestMutations for the mutants whose names match this regular expression")

// mutants are mistakes that somebody might make in the engine, each a
// replacement of text that occurs once. TestSim must notice every one of them.
var mutants = []struct {
	name     string // what is done wrong
	file     string
	old, new string
}{
	// The life of a connection.
	{"Close runs twice", "close.go",
		`l.call(c, func() { h(c, cause) })`,
		`l.call(c, func() { h(c, cause) }); l.call(c, func() { h(c, cause) })`},
	{"Close does not run", "close.go",
		`l.call(c, func() { h(c, cause) })`,
		`_ = h`},
	{"Message before the end is checked", "read.go",
		`for len(b) > 0 && !c.deaf() {`,
		`for len(b) > 0 {`},
	{"Close runs inside the API call", "conn.go",
		"	c.schedule()\n	return nil\n}\n\n// Post runs",
		"	c.schedule()\n	c.loop.finish(c)\n	return nil\n}\n\n// Post runs"},
	{"Send is accepted after Close", "conn.go",
		"	if c.state.Load()&closing != 0 {\n		return ErrClosed\n	}\n	p := c.pending",
		"	p := c.pending"},
	{"reason is lost", "close.go",
		`c.ending = &ending{reason: reason}`,
		`c.ending = &ending{reason: Local}`},
	{"an event's hang-up flag closes", "conn.go",
		"	switch c.phase {\n	case gone:\n	case connecting:",
		"	if ev&poll.Hangup != 0 {\n		c.kill(PeerReset, nil)\n	}\n	switch c.phase {\n	case gone:\n	case connecting:"},
	{"IDs are used again", "table.go",
		`ID(serial.Add(1)<<slotBits | uint64(slot))`,
		`ID(1<<slotBits | uint64(slot))`},
	{"the event of another loop's connection is served", "loop.go",
		"		if c.loop == l {\n			l.turn(c, ev)\n		}\n		return",
		"		l.turn(c, ev)\n		return"},
	{"Stats count an accept as an opening", "accept.go",
		"			ln.backoff = 0\n			l.place",
		"			ln.backoff = 0\n			l.stats.opened.Add(1)\n			l.place"},

	// Input.
	{"the beginning of a frame is dropped", "read.go",
		`c.in = c.in.keep(rest, need)`,
		`c.in = c.in.keep(rest[:0], need)`},
	{"the beginning of a frame is not copied to the front", "read.go",
		`return buffer, copy(buffer, in.b)`,
		`return buffer, len(in.b)`},
	{"a half-closed connection is still watched", "read.go",
		`		c.pauseReading()`,
		``},
	{"an edge-triggered read stops early", "read.go",
		"	if edge && !c.hungry {\n		c.hungry = true\n		l.mail.post(letter{c: c})\n	}",
		``},
	{"output ends with the peer's input", "read.go",
		`		c.beginDrain(PeerClosed, err)`,
		`		c.kill(PeerClosed, err)`},

	// Output.
	{"what others send is not flushed", "conn.go",
		`		c.loop.mail.post(letter{c: c})`,
		``},
	{"room to write is not waited for", "write.go",
		"	want := c.backlog != nil\n",
		"	want := false\n"},
	{"room to write is waited for without need", "write.go",
		"	want := c.backlog != nil\n",
		"	want := c.backlog != nil || c.writing\n"},
	{"a full kernel buffer is never tried again", "conn.go",
		"		c.blocked = false\n	}\n	switch c.phase {",
		"	}\n	switch c.phase {"},
	{"a heartbeat cuts a frame in two", "write.go",
		`	cut := first.boundary(b.off)`,
		`	cut := b.off`},
	{"the rest of a cut buffer loses its frames", "write.go",
		`				rest.ends = append(rest.ends, end-uint32(cut)<<1)`,
		``},
	{"partly written messages count as sent", "buffer.go",
		"		if int(end>>1) > n {\n			count += int(end & 1)",
		"		if int(end>>1) > n+8 {\n			count += int(end & 1)"},
	{"the backlog does not count as unsent", "close.go",
		`		ev.Unsent += c.backlog.messages()`,
		``},
	{"Writable never runs", "write.go",
		`room := c.starved &&`,
		`room := false && c.starved &&`},
	{"our end of stream is not sent", "close.go",
		`c.loop.core.kernel.CloseWrite(int(c.fd))`,
		`error(nil)`},
	{"Close does not wait for the backlog", "close.go",
		`if c.phase != flushing || c.backlog != nil || c.ending.now {`,
		`if c.phase != flushing || c.ending.now {`},
	{"Linger has no end", "close.go",
		`c.timer = l.arm(l.tickOf(l.after(l.linger)), uint32(c.fd))`,
		`c.timer = 0`},

	// The mailbox and Goexit.
	{"a letter does not wake the loop", "mailbox.go",
		"		// It can only fail on a descriptor that is no longer ours.\n		_ = m.wake()",
		""},
	{"letters are served in the wrong order", "mailbox.go",
		`m.letters = append(m.letters, x)`,
		`m.letters = append([]letter{x}, m.letters...)`},
	{"a Goexit loses the letters behind it", "loop.go",
		"func (l *Loop) takeOver() {\n",
		"func (l *Loop) takeOver() {\n	l.batchNext = len(l.batch)\n"},
	{"a Goexit loses the wake-up", "loop.go",
		"	l.mail.rearm()\n	l.mail.poke()\n	if l.poller.EdgeTriggered() {",
		"	if l.poller.EdgeTriggered() {"},
	{"a Goexit loses edges", "loop.go",
		"				l.turn(c, poll.Readable|poll.Writable)\n			}\n			return true\n		})\n		for _, ln",
		"			}\n			return true\n		})\n		for _, ln"},
	{"a Goexit loses the timer", "loop.go",
		"	if l.draining {\n		l.drain(l.linger)\n	}\n	l.advance()",
		"	if l.draining {\n		l.drain(l.linger)\n	}"},
	{"a Goexit counts twice", "loop.go",
		"func (l *Loop) takeOver() {\n",
		"func (l *Loop) takeOver() {\n	l.stats.panics.Add(1)\n"},

	// Liveness and timers.
	{"no verdict", "liveness.go",
		`		c.kill(HeartbeatLost, nil)`,
		``},
	{"no look before the verdict", "liveness.go",
		`	if !c.eof {`,
		`	if !c.eof && false {`},
	{"pings are not answered", "liveness.go",
		`		c.sendBeat(func(dst []byte) []byte { return c.codec.AppendPong(dst, f.Payload) })`,
		``},
	{"pings are not sent", "liveness.go",
		"	if !action.Verdict() {\n		c.ping()",
		"	if !action.Verdict() {\n"},
	{"stalls count against peers", "loop.go",
		`		l.stalled += excluded`,
		``},
	{"stalls count twice", "loop.go",
		`		l.stalled += excluded`,
		`		l.stalled += 2 * excluded`},
	{"reads are not noted", "read.go",
		`		c.heart.Read(l.beat)`,
		``},
	{"deadlines round down", "timer.go",
		`uint64(max((at+l.tick-1)/l.tick, 1))`,
		`uint64(max(at/l.tick, 1))`},
	{"the timer is not moved forward", "timer.go",
		`	if at < l.armed {`,
		`	if at < l.armed && l.armed == never {`},
	{"a stopped timer runs", "timer.go",
		"		if !t.state.CompareAndSwap(timerPending, timerDone) {\n			return\n		}",
		"		t.state.Store(timerDone)"},
	{"the timer is not armed again", "timer.go",
		`		l.wakeAt(int64(min(next, never/uint64(l.tick))) * l.tick)`,
		`		_ = next`},

	// Limits and resources.
	{"MaxConns is off by one", "core.go",
		`if co.open.Add(1) > int64(co.limits.MaxConns) {`,
		`if co.open.Add(1) > int64(co.limits.MaxConns)+1 {`},
	{"a failed accept keeps its place", "accept.go",
		"		l.core.unreserve()\n		switch {",
		"		switch {"},
	{"nobody is told of room under MaxConns", "core.go",
		"	co.open.Add(-1)\n	co.makeRoom()",
		"	co.open.Add(-1)"},
	{"a lack of descriptors does not park the listener", "accept.go",
		"			l.parkForResources(ln, err)\n			return false",
		"			return false"},
	{"a parked listener stays parked", "accept.go",
		"	l.park(ln)\n	l.AfterFunc(ln.backoff, func() { l.unpark(ln); l.accept(ln) })",
		"	l.park(ln)"},
	{"an aborted connection ends accepting", "accept.go",
		"		l.stats.acceptErrors.Add(1)\n	}\n	if l.poller",
		"		l.park(ln)\n		return false\n	}\n	if l.poller"},
	{"listeners are not closed", "accept.go",
		`		_ = l.core.kernel.Close(ln.fd)`,
		``},
	{"a descriptor is not closed", "close.go",
		`		_ = l.core.kernel.Close(fd)`,
		``},
	{"a descriptor is closed twice", "close.go",
		`		_ = l.core.kernel.Close(fd)`,
		"		_ = l.core.kernel.Close(fd)\n		_ = l.core.kernel.Close(fd)"},
	{"a refused dial keeps its place", "client.go",
		"		l.core.unreserve()\n		return refuse(err)",
		"		return refuse(err)"},
	{"a poller is not closed", "loop.go",
		`	_ = l.poller.Close()`,
		``},
	{"shutdown leaves connections", "loop.go",
		"			c.kill(reason, err)\n			l.finish(c)",
		"			_, _ = reason, err"},
	{"shutdown does not notice the last end", "loop.go",
		`if l.draining && l.load.Load() == 0 {`,
		`if l.draining && l.load.Load() < 0 {`},
	{"a dial is not told of its end", "close.go",
		`		d.done(nil, fmt.Errorf("dial %v: %w", d.addr, cause))`,
		``},
}

// TestMutations shows that TestSim notices mistakes: it builds the engine anew
// with each mutant in turn, by an overlay, and lets the seeds find it.
//
//	go test ./engine -run TestMutations -mutate . -timeout 1h -v
func TestMutations(t *testing.T) {
	if *mutate == "" {
		t.Skip("takes some minutes; run with -mutate .")
	}
	wanted, err := regexp.Compile(*mutate)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	seeds := "10000"
	if *simSeeds != 0 {
		seeds = fmt.Sprint(*simSeeds)
	}
	run := func(t *testing.T, name, file, source string) (output string, passed bool) {
		tmp := t.TempDir()
		mutated := filepath.Join(tmp, file)
		if err := os.WriteFile(mutated, []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(dir, file): mutated}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tmp, "overlay.json"), overlay, 0o600); err != nil {
			t.Fatal(err)
		}
		binary := filepath.Join(tmp, "engine.test")
		build := exec.Command("go", "test", "-c", "-overlay", filepath.Join(tmp, "overlay.json"), "-o", binary, ".")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%s does not build: %v\n%s", name, err, out)
		}
		out, err := exec.Command(binary, "-test.run", "^TestSim$", "-test.timeout", "10m", "-sim.seeds", seeds).CombinedOutput()
		return string(out), err == nil
	}
	t.Run("none", func(t *testing.T) {
		source, err := os.ReadFile("loop.go")
		if err != nil {
			t.Fatal(err)
		}
		if out, passed := run(t, "the engine as it is", "loop.go", string(source)); !passed {
			t.Fatalf("the engine as it is fails already:\n%s", firstLines(out, 20))
		}
	})
	if t.Failed() {
		return
	}
	for _, m := range mutants {
		if !wanted.MatchString(m.name) {
			continue
		}
		t.Run(strings.ReplaceAll(m.name, " ", "_"), func(t *testing.T) {
			source, err := os.ReadFile(m.file)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(source), m.old); n != 1 {
				t.Fatalf("%s has the text to replace %d times; bring the mutant up to date:\n%s", m.file, n, m.old)
			}
			out, passed := run(t, m.name, m.file, strings.Replace(string(source), m.old, m.new, 1))
			if passed {
				t.Fatalf("%q survives %s seeds", m.name, seeds)
			}
			t.Logf("%-55s %s", m.name, verdictOn(out))
		})
	}
}

var (
	failedSeed = regexp.MustCompile(`(?m)^\s*sim_test\.go:\d+: seed (\d+), .*\n\s*(.*)`)
	brokenSeed = regexp.MustCompile(`panic: (seed \d+ hangs|seed \d+: .*)`)
)

// verdictOn says which seed noticed a mutant first, and how.
func verdictOn(output string) string {
	first, how := -1, ""
	for _, m := range failedSeed.FindAllStringSubmatch(output, -1) {
		var seed int
		_, _ = fmt.Sscan(m[1], &seed)
		if first < 0 || seed < first {
			first, how = seed, m[2]
		}
	}
	switch {
	case first >= 0:
		return fmt.Sprintf("seed %5d: %s", first, how)
	case brokenSeed.MatchString(output):
		return brokenSeed.FindStringSubmatch(output)[1]
	}
	return "the process breaks: " + firstLines(output, 3)
}

func firstLines(s string, n int) string {
	lines := strings.SplitAfter(s, "\n")
	return strings.Join(lines[:min(n, len(lines))], "")
}
