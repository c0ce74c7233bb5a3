package heartbeat

import (
	"math"
	"math/bits"
)

// never is the deadline that does not come. Every sum of a time and a duration
// stops there instead of wrapping.
const never = math.MaxInt64

// add returns t + d for d >= 0.
func add(t, d int64) int64 {
	if t > never-d {
		return never
	}
	return t + d
}

// sub returns a - b, kept within int64.
func sub(a, b int64) int64 {
	d := a - b
	if (a < b) == (d < 0) {
		return d
	}
	if a < b {
		return math.MinInt64
	}
	return never
}

// mul returns n * d for n, d >= 0.
func mul(n, d int64) int64 {
	hi, lo := bits.Mul64(uint64(n), uint64(d))
	if hi != 0 || lo > never {
		return never
	}
	return int64(lo)
}

// after returns the deadline a limit d after t, never if the limit is off.
func after(t, d int64) int64 {
	if d == 0 {
		return never
	}
	return add(t, d)
}

// due reports whether deadline t has come.
func due(t, now int64) bool { return t <= now && t != never }

// fraction returns d * (phase + 1) / 2^32 for d > 0, rounded down but never to 0:
// between 1 and d.
func fraction(d int64, phase uint32) int64 {
	hi, lo := bits.Mul64(uint64(d), uint64(phase)+1)
	return max(1, int64(hi<<32|lo>>32))
}
