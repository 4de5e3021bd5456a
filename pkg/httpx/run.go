package httpx

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// settleTime is how long a connection that was accepted last has to bring its request.
const settleTime = 250 * time.Millisecond

// Listen opens both sockets, so that their addresses are known before Run. A
// second call does nothing.
func (s *Server) Listen() error { return s.listen(context.Background()) }

func (s *Server) listen(ctx context.Context) error {
	if s.publicSocket != nil {
		return nil
	}
	// No TCP keep-alive: the server's own timeouts end a connection whose client is gone, and to ask for it takes three
	// system calls for each connection.
	lc := net.ListenConfig{KeepAlive: -1}
	public, err := lc.Listen(ctx, "tcp", s.cfg.PublicAddr)
	if err != nil {
		return fmt.Errorf("open the public listener (PUBLIC_ADDR): %w", err)
	}
	internal, err := lc.Listen(ctx, "tcp", s.cfg.InternalAddr)
	if err != nil {
		return errors.Join(fmt.Errorf("open the internal listener (INTERNAL_ADDR): %w", err), public.Close())
	}
	s.publicSocket, s.internalSocket = public, internal
	if s.opts.TLS != nil {
		s.internalSocket = tls.NewListener(internal, s.opts.TLS.Server())
	}
	if s.crowded != nil {
		s.publicSocket = newDoorway(public, s.crowded)
	}
	return nil
}

// PublicAddr is host:port of the public listener, "" before Listen.
func (s *Server) PublicAddr() string { return address(s.publicSocket) }

// InternalAddr is host:port of the internal listener, "" before Listen.
func (s *Server) InternalAddr() string { return address(s.internalSocket) }

func address(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

// Run serves until ctx is done (listening first, if Listen was not called),
// then drains: /readyz answers 503 at once, connections are still accepted
// for Config.DrainDelay but closed after their response, then the sockets
// close and open requests finish, the internal ones last. What requests need
// must therefore live until Run has returned.
//
// It returns nil after a complete drain, and an error if a socket failed or
// if requests were still open after Config.ShutdownTimeout and were cut.
func (s *Server) Run(ctx context.Context) error {
	if err := s.listen(ctx); err != nil {
		return err
	}
	failed := make(chan error, 2)
	serve := func(srv *http.Server, l net.Listener) {
		err := srv.Serve(l)
		if errors.Is(err, http.ErrServerClosed) || (s.draining.Load() && errors.Is(err, net.ErrClosed)) {
			return
		}
		failed <- fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	go serve(s.publicServer, s.publicSocket)
	go serve(s.internalServer, s.internalSocket)
	s.opts.Telemetry.Log.InfoContext(ctx, "listening",
		slog.String("public", s.PublicAddr()), slog.String("internal", s.InternalAddr()),
		slog.String("version", telemetry.Version()))

	select {
	case err := <-failed:
		return errors.Join(err, s.publicServer.Close(), s.internalServer.Close())
	case <-ctx.Done():
		return s.drain(context.WithoutCancel(ctx), failed)
	}
}

func (s *Server) drain(ctx context.Context, failed <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ShutdownTimeout)
	defer cancel()
	s.draining.Store(true)
	close(s.drains)
	s.opts.Telemetry.Log.InfoContext(ctx, "draining")

	// Idle connections are not closed yet: a client may be sending its next
	// request on one right now. Each gets "Connection: close" with its next response.
	if err := pause(ctx, s.cfg.DrainDelay, failed); err != nil {
		return errors.Join(err, s.publicServer.Close(), s.internalServer.Close())
	}
	errPublic := s.shutdown(ctx, s.publicServer, s.publicSocket)
	errInternal := s.shutdown(ctx, s.internalServer, s.internalSocket)
	if err := errors.Join(errPublic, errInternal); err != nil {
		return fmt.Errorf("requests were cut: %w", err)
	}
	return nil
}

// pause waits for d, for ctx, or for a failure, which it returns.
func pause(ctx context.Context, d time.Duration, failed <-chan error) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case err := <-failed:
		return err
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// shutdown ends one side. http.Server.Shutdown drops a request that it has
// not yet begun to serve, so the socket closes first, and who got through is
// served before it is called.
func (s *Server) shutdown(ctx context.Context, srv *http.Server, socket net.Listener) error {
	_ = socket.Close()
	_ = pause(ctx, min(settleTime, s.cfg.DrainDelay), nil)
	err := srv.Shutdown(ctx)
	if err == nil || errors.Is(err, net.ErrClosed) { // the socket, which is closed indeed
		return nil
	}
	_ = srv.Close()
	return err
}

// Close closes the sockets of a server that will not be Run, or ends one at
// once, without a drain.
func (s *Server) Close() error {
	errs := []error{s.publicServer.Close(), s.internalServer.Close()}
	for _, l := range []net.Listener{s.publicSocket, s.internalSocket} {
		if l != nil {
			if err := l.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// errorLog is for what net/http has to say about connections: noise from
// scanners and broken clients, of use only when looked for.
func errorLog(l *slog.Logger) *log.Logger {
	return slog.NewLogLogger(l.Handler(), slog.LevelDebug)
}
