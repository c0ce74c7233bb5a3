// Package netty builds the peer that is written in Java.
package netty

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed NettyPeer.java
var source []byte

// ErrMissing says that Java or Netty is not to be found.
var ErrMissing = errors.New("no Java compiler or no Netty found: install a JDK and Netty 4 (Debian: libnetty-java), " +
	"or name Netty's jar files in NETTY_CLASSPATH")

// classpath returns where Netty is: where NETTY_CLASSPATH says, or where Debian
// has it.
func classpath() (string, error) {
	if path := os.Getenv("NETTY_CLASSPATH"); path != "" {
		return path, nil
	}
	var jars []string
	for _, name := range []string{"netty-buffer", "netty-codec", "netty-common", "netty-handler", "netty-resolver", "netty-transport",
		"netty-transport-native-epoll", "netty-transport-native-unix-common", "jctools-core"} {
		jar := filepath.Join("/usr/share/java", name+".jar")
		if _, err := os.Stat(jar); err != nil {
			return "", ErrMissing
		}
		jars = append(jars, jar)
	}
	return strings.Join(jars, string(os.PathListSeparator)), nil
}

// Find says whether the peer can be built here; the error is ErrMissing.
func Find() error {
	for _, name := range []string{"javac", "java"} {
		if _, err := exec.LookPath(name); err != nil {
			return ErrMissing
		}
	}
	_, err := classpath()
	return err
}

// Build compiles the peer into dir and returns its command line.
func Build(ctx context.Context, dir string) ([]string, error) {
	compiler, err := exec.LookPath("javac")
	if err != nil {
		return nil, fmt.Errorf("compile NettyPeer: %w", ErrMissing)
	}
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, fmt.Errorf("compile NettyPeer: %w", ErrMissing)
	}
	path, err := classpath()
	if err != nil {
		return nil, fmt.Errorf("compile NettyPeer: %w", err)
	}
	from := filepath.Join(dir, "NettyPeer.java")
	if err := os.WriteFile(from, source, 0o600); err != nil {
		return nil, fmt.Errorf("compile NettyPeer: %w", err)
	}
	out, err := exec.CommandContext(ctx, compiler, "-nowarn", "-cp", path, "-d", dir, from).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("compile NettyPeer: %w\n%s", err, bytes.TrimSpace(out))
	}
	return []string{java, "-XX:+UseSerialGC", "-XX:MinHeapFreeRatio=5", "-XX:MaxHeapFreeRatio=10",
		"-cp", dir + string(os.PathListSeparator) + path, "NettyPeer"}, nil
}
