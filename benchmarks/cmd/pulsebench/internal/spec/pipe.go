package spec

// A worker gets its Spec as a line of JSON on standard input, then Orders, and
// writes Notes to standard output, each a line of JSON. It keeps its
// connections after the last note, and ends when its input does. Times are of
// the monotonic clock that all processes share, in nanoseconds.
//
// A worker usually has one Window. One that is told of More has several, and
// sends nothing between them; it answers each with a Share, and Stop with the
// last one.

// Order is what a worker is told.
type Order struct {
	Go   *Window `json:"go,omitempty"`
	Stop bool    `json:"stop,omitempty"` // end the window now; between windows, end
}

// Window says when to load, and when to count.
type Window struct {
	Begin int64 `json:"begin"` // load from here on
	From  int64 `json:"from"`  // count from here on
	To    int64 `json:"to"`
	// More windows may follow. Only closed and open loops can stop and begin again.
	More bool `json:"more,omitempty"`
}

// Note is what a worker says: one field is set.
type Note struct {
	Opening  *Opening  `json:"opening,omitempty"`
	Opened   bool      `json:"opened,omitempty"` // ready for a Window
	Interval *Interval `json:"interval,omitempty"`
	Share    *Share    `json:"share,omitempty"` // the last note, but for windows with More
	Failed   string    `json:"failed,omitempty"`
}

// Opening says how far the opening of connections is.
type Opening struct {
	Ready int `json:"ready"`
}

// Interval is one step of the series over time.
type Interval struct {
	Index int   `json:"index"`
	At    int64 `json:"at"` // its end
	// Messages are those of the workload's kind: echoes, deliveries, answered
	// heartbeats, connections that became ready, cycles of churn.
	Messages int64  `json:"messages"`
	Open     int    `json:"open"`
	Own      int64  `json:"own_cpu_ns"`
	Server   int64  `json:"server_cpu_ns"`
	Latency  string `json:"latency,omitempty"` // a hist text
}

// Counters are counted within the window.
type Counters struct {
	Messages   int64 `json:"messages"`
	Sent       int64 `json:"sent"` // messages handed to the connections
	Reads      int64 `json:"reads"`
	Writes     int64 `json:"writes"`
	BytesIn    int64 `json:"bytes_in"`
	BytesOut   int64 `json:"bytes_out"`
	Beats      int64 `json:"heartbeats"`
	Answers    int64 `json:"heartbeat_answers"`
	LateBeats  int64 `json:"heartbeats_unanswered_within_interval"`
	Connects   int64 `json:"connects"`
	Missed     int64 `json:"missed"`     // due, but too many were outstanding
	Unanswered int64 `json:"unanswered"` // due within the window, no answer until the end
}

// Add adds what another worker has counted.
func (c *Counters) Add(o Counters) {
	c.Messages += o.Messages
	c.Sent += o.Sent
	c.Reads += o.Reads
	c.Writes += o.Writes
	c.BytesIn += o.BytesIn
	c.BytesOut += o.BytesOut
	c.Beats += o.Beats
	c.Answers += o.Answers
	c.LateBeats += o.LateBeats
	c.Connects += o.Connects
	c.Missed += o.Missed
	c.Unanswered += o.Unanswered
}

// Sub returns what was counted since o.
func (c Counters) Sub(o Counters) Counters {
	return Counters{
		Messages: c.Messages - o.Messages, Sent: c.Sent - o.Sent,
		Reads: c.Reads - o.Reads, Writes: c.Writes - o.Writes,
		BytesIn: c.BytesIn - o.BytesIn, BytesOut: c.BytesOut - o.BytesOut,
		Beats: c.Beats - o.Beats, Answers: c.Answers - o.Answers, LateBeats: c.LateBeats - o.LateBeats,
		Connects: c.Connects - o.Connects, Missed: c.Missed - o.Missed, Unanswered: c.Unanswered - o.Unanswered,
	}
}

// Share is one worker's part of a run's outcome.
type Share struct {
	From     int64    `json:"from"` // the window as it was
	To       int64    `json:"to"`
	Counters Counters `json:"counters"` // within it
	Total    Counters `json:"total"`    // from first to last

	OwnCPU     int64 `json:"own_cpu_ns"` // Spun not included
	Spun       int64 `json:"spun_ns"`
	ServerCPU  int64 `json:"server_cpu_ns"`
	MachineCPU int64 `json:"machine_cpu_ns"`

	Latency   string `json:"latency,omitempty"`
	Lag       string `json:"lag,omitempty"`       // how late messages were sent
	Connect   string `json:"connect,omitempty"`   // until the connection was established
	Ready     string `json:"ready,omitempty"`     // until the server had answered on it
	Heartbeat string `json:"heartbeat,omitempty"` // round trips

	// Lost counts connections that ended by themselves, by cause.
	Lost     map[string]int64 `json:"lost,omitempty"`
	Problems []string         `json:"problems,omitempty"`
	Stopped  bool             `json:"stopped,omitempty"` // before its time

	Gaps    int64    `json:"gaps,omitempty"` // broadcast messages that a receiver never got
	Victims []Victim `json:"victims,omitempty"`
	Healthy int      `json:"healthy,omitempty"` // connections that were not to vanish
	False   int      `json:"false,omitempty"`   // of them and of the victims before their time: ended by the server
}

// Victim is one connection that vanished.
type Victim struct {
	Way      Way   `json:"way"`
	Vanished int64 `json:"vanished"`
	Found    int64 `json:"found,omitempty"` // 0: not until the end
	Reset    bool  `json:"reset,omitempty"` // by RST, not FIN
}
