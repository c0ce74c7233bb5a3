package proc

// Pair returns one processor for the server and another for the load. Where
// only one is to be had both are that one, shared is true, and figures taken
// there compare programs that also compete with their load.
func Pair() (server, load int, shared bool, err error) {
	cpus, err := CPUs()
	if err != nil {
		return 0, 0, false, err
	}
	if len(cpus) == 1 {
		return cpus[0], cpus[0], true, nil
	}
	return cpus[0], cpus[1], false, nil
}
