//go:build (darwin || freebsd || netbsd || openbsd || dragonfly) && !poll_opt

package poll

import "github.com/panjf2000/gnet/v2/pkg/netpoll"

// attachments is empty here: gnet's default Poller reads the descriptor out of
// the attachment and keeps no pointer to it.
type attachments struct{ scratch netpoll.PollAttachment }

func (p *native) attachment(fd int) *netpoll.PollAttachment {
	p.pool.scratch.FD = fd
	return &p.pool.scratch
}

func (p *native) polling() error { return p.gnet.Polling(p.callback()) }
