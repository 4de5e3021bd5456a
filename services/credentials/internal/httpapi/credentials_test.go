package httpapi_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/authz"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

func TestCreateAnswersTheCredentialWithItsSecretAndForbidsKeepingIt(t *testing.T) {
	t.Parallel()
	expires := time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		body string
		want *time.Time
	}{
		"no body":           {"", nil},
		"an empty object":   {"{}", nil},
		"null for never":    {`{"expiresAt": null}`, nil},
		"an expiry":         {`{"expiresAt": "2999-01-01T00:00:00Z"}`, &expires},
		"an expiry in zone": {`{"expiresAt": "2999-01-01T02:00:00+02:00"}`, &expires},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.domain.issued = issued()
			f.domain.issued.ExpiresAt = tc.want

			res := f.call(t, http.MethodPost, credentialsPath, tc.body)

			require.Equal(t, http.StatusCreated, res.status, res.body)
			require.Equal(t, "no-store", res.header.Get("Cache-Control"))
			body := res.json(t)
			require.Equal(t, f.domain.issued.Secret.Reveal(), body["clientSecret"])
			require.Equal(t, credentialID.String(), body["credentialId"])
			require.Equal(t, agentID.String(), body["clientId"])
			require.Equal(t, "active", body["status"])
			require.Equal(t, "2026-11-22T09:14:03.120518Z", body["createdAt"])
			for _, null := range []string{"rotatedAt", "revokedAt", "lastUsedAt", "previousSecretExpiresAt", "previousSecretLastUsedAt"} {
				require.Contains(t, body, null)
				require.Nil(t, body[null])
			}
			require.Equal(t, []authz.Resource{{AgentID: agentID.String()}}, f.guard.asked)
			require.Len(t, f.domain.calls, 1)
			got := f.domain.calls[0]
			require.Equal(t, agentID, got.agentID)
			if tc.want == nil {
				require.Nil(t, got.expiresAt)
			} else {
				require.WithinDuration(t, *tc.want, *got.expiresAt, 0)
			}
		})
	}
}

func TestABodyThatIsNotWhatCreateTakesIsRefusedAndNothingIsCreated(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		body   string
		fields []string
	}{
		"not JSON":            {"expiresAt=tomorrow", []string{"body"}},
		"an array":            {"[]", []string{"body"}},
		"null":                {"null", []string{"body"}},
		"trailing data":       {"{} {}", []string{"body"}},
		"an unknown field":    {`{"gracePeriodSeconds": 1}`, []string{"gracePeriodSeconds"}},
		"another case":        {`{"ExpiresAt": "2027-01-01T00:00:00Z"}`, []string{"ExpiresAt"}},
		"a number":            {`{"expiresAt": 1798761600}`, []string{"expiresAt"}},
		"a date":              {`{"expiresAt": "2027-01-01"}`, []string{"expiresAt"}},
		"no zone":             {`{"expiresAt": "2027-01-01T00:00:00"}`, []string{"expiresAt"}},
		"an empty text":       {`{"expiresAt": ""}`, []string{"expiresAt"}},
		"SQL":                 {`{"expiresAt": "'; DROP TABLE credentials; --"}`, []string{"expiresAt"}},
		"a NUL byte":          {`{"expiresAt": "2027-01-01T00:00:00Z\u0000"}`, []string{"expiresAt"}},
		"a repeated field":    {`{"expiresAt": null, "expiresAt": null}`, []string{"expiresAt"}},
		"invalid UTF-8":       {"{\"expiresAt\": \"\xff\"}", []string{"body"}},
		"deep nesting":        {strings.Repeat("[", 10000), []string{"body"}},
		"in the past":         {`{"expiresAt": "2020-01-01T00:00:00Z"}`, []string{"expiresAt"}},
		"too far":             {`{"expiresAt": "9999-12-31T23:59:59-01:00"}`, []string{"expiresAt"}},
		"two failing at once": {`{"expiresAt": 1, "secret": "mine"}`, []string{"expiresAt", "secret"}},
		"two of other kinds":  {`{"expiresAt": "2020-01-01T00:00:00Z", "secret": "mine"}`, []string{"expiresAt", "secret"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			require.ElementsMatch(t, tc.fields, f.call(t, http.MethodPost, credentialsPath, tc.body).failing(t))
			require.Empty(t, f.domain.calls)
		})
	}
}

