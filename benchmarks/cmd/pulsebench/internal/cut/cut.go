// Package cut makes connections fall silent as if their cable had been pulled:
// no packet of theirs gets out any more, neither data nor acknowledgement.
//
// What the server sends still comes in, so that its verdict can be seen the
// moment it closes the connection. The server cannot tell: whatever it sends,
// nothing answers.
package cut

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// Mark is the mark of sockets whose packets are dropped ("PULS").
const Mark = 0x50554c53

// Scissors is the rule in the kernel, for as long as it is needed.
type Scissors struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr bytes.Buffer
}

// limit is how long nft may take to end.
const limit = 5 * time.Second

// ready is what nft is made to print when the rules are in place.
const ready = "pulsebench"

// Open puts the rule in place, which needs root and nft. The table belongs to
// the nft process that made it: the kernel removes it when that process ends,
// however it does, and that process ends with this one.
func Open() (*Scissors, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root")
	}
	path, err := exec.LookPath("nft")
	if err != nil {
		return nil, errors.New("needs nft (package nftables)")
	}
	table := fmt.Sprintf("pulsebench_%d", os.Getpid())
	s := &Scissors{cmd: exec.Command(path, "-i")}
	s.cmd.Stderr = &s.stderr
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("nft: %w", err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("nft: %w", err)
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("nft: %w", err)
	}
	fmt.Fprintf(s.stdin, "add table inet %s { flags owner; comment \"%s\"; }\n", table, ready)
	fmt.Fprintf(s.stdin, "add chain inet %s out { type filter hook output priority 0; }\n", table)
	fmt.Fprintf(s.stdin, "add rule inet %s out meta mark %#x drop\n", table, Mark)
	fmt.Fprintf(s.stdin, "list table inet %s\n", table)
	listed := make(chan bool, 1)
	go func() {
		var seen []byte
		buf := make([]byte, 4096)
		for {
			n, err := out.Read(buf)
			seen = append(seen, buf[:n]...)
			if bytes.Contains(seen, []byte("drop")) && bytes.Contains(seen, []byte("hook output")) {
				listed <- true
				_, _ = io.Copy(io.Discard, out)
				return
			}
			if err != nil || len(seen) > 64<<10 {
				listed <- false
				_, _ = io.Copy(io.Discard, out)
				return
			}
		}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	ok := false
	select {
	case ok = <-listed:
	case <-timer.C:
	}
	if !ok {
		_ = s.Close()
		return nil, fmt.Errorf("nft: %s", bytes.TrimSpace(s.stderr.Bytes()))
	}
	return s, nil
}

// Close removes the rule.
func (s *Scissors) Close() error {
	_, _ = io.WriteString(s.stdin, "quit\n")
	_ = s.stdin.Close()
	kill := time.AfterFunc(limit, func() { _ = s.cmd.Process.Kill() })
	defer kill.Stop()
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(s.stderr.Bytes()))
	}
	return nil
}
