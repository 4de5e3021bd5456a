package issue_test

import (
	"encoding/base64"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/revocation"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

var errNotOurs = apperr.New(apperr.Unauthorized, "not ours")

func (w *world) introspector() *issue.Introspector {
	return issue.NewIntrospector(issue.IntrospectorConfig{Verifier: w, Revocations: w, Journal: w, Events: w.events()})
}

func (w *world) revoker() *issue.Revoker {
	return issue.NewRevoker(issue.RevokerConfig{Verifier: w, Store: w, Announcer: w, Events: w.events()})
}

func holderOf(w *world) authn.Principal {
	return authn.Principal{AgentID: w.agent.ID, TokenID: uuid.Must(uuid.NewV7()).String(), ExpiresAt: start.Add(time.Hour)}
}

func tokenWith(claims string) string {
	return "h." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".s"
}

func (w *world) introspect(t *testing.T, token string, origin auditevent.Origin) (issue.Introspection, error) {
	t.Helper()
	asked, err := w.introspector().Inquire(t.Context(), token)
	if err != nil {
		return issue.Introspection{}, err
	}
	return w.introspector().Introspect(t.Context(), asked, nil, origin)
}

func TestIntrospection(t *testing.T) {
	t.Parallel()
	caller := uuid.Must(uuid.NewV7())
	origin := auditevent.Origin{ActorID: &caller}
	for name, row := range map[string]struct {
		prepare func(*world)
		active  bool
		about   bool
		failing bool
	}{
		"a live token":            {prepare: func(*world) {}, active: true, about: true},
		"not one of ours":         {prepare: func(w *world) { w.verifyErr = errNotOurs }},
		"in its last moment":      {prepare: func(w *world) { w.principal.ExpiresAt = start.Add(1) }, active: true, about: true},
		"expired this moment":     {prepare: func(w *world) { w.principal.ExpiresAt = start }},
		"revoked":                 {prepare: func(w *world) { w.revoked = true }, about: true},
		"keys away":               {prepare: func(w *world) { w.verifyErr = errAway }, failing: true},
		"revocations away":        {prepare: func(w *world) { w.revokedErr = errAway }, failing: true},
		"the event is not stored": {prepare: func(w *world) { w.journalErr = errAway }, failing: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			w.principal = holderOf(w)
			row.prepare(w)
			got, err := w.introspect(t, tokenWith(`{"sub":"x","exp":7}`), origin)
			if row.failing {
				requireKind(t, err, issue.Unavailable)
				return
			}
			require.NoError(t, err)
			require.Equal(t, row.active, got.Active)
			if row.active {
				require.Equal(t, `{"sub":"x","exp":7}`, string(got.Claims))
			} else {
				require.Zero(t, got.Claims)
			}
			require.Len(t, w.journal, 1)
			require.Equal(t, auditevent.TokenIntrospected, w.journal[0].Action)
			require.Equal(t, row.active, w.journal[0].Metadata["active"])
			require.Equal(t, row.about, w.journal[0].AgentID != nil)
			require.Equal(t, caller, *w.journal[0].ActorID)
		})
	}
}

func TestATokenThatWasLookedUpIsNotLookedUpAgain(t *testing.T) {
	t.Parallel()
	for verdict, active := range map[revocation.Verdict]bool{revocation.Live: true, revocation.Dead: false, revocation.Unknown: false} {
		w := newWorld()
		w.principal = holderOf(w)
		w.revoked = true // as the truth says
		asked, err := w.introspector().Inquire(t.Context(), tokenWith(`{"sub":"x"}`))
		require.NoError(t, err)
		require.Equal(t, []revocation.Query{{TokenID: w.principal.TokenID, AgentID: w.agent.ID}}, asked.Queries())
		got, err := w.introspector().Introspect(t.Context(), asked, []revocation.Verdict{verdict}, auditevent.Origin{})
		require.NoError(t, err)
		require.Equal(t, active, got.Active, verdict)
	}
	w := newWorld()
	w.verifyErr = errNotOurs
	asked, err := w.introspector().Inquire(t.Context(), "x")
	require.NoError(t, err)
	require.Empty(t, asked.Queries())
}

func TestAVerifiedTokenThatCannotBeReadIsAFault(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"h.!.s", tokenWith("no json"), tokenWith("{}"), tokenWith("{"), tokenWith("[1]"), "x"} {
		w := newWorld()
		w.principal = holderOf(w)
		_, err := w.introspect(t, token, auditevent.Origin{})
		require.Equal(t, apperr.InternalServerError, apperr.CodeOf(err))
	}
}

