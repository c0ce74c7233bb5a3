package main

import (
	"context"
	"io"
)

func compareCommand(ctx context.Context, args []string, out, progress io.Writer) error   { return nil }
func reportCommand(ctx context.Context, args []string, out, progress io.Writer) error    { return nil }
func calibrateCommand(ctx context.Context, args []string, out, progress io.Writer) error { return nil }
