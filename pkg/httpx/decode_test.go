package httpx_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/httpx"
)

type base struct {
	Note string `json:"note"`
}

type order struct {
	base
	Email    *string         `json:"email"`
	Count    int             `json:"count"`
	Small    *int8           `json:"small"`
	Ratio    float64         `json:"ratio"`
	Urgent   bool            `json:"urgent"`
	Tags     []string        `json:"tags"`
	At       *time.Time      `json:"at"`
	Until    *time.Time      `json:"until" null:"allowed"`
	Plain    *string         `json:"plain" null:"allowed"`
	ID       uuid.UUID       `json:"id"`
	Address  address         `json:"address"`
	Metadata map[string]any  `json:"metadata"`
	Raw      json.RawMessage `json:"raw"`
	Untagged string
	Hidden   string `json:"-"`
	private  string
}

type address struct {
	Street string `json:"street"`
	Lines  []line `json:"lines"`
}

type line struct {
	N int `json:"n"`
}

// Check makes order a Checker with rules on three fields.
func (o *order) Check(f *apperr.Fields) {
	if o.Email == nil {
		f.Add("email", "is required")
	} else if !strings.Contains(*o.Email, "@") {
		f.Add("email", "must be an email address")
	}
	if len(o.Tags) > 2 {
		f.Add("tags", "must have at most 2 items")
	}
	if o.Note == "forbidden" {
		f.Add("note", "must be another")
	}
}

func post(body, contentType string, into any, read func(*httpx.Input, any) *httpx.Input) *httptest.ResponseRecorder {
	return postTo(body, map[string][]string{"Content-Type": {contentType}}, into, read)
}

func postTo(body string, header http.Header, into any, read func(*httpx.Input, any) *httpx.Input) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	c, _ := gin.CreateTestContext(w)
	c.Request = httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	c.Request.Header = header
	c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, 64<<10)
	if err := read(httpx.NewInput(c), into).Err(); err != nil {
		httpx.WriteError(c, err)
	}
	return w
}

func TestAGoodBodyIsDecoded(t *testing.T) {
	t.Parallel()
	var o order
	w := post(` {"email":"a@b.example","count":-3,"small":127,"ratio":1.5e2,"urgent":true,"tags":["x","\u00e9\ud83d\ude00"],
		"at":"2026-01-31T12:00:00.123456+02:00","until":null,"plain":"p","id":"6ba7b810-9dad-11d1-80b4-00c04fd430c8",
		"address":{"street":"s","lines":[{"n":1},{"n":2}]},"metadata":{"a":[1,{"b":null}]},"raw":[true],"Untagged":"u","note":"hi"} `,
		"application/json; charset=UTF-8", &o, (*httpx.Input).JSON)
	require.Equal(t, http.StatusOK, w.Code, w.Body.String())

	require.Equal(t, "a@b.example", *o.Email)
	require.Equal(t, -3, o.Count)
	require.Equal(t, int8(127), *o.Small)
	require.InDelta(t, 150, o.Ratio, 0)
	require.True(t, o.Urgent)
	require.Equal(t, []string{"x", "é😀"}, o.Tags)
	require.Equal(t, time.Date(2026, 1, 31, 10, 0, 0, 123456000, time.UTC), *o.At)
	require.Nil(t, o.Until)
	require.Equal(t, "p", *o.Plain)
	require.Equal(t, "6ba7b810-9dad-11d1-80b4-00c04fd430c8", o.ID.String())
	require.Equal(t, address{Street: "s", Lines: []line{{1}, {2}}}, o.Address)
	require.Equal(t, map[string]any{"a": []any{1.0, map[string]any{"b": nil}}}, o.Metadata)
	require.JSONEq(t, "[true]", string(o.Raw))
	require.Equal(t, "u", o.Untagged)
	require.Equal(t, "hi", o.Note)
	require.Empty(t, o.private)
}

