// Package lack lets tests be skipped where a machine lacks what they need, and
// never in continuous integration, which has to have it all.
package lack

import (
	"fmt"
	"os"
	"testing"
)

// Skip skips a test for what is missing. Where the environment has CI set, it
// fails instead.
func Skip(t testing.TB, missing ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal("must not be missing here: ", fmt.Sprint(missing...))
	}
	t.Skip(missing...)
}
