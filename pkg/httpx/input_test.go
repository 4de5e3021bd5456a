package httpx_test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/paging"
)

const someID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"

var firstPage = httpx.Page{Number: 1, Page: paging.Page{Limit: 20}}

// queryOf is a request with this query string.
func queryOf(raw string) *httpx.Input { return request("x", raw, http.NoBody) }

// request is a POST of JSON to an agent's path.
func request(agentID, query string, body io.Reader) *httpx.Input {
	c, _ := gin.CreateTestContext(httptest.NewRecorder())
	c.Request = httptest.NewRequest(http.MethodPost, "/", body)
	c.Request.Header.Set("Content-Type", "application/json")
	c.Request.URL.RawQuery = query
	c.Params = gin.Params{{Key: "agentId", Value: agentID}}
	return httpx.NewInput(c)
}

func reasons(t *testing.T, err error) map[string]string {
	t.Helper()
	if err == nil {
		return nil
	}
	e := apperr.From(err)
	require.Equal(t, apperr.ValidationError, e.Code)
	fields := map[string]string{}
	for _, f := range e.Details["errors"].([]apperr.FieldError) {
		require.NotContains(t, fields, f.Field)
		fields[f.Field] = f.Reason
	}
	return fields
}

func TestAGoodQuery(t *testing.T) {
	t.Parallel()
	q := queryOf("owner=team%20a&status=active&id=" + someID + "&from=2026-01-31&to=2026-01-31&at=2026-01-31T12:00:00%2B02:00&limit=7&page=3")
	require.Equal(t, "team a", *q.Text("owner", 128))
	require.Equal(t, "active", *q.Enum("status", "active", "suspended"))
	require.Equal(t, someID, q.UUID("id").String())
	require.Equal(t, time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC), *q.Time("from", false))
	require.Equal(t, time.Date(2026, 1, 31, 23, 59, 59, 999999000, time.UTC), *q.Time("to", true))
	require.Equal(t, time.Date(2026, 1, 31, 10, 0, 0, 0, time.UTC), *q.Time("at", false))
	require.Equal(t, httpx.Page{Number: 3, Page: paging.Page{Limit: 7, Offset: 14}}, q.Page())
	require.NoError(t, q.Err())
}

func TestAnAbsentParameterIsNil(t *testing.T) {
	t.Parallel()
	q := queryOf("")
	require.Nil(t, q.Text("a", 1))
	require.Nil(t, q.Enum("b", "x"))
	require.Nil(t, q.UUID("c"))
	require.Nil(t, q.Time("d", true))
	require.Equal(t, firstPage, q.Page())
	require.NoError(t, q.Err())
}

func TestAPlusThatWasNotEscapedIsUnderstood(t *testing.T) {
	t.Parallel()
	q := queryOf("at=2026-01-31T12:00:00+02:00")
	require.Equal(t, time.Date(2026, 1, 31, 10, 0, 0, 0, time.UTC), *q.Time("at", false))
	require.NoError(t, q.Err())
}

func TestTimesAreRoundedTowardsWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	for given, want := range map[string][2]string{
		"12:00:00Z":           {"12:00:00Z", "12:00:00Z"},
		"12:00:00.000001Z":    {"12:00:00.000001Z", "12:00:00.000001Z"},
		"12:00:00.000000001Z": {"12:00:00.000001Z", "12:00:00Z"},
		"12:00:00.999999999Z": {"12:00:01Z", "12:00:00.999999Z"},
	} {
		const day = "2026-01-31T"
		q := queryOf("from=" + day + given + "&to=" + day + given)
		require.Equal(t, day+want[0], q.Time("from", false).Format(time.RFC3339Nano), given)
		require.Equal(t, day+want[1], q.Time("to", true).Format(time.RFC3339Nano), given)
		require.NoError(t, q.Err())
	}
}

