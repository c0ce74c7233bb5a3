// Package cc compiles the C programs of the benchmarks, each of which is one
// translation unit.
package cc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNoCompiler says that there is no C compiler to be found.
var ErrNoCompiler = errors.New("no C compiler found: install gcc, or set CC")

// Flags are the same for every program that is measured or measures.
var Flags = []string{"-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror"}

func find() (string, error) {
	names := []string{"gcc", "cc", "clang"}
	if cc := os.Getenv("CC"); cc != "" {
		names = []string{cc}
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNoCompiler
}

// Build compiles source to an executable called name in dir and returns its path.
func Build(ctx context.Context, dir, name, source string) (string, error) {
	compiler, err := find()
	if err != nil {
		return "", fmt.Errorf("compile %s.c: %w", name, err)
	}
	from, to := filepath.Join(dir, name+".c"), filepath.Join(dir, name)
	if err := os.WriteFile(from, []byte(source), 0o600); err != nil {
		return "", fmt.Errorf("compile %s.c: %w", name, err)
	}
	return to, compile(ctx, compiler, from, to)
}

// BuildFrom compiles main, which may include the other files of sources, to an
// executable in dir called main without its extension, and returns its path.
func BuildFrom(ctx context.Context, dir string, sources fs.FS, main string) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("compile %s: %w", main, err) }
	compiler, err := find()
	if err != nil {
		return fail(err)
	}
	name := strings.TrimSuffix(main, ".c")
	from := filepath.Join(dir, name+"-source")
	if err := os.CopyFS(from, sources); err != nil {
		return fail(err)
	}
	to := filepath.Join(dir, name)
	return to, compile(ctx, compiler, filepath.Join(from, main), to)
}

func compile(ctx context.Context, compiler, from, to string) error {
	args := append(append([]string{}, Flags...), "-o", to, from)
	out, err := exec.CommandContext(ctx, compiler, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("compile %s: %w\n%s", filepath.Base(from), err, bytes.TrimSpace(out))
	}
	return nil
}

// Version is the compiler's first line about itself, or "none".
func Version() string {
	compiler, err := find()
	if err != nil {
		return "none"
	}
	out, err := exec.Command(compiler, "--version").Output()
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(first)
}
