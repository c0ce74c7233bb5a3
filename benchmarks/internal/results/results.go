// Package results writes what a driver measured: NAME.jsonl holds the facts and
// every single run, one JSON object a line, and NAME.md the table for readers.
package results

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// None as the folder means that nothing is written.
const None = "none"

// Dir returns the folder to write to: the one asked for, or today's under
// benchmarks/results, wherever in the checkout the driver was started.
func Dir(ctx context.Context, asked string) (string, error) {
	if asked != "" {
		return asked, nil
	}
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/pulsewheel/pulsewheel/benchmarks")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find benchmarks/results (name a folder with -out): %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "results", time.Now().UTC().Format(time.DateOnly)), nil
}

// Write writes lines and table under name into dir.
func Write(dir, name string, lines []any, table string) error {
	if dir == None {
		return nil
	}
	var raw bytes.Buffer
	e := json.NewEncoder(&raw)
	for _, line := range lines {
		if err := e.Encode(line); err != nil {
			return fmt.Errorf("encode results: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("results: %w", err)
	}
	for file, content := range map[string][]byte{name + ".jsonl": raw.Bytes(), name + ".md": []byte(table)} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o644); err != nil {
			return fmt.Errorf("results: %w", err)
		}
	}
	return nil
}
