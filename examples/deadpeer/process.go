package main

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
)

// process is a child. The platform files supply prepare, which makes it end
// with its parent, kill and freeze.
type process struct {
	spec
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	killed bool // by us
}

func (p *process) String() string {
	if p.Way == "" {
		return "server"
	}
	return "process of " + string(p.Way) + " clients"
}

// message is an event and whose it is.
type message struct {
	event
	from *process
}

// start runs this program as a child. What it tells, and at last that it has
// exited, goes to messages.
func start(s spec, n *network, stderr io.Writer, messages chan<- message) (*process, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	argv := n.command(s.Way, program)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), specVar+"="+string(text))
	cmd.Stderr = stderr
	p := &process{spec: s, cmd: cmd}
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := prepare(cmd); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		for in := json.NewDecoder(stdout); ; {
			var e event
			if in.Decode(&e) != nil {
				break
			}
			messages <- message{e, p}
		}
		_ = cmd.Wait()
		messages <- message{event{Kind: exited, Text: cmd.ProcessState.String()}, p}
	}()
	return p, nil
}

func (p *process) tell(o order) error { return json.NewEncoder(p.stdin).Encode(o) }

// kill ends the process whatever state it is in.
func (p *process) kill() error {
	p.killed = true
	return p.cmd.Process.Kill()
}
