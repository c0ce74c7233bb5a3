package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/bench"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/meter"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/report"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/result"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/wire"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
	"github.com/pulsewheel/pulsewheel/benchmarks/load"
)

// options is what the command line of run says.
type options struct {
	bench  bench.Bench
	repeat int
	pause  time.Duration
	json   string
	html   string
	label  string
	force  bool
	quiet  bool
	facts  machine.Facts
}

func runCommand(ctx context.Context, args []string, out, progress io.Writer) error {
	o, err := parseRun(args, progress)
	if err != nil {
		return err
	}
	meterLine := newProgress(progress, o.quiet)
	o.bench.Progress = meterLine.show
	file, err := measure(ctx, o, out, meterLine)
	if err != nil {
		return err
	}
	return finish(o, file, out)
}

// measure carries the plan out as often as was asked for.
func measure(ctx context.Context, o *options, out io.Writer, line *progressLine) (result.File, error) {
	file := result.File{Schema: result.Schema, Label: o.label, Machine: o.facts, Plan: o.bench.Plan}
	for i := range o.repeat {
		if i > 0 {
			select {
			case <-ctx.Done():
				return file, nil
			case <-time.After(o.pause):
			}
		}
		r, err := o.bench.Run(ctx)
		line.done()
		if err != nil {
			if errors.Is(err, bench.ErrSetup) {
				return file, usageError(err)
			}
			return file, err
		}
		fmt.Fprintf(out, "run %d of %d: %s, %s, %d connections\n", i+1, o.repeat, o.bench.Plan.Workload, o.bench.Plan.Protocol.Name, o.bench.Plan.Conns)
		r.Summary(out)
		file.Runs = append(file.Runs, r)
		if r.Interrupted {
			break
		}
	}
	return file, nil
}

// finish writes what is to be written, and says what is wrong with it.
func finish(o *options, file result.File, out io.Writer) error {
	saturated, problems := 0, 0
	for _, r := range file.Runs {
		if r.Saturated {
			saturated++
		}
		problems += len(r.Problems)
	}
	if saturated > 0 && !o.force {
		return &status{statusRefused, fmt.Errorf("refused, and nothing written: in %d of %d runs the load generator was above %.0f %% of its processor; -force writes it all the same, marked",
			saturated, len(file.Runs), 100*file.Plan.SaturatedAt)}
	}
	if o.json != "" {
		if err := file.Write(o.json); err != nil {
			return err
		}
	}
	if o.html != "" {
		page, err := report.Page([]result.File{file})
		if err != nil {
			return err
		}
		if err := result.WriteFile(o.html, page); err != nil {
			return err
		}
	}
	if problems > 0 {
		return errors.New("the result has problems, see above")
	}
	return nil
}

const intro = `usage: pulsebench run -addr HOST:PORT [-workload closed] [-protocol length4] [flags]

workloads
  closed     -depth messages under way on each connection, a new one for each answer
  open       -rate messages a second over all connections; latency counts from the due time
  ramp       connections at -connect-rate a second
  idle       connections that only heartbeat
  churn      connections that come, exchange -messages and go; with -rate, so many a second
  broadcast  -senders send -rate messages a second; the server passes each on to many
  deadpeer   -dead of the connections vanish (-vanish): how soon does the server notice?

protocols
`

