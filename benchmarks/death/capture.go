//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
	"github.com/pulsewheel/pulsewheel/internal/netns"
)

// captureConfig is a look at what goes over the wire.
type captureConfig struct{ Smoke bool }

const (
	probed    = "keepalive 5s, 5s, 3"
	quiet     = "speaks, and nobody says anything"
	listening = "speaks, and hears something every 200ms"
	talking   = "speaks, and says something every 400ms"
	spread    = "asks"
	marching  = "asks only who says nothing"
	paced     = "asks only who says nothing, within a rate"

	speakEvery = time.Second
	// tolerance is by how much the number of pings in a tenth of an interval
	// may differ from the mean.
	tolerance = 0.2
	tenths    = 10
	// spare is how much more than its share of pings the rate permits: as much
	// as Limits.PingRate says that it needs.
	spare = 0.25
)

var probesOnWire = engine.KeepAlive{Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3}

// interval is how often those of spread and marching are asked.
func (c captureConfig) interval() time.Duration {
	if c.Smoke {
		return 5 * time.Second
	}
	return 10 * time.Second
}

// conns is how many of them there are.
func (c captureConfig) conns() int {
	if c.Smoke {
		return 4000
	}
	return 10_000
}

// captureDetectors are what the wire is watched for. Smoke and full runs differ
// in the interval alone, so there is one of each.
func captureDetectors() (list []*detector) {
	list = []*detector{
		{Name: probed, KeepAlive: probesOnWire, Limits: noDrain},
		{Name: quiet, Liveness: heartbeat.Config{Speak: speakEvery}, Limits: noDrain},
		{Name: listening, Liveness: heartbeat.Config{Speak: speakEvery}, Limits: noDrain, Talk: 200 * time.Millisecond},
		{Name: talking, Liveness: heartbeat.Config{Speak: speakEvery}, Limits: noDrain, Say: 400 * time.Millisecond},
	}
	for _, smoke := range []bool{false, true} {
		c := captureConfig{Smoke: smoke}
		list = append(list,
			&detector{Name: c.name(spread), Liveness: heartbeat.Config{Interval: c.interval(), Misses: 3}, Limits: noDrain},
			&detector{Name: c.name(marching), Liveness: dataCounts(c.interval()), Limits: noDrain},
			&detector{Name: c.name(paced), Liveness: dataCounts(c.interval()), Limits: c.withinRate()})
	}
	return list
}

// dataCounts asks only those of whom nothing was heard: they may come in step.
func dataCounts(interval time.Duration) heartbeat.Config {
	return heartbeat.Config{Interval: interval, Misses: 3, Confirm: -1, Speak: -1}
}

// rate is how many pings a second are permitted where there is a rate.
func (c captureConfig) rate() int {
	return int(float64(c.conns()) / c.interval().Seconds() * (1 + spare))
}

func (c captureConfig) withinRate() engine.Limits {
	l := noDrain
	l.MaxConns, l.PingRate = c.conns(), c.rate()
	return l
}

func (c captureConfig) name(kind string) string {
	return fmt.Sprintf("%s every %v", kind, c.interval())
}

// check is one thing that the capture must show.
type check struct {
	Name   string `json:"name"`
	Holds  bool   `json:"holds"`
	Judged bool   `json:"judged"`
	Detail string `json:"detail"`
}

// captured is what a capture has shown.
type captured struct {
	config captureConfig
	tshark string
	checks []check
	bins   map[string][]int
	order  []string
	took   time.Duration
}

func (x *captured) add(ok bool, name, format string, args ...any) {
	x.checks = append(x.checks, check{name, ok, true, fmt.Sprintf(format, args...)})
}

func (c captureConfig) run(ctx context.Context) (findings, error) {
	x, err := c.capture(ctx)
	if x == nil {
		return nil, err
	}
	return x, err
}

// stage is the hosts of a capture: a server, and clients.
type stage struct {
	captureConfig
	dir    string
	net    *netns.Net
	server *child
	client *child
	addrs  map[string]Listening
	begun  time.Time
}

func (s *stage) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(s.begun).Seconds(), fmt.Sprintf(format, args...))
}

