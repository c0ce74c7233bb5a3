package cc_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/cc"
	"github.com/pulsewheel/pulsewheel/benchmarks/internal/cc/cctest"
)

func TestBuild(t *testing.T) {
	path, err := cc.Build(t.Context(), t.TempDir(), "three", "int main(void) { return 3; }\n")
	cctest.Check(t, err)
	var exit *exec.ExitError
	if err := exec.Command(path).Run(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("the program ended with %v, want exit status 3", err)
	}
}

func TestBuildFrom(t *testing.T) {
	sources := fstest.MapFS{
		"main.c":  {Data: []byte("#include \"value.c\"\nint main(void) { return value; }\n")},
		"value.c": {Data: []byte("enum { value = 4 };\n")},
	}
	path, err := cc.BuildFrom(t.Context(), t.TempDir(), sources, "main.c")
	cctest.Check(t, err)
	var exit *exec.ExitError
	if err := exec.Command(path).Run(); !errors.As(err, &exit) || exit.ExitCode() != 4 {
		t.Errorf("the program ended with %v, want exit status 4", err)
	}
}

func TestBuildSaysWhatIsWrong(t *testing.T) {
	_, err := cc.Build(t.Context(), t.TempDir(), "wrong", "int main(void) { return nothing; }\n")
	if errors.Is(err, cc.ErrNoCompiler) {
		cctest.Check(t, err)
	}
	if err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("error %v does not quote the compiler", err)
	}
}

func TestNoCompiler(t *testing.T) {
	t.Setenv("CC", "no-such-compiler")
	if _, err := cc.Build(t.Context(), t.TempDir(), "x", ""); !errors.Is(err, cc.ErrNoCompiler) {
		t.Errorf("error %v is not ErrNoCompiler", err)
	}
	if v := cc.Version(); v != "none" {
		t.Errorf("Version = %q", v)
	}
}
