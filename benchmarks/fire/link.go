//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// A child talks to the driver over a Unix socket, in lines of JSON: it answers
// requests, and reports what it has seen without being asked.

type request struct {
	Seq  int             `json:"seq"`
	Op   string          `json:"op"`
	Args json.RawMessage `json:"args,omitempty"`
}

// reply answers the request of the same Seq; of a report it is 0.
type reply struct {
	Seq     int             `json:"seq"`
	Err     string          `json:"err,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`
	Served  []served        `json:"served,omitempty"`
	Clients []client        `json:"clients,omitempty"`
	Latency []latency       `json:"latency,omitempty"`
}

// latency is what was measured on messages due within one slice of time.
type latency struct {
	Slice int64  `json:"slice"` // of the monotonic clock
	What  string `json:"what"`
	Hist  sparse `json:"hist"`
}

// slice is how finely latencies are told apart by when messages were due.
const slice = int64(250 * time.Millisecond)

// latencies collects what is measured until it is reported.
type latencies struct {
	mu     sync.Mutex
	slices map[latencyKey]*histogram
}

type latencyKey struct {
	slice int64
	what  string
}

func (l *latencies) note(what string, due int64, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(latencyKey{due / slice, what}).note(d)
}

// of returns the histogram of a slice. The caller holds mu.
func (l *latencies) of(key latencyKey) *histogram {
	if l.slices == nil {
		l.slices = make(map[latencyKey]*histogram)
	}
	h := l.slices[key]
	if h == nil {
		h = new(histogram)
		l.slices[key] = h
	}
	return h
}

// collector notes what one goroutine measures, and hands it over slice by slice.
type collector struct {
	to   *latencies
	key  latencyKey
	hist histogram
}

func (c *collector) note(due int64, d time.Duration) {
	if at := due / slice; at != c.key.slice {
		c.flush()
		c.key.slice = at
	}
	c.hist.note(d)
}

func (c *collector) flush() {
	c.to.mu.Lock()
	defer c.to.mu.Unlock()
	if c.key.slice != 0 {
		c.to.of(c.key).add(&c.hist)
	}
	c.hist = histogram{}
}

// take returns the slices for which hardly anything comes any more, or all.
// What does come is taken another time.
func (l *latencies) take(all bool) (taken []latency) {
	done := (now() - 3*int64(time.Second)) / slice
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, h := range l.slices {
		if all || key.slice < done {
			taken = append(taken, latency{key.slice, key.what, h.sparse()})
			delete(l.slices, key)
		}
	}
	return taken
}

// link is the child's end.
type link struct {
	conn net.Conn
	mu   sync.Mutex
	out  *json.Encoder
}

func dialDriver(path string) (*link, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	return &link{conn: conn, out: json.NewEncoder(conn)}, nil
}

// send writes one line. A driver that is gone is noticed by serve.
func (l *link) send(r reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.out.Encode(r)
}

// serve answers requests, each on a goroutine of its own, until the driver
// hangs up or do says that it was the last one.
func (l *link) serve(do func(op string, args json.RawMessage) (result any, last bool, err error)) error {
	in := json.NewDecoder(bufio.NewReader(l.conn))
	ended := make(chan struct{})
	var once sync.Once
	go func() {
		<-ended
		l.conn.Close()
	}()
	for {
		var r request
		if err := in.Decode(&r); err != nil {
			select {
			case <-ended:
				return nil
			default:
			}
			if errors.Is(err, io.EOF) {
				return nil // the driver is gone, and with it the reason to be here
			}
			return fmt.Errorf("driver: %w", err)
		}
		go func() {
			result, last, err := do(r.Op, r.Args)
			answer := reply{Seq: r.Seq}
			if err != nil {
				answer.Err = err.Error()
			} else if answer.Data, err = json.Marshal(result); err != nil {
				answer.Err = err.Error()
			}
			l.send(answer)
			if last {
				once.Do(func() { close(ended) })
			}
		}()
	}
}

// peer is the driver's end.
type peer struct {
	name   string
	conn   net.Conn
	report func(reply) // gets what was not asked for; called by one goroutine

	mu      sync.Mutex
	out     *json.Encoder
	seq     int
	waiting map[int]chan reply

	err  error // why it ended; valid after done
	done chan struct{}
}

func newPeer(name string, conn net.Conn, report func(reply)) *peer {
	p := &peer{
		name: name, conn: conn, report: report,
		out: json.NewEncoder(conn), waiting: make(map[int]chan reply), done: make(chan struct{}),
	}
	go p.read()
	return p
}

func (p *peer) read() {
	in := json.NewDecoder(bufio.NewReaderSize(p.conn, 1<<16))
	for {
		var r reply
		err := in.Decode(&r)
		if err != nil {
			p.err = err
			close(p.done)
			return
		}
		if r.Seq == 0 {
			p.report(r)
			continue
		}
		p.mu.Lock()
		c := p.waiting[r.Seq]
		delete(p.waiting, r.Seq)
		p.mu.Unlock()
		if c != nil {
			c <- r
		}
	}
}

// call asks the child and waits for its answer, no longer than limit.
func (p *peer) call(op string, args, result any, limit time.Duration) error {
	raw, err := json.Marshal(args)
	if err != nil {
		return err
	}
	answer := make(chan reply, 1)
	p.mu.Lock()
	p.seq++
	seq := p.seq
	p.waiting[seq] = answer
	err = p.out.Encode(request{Seq: seq, Op: op, Args: raw})
	p.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %s: %w", p.name, op, err)
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var r reply
	select {
	case r = <-answer:
	case <-p.done:
		// The last answer may have come before the end.
		select {
		case r = <-answer:
		default:
			return fmt.Errorf("%s: %s: %w", p.name, op, p.err)
		}
	case <-timer.C:
		p.mu.Lock()
		delete(p.waiting, seq)
		p.mu.Unlock()
		return fmt.Errorf("%s: no answer to %s within %v", p.name, op, limit)
	}
	if r.Err != "" {
		return fmt.Errorf("%s: %s: %s", p.name, op, r.Err)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(r.Data, result)
}

func (p *peer) close() {
	p.conn.Close()
	<-p.done
}
