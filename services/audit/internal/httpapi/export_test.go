package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/services/audit/internal/export"
	"github.com/sentryagent/agentidp/services/audit/internal/merkle"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// ledger is a log of one tile at most, in memory, that remembers what it was asked.
type ledger struct {
	merkle.Store

	rows   []export.Row
	tile   []byte
	filter *trail.Filter
	away   error // of Rows
	begun  chan struct{}
	wait   chan struct{} // Rows returns when it is closed; nil: at once
}

func (l *ledger) Head(context.Context) (merkle.Head, error) {
	return merkle.Head{Signed: []byte("signed"), Size: int64(len(l.tile) / 32)}, nil
}

func (l *ledger) Rows(_ context.Context, filter *trail.Filter, first, end int64, _ int) ([]export.Row, error) {
	l.filter = filter
	if l.wait != nil {
		l.begun <- struct{}{}
		<-l.wait
	}
	var found []export.Row
	for _, row := range l.rows {
		if row.Index >= first && row.Index < end {
			found = append(found, row)
		}
	}
	return found, l.away
}

func (l *ledger) Strays(context.Context, int) ([]export.Row, error) { return nil, nil }

func (l *ledger) Tiles(context.Context, []tlog.Tile) ([][]byte, error) { return [][]byte{l.tile}, nil }

func (l *ledger) Dropped(context.Context) ([]auditlog.DroppedDay, error) { return nil, nil }

// log fills the ledger with events.
func (l *ledger) log(t *testing.T, events int) {
	t.Helper()
	for i := range events {
		payload := []byte(`{"schemaVersion":1,"eventId":"` + uuid.NewString() + `","timestamp":"` + now.Format(time.RFC3339) +
			`","action":"agent.created","outcome":"success","service":"registry","metadata":{}}`)
		leaf, err := auditlog.Leaf(payload)
		require.NoError(t, err)
		hash := auditlog.HashLeaf(leaf)
		l.rows, l.tile = append(l.rows, export.Row{Index: int64(i), Payload: payload}), append(l.tile, hash[:]...)
	}
}

func TestExportStreamsTheLog(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.ledger.log(t, 3)
	response := b.do(t, http.MethodGet, "/api/v1/audit/export?cursor=1&proofs=true")
	require.Equal(t, http.StatusOK, response.Code)
	require.Equal(t, "application/x-ndjson", response.Header().Get("Content-Type"))
	lines := strings.Split(strings.TrimSpace(response.Body.String()), "\n")
	require.Len(t, lines, 4)
	doc := document.Require(t)
	for i, schema := range []string{"ExportHeader", "ExportLine", "ExportLine", "ExportTrailer"} {
		var value any
		require.NoError(t, json.Unmarshal([]byte(lines[i]), &value))
		require.NoError(t, doc.Schema(schema).VisitJSON(value), lines[i])
	}
	require.Contains(t, lines[1], `"leafIndex":1,`)
	require.JSONEq(t, `{"cursor":"3","complete":true,"dropped":[]}`, lines[3])
	require.Nil(t, b.ledger.filter)
}

func TestExportTakesTheFiltersOfTheList(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.ledger.log(t, 1)
	agent := uuid.NewString()
	response := b.do(t, http.MethodGet, "/api/v1/audit/export?format=ocsf&action=agent.created&agentId="+agent)
	require.Equal(t, http.StatusOK, response.Code)
	require.Equal(t, agent, b.ledger.filter.AgentID.String())
	require.Equal(t, "agent.created", *b.ledger.filter.Action)
	require.True(t, b.ledger.filter.From.Equal(now.Add(-90*24*time.Hour)), "within the retention window")
	require.Contains(t, response.Body.String(), `"class_uid":6003`)
}

func TestExportShowsOtherSystemsOnlyTheRetentionWindow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.ledger.log(t, 1)
	for format, narrowed := range map[string]bool{"ocsf": true, "cloudevents": true, "ndjson": false} {
		require.Equal(t, http.StatusOK, b.do(t, http.MethodGet, "/api/v1/audit/export?format="+format).Code)
		require.Equal(t, narrowed, b.ledger.filter != nil, format)
		if narrowed {
			require.True(t, b.ledger.filter.From.Equal(now.Add(-90*24*time.Hour)), format)
		}
	}
}

func TestExportRefuses(t *testing.T) {
	t.Parallel()
	requireRefusals(t, "/api/v1/audit/export", map[string]refusalOf{
		"a format it does not know":       {"?format=xml", nil, 400, "VALIDATION_ERROR"},
		"proofs where no line has them":   {"?format=ocsf&proofs=true", nil, 400, "VALIDATION_ERROR"},
		"a cursor that is no number":      {"?cursor=x", nil, 400, "VALIDATION_ERROR"},
		"a cursor before the first leaf":  {"?cursor=-1", nil, 400, "VALIDATION_ERROR"},
		"a cursor in another form":        {"?cursor=00", nil, 400, "VALIDATION_ERROR"},
		"a cursor after the last leaf":    {"?cursor=1", nil, 400, "VALIDATION_ERROR"},
		"a page":                          {"?page=1", nil, 400, "VALIDATION_ERROR"},
		"fromDate before the window":      {"?fromDate=2026-01-01", nil, 400, "RETENTION_WINDOW_EXCEEDED"},
		"what the policy denies":          {"", func(b *bundle) { b.gate.denied = apperr.New(apperr.Forbidden, "no") }, 403, "FORBIDDEN"},
		"an unauthenticated caller":       {"", func(b *bundle) { b.gate.unauthenticated = apperr.New(apperr.Unauthorized, "who") }, 401, "UNAUTHORIZED"},
		"an unauthenticated caller's bad": {"?x", func(b *bundle) { b.gate.unauthenticated = apperr.New(apperr.Unauthorized, "who") }, 401, "UNAUTHORIZED"},
	})
}

func TestExportSaysThatItBrokeOff(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.ledger.log(t, 1)
	b.ledger.away = errors.New("postgres is away")
	response := b.do(t, http.MethodGet, "/api/v1/audit/export")
	require.Contains(t, response.Body.String(), `{"cursor":"0","complete":false,"dropped":[]}`)
	require.Panics(t, func() { b.do(t, http.MethodGet, "/api/v1/audit/export?format=cloudevents") }, "the connection is cut")
}

func TestExportIsCutWhereItsTrailerIsNotWritten(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.ledger.log(t, 1)
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/v1/audit/export", http.NoBody)
	require.Panics(t, func() { b.server.PublicHandler().ServeHTTP(&deaf{httptest.NewRecorder()}, request) })
}

// deaf is a client to which nothing can be written.
type deaf struct{ *httptest.ResponseRecorder }

func (*deaf) Write([]byte) (int, error) { return 0, errors.New("connection reset") }

func TestOnlySoManyExportsAreWrittenAtATime(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.ledger.log(t, 1)
	b.ledger.begun, b.ledger.wait = make(chan struct{}), make(chan struct{})
	ended := make(chan int)
	for range 4 {
		go func() {
			recorder := httptest.NewRecorder()
			b.server.PublicHandler().ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/v1/audit/export", http.NoBody))
			ended <- recorder.Code
		}()
		<-b.ledger.begun
	}
	response := b.do(t, http.MethodGet, "/api/v1/audit/export")
	require.Equal(t, http.StatusTooManyRequests, response.Code)
	require.Equal(t, "10", response.Header().Get("Retry-After"))
	close(b.ledger.wait)
	for range 4 {
		require.Equal(t, http.StatusOK, <-ended)
	}
}
