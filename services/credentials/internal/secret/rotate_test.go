package secret_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

func (f *fixture) rotate(t *testing.T, id uuid.UUID, grace time.Duration) secret.Issued {
	t.Helper()
	issued, err := f.Rotate(t.Context(), f.agent, id, grace, f.origin)
	require.NoError(t, err)
	return issued
}

func TestRotationKeepsTheIDAndStopsTheOldSecretAtOnce(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	old := f.create(t)
	now := f.clock.Advance(time.Minute)
	rotated := f.rotate(t, old.ID, 0)

	require.Equal(t, old.ID, rotated.ID)
	require.NotEqual(t, old.Secret.Reveal(), rotated.Secret.Reveal())
	require.Equal(t, now, *rotated.RotatedAt)
	require.Nil(t, rotated.PreviousValidUntil)
	require.Equal(t, credentialsapi.ReasonInvalidSecret, f.verify(t, old.Secret).Reason)
	require.True(t, f.verify(t, rotated.Secret).Valid)

	events, _ := f.store.sent(t)
	require.Equal(t, auditevent.CredentialRotated, events[1].Action)
	require.InDelta(t, 0, events[1].Metadata["gracePeriodSeconds"], 0)
}

func TestTheOldSecretWorksUntilTheGracePeriodEnds(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	old := f.create(t)
	rotated := f.rotate(t, old.ID, time.Hour)
	end := start.Add(time.Hour)
	require.Equal(t, end, *rotated.PreviousValidUntil)

	f.clock.Advance(time.Hour - time.Microsecond)
	require.Equal(t, secret.Verdict{Valid: true, CredentialID: &old.ID, Previous: true, ValidUntil: &end}, f.verify(t, old.Secret))
	require.Equal(t, secret.Verdict{Valid: true, CredentialID: &old.ID}, f.verify(t, rotated.Secret))

	f.clock.Advance(time.Microsecond)
	compared := f.hasher.compared
	require.Equal(t, secret.Verdict{Reason: credentialsapi.ReasonInvalidSecret}, f.verify(t, old.Secret))
	require.Equal(t, compared, f.hasher.compared, "a secret rotated away cost a hash")
	require.True(t, f.verify(t, rotated.Secret).Valid)
}

func TestASecondRotationEndsTheOldestSecret(t *testing.T) {
	t.Parallel()
	for name, grace := range map[string]time.Duration{"with grace": time.Hour, "without": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, 100)
			first := f.create(t)
			second := f.rotate(t, first.ID, 24*time.Hour)
			third := f.rotate(t, first.ID, grace)

			require.False(t, f.verify(t, first.Secret).Valid)
			require.Equal(t, grace > 0, f.verify(t, second.Secret).Valid)
			require.True(t, f.verify(t, third.Secret).Valid)
		})
	}
}

func TestAGracePeriodEndsWithTheCredential(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	expires := start.Add(time.Minute)
	old, err := f.Create(t.Context(), f.agent, &expires, f.origin)
	require.NoError(t, err)
	rotated := f.rotate(t, old.ID, time.Hour)
	require.Equal(t, expires, *rotated.ExpiresAt, "a rotation keeps the expiry")
	require.Equal(t, expires, *rotated.PreviousValidUntil)

	f.clock.Advance(time.Minute)
	for _, s := range []secret.Issued{old, rotated} {
		v := f.verify(t, s.Secret)
		require.False(t, v.Valid)
		require.Equal(t, credentialsapi.ReasonCredentialExpired, v.Reason)
	}
}

func TestASecretRotatedAwayBeforeTheExpiryIsWrongAndNotExpired(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	expires := start.Add(time.Hour)
	old, err := f.Create(t.Context(), f.agent, &expires, f.origin)
	require.NoError(t, err)
	f.rotate(t, old.ID, time.Minute)
	f.clock.Advance(2 * time.Hour)
	require.Equal(t, credentialsapi.ReasonInvalidSecret, f.verify(t, old.Secret).Reason)
}

func TestWhatCannotBeRotated(t *testing.T) {
	t.Parallel()
	t.Run("a revoked credential", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		issued := f.create(t)
		require.NoError(t, f.Revoke(t.Context(), f.agent, issued.ID, f.origin))
		_, err := f.Rotate(t.Context(), f.agent, issued.ID, 0, f.origin)
		require.Equal(t, apperr.CredentialAlreadyRevoked, apperr.CodeOf(err))
	})
	t.Run("an expired credential", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		expires := start.Add(time.Minute)
		issued, err := f.Create(t.Context(), f.agent, &expires, f.origin)
		require.NoError(t, err)
		f.clock.Advance(time.Minute)
		_, err = f.Rotate(t.Context(), f.agent, issued.ID, 0, f.origin)
		require.Equal(t, apperr.CredentialExpired, apperr.CodeOf(err))
		require.Equal(t, expires, apperr.From(err).Details["expiresAt"])
		require.NoError(t, f.Revoke(t.Context(), f.agent, issued.ID, f.origin), "it can still be revoked")
	})
	t.Run("another agent's credential", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		issued := f.create(t)
		_, err := f.Rotate(t.Context(), uuid.New(), issued.ID, 0, f.origin)
		require.Equal(t, apperr.CredentialNotFound, apperr.CodeOf(err))
	})
	t.Run("a suspended agent's credential", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		issued := f.create(t)
		f.registry.status[f.agent] = registryapi.StatusSuspended
		_, err := f.Rotate(t.Context(), f.agent, issued.ID, 0, f.origin)
		require.Equal(t, apperr.AgentNotActive, apperr.CodeOf(err))
		require.True(t, f.verify(t, issued.Secret).Valid)
	})
	t.Run("any credential while the registry is away", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		issued := f.create(t)
		f.registry.down = true
		_, err := f.Rotate(t.Context(), f.agent, issued.ID, 0, f.origin)
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
		require.True(t, f.verify(t, issued.Secret).Valid)
	})
	t.Run("with a grace period out of range", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		issued := f.create(t)
		for _, grace := range []time.Duration{-time.Second, 24*time.Hour + time.Second} {
			_, err := f.Rotate(t.Context(), f.agent, issued.ID, grace, f.origin)
			require.Equal(t, apperr.ValidationError, apperr.CodeOf(err))
		}
		f.rotate(t, issued.ID, 24*time.Hour)
	})
}