func (c captureConfig) capture(ctx context.Context) (_ *captured, err error) {
	version, err := exec.CommandContext(ctx, "tshark", "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("a capture needs tshark: %w", err)
	}
	s := &stage{captureConfig: c, begun: time.Now()}
	if s.dir, err = os.MkdirTemp("", "pulsewheel-death-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	if s.net, err = netns.New(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.net.Close()) }()
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	addr, err := s.net.AddHost(serverHost)
	if err != nil {
		return nil, err
	}
	if _, err := s.net.AddHost("clients"); err != nil {
		return nil, err
	}
	if s.server, err = start(life, s.net, serverHost, "server", s.dir); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.server.stop()) }()
	if s.client, err = start(life, s.net, "clients", "client", s.dir); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.client.stop()) }()
	listen := []string{probed, quiet, listening, talking, c.name(spread), c.name(marching), c.name(paced)}
	if err := s.server.call("Listen", ServerSetup{addr, listen}, &s.addrs); err != nil {
		return nil, err
	}

	x := &captured{config: c, bins: make(map[string][]int)}
	x.tshark, _, _ = strings.Cut(string(version), " (") // what follows names a build
	if err := s.small(ctx, life, x); err != nil {
		return nil, err
	}
	if err := s.crowd(ctx, life, x); err != nil {
		return nil, err
	}
	x.took = time.Since(s.begun)
	return x, nil
}

// recording is a capture under way.
type recording struct {
	file string
	proc *proc.Process
}

// record begins to capture on the server's link what a filter lets through.
func (s *stage) record(life context.Context, name, filter string) (*recording, error) {
	r := &recording{file: filepath.Join(s.dir, name)}
	p, err := proc.Start(life, proc.Command{
		Argv: s.net.Command(serverHost, "tshark", "-q", "-n", "-i", "eth0", "-B", "64", "-s", "256", "-f", filter, "-w", r.file),
		CPU:  proc.AnyCPU,
	})
	if err != nil {
		return nil, err
	}
	r.proc = p
	// The file has its header once the capture runs.
	for deadline := time.Now().Add(startLimit); ; time.Sleep(20 * time.Millisecond) {
		if info, err := os.Stat(r.file); err == nil && info.Size() > 0 {
			return r, nil
		}
		if err := p.Wait(0); err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, fmt.Errorf("tshark ended: %w", errors.Join(err, io.ErrUnexpectedEOF))
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(errors.New("tshark does not begin to capture"), p.Stop())
		}
	}
}

// packet is what is asked of a captured packet.
type packet struct {
	at         time.Time
	fromServer bool
	server     uint16 // the ports
	client     uint16
	seq        uint32
	flags      int
	payload    []byte
	keepAlive  bool
}

const flagRST = 0x4

// packets ends the capture, and returns what it has caught. serverHost is number
// 1.
func (r *recording) packets(ctx context.Context) ([]packet, error) {
	if err := r.proc.Stop(); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "tshark", "-n", "-r", r.file, "-o", "tcp.relative_sequence_numbers:FALSE", "-o", "tcp.desegment_tcp_streams:FALSE",
		"-T", "fields", "-E", "separator=/t", "-e", "frame.time_epoch", "-e", "ip.src", "-e", "tcp.srcport", "-e", "tcp.dstport",
		"-e", "tcp.seq", "-e", "tcp.flags", "-e", "tcp.payload", "-e", "tcp.analysis.keep_alive", "-Y", "tcp && !icmp")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("tshark: %w: %s", err, complaint.String())
	}
	var list []packet
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		p, err := parsePacket(lines.Text())
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// parsePacket reads a line of tshark's.
func parsePacket(line string) (p packet, err error) {
	f := strings.Split(line, "\t")
	if len(f) != 8 {
		return p, fmt.Errorf("tshark said %q, of which 8 fields were expected", line)
	}
	number := func(text string, bits int) uint64 {
		n, e := strconv.ParseUint(text, 0, bits)
		err = errors.Join(err, e)
		return n
	}
	sec, frac, _ := strings.Cut(f[0], ".")
	whole, e1 := strconv.ParseInt(sec, 10, 64)
	nanos, e2 := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
	err = errors.Join(e1, e2)
	p.at = time.Unix(whole, nanos)
	p.fromServer = f[1] == "10.0.1.2"
	from, to := uint16(number(f[2], 16)), uint16(number(f[3], 16))
	if p.server, p.client = from, to; !p.fromServer {
		p.server, p.client = to, from
	}
	p.seq = uint32(number(f[4], 32))
	p.flags = int(number(f[5], 31))
	p.payload, _ = hex.DecodeString(strings.ReplaceAll(f[6], ":", ""))
	p.keepAlive = f[7] != ""
	return p, err
}

// pings counts the pings in a packet of the server's.
func (p *packet) pings() (n int) {
	for b := p.payload; len(b) >= 4; {
		size := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		if codec.Kind(b[3]) == codec.Ping {
			n++
		}
		if len(b) < 4+size {
			break
		}
		b = b[4+size:]
	}
	return n
}

