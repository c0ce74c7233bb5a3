// Package result is what pulsebench found, as it is written to files.
package result

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/hist"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/spec"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
)

// Schema names the format of a File. Fields may be added to it; one that
// changes its meaning makes it another schema.
const Schema = "pulsebench/1"

// File is one result: the same plan run once or several times.
type File struct {
	Schema string `json:"schema"`
	// Label is what the result is called in comparisons.
	Label   string        `json:"label"`
	Machine machine.Facts `json:"machine"`
	Plan    spec.Spec     `json:"plan"`
	Runs    []Run         `json:"runs"`
}

// Run is what one run found.
type Run struct {
	Started time.Time `json:"started"`
	// Seconds is the length of the window.
	Seconds float64 `json:"seconds"`
	// Problems is what spoils the result: connections that were lost, messages
	// that never came back.
	Problems []string `json:"problems,omitempty"`
	// Remarks are worth knowing and spoil nothing.
	Remarks []string `json:"remarks,omitempty"`
	// Saturated: the load generator was at its limit, so that the figures are
	// its own and not the server's. Such a result is only written with -force.
	Saturated   bool `json:"saturated,omitempty"`
	Interrupted bool `json:"interrupted,omitempty"`

	Counters spec.Counters `json:"counters"`
	// MessagesPerSecond counts what Unit says.
	MessagesPerSecond float64 `json:"messages_per_second"`
	Unit              string  `json:"unit"`

	Latency   *Latency `json:"latency,omitempty"`
	Lag       *Latency `json:"lag,omitempty"`
	Connect   *Latency `json:"connect,omitempty"`
	Ready     *Latency `json:"ready,omitempty"`
	Heartbeat *Latency `json:"heartbeat,omitempty"`

	Client Client  `json:"client"`
	Server *Server `json:"server,omitempty"`
	// OtherCPUs is what the rest of this machine used, in processors.
	OtherCPUs float64 `json:"other_cpus"`

	Series []Step           `json:"series,omitempty"`
	Lost   map[string]int64 `json:"lost,omitempty"`

	Broadcast *Broadcast `json:"broadcast,omitempty"`
	DeadPeer  *DeadPeer  `json:"dead_peer,omitempty"`
}

// Latency is a distribution of durations, in microseconds.
type Latency struct {
	Count   int64   `json:"count"`
	Mean    float64 `json:"mean_us"`
	P50     float64 `json:"p50_us"`
	P90     float64 `json:"p90_us"`
	P99     float64 `json:"p99_us"`
	P999    float64 `json:"p99_9_us"`
	P9999   float64 `json:"p99_99_us"`
	Max     float64 `json:"max_us"`
	Clipped int64   `json:"clipped,omitempty"`
	// HDR is the whole distribution: the V2 compressed format of the HDR
	// histogram libraries, in base 64, values in nanoseconds.
	HDR string `json:"hdr"`
}

// micros is a duration in microseconds.
func micros(d time.Duration) float64 { return float64(d) / 1e3 }

// NewLatency describes a histogram; nil if it is empty.
func NewLatency(h *hist.Histogram) (*Latency, error) {
	if h.Count() == 0 {
		return nil, nil
	}
	text, err := h.Text()
	if err != nil {
		return nil, err
	}
	return &Latency{
		Count: h.Count(), Mean: micros(h.Mean()),
		P50: micros(h.Quantile(0.5)), P90: micros(h.Quantile(0.9)), P99: micros(h.Quantile(0.99)),
		P999: micros(h.Quantile(0.999)), P9999: micros(h.Quantile(0.9999)), Max: micros(h.Quantile(1)),
		Clipped: h.Clipped, HDR: text,
	}, nil
}

// Client is what the load itself cost.
type Client struct {
	// Shares is each worker's part of one processor.
	Shares []float64 `json:"cpu_share"`
	// Spun is what all workers together spent awake waiting (-spin), in
	// processors; Shares do not have it.
	Spun float64 `json:"spun_cpus,omitempty"`
	// CPUPerMessage is of all workers together, in nanoseconds.
	CPUPerMessage float64 `json:"cpu_ns_per_message"`
	// Messages per system call show how far answers came in batches.
	MessagesPerRead float64 `json:"messages_per_read"`
}

