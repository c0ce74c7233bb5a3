package expvars_test

import (
	"context"
	"encoding/json"
	"expvar"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/engine/expvars"
	"github.com/pulsewheel/pulsewheel/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// What a server counts can be read as JSON under the name it was given.
func TestPublish(t *testing.T) {
	ended := make(chan struct{})
	srv, err := engine.Listen(engine.Config{
		Listeners: []engine.Listener{{Addr: "tcp://127.0.0.1:0", Codec: codec.Native{}}},
		Handler:   engine.Handler{Close: func(*engine.Conn, error) { close(ended) }},
	})
	if err != nil {
		t.Fatal(err)
	}
	expvars.Publish("pulsewheel", srv.Stats)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()

	c, err := net.Dial("tcp", strings.TrimPrefix(srv.Addrs()[0], "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the connection did not end")
	}
	var got struct {
		Total struct {
			Opened  int
			Reasons map[string]int
		}
	}
	if err := json.Unmarshal([]byte(expvar.Get("pulsewheel").String()), &got); err != nil {
		t.Fatal(err)
	}
	if got.Total.Opened != 1 || got.Total.Reasons["PeerClosed"] != 1 {
		t.Errorf("read %+v", got)
	}
}
