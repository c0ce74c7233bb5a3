package bench

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/hist"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/result"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/serverstats"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
)

// freeze keeps of a step's histogram what the series shows, so that a long run
// does not take 200 KB a step.
func (s *step) freeze() {
	s.p50, s.p99, s.max = s.latency.Quantile(0.5), s.latency.Quantile(0.99), s.latency.Quantile(1)
	s.latency = nil
}

// unit is what a workload counts.
func unit(w spec.Workload) string {
	switch w {
	case spec.Idle, spec.DeadPeer:
		return result.Heartbeats
	case spec.Broadcast:
		return result.Deliveries
	case spec.Ramp:
		return result.Connections
	case spec.Churn:
		return result.Cycles
	}
	return result.Echoes
}

// result makes one result of the workers' shares.
func (s *session) result() (result.Run, error) {
	r := result.Run{Started: s.started, Unit: unit(s.plan.Workload), Interrupted: s.stopping, Lost: make(map[string]int64)}
	var sum totals
	for _, share := range s.shares {
		sum.add(share)
		r.Interrupted = r.Interrupted || share.Stopped
		r.Problems = append(r.Problems, share.Problems...)
		for cause, n := range share.Lost {
			r.Lost[cause] += n
		}
	}
	workers := float64(len(s.shares))
	r.Counters = sum.window
	r.Seconds = sum.seconds / workers
	r.MessagesPerSecond = sum.rate
	r.Client = result.Client{Shares: sum.own, Spun: sum.spun, CPUPerMessage: ratio(1e9*sum.ownCPUs, sum.rate), MessagesPerRead: ratio(float64(sum.window.Messages), float64(sum.window.Reads))}
	// Every worker has read the same clocks over its own window.
	serverCPUs, machineCPUs := sum.serverCPUs/workers, sum.machineCPUs/workers
	r.OtherCPUs = max(0, machineCPUs-serverCPUs-sum.ownCPUs-sum.spun)
	if len(s.PIDs) > 0 {
		r.Server = s.server(serverCPUs, sum.rate)
	}
	r.Saturated = slices.Max(sum.own) > s.plan.SaturatedAt
	if err := s.latencies(&r); err != nil {
		return r, err
	}
	s.series(&r)
	switch s.plan.Workload {
	case spec.Broadcast:
		r.Broadcast = &result.Broadcast{
			Sent: sum.total.Sent, Delivered: sum.total.Messages,
			FanOut: ratio(float64(sum.total.Messages), float64(sum.total.Sent)), Gaps: sum.gaps,
		}
	case spec.DeadPeer:
		if err := s.deadPeer(&r); err != nil {
			return r, err
		}
	}
	s.judge(&r)
	return r, nil
}

// totals is the sum of the workers' shares.
type totals struct {
	window, total spec.Counters
	seconds       float64
	rate          float64 // messages a second
	own           []float64
	ownCPUs       float64
	spun          float64
	serverCPUs    float64
	machineCPUs   float64
	gaps          int64
}

func (t *totals) add(s *spec.Share) {
	t.window.Add(s.Counters)
	t.total.Add(s.Total)
	ns := float64(s.To - s.From)
	t.seconds += ns / 1e9
	t.rate += ratio(1e9*float64(s.Counters.Messages), ns)
	t.own = append(t.own, ratio(float64(s.OwnCPU), ns))
	t.spun += ratio(float64(s.Spun), ns)
	t.ownCPUs += ratio(float64(s.OwnCPU), ns)
	t.serverCPUs += ratio(float64(s.ServerCPU), ns)
	t.machineCPUs += ratio(float64(s.MachineCPU), ns)
	t.gaps += s.Gaps
}