// Server is what the server processes named by -pid used.
type Server struct {
	PIDs          int     `json:"processes"`
	CPUs          float64 `json:"cpus"` // processors' worth
	CPUPerMessage float64 `json:"cpu_ns_per_message"`
	// Memory in bytes: before the first connection, when all were open, and at
	// the end, and the most there ever was.
	RSSBefore int64 `json:"rss_before"`
	RSSOpen   int64 `json:"rss_open"`
	RSSAfter  int64 `json:"rss_after"`
	RSSPeak   int64 `json:"rss_peak"`
	// BytesPerConn is what all had come to cost each connection when all were
	// open; of churn and ramp, at the end.
	BytesPerConn float64 `json:"rss_bytes_per_connection"`
}

// Step is one step of the series over time.
type Step struct {
	// At is the end of the step, in seconds from the window's beginning.
	At                float64 `json:"at_s"`
	MessagesPerSecond float64 `json:"messages_per_second"`
	Open              int     `json:"open"`
	P50               float64 `json:"p50_us"`
	P99               float64 `json:"p99_us"`
	Max               float64 `json:"max_us"`
	ClientCPUs        float64 `json:"client_cpus"`
	ServerCPUs        float64 `json:"server_cpus,omitempty"`
}

// Broadcast says how far messages got, over the whole run.
type Broadcast struct {
	Sent      int64   `json:"sent"`
	Delivered int64   `json:"delivered"`
	FanOut    float64 `json:"fan_out"` // deliveries of each message
	Gaps      int64   `json:"gaps"`    // messages that a receiver missed
}

// DeadPeer says how connections that vanished were found.
type DeadPeer struct {
	Ways []Detection `json:"ways"`
	// Healthy connections were to stay. FalseVerdicts counts connections that
	// the server ended although their peer was well.
	Healthy       int `json:"healthy"`
	FalseVerdicts int `json:"false_verdicts"`
	// Promise is what detection was to take at most, in seconds.
	Promise float64 `json:"promise_s,omitempty"`
	// Reasons is what the server itself says why it closed connections during
	// the run (with -stats).
	Reasons map[string]int64 `json:"server_reasons,omitempty"`
	Skipped []string         `json:"skipped,omitempty"`
}

// Detection is how peers were found that vanished in one way. Times are in
// seconds from the moment of vanishing to the server's end of the connection,
// as the client's socket saw it.
type Detection struct {
	Way      spec.Way `json:"way"`
	Vanished int      `json:"vanished"`
	Found    int      `json:"found"`
	ByFin    int      `json:"by_fin"`
	ByReset  int      `json:"by_reset"`
	// FromStats: the times are not from sockets but from the server's own
	// counts, which were looked at every tenth of a second.
	FromStats bool    `json:"from_stats,omitempty"`
	Min       float64 `json:"min_s"`
	P50       float64 `json:"p50_s"`
	P90       float64 `json:"p90_s"`
	P99       float64 `json:"p99_s"`
	Max       float64 `json:"max_s"`
	HDR       string  `json:"hdr,omitempty"`
}

// maxFile bounds what Read takes in: a day's run has some megabytes.
const maxFile = 256 << 20

var errSchema = errors.New("not a result of schema " + Schema)

// Read reads a result file.
func Read(path string) (File, error) {
	fail := func(err error) (File, error) { return File{}, fmt.Errorf("%s: %w", path, err) }
	in, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, maxFile))
	if err != nil {
		return fail(err)
	}
	var f File
	if err := json.Unmarshal(text, &f); err != nil {
		return fail(fmt.Errorf("%w: %w", errSchema, err))
	}
	if f.Schema != Schema {
		return fail(fmt.Errorf("%w, but of %q", errSchema, f.Schema))
	}
	if len(f.Runs) == 0 {
		return fail(errors.New("no runs in it"))
	}
	if f.Label == "" {
		f.Label = strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	}
	return f, nil
}

// Write writes a result file, whole or not at all.
func (f File) Write(path string) error {
	text, err := json.MarshalIndent(f, "", "\t")
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	if path == "-" {
		_, err := os.Stdout.Write(append(text, '\n'))
		return err
	}
	return WriteFile(path, append(text, '\n'))
}

// WriteFile writes a file, whole or not at all.
func WriteFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}
