// The client sends the lines of its standard input, or n messages, one after
// another, and prints what comes back.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"iter"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

var codecs = map[string]codec.Factory{"native": codec.Native{}, "length4": codec.Length4()}

func main() {
	addr := flag.String("addr", "tcp://127.0.0.1:7000", "`address` of the server")
	format := flag.String("codec", "native", "native or length4")
	n := flag.Int("n", 0, "messages to send instead of standard input")
	flag.Parse()
	if codecs[*format] == nil {
		log.Fatalf("-codec is %q, want native or length4", *format)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	echoed := make(chan struct{}, 1)
	closed := make(chan error, 1)
	client, err := engine.NewClient(engine.ClientConfig{
		Codec:    codecs[*format],
		Liveness: heartbeat.Strict(),
		Handler: engine.Handler{
			Message: func(_ *engine.Conn, payload []byte) {
				fmt.Printf("%s\n", payload)
				select {
				case echoed <- struct{}{}:
				default: // a callback must not block, whatever the server sends
				}
			},
			Close: func(_ *engine.Conn, err error) { closed <- err },
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	conn, err := client.Dial(ctx, *addr)
	if err != nil {
		log.Fatal(err)
	}
	context.AfterFunc(ctx, func() { conn.Close() })

	go func() {
		for message := range messages(*n) {
			if err := conn.Send([]byte(message)); err != nil {
				log.Print(err)
				continue
			}
			<-echoed
		}
		conn.Close()
	}()

	err = <-closed
	log.Printf("%v; %d heartbeats were answered", err, client.Stats().Total.PongsIn)
	if engine.ReasonOf(err) != engine.Local {
		os.Exit(1)
	}
}

// messages yields n greetings, or the lines of standard input if n is 0.
func messages(n int) iter.Seq[string] {
	return func(yield func(string) bool) {
		if n == 0 {
			for lines := bufio.NewScanner(os.Stdin); lines.Scan() && yield(lines.Text()); {
			}
		}
		for range n {
			if !yield("hello") {
				return
			}
		}
	}
}
