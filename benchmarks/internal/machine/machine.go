// Package machine states the facts without which a measured figure means
// little, and no others: nothing that names a person, a host or a path.
package machine

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/cc"
)

// Facts describe where and how a measurement was taken.
type Facts struct {
	Date     string `json:"date"`
	Command  string `json:"command"`
	OS       string `json:"os"`
	Kernel   string `json:"kernel"`
	CPU      string `json:"cpu"`
	CPUs     int    `json:"cpus"`
	TCP      string `json:"tcp"` // congestion control, which paces loopback too
	Go       string `json:"go"`
	Compiler string `json:"compiler"`
}

// Gather collects the facts. The command is given as it can be repeated from
// the repository's root: program is its package path, and of the flags that
// were set, those named in without are left out.
func Gather(program string, set *flag.FlagSet, without ...string) Facts {
	command := []string{"go run ./" + program}
	set.Visit(func(f *flag.Flag) {
		for _, name := range without {
			if f.Name == name {
				return
			}
		}
		command = append(command, fmt.Sprintf("-%s=%s", f.Name, f.Value))
	})
	return Facts{
		Date:     time.Now().UTC().Format(time.DateOnly),
		Command:  strings.Join(command, " "),
		OS:       runtime.GOOS + "/" + runtime.GOARCH,
		Kernel:   numeric(kernel()),
		CPU:      model(),
		CPUs:     runtime.NumCPU(),
		TCP:      congestion(),
		Go:       runtime.Version(),
		Compiler: cc.Version(),
	}
}

// Markdown is the facts as a list.
func (f Facts) Markdown() string {
	return fmt.Sprintf("- date: %s\n- command: `%s`\n- system: %s, kernel %s\n- processor: %s, %d visible\n- TCP congestion control: %s\n- Go: %s\n- C compiler: %s\n",
		f.Date, f.Command, f.OS, f.Kernel, f.CPU, f.CPUs, f.TCP, f.Go, f.Compiler)
}

// numeric cuts a kernel release to its version: what follows names a build,
// not a behaviour.
func numeric(release string) string {
	end := strings.IndexFunc(release, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end > 0 {
		return release[:end]
	}
	return release
}
