//go:build freebsd || netbsd || openbsd || dragonfly

package sys

// setNotSent does nothing: the system has no such option.
func setNotSent(int, int) error { return nil }
