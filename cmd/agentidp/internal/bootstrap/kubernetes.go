package bootstrap

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

const (
	// serviceAccountDir is where Kubernetes puts what a pod says who it is with.
	serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"
	// kubernetesTimeout bounds one call of the Kubernetes API.
	kubernetesTimeout = 10 * time.Second
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 64 << 10
)

// KubernetesSecret is a Store in a Secret of the cluster that the program runs in. It needs to be allowed to get the
// Secret of that name and to create Secrets; it neither updates nor deletes any.
type KubernetesSecret struct {
	name, namespace string
	secrets         string // URL of the namespace's Secrets
	tokenFile       string // read anew for each call: it is replaced while a pod runs
	client          *http.Client
}

var _ Store = (*KubernetesSecret)(nil)

// NewKubernetesSecret finds the API server as every pod does: by the environment, and files in dir (serviceAccountDir).
func NewKubernetesSecret(name, dir string, environ func(string) (string, bool)) (*KubernetesSecret, error) {
	host, _ := environ("KUBERNETES_SERVICE_HOST")
	port, _ := environ("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("a Kubernetes Secret can only be written by a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
	}
	namespace, err := os.ReadFile(filepath.Join(dir, "namespace")) //nolint:gosec // the pod's own
	if err != nil {
		return nil, fmt.Errorf("read the pod's namespace (is its service account's token mounted?): %w", err)
	}
	authority, err := os.ReadFile(filepath.Join(dir, "ca.crt")) //nolint:gosec // the pod's own
	if err != nil {
		return nil, fmt.Errorf("read the cluster's certificate authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return nil, errors.New("the cluster's certificate authority is no certificate")
	}
	s := &KubernetesSecret{
		name: name, namespace: strings.TrimSpace(string(namespace)), tokenFile: filepath.Join(dir, "token"),
		client: &http.Client{
			Timeout:   kubernetesTimeout,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
		},
	}
	server := url.URL{Scheme: "https", Host: net.JoinHostPort(host, port)}
	s.secrets = server.JoinPath("api/v1/namespaces", s.namespace, "secrets").String()
	return s, nil
}

// String names the Secret as kubectl does.
func (s *KubernetesSecret) String() string {
	return "secret/" + s.name + " in namespace " + s.namespace
}

// Exists asks for the Secret, and looks at nothing in it.
func (s *KubernetesSecret) Exists(ctx context.Context) (bool, error) {
	return s.get(ctx, nil)
}

// get decodes the Secret into out, unless that is nil.
func (s *KubernetesSecret) get(ctx context.Context, out any) (found bool, err error) {
	status, err := s.call(ctx, http.MethodGet, s.secrets+"/"+url.PathEscape(s.name), nil, out)
	if status == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

// Save creates the Secret; it never changes one. The API server may have done so where its answer is lost or is no refusal, so
// then the Secret that is there tells, by its text, who made it.
func (s *KubernetesSecret) Save(ctx context.Context, handover Handover) error {
	data := map[string]string{}
	for _, v := range handover.Variables() {
		data[v[0]] = v[1]
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "stringData": data,
		"metadata": map[string]any{
			"name":   s.name,
			"labels": map[string]string{"app.kubernetes.io/part-of": "agentidp", "app.kubernetes.io/managed-by": "bootstrap"},
		},
	})
	if err != nil {
		return fmt.Errorf("encode the Secret: %w", err)
	}
	status, err := s.call(ctx, http.MethodPost, s.secrets, body, nil)
	var unanswered *url.Error
	if status < http.StatusInternalServerError && status != http.StatusConflict && !errors.As(err, &unanswered) {
		return err
	}
	var there struct{ Data map[string][]byte }
	switch found, _ := s.get(ctx, &there); {
	case !found:
		return apperr.Unavailable(err)
	case string(there.Data["AGENTIDP_CLIENT_SECRET"]) != handover.ClientSecret.Reveal():
		return errKept
	default:
		return nil
	}
}

// call asks the API server, and decodes its answer into out unless that is nil; a status of 300 or more is an error too.
func (s *KubernetesSecret) call(ctx context.Context, method, target string, body []byte, out any) (status int, err error) {
	token, err := os.ReadFile(s.tokenFile)
	if err != nil {
		return 0, fmt.Errorf("read the service account's token: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("kubernetes: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := s.client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("kubernetes: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode < http.StatusMultipleChoices {
		if out != nil && json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(out) != nil {
			err = errors.New("kubernetes answers with no Secret") // its text may have the secret in it
		}
		return res.StatusCode, err
	}
	// Only a failure's own text is told: the answer to a success holds the Secret.
	var reason struct{ Message string }
	_ = json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&reason)
	return res.StatusCode, fmt.Errorf("kubernetes answers %s: %s", res.Status, reason.Message)
}
