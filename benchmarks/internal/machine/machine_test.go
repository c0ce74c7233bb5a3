package machine_test

import (
	"flag"
	"strings"
	"testing"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/machine"
)

func TestCommandCanBeRepeatedElsewhere(t *testing.T) {
	set := flag.NewFlagSet("", flag.ContinueOnError)
	set.Int("n", 1, "")
	set.Int("unset", 1, "")
	set.String("out", "", "")
	if err := set.Parse([]string{"-n", "3", "-out", "/home/someone"}); err != nil {
		t.Fatal(err)
	}
	f := machine.Gather("benchmarks/echo", set, "out")
	if want := "go run ./benchmarks/echo -n=3"; f.Command != want {
		t.Errorf("Command = %q, want %q", f.Command, want)
	}
	if strings.ContainsAny(f.Kernel, "-_") {
		t.Errorf("kernel %q names a build", f.Kernel)
	}
}