func TestABodyOfTheWrongKindOrSizeIsRefused(t *testing.T) {
	t.Parallel()
	for _, path := range []string{credentialsPath, rotatePath} {
		f := setup(t)
		req := newRequest(t, http.MethodPost, path, "{}")
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		require.Equal(t, http.StatusUnsupportedMediaType, f.send(t, f.public, req).status)

		large := `{"expiresAt": "` + strings.Repeat("x", 1<<20) + `"}`
		require.Equal(t, http.StatusRequestEntityTooLarge, f.call(t, http.MethodPost, path, large).status)
		require.Empty(t, f.domain.calls)
	}
}

func TestRotatePassesTheGracePeriodOn(t *testing.T) {
	t.Parallel()
	for body, grace := range map[string]time.Duration{
		"":                              0,
		"{}":                            0,
		`{"gracePeriodSeconds": 0}`:     0,
		`{"gracePeriodSeconds": 1}`:     time.Second,
		`{"gracePeriodSeconds": 86400}`: 24 * time.Hour,
	} {
		f := setup(t)
		f.domain.issued = issued()
		until := created.Add(grace)
		f.domain.issued.RotatedAt, f.domain.issued.PreviousValidUntil = &created, &until

		res := f.call(t, http.MethodPost, rotatePath, body)

		require.Equal(t, http.StatusOK, res.status, res.body)
		require.Equal(t, "no-store", res.header.Get("Cache-Control"))
		require.Equal(t, f.domain.issued.Secret.Reveal(), res.json(t)["clientSecret"])
		require.NotNil(t, res.json(t)["previousSecretExpiresAt"])
		require.Equal(t, []call{{method: "rotate", agentID: agentID, credentialID: credentialID, grace: grace}}, f.domain.calls)
		require.Equal(t, []authz.Resource{{AgentID: agentID.String()}}, f.guard.asked)
	}
}