// parseRun reads the command line of run.
func parseRun(args []string, progress io.Writer) (*options, error) {
	set := flag.NewFlagSet("run", flag.ContinueOnError)
	o := &options{}
	p := &o.bench.Plan
	var f wire.Format
	var workload, vanish, pids, cpus, sources string
	var lengthBase128 bool

	set.StringVar(&p.Target, "addr", "", "`HOST:PORT` of the server")
	set.StringVar(&workload, "workload", string(spec.Closed), "what to do")
	set.StringVar(&p.Protocol.Name, "protocol", "length4", "what to speak")
	set.IntVar(&p.Conns, "conns", 100, "connections; of churn, at once")
	set.StringVar(&p.Payload, "payload", "64", "`sizes` in bytes: 64, uniform:16-1024, exp:256, list:16,16,4096")
	set.IntVar(&p.Depth, "depth", 1, "closed: messages under way on each connection")
	set.Float64Var(&p.Rate, "rate", 0, "open, broadcast: messages a second; churn: connections a second (default as fast as it goes)")
	set.StringVar(&p.Arrivals, "arrivals", spec.Uniform, "uniform or poisson: how due times are spread")
	set.DurationVar(&p.Heartbeat, "heartbeat", 0, "interval of heartbeats (default: idle 10s, broadcast and deadpeer 1s, others none)")
	set.Float64Var(&p.ConnectRate, "connect-rate", 0, "connections a second (default as fast as the server keeps up; ramp: all within -duration)")
	set.IntVar(&p.Connecting, "connecting", 128, "connections being made at once, per worker")
	set.DurationVar(&p.ConnectLimit, "connect-limit", 30*time.Second, "how long connecting may take")
	set.IntVar(&p.PerConn, "messages", 1, "churn: messages exchanged on each connection")
	set.StringVar(&p.End, "end", spec.EndFin, "churn: how a client ends a connection, fin or reset")
	set.IntVar(&p.Senders, "senders", 1, "broadcast: connections that send")
	set.IntVar(&p.FanOut, "fanout", 0, "broadcast: deliveries expected of each message (default: not checked)")
	set.IntVar(&p.Protocol.Room, "room", 0, "broadcast: connections in each room, by MQTT topics or {room} in a -greeting (default all in one)")
	set.Float64Var(&p.Share, "dead", 0.1, "deadpeer: share of the connections that vanish")
	set.StringVar(&vanish, "vanish", "silent,frozen,fin", "deadpeer: ways to vanish: silent, frozen, deaf, fin, reset (seen with -stats only), cut (as root, with nft)")
	set.DurationVar(&p.Promise, "promise", 0, "deadpeer: detection must take no longer")
	set.DurationVar(&p.DetectLimit, "detect-limit", time.Minute, "deadpeer: how long verdicts are awaited after the last peer vanished")
	set.DurationVar(&p.Duration, "duration", 10*time.Second, "length of the window; of deadpeer, within which peers vanish")
	set.DurationVar(&p.Warmup, "warmup", time.Second, "load before the window")
	set.DurationVar(&p.Drain, "drain", 5*time.Second, "how long answers are awaited after the window")
	set.DurationVar(&p.Step, "step", 0, "resolution of the series over time (default a fortieth of the window, 0.1 to 10 s)")
	set.IntVar(&p.MaxOutstanding, "max-outstanding", 1_000_000, "open, broadcast: messages that may wait for an answer")
	set.DurationVar(&p.Spin, "spin", 0, "waits up to this long are spent awake: more exact due times, for all of a processor (try 200µs)")
	set.StringVar(&sources, "sources", "", "comma-separated source `addresses` to connect from (default: as many of 127.0.0.x as are needed)")
	set.IntVar(&p.Workers, "workers", 0, "load processes (default as many as the limit of descriptors demands)")
	set.Float64Var(&p.SaturatedAt, "saturated", load.BusyLimit, "share of a processor above which a load process counts as the bottleneck")
	set.Uint64Var(&p.Seed, "seed", 0, "of sizes and random times (default random)")
	set.IntVar(&p.Protocol.MaxFrame, "max-frame", 0, "longest frame in bytes (default 1 MiB)")

	set.IntVar(&f.Offset, "length-offset", 0, "custom: bytes before the length field")
	set.IntVar(&f.Size, "length-size", 4, "custom: bytes of the length field: 1, 2, 3, 4 or 8")
	set.BoolVar(&lengthBase128, "length-base128", false, "custom: the length is a base-128 number instead")
	set.BoolVar(&f.LittleEndian, "length-little", false, "custom: the length is little endian")
	set.IntVar(&f.Adjust, "length-adjust", 0, "custom: bytes to add to the length's value, which is then what follows the field")
	set.StringVar(&f.Header, "header", "", "custom: `hex` bytes before a payload, length field included as zeroes")
	set.StringVar(&f.Trailer, "trailer", "", "custom: `hex` bytes behind a payload")
	set.StringVar(&f.Heartbeat, "heartbeat-frame", "", "custom: `hex` bytes of a whole heartbeat")
	set.StringVar(&f.Answer, "heartbeat-answer", "", "custom: `hex` bytes of the whole frame that answers it")
	set.StringVar(&f.Greeting, "greeting", "", "custom: `hex` bytes that a client sends first; {room} and {conn} stand for numbers of four bytes")
	set.IntVar(&f.GreetingFrames, "greeting-frames", 0, "custom: frames to await after the greeting")

	set.StringVar(&pids, "pid", "", "comma-separated `ids` of the server's processes on this machine: CPU and memory are measured")
	set.StringVar(&cpus, "cpus", "", "comma-separated `processors` to bind load processes to")
	set.StringVar(&o.bench.StatsURL, "stats", "", "`URL` where a server of this project publishes its Stats, e.g. http://127.0.0.1:8080/debug/vars")
	set.IntVar(&o.repeat, "repeat", 1, "runs; comparisons need at least 5")
	set.DurationVar(&o.pause, "pause", time.Second, "between runs")
	set.StringVar(&o.json, "json", "", "`file` for the result; - is standard output")
	set.StringVar(&o.html, "html", "", "`file` for a report to look at")
	set.StringVar(&o.label, "label", "", "what the result is called in comparisons (default the protocol and target)")
	set.BoolVar(&o.force, "force", false, "keep a result that the load generator was the bottleneck of")
	set.BoolVar(&o.quiet, "quiet", false, "no progress")
	set.Usage = func() {
		out := set.Output()
		fmt.Fprint(out, intro)
		names, abouts := wire.Presets()
		for i, name := range names {
			fmt.Fprintf(out, "  %-10s %s\n", name, abouts[i])
		}
		fmt.Fprintf(out, "  %-10s %s\n\nflags\n", wire.Custom, "described by -length-…, -header, -heartbeat-frame and so on")
		set.PrintDefaults()
	}
	if err := parse(set, args, progress); err != nil {
		return nil, err
	}
	if set.NArg() > 0 {
		return nil, usageError(fmt.Errorf("unexpected argument %q", set.Arg(0)))
	}
	given := make(map[string]bool)
	set.Visit(func(f *flag.Flag) { given[f.Name] = true })
	p.Workload = spec.Workload(workload)
	for way := range strings.SplitSeq(vanish, ",") {
		if way != "" {
			p.Ways = append(p.Ways, spec.Way(way))
		}
	}
	if lengthBase128 {
		f.Size = -1
	}
	if p.Protocol.Name == wire.Custom {
		p.Protocol.Format = &f
	}
	if err := o.complete(given, pids, cpus, sources); err != nil {
		return nil, usageError(err)
	}
	o.facts = machine.Gather("benchmarks/cmd/pulsebench run", set, "json", "html", "label", "quiet", "pid")
	return o, nil
}

