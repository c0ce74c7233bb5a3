//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "stall: needs Linux: it stops processes that must end with it, whatever happens")
	os.Exit(1)
}
