package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/mod/sumdb/note"
)

// httpClient is for everything that is not measured.
func httpClient() *http.Client { return &http.Client{Timeout: 60 * time.Second} }

func (r *Rig) ready(ctx context.Context, name string) error {
	_, err := r.call(ctx, http.MethodGet, r.Internal(name)+"/readyz", nil)
	return err
}

// call sends a request with the internal token and answers the body of a success.
func (r *Rig) call(ctx context.Context, method, address string, in any) ([]byte, error) {
	var body io.Reader
	if in != nil {
		encoded, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+r.secret)
	request.Header.Set("Content-Type", "application/json")
	client := httpClient()
	if r.tls != nil {
		client.Transport = &http.Transport{TLSClientConfig: r.tls, DisableKeepAlives: true}
	}
	return sendBy(client, request)
}

func send(request *http.Request) ([]byte, error) { return sendBy(httpClient(), request) }

func sendBy(client *http.Client, request *http.Request) ([]byte, error) {
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s %s: %s: %s", request.Method, request.URL.Path, response.Status, answer)
	}
	return answer, nil
}

// makeOperator makes the first agent and its credential, through the internal API as `agentidp bootstrap` does.
func (r *Rig) makeOperator(ctx context.Context) error {
	answer, err := r.call(ctx, http.MethodPost, r.Internal("registry")+"/internal/v1/bootstrap",
		map[string]string{"email": "operator@agentidp.local", "owner": "operators"})
	if err != nil {
		return fmt.Errorf("make the operator: %w", err)
	}
	var agent struct {
		ID string `json:"agentId"`
	}
	if err := json.Unmarshal(answer, &agent); err != nil {
		return fmt.Errorf("make the operator: %w", err)
	}
	answer, err = r.call(ctx, http.MethodPost, r.Internal("credentials")+"/internal/v1/operator-credential",
		map[string]any{"agentId": agent.ID, "onlyIfNone": false})
	if err != nil {
		return fmt.Errorf("make the operator's credential: %w", err)
	}
	var credential struct {
		Secret string `json:"clientSecret"`
	}
	if err := json.Unmarshal(answer, &credential); err != nil {
		return fmt.Errorf("make the operator's credential: %w", err)
	}
	r.operator = Client{ID: agent.ID, Secret: credential.Secret}
	return nil
}

// Operator has every system scope.
func (r *Rig) Operator() Client { return r.operator }

// tokensTaken counts the tokens that Token was given.
type tokensTaken struct{ atomic.Int64 }

// Token gets one as clients do.
func (r *Rig) Token(ctx context.Context, client Client, scope string) (string, error) {
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {client.ID}, "client_secret": {client.Secret}, "scope": {scope},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.Issuer()+"/api/v1/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := send(request)
	if err != nil {
		return "", err
	}
	r.taken.Add(1)
	var token struct {
		Access string `json:"access_token"`
	}
	return token.Access, json.Unmarshal(answer, &token)
}

// TokensTaken is how many tokens Token was given so far.
func (r *Rig) TokensTaken() int64 { return r.taken.Load() }

// Profile is the CPU profile of a service over the next seconds, in pprof's format.
func (r *Rig) Profile(ctx context.Context, name string, seconds int) ([]byte, error) {
	return r.call(ctx, http.MethodGet, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", r.Internal(name), seconds), nil)
}

// Get reads a public document; token may be "".
func (r *Rig) Get(ctx context.Context, address, token string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return send(request)
}

// LogSigner signs as the audit service of the rig does.
func (r *Rig) LogSigner() (note.Signer, error) { return note.NewSigner(r.logKey) }

// JetStream is the rig's own connection to NATS.
func (r *Rig) JetStream() jetstream.JetStream { return r.stream }