func TestAbsentFieldsStayNil(t *testing.T) {
	t.Parallel()
	var o order
	require.Equal(t, http.StatusOK, post(`{"email":"a@b"}`, "application/json", &o, (*httpx.Input).JSON).Code)
	require.Nil(t, o.Small)
	require.Nil(t, o.At)
	require.Nil(t, o.Tags)
	require.Nil(t, o.Metadata)
}

func TestEveryFailingFieldIsListed(t *testing.T) {
	t.Parallel()
	var o order
	w := post(`{"email":5,"count":1.5,"small":128,"ratio":"x","urgent":"true","tags":["a",1,null,"b"],"at":"yesterday",
		"plain":7,"id":"6BA7B810-9DAD-11D1-80B4-00C04FD430C8","address":{"street":[],"lines":[{"n":"x"},{"m":1}]},
		"metadata":[],"Urgent":false,"Hidden":"x","private":"x","":1,"note":"forbidden","count":2,"count":3} trailing`,
		"application/json", &o, (*httpx.Input).JSON)
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.Equal(t, map[string]string{
		"email":              "must be a string, not a number",
		"small":              "is out of range",
		"ratio":              "has the wrong type or is out of range",
		"urgent":             "must be true or false, not a string",
		"tags[1]":            "must be a string, not a number",
		"tags[2]":            "must not be null",
		"at":                 "must be an RFC 3339 time such as 2026-01-31T12:00:00Z",
		"plain":              "must be a string, not a number",
		"id":                 "must be a UUID in lower case",
		"address.street":     "must be a string, not an array",
		"address.lines[0].n": "must be a number, not a string",
		"address.lines[1].m": "is not a known field",
		"metadata":           "has the wrong type or is out of range",
		"Urgent":             "is not a known field; names are case-sensitive: urgent",
		"Hidden":             "is not a known field",
		"private":            "is not a known field",
		`""`:                 "is not a known field",
		"note":               "must be another",
		"body":               "must hold one JSON object and nothing after it",
		"count":              "must be a whole number; must not be repeated",
	}, joined(t, w))
	require.Nil(t, o.Email, "a bad value does not look like one that was given")
}

// joined is failing for bodies where one field fails in two ways.
func joined(t *testing.T, w *httptest.ResponseRecorder) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for _, e := range decodeError(t, w).Details.Errors {
		if before, ok := fields[e.Field]; ok {
			e.Reason = before + "; " + e.Reason
		}
		fields[e.Field] = e.Reason
	}
	return fields
}

func TestARuleIsNotAppliedToAFieldThatFailedAlready(t *testing.T) {
	t.Parallel()
	var o order
	w := post(`{"email":null,"tags":[1,2,3],"note":"forbidden"}`, "application/json", &o, (*httpx.Input).JSON)
	fields := failing(t, w)
	require.Equal(t, "must not be null", fields["email"])
	require.NotContains(t, fields, "tags")
	require.Equal(t, "must be another", fields["note"])
}