func TestEverythingWrongWithAQueryIsListed(t *testing.T) {
	t.Parallel()
	q := queryOf("owner=&status=asleep&id=" + strings.ToUpper(someID) + "&from=yesterday&page=0&limit=101&foo=1&" +
		strings.Repeat("x", 200) + "=1&%ff=1&twice=1&twice=2&text=a%00b&latin=%e9&declared=1")
	require.Nil(t, q.Text("owner", 128))
	require.Nil(t, q.Enum("status", "active", "suspended"))
	require.Nil(t, q.UUID("id"))
	require.Nil(t, q.Time("from", false))
	require.Nil(t, q.Text("twice", 10))
	require.Nil(t, q.Text("text", 10))
	require.Nil(t, q.Text("latin", 10))
	require.Equal(t, firstPage, q.Page())
	q.Fail("toDate", "must not be before fromDate")
	require.Equal(t, map[string]string{
		"owner": "must not be empty", "status": "must be one of active, suspended",
		"id": "must be a UUID in lower case", "from": "must be an RFC 3339 time or a date such as 2026-01-31",
		"page": "must be a whole number from 1 to 1000000000", "limit": "must be a whole number from 1 to 100",
		"foo": "is not a known parameter", strings.Repeat("x", 64) + "…": "is not a known parameter", "\ufffd": "is not a known parameter",
		"twice": "must not be repeated", "text": "must not contain control characters", "latin": "must be valid Unicode text",
		"toDate": "must not be before fromDate", "declared": "is not a known parameter",
	}, reasons(t, q.Err()))
	require.Equal(t, reasons(t, q.Err()), reasons(t, q.Err()), "asking twice is harmless")
}

func TestParametersThatNobodyAsksForAreWrong(t *testing.T) {
	t.Parallel()
	require.NoError(t, queryOf("").Err())
	require.Equal(t, map[string]string{"a": "is not a known parameter"}, reasons(t, queryOf("a=1&a=2").Err()))
}

func TestManyIDsInOneParameter(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse(someID)
	for raw, want := range map[string][]uuid.UUID{
		"ids=" + someID:                        {id},
		"ids=" + someID + "," + someID:         {id, id},
		"ids=" + strings.Repeat(someID+",", 3): nil,
		"ids=" + someID + ",":                  nil,
		"ids=" + strings.ToUpper(someID):       nil,
		"ids=":                                 nil,
		"":                                     nil,
		"ids=" + someID + "&ids=" + someID:     nil,
		"ids=" + someID + "," + someID + "," + "x": nil,
	} {
		in := queryOf(raw)
		require.Equal(t, want, in.UUIDs("ids", 2), raw)
		wrong := map[string]string{"ids": "must be 1 to 2 UUIDs, separated by commas"}
		switch {
		case want != nil:
			wrong = nil
		case strings.Count(raw, "ids") > 1:
			wrong["ids"] = "must not be repeated"
		}
		require.Equal(t, wrong, reasons(t, in.Err()), raw)
	}
}

func TestAllThatIsWrongWithARequestIsInOneAnswer(t *testing.T) {
	t.Parallel()
	in := request("X", "dry=1&limit=0", strings.NewReader(`{"note":1,"colour":"red"}`))
	in.JSON(&base{})
	in.Page()
	in.Fail("Idempotency-Key", "must be given once")
	in.PathUUID("agentId")
	err := in.Err()
	require.Equal(t, map[string]string{
		"agentId": "must be a UUID in lower case", "note": "must be a string, not a number", "colour": "is not a known field",
		"limit": "must be a whole number from 1 to 100", "dry": "is not a known parameter", "Idempotency-Key": "must be given once",
	}, reasons(t, err))
	require.Equal(t, "agentId", apperr.From(err).Details["errors"].([]apperr.FieldError)[0].Field, "what the request is about comes first")
}

func TestThePolicySpeaksBeforeAllButAWrongPath(t *testing.T) {
	t.Parallel()
	forbidden := apperr.New(apperr.Forbidden, "no")
	huge := func() io.Reader { return http.MaxBytesReader(nil, io.NopCloser(strings.NewReader("{}")), 1) }
	text := func() io.Reader { return strings.NewReader(`{"note":1}`) }
	for name, test := range map[string]struct {
		id, query string
		body      io.Reader
		denied    error
		want      apperr.Code
		fields    []string
	}{
		"all is well":                        {id: someID, body: strings.NewReader("{}")},
		"denied":                             {id: someID, body: strings.NewReader("{}"), denied: forbidden, want: apperr.Forbidden},
		"denied, and wrong":                  {id: someID, query: "a=1", body: text(), denied: forbidden, want: apperr.Forbidden},
		"denied, and too large":              {id: someID, body: huge(), denied: forbidden, want: apperr.Forbidden},
		"allowed, and wrong":                 {id: someID, query: "a=1", body: text(), want: apperr.ValidationError, fields: []string{"note", "a"}},
		"allowed, and too large":             {id: someID, query: "a=1", body: huge(), want: apperr.PayloadTooLarge},
		"nobody knows about what":            {id: "x", query: "a=1", body: text(), denied: forbidden, want: apperr.ValidationError, fields: []string{"agentId", "note", "a"}},
		"nobody knows about what, too large": {id: "x", query: "a=1", body: huge(), denied: forbidden, want: apperr.ValidationError, fields: []string{"agentId", "a"}},
	} {
		in := request(test.id, test.query, test.body).JSON(&base{})
		in.PathUUID("agentId")
		asked := false
		err := in.Admit(func() error { asked = true; return test.denied })
		require.Equal(t, test.want, apperr.CodeOf(err), name)
		require.Equal(t, test.id == someID, asked, name)
		if test.fields != nil {
			var named []string
			for field := range reasons(t, err) {
				named = append(named, field)
			}
			require.ElementsMatch(t, test.fields, named, name)
		}
	}
}

