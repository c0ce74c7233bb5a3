package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// A scrape shows the connection that is open and the bytes it sent.
func TestScrape(t *testing.T) {
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Second)
	defer stop()
	type addrs struct{ addr, metrics string }
	ready := make(chan addrs, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, "tcp://127.0.0.1:0", "127.0.0.1:0", func(addr, metrics string) { ready <- addrs{addr, metrics} })
	}()
	var at addrs
	select {
	case at = <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", strings.TrimPrefix(at.addr, "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	frame := []byte("\x00\x00\x05\x00hello")
	if _, err := c.Write(frame); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, len(frame))); err != nil {
		t.Fatal(err)
	}

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + at.metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	page, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	sums := make(map[string]bool)
	for line := range strings.Lines(string(page)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, _, _ = strings.Cut(name, "{")
		sums[name+" "+value] = true
	}
	for _, want := range []string{"pulsewheel_connections 1", "pulsewheel_in_bytes_total 9", "pulsewheel_messages_in_total 1", "pulsewheel_held_bytes 0"} {
		if !sums[want] {
			t.Errorf("no line says %q in:\n%s", want, page)
		}
	}
	if err := c.Close(); err != nil { // nobody to wait for
		t.Error(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
