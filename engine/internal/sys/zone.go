package sys

import (
	"net"
	"net/netip"
	"strconv"
)

// withZone names the interface of a link-local address. The zone string is our
// own: those of gnet's pooled addresses are overwritten later.
func withZone(ip netip.Addr, zone uint32) netip.Addr {
	if zone == 0 {
		return ip
	}
	if ifi, err := net.InterfaceByIndex(int(zone)); err == nil {
		return ip.WithZone(ifi.Name)
	}
	return ip.WithZone(strconv.FormatUint(uint64(zone), 10))
}
