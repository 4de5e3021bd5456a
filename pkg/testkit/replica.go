package testkit

import (
	"context"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// patience is generous: replicas start and stop side by side on a busy machine.
const patience = time.Minute

// Service is what the face of a service gives.
type Service interface {
	Listen() error
	Addresses() (public, internal string)
	Run(ctx context.Context) error
}

// Replica is a service that runs in the test's own process.
type Replica struct {
	Public, Internal string // base URLs
	// Stop ends it, at the end of the test at the latest, and fails the test where it does not end well.
	Stop func()
}

// Environment is all that there is of an environment.
func Environment(values map[string]string) config.Option {
	return config.Environ(func(name string) (string, bool) {
		value, ok := values[name]
		return value, ok
	})
}

// Serve runs what newService makes of cfg, which logs to log.
func Serve[C any, S Service](tb testing.TB, newService func(context.Context, C) (S, error), cfg C, log io.Writer) *Replica {
	tb.Helper()
	ctx, cancel := context.WithCancel(telemetry.WithOutput(context.Background(), log))
	service, err := newService(ctx, cfg)
	if err == nil {
		err = service.Listen()
	}
	if err != nil {
		cancel()
		tb.Fatalf("start the service: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	public, internal := service.Addresses()
	r := &Replica{Public: "http://" + public, Internal: "http://" + internal, Stop: sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				tb.Errorf("the service did not end well: %v", err)
			}
		case <-time.After(patience):
			tb.Error("the service does not stop")
		}
	})}
	tb.Cleanup(r.Stop)
	return r
}

// AwaitReady waits until the replica says that it is ready.
func (r *Replica) AwaitReady(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for status := 0; status != http.StatusOK; {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.Internal+"/readyz", http.NoBody)
		if err != nil {
			tb.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			tb.Fatalf("the service does not become ready: %v", err)
		}
		_ = res.Body.Close()
		status = res.StatusCode
		_ = idle.For(ctx, 20*time.Millisecond)
	}
}