// formatFlags describe a custom protocol and are of no use with another.
var formatFlags = []string{"length-offset", "length-size", "length-base128", "length-little", "length-adjust", "header", "trailer",
	"heartbeat-frame", "heartbeat-answer", "greeting", "greeting-frames"}

// workloadFlags are of no use with other workloads.
var workloadFlags = map[string][]spec.Workload{
	"depth": {spec.Closed}, "rate": {spec.Open, spec.Broadcast, spec.Churn}, "arrivals": {spec.Open, spec.Broadcast, spec.Churn},
	"messages": {spec.Churn}, "end": {spec.Churn}, "senders": {spec.Broadcast}, "fanout": {spec.Broadcast}, "room": {spec.Broadcast},
	"dead": {spec.DeadPeer}, "vanish": {spec.DeadPeer}, "promise": {spec.DeadPeer}, "detect-limit": {spec.DeadPeer},
	"max-outstanding": {spec.Open, spec.Broadcast},
}

// complete checks the options and fills in what was not said.
func (o *options) complete(given map[string]bool, pids, cpus, sources string) error {
	p := &o.bench.Plan
	if p.Target == "" {
		return errors.New("-addr is missing: the HOST:PORT of the server")
	}
	for _, name := range formatFlags {
		if given[name] && p.Protocol.Name != wire.Custom {
			return fmt.Errorf("-%s describes -protocol custom, not %s", name, p.Protocol.Name)
		}
	}
	for name, of := range workloadFlags {
		if given[name] && !contains(of, p.Workload) && contains(spec.Workloads, p.Workload) {
			return fmt.Errorf("-%s means nothing to -workload %s", name, p.Workload)
		}
	}
	if o.repeat < 1 || o.repeat > 1000 {
		return fmt.Errorf("-repeat %d: not from 1 to 1000", o.repeat)
	}
	var err error
	if o.bench.PIDs, err = numbers("-pid", pids, 1); err != nil {
		return err
	}
	if o.bench.CPUs, err = numbers("-cpus", cpus, 0); err != nil {
		return err
	}
	if p.Sources, err = addresses(sources); err != nil {
		return err
	}
	o.fill(given)
	if _, _, _, err := p.Check(); err != nil {
		return err
	}
	_, err = p.Resolve()
	return err
}

