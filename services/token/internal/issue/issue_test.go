package issue_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

func requireKind(t *testing.T, err error, kind issue.Kind) *issue.Refusal {
	t.Helper()
	var refusal *issue.Refusal
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, kind.OAuth(), refusal.Kind.OAuth(), refusal.Error())
	require.Equal(t, kind, refusal.Kind)
	return refusal
}

func TestScopesAreGrantedAsTheAgentMayHaveThem(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		allowed, capabilities []string
		requested, granted    string
		refused               string
	}{
		"nothing requested gives agents:read":           {allowed: []string{"agents:read", "audit:read"}, granted: "agents:read"},
		"nothing requested names what may be":           {allowed: []string{"audit:read"}, capabilities: []string{"cv:read"}, refused: "It may request: audit:read cv:read."},
		"an agent without any scope is told":            {refused: "no scope at all"},
		"a system scope":                                {allowed: []string{"audit:read"}, requested: "audit:read", granted: "audit:read"},
		"a capability":                                  {capabilities: []string{"cv:read"}, requested: "cv:read", granted: "cv:read"},
		"in the order requested, once each":             {allowed: []string{"agents:read"}, capabilities: []string{"cv:read"}, requested: "cv:read agents:read cv:read", granted: "cv:read agents:read"},
		"admin implies all system scopes":               {allowed: []string{"agents:admin"}, requested: "tokens:read agents:admin", granted: "tokens:read agents:admin"},
		"a wildcard by its own name":                    {capabilities: []string{"cv:*"}, requested: "cv:*", granted: "cv:*"},
		"a wildcard covers nothing else":                {capabilities: []string{"cv:*"}, requested: "cv:read", refused: "may not request the scope 'cv:read'"},
		"another agent's scope":                         {allowed: []string{"agents:read"}, requested: "agents:read audit:read", refused: "'audit:read'"},
		"an unknown scope, cut":                         {allowed: []string{"agents:read"}, requested: strings.Repeat("x", 200), refused: strings.Repeat("x", 64) + "...'"},
		"two spaces":                                    {allowed: []string{"agents:read"}, requested: "agents:read  agents:read", refused: "malformed"},
		"a space at the end":                            {allowed: []string{"agents:read"}, requested: "agents:read ", refused: "malformed"},
		"a character that no scope has":                 {allowed: []string{"agents:read"}, requested: "agents\"read", refused: "malformed"},
		"a tab":                                         {allowed: []string{"agents:read"}, requested: "agents:read\tx", refused: "malformed"},
		"a capability never becomes a system scope":     {capabilities: []string{"agents:admin"}, requested: "agents:admin", refused: "may not"},
		"an unknown allowed scope never becomes one":    {allowed: []string{"root"}, requested: "root", refused: "may not"},
		"a capability that is there twice is one scope": {capabilities: []string{"cv:read", "cv:read"}, refused: "It may request: cv:read."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			w.agent.AllowedScopes, w.agent.Capabilities = row.allowed, row.capabilities
			got, _, err := w.issue(t, row.requested)
			if row.refused != "" {
				require.Contains(t, requireKind(t, err, issue.InvalidScope).Description, row.refused)
				require.Zero(t, w.spent, "no token was charged")
				require.Equal(t, 1, w.requests, "the request was")
				return
			}
			require.NoError(t, err)
			require.Equal(t, row.granted, got.Scope)
		})
	}
}

