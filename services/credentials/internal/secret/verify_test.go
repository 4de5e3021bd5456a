package secret_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

var wrong = secret.Verdict{Reason: credentialsapi.ReasonInvalidSecret}

func TestEveryRefusalCostsNoHashAndLooksTheSame(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	issued := f.create(t)
	revoked := f.create(t)
	require.NoError(t, f.Revoke(t.Context(), f.agent, revoked.ID, f.origin))

	for name, ask := range map[string]struct {
		client uuid.UUID
		secret config.Secret
	}{
		"unknown client":         {uuid.New(), issued.Secret},
		"wrong secret":           {f.agent, secret.Generate()},
		"revoked secret":         {f.agent, revoked.Secret},
		"no secret of ours":      {f.agent, "hunter2"},
		"no secret":              {f.agent, ""},
		"secret with more to it": {f.agent, issued.Secret + "0"},
	} {
		v, err := f.Verify(t.Context(), ask.client, ask.secret)
		require.NoError(t, err, name)
		require.Equal(t, wrong, v, name)
	}
	require.Zero(t, f.hasher.compared)
}

func TestAnExpiredSecretIsNamedWithoutComputingAHash(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	expires := start.Add(time.Minute)
	issued, err := f.Create(t.Context(), f.agent, &expires, f.origin)
	require.NoError(t, err)
	require.Equal(t, secret.Verdict{Valid: true, CredentialID: &issued.ID, ValidUntil: &expires}, f.verify(t, issued.Secret))

	f.clock.Advance(time.Minute)
	require.Equal(t, secret.Verdict{
		Reason: credentialsapi.ReasonCredentialExpired, CredentialID: &issued.ID, ValidUntil: &expires,
	}, f.verify(t, issued.Secret))
	require.Equal(t, 1, f.hasher.compared)
}

func TestTheFingerprintAloneLetsNobodyIn(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	issued := f.create(t)
	forged := f.store.records[issued.ID]
	other := secret.Generate()
	forged.Current = &secret.Sealed{Hash: []byte("another hash"), Fingerprint: secret.FingerprintOf(other)}
	f.store.records[issued.ID] = forged

	require.Equal(t, wrong, f.verify(t, other))
	require.Equal(t, 1, f.hasher.compared)
}

func TestTwoCredentialsOfOneFingerprintAreToldApartByTheirHash(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	a, b := f.create(t), f.create(t)
	for _, other := range []secret.Issued{a, b} {
		r := f.store.records[other.ID]
		r.Current = &secret.Sealed{Hash: []byte("hash of something else"), Fingerprint: secret.FingerprintOf(a.Secret)}
		if other.ID == a.ID {
			r.Current.Hash = []byte("hash of " + a.Secret.Reveal())
		}
		f.store.records[other.ID] = r
	}
	v := f.verify(t, a.Secret)
	require.True(t, v.Valid)
	require.Equal(t, a.ID, *v.CredentialID)
}

func TestWhatHappensWhileTheHashIsComputedCounts(t *testing.T) {
	t.Parallel()
	t.Run("revoked", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		issued := f.create(t)
		f.hasher.during = func() { require.NoError(t, f.Revoke(t.Context(), f.agent, issued.ID, f.origin)) }
		require.Equal(t, wrong, f.verify(t, issued.Secret))
	})
	t.Run("expired", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		expires := start.Add(time.Minute)
		issued, err := f.Create(t.Context(), f.agent, &expires, f.origin)
		require.NoError(t, err)
		f.hasher.during = func() { f.clock.Advance(time.Minute) }
		require.Equal(t, credentialsapi.ReasonCredentialExpired, f.verify(t, issued.Secret).Reason)
	})
	t.Run("rotated away", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		issued := f.create(t)
		f.hasher.during = func() { f.rotate(t, issued.ID, 0) }
		require.Equal(t, wrong, f.verify(t, issued.Secret))
	})
	t.Run("rotated to a secret of the same fingerprint", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		issued := f.create(t)
		f.hasher.during = func() {
			r := f.store.records[issued.ID]
			r.Current = &secret.Sealed{Hash: []byte("another hash"), Fingerprint: r.Current.Fingerprint}
			f.store.records[issued.ID] = r
		}
		require.Equal(t, wrong, f.verify(t, issued.Secret))
	})
	t.Run("rotated with a grace period", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		issued := f.create(t)
		f.hasher.during = func() { f.rotate(t, issued.ID, time.Hour) }
		end := start.Add(time.Hour)
		require.Equal(t, secret.Verdict{Valid: true, CredentialID: &issued.ID, Previous: true, ValidUntil: &end}, f.verify(t, issued.Secret))
	})
	t.Run("the database goes away", func(t *testing.T) {
		t.Parallel()
		f := setup(t, 100)
		issued := f.create(t)
		f.hasher.during = func() { f.store.failing = apperr.Unavailable(nil) }
		_, err := f.Verify(t.Context(), f.agent, issued.Secret)
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	})
}

func TestNoVerdictIsAGuess(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	issued := f.create(t)

	f.hasher.failing = errors.New("no core")
	_, err := f.Verify(t.Context(), f.agent, issued.Secret)
	require.ErrorIs(t, err, f.hasher.failing)

	f.store.failing = apperr.Unavailable(nil)
	_, err = f.Verify(t.Context(), f.agent, secret.Generate())
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
}

func TestUsesAheadOfTheClockCountAsNow(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	id := uuid.New()
	require.NoError(t, f.RecordUses(t.Context(), nil))
	require.Empty(t, f.store.uses)

	require.NoError(t, f.RecordUses(t.Context(), []secret.Use{
		{CredentialID: id, UsedAt: start.Add(time.Hour), Previous: true},
		{CredentialID: id, UsedAt: start.Add(-time.Hour).In(time.FixedZone("east", 7200))},
	}))
	require.Equal(t, []secret.Use{
		{CredentialID: id, UsedAt: start, Previous: true},
		{CredentialID: id, UsedAt: start.Add(-time.Hour)},
	}, f.store.uses)
}

func TestScreeningTellsWhatLooksLikeASecretOfTheClientAndCostsNoHash(t *testing.T) {
	t.Parallel()
	f := setup(t, 100)
	issued := f.create(t)
	plausible, err := f.Screen(t.Context(), []secret.Presented{
		{ClientID: uuid.New(), Secret: issued.Secret}, {ClientID: f.agent, Secret: issued.Secret},
		{ClientID: f.agent, Secret: secret.Generate()}, {ClientID: f.agent}, {ClientID: f.agent, Secret: "hunter2"},
	})
	require.NoError(t, err)
	require.Equal(t, []bool{false, true, false, false, false}, plausible)
	require.Zero(t, f.hasher.compared)
	require.Equal(t, f.clock.Now(), f.store.screened)

	f.store.failing = apperr.Unavailable(nil)
	_, err = f.Screen(t.Context(), []secret.Presented{{ClientID: f.agent, Secret: issued.Secret}})
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
}
