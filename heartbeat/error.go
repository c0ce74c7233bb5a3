package heartbeat

import (
	"errors"
	"fmt"
)

// ErrConfig is wrapped by every error of [Config.Validate] and [Config.Plan].
var ErrConfig = errors.New("invalid heartbeat configuration")

// FieldError names the field of a Config that contradicts itself, another
// field or the wire format. It wraps [ErrConfig].
type FieldError struct {
	Field   string // name of the field, as in Config
	Problem string // what is wrong, and what would mend it
}

func (e *FieldError) Error() string {
	return ErrConfig.Error() + ": " + e.Field + ": " + e.Problem
}

func (e *FieldError) Unwrap() error { return ErrConfig }

func fault(field, format string, args ...any) error {
	return &FieldError{Field: field, Problem: fmt.Sprintf(format, args...)}
}