// portOf returns the server's port of a detector.
func (s *stage) portOf(name string) uint16 {
	_, port, _ := strings.Cut(strings.TrimPrefix(s.addrs[name].Addr, "tcp4://"), ":")
	n, _ := strconv.ParseUint(port, 10, 16)
	return uint16(n)
}

const (
	smallGroup = 20
	// spoken is for how long those that speak are watched.
	spoken = 10 * time.Second
)

// small looks at the kernel's probes, and at who speaks when.
func (s *stage) small(ctx, life context.Context, x *captured) error {
	rec, err := s.record(life, "small.pcap", "tcp")
	if err != nil {
		return err
	}
	groups := []string{probed, quiet, listening, talking}
	var to []Calls
	for _, name := range groups {
		to = append(to, Calls{s.addrs[name].Addr, smallGroup, detectorByName(name).Talk})
	}
	if err := s.client.call("Connect", to, &None{}); err != nil {
		return err
	}
	s.say("%d connections each that are probed, and that speak", smallGroup)
	from := time.Now().Add(2 * speakEvery)
	if err := wait(ctx, 2*speakEvery+spoken); err != nil {
		return err
	}
	until := time.Now()
	s.say("the path is cut")
	cut := time.Now()
	if err := s.net.Break("clients", netns.Cut); err != nil {
		return err
	}
	most := probesOnWire.Idle + probesOnWire.Interval*time.Duration(probesOnWire.Count)
	if err := wait(ctx, most*11/10+2*time.Second); err != nil {
		return err
	}
	caught, err := rec.packets(ctx)
	if err != nil {
		return err
	}
	var st State
	if err := s.server.call("Look", 0, &st); err != nil {
		return err
	}
	x.judgeProbes(caught, s.portOf(probed), cut, st.Ends)
	for _, name := range groups[1:] {
		x.judgeSpeech(caught, name, s.portOf(name), from, until)
	}
	if err := s.net.Mend("clients", netns.Cut); err != nil {
		return err
	}
	return s.leave()
}

// leave ends all connections.
func (s *stage) leave() error {
	if err := s.server.call("Dismiss", int(s.net.Addr("clients").As4()[2]), &None{}); err != nil {
		return err
	}
	return s.client.call("Leave", None{}, &None{})
}

// within reports whether d is from want to want and a tenth.
func within(d, want time.Duration) bool { return d >= want-want/100 && d <= want*11/10 }

// judgeProbes looks at the kernel's probes: while the peer answers, one each
// time that nothing was heard for Idle; then Count of them, and the end.
func (x *captured) judgeProbes(all []packet, port uint16, cut time.Time, ends []End) {
	type story struct {
		heard  time.Time // the client, last before the cut
		lone   []time.Duration
		probes []time.Time // after heard
		reset  time.Time
	}
	stories := make(map[uint16]*story)
	for _, p := range all {
		if p.server != port {
			continue
		}
		st := stories[p.client]
		if st == nil {
			st = &story{}
			stories[p.client] = st
		}
		switch {
		case !p.fromServer:
			st.heard, st.probes = p.at, nil
		case p.keepAlive:
			if p.at.Before(cut) {
				st.lone = append(st.lone, p.at.Sub(st.heard))
			}
			st.probes = append(st.probes, p.at)
		case p.flags&flagRST != 0 && st.reset.IsZero():
			st.reset = p.at
		}
	}
	var idle, gaps, last []time.Duration
	counts := make(map[int]int)
	for _, st := range stories {
		idle = append(idle, st.lone...)
		counts[len(st.probes)]++
		before := st.heard
		for i, at := range st.probes {
			if i == 0 {
				idle = append(idle, at.Sub(before))
			} else {
				gaps = append(gaps, at.Sub(before))
			}
			before = at
		}
		if !st.reset.IsZero() {
			last = append(last, st.reset.Sub(before))
		}
	}
	ok := func(list []time.Duration, want time.Duration, least int) bool {
		return len(list) >= least && !slices.ContainsFunc(list, func(d time.Duration) bool { return !within(d, want) })
	}
	n := smallGroup
	x.add(len(stories) == n && ok(idle, probesOnWire.Idle, 2*n), "the kernel's first probe goes out Idle after the peer was last heard, within a tenth",
		"%d connections: %s, configured %v", len(stories), extent(idle), probesOnWire.Idle)
	x.add(ok(gaps, probesOnWire.Interval, n*(probesOnWire.Count-1)), "further probes an Interval apart, within a tenth", "%s, configured %v", extent(gaps), probesOnWire.Interval)
	x.add(len(counts) == 1 && counts[probesOnWire.Count] == n, "there are Count probes after the peer was last heard", "connections by number of probes: %v, configured %d", counts, probesOnWire.Count)
	x.add(ok(last, probesOnWire.Interval, n), "an Interval after the last of them the kernel gives up, and resets", "%s, configured %v", extent(last), probesOnWire.Interval)
	timeouts := 0
	for _, e := range ends {
		if e.Detector == probed && e.Reason == engine.KernelTimeout {
			timeouts++
		}
	}
	x.add(timeouts == n, "and the engine says KernelTimeout", "%d of %d", timeouts, n)
}