func TestATokenSaysWhatTheContractSays(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.clock.Advance(1500 * time.Millisecond)
	got, window, err := w.issue(t, "resume:read")
	require.NoError(t, err)
	require.Equal(t, time.Hour, got.ExpiresIn)
	require.Equal(t, 9, window.Remaining)

	var claims map[string]any
	require.NoError(t, json.Unmarshal([]byte(strings.TrimSuffix(strings.TrimPrefix(got.Access, "header."), ".signature")), &claims))
	jti, err := uuid.Parse(claims["jti"].(string))
	require.NoError(t, err)
	require.EqualValues(t, 7, jti.Version())
	seconds, nanos := jti.Time().UnixTime()
	require.Equal(t, w.clock.Now().UnixMilli(), time.Unix(seconds, nanos).UnixMilli())
	at := float64(start.Unix() + 1)
	delete(claims, "jti")
	require.Equal(t, map[string]any{
		"iss": issuerURL, "aud": issuerURL, "sub": w.agent.ID.String(), "client_id": w.agent.ID.String(),
		"iat": at, "nbf": at, "exp": at + 3600, "scope": "resume:read",
		"agent_type": "screener", "owner": "talent", "deployment_env": "production",
	}, claims)

	require.Len(t, w.journal, 1)
	event := w.journal[0]
	require.Equal(t, auditevent.TokenIssued, event.Action)
	require.Equal(t, w.agent.ID, *event.AgentID)
	require.Equal(t, w.agent.ID, *event.ActorID)
	require.Equal(t, jti.String(), event.Metadata["jti"])
	require.Equal(t, start.Add(time.Second+time.Hour), event.Metadata["expiresAt"], "what exp says")
	require.Equal(t, []uuid.UUID{w.agent.ID}, w.used)
	require.Equal(t, []string{"success"}, w.outcomes)
}

func TestATokenIsNeverBornDead(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.agent.TokensValidAfter = start.Add(700 * time.Millisecond) // by a clock that is ahead
	_, _, err := w.issue(t, "")
	require.NoError(t, err)
	jti := uuid.MustParse(w.journal[0].Metadata["jti"].(string))
	seconds, nanos := jti.Time().UnixTime()
	require.Equal(t, start.Add(701*time.Millisecond).UnixMilli(), time.Unix(seconds, nanos).UnixMilli())
}

func TestEveryFailedAuthenticationIsTheSameRefusal(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		prepare func(*world, *issue.Request)
		reason  string
		nobody  bool
	}{
		"wrong secret": {func(_ *world, r *issue.Request) { r.Credentials.Secret = "wrong" }, auditevent.ReasonInvalidSecret, false},
		"wrong secret of a client that is remembered": {func(w *world, r *issue.Request) {
			w.agentKnown = true
			r.Credentials.Secret = "wrong"
		}, auditevent.ReasonInvalidSecret, false},
		"expired secret": {func(w *world, _ *issue.Request) { w.secretReason = auditevent.ReasonCredentialExpired }, auditevent.ReasonCredentialExpired, false},
		"unknown client": {func(w *world, r *issue.Request) {
			w.agentErr = issue.ErrUnknownAgent
			r.Credentials.Secret = "wrong"
		}, auditevent.ReasonAgentNotFound, false},
		"unknown client that is remembered": {func(w *world, r *issue.Request) {
			w.agentErr, w.agentKnown = issue.ErrUnknownAgent, true
			r.Credentials.Secret = "wrong"
		}, auditevent.ReasonAgentNotFound, false},
		"an id that is no UUID": {func(w *world, r *issue.Request) {
			w.agentErr = issue.ErrUnknownAgent
			r.Credentials.ClientID = "'; DROP TABLE agents"
		}, auditevent.ReasonAgentNotFound, true},
		"an id in upper case": {func(w *world, r *issue.Request) {
			w.agentErr = issue.ErrUnknownAgent
			r.Credentials.ClientID = strings.ToUpper("019aa9c0-7d52-7c3e-9b0a-5f0d3c1e8a41")
		}, auditevent.ReasonAgentNotFound, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			request := w.request("")
			row.prepare(w, &request)
			_, window, err := w.issuer().Issue(t.Context(), request)
			require.Equal(t, "Client authentication failed.", requireKind(t, err, issue.InvalidClient).Description)
			require.Equal(t, 10, window.Remaining, "an untouched window")
			require.Equal(t, 1, w.verified, "the credentials service is asked in any case")
			require.Equal(t, 1, w.asked, "and the registry")
			require.Equal(t, 1, w.entered)
			require.Equal(t, 1, w.failures)
			require.Len(t, w.journal, 1)
			require.Equal(t, auditevent.AuthFailed, w.journal[0].Action)
			require.Equal(t, row.reason, w.journal[0].Metadata["reason"])
			require.Nil(t, w.journal[0].ActorID)
			require.Equal(t, row.nobody, w.journal[0].AgentID == nil)
			require.Empty(t, w.used)
			require.Equal(t, []string{"invalid_client"}, w.outcomes)
		})
	}
}

