package issue_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/jwk"
	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/services/token/internal/assertion"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

// noKind is that of an answer which is no refusal.
const noKind issue.Kind = -1

const (
	keysURI = "https://keys.example.com/jwks.json"
	deadURI = "https://dead.example.com/jwks.json"
)

// ownKey signs for the agent, strangerKey for nobody.
var (
	ownKey      = newKey()
	strangerKey = newKey()
)

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

func setOf(key crypto.Signer) []jwk.Key { return []jwk.Key{{ID: "k", Public: key.Public()}} }

// signing is the world around assertions.
type signing struct {
	*world

	mu        sync.Mutex
	published []jwk.Key
	fetched   []string
	fetchErr  error
	used      map[string]time.Time
	usedErr   error
	holding   bool // whether a set was fetched while the attempt kept others waiting
}

func (s *signing) Keys(_ context.Context, _ uuid.UUID, uri string, _ func([]jwk.Key) bool) ([]jwk.Key, error) {
	s.fetched = append(s.fetched, uri)
	s.holding = s.holding || s.entered > len(s.left)
	if uri == deadURI {
		return nil, errAway
	}
	return s.published, s.fetchErr
}

func (s *signing) Use(_ context.Context, clientID uuid.UUID, id string, expiresAt time.Time) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.usedErr != nil {
		return false, s.usedErr
	}
	_, known := s.used[clientID.String()+id]
	s.used[clientID.String()+id] = expiresAt
	return !known, nil
}

func (w *world) assertions() *issue.Assertions {
	if w.signing == nil {
		w.signing = &signing{world: w, used: map[string]time.Time{}}
	}
	verifier, err := assertion.NewVerifier(issuerURL, w.clock.Now)
	if err != nil {
		panic(err)
	}
	return issue.NewAssertions(issue.AssertionsConfig{Agents: w, Verifier: verifier, Keys: w.signing, IDs: w.signing, Budget: w})
}

// newSigningWorld has an agent with a registered key.
func newSigningWorld() *world {
	w := newWorld()
	w.agent.Keys.Set = setOf(ownKey)
	w.assertions()
	return w
}

// sign makes a good assertion of the agent, changed by the test.
func (w *world) sign(t *testing.T, key *ecdsa.PrivateKey, change ...func(jwt.MapClaims)) issue.Request {
	t.Helper()
	claims := jwt.MapClaims{
		"iss": w.agent.ID.String(), "sub": w.agent.ID.String(), "aud": issuerURL, "jti": uuid.NewString(),
		"exp": w.clock.Now().Add(time.Minute).Unix(),
	}
	for _, apply := range change {
		apply(claims)
	}
	raw, err := jwt.NewWithClaims(jwt.SigningMethodES256, claims).SignedString(key)
	require.NoError(t, err)
	request := w.request("")
	request.Credentials = issue.Credentials{Assertion: config.Secret(raw)}
	return request
}

func TestAnAssertionGetsATokenOnce(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*world){
		"with a registered set":       func(*world) {},
		"with one that is remembered": func(w *world) { w.agentKnown = true },
		"with a published set":        func(w *world) { w.publish(keysURI, ownKey) },
		"with keys registered just now": func(w *world) {
			before := issue.Agent{ID: w.agent.ID, Status: issue.StatusActive}
			w.remembered = &before
		},
		"with keys moved just now from where nobody answers": func(w *world) {
			before := w.agent
			before.Keys = issue.ClientKeys{URI: deadURI}
			w.remembered = &before
		},
		"when it was reactivated just now": func(w *world) { before := w.agent; before.Status = issue.StatusSuspended; w.remembered = &before },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newSigningWorld()
			prepare(w)
			request := w.sign(t, ownKey)
			token, _, err := w.issuer().Issue(t.Context(), request)
			require.NoError(t, err)
			require.Equal(t, w.agent.ID.String(), claimsOf(t, token)["sub"])
			require.Empty(t, w.used, "no secret was used")
			require.Zero(t, w.verified, "nor asked about")
			require.Zero(t, w.failures)
			require.Equal(t, auditevent.TokenIssued, w.journal[0].Action)

			_, _, err = w.issuer().Issue(t.Context(), request)
			requireKind(t, err, issue.InvalidClient)
			require.Equal(t, "the assertion was used before", w.journal[1].Metadata["detail"])

			request = w.sign(t, ownKey)
			request.Credentials.ClientID = w.agent.ID.String()
			_, _, err = w.issuer().Issue(t.Context(), request)
			require.NoError(t, err, "another one, with its client_id beside it")
		})
	}
}

