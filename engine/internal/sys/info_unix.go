//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package sys

// Info knows nothing here yet.
func (*Kernel) Info(int) Info { return Info{Unacked: -1} }
