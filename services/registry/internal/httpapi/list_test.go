package httpapi_test

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func ids(t *testing.T, got answer) []string {
	t.Helper()
	list := []string{}
	for _, item := range got.requireStatus(http.StatusOK).json()["data"].([]any) {
		list = append(list, item.(map[string]any)["agentId"].(string))
	}
	return list
}

func TestAnEmptyListIsAList(t *testing.T) {
	t.Parallel()
	b := setup(t)
	got := b.call(t, operator, http.MethodGet, agentsPath, "").requireStatus(http.StatusOK)
	require.JSONEq(t, `{"data":[],"total":0,"page":1,"limit":20}`, got.Body.String())
}

func TestPagesAndCursorsWalkTheSameOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var newestFirst []string
	for i := range 5 {
		if i%2 == 0 { // some at the same moment
			b.clock.Advance(time.Microsecond)
		}
		newestFirst = append([]string{b.register(t, operator, nil).id()}, newestFirst...)
	}

	var byPage []string
	for page := 1; page <= 3; page++ {
		got := b.call(t, operator, http.MethodGet, agentsPath+"?limit=2&page="+strconv.Itoa(page), "")
		byPage = append(byPage, ids(t, got)...)
		body := got.json()
		require.EqualValues(t, 5, body["total"])
		require.EqualValues(t, page, body["page"])
		require.EqualValues(t, 2, body["limit"])
		require.Equal(t, page == 3, body["nextCursor"] == nil)
	}
	require.Equal(t, newestFirst, byPage)

	var byCursor []string
	target := agentsPath + "?limit=2"
	for {
		got := b.call(t, operator, http.MethodGet, target, "")
		byCursor = append(byCursor, ids(t, got)...)
		require.EqualValues(t, 5, got.json()["total"], "as counted when the walk began")
		next, more := got.json()["nextCursor"].(string)
		if !more {
			break
		}
		b.clock.Advance(time.Second)
		b.register(t, operator, nil) // moves pages, but not what is behind a cursor
		target = agentsPath + "?limit=2&cursor=" + url.QueryEscape(next)
	}
	require.Equal(t, newestFirst, byCursor)
}

func TestAPageBehindTheEndIsEmpty(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.register(t, operator, nil)
	got := b.call(t, operator, http.MethodGet, agentsPath+"?page=1000000000&limit=100", "")
	require.Empty(t, ids(t, got))
	require.EqualValues(t, 1, got.json()["total"])
}

func TestFiltersNarrowTheList(t *testing.T) {
	t.Parallel()
	b := setup(t)
	other := b.register(t, operator, nil).id()
	wanted := b.register(t, operator, fields{
		"email": "Wanted+1@example.com", "agentType": "monitor", "owner": "Robert'); DROP TABLE agents;--",
		"deploymentEnv": "staging", "capabilities": []string{"logs:read", "logs:*"},
	}).id()
	b.call(t, operator, http.MethodPatch, agentsPath+"/"+wanted, `{"status":"suspended"}`).requireStatus(http.StatusOK)
	for name, value := range map[string]string{
		"owner": "Robert'); DROP TABLE agents;--", "agentType": "monitor", "status": "suspended",
		"deploymentEnv": "staging", "capability": "logs:*", "email": "wanted+1@EXAMPLE.com",
	} {
		got := b.call(t, operator, http.MethodGet, agentsPath+"?"+url.Values{name: {value}}.Encode(), "")
		require.Equal(t, []string{wanted}, ids(t, got), name)
		require.EqualValues(t, 1, got.json()["total"], name)
	}
	require.Equal(t, []string{other}, ids(t, b.call(t, operator, http.MethodGet, agentsPath+"?status=active&owner=talent-team", "")))
	require.Empty(t, ids(t, b.call(t, operator, http.MethodGet, agentsPath+"?owner=talent-team&agentType=monitor", "")))
}

func TestBadQueriesAreNamedFieldByField(t *testing.T) {
	t.Parallel()
	b := setup(t)
	tests := map[string]struct {
		query  string
		fields []string
	}{
		"page zero":                     {"page=0", []string{"page"}},
		"a negative page":               {"page=-1", []string{"page"}},
		"a page that is too far":        {"page=1000000001", []string{"page"}},
		"a page beyond 64 bits":         {"page=99999999999999999999", []string{"page"}},
		"a page that is no number":      {"page=first", []string{"page"}},
		"a page that is not whole":      {"page=1.5", []string{"page"}},
		"a page in another form":        {"page=1e3", []string{"page"}},
		"a page that is SQL":            {"page=1%3BDROP%20TABLE%20agents", []string{"page"}},
		"an empty page":                 {"page=", []string{"page"}},
		"limit zero":                    {"limit=0", []string{"limit"}},
		"a limit above a hundred":       {"limit=101", []string{"limit"}},
		"a limit that is no number":     {"limit=all", []string{"limit"}},
		"an unknown type":               {"agentType=robot", []string{"agentType"}},
		"a type in another case":        {"agentType=Screener", []string{"agentType"}},
		"an unknown status":             {"status=deleted", []string{"status"}},
		"an unknown environment":        {"deploymentEnv=prod", []string{"deploymentEnv"}},
		"an empty owner":                {"owner=", []string{"owner"}},
		"an owner that is too long":     {"owner=" + strings.Repeat("a", 129), []string{"owner"}},
		"an owner with NUL":             {"owner=a%00b", []string{"owner"}},
		"an owner that is not UTF-8":    {"owner=%ff%fe", []string{"owner"}},
		"a capability without action":   {"capability=resume", []string{"capability"}},
		"a capability that is SQL":      {"capability=%27%20OR%201%3D1", []string{"capability"}},
		"an address that is none":       {"email=nobody", []string{"email"}},
		"an address with NUL":           {"email=a%00@example.com", []string{"email"}},
		"a cursor that is none":         {"cursor=abc", []string{"cursor"}},
		"an empty cursor":               {"cursor=", []string{"cursor"}},
		"a cursor with a page":          {"cursor=AQ&page=2", []string{"cursor"}},
		"an unknown parameter":          {"sort=email", []string{"sort"}},
		"a parameter in another case":   {"Owner=x", []string{"Owner"}},
		"a parameter given twice":       {"owner=a&owner=b", []string{"owner"}},
		"a query that cannot be parsed": {"owner=%zz", []string{"query"}},
		"all of it at once": {
			"page=x&limit=x&agentType=x&status=x&deploymentEnv=x&owner=&capability=x&email=x&sort=x",
			[]string{"page", "limit", "agentType", "status", "deploymentEnv", "owner", "capability", "email", "sort"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b.call(t, operator, http.MethodGet, agentsPath+"?"+tt.query, "").requireFields(tt.fields...)
		})
	}
}