func (w *world) publish(uri string, key crypto.Signer) {
	w.agent.Keys = issue.ClientKeys{URI: uri}
	w.signing.published = setOf(key)
}

func TestNobodyWaitsForTheServerOfAClientsKeys(t *testing.T) {
	t.Parallel()
	w := newSigningWorld()
	w.publish(keysURI, ownKey)
	_, _, err := w.issuer().Issue(t.Context(), w.sign(t, ownKey))
	require.NoError(t, err)
	require.Equal(t, []string{keysURI}, w.signing.fetched)
	require.Equal(t, 1, w.entered)
	require.False(t, w.signing.holding)
	require.Len(t, w.left, 1, "once")
}

func TestEveryAssertionThatProvesNothingIsTheSameRefusal(t *testing.T) {
	t.Parallel()
	unknown := func(w *world) { w.agentErr = issue.ErrUnknownAgent }
	bySomebodyElse := func(t *testing.T, w *world) issue.Request {
		t.Helper()
		return w.sign(t, strangerKey)
	}
	for name, row := range map[string]struct {
		prepare func(*world)
		sign    func(*testing.T, *world) issue.Request
		reason  string
		detail  any
		nobody  bool
		fetched bool
	}{
		"a wrong signature": {
			sign:   bySomebodyElse,
			reason: auditevent.ReasonInvalidAssertion, detail: "the assertion's signature is not by the client's key",
		},
		"a wrong signature, remembered": {
			prepare: func(w *world) { w.agentKnown = true },
			sign:    bySomebodyElse,
			reason:  auditevent.ReasonInvalidAssertion, detail: "the assertion's signature is not by the client's key",
		},
		"a wrong signature, published keys": {
			prepare: func(w *world) { w.publish(keysURI, ownKey) },
			sign:    bySomebodyElse, fetched: true,
			reason: auditevent.ReasonInvalidAssertion, detail: "the assertion's signature is not by the client's key",
		},
		"no keys registered": {
			prepare: func(w *world) { w.agent.Keys = issue.ClientKeys{} },
			reason:  auditevent.ReasonInvalidAssertion, detail: "no key of the client fits the assertion's alg and kid",
		},
		"an unknown client":                    {prepare: unknown, reason: auditevent.ReasonAgentNotFound},
		"an unknown client that is remembered": {prepare: func(w *world) { unknown(w); w.agentKnown = true }, reason: auditevent.ReasonAgentNotFound},
		"an unknown client of no form": {
			prepare: unknown, nobody: true, reason: auditevent.ReasonAgentNotFound,
			sign: func(t *testing.T, w *world) issue.Request {
				t.Helper()
				return w.sign(t, ownKey, func(claims jwt.MapClaims) { claims["iss"], claims["sub"] = "x", "x" })
			},
		},
		"no JWT at all": {
			prepare: unknown, nobody: true, reason: auditevent.ReasonAgentNotFound,
			sign: func(_ *testing.T, w *world) issue.Request {
				request := w.request("")
				request.Credentials = issue.Credentials{Assertion: "a.b.c"}
				return request
			},
		},
		"expired, and nothing is fetched for it": {
			prepare: func(w *world) { w.publish(keysURI, ownKey) },
			sign: func(t *testing.T, w *world) issue.Request {
				t.Helper()
				return w.sign(t, ownKey, func(claims jwt.MapClaims) { claims["exp"] = start.Unix() - 10 })
			},
			reason: auditevent.ReasonInvalidAssertion, detail: "the assertion has expired, or says not when",
		},
		"for the token endpoint": {
			sign: func(t *testing.T, w *world) issue.Request {
				t.Helper()
				return w.sign(t, ownKey, func(claims jwt.MapClaims) { claims["aud"] = issuerURL + "/api/v1/token" })
			},
			reason: auditevent.ReasonInvalidAssertion, detail: "the assertion's aud is not the issuer, and nothing else",
		},
		"another client_id beside it": {
			sign: func(t *testing.T, w *world) issue.Request {
				t.Helper()
				request := w.sign(t, ownKey)
				request.Credentials.ClientID = uuid.NewString()
				return request
			},
			reason: auditevent.ReasonInvalidAssertion, detail: "the parameter client_id is not the assertion's sub",
		},
		"one that was used": {
			sign: func(t *testing.T, w *world) issue.Request {
				t.Helper()
				request := w.sign(t, ownKey)
				_, _, err := w.issuer().Issue(t.Context(), request)
				require.NoError(t, err)
				w.journal, w.outcomes, w.asked = nil, nil, 0
				return request
			},
			reason: auditevent.ReasonInvalidAssertion, detail: "the assertion was used before",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newSigningWorld()
			if row.prepare != nil {
				row.prepare(w)
			}
			var request issue.Request
			if row.sign != nil {
				request = row.sign(t, w)
			} else {
				request = w.sign(t, ownKey)
			}
			_, window, err := w.issuer().Issue(t.Context(), request)
			require.Equal(t, "Client authentication failed.", requireKind(t, err, issue.InvalidClient).Description)
			require.Equal(t, 10, window.Remaining, "an untouched window")
			require.Equal(t, 1, w.asked, "the registry is asked in any case, once")
			require.Equal(t, 1, w.failures)
			require.Len(t, w.journal, 1)
			require.Equal(t, auditevent.AuthFailed, w.journal[0].Action)
			require.Equal(t, row.reason, w.journal[0].Metadata["reason"])
			require.Equal(t, row.detail, w.journal[0].Metadata["detail"])
			require.Nil(t, w.journal[0].ActorID)
			require.Equal(t, row.nobody, w.journal[0].AgentID == nil)
			require.Equal(t, row.fetched, len(w.signing.fetched) > 0)
			require.Equal(t, []string{"invalid_client"}, w.outcomes)
		})
	}
}

