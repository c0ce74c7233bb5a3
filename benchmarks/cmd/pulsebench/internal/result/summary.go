package result

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Summary writes what a run found, for people.
func (r Run) Summary(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	line(r.Unit, "%d in %.2f s: %.0f/s", r.Counters.Messages, r.Seconds, r.MessagesPerSecond)
	for _, l := range []struct {
		name string
		of   *Latency
	}{{"latency", r.Latency}, {"sent late by", r.Lag}, {"connect", r.Connect}, {"ready", r.Ready}, {"heartbeat", r.Heartbeat}} {
		if l.of != nil && (l.name != "heartbeat" || r.Unit != Heartbeats) {
			line(l.name, "%s", l.of)
		}
	}
	if s := r.Server; s != nil {
		line("server CPU", "%.0f ns per %s, %.2f processors", s.CPUPerMessage, one(r.Unit), s.CPUs)
		line("server memory", "%s before, %s with all open, %s after, peak %s: %.0f bytes per connection",
			bytes(s.RSSBefore), bytes(s.RSSOpen), bytes(s.RSSAfter), bytes(s.RSSPeak), s.BytesPerConn)
	}
	var shares []string
	for _, share := range r.Client.Shares {
		shares = append(shares, fmt.Sprintf("%.0f %%", 100*share))
	}
	line("load", "%s of a processor, %.0f ns per %s; others used %.2f processors", strings.Join(shares, ", "), r.Client.CPUPerMessage, one(r.Unit), r.OtherCPUs)
	if b := r.Broadcast; b != nil {
		line("broadcast", "%d sent, %d delivered: to %.1f each; %d missed", b.Sent, b.Delivered, b.FanOut, b.Gaps)
	}
	_ = w.Flush()
	if r.DeadPeer != nil {
		r.DeadPeer.summary(out)
	}
	for _, cause := range slices.Sorted(maps.Keys(r.Lost)) {
		fmt.Fprintf(out, "  lost: %d connections %s\n", r.Lost[cause], cause)
	}
	for _, remark := range r.Remarks {
		fmt.Fprintf(out, "  remark: %s\n", remark)
	}
	for _, problem := range r.Problems {
		fmt.Fprintf(out, "  PROBLEM: %s\n", problem)
	}
	if r.Interrupted {
		fmt.Fprintln(out, "  interrupted: this is what there was until then")
	}
}

func (d *DeadPeer) summary(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "  vanished\tpeers\tfound\tby FIN\tby RST\tmin s\tp50\tp90\tp99\tmax\t")
	for _, way := range d.Ways {
		if !way.Way.Seen() && !way.FromStats {
			fmt.Fprintf(w, "  %s\t%d\tonly the server can see this (-stats)\t\t\t\t\t\t\t\t\n", way.Way, way.Vanished)
			continue
		}
		fmt.Fprintf(w, "  %s\t%d\t%d\t%d\t%d\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t\n",
			way.Way, way.Vanished, way.Found, way.ByFin, way.ByReset, way.Min, way.P50, way.P90, way.P99, way.Max)
	}
	_ = w.Flush()
	fmt.Fprintf(out, "  %d healthy connections, %d false verdicts\n", d.Healthy, d.FalseVerdicts)
	for _, reason := range slices.Sorted(maps.Keys(d.Reasons)) {
		fmt.Fprintf(out, "  the server says: %d %s\n", d.Reasons[reason], reason)
	}
	for _, way := range d.Skipped {
		fmt.Fprintf(out, "  skipped: %s\n", way)
	}
}

// String is the percentiles.
func (l *Latency) String() string {
	return fmt.Sprintf("p50 %s  p90 %s  p99 %s  p99.9 %s  max %s", Duration(l.P50), Duration(l.P90), Duration(l.P99), Duration(l.P999), Duration(l.Max))
}

// Duration prints microseconds with three digits and a unit that fits.
func Duration(us float64) string {
	d := time.Duration(us * 1e3)
	switch {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case us >= 100e3:
		return fmt.Sprintf("%.0f ms", us/1e3)
	case us >= 10e3:
		return fmt.Sprintf("%.1f ms", us/1e3)
	case us >= 1e3:
		return fmt.Sprintf("%.2f ms", us/1e3)
	case us >= 100:
		return fmt.Sprintf("%.0f µs", us)
	}
	return fmt.Sprintf("%.1f µs", us)
}

// bytes prints an amount of memory.
func bytes(n int64) string {
	if n < 10<<20 {
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
