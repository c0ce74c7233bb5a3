package netns

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Fault is what the router does to one host's traffic.
type Fault string

const (
	// Cut drops what comes from the host, and what goes to it.
	Cut Fault = "cut"
	// CutFrom drops what comes from the host.
	CutFrom Fault = "cut_from"
	// CutTo drops what goes to the host.
	CutTo Fault = "cut_to"
	// HostUnreachable answers what goes to the host with that ICMP message,
	// and drops what comes from it.
	HostUnreachable Fault = "host_unreachable"
	// NetUnreachable likewise.
	NetUnreachable Fault = "net_unreachable"
)

// rules is the router's ruleset. A fault is one more element in a set. The
// translation keeps a mapping for each connection that a host behind it has
// opened, and drops what belongs to none, as NATs do from either side.
const rules = `table ip faults {
	set cut { type ipv4_addr; }
	set cut_from { type ipv4_addr; }
	set cut_to { type ipv4_addr; }
	set host_unreachable { type ipv4_addr; }
	set net_unreachable { type ipv4_addr; }
	set translated { type ipv4_addr; }
	set mappings { type ipv4_addr . inet_service; size 65536; flags dynamic,timeout; timeout 1h; }
	chain forward {
		type filter hook forward priority 0; policy accept;
		ip saddr @cut drop
		ip daddr @cut drop
		ip saddr @cut_from drop
		ip daddr @cut_to drop
		ip saddr @host_unreachable drop
		ip daddr @host_unreachable reject with icmp type host-unreachable
		ip saddr @net_unreachable drop
		ip daddr @net_unreachable reject with icmp type net-unreachable
		ip saddr @translated tcp flags & (syn|ack) == syn add @mappings { ip saddr . tcp sport }
		ip saddr @translated ip saddr . tcp sport != @mappings drop
		ip daddr @translated ip daddr . tcp dport != @mappings drop
	}
}
`

// Net is a router with its hosts. Its methods may be called by any goroutine,
// but hosts are added by one at a time.
type Net struct {
	prefix string
	hosts  map[string]int // their numbers
}

// namePrefix begins the name of every namespace of this package. What follows
// says whose it is, so that the namespaces of a process that was killed can be
// told from those of one that lives.
const namePrefix = "pulsewheel-"

// nets counts the networks of this process.
var nets atomic.Int64

// folder is where ip(8) keeps the names.
const folder = "/run/netns"

// Permitted returns nil if this process can build a network, or what is
// missing.
func Permitted() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	for _, c := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(c); err != nil {
			return fmt.Errorf("network namespaces need the command %s: %w", c, err)
		}
	}
	// A container may have root and not the right to do this.
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- unix.Unshare(unix.CLONE_NEWNET)
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("network namespaces are not permitted: %w", os.NewSyscallError("unshare", err))
	}
	return nil
}

// New builds the router. It removes what processes that were killed have left
// behind. The caller must Close the network.
func New() (*Net, error) {
	if err := removeStrays(); err != nil {
		return nil, err
	}
	started, err := startOf(os.Getpid())
	if err != nil {
		return nil, err
	}
	n := &Net{prefix: fmt.Sprintf("%s%d-%s-%d-", namePrefix, os.Getpid(), started, nets.Add(1)), hosts: make(map[string]int)}
	err = n.build()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("build a network: %w", err), n.Close())
	}
	return n, nil
}

func (n *Net) build() error {
	if err := ip("", "netns add "+n.name("")); err != nil {
		return err
	}
	// Every connection of a host is to hear of the fault, so what the router
	// says is not limited.
	for _, s := range []string{
		"ip_forward=1", "conf.all.rp_filter=0", "conf.default.rp_filter=0", "icmp_ratelimit=0", "icmp_msgs_per_sec=1000000", "icmp_msgs_burst=100000",
	} {
		if err := n.Run("", "", "sysctl", "-q", "-w", "net.ipv4."+s); err != nil {
			return err
		}
	}
	return n.Run("", rules, "nft", "-f", "-")
}

// AddHost adds a host of that name, and returns its address.
func (n *Net) AddHost(name string) (netip.Addr, error) {
	i := len(n.hosts) + 1
	n.hosts[name] = i
	if err := n.plug(i, name, "h"); err != nil {
		return netip.Addr{}, fmt.Errorf("add host %s: %w", name, err)
	}
	if err := ip(n.name(""), fmt.Sprintf("address add 10.0.%d.1/24 dev h%d\nneighbour add 10.0.%d.2 lladdr %s dev h%d nud permanent",
		i, i, i, mac(i, "h", 2), i)); err != nil {
		return netip.Addr{}, fmt.Errorf("add host %s: %w", name, err)
	}
	return n.Addr(name), nil
}

// plug makes a namespace, and its link with the router. Neither side asks who
// the other is, so that links fail silently.
func (n *Net) plug(i int, name, kind string) error {
	outer := fmt.Sprintf("%s%d", kind, i)
	if err := ip("", fmt.Sprintf("netns add %s\nlink add %s netns %s address %s type veth peer name eth0 netns %s address %s",
		n.name(name), outer, n.name(""), mac(i, kind, 1), n.name(name), mac(i, kind, 2))); err != nil {
		return err
	}
	if err := ip(n.name(""), "link set "+outer+" up"); err != nil {
		return err
	}
	return ip(n.name(name), fmt.Sprintf("link set lo up\nlink set eth0 up\naddress add 10.0.%d.2/24 dev eth0\n"+
		"neighbour add 10.0.%d.1 lladdr %s dev eth0 nud permanent\nroute add default via 10.0.%d.1", i, i, mac(i, kind, 1), i))
}

