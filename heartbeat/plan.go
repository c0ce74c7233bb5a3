package heartbeat

import "time"

// Traits say what a wire format's heartbeat can do, seen from one side of the
// connection.
type Traits struct {
	MayPing     bool // this side may send a ping unasked
	PeerMayPing bool // the other side may
	Directed    bool // a ping and its answer differ on the wire
	Answered    bool // a ping is to be answered; otherwise it is a beacon
	Stamped     bool // an answer brings back the stamp of its ping
}

// Plan is a checked Config joined with Traits. It is immutable, and shared by
// all connections of a listener. The zero Plan asks for nothing and answers
// nothing.
type Plan struct {
	config  Config
	traits  Traits
	role    Role // never Auto, except in the zero Plan
	answers bool

	worstCase, tolerance time.Duration

	// What State works with: ns, 0 where the duty or limit is off.
	queries  bool
	anyData  bool  // data ends a series as an answer does (Confirm < 0)
	misses   int64 // queries in a series
	interval int64
	retry    int64
	confirm  int64 // longest time without an answer; 0: unlimited
	silence  int64 // read deadline of a side that does not query
	speak    int64

	idleRead, idleWrite, idleAll int64
}

// Plan checks c on its own and against the wire format. The error is a
// [*FieldError] that names the field at fault.
func (c Config) Plan(t Traits) (*Plan, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	pings := c.Interval > 0 || c.Speak > 0
	if pings && !t.MayPing && !t.PeerMayPing {
		if c.Interval > 0 {
			return nil, fault("Interval", "%v, but the codec has no heartbeat; IdleRead needs none", c.Interval)
		}
		return nil, fault("Speak", "%v, but the codec has no heartbeat", c.Speak)
	}
	role, err := c.role(t, pings)
	if err != nil {
		return nil, err
	}

	speak := max(0, c.Speak)
	if c.Speak == 0 && role.pings() {
		speak = c.Interval
	}
	if speak > 0 && !role.pings() {
		return nil, fault("Speak", "%v, but in role %v this side sends no ping", c.Speak, role)
	}
	if err := c.validateSpeech(speak); err != nil {
		return nil, err
	}
	queries := c.Interval > 0 && (role == Both || role == Query)
	if c.Interval > 0 && !queries && !t.PeerMayPing && !(t.Answered && speak > 0) {
		return nil, fault("Interval", "%v, but nothing obliges the peer to send: it may not ping, "+
			"and is not asked in role %v", c.Interval, role)
	}

	b := c.bounds()
	p := &Plan{
		config:    c,
		traits:    t,
		role:      role,
		answers:   t.Answered && t.PeerMayPing && (role == Both || role == Answer),
		worstCase: b.worstCase(queries && c.Confirm >= 0),
		tolerance: b.tolerance(queries),

		queries:   queries,
		anyData:   c.Confirm < 0,
		misses:    int64(c.Misses),
		interval:  int64(c.Interval),
		retry:     int64(c.retry()),
		speak:     int64(speak),
		idleRead:  int64(c.IdleRead),
		idleWrite: int64(c.IdleWrite),
		idleAll:   int64(c.IdleAll),
	}
	if queries && c.Confirm >= 0 {
		p.confirm = mul(int64(c.confirm()), p.interval)
	}
	if c.Interval > 0 && !queries {
		p.silence = p.interval + p.misses*p.retry
	}
	return p, nil
}

// role returns the role that c plays in a format of traits t. pings reports
// whether c wants pings sent or expected at all.
func (c Config) role(t Traits, pings bool) (Role, error) {
	switch c.Role {
	case Auto:
		switch {
		case !t.MayPing:
			return Answer, nil
		case !t.Answered:
			return Beacon, nil
		case !t.PeerMayPing:
			return Query, nil
		case t.Directed:
			return Both, nil
		case !pings:
			return Answer, nil
		}
		return 0, fault("Role", "Auto, but a ping and its answer look alike and either side may ping: "+
			"give one side Query and the other Answer, or they would echo each other for ever")
	case Both:
		switch {
		case !t.MayPing:
			return 0, fault("Role", "Both, but in this codec this side may not ping")
		case !t.PeerMayPing:
			return 0, fault("Role", "Both, but in this codec the peer may not ping")
		case !t.Answered:
			return 0, fault("Role", "Both, but in this codec pings are not answered")
		case !t.Directed:
			return 0, fault("Role", "Both, but a ping and its answer look alike: "+
				"a side that asks and answers would echo for ever")
		}
	case Query:
		switch {
		case !t.MayPing:
			return 0, fault("Role", "Query, but in this codec this side may not ping")
		case !t.Answered:
			return 0, fault("Role", "Query, but in this codec pings are not answered")
		}
	case Answer:
		if !t.PeerMayPing {
			return 0, fault("Role", "Answer, but in this codec the peer may not ping")
		}
	case Beacon:
		if !t.MayPing {
			return 0, fault("Role", "Beacon, but in this codec this side may not ping")
		}
	}
	return c.Role, nil
}

