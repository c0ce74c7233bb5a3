//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsewheel/pulsewheel/benchmarks/internal/proc"
	"github.com/pulsewheel/pulsewheel/internal/netns"
)

const (
	startLimit = 30 * time.Second
	callLimit  = 30 * time.Second
)

// now is the clock that all processes of a machine share.
func now() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano()
}

// childFlag makes this program a child: the role and the driver's socket follow.
const childFlag = "-child"

// childMain is what a child does. It returns false in the driver.
func childMain() bool {
	if len(os.Args) != 4 || os.Args[1] != childFlag {
		return false
	}
	if err := serveDriver(os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "death:", os.Args[2]+":", err)
		os.Exit(1)
	}
	return true
}

// serveDriver does what the driver asks for, until it hangs up.
func serveDriver(role, socket string) error {
	var receiver any
	switch role {
	case "server":
		receiver = newServer()
	case "client":
		receiver = newClient()
	default:
		return fmt.Errorf("no role %q", role)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	s := rpc.NewServer()
	if err := s.RegisterName("Child", receiver); err != nil {
		return err
	}
	s.ServeConn(conn)
	return nil
}

// child is a process of the driver's.
type child struct {
	name string
	proc *proc.Process
	rpc  *rpc.Client
}

// start starts a child of this program on a host.
func start(ctx context.Context, n *netns.Net, host, role, dir string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, host)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	p, err := proc.Start(ctx, proc.Command{Argv: n.Command(host, self, childFlag, role, path), CPU: proc.AnyCPU})
	if err != nil {
		return nil, err
	}
	_ = ln.SetDeadline(time.Now().Add(startLimit))
	conn, err := ln.Accept()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s does not answer: %w", host, err), p.Stop())
	}
	return &child{host, p, rpc.NewClient(conn)}, nil
}

// call asks the child for something.
func (c *child) call(op string, args, reply any) error {
	timer := time.NewTimer(callLimit)
	defer timer.Stop()
	call := c.rpc.Go("Child."+op, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		if call.Error != nil {
			return fmt.Errorf("%s: %s: %w", c.name, op, call.Error)
		}
		return nil
	case <-timer.C:
		return fmt.Errorf("%s: no answer to %s within %v", c.name, op, callLimit)
	}
}

// stop ends the child, which may be stopped.
func (c *child) stop() error {
	_ = c.proc.Continue()
	c.rpc.Close()
	err := c.proc.Wait(startLimit)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return c.proc.Stop()
	}
	return err
}

// None is for Calls without arguments or result.
type None struct{}

// wait sleeps, and returns an error if ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
