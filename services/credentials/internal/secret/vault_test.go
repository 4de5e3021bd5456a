package secret_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/lifecycle"
	"github.com/sentryagent/agentidp/pkg/registryapi"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

// fakeVault keeps versions in memory; "" is one that was destroyed.
type fakeVault struct {
	mu      sync.Mutex
	entries map[secret.Place][]config.Secret
	read    int
	down    bool
	refuses secret.Place // what it does not delete
}

var _ secret.Vault = (*fakeVault)(nil)

func (v *fakeVault) do(what func()) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.down {
		return apperr.Unavailable(errors.New("vault is away"))
	}
	what()
	return nil
}

func (v *fakeVault) Write(_ context.Context, at secret.Place, s config.Secret) (version int, err error) {
	err = v.do(func() {
		v.entries[at] = append(v.entries[at], s)
		version = len(v.entries[at])
	})
	return version, err
}

func (v *fakeVault) Read(_ context.Context, at secret.Place, version int) (s config.Secret, err error) {
	err = v.do(func() {
		v.read++
		s = v.entries[at][version-1]
	})
	if err == nil && s == "" {
		err = secret.ErrGone
	}
	return s, err
}

func (v *fakeVault) Destroy(ctx context.Context, at secret.Place, version int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return v.do(func() {
		if versions := v.entries[at]; version <= len(versions) {
			versions[version-1] = ""
		}
	})
}

func (v *fakeVault) Delete(_ context.Context, at secret.Place) error {
	if at == v.refuses {
		return apperr.Unavailable(errors.New("permission denied"))
	}
	return v.do(func() { delete(v.entries, at) })
}

// versions of a credential as Vault has them now.
func (v *fakeVault) versions(f *fixture, credential uuid.UUID) []config.Secret {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.entries[secret.Place{AgentID: f.agent, CredentialID: credential}]
}

// withVault is the domain with a Vault, whose memory is empty; again makes another replica of it.
func withVault(t *testing.T) (f *fixture, v *fakeVault, again func(secret.Vault)) {
	t.Helper()
	f, v = setup(t, 100), &fakeVault{entries: map[secret.Place][]config.Secret{}}
	again = func(vault secret.Vault) {
		f.Service = secret.NewService(secret.Options{
			Store: f.store, Registry: f.registry, Hasher: f.hasher, Vault: vault, Clock: f.clock.Now, NewID: uuid.New, MaxActive: 100,
		})
	}
	again(v)
	return f, v, again
}

func (f *fixture) deleteUnwanted(t *testing.T) {
	t.Helper()
	more, err := f.DeleteUnwanted(t.Context())
	require.NoError(t, err)
	require.False(t, more)
}

func TestWithVaultTheSecretIsThereAndNoHashIsKept(t *testing.T) {
	t.Parallel()
	f, v, again := withVault(t)
	issued := f.create(t)
	require.Equal(t, []config.Secret{issued.Secret}, v.versions(f, issued.ID))
	require.Equal(t, &secret.Sealed{Version: 1, Fingerprint: secret.FingerprintOf(issued.Secret)}, f.store.records[issued.ID].Current)
	require.Zero(t, f.hasher.hashed)

	require.True(t, f.verify(t, issued.Secret).Valid)
	require.Zero(t, v.read, "it was written here")
	again(v)
	for range 3 {
		require.True(t, f.verify(t, issued.Secret).Valid)
	}
	require.Equal(t, 1, v.read, "Vault is asked once")
	require.Equal(t, wrong, f.verify(t, secret.Generate()))
	require.Equal(t, 1, v.read, "a wrong secret costs no question")
	require.Zero(t, f.hasher.compared)
}

func TestAnotherSecretOfTheSameFingerprintIsWrong(t *testing.T) {
	t.Parallel()
	f, v, _ := withVault(t)
	issued, other := f.create(t), secret.Generate()
	r := f.store.records[issued.ID]
	r.Current = &secret.Sealed{Version: 1, Fingerprint: secret.FingerprintOf(other)}
	f.store.records[issued.ID] = r
	require.Equal(t, wrong, f.verify(t, other))
	require.Equal(t, 1, v.read)
}