func TestWhatIsNotKnownAboutAnAssertionIsNotGuessed(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*world){
		"the registry is away":               func(w *world) { w.agentErr = errAway },
		"the published keys are away":        func(w *world) { w.publish(keysURI, ownKey); w.signing.fetchErr = errAway },
		"they are, and the agent remembered": func(w *world) { w.publish(keysURI, ownKey); w.signing.fetchErr, w.agentKnown = errAway, true },
		"used assertions cannot be asked":    func(w *world) { w.signing.usedErr = errAway },
		"the event of a failure is not stored": func(w *world) {
			w.agent.Keys.Set, w.journalErr = setOf(strangerKey), errAway
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newSigningWorld()
			prepare(w)
			_, _, err := w.issuer().Issue(t.Context(), w.sign(t, ownKey))
			requireKind(t, err, issue.Unavailable)
			require.Empty(t, w.journal)
		})
	}
	w := newSigningWorld()
	w.agent.Keys = issue.ClientKeys{Unreadable: errors.New("broken")}
	_, _, err := w.issuer().Issue(t.Context(), w.sign(t, ownKey))
	require.Equal(t, apperr.InternalServerError, apperr.CodeOf(err), "our own fault")
}

func TestASuspendedClientThatSignsIsToldSo(t *testing.T) {
	t.Parallel()
	w := newSigningWorld()
	w.agent.Status = issue.StatusSuspended
	_, _, err := w.issuer().Issue(t.Context(), w.sign(t, ownKey))
	requireKind(t, err, issue.UnauthorizedClient)
	require.Equal(t, auditevent.ReasonAgentSuspended, w.journal[0].Metadata["reason"])
	require.Zero(t, w.failures, "it proved who it is")
	require.Empty(t, w.signing.used, "nothing is written for it")
	require.Equal(t, 1, w.requests, "one charge")
}

func TestAClientPastItsRateWritesNoAssertionsDown(t *testing.T) {
	t.Parallel()
	w := newSigningWorld()
	w.looked = ratelimit.Window{Limit: 10, RetryAfter: time.Second}
	_, window, err := w.issuer().Issue(t.Context(), w.sign(t, ownKey))
	require.Equal(t, time.Second, requireKind(t, err, issue.TooManyRequests).RetryAfter)
	require.Equal(t, w.looked, window, "it is told of its own window")
	require.Empty(t, w.signing.used)
	require.Zero(t, w.failures, "it proved who it is")
	require.Zero(t, w.spent)
	require.Empty(t, w.journal)
}

