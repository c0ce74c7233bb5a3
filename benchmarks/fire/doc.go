// Fire runs clients of every nasty kind against a real server process, and
// checks from outside what must stay true.
//
//	go run ./benchmarks/fire                 # ten minutes of all kinds at once
//	go run ./benchmarks/fire -slow           # slow readers among healthy ones, under a broadcast
//	go run ./benchmarks/fire -fds            # descriptors run out; floods of connects
//	go run ./benchmarks/fire -smoke          # half a minute of it
//
// The server and the load are child processes of the driver. A message says
// who sent it, as its how-manieth, and is filled with bytes that depend on both.
// The server says of each connection that has ended how many messages Send took
// and what the engine reported of its end; each client says what it got. The
// driver joins the two by the connection's ID, which every message of the server
// carries, and compares them (see ledger.go). Some clients stay untouched for
// the whole run: they must see no error, and are answered nearly as fast as in
// the calm before.
//
// The address of a client, within 127.0.0.0/8, tells its kind, so that the
// reason of each end can be held against what that kind may end for, also where
// a connection was over before anything was said.
package main