func TestARevocationIsStoredAndThenAnnounced(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.principal = holderOf(w)
	holder, revocable, err := w.revoker().Holder(t.Context(), "token")
	require.NoError(t, err)
	require.True(t, revocable)
	require.NoError(t, w.revoker().Revoke(t.Context(), holder, auditevent.Origin{ActorID: &w.agent.ID}))
	require.Equal(t, []issue.Revocation{{
		TokenID: uuid.MustParse(holder.TokenID), AgentID: w.agent.ID, ExpiresAt: holder.ExpiresAt,
	}}, w.stored)
	require.Equal(t, []revocation.Revoked{{TokenID: holder.TokenID, ExpiresAt: holder.ExpiresAt}}, w.announced)
	require.Equal(t, auditevent.TokenRevoked, w.journal[0].Action)
}

func TestARevocationThatIsNotStoredIsNotAnnounced(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.storeErr = errAway
	requireKind(t, w.revoker().Revoke(t.Context(), holderOf(w), auditevent.Origin{}), issue.Unavailable)
	require.Empty(t, w.announced)

	holder := holderOf(w)
	holder.TokenID = "no uuid"
	require.Equal(t, apperr.InternalServerError, apperr.CodeOf(w.revoker().Revoke(t.Context(), holder, auditevent.Origin{})))

	w.verifyErr = errNotOurs
	_, revocable, err := w.revoker().Holder(t.Context(), "garbage")
	require.NoError(t, err)
	require.False(t, revocable)
	w.verifyErr = errAway
	_, _, err = w.revoker().Holder(t.Context(), "token")
	requireKind(t, err, issue.Unavailable)
}

func TestTheTruthIsWhatTheRegistrySaysNowUnlessTheStoreKnowsBetter(t *testing.T) {
	t.Parallel()
	issuedAt := start
	suspendedSince := func(w *world) (before *issue.Agent) {
		active := w.agent
		w.agent.Status = issue.StatusSuspended
		return &active
	}
	kept := func(revision int64, blocked bool) func(*world) {
		return func(w *world) {
			w.agent.Revision, w.cutoff = 5, revocation.Cutoff{Revision: revision, Blocked: blocked}
		}
	}
	for name, row := range map[string]struct {
		prepare func(*world)
		refused bool
		failing bool
	}{
		"stored":                     {prepare: func(w *world) { w.revoked, w.agentErr = true, errAway }, refused: true},
		"store away":                 {prepare: func(w *world) { w.revokedErr = errAway }, failing: true},
		"agent active":               {prepare: func(*world) {}},
		"agent suspended":            {prepare: func(w *world) { w.agent.Status = issue.StatusSuspended }, refused: true},
		"agent remembered as active": {prepare: func(w *world) { w.remembered = suspendedSince(w) }, refused: true},
		"agent asked for as active":  {prepare: func(w *world) { w.onItsWay = suspendedSince(w) }, refused: true},
		"issued before reactivation": {prepare: func(w *world) { w.agent.TokensValidAfter = issuedAt }, refused: true},
		"issued after reactivation":  {prepare: func(w *world) { w.agent.TokensValidAfter = issuedAt.Add(-time.Millisecond) }},
		"agent unknown":              {prepare: func(w *world) { w.agentErr = issue.ErrUnknownAgent }, refused: true},
		"registry away":              {prepare: func(w *world) { w.agentErr = errAway }, failing: true},
		"kept as suspended before":   {prepare: kept(4, true)},
		"kept as suspended since":    {prepare: kept(6, true), refused: true},
		"kept as suspended, registry away": {
			prepare: func(w *world) { kept(4, true)(w); w.agentErr = errAway }, failing: true,
		},
		"suspended, kept as reactivated since": {
			prepare: func(w *world) { kept(6, false)(w); w.agent.Status = issue.StatusSuspended },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			row.prepare(w)
			truth := issue.NewTruth(issue.TruthConfig{Store: w, Agents: w})
			refused, err := truth.Revoked(t.Context(), revocation.Query{
				TokenID: uuid.Must(uuid.NewV7()).String(), AgentID: w.agent.ID, IssuedAt: issuedAt,
			})
			if row.failing {
				require.ErrorIs(t, err, errAway)
				return
			}
			require.NoError(t, err)
			require.Equal(t, row.refused, refused)
		})
	}
	w := newWorld()
	_, err := issue.NewTruth(issue.TruthConfig{Store: w, Agents: w}).Revoked(t.Context(), revocation.Query{TokenID: "x"})
	require.Equal(t, apperr.ValidationError, apperr.CodeOf(err))
}

func TestARefusalKeepsItsCause(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.agentErr = errAway
	_, _, err := w.issue(t, "")
	require.ErrorContains(t, err, "away")
	require.ErrorIs(t, err, errAway)
	refusal := issue.RefuseField(issue.TooLarge, "f", "d")
	require.Equal(t, apperr.PayloadTooLarge, refusal.Kind.Code())
	require.NoError(t, errors.Unwrap(refusal))
	require.Equal(t, apperr.UnsupportedMediaType, issue.UnsupportedMediaType.Code())
	require.Equal(t, "unsupported_grant_type", issue.UnsupportedGrantType.OAuth())
}
