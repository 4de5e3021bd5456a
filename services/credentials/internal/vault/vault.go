// Package vault speaks to a Vault or OpenBao server: the four requests to its KV engine, version 2, that agents' secrets
// need, and those that keep its token good. It must not decide what a secret is worth, and must never log or return one but
// by Read. It remembers nothing but its token.
package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

const (
	// timeout bounds what is asked of a Vault, a login in between included: less than the token service waits for an answer.
	timeout = 2 * time.Second
	// maxAnswer bounds what is read of an answer, in bytes.
	maxAnswer = 256 << 10
	// maxConns bounds the connections of a replica.
	maxConns = 64
	// field is where in an entry the secret stands.
	field = "clientSecret"
)

// The operations, as agentidp_vault_request_duration_seconds calls them.
const (
	opWrite   = "write"
	opRead    = "read"
	opDestroy = "destroy"
	opDelete  = "delete"
	opLogin   = "login"
	opLookup  = "lookup"
	opRenew   = "renew"
)

// Client asks one Vault. It is safe for concurrent use.
type Client struct {
	cfg       Config
	base      string
	http      *http.Client
	log       *slog.Logger
	durations *prometheus.HistogramVec

	turn  chan struct{}         // held by who logs in; whose token is good does not wait for that
	token atomic.Pointer[token] // never nil
}

var _ secret.Vault = (*Client)(nil)

// NewDurations makes the metric of requests, with a series for each operation from the start.
func NewDurations(registry *prometheus.Registry) *prometheus.HistogramVec {
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "agentidp_vault_request_duration_seconds", Help: "Time of a request to Vault, where one is configured.", Buckets: telemetry.Seconds(),
	}, []string{"operation"})
	for _, operation := range []string{opWrite, opRead, opDestroy, opDelete, opLogin, opLookup, opRenew} {
		durations.WithLabelValues(operation)
	}
	registry.MustRegister(durations)
	return durations
}

// New makes a Client; Vault need not be up. It fails where VAULT_CACERT cannot be read.
func New(cfg Config, log *slog.Logger, durations *prometheus.HistogramVec) (*Client, error) {
	authorities, err := readAuthorities(cfg.CACert)
	if err != nil {
		return nil, err
	}
	c := &Client{
		cfg: cfg, base: strings.TrimRight(string(cfg.Addr), "/") + "/v1/", log: log, durations: durations,
		http: &http.Client{
			// No proxy of the environment: those are for the outside.
			Transport: &http.Transport{
				DialContext:         (&net.Dialer{Timeout: time.Second, KeepAlive: 15 * time.Second}).DialContext,
				TLSClientConfig:     &tls.Config{RootCAs: authorities, MinVersion: tls.VersionTLS12},
				TLSHandshakeTimeout: timeout,
				MaxConnsPerHost:     maxConns,
				MaxIdleConnsPerHost: maxConns,
				IdleConnTimeout:     time.Minute,
				ForceAttemptHTTP2:   true,
			},
			// The token must not follow a redirect to another host.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		turn: make(chan struct{}, 1),
	}
	c.token.Store(&token{value: cfg.Token})
	return c, nil
}

func readAuthorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file) //nolint:gosec // G304: the operator names the file
	if err != nil {
		return nil, fmt.Errorf("VAULT_CACERT: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("VAULT_CACERT: there is no certificate in %s", file)
	}
	return pool, nil
}

// path of the secrets of a credential, below data, destroy or metadata of the mount.
func (c *Client) path(kind string, at secret.Place) string {
	return c.cfg.Mount + "/" + kind + "/agentidp/agents/" + at.AgentID.String() + "/credentials/" + at.CredentialID.String()
}

// entry is a secret as Vault has it. It is the one place where its text goes into a message.
type entry struct {
	Secret string `json:"clientSecret"`
}

// metadata of one version.
type metadata struct {
	Version   int    `json:"version"`
	DeletedAt string `json:"deletion_time"`
	Destroyed bool   `json:"destroyed"`
}

// Write implements secret.Vault.
func (c *Client) Write(ctx context.Context, at secret.Place, s config.Secret) (int, error) {
	var answer struct {
		Data metadata `json:"data"`
	}
	in := map[string]any{"data": entry{Secret: s.Reveal()}}
	if err := c.do(ctx, request{opWrite, http.MethodPost, c.path("data", at), in}, &answer); err != nil {
		return 0, err
	}
	if answer.Data.Version < 1 {
		return 0, unavailable(opWrite, errors.New("no version was answered: VAULT_MOUNT is no KV engine of version 2"))
	}
	return answer.Data.Version, nil
}

