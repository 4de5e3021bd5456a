package clientkeys

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/sentryagent/agentidp/pkg/jwk"
)

const (
	// fetchTimeout bounds a fetch from the look-up of the name to the last octet.
	fetchTimeout   = 5 * time.Second
	maxHeaderBytes = 16 << 10
)

var (
	errNotPublic = errors.New("the address is not one of the public internet")
	errTooLarge  = fmt.Errorf("the set is larger than %d bytes", jwk.MaxSetBytes)
)

// Fetcher reads documents that strangers name. It asks only for https URIs, connects
// only to public addresses, follows no redirect, uses no proxy, keeps no cookie and no
// connection, and takes at most 64 KiB within 5 s.
type Fetcher struct{ client *http.Client }

// NewFetcher makes a Fetcher. There is no setting: what it refuses must not depend on one.
func NewFetcher() *Fetcher { return newFetcher(jwk.PublicAddr, nil) }

// newFetcher lets tests reach a server of their own: dialable says which addresses may be connected to,
// roots who may vouch for a server (nil for the system's).
func newFetcher(dialable func(netip.Addr) bool, roots *x509.CertPool) *Fetcher {
	dialer := &net.Dialer{
		Timeout: fetchTimeout,
		// Runs for every address that is about to be connected to, after names were looked up: a name that
		// leads elsewhere the second time is judged by where it leads then.
		Control: func(_, address string, _ syscall.RawConn) error {
			target, err := netip.ParseAddrPort(address)
			if err != nil || !dialable(target.Addr()) {
				return errNotPublic
			}
			return nil
		},
	}
	return &Fetcher{&http.Client{
		Timeout: fetchTimeout,
		Transport: &http.Transport{
			Proxy:                  nil, // HTTPS_PROXY would connect for us, to wherever
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeaderBytes,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Fetch reads the document at an https URI.
func (f *Fetcher) Fetch(ctx context.Context, uri string) ([]byte, error) {
	if fault := jwk.CheckURI(uri); fault != "" {
		return nil, errors.New("the URI " + fault)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	request.Header.Set("User-Agent", "AgentIdP")
	response, err := f.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the status is %d", response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, jwk.MaxSetBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the set: %w", err)
	}
	if len(body) > jwk.MaxSetBytes {
		return nil, errTooLarge
	}
	return body, nil
}
