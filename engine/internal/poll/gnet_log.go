//go:build (linux && poll_opt) || darwin || freebsd || netbsd || openbsd || dragonfly

package poll

import (
	"fmt"
	"log/slog"
	"sync"

	"github.com/panjf2000/gnet/v2/pkg/logging"
	"github.com/panjf2000/gnet/v2/pkg/netpoll"
)

// redirectGnet sends what gnet's Poller logs, which is next to nothing, to
// slog's default logger. Otherwise it would appear on our user's standard
// output.
var redirectGnet = sync.OnceFunc(func() {
	logging.SetDefaultLoggerAndFlusher(gnetLog{}, nil)
})

type gnetLog struct{}

func (gnetLog) Debugf(f string, a ...any) { slog.Debug("gnet: " + fmt.Sprintf(f, a...)) }
func (gnetLog) Infof(f string, a ...any)  { slog.Info("gnet: " + fmt.Sprintf(f, a...)) }
func (gnetLog) Warnf(f string, a ...any)  { slog.Warn("gnet: " + fmt.Sprintf(f, a...)) }
func (gnetLog) Errorf(f string, a ...any) { slog.Error("gnet: " + fmt.Sprintf(f, a...)) }
func (gnetLog) Fatalf(f string, a ...any) { slog.Error("gnet: " + fmt.Sprintf(f, a...)) }

// openGnet turns the panic with which gnet's poll_opt variant answers a failed
// eventfd (no descriptor left, say) into an error.
func openGnet() (p *netpoll.Poller, err error) {
	defer func() {
		if r := recover(); r != nil {
			p, err = nil, fmt.Errorf("open poller: %v", r)
		}
	}()
	return netpoll.OpenPoller()
}