func TestABodyIsAtFaultAsAWholeWhereNoFieldIs(t *testing.T) {
	t.Parallel()
	for body, wrong := range map[string][]string{`{}`: {"body"}, `{"size":"x"}`: {"size"}, `{"colour":1}`: {"colour"}, `{"size":1}`: nil} {
		var got []string
		for field := range reasons(t, request(someID, "", strings.NewReader(body)).JSON(&resize{}).Err()) {
			got = append(got, field)
		}
		require.Equal(t, wrong, got, body)
	}
}

// resize has to say something.
type resize struct {
	Size *int `json:"size"`
}

func (r *resize) Check(f *apperr.Fields) {
	if r.Size == nil {
		f.Add("body", "must name a field")
	}
}

func TestMalformedQueryStrings(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"a=%", "a=%zz", "a;b"} {
		q := queryOf(raw)
		require.Contains(t, reasons(t, q.Err()), "query", raw)
	}
}

func TestPageNumbers(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"1", "2", "1000000000"} {
		require.NoError(t, pageErr(queryOf("page="+good)), good)
	}
	for _, bad := range []string{"", "0", "-1", "+1", "01", "1.0", "1e3", "x", "%201", "1000000001", "9223372036854775808", strings.Repeat("9", 400), "٣"} {
		require.Contains(t, reasons(t, pageErr(queryOf("page="+bad))), "page", bad)
		require.Contains(t, reasons(t, pageErr(queryOf("limit="+bad))), "limit", bad)
	}
	require.Equal(t, int64(99_999_999_900), queryOf("page=1000000000&limit=100").Page().Offset)
}

func pageErr(q *httpx.Input) error {
	q.Page()
	return q.Err()
}

func TestACursorLeadsToTheNextPage(t *testing.T) {
	t.Parallel()
	last := paging.Position{Time: time.Date(2026, 11, 22, 1, 2, 3, 456789000, time.UTC), ID: uuid.MustParse(someID)}
	listing := paging.Listing[int]{Items: []int{1, 2}, Total: paging.Total{Items: 5}, Next: &last}
	list := httpx.NewList(httpx.Page{Number: 1, Page: paging.Page{Limit: 2}}, listing, strconv.Itoa)
	require.Equal(t, []string{"1", "2"}, list.Data)
	require.NotEmpty(t, list.NextCursor)
	require.Equal(t, list.NextCursor, url.QueryEscape(list.NextCursor), "it can be pasted")

	q := queryOf("limit=2&cursor=" + list.NextCursor)
	page := q.Page()
	require.NoError(t, q.Err())
	require.Equal(t, httpx.Page{Number: 2, Page: paging.Page{Limit: 2, After: &last, Total: listing.Total}}, page)

	third := httpx.NewList(page, listing, strconv.Itoa)
	q = queryOf("cursor=" + third.NextCursor)
	require.Equal(t, 3, q.Page().Number)
	listing.Next = nil
	require.Empty(t, httpx.NewList(page, listing, strconv.Itoa).NextCursor, "the last page has none")
}

func TestAnEstimateStaysOneThroughoutAWalk(t *testing.T) {
	t.Parallel()
	last := paging.Position{Time: time.UnixMicro(1).UTC(), ID: uuid.MustParse(someID)}
	total := paging.Total{Items: 9_000_000, Estimate: true}
	first := httpx.NewList(firstPage, paging.Listing[int]{Items: []int{1}, Total: total, Next: &last}, strconv.Itoa)
	body, err := json.Marshal(first)
	require.NoError(t, err)
	require.Contains(t, string(body), `"total":9000000,"totalIsEstimate":true,`)

	page := queryOf("limit=1&cursor=" + first.NextCursor).Page()
	require.Equal(t, httpx.Page{Number: 2, Page: paging.Page{Limit: 1, After: &last, Total: total}}, page)
}

