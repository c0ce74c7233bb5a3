package codec

// Limits that the documentation states as numbers.
const (
	MaxHeader = maxHeader
	MaxFrame  = maxFrame
)
