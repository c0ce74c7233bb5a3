module github.com/pulsewheel/pulsewheel/benchmarks

go 1.26.0

require (
	github.com/RussellLuo/timingwheel v0.0.0-20220218152713-54845bda3108
	github.com/antlabs/timer v0.1.4
	github.com/lesismal/nbio v1.6.8
	github.com/pulsewheel/pulsewheel v0.0.0
)

require github.com/antlabs/stl v0.0.2 // indirect

require (
	github.com/panjf2000/ants/v2 v2.12.1 // indirect
	github.com/panjf2000/gnet/v2 v2.10.0
	github.com/valyala/bytebufferpool v1.0.0 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	go.uber.org/zap v1.28.0 // indirect
	golang.org/x/sync v0.11.0 // indirect
	golang.org/x/sys v0.49.0
	gopkg.in/natefinch/lumberjack.v2 v2.2.1 // indirect
)

replace github.com/pulsewheel/pulsewheel => ../