func TestAListIsNeverNull(t *testing.T) {
	t.Parallel()
	body, err := json.Marshal(httpx.NewList(firstPage, paging.Listing[int]{}, strconv.Itoa))
	require.NoError(t, err)
	require.JSONEq(t, `{"data":[],"total":0,"page":1,"limit":20}`, string(body))
}

func TestCursorsOfEarlierReleasesAreUnderstood(t *testing.T) {
	t.Parallel()
	for token, estimate := range map[string]bool{
		"AQAGYNnpn9YAa6e4EJ2tEdGAtADAT9QwyAAAAAIAAAAAAAAABQ": false,
		"AgAGYNnpn9YAa6e4EJ2tEdGAtADAT9QwyAAAAAIAAAAAAAAABQ": true,
	} {
		page := queryOf("cursor=" + token).Page()
		after := paging.Position{Time: time.UnixMicro(0x0660d9e99fd600).UTC(), ID: uuid.MustParse(someID)}
		total := paging.Total{Items: 5, Estimate: estimate}
		require.Equal(t, httpx.Page{Number: 2, Page: paging.Page{Limit: 20, After: &after, Total: total}}, page)
		require.Equal(t, token, httpx.NewList(firstPage, paging.Listing[int]{Total: total, Next: &after}, strconv.Itoa).NextCursor)
	}
}

func TestCursorsThatAreNotOurs(t *testing.T) {
	t.Parallel()
	at := paging.Position{Time: time.UnixMicro(1), ID: uuid.MustParse(someID)}
	good := httpx.NewList(firstPage, paging.Listing[int]{Total: paging.Total{Items: 9}, Next: &at}, strconv.Itoa).NextCursor
	bytes, err := base64.RawURLEncoding.DecodeString(good)
	require.NoError(t, err)
	changed := func(i int, value byte) string {
		b := append([]byte(nil), bytes...)
		b[i] = value
		return base64.RawURLEncoding.EncodeToString(b)
	}
	for name, bad := range map[string]string{
		"empty": "", "text": "nonsense", "cut": good[:len(good)-1], "longer": good + "A", "padded": good + "=",
		"with line breaks": good[:10] + "\n" + good[10:], "line break for a character": good[:10] + "\n" + good[11:],
		"version": changed(0, 3), "negative time": changed(1, 0x80), "far future": changed(1, 0x7f),
		"page 1": changed(28, 1), "page 0": changed(28, 0), "huge page": changed(25, 0xff), "negative total": changed(29, 0x80),
		"SQL": "'; DROP TABLE agents;--", "huge": strings.Repeat("A", 10000),
	} {
		q := queryOf("cursor=" + url.QueryEscape(bad))
		require.Equal(t, firstPage, q.Page(), name)
		require.Contains(t, reasons(t, q.Err()), "cursor", name)
	}
	require.Contains(t, reasons(t, pageErr(queryOf("page=1&cursor="+good))), "cursor")
	require.NoError(t, pageErr(queryOf("cursor="+good)))
}

func TestPathUUID(t *testing.T) {
	t.Parallel()
	parse := func(value string) (uuid.UUID, error) {
		in := request(value, "", http.NoBody)
		return in.PathUUID("agentId"), in.Err()
	}
	id, err := parse(someID)
	require.NoError(t, err)
	require.Equal(t, someID, id.String())
	for _, bad := range []string{
		"", "x", strings.ToUpper(someID), "{" + someID + "}", "urn:uuid:" + someID, strings.ReplaceAll(someID, "-", ""),
		someID + " ", "' OR 1=1", someID[:35] + "g", "..",
	} {
		id, err := parse(bad)
		require.Zero(t, id)
		require.Contains(t, reasons(t, err), "agentId", bad)
	}
}

func TestOnlyTimesOfRFC3339AreTimes(t *testing.T) {
	t.Parallel()
	for _, wrong := range []string{
		"2026-01-31T1:00:00Z", "2026-01-31T01:00:00,5Z", "2026-02-30T00:00:00Z", "2026-01-31T24:00:00Z",
		"2026-01-31T00:00:00", "2026-01-31T00:00:00%2B24:00", "9999-12-31T23:59:59-23:59", "0000-01-01T00:00:00Z",
	} {
		q := queryOf("at=" + wrong)
		require.Nil(t, q.Time("at", false), wrong)
		require.Error(t, q.Err(), wrong)
	}
	q := queryOf("at=2026-01-31T01:00:00.5%2B02:00")
	require.Equal(t, time.Date(2026, 1, 30, 23, 0, 0, 500_000_000, time.UTC), *q.Time("at", false))
	require.NoError(t, q.Err())
}