// Config returns the configuration the plan was made from.
func (p *Plan) Config() Config { return p.config }

// Traits returns the traits the plan was made for.
func (p *Plan) Traits() Traits { return p.traits }

// Role returns the role this side plays, with Auto resolved.
func (p *Plan) Role() Role { return p.role }

// Queries reports whether this side asks and counts what is not answered.
func (p *Plan) Queries() bool { return p.queries }

// Answers reports whether this side must answer a ping. It does not depend on
// an Interval: a side without a heartbeat of its own still answers. Where a ping
// and its answer look alike, what reaches a side that does not answer is an
// answer: it goes to [State.Answer].
func (p *Plan) Answers() bool { return p.answers }

// Retry returns how long each query waits for its answer; 0 without an Interval.
func (p *Plan) Retry() time.Duration { return time.Duration(p.retry) }

// Speaks reports whether this side sends a ping when it has written nothing
// else for [Plan.Announce].
func (p *Plan) Speaks() bool { return p.speak > 0 }

// Bound is what one of a plan's detectors finds, and when.
type Bound struct {
	Verdict Action // Lost, Deaf or Idle
	// WorstCase is the longest time from the last sign of life, which for Deaf is
	// the last answer, to the verdict, a [Tick] included. For a limit on writing
	// it counts from the last write.
	WorstCase time.Duration
	// Tolerance is the longest outage that does not lead to this verdict. 0: any
	// lost message may.
	Tolerance time.Duration
	// Limit names the field of Config that Idle goes by.
	Limit string
}

// Bounds returns the bounds of the plan's detectors, one by one. WorstCase and
// Tolerance are those of all together.
func (p *Plan) Bounds() []Bound {
	c, b := p.config, p.config.bounds()
	alone := b
	alone.idleRead, alone.idleOut = 0, 0
	var bounds []Bound
	if c.Interval > 0 {
		bounds = append(bounds, Bound{Verdict: Lost, WorstCase: alone.worstCase(false), Tolerance: alone.tolerance(p.queries)})
	}
	if p.confirm > 0 {
		bounds = append(bounds, Bound{Verdict: Deaf, WorstCase: alone.worstCase(true), Tolerance: alone.tolerance(true)})
	}
	for _, limit := range []struct {
		name      string
		d         time.Duration
		idleRead  time.Duration
		idleWrite time.Duration
	}{
		{"IdleRead", c.IdleRead, c.IdleRead, 0},
		{"IdleWrite", c.IdleWrite, 0, c.IdleWrite},
		{"IdleAll", c.IdleAll, 0, c.IdleAll},
	} {
		if limit.d > 0 {
			of := b
			of.idleRead, of.idleOut = limit.idleRead, limit.idleWrite
			bounds = append(bounds, Bound{
				Verdict: Idle, WorstCase: time.Duration(add(int64(limit.d), int64(Tick))),
				Tolerance: of.tolerance(p.queries), Limit: limit.name,
			})
		}
	}
	return bounds
}

// Announce returns the interval to announce in a ping: Speak, the longest time
// until this side's next write. 0: nothing is promised.
func (p *Plan) Announce() time.Duration { return time.Duration(p.speak) }

// WorstCase is [Config.WorstCase] for the role and format of the plan.
func (p *Plan) WorstCase() time.Duration { return p.worstCase }

// Tolerance is [Config.Tolerance] for the role of the plan.
func (p *Plan) Tolerance() time.Duration { return p.tolerance }