func TestAGracePeriodOutOfRangeIsRefused(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{"gracePeriodSeconds": -1}`, `{"gracePeriodSeconds": 86401}`, `{"gracePeriodSeconds": 9223372036854775807}`,
		`{"gracePeriodSeconds": 1e100}`, `{"gracePeriodSeconds": 1.5}`, `{"gracePeriodSeconds": "60"}`, `{"gracePeriodSeconds": null}`,
		`{"gracePeriodSeconds": true}`,
	} {
		f := setup(t)
		require.Equal(t, []string{"gracePeriodSeconds"}, f.call(t, http.MethodPost, rotatePath, body).failing(t), body)
		require.Empty(t, f.domain.calls)
	}
	f := setup(t)
	require.Equal(t, []string{"expiresAt"}, f.call(t, http.MethodPost, rotatePath, `{"expiresAt": "2027-01-01T00:00:00Z"}`).failing(t))
}

func TestRevokeAnswersNothing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	res := f.call(t, http.MethodDelete, credentialPath, "")
	require.Equal(t, http.StatusNoContent, res.status)
	require.Empty(t, res.body)
	require.Equal(t, []call{{method: "revoke", agentID: agentID, credentialID: credentialID}}, f.domain.calls)
	require.Equal(t, []authz.Resource{{AgentID: agentID.String()}}, f.guard.asked)
}

func TestListShowsEverythingButTheSecret(t *testing.T) {
	t.Parallel()
	f := setup(t)
	used, revoked := created.Add(time.Minute), created.Add(time.Hour)
	f.domain.listing = paging.Listing[secret.Credential]{Total: paging.Total{Items: 3}, Items: []secret.Credential{
		{ID: credentialID, AgentID: agentID, Status: secret.Revoked, CreatedAt: created, RevokedAt: &revoked, LastUsedAt: &used},
	}}
	res := f.call(t, http.MethodGet, credentialsPath, "")
	require.Equal(t, http.StatusOK, res.status)
	body := res.json(t)
	require.InDelta(t, 3, body["total"], 0)
	require.InDelta(t, 1, body["page"], 0)
	require.InDelta(t, 20, body["limit"], 0)
	require.NotContains(t, body, "nextCursor")
	item := body["data"].([]any)[0].(map[string]any)
	require.Equal(t, "revoked", item["status"])
	require.Equal(t, "2026-11-22T09:15:03.120518Z", item["lastUsedAt"])
	require.NotContains(t, res.body, "ecret\":\"")
	require.Equal(t, []call{{method: "list", agentID: agentID, page: paging.Page{Limit: 20}}}, f.domain.calls)
}

func TestListPassesFilterAndPositionOn(t *testing.T) {
	t.Parallel()
	f := setup(t)
	next := paging.Position{Time: created, ID: credentialID}
	f.domain.listing.Next, f.domain.listing.Total.Items = &next, 170
	active := secret.Active

	res := f.call(t, http.MethodGet, credentialsPath+"?status=active&page=3&limit=50", "")
	require.Equal(t, &active, f.domain.calls[0].status)
	require.Equal(t, paging.Page{Limit: 50, Offset: 100}, f.domain.calls[0].page)
	cursor := res.json(t)["nextCursor"].(string)

	res = f.call(t, http.MethodGet, credentialsPath+"?limit=50&cursor="+url.QueryEscape(cursor), "")
	require.Equal(t, paging.Page{Limit: 50, After: &next, Total: paging.Total{Items: 170}}, f.domain.calls[1].page)
	require.InDelta(t, 4, res.json(t)["page"], 0)
	require.Equal(t, []any{}, res.json(t)["data"])
}

func TestAQueryThatIsNotWhatListTakesIsRefused(t *testing.T) {
	t.Parallel()
	for query, fields := range map[string][]string{
		"status=expired":                    {"status"},
		"status=":                           {"status"},
		"status=active&status=revoked":      {"status"},
		"status=active'%3B--":               {"status"},
		"page=0":                            {"page"},
		"page=99999999999999999999":         {"page"},
		"limit=0":                           {"limit"},
		"limit=101":                         {"limit"},
		"cursor=nonsense":                   {"cursor"},
		"secret=1":                          {"secret"},
		"page=0&limit=x&status=on&unknown=": {"page", "limit", "status", "unknown"},
	} {
		f := setup(t)
		require.ElementsMatch(t, fields, f.call(t, http.MethodGet, credentialsPath+"?"+query, "").failing(t), query)
		require.Empty(t, f.domain.calls, query)
	}
}

func TestIDsMustBeUUIDsInLowerCase(t *testing.T) {
	t.Parallel()
	upper := strings.ToUpper(agentID.String())
	for _, bad := range []string{"1", upper, "{" + agentID.String() + "}", strings.ReplaceAll(agentID.String(), "-", ""), "%00", "'%20OR%201=1"} {
		f := setup(t)
		f.guard.deny = errors.New("asked about an id that is none")
		require.Equal(t, []string{"agentId"}, f.call(t, http.MethodPost, "/api/v1/agents/"+bad+"/credentials", "").failing(t))
		require.Equal(t, []string{"agentId"}, f.call(t, http.MethodGet, "/api/v1/agents/"+bad+"/credentials", "").failing(t))
		require.Equal(t, []string{"credentialId"}, f.call(t, http.MethodDelete, credentialsPath+"/"+bad, "").failing(t))
		require.Equal(t, []string{"agentId", "credentialId"},
			f.call(t, http.MethodPost, "/api/v1/agents/"+bad+"/credentials/"+bad+"/rotate", "").failing(t))
		wrong := f.call(t, http.MethodPost, "/api/v1/agents/"+bad+"/credentials?dry=1", `{"expiresAt": 1, "secret": "mine"}`)
		require.ElementsMatch(t, []string{"agentId", "expiresAt", "secret", "dry"}, wrong.failing(t))
		require.Empty(t, f.domain.calls)
	}
}

func TestWhatBelongsIntoTheBodyIsRefusedInTheQuery(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "{}", `{"gracePeriodSeconds": 60}`} {
		f := setup(t)
		require.Equal(t, []string{"gracePeriodSeconds"}, f.call(t, http.MethodPost, rotatePath+"?gracePeriodSeconds=60", body).failing(t))
		require.Empty(t, f.domain.calls, "the old secret would be dead at once")
	}
	for name, request := range requests {
		f := setup(t)
		require.Equal(t, []string{"dry"}, f.call(t, request[0], request[1]+"?dry=1", "").failing(t), name)
		require.Empty(t, f.domain.calls, name)
	}
}

// requests is one good request of each public route.
var requests = map[string][2]string{
	"create": {http.MethodPost, credentialsPath},
	"list":   {http.MethodGet, credentialsPath},
	"rotate": {http.MethodPost, rotatePath},
	"revoke": {http.MethodDelete, credentialPath},
}

func TestNoRouteDoesAnythingForSomebodyWhoIsNotAdmitted(t *testing.T) {
	t.Parallel()
	for name, request := range requests {
		f := setup(t)
		f.guard.refuse = apperr.New(apperr.Unauthorized, "who are you").WithChallenge("Bearer")
		res := f.call(t, request[0], request[1], "")
		require.Equal(t, http.StatusUnauthorized, res.status, name)
		require.Equal(t, "Bearer", res.header.Get("WWW-Authenticate"))
		require.Empty(t, f.guard.asked)

		f = setup(t)
		f.guard.deny = apperr.New(apperr.Forbidden, "not yours").With(map[string]any{"reason": "not yours"})
		res = f.call(t, request[0], request[1], "{broken")
		require.Equal(t, http.StatusForbidden, res.status, name)
		require.Empty(t, f.domain.calls)
	}
}

func TestErrorsOfTheDomainBecomeTheirResponses(t *testing.T) {
	t.Parallel()
	codes := map[string][]apperr.Code{
		"create": {apperr.AgentNotFound, apperr.AgentNotActive, apperr.CredentialLimitExceeded},
		"list":   {apperr.AgentNotFound},
		"rotate": {apperr.CredentialNotFound, apperr.CredentialAlreadyRevoked, apperr.CredentialExpired, apperr.AgentNotActive},
		"revoke": {apperr.CredentialNotFound, apperr.CredentialAlreadyRevoked},
	}
	for name, request := range requests {
		for _, code := range append(codes[name], apperr.InternalServerError) {
			f := setup(t)
			f.domain.err = apperr.New(code, "message").With(map[string]any{"limit": 1})
			res := f.call(t, request[0], request[1], "")
			require.Equal(t, code.Status(), res.status, name)
			require.Equal(t, string(code), res.json(t)["code"])
		}
		f := setup(t)
		f.domain.err = apperr.Unavailable(errors.New("postgres: host db-7 refused"))
		res := f.call(t, request[0], request[1], "")
		require.Equal(t, http.StatusServiceUnavailable, res.status)
		require.NotEmpty(t, res.header.Get("Retry-After"))
		require.NotContains(t, res.body, "db-7")

		f = setup(t)
		f.domain.err = errors.New("SELECT failed")
		res = f.call(t, request[0], request[1], "")
		require.Equal(t, http.StatusInternalServerError, res.status)
		require.NotContains(t, res.body, "SELECT")
	}
}

func TestOtherMethodsAndPathsAreNotServed(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for path, allowed := range map[string]string{credentialsPath: "POST", credentialPath: "DELETE", rotatePath: "POST"} {
		res := f.call(t, http.MethodPut, path, "{}")
		require.Equal(t, http.StatusMethodNotAllowed, res.status)
		require.Contains(t, res.header.Get("Allow"), allowed)
	}
	require.Equal(t, http.StatusMethodNotAllowed, f.call(t, http.MethodGet, credentialPath, "").status)
	require.Equal(t, http.StatusNotFound, f.call(t, http.MethodGet, "/api/v1/agents/"+uuid.NewString(), "").status)
	require.Empty(t, f.domain.calls)
}
