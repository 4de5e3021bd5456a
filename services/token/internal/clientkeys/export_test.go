package clientkeys

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// FetcherAt is a Fetcher for which every name leads to one address. With dialable nil it refuses what every other does.
func FetcherAt(address string, dialable func(netip.Addr) bool, roots *x509.CertPool) *Fetcher {
	f := NewFetcher()
	if dialable != nil {
		f = newFetcher(dialable, roots)
	}
	transport := f.transport()
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) { return dial(ctx, network, address) }
	return f
}

func (f *Fetcher) transport() *http.Transport {
	return f.client.Transport.(*http.Transport)
}

// Limits are what a Fetcher keeps to, as far as it would take long to see.
func (f *Fetcher) Limits() (timeout time.Duration, proxied, cookies bool) {
	return f.client.Timeout, f.transport().Proxy != nil, f.client.Jar != nil
}
