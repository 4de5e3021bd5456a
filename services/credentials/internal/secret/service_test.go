package secret_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/lifecycle"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

func TestCreateGivesAnActiveCredentialWithItsSecretAndTwoMessages(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	expires := start.Add(time.Hour + 1500*time.Nanosecond).In(time.FixedZone("east", 3600))

	issued, err := f.Create(t.Context(), f.agent, &expires, f.origin)
	require.NoError(t, err)

	require.True(t, secret.WellFormed(issued.Secret))
	kept := start.Add(time.Hour + time.Microsecond)
	require.Equal(t, secret.Credential{
		ID: issued.ID, AgentID: f.agent, Status: secret.Active, CreatedAt: start, ExpiresAt: &kept,
	}, issued.Credential)
	require.Equal(t, secret.FingerprintOf(issued.Secret), f.store.records[issued.ID].Current.Fingerprint)

	events, subjects := f.store.sent(t)
	require.Equal(t, []string{"audit.credentials.credential.generated", "lifecycle.credential." + f.agent.String()}, subjects)
	require.Equal(t, auditevent.CredentialGenerated, events[0].Action)
	require.Equal(t, f.agent, *events[0].AgentID)
	require.Equal(t, f.origin.ActorID, events[0].ActorID)
	require.Equal(t, "192.0.2.7", events[0].IPAddress)
	require.Equal(t, "req-1", events[0].RequestID)
	require.Equal(t, issued.ID.String(), events[0].Metadata["credentialId"])
	for _, m := range f.store.outbox {
		require.NotContains(t, string(m.Payload), issued.Secret.Reveal()[len(secret.Prefix):])
	}
}

func TestAnExpiryMustLieInTheFutureAndInTheCalendar(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]time.Time{
		"past":                           start.Add(-time.Second),
		"this instant":                   start,
		"a nanosecond ahead is no later": start.Add(time.Nanosecond),
		"year 10000 in UTC":              time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("west", -3600)),
		"the zero time":                  {},
	} {
		f := setup(t, 100)
		_, err := f.Create(t.Context(), f.agent, &at, f.origin)
		require.Equal(t, apperr.ValidationError, apperr.CodeOf(err), name)
		require.Equal(t, "expiresAt", apperr.From(err).Details["errors"].([]apperr.FieldError)[0].Field, name)
		require.Zero(t, f.registry.asked, name)
		require.Empty(t, f.store.records, name)
	}
}

func TestAnExpiryThatPassesDuringTheCreationIsRefused(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	f.store.inserted = func() { f.clock.Advance(2 * time.Second) }
	expires := start.Add(time.Second)
	_, err := f.Create(t.Context(), f.agent, &expires, f.origin)
	require.Equal(t, apperr.ValidationError, apperr.CodeOf(err))
	require.Empty(t, f.store.records)
}

func TestOnlyActiveAgentsGetCredentials(t *testing.T) {
	t.Parallel()
	t.Run("suspended", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		f.registry.status[f.agent] = registryapi.StatusSuspended
		_, err := f.Create(t.Context(), f.agent, nil, f.origin)
		require.Equal(t, apperr.AgentNotActive, apperr.CodeOf(err))
		require.Equal(t, "suspended", apperr.From(err).Details["status"])
		require.Zero(t, f.hasher.hashed)
	})
	t.Run("decommissioned", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		f.registry.status[f.agent] = registryapi.StatusDecommissioned
		_, err := f.Create(t.Context(), f.agent, nil, f.origin)
		require.Equal(t, apperr.AgentNotActive, apperr.CodeOf(err))
	})
	t.Run("unknown", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		_, err := f.Create(t.Context(), uuid.New(), nil, f.origin)
		require.Equal(t, apperr.AgentNotFound, apperr.CodeOf(err))
	})
	t.Run("nobody can tell", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		f.registry.down = true
		_, err := f.Create(t.Context(), f.agent, nil, f.origin)
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
		require.Empty(t, f.store.records)
	})
	t.Run("the database cannot be asked", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		f.store.failing = apperr.Unavailable(nil)
		_, err := f.Create(t.Context(), f.agent, nil, f.origin)
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	})
	t.Run("no hash can be computed", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		f.hasher.failing = errors.New("out of cores")
		_, err := f.Create(t.Context(), f.agent, nil, f.origin)
		require.ErrorIs(t, err, f.hasher.failing)
		require.Empty(t, f.store.records)
	})
}