func TestPastTheLimitOfFailuresThereIsNoEvent(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.failureWait = 30 * time.Second
	request := w.request("")
	request.Credentials.Secret = "wrong"
	_, _, err := w.issuer().Issue(t.Context(), request)
	require.Equal(t, 30*time.Second, requireKind(t, err, issue.TooManyRequests).RetryAfter)
	require.Empty(t, w.journal)
	_, _, err = w.issue(t, "")
	require.NoError(t, err, "the right secret is let in")
}

func TestInACrowdSecretsAreScreenedAndNothingElseIsAsked(t *testing.T) {
	t.Parallel()
	const limited = 40 * time.Second
	for name, row := range map[string]struct {
		prepare    func(*world)
		retryAfter time.Duration
	}{
		"wrong secret from everywhere":   {func(w *world) { w.crowd = true }, 5 * time.Second},
		"wrong secret past the limit":    {func(w *world) { w.limited = limited }, limited},
		"unknown client past the limit":  {func(w *world) { w.limited, w.agentErr = limited, issue.ErrUnknownAgent }, limited},
		"wrong secret of a known client": {func(w *world) { w.limited, w.agentKnown = limited, true }, limited},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			row.prepare(w)
			request := w.request("")
			request.Credentials.Secret = "wrong"
			_, _, err := w.issuer().Issue(t.Context(), request)
			require.Equal(t, row.retryAfter, requireKind(t, err, issue.TooManyRequests).RetryAfter)
			require.Equal(t, 1, w.screened)
			require.Zero(t, w.queued, "it waits for no others")
			require.Zero(t, w.verified)
			require.Zero(t, w.asked, "nobody needs to know whether there is such a client")
			require.Zero(t, w.failures, "it is over the limit already")
			require.Equal(t, 1, w.refused)
			require.Empty(t, w.journal)
		})
	}
	w := newWorld()
	w.limited = limited
	_, _, err := w.issue(t, "")
	require.NoError(t, err, "a right secret is let in, though nobody had seen it before")
	require.Equal(t, 1, w.verified, "and looked at as closely as ever")

	w = newWorld()
	w.crowd, w.screenErr = true, errAway
	_, _, err = w.issue(t, "")
	requireKind(t, err, issue.Unavailable)
	require.Zero(t, w.refused, "nobody said that it is wrong")
}

func TestAnAttemptLeavesOnceItIsDecidedAndCounted(t *testing.T) {
	t.Parallel()
	w := newWorld()
	request := w.request("")
	request.Credentials.Secret = "wrong"
	_, _, err := w.issuer().Issue(t.Context(), request)
	requireKind(t, err, issue.InvalidClient)
	require.Equal(t, []int{1}, w.left, "so that nobody gets in before that is known")
	_, _, err = w.issue(t, "")
	require.NoError(t, err)
	require.Equal(t, []int{1, 1}, w.left)
}

func TestWhatCannotBeLookedIntoForOthersFailuresIsTemporary(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.enterErr = errAway
	_, _, err := w.issue(t, "")
	requireKind(t, err, issue.Unavailable)
	require.Zero(t, w.verified)
}

