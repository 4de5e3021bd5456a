package httpx_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

const internalToken = "an-internal-token-for-tests"

// bundle is a server without sockets, and what it has logged.
type bundle struct {
	*httpx.Server
	tel  *telemetry.Telemetry
	logs *testkit.Log
}

func setup(t *testing.T, change ...func(*httpx.Config, *httpx.Options)) *bundle {
	t.Helper()
	logs := &testkit.Log{}
	tel := telemetry.Discard("test")
	tel.Log = telemetry.NewLogger(logs, "test", "info")
	cfg := httpx.Config{
		PublicAddr: "127.0.0.1:0", InternalAddr: "127.0.0.1:0",
		InternalAPIToken: internalToken, ShutdownTimeout: 10 * time.Second,
	}
	opts := httpx.Options{Service: "test", Telemetry: tel}
	for _, f := range change {
		f(&cfg, &opts)
	}
	s, err := httpx.NewServer(cfg, opts)
	require.NoError(t, err)
	return &bundle{Server: s, tel: tel, logs: logs}
}

// answer sends a request to a handler without a socket.
func answer(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func (b *bundle) get(path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return answer(b.PublicHandler(), r)
}

// errorBody is the wire form of an error.
type errorBody struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Details struct {
		Errors []struct{ Field, Reason string } `json:"errors"`
	} `json:"details"`
}

func decodeError(t *testing.T, w *httptest.ResponseRecorder) errorBody {
	t.Helper()
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	var body errorBody
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &body), w.Body.String())
	require.NotEmpty(t, body.Message)
	return body
}

// failing maps each failing field to its reason; a field named twice fails the test.
func failing(t *testing.T, w *httptest.ResponseRecorder) map[string]string {
	t.Helper()
	body := decodeError(t, w)
	require.Equal(t, "VALIDATION_ERROR", body.Code)
	fields := map[string]string{}
	for _, e := range body.Details.Errors {
		require.NotContains(t, fields, e.Field)
		fields[e.Field] = e.Reason
	}
	return fields
}

func handler(f func(c *gin.Context) error) gin.HandlerFunc { return httpx.Handle(f) }

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(b)
}