// mac returns an address for one end of a link: 1 is the router's.
func mac(i int, kind string, end int) string {
	return fmt.Sprintf("02:00:00:%02x:%02x:%02x", kind[0], i, end)
}

// Addr returns the address of a host.
func (n *Net) Addr(host string) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, byte(n.hosts[host]), 2})
}

// Command returns the command line that runs argv on a host.
func (n *Net) Command(host string, argv ...string) []string {
	return append([]string{"ip", "netns", "exec", n.name(host)}, argv...)
}

// Run runs a command on a host, or on the router if that is "", with stdin as
// its standard input.
func (n *Net) Run(host, stdin string, argv ...string) error {
	return n.within(host, func() error { return run(stdin, argv...) })
}

// within calls f on a thread that is in a host's namespace. Processes that f
// starts, and sockets that it opens, are of that host.
func (n *Net) within(host string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := enter(n.name(host))
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// enter puts the calling thread into a namespace.
func enter(name string) error {
	f, err := os.Open(filepath.Join(folder, name))
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("setns", unix.Setns(int(f.Fd()), unix.CLONE_NEWNET))
}

// Break makes the router do f to the host's traffic.
func (n *Net) Break(host string, f Fault) error {
	return n.Run("", "", "nft", "add", "element", "ip", "faults", string(f), "{", n.Addr(host).String(), "}")
}

// Mend ends what Break began.
func (n *Net) Mend(host string, f Fault) error {
	return n.Run("", "", "nft", "delete", "element", "ip", "faults", string(f), "{", n.Addr(host).String(), "}")
}

// Translate puts the host behind a NAT, in so far as only connections pass that
// the host opens from now on.
func (n *Net) Translate(host string) error { return n.Break(host, "translated") }

// Forget makes that NAT forget all connections.
func (n *Net) Forget() error { return n.Run("", "", "nft", "flush", "set", "ip", "faults", "mappings") }

// Unplug takes the host off its link: nothing comes from it, and nothing that
// goes to it is answered by anyone.
func (n *Net) Unplug(host string) error { return ip(n.name(host), "link set eth0 down") }

// AddTwin prepares Reboot.
func (n *Net) AddTwin(host string) error {
	i := n.hosts[host]
	if err := n.plug(i, host+"-twin", "t"); err != nil {
		return fmt.Errorf("add a twin of host %s: %w", host, err)
	}
	return ip(n.name(""), fmt.Sprintf("neighbour add 10.0.%d.2 lladdr %s dev t%d nud permanent", i, mac(i, "t", 2), i))
}

// Reboot loses the host, and puts a new one in its place that has its address
// and knows none of its connections. AddTwin has prepared it.
func (n *Net) Reboot(host string) error {
	i := n.hosts[host]
	if err := n.Break(host, Cut); err != nil {
		return err
	}
	if err := ip(n.name(""), fmt.Sprintf("route add 10.0.%d.2/32 dev t%d\nlink set h%d down", i, i, i)); err != nil {
		return err
	}
	return n.Mend(host, Cut)
}

// Close removes the network. What runs in it must have ended, or its namespaces
// go when it does.
func (n *Net) Close() error {
	return remove(func(name string) bool { return strings.HasPrefix(name, n.prefix) })
}

// name returns the name of a host's namespace; of the router's, if host is "".
func (n *Net) name(host string) string {
	if host == "" {
		host = "router"
	}
	return n.prefix + host
}

// remove removes the namespaces whose names match. Others may be doing the same.
func remove(match func(name string) bool) error {
	script, err := deletions(match)
	if err != nil || script == "" {
		return err
	}
	failed := run(script, "ip", "-force", "-batch", "-")
	if script, err = deletions(match); err == nil && script == "" {
		return nil
	}
	return errors.Join(failed, err)
}

// deletions returns what ip(8) is to do so that no name that matches is left.
func deletions(match func(name string) bool) (script string, err error) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	for _, e := range entries {
		if match(e.Name()) {
			script += "netns delete " + e.Name() + "\n"
		}
	}
	return script, err
}

// removeStrays removes the namespaces of processes that are gone.
func removeStrays() error {
	return remove(func(name string) bool {
		rest, ours := strings.CutPrefix(name, namePrefix)
		var pid int
		var started string
		if n, _ := fmt.Sscanf(strings.ReplaceAll(rest, "-", " "), "%d %s", &pid, &started); !ours || n != 2 {
			return false
		}
		now, err := startOf(pid)
		return errors.Is(err, fs.ErrNotExist) || err == nil && now != started
	})
}

// startOf returns when a process was started, in ticks since the machine was:
// field 22 of /proc/PID/stat, which tells it from another one of that number. One
// that is dead, and only waits for its parent to hear of it, does not exist.
func startOf(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // the name may hold anything
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return "", fs.ErrNotExist
	}
	return fields[19], nil
}

// ip runs lines of ip(8) in a namespace; "": this process's.
func ip(namespace, lines string) error {
	argv := []string{"ip", "-batch", "-"}
	if namespace != "" {
		argv = []string{"ip", "-netns", namespace, "-batch", "-"}
	}
	return run(lines+"\n", argv...)
}

func run(stdin string, argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
