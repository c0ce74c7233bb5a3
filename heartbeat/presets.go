package heartbeat

import "time"

// The presets share one shape: three tries, each about as long as the
// interval, so that the larger part of the worst case is spent on trying, which
// is what [Config.Tolerance] grows with.

// Relaxed finds a dead peer within 40 s, which suits most applications, at one
// ping in 12 s on a quiet connection.
func Relaxed() Config {
	return Config{Interval: 12 * time.Second, Misses: 3, Retry: 9 * time.Second}
}

// Strict finds a dead peer within 9 s, at one ping in 2.5 s on a quiet
// connection.
func Strict() Config {
	return Config{Interval: 2500 * time.Millisecond, Misses: 3, Retry: 2 * time.Second}
}

// Realtime finds a dead peer within 2 s, at one ping in 300 ms on a quiet
// connection. Mobile and satellite networks pause for longer than its
// Tolerance.
func Realtime() Config {
	return Config{Interval: 300 * time.Millisecond, Misses: 3, Retry: 550 * time.Millisecond}
}
