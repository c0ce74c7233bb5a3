package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/compare"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/report"
	"github.com/pulsewheel/pulsewheel/benchmarks/cmd/pulsebench/internal/result"
)

func compareCommand(_ context.Context, args []string, out, progress io.Writer) error {
	set := flag.NewFlagSet("compare", flag.ContinueOnError)
	var o compare.Options
	set.BoolVar(&o.Paired, "paired", false, "run i of each result was taken beside run i of the others: compare within these pairs")
	least := set.Float64("least", 1, "percent from which on a difference matters")
	gate := set.Bool("gate", false, "exit status 1 if anything is worse than in the first result, beyond noise")
	set.Usage = func() {
		fmt.Fprintf(set.Output(), "usage: pulsebench compare [flags] REFERENCE.json OTHER.json …\nAt least %d runs each (run -repeat), or %d pairs, tell a difference from noise.\n\n", compare.MinRuns, compare.MinPairs)
		set.PrintDefaults()
	}
	if err := parse(set, args, progress); err != nil {
		return err
	}
	if set.NArg() < 2 {
		return usageError(errors.New("want two result files or more"))
	}
	if !(*least >= 0 && *least < 1000) {
		return usageError(fmt.Errorf("-least %g: not a percentage from 0", *least))
	}
	o.Least = *least / 100
	files, err := readAll(set.Args())
	if err != nil {
		return err
	}
	list, err := compare.Files(files, o)
	if err != nil {
		return err
	}
	if err := compare.Write(out, list); err != nil {
		return err
	}
	for _, c := range list {
		if *gate && c.Worse() {
			return fmt.Errorf("%s is worse than %s", c.B, c.A)
		}
	}
	return nil
}

func readAll(paths []string) (files []result.File, err error) {
	for _, path := range paths {
		f, err := result.Read(path)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func reportCommand(_ context.Context, args []string, out, progress io.Writer) error {
	set := flag.NewFlagSet("report", flag.ContinueOnError)
	to := set.String("o", "", "`file` to write (default standard output)")
	set.Usage = func() {
		fmt.Fprint(set.Output(), "usage: pulsebench report [-o PAGE.html] RESULT.json …\n\n")
		set.PrintDefaults()
	}
	if err := parse(set, args, progress); err != nil {
		return err
	}
	if set.NArg() == 0 {
		return usageError(errors.New("want a result file or more"))
	}
	files, err := readAll(set.Args())
	if err != nil {
		return err
	}
	page, err := report.Page(files)
	if err != nil {
		return err
	}
	if *to == "" {
		_, err := out.Write(page)
		return err
	}
	return result.WriteFile(*to, page)
}