// extent says how many there are, and from where to where they go.
func extent(list []time.Duration) string {
	if len(list) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d from %.3f s to %.3f s", len(list), slices.Min(list).Seconds(), slices.Max(list).Seconds())
}

// judgeSpeech looks at when a side speaks: when it has said nothing itself for
// an interval, whatever it hears.
func (x *captured) judgeSpeech(all []packet, name string, port uint16, from, until time.Time) {
	pings := make(map[uint16][]time.Time)
	heard, said := 0, 0
	for i := range all {
		p := &all[i]
		if p.server != port || p.at.Before(from) || p.at.After(until) || len(p.payload) == 0 {
			continue
		}
		if pings[p.client] == nil {
			pings[p.client] = []time.Time{}
		}
		n := p.pings()
		switch {
		case !p.fromServer && codec.Kind(p.payload[3]) == codec.Data:
			heard++
		case p.fromServer && n == 0 && codec.Kind(p.payload[3]) == codec.Data:
			said++
		}
		if p.fromServer && n > 0 {
			pings[p.client] = append(pings[p.client], p.at)
		}
	}
	var gaps []time.Duration
	total := 0
	for _, at := range pings {
		total += len(at)
		for i := 1; i < len(at); i++ {
			gaps = append(gaps, at[i].Sub(at[i-1]))
		}
	}
	detail := fmt.Sprintf("%d connections for %v: %d data frames heard, %d said, %d pings, gaps: %s",
		len(pings), until.Sub(from).Round(time.Second/10), heard, said, total, extent(gaps))
	if name == talking {
		x.add(len(pings) == smallGroup && said > 0 && total == 0, "who says something often enough sends no ping", "%s", detail)
		return
	}
	least := smallGroup * (int(until.Sub(from)/speakEvery) - 2)
	spoke := len(pings) == smallGroup && len(gaps) >= least && !slices.ContainsFunc(gaps, func(d time.Duration) bool { return !within(d, speakEvery) })
	if name == listening {
		x.add(spoke && heard > total, "what is heard does not keep a side from speaking: a ping every Speak, within a tenth", "%s", detail)
	} else {
		x.add(spoke && heard == 0, "where nobody says anything a ping goes out every Speak, within a tenth", "%s", detail)
	}
}

// crowd looks at how the pings of many connections are spread.
func (s *stage) crowd(ctx, life context.Context, x *captured) error {
	interval := s.interval()
	connect := func(kind, title string) error {
		s.say("%d connections at once: %s", s.conns(), title)
		return s.client.call("Connect", []Calls{{s.addrs[s.name(kind)].Addr, s.conns(), 0}}, &None{})
	}
	// measure captures an interval's pings, after a time.
	measure := func(kind, title string, after time.Duration, judge judgement) error {
		if err := wait(ctx, after); err != nil {
			return err
		}
		rec, err := s.record(life, fmt.Sprintf("%d.pcap", len(x.order)), fmt.Sprintf("tcp src port %d and tcp[tcpflags] & tcp-push != 0", s.portOf(s.name(kind))))
		if err != nil {
			return err
		}
		from := time.Now().Add(time.Second / 2)
		if err := wait(ctx, interval+time.Second); err != nil {
			return err
		}
		caught, err := rec.packets(ctx)
		if err != nil {
			return err
		}
		x.judgeSpread(caught, title, from, interval, s.conns(), judge)
		return nil
	}
	shout := func(kind string) error {
		s.say("a broadcast that all answer at once")
		return s.server.call("Shout", s.name(kind), &None{})
	}

	for _, title := range []string{"after a mass connect", "after a mass reconnect"} {
		if err := s.leave(); err != nil {
			return err
		}
		if err := connect(spread, title); err != nil {
			return err
		}
		if err := measure(spread, title, interval, even); err != nil {
			return err
		}
	}
	if err := shout(spread); err != nil {
		return err
	}
	if err := measure(spread, "after a broadcast that all answer", interval/2, even); err != nil {
		return err
	}
	for _, y := range []struct {
		kind, title string
		judge       judgement
	}{
		{marching, "after such a broadcast, where data is as good as an answer (Confirm < 0)", none},
		{paced, fmt.Sprintf("after such a broadcast, where data is as good as an answer (Confirm < 0), with a PingRate of %d", s.rate()), withinRate},
	} {
		if err := s.leave(); err != nil {
			return err
		}
		if err := connect(y.kind, y.title); err != nil {
			return err
		}
		if err := wait(ctx, interval); err != nil {
			return err
		}
		if err := shout(y.kind); err != nil {
			return err
		}
		if err := measure(y.kind, y.title, interval/2, y.judge); err != nil {
			return err
		}
	}
	return s.leave()
}

