package mtls

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit/testca"
)

func files(dir string) Config {
	set := testca.Settings(dir)
	return Config{CertFile: set["TLS_CERT_FILE"], KeyFile: set["TLS_KEY_FILE"], CAFile: set["TLS_CA_FILE"]}
}

// open gives the identity of a service whose files are in dir, and what it logs.
func open(t *testing.T, dir string) (*Identity, *bytes.Buffer) {
	t.Helper()
	logged := &bytes.Buffer{}
	tel := telemetry.Discard("test")
	tel.Log = telemetry.NewLogger(logged, "test", "info")
	i, err := Open(files(dir), tel)
	require.NoError(t, err)
	return i, logged
}

// issued is an identity with a new certificate of the authority, which believes that authority.
func issued(t *testing.T, a *testca.Authority, change ...func(*x509.Certificate)) *Identity {
	t.Helper()
	dir := t.TempDir()
	a.Issue(t, change...).Write(t, dir, a)
	i, _ := open(t, dir)
	return i
}

// listen serves with an identity. It answers the serial of the client's certificate, or "none".
func listen(t *testing.T, i *Identity) (url string) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !Verified(r.TLS, time.Now()) {
			_, _ = io.WriteString(w, "none")
			return
		}
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].SerialNumber.Text(16))
	}))
	server.Listener = tls.NewListener(server.Listener, i.Server())
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are what is tried
	server.Start()
	t.Cleanup(server.Close)
	return strings.Replace(server.URL, "http://", "https://", 1)
}

func ask(client *http.Client, url string) (string, error) {
	res, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

func plain() *http.Transport { return &http.Transport{ForceAttemptHTTP2: true} }

func client(t *testing.T, i *Identity) *http.Client {
	t.Helper()
	c := &http.Client{Transport: i.Transport(plain)}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func TestServicesOfOneAuthorityBelieveEachOther(t *testing.T) {
	t.Parallel()
	a := testca.NewAuthority(t)
	url := listen(t, issued(t, a))
	caller := issued(t, a)
	serial, err := ask(client(t, caller), url)
	require.NoError(t, err)
	require.Equal(t, caller.current.Load().certificate.Leaf.SerialNumber.Text(16), serial)
}

func TestACallerWithoutAGoodCertificateIsNotVerified(t *testing.T) {
	t.Parallel()
	a, other := testca.NewAuthority(t), testca.NewAuthority(t)
	url := listen(t, issued(t, a))
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(a.PEM))
	caller := func(c testca.Certificate, change ...func(*tls.Config)) *http.Client {
		cfg := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
		if c.Cert != nil {
			pair, err := tls.X509KeyPair(c.Cert, c.Key)
			require.NoError(t, err)
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		for _, apply := range change {
			apply(cfg)
		}
		transport := &http.Transport{TLSClientConfig: cfg}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
	got, err := ask(caller(testca.Certificate{}), url)
	require.NoError(t, err, "probes have none")
	require.Equal(t, "none", got)

	for name, refused := range map[string]*http.Client{
		"of another authority": caller(other.Issue(t)),
		"that has expired": caller(a.Issue(t, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = c.NotBefore.Add(-time.Hour), time.Now().Add(-time.Second)
		})),
		"for servers only": caller(a.Issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] })),
		"with TLS 1.2":     caller(a.Issue(t), func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }),
	} {
		_, err := ask(refused, url)
		require.ErrorContains(t, err, "tls: ", name)
	}
	require.False(t, Verified(nil, time.Now()))
}

