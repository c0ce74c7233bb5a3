package engine_test

import (
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// metricKey is what must be unique among the metrics of one engine.
type metricKey struct {
	name   string
	loop   int
	reason engine.Reason
	has    bool
}

func metricsOf(t testing.TB, s engine.Stats) map[metricKey]engine.Metric {
	t.Helper()
	all := make(map[metricKey]engine.Metric)
	for m := range s.Metrics() {
		key := metricKey{m.Name, m.Loop, m.Reason, m.HasReason}
		if _, twice := all[key]; twice {
			t.Errorf("%+v comes twice", key)
		}
		all[key] = m
	}
	return all
}

// sampled is in how long a bucket's durations the histograms below count.
const sampled = 9

// distinct fills every number of a struct with a value of its own, and returns
// which field got which; of a histogram, the count.
func distinct(v reflect.Value, path string, next *int64, into map[string]int64) {
	for i := range v.NumField() {
		f, name := v.Field(i), path+v.Type().Field(i).Name
		if h, ok := f.Addr().Interface().(*engine.Histogram); ok {
			*next++
			h.Counts[sampled] = uint64(*next)
			into[name] = *next
			continue
		}
		switch f.Kind() {
		case reflect.Struct:
			distinct(f, name+".", next, into)
		case reflect.Int, reflect.Int64:
			*next++
			n := *next
			if f.Type() == reflect.TypeFor[time.Duration]() {
				n *= int64(time.Second)
			}
			f.SetInt(n)
			into[name] = *next
		case reflect.Uint64:
			*next++
			f.SetUint(uint64(*next))
			into[name] = *next
		}
	}
}

// Every number of Stats is a metric, under a name that no other has, and with
// its own value. Total is left out, which is for exporters to sum; so is Closed,
// the sum of the reasons.
func TestMetricsAreComplete(t *testing.T) {
	var s engine.Stats
	next := int64(1000)
	want := make(map[string]int64)
	distinct(reflect.ValueOf(&s).Elem(), "", &next, want)
	maps.DeleteFunc(want, func(name string, _ int64) bool { return strings.HasPrefix(name, "Total.") })
	for i := range 3 {
		var l engine.LoopStats
		distinct(reflect.ValueOf(&l).Elem(), fmt.Sprintf("Loops[%d].", i), &next, want)
		delete(want, fmt.Sprintf("Loops[%d].Closed", i))
		l.Reasons = make(map[engine.Reason]uint64)
		for r := engine.Unknown; r <= engine.Shutdown; r++ {
			next++
			l.Reasons[r] = uint64(next)
			want[fmt.Sprintf("Loops[%d].Reasons[%v]", i, r)] = next
		}
		s.Loops = append(s.Loops, l)
	}

	byValue := make(map[float64]engine.Metric)
	for _, m := range metricsOf(t, s) {
		if other, ok := byValue[m.Value]; ok && !strings.HasSuffix(m.Name, "_seconds") {
			t.Errorf("%s and %s are the same number", m.Name, other.Name)
		}
		byValue[m.Value] = m
		if m.Counter != strings.HasSuffix(m.Name, "_total") {
			t.Errorf("%s: Counter is %v", m.Name, m.Counter)
		}
		if m.Help == "" || strings.ToLower(m.Name) != m.Name {
			t.Errorf("%s: name or help is not as it should be: %q", m.Name, m.Help)
		}
	}
	for field, value := range want {
		m, ok := byValue[float64(value)]
		if !ok {
			t.Errorf("%s is not among the metrics", field)
			continue
		}
		loop := -1
		_, _ = fmt.Sscanf(field, "Loops[%d]", &loop)
		if m.Loop != loop {
			t.Errorf("%s: loop %d, want %d", m.Name, m.Loop, loop)
		}
		if m.HasReason && field != fmt.Sprintf("Loops[%d].Reasons[%v]", loop, m.Reason) {
			t.Errorf("%s is %s of reason %v", field, m.Name, m.Reason)
		}
		delete(byValue, float64(value))
	}
	quantile := (time.Microsecond << sampled).Seconds()
	for _, m := range byValue {
		if m.Value != quantile {
			t.Errorf("%s, %v, is no number of Stats", m.Name, m.Value)
		}
	}
}

// Metrics of a server that has seen something are those of its Stats, come under
// the same names before and after, and may be left in the middle.
func TestMetricsOfServer(t *testing.T) {
	cs := newCloses()
	cfg := listenOne(engine.Handler{Message: echo, Close: cs.note}, heartbeat.Config{})
	cfg.Loops = 2
	srv := serve(t, cfg)
	before := metricsOf(t, srv.Stats())
	hello := frame(t, codec.Data, []byte("hello"))
	for range 5 {
		c := rawDial(t, srv)
		write(t, c, hello)
		expect(t, c, hello)
		_ = c.Close()
		cs.reason(t, engine.PeerClosed)
	}
	s := srv.Stats()
	after := metricsOf(t, s)
	if len(before) != len(after) {
		t.Errorf("%d metrics before, %d after", len(before), len(after))
	}
	for key := range before {
		if _, ok := after[key]; !ok {
			t.Errorf("%+v is gone", key)
		}
	}
	sum := func(name string, reason engine.Reason, has bool) (total float64) {
		for i := range s.Loops {
			total += after[metricKey{name, i, reason, has}].Value
		}
		return total
	}
	if got := sum("opened_total", 0, false); got != 5 {
		t.Errorf("opened_total is %v, want 5", got)
	}
	if got := sum("messages_in_total", 0, false); got != float64(s.Total.MessagesIn) || got != 5 {
		t.Errorf("messages_in_total is %v, want 5", got)
	}
	if got := sum("closed_total", engine.PeerClosed, true); got != 5 {
		t.Errorf("closed_total of PeerClosed is %v, want 5", got)
	}
	// Leaving at every place calls the consumer no more.
	for stop := 1; stop <= len(after); stop++ {
		n := 0
		for range s.Metrics() {
			if n++; n == stop {
				break
			}
		}
	}
}