func TestWhileVaultIsAwayKnownSecretsGoOnAndNothingIsGuessed(t *testing.T) {
	t.Parallel()
	f, v, again := withVault(t)
	known, strange := f.create(t), f.create(t)
	again(v)
	require.True(t, f.verify(t, known.Secret).Valid)

	v.down = true
	require.True(t, f.verify(t, known.Secret).Valid)
	require.Equal(t, wrong, f.verify(t, secret.Generate()), "that needs no Vault")
	_, err := f.Verify(t.Context(), f.agent, strange.Secret)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	require.Positive(t, apperr.From(err).RetryAfter)
	_, err = f.Create(t.Context(), f.agent, nil, f.origin)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	_, err = f.Rotate(t.Context(), f.agent, known.ID, 0, f.origin)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	require.True(t, f.verify(t, known.Secret).Valid, "it was not rotated")

	require.NoError(t, f.Revoke(t.Context(), f.agent, known.ID, f.origin), "a revocation waits for nobody")
	require.Equal(t, wrong, f.verify(t, known.Secret), "and counts at once, remembered or not")
	_, err = f.DeleteUnwanted(t.Context())
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	overdue, err := f.OverdueDeletions(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, overdue)

	v.down = false
	f.deleteUnwanted(t)
	require.Nil(t, v.versions(f, known.ID))
	require.Empty(t, f.store.deletions)
	require.True(t, f.verify(t, strange.Secret).Valid)
}

func TestASecretThatSomebodyDeletedInVaultIsWrong(t *testing.T) {
	t.Parallel()
	f, v, again := withVault(t)
	issued := f.create(t)
	again(v)
	v.versions(f, issued.ID)[0] = ""
	require.Equal(t, wrong, f.verify(t, issued.Secret))
}

func TestRotationsMoveToTheNextVersionAndDeleteTheOneBefore(t *testing.T) {
	t.Parallel()
	f, v, again := withVault(t)
	first := f.create(t)
	second := f.rotate(t, first.ID, time.Hour)
	again(v)
	require.True(t, f.verify(t, first.Secret).Previous)
	require.True(t, f.verify(t, second.Secret).Valid)
	f.deleteUnwanted(t)
	require.Equal(t, []config.Secret{first.Secret, second.Secret}, v.versions(f, first.ID), "it is not yet time")

	third := f.rotate(t, first.ID, time.Minute)
	require.False(t, f.verify(t, first.Secret).Valid)
	f.deleteUnwanted(t)
	require.Equal(t, []config.Secret{"", second.Secret, third.Secret}, v.versions(f, first.ID), "a second rotation ended the first secret")
	require.True(t, f.verify(t, second.Secret).Previous)

	f.clock.Advance(time.Minute)
	f.deleteUnwanted(t)
	require.Equal(t, []config.Secret{"", "", third.Secret}, v.versions(f, first.ID))
	fourth := f.rotate(t, first.ID, 0)
	f.deleteUnwanted(t)
	require.Equal(t, []config.Secret{"", "", "", fourth.Secret}, v.versions(f, first.ID))
	f.clock.Advance(time.Hour)
	f.deleteUnwanted(t)
	require.True(t, f.verify(t, fourth.Secret).Valid)
	require.Empty(t, f.store.deletions)
}

func TestADecommissionDeletesAllThatVaultHas(t *testing.T) {
	t.Parallel()
	f, v, _ := withVault(t)
	a, b := f.create(t), f.create(t)
	f.rotate(t, b.ID, time.Hour)
	require.NoError(t, f.AgentChanged(t.Context(), lifecycle.AgentChanged{
		AgentID: f.agent, Status: registryapi.StatusDecommissioned, OccurredAt: start, Origin: f.origin,
	}))
	f.deleteUnwanted(t)
	require.Nil(t, v.versions(f, a.ID))
	require.Nil(t, v.versions(f, b.ID))
	f.clock.Advance(time.Hour)
	f.deleteUnwanted(t)
	require.Empty(t, f.store.deletions, "what was to go later went with the rest")
}

