package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/test/internal/rig"
)

func TestOptions(t *testing.T) {
	t.Parallel()
	o, err := parseOptions(nil)
	require.NoError(t, err)
	require.InDelta(t, 3, o.seconds, 0)
	require.Equal(t, 3, o.rounds)
	o, err = parseOptions([]string{"-quick", "-only", "token-rs, flood"})
	require.NoError(t, err)
	require.InDelta(t, 1, o.seconds, 0)
	require.Equal(t, 1, o.rounds)
	require.True(t, o.wants("token-rs256"))
	require.True(t, o.wants("flood"))
	require.False(t, o.wants("token-es256"))
	require.True(t, options{}.wants("anything"))
	for _, args := range [][]string{{"quick"}, {"-seconds", "x"}, {"-only", "tokens"}} {
		_, err = parseOptions(args)
		require.Error(t, err, args)
	}
}

// seen is a request as net/http reads it.
type seen struct {
	path, address, id, secret string
}

// tokenServer answers 401 to everything and tells what it was asked.
func tokenServer(t *testing.T) (host string, asked func() []seen) {
	t.Helper()
	var mu sync.Mutex
	var all []seen
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(body))
		mu.Lock()
		defer mu.Unlock()
		all = append(all, seen{r.Method + " " + r.URL.Path, r.Header.Get("X-Forwarded-For"), form.Get("client_id"), form.Get("client_secret")})
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), func() []seen {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

func TestAnAttackerSendsWrongSecretsUntilItsInputEnds(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("there is no proc filesystem here")
	}
	host, asked := tokenServer(t)
	plan, err := json.Marshal(attackPlan{Address: host, Host: host, Real: []string{"an-agent"}, Addresses: 2, Connections: 5})
	require.NoError(t, err)
	input, end := io.Pipe()
	var output bytes.Buffer
	ended := make(chan error, 1)
	go func() { ended <- attack(t.Context(), input, &output) }()
	_, err = end.Write(plan)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(asked()) > 100 }, 20*time.Second, 5*time.Millisecond)
	require.NoError(t, end.Close())
	require.NoError(t, <-ended)

	var result attackResult
	require.NoError(t, json.Unmarshal(output.Bytes(), &result))
	require.Equal(t, result.Sent, result.Answers[401]+result.Unanswered, "every attempt is counted")
	require.LessOrEqual(t, result.Answers[401], int64(len(asked())))
	require.LessOrEqual(t, int64(len(asked())), result.Sent)
	require.Positive(t, result.Busy)
	require.LessOrEqual(t, result.Busy, 1.0)
	addresses, invented, secrets := map[string]bool{}, 0, map[string]bool{}
	for _, one := range asked() {
		require.Equal(t, "POST /api/v1/token", one.path)
		require.Len(t, one.secret, 72)
		addresses[one.address], secrets[one.secret] = true, true
		if one.id != "an-agent" {
			invented++
		}
	}
	require.Equal(t, map[string]bool{"10.0.0.0": true, "10.0.0.1": true}, addresses)
	require.Greater(t, len(secrets), 90)
	require.Positive(t, invented)
	require.Less(t, invented, len(asked()))
}

func TestAddressesAreDistinct(t *testing.T) {
	t.Parallel()
	require.Equal(t, "10.0.0.0", address(10, 0))
	require.Equal(t, "11.1.2.3", address(11, 1<<16+2<<8+3))
	require.NotNil(t, net.ParseIP(address(10, attempts)))
	require.Equal(t, []string{"a", "b"}, ids([]rig.Client{{ID: "a"}, {ID: "b"}}))
}

func TestOnlyATokenIsAToken(t *testing.T) {
	t.Parallel()
	require.NoError(t, checkToken(200, []byte(`{"access_token":"eyJ","token_type":"Bearer"}`)))
	require.Error(t, checkToken(200, []byte(`{}`)))
	require.Error(t, checkToken(429, []byte(`{"access_token":"eyJ"}`)))
}

func TestCallsAreDifferences(t *testing.T) {
	t.Parallel()
	at := time.Now()
	got := calls(
		rig.Counters{At: at, Statements: map[string]int64{"token_app": 5}, Redis: map[string]int64{"get": 1, "info": 1}, RedisReads: 3, AuditSeq: 10},
		rig.Counters{
			At: at.Add(2 * time.Second), Statements: map[string]int64{"token_app": 7, "audit_app": 1},
			Redis: map[string]int64{"get": 4, "info": 2, "evalsha": 2}, RedisReads: 8, AuditSeq: 30,
		},
	)
	require.InDelta(t, 2, got.Seconds, 0)
	require.Equal(t, map[string]float64{"token_app": 2, "audit_app": 1}, got.Statements)
	require.Equal(t, map[string]float64{"get": 3, "evalsha": 2}, got.Commands, "our own INFO does not count")
	require.InDelta(t, 5, got.RedisReads, 0)
	require.InDelta(t, 20, got.Published, 0)
}
