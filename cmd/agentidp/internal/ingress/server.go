package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// drainTimeout bounds how long Serve waits for requests that are under way when it is told to stop.
const drainTimeout = 20 * time.Second

// Serve accepts connections on listener until ctx is done, then refuses new ones, lets those under way
// finish (20 s at most) and returns nil. It closes listener.
func (in *Ingress) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           in,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       60 * time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(in.log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve the ingress: %w", err)
	case <-ctx.Done():
	}
	in.Drain()
	drained, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := server.Shutdown(drained); err != nil {
		return errors.Join(fmt.Errorf("drain the ingress: %w", err), server.Close())
	}
	return nil
}
