package lack_test

import (
	"fmt"
	"testing"

	"github.com/pulsewheel/pulsewheel/internal/lack"
)

// recorder notes how a test was ended.
type recorder struct {
	testing.TB
	ended string
}

func (r *recorder) Helper()           {}
func (r *recorder) Skip(args ...any)  { r.ended = "skipped: " + fmt.Sprint(args...) }
func (r *recorder) Fatal(args ...any) { r.ended = "failed"; panic(r) }

func TestSkip(t *testing.T) {
	for ci, want := range map[string]string{"": "skipped: no nft", "true": "failed"} {
		t.Setenv("CI", ci)
		r := &recorder{}
		func() {
			defer func() { _ = recover() }()
			lack.Skip(r, "no nft")
		}()
		if r.ended != want {
			t.Errorf("with CI=%q: %q, want %q", ci, r.ended, want)
		}
	}
}