func TestASecretThatWasGoodBeforeWaitsForNobody(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.familiar, w.enterErr = true, errAway
	_, _, err := w.issue(t, "")
	require.NoError(t, err)
	require.Zero(t, w.entered)
	require.Equal(t, 1, w.verified, "that proves nothing")
	request := w.request("")
	request.Credentials.Secret = "wrong"
	_, _, err = w.issuer().Issue(t.Context(), request)
	requireKind(t, err, issue.InvalidClient)
}

func TestANewSecretOfAKnownClientNeedsNoRegistry(t *testing.T) {
	t.Parallel()
	w := newWorld()
	remembered := w.agent
	w.remembered, w.agentErr = &remembered, errAway
	_, _, err := w.issue(t, "")
	require.NoError(t, err)
	suspended := w.agent
	suspended.Status = issue.StatusSuspended
	w.remembered = &suspended
	_, _, err = w.issue(t, "")
	requireKind(t, err, issue.Unavailable)
}

func TestAFailureTakesItsTimeAndASuccessDoesNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.floor = 10 * time.Millisecond
		took := func(secret config.Secret) time.Duration {
			request, began := w.request(""), time.Now()
			request.Credentials.Secret = secret
			_, _, _ = w.issuer().Issue(t.Context(), request)
			return time.Since(began)
		}
		require.Equal(t, w.floor, took("wrong"))
		w.failureWait = time.Minute
		require.Equal(t, w.floor, took("wrong"))
		require.Zero(t, took(goodSecret))
		w.secretErr = errAway
		require.Zero(t, took("wrong"), "nothing was found out")
	})
}

func TestARememberedClientAsksNobody(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.agentKnown, w.secretKnown = true, true
	_, _, err := w.issue(t, "")
	require.NoError(t, err)
	require.Zero(t, w.verified)
}

func TestAClientThatMayNotActIsToldSo(t *testing.T) {
	t.Parallel()
	for status, reason := range map[issue.Status]string{
		issue.StatusSuspended:      auditevent.ReasonAgentSuspended,
		issue.StatusDecommissioned: auditevent.ReasonAgentDecommissioned,
	} {
		w := newWorld()
		w.agent.Status = status
		_, window, err := w.issue(t, "no:such") // the status comes before the scope
		requireKind(t, err, issue.UnauthorizedClient)
		require.Equal(t, 9, window.Remaining, "the request is charged")
		require.Equal(t, reason, w.journal[0].Metadata["reason"])
		require.Equal(t, w.agent.ID, *w.journal[0].ActorID)
		require.Zero(t, w.failures, "the secret was right")
	}
}

func TestNobodyIsRefusedForWhatWasTrueAMomentAgo(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(*issue.Agent){
		"the agent was suspended":          func(a *issue.Agent) { a.Status = issue.StatusSuspended },
		"the scope was not yet allowed":    func(a *issue.Agent) { a.AllowedScopes = nil },
		"the capability was not yet there": func(a *issue.Agent) { a.Capabilities = nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			old := w.agent
			before(&old)
			w.remembered, w.secretKnown = &old, true
			token, _, err := w.issue(t, "agents:read resume:read")
			require.NoError(t, err)
			require.Equal(t, "agents:read resume:read", token.Scope)
		})
	}
}

func TestNobodyIsAskedWithoutLimitWhetherAScopeIsAllowedByNow(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.agentKnown, w.secretKnown = true, true
	_, _, err := w.issue(t, "no:such")
	requireKind(t, err, issue.InvalidScope)
	require.Equal(t, 1, w.asked)
	w.looked.Allowed = false
	_, _, err = w.issue(t, "no:such")
	requireKind(t, err, issue.TooManyRequests)
	require.Equal(t, 1, w.asked)
}

