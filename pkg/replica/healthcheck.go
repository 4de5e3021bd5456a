package replica

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/sentryagent/agentidp/pkg/config"
)

// healthTimeout bounds a health check; it is shorter than what container engines wait by default.
const healthTimeout = 3 * time.Second

// health is all that a health check needs, so that it can run beside a service in any container.
type health struct {
	InternalAddr string `env:"INTERNAL_ADDR" default:":9090"`
	CertFile     string `env:"TLS_CERT_FILE"`
}

// Healthcheck asks the copy of a service that runs beside it, with the same settings, whether it is alive (GET /healthz of
// the internal listener). It is for images without a shell; it says nothing about what the service depends on.
func Healthcheck(ctx context.Context, service string, opts ...config.Option) error {
	return askBeside(ctx, service, "/healthz", opts)
}

// Readycheck is Healthcheck for whether it can answer (GET /readyz).
func Readycheck(ctx context.Context, service string, opts ...config.Option) error {
	return askBeside(ctx, service, "/readyz", opts)
}

func askBeside(ctx context.Context, service, path string, opts []config.Option) error {
	var cfg health
	if err := Load(service, &cfg, opts...); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(cfg.InternalAddr)
	if err != nil {
		return fmt.Errorf("INTERNAL_ADDR: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	transport, scheme := &http.Transport{DisableKeepAlives: true}, "http"
	if cfg.CertFile != "" {
		scheme = "https"
		// The certificate names the service, not this address; and nothing that is secret is sent or believed.
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13} //nolint:gosec // see above
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(host, port)+path, nil)
	if err != nil {
		return fmt.Errorf("INTERNAL_ADDR: %w", err)
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", path, service, err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s of %s answers %s", path, service, res.Status)
	}
	return nil
}
