//go:build (linux || darwin || freebsd || netbsd || openbsd || dragonfly) && poll_opt

package poll

import "github.com/panjf2000/gnet/v2/pkg/netpoll"

const pageSize = 256

// attachments holds one PollAttachment for every descriptor number ever
// watched, in pages that are never freed or moved while the poller lives: the
// kernel keeps raw pointers to them, and a batch may still hold one of a
// descriptor that was closed a moment ago.
type attachments struct {
	pages    []*[pageSize]netpoll.PollAttachment
	callback netpoll.PollEventHandler
}

func (p *native) attachment(fd int) *netpoll.PollAttachment {
	a := &p.pool
	if a.callback == nil {
		a.callback = p.callback()
	}
	for fd/pageSize >= len(a.pages) {
		a.pages = append(a.pages, nil)
	}
	page := a.pages[fd/pageSize]
	if page == nil {
		page = new([pageSize]netpoll.PollAttachment)
		a.pages[fd/pageSize] = page
	}
	pa := &page[fd%pageSize]
	pa.FD, pa.Callback = fd, a.callback
	return pa
}

func (p *native) polling() error { return p.gnet.Polling() }