func TestADeletionThatVaultRefusesKeepsNoOtherFromBeingDone(t *testing.T) {
	t.Parallel()
	f, v, _ := withVault(t)
	a, b := f.create(t), f.create(t)
	for _, c := range []secret.Issued{a, b} {
		require.NoError(t, f.Revoke(t.Context(), f.agent, c.ID, f.origin))
	}
	v.refuses = secret.Place{AgentID: f.agent, CredentialID: a.ID}
	_, err := f.DeleteUnwanted(t.Context())
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	require.NotNil(t, v.versions(f, a.ID))
	require.Nil(t, v.versions(f, b.ID))
	v.refuses = secret.Place{}
	f.deleteUnwanted(t)
	require.Nil(t, v.versions(f, a.ID))
}

func TestHashesOfBeforeWorkUntilTheyAreRotated(t *testing.T) {
	t.Parallel()
	f, v, again := withVault(t)
	again(nil)
	old := f.create(t)
	require.Equal(t, 1, f.hasher.hashed)
	again(v)
	require.True(t, f.verify(t, old.Secret).Valid)
	require.Zero(t, v.read)

	rotated := f.rotate(t, old.ID, time.Hour)
	require.Equal(t, 1, f.hasher.hashed)
	require.True(t, f.verify(t, old.Secret).Previous)
	require.True(t, f.verify(t, rotated.Secret).Valid)
	require.Equal(t, []config.Secret{rotated.Secret}, v.versions(f, old.ID))
}

func TestWithoutVaultWhatIsThereCannotBeCheckedAndIsNotForgotten(t *testing.T) {
	t.Parallel()
	f, v, again := withVault(t)
	issued, other := f.create(t), f.create(t)
	again(nil)
	_, err := f.Verify(t.Context(), f.agent, issued.Secret)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	require.NoError(t, f.Revoke(t.Context(), f.agent, issued.ID, f.origin))
	back := f.rotate(t, other.ID, 0)
	require.True(t, f.verify(t, back.Secret).Valid, "a rotation takes it back into a hash")
	f.deleteUnwanted(t)
	require.Len(t, f.store.deletions, 2)

	again(v)
	f.deleteUnwanted(t)
	require.Nil(t, v.versions(f, issued.ID))
	require.Equal(t, []config.Secret{""}, v.versions(f, other.ID))
}

func TestWhatWasNotStoredIsTakenBackFromVault(t *testing.T) {
	t.Parallel()
	f, v, _ := withVault(t)
	issued := f.create(t)
	f.store.refusing = apperr.Unavailable(errors.New("the database is away"))
	_, err := f.Rotate(t.Context(), f.agent, issued.ID, 0, f.origin)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	require.Equal(t, []config.Secret{issued.Secret, ""}, v.versions(f, issued.ID))
	_, err = f.Create(t.Context(), f.agent, nil, f.origin)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	for place, versions := range v.entries {
		require.True(t, place.CredentialID == issued.ID || versions[0] == "")
	}

	f.store.refusing = nil
	require.True(t, f.verify(t, issued.Secret).Valid)
	rotated := f.rotate(t, issued.ID, 0)
	require.Equal(t, 3, f.store.records[issued.ID].Current.Version, "the row names the version that was written for it")
	require.True(t, f.verify(t, rotated.Secret).Valid)
}

func TestWhatWasNotStoredIsTakenBackAlsoAfterTheCallerIsGone(t *testing.T) {
	t.Parallel()
	f, v, _ := withVault(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.store.inserted, f.store.refusing = cancel, apperr.Unavailable(context.Canceled)
	_, err := f.Create(ctx, f.agent, nil, f.origin)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	require.Len(t, v.entries, 1)
	for _, versions := range v.entries {
		require.Equal(t, []config.Secret{""}, versions)
	}
}

func TestAnIDThatIsTakenLeavesItsVersionsAlone(t *testing.T) {
	t.Parallel()
	f, v, _ := withVault(t)
	wanted := secret.ForOperator{AgentID: f.agent, CredentialID: uuid.New()}
	first, exists, err := f.CreateForOperator(t.Context(), wanted, f.origin)
	require.NoError(t, err)
	require.False(t, exists)
	_, exists, err = f.CreateForOperator(t.Context(), wanted, f.origin)
	require.NoError(t, err)
	require.True(t, exists)
	require.Equal(t, []config.Secret{first.Secret}, v.versions(f, first.ID), "Vault keeps only so many")
}