// Read implements secret.Vault. Only what Vault says it had and deleted is gone: a version that it has never heard of means
// another mount, or a backup of before.
func (c *Client) Read(ctx context.Context, at secret.Place, version int) (config.Secret, error) {
	var answer struct {
		Data struct {
			Data     *entry   `json:"data"`
			Metadata metadata `json:"metadata"`
		} `json:"data"`
	}
	err := c.do(ctx, request{opRead, http.MethodGet, c.path("data", at) + "?version=" + strconv.Itoa(version), nil}, &answer)
	var refused *refusal
	if errors.As(err, &refused) && refused.status == http.StatusNotFound && refused.metadata.Version == version &&
		(refused.metadata.Destroyed || refused.metadata.DeletedAt != "") {
		return "", secret.ErrGone
	}
	if err != nil {
		return "", err
	}
	if d := answer.Data; d.Data == nil || d.Data.Secret == "" || d.Metadata.Version != version {
		return "", unavailable(opRead, errors.New("the entry has no field "+field+", or is another version"))
	}
	return config.Secret(answer.Data.Data.Secret), nil
}

// Destroy implements secret.Vault.
func (c *Client) Destroy(ctx context.Context, at secret.Place, version int) error {
	return c.do(ctx, request{opDestroy, http.MethodPost, c.path("destroy", at), map[string]any{"versions": []int{version}}}, nil)
}

// Delete implements secret.Vault.
func (c *Client) Delete(ctx context.Context, at secret.Place) error {
	return c.do(ctx, request{opDelete, http.MethodDelete, c.path("metadata", at), nil}, nil)
}

// Ready tells whether Vault answers, and knows our token.
func (c *Client) Ready(ctx context.Context) error {
	return c.do(ctx, request{opLookup, http.MethodGet, "auth/token/lookup-self", nil}, nil)
}

type request struct {
	operation, method, path string
	body                    any
}

// refusal is an answer that is no 2xx.
type refusal struct {
	status   int
	reasons  []string // Vault's words, which name paths and policies and no secret
	metadata metadata // of the version that was asked for, where Vault knows it
}

func (r *refusal) Error() string {
	return fmt.Sprintf("status %d: %s", r.status, strings.Join(r.reasons, "; "))
}

func unavailable(operation string, cause error) error {
	return apperr.Unavailable(fmt.Errorf("vault: %s: %w", operation, cause))
}

// do asks with our token, and once more with a new one where Vault does not take it any longer.
func (c *Client) do(ctx context.Context, r request, out any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	used, err := c.current(ctx, token{})
	if err != nil {
		return unavailable(opLogin, err)
	}
	err = c.send(ctx, r, used.value, out)
	var refused *refusal
	if errors.As(err, &refused) && refused.status == http.StatusForbidden {
		next, loginErr := c.current(ctx, used)
		if loginErr != nil {
			return unavailable(opLogin, loginErr)
		}
		if next != used {
			err = c.send(ctx, r, next.value, out)
		}
	}
	if err != nil {
		return unavailable(r.operation, err)
	}
	return nil
}

// send makes one request. The causes of its errors are a *refusal, or show no more than host and path.
func (c *Client) send(ctx context.Context, r request, with config.Secret, out any) error {
	defer func(start time.Time) {
		c.durations.WithLabelValues(r.operation).Observe(time.Since(start).Seconds())
	}(time.Now())
	var body io.Reader = http.NoBody
	if r.body != nil {
		encoded, err := json.Marshal(r.body)
		if err != nil {
			return err
		}
		body = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, body)
	if err != nil {
		return err
	}
	req.Header.Set("X-Vault-Request", "true") // agents and proxies may insist on it
	if with != "" {
		req.Header.Set("X-Vault-Token", with.Reveal())
	}
	if c.cfg.Namespace != "" {
		req.Header.Set("X-Vault-Namespace", c.cfg.Namespace)
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	content, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return err
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return refuse(res.StatusCode, content)
	}
	if out == nil {
		return nil
	}
	if json.Unmarshal(content, out) != nil {
		return errors.New("the answer is not what a Vault answers") // its text may have a secret in it
	}
	return nil
}

func refuse(status int, content []byte) error {
	var answer struct {
		Errors []string `json:"errors"`
		Data   struct {
			Metadata metadata `json:"metadata"`
		} `json:"data"`
	}
	_ = json.Unmarshal(content, &answer) // what is no JSON is a proxy's
	return &refusal{status: status, reasons: answer.Errors, metadata: answer.Data.Metadata}
}
