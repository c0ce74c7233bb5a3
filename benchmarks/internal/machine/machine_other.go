//go:build !linux

package machine

// Measurements are taken on Linux; elsewhere the package only has to build.
func kernel() string { return "unknown" }
func model() string  { return "unknown" }

func congestion() string { return "unknown" }
