//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "fire: needs Linux: it limits descriptors of other processes and asks the kernel for the memory of sockets")
	os.Exit(1)
}