func TestLimitsRefuse(t *testing.T) {
	t.Parallel()
	limited := issue.Charge{Window: ratelimit.Window{Limit: 10, RetryAfter: 5 * time.Second}}
	for name, row := range map[string]struct {
		charge   issue.Charge
		scope    string
		kind     issue.Kind
		outcome  string
		contains string
	}{
		"rate limit":                        {limited, "", issue.TooManyRequests, "rate_limited", "Too many"},
		"rate limit comes before the scope": {limited, "no:such", issue.TooManyRequests, "rate_limited", "Too many"},
		"quota":                             {issue.Charge{Window: ratelimit.Window{Allowed: true}, QuotaExceeded: true}, "", issue.UnauthorizedClient, "quota_exceeded", "limit of 7 tokens"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			w.charge = row.charge
			_, _, err := w.issue(t, row.scope)
			require.Contains(t, requireKind(t, err, row.kind).Description, row.contains)
			require.Equal(t, []string{row.outcome}, w.outcomes)
			require.Zero(t, w.refunds)
		})
	}
	w := newWorld()
	w.charge.QuotaExceeded = true
	_, _, err := w.issue(t, "")
	require.Error(t, err)
	require.Equal(t, auditevent.ReasonQuotaExceeded, w.journal[0].Metadata["reason"])
}

func TestWhatCannotBeLookedUpIsNeverGuessed(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		prepare func(*world, *issue.Request)
		refunds int
	}{
		"registry away":                    {func(w *world, _ *issue.Request) { w.agentErr = errAway }, 0},
		"credentials away":                 {func(w *world, _ *issue.Request) { w.secretErr = errAway }, 0},
		"registry away, secret wrong":      {func(w *world, r *issue.Request) { w.agentErr, r.Credentials.Secret = errAway, "wrong" }, 0},
		"credentials away, client unknown": {func(w *world, _ *issue.Request) { w.agentErr, w.secretErr = issue.ErrUnknownAgent, errAway }, 0},
		"quota not known":                  {func(w *world, _ *issue.Request) { w.chargeErr = errAway }, 0},
		"no key":                           {func(w *world, _ *issue.Request) { w.keyErr = errAway }, 0},
		"event not durable":                {func(w *world, _ *issue.Request) { w.undurable = errAway }, 1},
		"failure not durable":              {func(w *world, r *issue.Request) { w.journalErr, r.Credentials.Secret = errAway, "wrong" }, 0},
		"refusal not durable":              {func(w *world, _ *issue.Request) { w.journalErr, w.agent.Status = errAway, issue.StatusSuspended }, 0},
		"quota event not durable":          {func(w *world, _ *issue.Request) { w.journalErr, w.charge.QuotaExceeded = errAway, true }, 0},
		"rate window not known":            {func(w *world, r *issue.Request) { w.chargeErr, r.Scope = errAway, "no:such" }, 0},
		"registry away, rate window not known": {func(w *world, r *issue.Request) {
			registryAway(w)
			w.chargeErr, r.Scope = errAway, "no:such"
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			request := w.request("")
			row.prepare(w, &request)
			got, _, err := w.issuer().Issue(t.Context(), request)
			require.Empty(t, got)
			require.Positive(t, requireKind(t, err, issue.Unavailable).RetryAfter)
			require.Equal(t, row.refunds, w.refunds)
			require.Equal(t, []string{"temporarily_unavailable"}, w.outcomes)
		})
	}
}

// registryAway leaves the registry out of reach of who remembers the agent as it is.
func registryAway(w *world) {
	remembered := w.agent
	w.remembered, w.secretKnown, w.agentErr = &remembered, true, errAway
}

