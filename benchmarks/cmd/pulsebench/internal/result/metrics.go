package result

import "fmt"

// Metric is one figure of a run that can be compared with other runs'.
type Metric struct {
	Name, Unit string
	Value      float64
	// More is better: of others, less is.
	MoreIsBetter bool
}

// Metrics lists what a run has figures for, always in the same order.
func (r Run) Metrics() []Metric {
	var list []Metric
	add := func(name, unit string, value float64, more bool) {
		list = append(list, Metric{name, unit, value, more})
	}
	if r.Unit != "" {
		add(r.Unit+" per second", "/s", r.MessagesPerSecond, true)
	}
	if s := r.Server; s != nil {
		if s.CPUPerMessage > 0 {
			add("server CPU per "+one(r.Unit), "ns", s.CPUPerMessage, false)
		}
		if s.BytesPerConn > 0 {
			add("resident bytes per connection", "B", s.BytesPerConn, false)
		}
		add("server's peak memory", "B", float64(s.RSSPeak), false)
	}
	for _, l := range []struct {
		name string
		of   *Latency
	}{{"latency", r.Latency}, {"time to be ready", r.Ready}} {
		if l.of != nil {
			add(l.name+" p50", "µs", l.of.P50, false)
			add(l.name+" p99", "µs", l.of.P99, false)
			add(l.name+" p99.9", "µs", l.of.P999, false)
		}
	}
	if d := r.DeadPeer; d != nil {
		for _, w := range d.Ways {
			if w.Found > 0 {
				add(fmt.Sprintf("detection p50, %s", w.Way), "s", w.P50, false)
				add(fmt.Sprintf("detection max, %s", w.Way), "s", w.Max, false)
			}
			if w.Way.Seen() || w.FromStats {
				add(fmt.Sprintf("not found, %s", w.Way), "", float64(w.Vanished-w.Found), false)
			}
		}
		add("false verdicts", "", float64(d.FalseVerdicts), false)
	}
	return list
}

// Units of what is counted.
const (
	Echoes      = "echoes"
	Heartbeats  = "heartbeats"
	Deliveries  = "deliveries"
	Connections = "connections"
	Cycles      = "connection cycles"
)

// one is the singular of a unit.
func one(unit string) string {
	switch unit {
	case Echoes:
		return "echo"
	case Deliveries:
		return "delivery"
	case Heartbeats:
		return "heartbeat"
	case Connections:
		return "connection"
	case Cycles:
		return "connection cycle"
	}
	return "message"
}
