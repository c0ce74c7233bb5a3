//go:build linux && poll_opt

package poll

import "github.com/panjf2000/gnet/v2/pkg/netpoll"

const edgeListeners = false

// Pause registers anew, for writing only: a reset arrives as OUT|ERR|HUP|RDHUP, a
// FIN as OUT|RDHUP. Modifying in place would re-arm reading, because both of gnet's
// modifications include it.
func (p *native) Pause(fd int) error {
	if err := p.gnet.Delete(fd); err != nil {
		return err
	}
	return p.gnet.AddWrite(p.attachment(fd), true)
}

func (p *native) Resume(fd int, writing bool) error { return p.Writing(fd, writing) }

func translate(ev netpoll.IOEvent, _ netpoll.IOFlags) Events { return translateEpoll(ev) }
