package telemetry

import (
	"context"
	"io"
	"os"
)

type outputKey struct{}

// WithOutput makes New log to w where it is given the returned context, instead of to standard error.
// It is for a program that runs several services in one process and keeps their logs apart; w must be
// safe for concurrent use.
func WithOutput(ctx context.Context, w io.Writer) context.Context {
	return context.WithValue(ctx, outputKey{}, w)
}

// output is where New logs to.
func output(ctx context.Context) io.Writer {
	if w, ok := ctx.Value(outputKey{}).(io.Writer); ok {
		return w
	}
	return os.Stderr
}
