package issue_test

import (
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

// Deciding, claims and event; the key, the budget and the journal are fakes that allocate next to nothing.
func TestATokenOfAKnownClientTakesFewAllocations(t *testing.T) {
	w := newWorld()
	w.agentKnown, w.secretKnown = true, true
	issuer, request := w.issuer(), w.request("")
	allocations := testing.AllocsPerRun(200, func() {
		_, _, err := issuer.Issue(t.Context(), request)
		require.NoError(t, err)
	})
	require.LessOrEqual(t, allocations, 40.0)
}

// A verification allocates far more than failures differ by otherwise, so that tells how often there was one.
func TestEveryAssertionThatProvesNothingIsVerifiedAsOften(t *testing.T) {
	own := func(change func(*world, jwt.MapClaims)) func(*world) issue.Request {
		return func(w *world) issue.Request {
			return w.sign(t, ownKey, func(claims jwt.MapClaims) { change(w, claims) })
		}
	}
	allocations := func(sign func(*world) issue.Request) float64 {
		w := newSigningWorld()
		issuer, request := w.issuer(), sign(w)
		return testing.AllocsPerRun(100, func() {
			_, _, err := issuer.Issue(t.Context(), request)
			requireKind(t, err, issue.InvalidClient)
		})
	}
	wrong := allocations(func(w *world) issue.Request { return w.sign(t, strangerKey) })
	for name, sign := range map[string]func(*world) issue.Request{
		"no keys registered": own(func(w *world, _ jwt.MapClaims) { w.agent.Keys = issue.ClientKeys{} }),
		"an unknown client":  own(func(w *world, _ jwt.MapClaims) { w.agentErr = issue.ErrUnknownAgent }),
		"expired":            own(func(_ *world, claims jwt.MapClaims) { claims["exp"] = start.Unix() - 10 }),
		"for somebody else":  own(func(_ *world, claims jwt.MapClaims) { claims["aud"] = issuerURL + "/api/v1/token" }),
		"another client_id beside it": func(w *world) issue.Request {
			request := w.sign(t, ownKey)
			request.Credentials.ClientID = uuid.NewString()
			return request
		},
	} {
		require.InDelta(t, wrong, allocations(sign), 10, name)
	}
}
