package results_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/results"
)

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	if err := results.Write(dir, "echo", []any{map[string]int{"a": 1}, "b"}, "| table |\n"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"echo.jsonl": "{\"a\":1}\n\"b\"\n", "echo.md": "| table |\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q (%v), want %q", name, got, err, want)
		}
	}
}

func TestWriteNone(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := results.Write(results.None, "echo", nil, ""); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir("."); err != nil || len(left) != 0 {
		t.Errorf("written: %v, %v", left, err)
	}
}