func TestAConnectionIsNoBetterThanItsCertificateIsNow(t *testing.T) {
	t.Parallel()
	leaf := &x509.Certificate{NotAfter: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	require.False(t, Verified(state, leaf.NotAfter.Add(-time.Hour)), "it was shown and not verified")
	state.VerifiedChains = [][]*x509.Certificate{{leaf}}
	require.True(t, Verified(state, leaf.NotAfter.Add(-time.Hour)))
	require.False(t, Verified(state, leaf.NotAfter))
}

func TestAServerIsBelievedByItsNameAndAuthority(t *testing.T) {
	t.Parallel()
	a, other := testca.NewAuthority(t), testca.NewAuthority(t)
	caller := client(t, issued(t, a))
	_, err := ask(caller, listen(t, issued(t, a, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} })))
	require.ErrorContains(t, err, "127.0.0.1")
	_, err = ask(caller, listen(t, issued(t, other)))
	require.ErrorContains(t, err, "unknown authority")
}

// project puts files where Kubernetes would: behind two links, of which the first is replaced.
func project(t *testing.T, dir, version string, write func(into string)) {
	t.Helper()
	data := filepath.Join(dir, version)
	require.NoError(t, os.Mkdir(data, 0o700))
	write(data)
	require.NoError(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
	require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			require.NoError(t, os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)))
		}
	}
}

func TestAProjectedSecretThatChangesIsTakenByNewConnections(t *testing.T) {
	t.Parallel()
	before, after := testca.NewAuthority(t), testca.NewAuthority(t)
	url := listen(t, issued(t, before))
	dir := t.TempDir()
	first, second := before.Issue(t), before.Issue(t)
	project(t, dir, "..1", func(into string) { first.Write(t, into, before) })
	caller, logged := open(t, dir)
	c := client(t, caller)
	got, err := ask(c, url)
	require.NoError(t, err)
	require.Equal(t, first.Serial, got)

	var seen watch
	caller.look(t.Context(), &seen)
	require.Empty(t, logged.String(), "nothing has changed")
	project(t, dir, "..2", func(into string) { second.Write(t, into, before, after) })
	caller.look(t.Context(), &seen)
	require.Contains(t, logged.String(), second.Serial)
	got, err = ask(c, url)
	require.NoError(t, err)
	require.Equal(t, second.Serial, got, "the open connection to the server is not used again")
	_, err = ask(c, listen(t, issued(t, after)))
	require.NoError(t, err, "the new authority is believed as well")
	require.InDelta(t, time.Now().Add(time.Hour).Unix(), testutil.ToFloat64(caller.expiry.WithLabelValues("own")), 60)
	require.InDelta(t, time.Now().Add(time.Hour).Unix(), testutil.ToFloat64(caller.expiry.WithLabelValues("authority")), 60)
}

// closing tells when the connection is closed.
type closing struct {
	net.Conn

	closed *atomic.Int64
}

func (c closing) Close() error {
	c.closed.Add(1)
	return c.Conn.Close()
}

func TestIdleConnectionsOfBeforeAreClosedWhenTheFilesChange(t *testing.T) {
	t.Parallel()
	a := testca.NewAuthority(t)
	url := listen(t, issued(t, a))
	dir := t.TempDir()
	a.Issue(t).Write(t, dir, a)
	caller, _ := open(t, dir)
	var closed atomic.Int64
	c := &http.Client{Transport: caller.Transport(func() *http.Transport {
		return &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			return closing{conn, &closed}, err
		}}
	})}
	t.Cleanup(c.CloseIdleConnections)
	for range 2 {
		_, err := ask(c, url)
		require.NoError(t, err)
	}
	require.Zero(t, closed.Load())
	a.Issue(t).Write(t, dir, a)
	caller.look(t.Context(), &watch{})
	_, err := ask(c, url)
	require.NoError(t, err)
	require.EqualValues(t, 1, closed.Load())
}

func TestNoSessionIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	a := testca.NewAuthority(t)
	server, caller := issued(t, a), issued(t, a)
	url := listen(t, server)
	eager := caller.current.Load().client.Clone()
	eager.SessionTicketsDisabled, eager.ClientSessionCache = false, tls.NewLRUClientSessionCache(0)
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: eager, DisableKeepAlives: true}}
	for range 2 {
		res, err := c.Get(url)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.False(t, res.TLS.DidResume)
	}
}

