package httpx_test

import (
	"bytes"
	"encoding/json"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/paging"
)

// FuzzJSON: no body panics; what is refused is a VALIDATION_ERROR that names a
// field; what is accepted is accepted by encoding/json too, with the same result.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"email":"a@b","count":1,"tags":["x"],"metadata":{"a":{"b":[null]}},"raw":1}`, `{"email":null}`, `[[[[`, `{"a":1,"a":2}`,
		`{"note":"\ud800"}`, "{\"\xff\":1}", `{"at":"2026-01-31T12:00:00Z","id":"` + someID + `","address":{"lines":[{"n":1}]}}`,
		`{"count":1e400,"ratio":1e400}`, `{"metadata":{"x":1e999}}`, `{"":{"":[]}}`, `{"small":-129}`,
	} {
		f.Add([]byte(seed))
	}
	type plain order // without Check
	f.Fuzz(func(t *testing.T, body []byte) {
		var got plain
		if err := request(someID, "", bytes.NewReader(body)).JSON(&got).Err(); err != nil {
			list, ok := apperr.From(err).Details["errors"].([]apperr.FieldError)
			require.True(t, ok)
			require.NotEmpty(t, list)
			for _, e := range list {
				require.NotEmpty(t, e.Field)
				require.NotEmpty(t, e.Reason)
				require.True(t, utf8.ValidString(e.Field))
			}
			return
		}
		var want plain
		require.NoError(t, json.Unmarshal(body, &want))
		if got.At != nil && want.At != nil { // the same moment; ours is in UTC
			require.True(t, got.At.Equal(*want.At))
			want.At = got.At
		}
		if got.Until != nil && want.Until != nil {
			require.True(t, got.Until.Equal(*want.Until))
			want.Until = got.Until
		}
		require.True(t, reflect.DeepEqual(want, got), "%s", body)
	})
}

// FuzzCursor: no token panics; what is accepted is written again in the same
// form, so that no two tokens mean the same place.
func FuzzCursor(f *testing.F) {
	for _, seed := range []string{"", "AQ", strings.Repeat("A", 50), "AQAGYNnpn9YAAZDDpFttfBGPDi87HZp8EAAAAAIAAAAAAAAABQ", "AQAGYNnpn9YAAZDDpFttfBGPDi87HZp8EAAAAAIAAAAAAAAAB\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		q := queryOf("cursor=" + url.QueryEscape(token))
		page := q.Page()
		if q.Err() != nil {
			require.Nil(t, page.After)
			return
		}
		require.NotNil(t, page.After)
		before := httpx.Page{Number: page.Number - 1}
		require.Equal(t, token, httpx.NewList(before, paging.Listing[int]{Total: page.Total, Next: page.After}, strconv.Itoa).NextCursor)
	})
}

// FuzzQuery: no query string panics, and each is either good or a VALIDATION_ERROR.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{"a=1", "page=2&limit=3", "at=2026-01-31", "at=2026-01-31T12:00:00+02:00", "%zz", "a;b", "cursor=AQ&page=1", "id=" + someID} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q := queryOf(raw)
		q.UUIDs("ids", 2)
		q.Text("t", 10)
		q.Enum("e", "x")
		q.UUID("id")
		q.Time("at", true)
		page := q.Page()
		require.GreaterOrEqual(t, page.Offset, int64(0))
		if err := q.Err(); err != nil {
			require.Equal(t, apperr.ValidationError, apperr.CodeOf(err))
		}
	})
}
