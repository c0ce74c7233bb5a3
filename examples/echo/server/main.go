// The server sends every message back to whom it came from.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os/signal"
	"syscall"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

var codecs = map[string]codec.Factory{"native": codec.Native{}, "length4": codec.Length4()}

func main() {
	addr := flag.String("addr", "tcp://127.0.0.1:7000", "`address` to listen on")
	format := flag.String("codec", "native", "native or length4")
	flag.Parse()
	if codecs[*format] == nil {
		log.Fatalf("-codec is %q, want native or length4", *format)
	}

	srv, err := engine.Listen(engine.Config{
		Listeners: []engine.Listener{{Addr: *addr, Codec: codecs[*format], Liveness: heartbeat.Strict()}},
		Handler: engine.Handler{
			Message: func(c *engine.Conn, payload []byte) {
				if c.Send(payload) != nil {
					c.Abort() // it asks for more than it reads
				}
			},
			Close: func(c *engine.Conn, err error) { log.Print(c.RemoteAddr(), " ", err) },
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", srv.Addrs()[0])

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := srv.Serve(ctx); err != nil {
		log.Fatal(err)
	}
}
