//go:build linux

package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
)

// distant are peers that answer pings after a while, as if the network took so
// long. They are plain sockets, with a goroutine each, and never give up.
type distant struct {
	p     *party
	delay time.Duration

	mu     sync.Mutex
	conns  map[net.Conn]bool
	ending bool
	all    sync.WaitGroup
}

// runDistant is a party of distant peers: one group, which listens or dials.
func (p *party) runDistant(signals <-chan os.Signal) error {
	d := &distant{p: p, delay: p.config.Delay, conns: make(map[net.Conn]bool)}
	defer d.end()
	g := p.config.Groups[0]
	if g.Port == 0 {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		d.all.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				d.add(c)
			}
		})
		defer ln.Close()
		p.answer(started{Ports: []int{ln.Addr().(*net.TCPAddr).Port}}, signals)
		return nil
	}
	for range g.Conns {
		c, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", g.Port), dialTimeout)
		if err != nil {
			return err
		}
		d.add(c)
	}
	p.answer(started{}, signals)
	return nil
}

// end closes all connections and waits for their goroutines.
func (d *distant) end() {
	d.mu.Lock()
	d.ending = true
	for c := range d.conns {
		c.Close()
	}
	d.mu.Unlock()
	d.all.Wait()
}

func (d *distant) add(c net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ending {
		c.Close()
		return
	}
	d.conns[c] = true
	d.p.opened(d.p.groups[0])
	d.all.Go(func() {
		err := answerPings(c, d.delay)
		d.mu.Lock()
		delete(d.conns, c)
		d.mu.Unlock()
		c.Close()
		reason := "read error"
		if errors.Is(err, io.EOF) {
			reason = "end of stream"
		}
		d.p.closed(d.p.groups[0], reason, "", err)
	})
}

// answerPings answers each ping of codec.Native, which brings back its payload,
// a while after it has come.
func answerPings(c net.Conn, delay time.Duration) error {
	native, err := codec.Native{}.Codec()
	if err != nil {
		return err
	}
	const header = 4 // the payload's length in three bytes, and the kind
	in := bufio.NewReaderSize(c, 64)
	var frame [64]byte
	var out []byte
	for {
		if _, err := io.ReadFull(in, frame[:header]); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint32(frame[:]) >> 8)
		if n > len(frame) {
			return fmt.Errorf("a frame of %d bytes, where only heartbeats are expected", n)
		}
		kind := codec.Kind(frame[3])
		if _, err := io.ReadFull(in, frame[:n]); err != nil {
			return err
		}
		if kind != codec.Ping {
			continue
		}
		time.Sleep(delay)
		if out, err = native.Append(out[:0], codec.Pong, frame[:n]); err != nil {
			return err
		}
		if _, err := c.Write(out); err != nil {
			return err
		}
	}
}
