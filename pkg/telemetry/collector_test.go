package telemetry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sentryagent/agentidp/pkg/config"
)

// answers gives one answer per request, in order; a status of 0 stands for a collector that is away.
type answers struct {
	t        *testing.T
	statuses []int
	header   http.Header
	requests []*http.Request
	bodies   [][]byte
}

func (a *answers) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	require.NoError(a.t, err)
	a.requests, a.bodies = append(a.requests, req), append(a.bodies, body)
	require.LessOrEqual(a.t, len(a.requests), len(a.statuses), "one attempt too many")
	status := a.statuses[len(a.requests)-1]
	if status == 0 {
		return nil, errors.New("connection refused")
	}
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Header: a.header, Body: io.NopCloser(strings.NewReader("")), Request: req,
	}, nil
}

func upload(t *testing.T, a *answers, headers config.Secret) (time.Duration, error) {
	t.Helper()
	a.t = t
	c, err := newCollector("https://collector/v1/traces", headers)
	require.NoError(t, err)
	c.client.Transport = a
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	start := time.Now()
	err = c.UploadTraces(ctx, []*tracepb.ResourceSpans{{SchemaUrl: "one"}, {SchemaUrl: "two"}})
	return time.Since(start), err
}

func TestACollectorReadsWhatIsSentAsAnExportRequest(t *testing.T) {
	t.Parallel()
	a := &answers{statuses: []int{http.StatusOK}}
	_, err := upload(t, a, "api-key=a%20b%3D, X-Scope = team ,")
	require.NoError(t, err)
	require.Equal(t, "application/x-protobuf", a.requests[0].Header.Get("Content-Type"))
	require.Equal(t, "a b=", a.requests[0].Header.Get("Api-Key"))
	require.Equal(t, "team", a.requests[0].Header.Get("X-Scope"))
	var request coltracepb.ExportTraceServiceRequest
	require.NoError(t, proto.Unmarshal(a.bodies[0], &request))
	require.Len(t, request.GetResourceSpans(), 2)
	require.Equal(t, "two", request.GetResourceSpans()[1].GetSchemaUrl())
}

func TestTracesAreSentAgainWhileTheCollectorIsAwayOrBusy(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		statuses []int
		header   http.Header
		took     time.Duration
		fails    bool
	}{
		"away and back":                   {statuses: []int{0, 502, 503, 200}, took: 7 * time.Second},
		"busy, and it says for how long":  {statuses: []int{429, 200}, header: http.Header{"Retry-After": {"9"}}, took: 9 * time.Second},
		"what it refuses stays refused":   {statuses: []int{400}, fails: true},
		"a key that is wrong stays wrong": {statuses: []int{401}, fails: true},
		"away for longer than anybody waits": {
			statuses: []int{0, 0, 0, 0, 0, 0}, took: 30 * time.Second, fails: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a := &answers{statuses: row.statuses, header: row.header}
				took, err := upload(t, a, "")
				require.Equal(t, row.fails, err != nil, "%v", err)
				require.Equal(t, row.took, took)
				for _, body := range a.bodies {
					require.Equal(t, a.bodies[0], body)
				}
			})
		})
	}
}

func TestHeadersThatCannotBeSentAreRefusedAndNotRepeated(t *testing.T) {
	t.Parallel()
	for _, headers := range []config.Secret{"=hunter2", "a b=hunter2", "key=hunter2%0d%0aX: y", "key=hunter2%zz", "hunter2;=x", "hunter2"} {
		err := Config{LogLevel: "info", OTLPHeaders: headers}.Validate()
		require.ErrorContains(t, err, "OTEL_EXPORTER_OTLP_HEADERS", headers.Reveal())
		require.NotContains(t, err.Error(), "hunter2")
	}
	require.NoError(t, Config{LogLevel: "info", OTLPHeaders: "a=1,b="}.Validate())
}