func TestACreationThatADecommissionOvertookIsRefused(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	f.store.inserted = func() {
		change := lifecycle.AgentChanged{AgentID: f.agent, Status: registryapi.StatusDecommissioned}
		require.NoError(t, f.AgentChanged(t.Context(), change))
	}
	_, err := f.Create(t.Context(), f.agent, nil, f.origin)
	require.Equal(t, apperr.AgentNotActive, apperr.CodeOf(err))
	require.Equal(t, "decommissioned", apperr.From(err).Details["status"])
	require.Empty(t, f.store.records)
}

func TestTheLimitCountsActiveCredentialsThatHaveNotExpired(t *testing.T) {
	t.Parallel()
	f := setup(t, 2)
	soon := start.Add(time.Minute)
	_, err := f.Create(t.Context(), f.agent, &soon, f.origin)
	require.NoError(t, err)
	second := f.create(t)

	_, err = f.Create(t.Context(), f.agent, nil, f.origin)
	require.Equal(t, apperr.CredentialLimitExceeded, apperr.CodeOf(err))
	require.Equal(t, 2, apperr.From(err).Details["limit"])
	require.Equal(t, 2, f.hasher.hashed, "a creation at the limit computed a hash")

	f.clock.Advance(time.Minute)
	f.create(t) // one has expired
	_, err = f.Create(t.Context(), f.agent, nil, f.origin)
	require.Equal(t, apperr.CredentialLimitExceeded, apperr.CodeOf(err))

	require.NoError(t, f.Revoke(t.Context(), f.agent, second.ID, f.origin))
	f.create(t)
}

func TestNoLimitWhereItIsZero(t *testing.T) {
	t.Parallel()
	f := setup(t, 0)
	for range 150 {
		f.create(t)
	}
}

