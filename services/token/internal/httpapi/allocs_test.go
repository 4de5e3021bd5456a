package httpapi_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// From the router to the answer, with the request log at work; the issuer is a fake.
func TestAnsweringATokenRequestTakesFewAllocations(t *testing.T) {
	b := setup(t)
	handler := b.server.PublicHandler()
	const body = "grant_type=client_credentials&client_id=0190a7c0-0000-7000-8000-000000000001&client_secret=sk_live_0123&scope=agents%3Aread"
	prepare := func() (*httptest.ResponseRecorder, *http.Request) {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/token", strings.NewReader(body))
		request.Header.Set("Content-Type", mediaForm)
		return httptest.NewRecorder(), request
	}
	preparing := testing.AllocsPerRun(200, func() { prepare() })
	allocations := testing.AllocsPerRun(200, func() {
		recorder, request := prepare()
		handler.ServeHTTP(recorder, request)
		require.Equal(t, http.StatusOK, recorder.Code)
	})
	require.LessOrEqual(t, allocations-preparing, 50.0)
}