func TestBodiesThatAreNoObject(t *testing.T) {
	t.Parallel()
	deep := func(open, shut string, n int) string { return strings.Repeat(open, n) + strings.Repeat(shut, n) }
	tests := []struct{ name, body, reason string }{
		{"nothing", "", "is required"},
		{"spaces", "  ", "ends too early"},
		{"null", "null", "not null"},
		{"an array", "[]", "not an array"},
		{"a string", `"x"`, "not a string"},
		{"a number", "1", "not a number"},
		{"a boolean", "true", "not true or false"},
		{"half an object", `{"email":"a`, "ends too early"},
		{"a trailing comma", `{"email":"a",}`, "is not valid JSON: invalid character '}'"},
		{"single quotes", `{'email':1}`, "is not valid JSON"},
		{"a comment", `{/* */}`, "is not valid JSON"},
		{"NaN", `{"ratio":NaN}`, "is not valid JSON"},
		{"a leading zero", `{"count":01}`, "is not valid JSON"},
		{"a raw NUL", "{\"note\":\"\x00\"}", "is not valid JSON"},
		{"a byte order mark", "\ufeff{}", "is not valid JSON"},
		{"invalid UTF-8", "{\"note\":\"\xff\"}", "must be valid UTF-8"},
		{"UTF-16", "\xff\xfe{\x00}\x00", "must be valid UTF-8"},
		{"deep arrays", `{"raw":` + deep("[", "]", 32) + "}", "nested deeper than 32"},
		{"very deep objects", deep(`{"a":`, "}", 9000), "nested deeper than 32"},
		{"deep and broken", strings.Repeat("[", 60000), "nested deeper than 32"},
		{"two objects", "{} {}", "nothing after it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := post(tt.body, "application/json", &struct {
				Raw   json.RawMessage `json:"raw"`
				Note  string          `json:"note"`
				Email string          `json:"email"`
				Ratio float64         `json:"ratio"`
				Count int             `json:"count"`
			}{}, (*httpx.Input).JSON)
			require.Equal(t, http.StatusBadRequest, w.Code)
			require.Contains(t, failing(t, w)["body"], tt.reason)
		})
	}
}

func TestABodyMayBeNestedThirtyTwoLevelsDeep(t *testing.T) {
	t.Parallel()
	var body struct {
		Raw json.RawMessage `json:"raw"`
	}
	w := post(`{"raw":`+strings.Repeat("[", 31)+strings.Repeat("]", 31)+"}", "application/json", &body, (*httpx.Input).JSON)
	require.Equal(t, http.StatusOK, w.Code, w.Body.String())
}

func TestBracketsInStringsAreNotNesting(t *testing.T) {
	t.Parallel()
	var o base
	w := post(`{"note":"`+strings.Repeat(`[{\"\\`, 100)+`"}`, "application/json", &o, (*httpx.Input).JSON)
	require.Equal(t, http.StatusOK, w.Code, w.Body.String())
}

func TestTextThatCannotBeStoredIsRefusedAtAnyDepth(t *testing.T) {
	t.Parallel()
	var o order
	w := post(`{"email":"a@b","note":"\u0000","tags":["\ud800"],"metadata":{"k":["\u0000"],"a\u0000":1,"d":1,"d":2},"raw":{"x":"\udc00"}}`,
		"application/json", &o, (*httpx.Input).JSON)
	require.Equal(t, map[string]string{
		"note":           "must not contain NUL characters",
		"tags[0]":        "must be valid Unicode text",
		"metadata.k[0]":  "must not contain NUL characters",
		"metadata.a\x00": "has a name that must not contain NUL characters",
		"metadata.d":     "must not be repeated",
		"raw.x":          "must be valid Unicode text",
	}, failing(t, w))
	require.Nil(t, o.Metadata)
}

func TestAnAnswerToABadBodyIsBounded(t *testing.T) {
	t.Parallel()
	var body strings.Builder
	body.WriteString(`{"` + strings.Repeat("é", 1000) + `":1`)
	for i := range 5000 {
		body.WriteString(`,"f` + strconv.Itoa(i) + `":1`)
	}
	body.WriteString("}")
	var o base
	w := post(body.String(), "application/json", &o, (*httpx.Input).JSON)
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.Less(t, w.Body.Len(), 8<<10)
	require.Equal(t, "has 4901 more errors", joined(t, w)["body"])
}