// ratio is a/b; 0 where that says nothing.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func (s *session) server(cpus, rate float64) *result.Server {
	out := &result.Server{
		PIDs: len(s.PIDs), CPUs: cpus, CPUPerMessage: ratio(1e9*cpus, rate),
		RSSBefore: s.before.RSS, RSSOpen: s.open.RSS, RSSAfter: s.after.RSS, RSSPeak: s.after.Peak,
	}
	full := s.open.RSS
	if !s.plan.Workload.Opens() {
		full = s.after.RSS
	}
	out.BytesPerConn = float64(full-s.before.RSS) / float64(s.plan.Conns)
	return out
}

func (s *session) latencies(r *result.Run) error {
	for _, l := range []struct {
		to   **result.Latency
		from func(*spec.Share) string
	}{
		{&r.Latency, func(s *spec.Share) string { return s.Latency }},
		{&r.Lag, func(s *spec.Share) string { return s.Lag }},
		{&r.Connect, func(s *spec.Share) string { return s.Connect }},
		{&r.Ready, func(s *spec.Share) string { return s.Ready }},
		{&r.Heartbeat, func(s *spec.Share) string { return s.Heartbeat }},
	} {
		sum := hist.New()
		for _, share := range s.shares {
			h, err := hist.Parse(l.from(share))
			if err != nil {
				return err
			}
			sum.Merge(h)
		}
		var err error
		if *l.to, err = result.NewLatency(sum); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) series(r *result.Run) {
	width := s.plan.Step.Seconds()
	for i, at := range s.steps {
		if at.workers < s.plan.Workers {
			break // a worker was stopped in the middle of it
		}
		r.Series = append(r.Series, result.Step{
			At: float64(i+1) * width, MessagesPerSecond: float64(at.messages) / width, Open: at.open,
			P50: micros(at.p50), P99: micros(at.p99), Max: micros(at.max),
			ClientCPUs: float64(at.own) / 1e9 / width,
			ServerCPUs: float64(at.server) / 1e9 / width / float64(s.plan.Workers),
		})
	}
}

func micros(d time.Duration) float64 { return float64(d) / 1e3 }

// deadPeer says how those that vanished were found.
func (s *session) deadPeer(r *result.Run) error {
	d := &result.DeadPeer{Promise: s.plan.Promise.Seconds(), Skipped: s.skipped}
	victims := make(map[spec.Way][]spec.Victim)
	for _, share := range s.shares {
		d.Healthy += share.Healthy
		d.FalseVerdicts += share.False
		for _, v := range share.Victims {
			victims[v.Way] = append(victims[v.Way], v)
		}
	}
	if len(s.points) > 0 {
		first, last := s.points[0], s.points[len(s.points)-1]
		d.Reasons = make(map[string]int64)
		for reason, n := range last.Reasons {
			if n -= first.Reasons[reason]; n != 0 {
				d.Reasons[reason] = n
			}
		}
		inStats(victims[spec.Reset], s.points)
	}
	for _, way := range spec.Ways {
		if len(victims[way]) == 0 {
			continue
		}
		found, err := detection(way, victims[way])
		if err != nil {
			return err
		}
		found.FromStats = !way.Seen() && len(s.points) > 0
		d.Ways = append(d.Ways, found)
	}
	r.DeadPeer = d
	return nil
}

// resetReason is what the server's Stats call a reset by the peer.
const resetReason = "PeerReset"

// inStats finds when resets were noticed by when the server had counted as many.
func inStats(victims []spec.Victim, points []serverstats.Point) {
	slices.SortFunc(victims, func(a, b spec.Victim) int { return cmp.Compare(a.Vanished, b.Vanished) })
	first := points[0].Reasons[resetReason]
	for i := range victims {
		v := &victims[i]
		for _, p := range points {
			if p.Reasons[resetReason]-first > int64(i) {
				v.Found, v.Reset = max(p.At, v.Vanished), true
				break
			}
		}
	}
}

func detection(way spec.Way, victims []spec.Victim) (result.Detection, error) {
	d := result.Detection{Way: way, Vanished: len(victims)}
	h := hist.New()
	least := time.Duration(0)
	for _, v := range victims {
		if v.Found == 0 {
			continue
		}
		took := time.Duration(v.Found - v.Vanished)
		if d.Found == 0 || took < least {
			least = took
		}
		h.Record(int64(took))
		d.Found++
		if v.Reset {
			d.ByReset++
		} else {
			d.ByFin++
		}
	}
	seconds := func(q float64) float64 { return h.Quantile(q).Seconds() }
	d.Min, d.P50, d.P90, d.P99, d.Max = least.Seconds(), seconds(0.5), seconds(0.9), seconds(0.99), seconds(1)
	var err error
	d.HDR, err = h.Text()
	return d, err
}

// lateLag is how late messages of an open loop may be sent before it is
// remarked upon, in microseconds.
const lateLag = 1000

// judge says what spoils the result.
func (s *session) judge(r *result.Run) {
	problem := func(format string, args ...any) { r.Problems = append(r.Problems, fmt.Sprintf(format, args...)) }
	remark := func(format string, args ...any) { r.Remarks = append(r.Remarks, fmt.Sprintf(format, args...)) }
	lost := int64(0)
	for n := range maps.Values(r.Lost) {
		lost += n
	}
	c := r.Counters
	if lost > 0 && r.DeadPeer == nil {
		problem("%d connections were lost", lost)
	}
	if c.Messages == 0 && !r.Interrupted {
		problem("no %s within the window", r.Unit)
	}
	if c.Unanswered > 0 {
		problem("%d were not answered until %v after the window; they count as that late", c.Unanswered, s.plan.Drain)
	}
	if c.Missed > 0 {
		problem("%d messages were not sent because %d were outstanding: the server does not keep up, and latencies flatter it", c.Missed, s.plan.MaxOutstanding)
	}
	if c.LateBeats > 0 && s.plan.Workload != spec.DeadPeer {
		problem("%d heartbeats were not answered within an interval", c.LateBeats)
	}
	if r.Lag != nil && r.Lag.P99 > lateLag {
		remark("the load itself sent late: p99 %s; it counts into the latencies", result.Duration(r.Lag.P99))
	}
	if r.Latency != nil && r.Latency.Clipped > 0 {
		remark("%d latencies above 10 minutes count as 10 minutes", r.Latency.Clipped)
	}
	if b := r.Broadcast; b != nil {
		if b.Gaps > 0 {
			problem("%d messages did not reach a receiver that got later ones", b.Gaps)
		}
		if f := int64(s.plan.FanOut); f > 0 && b.Delivered != f*b.Sent && !r.Interrupted {
			problem("%d deliveries of %d messages, not %d", b.Delivered, b.Sent, f*b.Sent)
		}
	}
	if r.DeadPeer != nil {
		s.judgeDeadPeer(r.DeadPeer, problem)
	}
	if r.Saturated {
		remark("the load generator used %.0f %% of its processor, above %.0f %%: it is the bottleneck, or near it; use more -workers, or a lower rate or depth",
			100*slices.Max(r.Client.Shares), 100*s.plan.SaturatedAt)
	}
}

func (s *session) judgeDeadPeer(d *result.DeadPeer, problem func(string, ...any)) {
	if d.FalseVerdicts > 0 {
		problem("%d false verdicts: connections were ended whose peers were well", d.FalseVerdicts)
	}
	for _, w := range d.Ways {
		if !w.Way.Seen() && !w.FromStats {
			continue
		}
		if missing := w.Vanished - w.Found; missing > 0 && !s.stopping {
			problem("%d of %d %s peers were not found within %v", missing, w.Vanished, w.Way, s.plan.DetectLimit)
		}
		if s.plan.Promise > 0 && w.Max > s.plan.Promise.Seconds() {
			problem("a %s peer was found after %.3f s; the promise was %v", w.Way, w.Max, s.plan.Promise)
		}
	}
}
