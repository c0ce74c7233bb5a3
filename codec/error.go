package codec

import (
	"fmt"
	"strconv"
)

// Error is the type of every error this package returns. Its size does not
// depend on the input.
type Error struct {
	// Op is the step that failed: "configure", "decode frame", "append frame",
	// "parse GoAway", "parse Hello" or "append Hello token".
	Op string
	// Field names the configuration field at fault ("LengthField.Size"). It
	// is empty unless Err is ErrConfig.
	Field string
	// Detail says what is wrong, with the numbers. It may be empty.
	Detail string
	// Length and Max are the length at fault and the largest one allowed, in
	// bytes, if Err is ErrTooLarge. Length is what the peer claims, and may
	// exceed what an int holds.
	Length, Max uint64
	// Err is ErrMalformed, ErrTooLarge, ErrUnsupported or ErrConfig.
	Err error
}

// Error returns the failed step, the cause and the details.
func (e *Error) Error() string {
	s := e.Op
	for _, part := range [...]string{e.cause(), e.Field, e.Detail} {
		if part != "" {
			s += ": " + part
		}
	}
	if e.Length != 0 || e.Max != 0 {
		s += ": length " + strconv.FormatUint(e.Length, 10) + ", maximum " + strconv.FormatUint(e.Max, 10)
	}
	return s
}

func (e *Error) cause() string {
	if e.Err == nil {
		return ""
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// The steps that can fail.
const (
	opConfigure = "configure"
	opDecode    = "decode frame"
	opAppend    = "append frame"
)

func configError(field, format string, args ...any) error {
	return &Error{Op: opConfigure, Field: field, Detail: fmt.Sprintf(format, args...), Err: ErrConfig}
}

func malformed(op, format string, args ...any) error {
	return &Error{Op: op, Detail: fmt.Sprintf(format, args...), Err: ErrMalformed}
}

func unsupported(op, format string, args ...any) error {
	return &Error{Op: op, Detail: fmt.Sprintf(format, args...), Err: ErrUnsupported}
}

func tooLarge(op string, length, max uint64) error {
	return &Error{Op: op, Length: length, Max: max, Err: ErrTooLarge}
}