func TestMediaTypes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		header http.Header
		status int
	}{
		{"plain", http.Header{"Content-Type": {"application/json"}}, 200},
		{"upper case", http.Header{"Content-Type": {"Application/JSON"}}, 200},
		{"with a charset", http.Header{"Content-Type": {`application/json; charset="utf-8"`}}, 200},
		{"not compressed", http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"identity"}}, 200},
		{"none", http.Header{}, 415},
		{"empty", http.Header{"Content-Type": {""}}, 415},
		{"text", http.Header{"Content-Type": {"text/plain"}}, 415},
		{"a form", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, 415},
		{"a JSON dialect", http.Header{"Content-Type": {"application/problem+json"}}, 415},
		{"another charset", http.Header{"Content-Type": {"application/json; charset=utf-16"}}, 415},
		{"malformed", http.Header{"Content-Type": {"application/json; charset"}}, 415},
		{"two of them", http.Header{"Content-Type": {"application/json", "text/plain"}}, 415},
		{"compressed", http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, 415},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var o base
			w := postTo(`{"note":"x"}`, tt.header, &o, (*httpx.Input).JSON)
			require.Equal(t, tt.status, w.Code)
			if tt.status == 415 {
				require.Equal(t, "UNSUPPORTED_MEDIA_TYPE", decodeError(t, w).Code)
				require.Empty(t, o.Note)
			}
		})
	}
}

func TestAnAbsentBodyMayBeEnough(t *testing.T) {
	t.Parallel()
	var o base
	require.Equal(t, http.StatusOK, postTo("", http.Header{}, &o, (*httpx.Input).JSONOrEmpty).Code)
	require.Equal(t, http.StatusOK, post("{}", "application/json", &o, (*httpx.Input).JSONOrEmpty).Code)
	require.Equal(t, http.StatusUnsupportedMediaType, postTo("{}", http.Header{}, &o, (*httpx.Input).JSONOrEmpty).Code)
	require.Equal(t, http.StatusBadRequest, post("[]", "application/json", &o, (*httpx.Input).JSONOrEmpty).Code)
	var checked order
	require.Contains(t, failing(t, postTo("", http.Header{}, &checked, (*httpx.Input).JSONOrEmpty)), "email", "its rules hold for {} too")
}

func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	echo := handler(func(c *gin.Context) error {
		var o base
		if err := httpx.NewInput(c).JSON(&o).Err(); err != nil {
			return err
		}
		c.Status(http.StatusNoContent)
		return nil
	})
	b.Public().POST("/", echo)
	b.Internal().POST("/batch", echo)
	send := func(h http.Handler, path string, size int, known bool) *httptest.ResponseRecorder {
		body := io.Reader(strings.NewReader(`{"note":"` + strings.Repeat("x", size-len(`{"note":""}`)) + `"}`))
		if !known {
			body = io.MultiReader(body) // hides the length, so that the body is chunked
		}
		r := httptest.NewRequest(http.MethodPost, path, body)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+internalToken)
		return answer(h, r)
	}
	for _, known := range []bool{true, false} {
		require.Equal(t, http.StatusNoContent, send(b.PublicHandler(), "/", 64<<10, known).Code)
		for _, size := range []int{64<<10 + 1, 1 << 20} {
			w := send(b.PublicHandler(), "/", size, known)
			require.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
			require.Equal(t, "PAYLOAD_TOO_LARGE", decodeError(t, w).Code)
		}
	}
	require.Equal(t, http.StatusNoContent, send(b.InternalHandler(), "/internal/v1/batch", 1<<20, true).Code)
	require.Equal(t, http.StatusRequestEntityTooLarge, send(b.InternalHandler(), "/internal/v1/batch", 1<<20+1, true).Code)
}

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { return 0, errors.New("connection reset by 10.0.0.1") }
func (brokenBody) Close() error             { return nil }

func TestABodyThatBreaksOffIsTheClientsError(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	c, _ := gin.CreateTestContext(w)
	c.Request = httptest.NewRequest(http.MethodPost, "/", nil)
	c.Request.Body = brokenBody{}
	httpx.WriteError(c, httpx.NewInput(c).JSON(&base{}).Err())
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.NotContains(t, w.Body.String(), "10.0.0.1")

	c.Request.Body = nil
	body, err := httpx.ReadBody(c)
	require.NoError(t, err)
	require.Empty(t, body)
}
