// Package mutant lets tests build their own package with a mistake in it, to see
// that they notice.
package mutant

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Source returns a file of the package in the working directory with old replaced
// by new. It is an error if the file does not have old exactly once: then it has
// changed, and the mistake is to be brought up to date.
func Source(file, old, new string) (string, error) {
	source, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(source), old); n != 1 {
		return "", fmt.Errorf("%s has the text to replace %d times; bring the mutant up to date:\n%s", file, n, old)
	}
	return strings.Replace(string(source), old, new, 1), nil
}

// Build builds the test binary of the package in the working directory, in which
// file has that source, and returns its path. It is gone when t ends.
func Build(t *testing.T, file, source string) (binary string) {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	mutated := filepath.Join(tmp, file)
	if err := os.WriteFile(mutated, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(dir, file): mutated}})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(tmp, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	binary = filepath.Join(tmp, "mutant.test")
	build := exec.Command("go", "test", "-c", "-ldflags", "-s -w", "-overlay", list, "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s does not build: %v\n%s", file, err, out)
	}
	return binary
}
