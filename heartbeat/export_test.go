package heartbeat

// Measured gives the tests the estimator of round-trip times by itself.
func (s *State) Measured(ns int64) { s.rtt.measured(ns) }

// Saturating sums, by themselves.
var (
	Add      = add
	Sub      = sub
	Mul      = mul
	Fraction = fraction
)
