package dev

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// fakeService is a service whose life a test controls.
type fakeService struct {
	listen  error
	end     chan error // what Run returns before it is told to stop
	drained atomic.Bool
}

func (f *fakeService) Listen() error { return f.listen }

func (f *fakeService) Run(ctx context.Context) error {
	select {
	case err := <-f.end:
		return err
	case <-ctx.Done():
		f.drained.Store(true)
		return nil
	}
}

// stackOf is a stack with one service, whose /readyz answers what ready says.
func stackOf(t *testing.T, service *fakeService, ready *atomic.Bool) *stack {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !ready.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	logs := newLogs(t.TempDir(), nil)
	t.Cleanup(func() { require.NoError(t, logs.close()) })
	return &stack{
		programs: []program{{name: "token", build: func(ctx context.Context, _ ...config.Option) (runnable, error) {
			tel, _, err := telemetry.New(ctx, telemetry.Config{LogLevel: "info"}, "token")
			if err != nil {
				return nil, err
			}
			tel.Log.Info("hello from the service")
			return service, nil
		}}},
		layout:  layout{services: map[string]serviceLayout{"token": {internalURL: server.URL}}},
		environ: lookup(nil), logs: logs,
	}
}

func TestServicesRunUntilTheStackIsClosed(t *testing.T) {
	t.Parallel()
	var ready atomic.Bool
	service := &fakeService{end: make(chan error)}
	s := stackOf(t, service, &ready)
	starting, cancel := context.WithCancel(t.Context())
	waited := make(chan error, 1)
	go func() { waited <- s.start(starting) }()
	ready.Store(true)
	require.NoError(t, <-waited)

	cancel()
	require.False(t, service.drained.Load(), "the end of the start is not the end of the services")
	require.NoError(t, s.close())
	require.True(t, service.drained.Load())
}

func TestAServiceThatFailsIsReportedWithItsLog(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end  error
		want string
	}{
		"with a reason":    {errors.New("out of luck"), "the token service failed: out of luck"},
		"without a reason": {nil, "the token service ended by itself"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var never atomic.Bool
			service := &fakeService{end: make(chan error, 1)}
			s := stackOf(t, service, &never)
			service.end <- test.end
			err := s.start(t.Context())
			require.ErrorContains(t, err, test.want)
			require.ErrorContains(t, err, "hello from the service", "its log went to its own file")
			require.NoError(t, s.close())
		})
	}
}

func TestAServiceThatCannotListenStopsTheStart(t *testing.T) {
	t.Parallel()
	var ready atomic.Bool
	s := stackOf(t, &fakeService{listen: errors.New("address in use")}, &ready)
	require.ErrorContains(t, s.start(t.Context()), "start the token service: address in use")
	require.NoError(t, s.close())
}

func TestAServiceThatDoesNotBecomeReadyIsNamed(t *testing.T) {
	t.Parallel()
	var never atomic.Bool
	s := stackOf(t, &fakeService{end: make(chan error)}, &never)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := s.start(ctx)
	require.ErrorContains(t, err, "the token service did not become ready")
	require.ErrorContains(t, err, "answers 503")
	require.NoError(t, s.close())
}

func TestAStackThatNeverStartedClosesAtOnce(t *testing.T) {
	t.Parallel()
	require.NoError(t, (&stack{}).close())
	(&servers{}).close()
}
