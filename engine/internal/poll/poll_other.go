//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package poll

import "errors"

// Open fails: this system has neither epoll nor kqueue.
func Open() (Poller, error) {
	return nil, errors.Join(errors.New("no epoll or kqueue on this system"), errors.ErrUnsupported)
}
