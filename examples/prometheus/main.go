// Prometheus is an echo server whose numbers a Prometheus server can scrape.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pulsewheel/pulsewheel/codec"
	"github.com/pulsewheel/pulsewheel/engine"
	"github.com/pulsewheel/pulsewheel/heartbeat"
)

// collector hands an engine's Stats to Prometheus whenever it is scraped.
type collector struct{ stats func() engine.Stats }

// Describe describes nothing: which metrics there are is told by Collect.
func (collector) Describe(chan<- *prometheus.Desc) {}

func (c collector) Collect(out chan<- prometheus.Metric) {
	for m := range c.stats().Metrics() {
		kind := prometheus.GaugeValue
		if m.Counter {
			kind = prometheus.CounterValue
		}
		var labels, values []string
		if m.Loop >= 0 {
			labels, values = append(labels, "loop"), append(values, strconv.Itoa(m.Loop))
		}
		if m.HasReason {
			labels, values = append(labels, "reason"), append(values, m.Reason.String())
		}
		desc := prometheus.NewDesc("pulsewheel_"+m.Name, m.Help, labels, nil)
		out <- prometheus.MustNewConstMetric(desc, kind, m.Value, values...)
	}
}

func main() {
	addr := flag.String("addr", "tcp://127.0.0.1:7000", "`address` to listen on")
	metrics := flag.String("metrics", "127.0.0.1:9100", "`address` to be scraped at, path /metrics")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *metrics, func(addr, metrics string) {
		fmt.Println("listening on", addr)
		fmt.Printf("metrics at http://%s/metrics\n", metrics)
	}); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends, and tells ready where.
func run(ctx context.Context, addr, metrics string, ready func(addr, metrics string)) error {
	srv, err := engine.Listen(engine.Config{
		Listeners: []engine.Listener{{Addr: addr, Codec: codec.Native{}, Liveness: heartbeat.Relaxed()}},
		Handler: engine.Handler{Message: func(c *engine.Conn, payload []byte) {
			if c.Send(payload) != nil {
				c.Abort() // it asks for more than it reads
			}
		}},
	})
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{srv.Stats})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	scraped := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	listener, err := net.Listen("tcp", metrics)
	if err != nil {
		return errors.Join(err, srv.Shutdown(ctx))
	}
	failed := make(chan error, 1)
	go func() { failed <- scraped.Serve(listener) }()
	ready(srv.Addrs()[0], listener.Addr().String())

	err = srv.Serve(ctx)
	closed := scraped.Close()
	if e := <-failed; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return errors.Join(err, closed)
}
