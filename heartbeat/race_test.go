//go:build race

package heartbeat_test

// raceSlowdown divides the number of random scenarios under the race detector.
const raceSlowdown = 15
