package engine

import "iter"

// Metric is one number of Stats by a name, for exporters.
type Metric struct {
	// Name and Help follow Prometheus's customs: base units, counters end in
	// _total. There is no prefix.
	Name, Help string
	// Counter: it only grows.
	Counter bool
	// Loop is the loop it was counted on, -1 if it is the engine's.
	Loop int
	// Reason tells the metrics of one name apart where HasReason.
	Reason    Reason
	HasReason bool
	Value     float64
}

// loopMetrics are the numbers of one loop.
var loopMetrics = []struct {
	name, help string
	counter    bool
	value      func(*LoopStats) float64
}{
	{"connections", "Connections open now.", false, func(s *LoopStats) float64 { return float64(s.Open) }},
	{"opened_total", "Connections opened.", true, func(s *LoopStats) float64 { return float64(s.Opened) }},
	{"frames_in_total", "Frames received, of any kind.", true, func(s *LoopStats) float64 { return float64(s.FramesIn) }},
	{"messages_in_total", "Data frames received.", true, func(s *LoopStats) float64 { return float64(s.MessagesIn) }},
	{"frames_out_total", "Frames handed to the kernel whole.", true, func(s *LoopStats) float64 { return float64(s.FramesOut) }},
	{"in_bytes_total", "Bytes received.", true, func(s *LoopStats) float64 { return float64(s.BytesIn) }},
	{"out_bytes_total", "Bytes handed to the kernel.", true, func(s *LoopStats) float64 { return float64(s.BytesOut) }},
	{"pings_out_total", "Heartbeats sent unasked: queries and signs of life.", true, func(s *LoopStats) float64 { return float64(s.Pings) }},
	{"queries_total", "Heartbeats that ask a peer that has been silent.", true, func(s *LoopStats) float64 { return float64(s.Queries) }},
	{"pings_in_total", "Heartbeats received, other than answers.", true, func(s *LoopStats) float64 { return float64(s.PingsIn) }},
	{"pongs_in_total", "Answers to heartbeats received.", true, func(s *LoopStats) float64 { return float64(s.PongsIn) }},
	{"pings_ignored_total", "Pings not answered because there were too many.", true, func(s *LoopStats) float64 { return float64(s.PingsIgnored) }},
	{"outages_total", "Times that an outage on our side was presumed.", true, func(s *LoopStats) float64 { return float64(s.Outages) }},
	{"broadcasts_total", "Deliveries of broadcasts.", true, func(s *LoopStats) float64 { return float64(s.Broadcasts) }},
	{"pauses_total", "Times that reading a connection was stopped.", true, func(s *LoopStats) float64 { return float64(s.Pauses) }},
	{"accept_errors_total", "Failed accepts.", true, func(s *LoopStats) float64 { return float64(s.AcceptErrors) }},
	{"parks_total", "Times that a listener waited.", true, func(s *LoopStats) float64 { return float64(s.Parks) }},
	{"refused_total", "Connections that admission refused.", true, func(s *LoopStats) float64 { return float64(s.Refused) }},
	{"evicted_total", "Idle connections that made room.", true, func(s *LoopStats) float64 { return float64(s.Evicted) }},
	{"panics_total", "Callbacks and tasks that failed.", true, func(s *LoopStats) float64 { return float64(s.Panics) }},
	{"blocked_total", "Callbacks that held up their loop.", true, func(s *LoopStats) float64 { return float64(s.Blocked) }},
	{"rtt_samples_total", "Round trips measured.", true, func(s *LoopStats) float64 { return float64(s.RTT.Count()) }},
	{"rtt_p50_seconds", "Median round trip of queries, at most twice too long.", false, func(s *LoopStats) float64 { return s.RTT.Quantile(0.5).Seconds() }},
	{"rtt_p99_seconds", "99th percentile of the round trip of queries, at most twice too long.", false, func(s *LoopStats) float64 { return s.RTT.Quantile(0.99).Seconds() }},
	{"detections_total", "Verdicts by liveness.", true, func(s *LoopStats) float64 { return float64(s.Detection.Count()) }},
	{"detection_p99_seconds", "99th percentile of the silence before a verdict, at most twice too long.", false, func(s *LoopStats) float64 { return s.Detection.Quantile(0.99).Seconds() }},
	{"lag_max_seconds", "The latest that the loop was ever done with what was due.", false, func(s *LoopStats) float64 { return s.Lag.Seconds() }},
	{"stall_excess_seconds_total", "The like, which did count: it was more than StallCap.", true, func(s *LoopStats) float64 { return s.StallExcess.Seconds() }},
	{"stalled_seconds_total", "Time that did not count against peers.", true, func(s *LoopStats) float64 { return s.Stalled.Seconds() }},
}

// engineMetrics are the numbers of a whole engine.
var engineMetrics = []struct {
	name, help string
	counter    bool
	value      func(*Stats) float64
}{
	{"held_bytes", "Memory of output that waits for peers.", false, func(s *Stats) float64 { return float64(s.Held) }},
	{"workers_active", "Workers with something to do.", false, func(s *Stats) float64 { return float64(s.Work.Active) }},
	{"tasks_queued", "Tasks that wait.", false, func(s *Stats) float64 { return float64(s.Work.Queued) }},
	{"tasks_stuck", "Tasks that do not end.", false, func(s *Stats) float64 { return float64(s.Work.Stuck) }},
	{"tasks_total", "Tasks that ended.", true, func(s *Stats) float64 { return float64(s.Work.Done) }},
	{"tasks_refused_total", "Tasks refused because a queue was full.", true, func(s *Stats) float64 { return float64(s.Work.Refused) }},
	{"work_seconds_total", "Time that ended tasks took.", true, func(s *Stats) float64 { return s.Work.Busy.Seconds() }},
}

// Metrics yields every number of s, always under the same names and in the same
// order; of closed_total, one for each reason that there is.
func (s Stats) Metrics() iter.Seq[Metric] {
	return func(yield func(Metric) bool) {
		for _, m := range engineMetrics {
			if !yield(Metric{Name: m.name, Help: m.help, Counter: m.counter, Loop: -1, Value: m.value(&s)}) {
				return
			}
		}
		for i := range s.Loops {
			loop := &s.Loops[i]
			for _, m := range loopMetrics {
				if !yield(Metric{Name: m.name, Help: m.help, Counter: m.counter, Loop: i, Value: m.value(loop)}) {
					return
				}
			}
			for r := range numReasons {
				closed := Metric{Name: "closed_total", Help: "Connections ended.", Counter: true, Loop: i, Reason: r, HasReason: true}
				closed.Value = float64(loop.Reasons[r])
				if !yield(closed) {
					return
				}
			}
		}
	}
}