// judgement is what the pings of many connections are held against.
type judgement int

const (
	none       judgement = iota // nothing: they are shown for comparison
	even                        // each tenth has the mean, within the tolerance
	withinRate                  // no tenth has more than the rate permits
)

// judgeSpread counts the pings by tenths of an interval.
func (x *captured) judgeSpread(all []packet, title string, from time.Time, interval time.Duration, conns int, judge judgement) {
	bins := make([]int, tenths)
	for i := range all {
		if at := all[i].at.Sub(from); at >= 0 && at < interval {
			bins[int(at*tenths/interval)] += all[i].pings()
		}
	}
	total := 0
	for _, n := range bins {
		total += n
	}
	mean := float64(total) / tenths
	low, high := float64(slices.Min(bins))/max(mean, 1), float64(slices.Max(bins))/max(mean, 1)
	x.bins[title] = bins
	x.order = append(x.order, title)
	c := check{
		Name: title + ", the pings", Judged: judge != none, Holds: total >= conns*9/10,
		Detail: fmt.Sprintf("%d pings, a tenth has from %.0f %% to %.0f %% of the mean", total, 100*low, 100*high),
	}
	switch judge {
	case even:
		c.Name = fmt.Sprintf("%s the pings of %d connections are spread over the interval: each tenth has the mean, within %.0f %%", title, conns, 100*tolerance)
		c.Holds = c.Holds && low >= 1-tolerance && high <= 1+tolerance
	case withinRate:
		// A ping that is due at the end of a tenth may go out in the next.
		most := float64(conns) / tenths * (1 + spare) * 1.05
		c.Name = fmt.Sprintf("%s, no tenth of an interval has more than that, within 5 %%", title)
		c.Holds = c.Holds && float64(slices.Max(bins)) <= most
	}
	x.checks = append(x.checks, c)
}

func (x *captured) broken() (list []string) {
	for _, c := range x.checks {
		if c.Judged && !c.Holds {
			list = append(list, c.Name+": "+c.Detail)
		}
	}
	return list
}

func (x *captured) markdown(facts machine.Facts) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# What goes over the wire\n\nCaptured on the server's link by %s. Server and clients are processes in network namespaces, joined by a router.\n\n", x.tshark)
	fmt.Fprintf(&b, "| | | |\n| --- | --- | --- |\n")
	for _, c := range x.checks {
		word := "holds"
		if !c.Holds {
			word = "**BROKEN**"
		}
		if !c.Judged {
			word = "not judged"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", c.Name, word, c.Detail)
	}
	fmt.Fprintf(&b, "\nPings by tenths of an interval of %v:\n\n| |%s\n| --- |%s\n", x.config.interval(), tenthTitles(), strings.Repeat(" --- |", tenths))
	for _, title := range x.order {
		fmt.Fprintf(&b, "| %s |", title)
		for _, n := range x.bins[title] {
			fmt.Fprintf(&b, " %d |", n)
		}
		fmt.Fprintln(&b)
	}
	fmt.Fprintf(&b, "\nIt took %v.\n\n%s", x.took.Round(time.Second), facts.Markdown())
	return b.String()
}

func tenthTitles() string {
	var b strings.Builder
	for i := range tenths {
		fmt.Fprintf(&b, " %d |", i+1)
	}
	return b.String()
}

func (x *captured) lines(facts machine.Facts) []any {
	lines := []any{labelled{"facts", facts}, labelled{"setup", x.config}}
	for _, c := range x.checks {
		lines = append(lines, labelled{"check", c})
	}
	for _, title := range x.order {
		lines = append(lines, labelled{"tenths", map[string]any{"when": title, "pings": x.bins[title]}})
	}
	return lines
}
