// Package sizes describes how large payloads are: all alike, or drawn from a
// distribution.
//
// Sizes are drawn by number and not one after another, so that whoever checks
// message k knows its size without having been told.
package sizes

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// MaxSize is the largest payload, in bytes.
const MaxSize = 16<<20 - 1

// Distribution says which share of messages has which size. The zero value is
// not valid; Parse makes one.
type Distribution struct {
	text     string
	kind     kind
	low, top int     // both possible
	mean     float64 // exp
	list     []int
}

type kind uint8

const (
	fixed kind = iota
	uniform
	exponential
	listed
)

// expSpan is how many means the longest payload of exp:MEAN has: one message
// in nine million would have been longer, and buffers need a limit.
const expSpan = 16

// Parse reads a distribution:
//
//	fixed:64 or 64        all have 64 bytes
//	uniform:16-1024       each size from 16 to 1,024 bytes alike
//	exp:256               exponential with that mean, from 1 byte to 16 means
//	list:16,16,64,4096    one of these; repeat one to have it more often
func Parse(text string) (Distribution, error) {
	name, rest, named := strings.Cut(text, ":")
	if !named {
		name, rest = "fixed", text
	}
	d := Distribution{text: text}
	var err error
	switch name {
	case "fixed":
		d.low, err = size(rest)
		d.top = d.low
	case "uniform":
		low, top, found := strings.Cut(rest, "-")
		if !found {
			return Distribution{}, fmt.Errorf("payload %q: want uniform:SMALLEST-LARGEST", text)
		}
		d.kind = uniform
		if d.low, err = size(low); err == nil {
			d.top, err = size(top)
		}
		if err == nil && d.low > d.top {
			err = fmt.Errorf("%d is above %d", d.low, d.top)
		}
	case "exp":
		var mean int
		mean, err = size(rest)
		d.kind, d.mean, d.low = exponential, float64(mean), 1
		d.top = min(expSpan*mean, MaxSize)
	case "list":
		d.kind = listed
		for item := range strings.SplitSeq(rest, ",") {
			var n int
			if n, err = size(item); err != nil {
				break
			}
			d.list = append(d.list, n)
		}
		if err == nil {
			d.low, d.top = slices.Min(d.list), slices.Max(d.list)
		}
	default:
		err = fmt.Errorf("no distribution %q; there are fixed, uniform, exp and list", name)
	}
	if err != nil {
		return Distribution{}, fmt.Errorf("payload %q: %w", text, err)
	}
	return d, nil
}

func size(text string) (int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || n < 1 || n > MaxSize {
		return 0, fmt.Errorf("%q is no size from 1 to %d bytes", text, MaxSize)
	}
	return n, nil
}

// String returns what was parsed.
func (d Distribution) String() string { return d.text }

// Min is the smallest size that can be drawn.
func (d Distribution) Min() int { return d.low }

// Max is the largest size that can be drawn.
func (d Distribution) Max() int { return d.top }

// At is the size of the message with that key. Keys that differ in any bit
// draw independently.
func (d Distribution) At(key uint64) int {
	if d.kind == fixed {
		return d.low
	}
	x := mix(key)
	switch d.kind {
	case uniform:
		return d.low + int(x%uint64(d.top-d.low+1))
	case exponential:
		unit := (float64(x>>11) + 0.5) / (1 << 53) // in (0, 1)
		return min(max(int(math.Round(-d.mean*math.Log(unit))), d.low), d.top)
	default:
		return d.list[x%uint64(len(d.list))]
	}
}

// mix is the finalizer of SplitMix64: every bit of the result depends on every
// bit of x.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
