//go:build !linux

package main

import (
	"errors"
	"fmt"
	"runtime"
)

// network is where the server and its clients run: here, always.
type network struct{}

var errNoNetwork = fmt.Errorf("%s has no network namespaces: %w", runtime.GOOS, errors.ErrUnsupported)

func openNetwork() (*network, error) { return nil, errNoNetwork }

func (*network) close() error                           { return nil }
func (*network) command(_ way, program string) []string { return []string{program} }
func (*network) listen() string                         { return "tcp://127.0.0.1:0" }
func (*network) reach(_ way, addr string) string        { return addr }
func (*network) strike(way) error                       { return errNoNetwork }
