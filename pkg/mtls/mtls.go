// Package mtls is TLS 1.3 between services, where both sides show a certificate: the configuration of servers and of
// clients' transports, from files that may change at any time. New connections use what the files hold now; what is broken
// is not taken. It must not know who may call what: a certificate of the authority says that the caller is a service, and
// no more.
package mtls

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// lookEvery is the time between two looks at the files. Their content is compared and not their time: a projected Secret
// of Kubernetes is changed by a link to another directory.
const lookEvery = 2 * time.Second

// The certificates whose end the metric tells.
const own, authority = "own", "authority"

// Identity is the certificate of a service and the authorities that it believes. It is safe for concurrent use.
type Identity struct {
	cfg     Config
	log     *slog.Logger
	expiry  *prometheus.GaugeVec
	current atomic.Pointer[material]
}

func newExpiry(metrics prometheus.Registerer) *prometheus.GaugeVec {
	expiry := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "agentidp_tls_certificate_expiry_seconds",
		Help: "When the certificate that is in use expires, and the first of the authorities, in seconds since 1970; 0 without TLS.",
	}, []string{"certificate"})
	for _, which := range []string{own, authority} {
		expiry.WithLabelValues(which)
	}
	metrics.MustRegister(expiry)
	return expiry
}

func (i *Identity) use(m *material) {
	i.expiry.WithLabelValues(own).Set(float64(m.ends.Unix()))
	i.expiry.WithLabelValues(authority).Set(float64(m.authorityEnds.Unix()))
	i.current.Store(m)
}

// Server is the configuration of a listener. It verifies the certificate of a client that shows one, and lets one without
// in: see Verified.
func (i *Identity) Server() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return i.current.Load().server, nil },
	}
}

// Verified tells whether a request came with a certificate that was verified and has not expired since: a connection may
// live for longer than the certificate that it began with.
func Verified(state *tls.ConnectionState, now time.Time) bool {
	return state != nil && len(state.VerifiedChains) > 0 && now.Before(state.PeerCertificates[0].NotAfter)
}

// Transport sends requests by a transport that plain makes, and by another one when the files have changed: so no request
// is sent on a connection that was made with an older certificate, but for those that are under way. plain is called for
// each, and must not set TLSClientConfig.
func (i *Identity) Transport(plain func() *http.Transport) http.RoundTripper {
	return &transport{identity: i, plain: plain}
}

type transport struct {
	identity *Identity
	plain    func() *http.Transport

	mu    sync.Mutex
	of    *material // that inner was made for
	inner *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.now().RoundTrip(req)
}

// CloseIdleConnections does what http.Client expects of it.
func (t *transport) CloseIdleConnections() { t.now().CloseIdleConnections() }

func (t *transport) now() *http.Transport {
	current := t.identity.current.Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of != current {
		old := t.inner
		t.of, t.inner = current, t.plain()
		t.inner.TLSClientConfig = current.client.Clone()
		if old != nil {
			old.CloseIdleConnections()
		}
	}
	return t.inner
}

// Run takes what the files hold when they change, until ctx ends; it returns nil. Files that cannot be used are logged once
// and change nothing.
func (i *Identity) Run(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var seen watch
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			i.look(ctx, &seen)
		}
	}
}

// watch is what was seen of files that could not be used.
type watch struct {
	problem string
	digest  [sha256.Size]byte
	logged  bool
}

// look takes the files if they have changed. What cannot be used may be half of a change, so it is logged when it is seen
// for the second time.
func (i *Identity) look(ctx context.Context, seen *watch) {
	contents, digest, err := i.cfg.read()
	if err == nil && digest == i.current.Load().digest {
		*seen = watch{}
		return
	}
	var changed *material
	if err == nil {
		changed, err = newMaterial(contents, digest)
	}
	if err != nil {
		again := watch{problem: err.Error(), digest: digest, logged: seen.logged}
		if again != *seen {
			again.logged = false
		} else if !seen.logged {
			again.logged = true
			i.log.ErrorContext(ctx, "the TLS files cannot be used, going on with the certificate of before", slog.Any("error", err))
		}
		*seen = again
		return
	}
	*seen = watch{}
	i.use(changed)
	i.log.InfoContext(ctx, "the TLS files have changed",
		slog.String("serial", changed.certificate.Leaf.SerialNumber.Text(16)), slog.Time("expires", changed.ends))
}