func TestAServerShowsItsNewCertificateAndBelievesNewAuthorities(t *testing.T) {
	t.Parallel()
	before, after := testca.NewAuthority(t), testca.NewAuthority(t)
	dir := t.TempDir()
	before.Issue(t).Write(t, dir, before)
	server, _ := open(t, dir)
	url := listen(t, server)
	caller := client(t, issued(t, after))
	_, err := ask(caller, url)
	require.Error(t, err)
	after.Issue(t).Write(t, dir, after)
	server.look(t.Context(), &watch{})
	_, err = ask(caller, url)
	require.NoError(t, err)
}

func TestFilesThatCannotBeUsedChangeNothingAndAreLoggedOnce(t *testing.T) {
	t.Parallel()
	a := testca.NewAuthority(t)
	dir := t.TempDir()
	a.Issue(t).Write(t, dir, a)
	i, logged := open(t, dir)
	good := i.current.Load()
	var seen watch
	look := func(times int) int {
		for range times {
			i.look(t.Context(), &seen)
		}
		require.Same(t, good, i.current.Load())
		return strings.Count(logged.String(), "cannot be used")
	}
	key, err := os.ReadFile(filepath.Join(dir, "tls.key"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tls.key"), a.Issue(t).Key, 0o600))
	require.Equal(t, 0, look(1), "the certificate may be on its way")
	require.Equal(t, 1, look(5))
	require.NoError(t, os.Remove(filepath.Join(dir, "tls.key")))
	require.Equal(t, 2, look(5), "another problem")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tls.key"), key, 0o600))
	require.Equal(t, 2, look(2))
	require.NoError(t, os.Remove(filepath.Join(dir, "tls.key")))
	require.Equal(t, 3, look(5), "again, after it was well")
	require.NotContains(t, logged.String(), string(key))
}

func TestSettingsThatCannotBeUsedAreNamed(t *testing.T) {
	t.Parallel()
	a := testca.NewAuthority(t)
	dir := t.TempDir()
	a.Issue(t).Write(t, dir, a)
	good := files(dir)
	require.NoError(t, good.Validate())
	require.NoError(t, Config{}.Validate())
	none, err := Open(Config{}, telemetry.Discard("test"))
	require.NoError(t, err)
	require.Nil(t, none)
	put := func(name string, content []byte) string {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	client := a.Issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] })
	for problem, cfg := range map[string]Config{
		"TLS_KEY_FILE, TLS_CA_FILE: set":   {CertFile: good.CertFile},
		"TLS_CERT_FILE: set":               {KeyFile: good.KeyFile, CAFile: good.CAFile},
		"TLS_CERT_FILE: open ":             {CertFile: "/nonexistent", KeyFile: good.KeyFile, CAFile: good.CAFile},
		"TLS_CA_FILE: open ":               {CertFile: good.CertFile, KeyFile: good.KeyFile, CAFile: "/nonexistent"},
		"no certificate and its key":       {CertFile: good.CertFile, KeyFile: put("key", a.Issue(t).Key), CAFile: good.CAFile},
		"for servers and for clients":      {CertFile: put("crt", client.Cert), KeyFile: put("key", client.Key), CAFile: good.CAFile},
		"TLS_CA_FILE: holds no":            {CertFile: good.CertFile, KeyFile: good.KeyFile, CAFile: put("ca", []byte("none"))},
		"TLS_CA_FILE: holds a PRIVATE KEY": {CertFile: good.CertFile, KeyFile: good.KeyFile, CAFile: good.KeyFile},
	} {
		require.ErrorContains(t, cfg.Validate(), problem)
		if cfg.Enabled() {
			_, err := Open(cfg, telemetry.Discard("test"))
			require.Error(t, err, problem)
		}
	}
}