func TestAnAssertionThatMemoryDoesNotProveTakesItsTurnBeforeTheRegistryIsAsked(t *testing.T) {
	t.Parallel()
	const limited = 40 * time.Second
	crowd := func(w *world) { w.crowd = true }
	full := func(w *world) { w.crowd, w.queueErr = true, errAway }
	pastLimit := func(w *world) { w.limited = limited }
	pastLimitFull := func(w *world) { w.limited, w.queueErr = limited, errAway }
	wrong := func(w *world) { w.agent.Keys.Set = setOf(strangerKey) }
	known := func(w *world) { w.agentKnown = true }
	away := func(w *world) { w.agentErr = errAway }
	gone := func(w *world) { w.enterErr = errAway }
	type counts struct{ entered, queued, asked, counted, refused int }
	for name, row := range map[string]struct {
		prepare []func(*world)
		used    bool
		kind    issue.Kind // noKind for a token
		counts  counts
	}{
		"a good one":                     {kind: noKind, counts: counts{entered: 1, asked: 1}},
		"a good one in a crowd":          {prepare: []func(*world){crowd}, kind: noKind, counts: counts{entered: 1, queued: 1, asked: 1}},
		"a good one, no room":            {prepare: []func(*world){full}, kind: issue.Unavailable, counts: counts{entered: 1, queued: 1}},
		"a good one that left":           {prepare: []func(*world){gone}, kind: issue.Unavailable, counts: counts{entered: 1}},
		"a good one, past the limit":     {prepare: []func(*world){pastLimit}, kind: noKind, counts: counts{entered: 1, queued: 1, asked: 1}},
		"a good one that memory proves":  {prepare: []func(*world){known, full}, kind: noKind},
		"a wrong one":                    {prepare: []func(*world){wrong}, kind: issue.InvalidClient, counts: counts{entered: 1, asked: 1, counted: 1}},
		"a wrong one in a crowd":         {prepare: []func(*world){wrong, crowd}, kind: issue.InvalidClient, counts: counts{entered: 1, queued: 1, asked: 1, counted: 1}},
		"a wrong one, no room":           {prepare: []func(*world){wrong, full}, kind: issue.Unavailable, counts: counts{entered: 1, queued: 1}},
		"a wrong one, past the limit":    {prepare: []func(*world){wrong, pastLimit}, kind: issue.TooManyRequests, counts: counts{entered: 1, queued: 1, asked: 1, refused: 1}},
		"past the limit and no room":     {prepare: []func(*world){wrong, pastLimitFull}, kind: issue.TooManyRequests, counts: counts{entered: 1, queued: 1, refused: 1}},
		"past the limit, registry away":  {prepare: []func(*world){pastLimit, away}, kind: issue.Unavailable, counts: counts{entered: 1, queued: 1, asked: 1}},
		"used before":                    {used: true, kind: issue.InvalidClient, counts: counts{entered: 1, asked: 1, counted: 1}},
		"used before, and memory proves": {prepare: []func(*world){known}, used: true, kind: issue.InvalidClient, counts: counts{entered: 1, counted: 1}},
		"used before, and no room":       {prepare: []func(*world){known, full}, used: true, kind: issue.Unavailable, counts: counts{entered: 1, queued: 1}},
		"used before, in a crowd":        {prepare: []func(*world){crowd}, used: true, kind: issue.InvalidClient, counts: counts{entered: 1, queued: 1, asked: 1, counted: 1}},
		"used before, past the limit":    {prepare: []func(*world){known, pastLimit}, used: true, kind: issue.TooManyRequests, counts: counts{entered: 1, queued: 1, refused: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newSigningWorld()
			request := w.sign(t, ownKey)
			if row.used {
				_, _, err := w.issuer().Issue(t.Context(), request)
				require.NoError(t, err)
				w.entered, w.asked = 0, 0
			}
			for _, prepare := range row.prepare {
				prepare(w)
			}
			_, _, err := w.issuer().Issue(t.Context(), request)
			if row.kind == noKind {
				require.NoError(t, err)
			} else if refusal := requireKind(t, err, row.kind); row.kind == issue.TooManyRequests {
				require.Equal(t, limited, refusal.RetryAfter)
			}
			require.Equal(t, row.counts, counts{w.entered, w.queued, w.asked, w.failures, w.refused})
		})
	}
}