func TestWithoutTheRegistryNobodyIsRefusedWhatMayHaveBeenAllowedSince(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		scope     string
		resources []string
		nothing   bool // the agent may have no scope
		kind      issue.Kind
	}{
		"a scope it had not":                 {scope: "audit:read", kind: issue.Unavailable},
		"one of two scopes":                  {scope: "agents:read audit:read", kind: issue.Unavailable},
		"the scope of who asks for none":     {nothing: true, kind: issue.Unavailable},
		"a resource it had not":              {resources: []string{"https://b"}, kind: issue.Unavailable},
		"one of two resources":               {resources: []string{"https://a", "https://b"}, kind: issue.Unavailable},
		"a malformed scope":                  {scope: "agents:read  resume:read", kind: issue.InvalidScope},
		"a malformed scope after another":    {scope: "audit:read \"", kind: issue.InvalidScope},
		"too many resources":                 {resources: slices.Repeat([]string{"https://b"}, 17), kind: issue.InvalidTarget},
		"too many resources, and a scope":    {scope: "audit:read", resources: slices.Repeat([]string{"https://b"}, 17), kind: issue.InvalidTarget},
		"a resource that is beside no other": {resources: []string{"https://b", issuerURL}, kind: issue.InvalidTarget},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			w.agent.AllowedResources = []string{"https://a"}
			if row.nothing {
				w.agent.AllowedScopes = nil
			}
			registryAway(w)
			request := w.request(row.scope)
			request.Resources = row.resources
			_, window, err := w.issuer().Issue(t.Context(), request)
			require.Equal(t, row.kind == issue.Unavailable, requireKind(t, err, row.kind).RetryAfter > 0)
			require.Equal(t, 1, w.requests, "the request is charged")
			require.Equal(t, w.charge.Window, window, "and told of")
			require.Zero(t, w.spent)
			require.Equal(t, row.kind != issue.Unavailable, w.asked == 0, "the form needs no registry")
		})
	}
	w := newWorld()
	w.agent.AllowedResources = []string{"https://a"}
	registryAway(w)
	request := w.request("resume:read")
	request.Resources = []string{"https://a"}
	token, _, err := w.issuer().Issue(t.Context(), request)
	require.NoError(t, err, "what it had is not asked about")
	require.Equal(t, "resume:read", token.Scope)
}

func TestAnAgentThatIsGoneWhenItsScopeIsLookedUpIsNoClient(t *testing.T) {
	t.Parallel()
	w := newWorld()
	registryAway(w)
	w.agentErr = issue.ErrUnknownAgent
	_, window, err := w.issue(t, "audit:read")
	require.Equal(t, "Client authentication failed.", requireKind(t, err, issue.InvalidClient).Description)
	require.Equal(t, 1, w.failures)
	require.Equal(t, auditevent.ReasonAgentNotFound, w.journal[0].Metadata["reason"])
	require.Nil(t, w.journal[0].ActorID)
	require.Equal(t, w.Untouched(), window)
	require.Zero(t, w.requests)
}

func TestATokenIsGivenBackAlsoForWhoHasLeft(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.undurable = errAway
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := w.issuer().Issue(ctx, w.request(""))
	requireKind(t, err, issue.Unavailable)
	require.Equal(t, 1, w.refunds)
}

func TestAFaultOfOurOwnIsNotCalledTemporary(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.signErr = errors.New("broken")
	w.charge.Month = time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	_, _, err := w.issue(t, "")
	require.Equal(t, apperr.InternalServerError, apperr.CodeOf(err))
	require.Equal(t, 1, w.refunds)
	require.Equal(t, w.charge, w.refunded, "what was charged is given back, whenever that was")
	require.Equal(t, []string{"error"}, w.outcomes)
	require.Subset(t, issue.AllOutcomes(), []string{"success", "error", "rate_limited", "quota_exceeded", "invalid_client"})
}

func TestNoSecretIsInAnyText(t *testing.T) {
	t.Parallel()
	const secret config.Secret = "sk_live_very_secret"
	w := newWorld()
	request := w.request("")
	request.Credentials.Secret = secret
	_, _, err := w.issuer().Issue(t.Context(), request)
	require.NotContains(t, err.Error(), secret.Reveal())
	for _, event := range w.journal {
		payload, err := json.Marshal(event)
		require.NoError(t, err)
		require.NotContains(t, string(payload), secret.Reveal())
	}
}