func TestTheOperatorGetsOneCredentialHoweverManyAsk(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	var wg sync.WaitGroup
	var mu sync.Mutex
	created, existed := 0, 0
	for range 16 {
		wg.Go(func() {
			issued, exists, err := f.CreateForOperator(t.Context(), secret.ForOperator{AgentID: f.agent, OnlyIfNone: true}, auditevent.Origin{})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Error(err)
			case exists:
				existed++
			case secret.WellFormed(issued.Secret):
				created++
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, created)
	require.Equal(t, 15, existed)

	_, exists, err := f.CreateForOperator(t.Context(), secret.ForOperator{AgentID: f.agent}, auditevent.Origin{})
	require.NoError(t, err)
	require.False(t, exists)
	require.Len(t, f.store.records, 2)
}

func TestAnOperatorGetsOneCredentialOfAnIDHoweverOftenItIsAskedFor(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	wanted := secret.ForOperator{AgentID: f.agent, CredentialID: uuid.New()}
	issued, exists, err := f.CreateForOperator(t.Context(), wanted, auditevent.Origin{})
	require.NoError(t, err)
	require.False(t, exists)
	require.Equal(t, wanted.CredentialID, issued.ID)
	before := f.store.records[issued.ID]

	again, exists, err := f.CreateForOperator(t.Context(), wanted, auditevent.Origin{})
	require.NoError(t, err)
	require.True(t, exists)
	require.Empty(t, again.Secret)
	require.Equal(t, before, f.store.records[issued.ID])
	require.NoError(t, f.Revoke(t.Context(), f.agent, issued.ID, auditevent.Origin{}))
	_, exists, err = f.CreateForOperator(t.Context(), wanted, auditevent.Origin{})
	require.NoError(t, err)
	require.True(t, exists, "a request that comes late does not bring it back")
}

func TestAnOperatorWhoseCredentialExpiredGetsANewOne(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	soon := start.Add(time.Minute)
	_, err := f.Create(t.Context(), f.agent, &soon, f.origin)
	require.NoError(t, err)
	f.clock.Advance(time.Hour)
	_, exists, err := f.CreateForOperator(t.Context(), secret.ForOperator{AgentID: f.agent, OnlyIfNone: true}, auditevent.Origin{})
	require.NoError(t, err)
	require.False(t, exists)
}

func TestListAsksTheRegistryOnlyAboutAgentsNeverHeardOf(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	page := paging.Page{Limit: 20}

	listing, err := f.List(t.Context(), f.agent, nil, page)
	require.NoError(t, err)
	require.Empty(t, listing.Items)
	require.Equal(t, 1, f.registry.asked)

	for _, page := range []paging.Page{page, {Limit: 20, After: &paging.Position{}, Total: paging.Total{Items: 7}}} {
		_, err = f.List(t.Context(), uuid.New(), nil, page)
		require.Equal(t, apperr.AgentNotFound, apperr.CodeOf(err))
	}

	issued := f.create(t)
	f.registry.down = true
	listing, err = f.List(t.Context(), f.agent, nil, page)
	require.NoError(t, err)
	require.Equal(t, []secret.Credential{issued.Credential}, listing.Items)

	revoked := secret.Revoked
	listing, err = f.List(t.Context(), f.agent, &revoked, page)
	require.NoError(t, err, "an agent with credentials is known, whatever the filter")
	require.Empty(t, listing.Items)

	_, err = f.List(t.Context(), uuid.New(), nil, page)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
}

func TestRevokeIsFinalErasesTheSecretsAndNeedsNobodyElse(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	issued := f.create(t)
	_, err := f.Rotate(t.Context(), f.agent, issued.ID, time.Hour, f.origin)
	require.NoError(t, err)
	f.registry.down = true
	now := f.clock.Advance(time.Minute)

	require.NoError(t, f.Revoke(t.Context(), f.agent, issued.ID, f.origin))
	r := f.store.records[issued.ID]
	require.Equal(t, secret.Revoked, r.Status)
	require.Equal(t, now, *r.RevokedAt)
	require.Equal(t, now, *r.PreviousValidUntil, "a grace period does not outlive the credential")
	require.Nil(t, r.Current)
	require.Nil(t, r.Previous)

	events, subjects := f.store.sent(t)
	require.Len(t, subjects, 6)
	require.Equal(t, auditevent.CredentialRevoked, events[2].Action)
	require.Equal(t, "requested", events[2].Metadata["reason"])

	require.Equal(t, apperr.CredentialAlreadyRevoked, apperr.CodeOf(f.Revoke(t.Context(), f.agent, issued.ID, f.origin)))
	require.Equal(t, apperr.CredentialNotFound, apperr.CodeOf(f.Revoke(t.Context(), uuid.New(), issued.ID, f.origin)))
	require.Equal(t, apperr.CredentialNotFound, apperr.CodeOf(f.Revoke(t.Context(), f.agent, uuid.New(), f.origin)))
	_, subjects = f.store.sent(t)
	require.Len(t, subjects, 6, "a refused revocation sent something")
}

func TestADecommissionRevokesEverythingInTheNameOfWhoOrderedIt(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	other := uuid.New()
	f.registry.status[other] = registryapi.StatusActive
	foreign, err := f.Create(t.Context(), other, nil, f.origin)
	require.NoError(t, err)
	first, second, gone := f.create(t), f.create(t), f.create(t)
	require.NoError(t, f.Revoke(t.Context(), f.agent, gone.ID, f.origin))
	before, _ := f.store.sent(t)

	operator := uuid.New()
	change := lifecycle.AgentChanged{
		AgentID: f.agent, Status: registryapi.StatusDecommissioned, Revision: 3,
		Origin: auditevent.Origin{ActorID: &operator, IPAddress: "198.51.100.1", RequestID: "req-9"},
	}
	for range 2 { // streams repeat themselves
		require.NoError(t, f.AgentChanged(t.Context(), change))
	}

	events, subjects := f.store.sent(t)
	events = events[len(before):]
	require.Len(t, events, 2)
	require.Len(t, subjects, 2*len(before)+3, "caches need to be told once")
	var about []any
	for _, e := range events {
		require.Equal(t, auditevent.CredentialRevoked, e.Action)
		require.Equal(t, operator, *e.ActorID)
		require.Equal(t, "198.51.100.1", e.IPAddress)
		require.Equal(t, "req-9", e.RequestID)
		require.Equal(t, "agent_decommissioned", e.Metadata["reason"])
		about = append(about, e.Metadata["credentialId"])
	}
	require.ElementsMatch(t, []any{first.ID.String(), second.ID.String()}, about)
	require.False(t, f.verify(t, first.Secret).Valid)
	require.Equal(t, secret.Active, f.store.records[foreign.ID].Status)

	_, err = f.Create(t.Context(), f.agent, nil, f.origin)
	require.Equal(t, apperr.AgentNotActive, apperr.CodeOf(err))
}

func TestOtherChangesOfAnAgentLeaveItsCredentialsAlone(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	issued := f.create(t)
	for _, status := range []string{registryapi.StatusActive, registryapi.StatusSuspended} {
		require.NoError(t, f.AgentChanged(t.Context(), lifecycle.AgentChanged{AgentID: f.agent, Status: status}))
	}
	require.True(t, f.verify(t, issued.Secret).Valid)
}
