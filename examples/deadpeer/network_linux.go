package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pulsewheel/pulsewheel/internal/netns"
)

// network is where the server and its clients run: on one host, where they talk
// over loopback, and with a host for each of farWays. Nil: where this process
// runs, and nobody can be far.
type network struct{ *netns.Net }

const home = "server"

// openNetwork builds a network. The error says why there can be none.
func openNetwork() (*network, error) {
	if err := netns.Permitted(); err != nil {
		return nil, err
	}
	net, err := netns.New()
	if err != nil {
		return nil, err
	}
	hosts := []string{home}
	for _, w := range farWays {
		hosts = append(hosts, string(w))
	}
	for _, host := range hosts {
		if _, err := net.AddHost(host); err != nil {
			return nil, errors.Join(err, net.Close())
		}
	}
	return &network{net}, nil
}

// close removes the network. Its processes have ended.
func (n *network) close() error { return n.Close() }

// command returns the command line of a process with clients of that way.
func (n *network) command(w way, program string) []string {
	switch {
	case n == nil:
		return []string{program}
	case w.far():
		return n.Command(string(w), program)
	}
	return n.Command(home, program)
}

// listen returns where the server is to listen.
func (n *network) listen() string {
	if n == nil {
		return "tcp://127.0.0.1:0"
	}
	return "tcp://0.0.0.0:0"
}

// reach returns how clients of that way reach a server that listens at addr.
func (n *network) reach(w way, addr string) string {
	if n == nil {
		return addr
	}
	host := "127.0.0.1"
	if w.far() {
		host = n.Addr(home).String()
	}
	return strings.Replace(addr, "0.0.0.0", host, 1)
}

// strike breaks the network of the clients of that way.
func (n *network) strike(w way) error {
	faults := map[way]netns.Fault{cut: netns.Cut, oneWay: netns.CutFrom, refused: netns.HostUnreachable}
	if err := n.Break(string(w), faults[w]); err != nil {
		return fmt.Errorf("%s: %w", w, err)
	}
	return nil
}
