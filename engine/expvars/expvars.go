// Package expvars shows an engine's numbers at /debug/vars, by package expvar of
// the standard library. It is a package of its own because expvar brings
// net/http with it.
package expvars

import (
	"expvar"

	"github.com/pulsewheel/pulsewheel/engine"
)

// Publish makes the numbers of a server or client a variable of that name. They
// are read when somebody asks for them: [engine.Stats] as JSON, durations in
// nanoseconds, reasons by name. Like expvar.Publish it panics if the name is
// taken, and a variable stays for the life of the process.
func Publish(name string, stats func() engine.Stats) {
	expvar.Publish(name, expvar.Func(func() any { return stats() }))
}