// reserve is how many descriptors a worker needs beside its connections.
const reserve = 64

// fill sets defaults that depend on other flags.
func (o *options) fill(given map[string]bool) {
	p := &o.bench.Plan
	if !given["seed"] {
		p.Seed = rand.Uint64() >> 11 // exact in any JSON reader
	}
	if !given["step"] {
		p.Step = min(max(p.Duration/40, 100*time.Millisecond), 10*time.Second).Round(10 * time.Millisecond)
	}
	if !given["heartbeat"] {
		p.Heartbeat = defaultHeartbeat(*p)
	}
	if !given["connect-rate"] && p.Workload == spec.Ramp && p.Duration > 0 {
		p.ConnectRate = float64(p.Conns) / p.Duration.Seconds()
	}
	if p.Workload == spec.Ramp && !given["warmup"] {
		p.Warmup = 0 // what is opened before the window is missing in it
	}
	if p.Workers == 0 {
		room := max(meter.FileLimit()-reserve, 1)
		p.Workers = max(1, (p.Conns+room-1)/room)
	}
	if p.Protocol.Name == "mqtt" {
		p.Protocol.Run = strconv.FormatUint(p.Seed, 36)
	}
	if o.label == "" {
		o.label = p.Protocol.Name + " " + p.Target
	}
}

func defaultHeartbeat(p spec.Spec) time.Duration {
	w, err := wire.New(p.Protocol)
	if err != nil {
		return 0 // Check says what is wrong
	}
	if sent, _ := w.Heartbeats(); !sent {
		return 0
	}
	switch p.Workload {
	case spec.Idle:
		return 10 * time.Second
	case spec.Broadcast, spec.DeadPeer:
		return time.Second
	}
	return 0
}

func contains[T comparable](list []T, x T) bool {
	for _, y := range list {
		if x == y {
			return true
		}
	}
	return false
}

// numbers reads a comma-separated list.
func numbers(flag, list string, least int) (out []int, err error) {
	if list == "" {
		return nil, nil
	}
	for item := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(item))
		if err != nil || n < least {
			return nil, fmt.Errorf("%s %q: %q is no number from %d", flag, list, item, least)
		}
		out = append(out, n)
	}
	return out, nil
}

func addresses(list string) (out []string, err error) {
	if list == "" {
		return nil, nil
	}
	for item := range strings.SplitSeq(list, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(item))
		if err != nil {
			return nil, fmt.Errorf("-sources %q: %w", list, err)
		}
		out = append(out, a.String())
	}
	return out, nil
}
