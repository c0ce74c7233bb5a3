package main

import (
	"os"
	"time"
)

func Example_table() {
	r := report{
		Promise: promise{WorstCase: millis(8510 * time.Millisecond), Tick: millis(10 * time.Millisecond), Lag: millis(1234 * time.Microsecond)},
		Ways: []row{
			{Way: killed, What: meanings[killed], Vanished: 100, Verdicts: map[string]int{"PeerClosed": 99, "PeerReset": 1},
				P50: millis(345_678), Max: millis(2 * time.Millisecond), Promised: millis(8521 * time.Millisecond), OK: true},
			{Way: deaf, What: meanings[deaf], Vanished: 100, Verdicts: map[string]int{"Deaf": 100},
				P50: millis(7 * time.Second), Max: millis(9 * time.Second), Promised: millis(8521 * time.Millisecond)},
		},
		Healthy:  control{Planned: 1300, Connected: 1300, Talking: 1300, OK: true},
		Problems: []string{"deaf: found after 9s, promised 8.521s"},
	}
	_ = r.writeTable(os.Stdout)
	// Output:
	// way      what the peer does        peers  verdict                           p50      max  promised
	// killed   its process is killed       100  PeerClosed 99, PeerReset 1      346µs    2.0ms    8.521s  ok
	// deaf     sends, but does not read    100  Deaf                           7.000s   9.000s    8.521s  BROKEN
	// healthy  talks all the time         1300  1300 connected, 1300 talking                              ok
	//
	// promised: worst case 8.510s + tick 10.0ms + loop's lag 1.2ms + its stalls meanwhile, at most 0s
	// false verdicts: 0
	// deaf: found after 9s, promised 8.521s
}
