module github.com/pulsewheel/pulsewheel/examples

go 1.26.0

require github.com/pulsewheel/pulsewheel v0.0.0

require (
	github.com/panjf2000/gnet/v2 v2.10.0 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	go.uber.org/zap v1.28.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	gopkg.in/natefinch/lumberjack.v2 v2.2.1 // indirect
)

replace github.com/pulsewheel/pulsewheel => ../
