package credentials_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/token/internal/credentials"
	"github.com/sentryagent/agentidp/services/token/internal/invalidation"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

const good config.Secret = "sk_live_good"

type bundle struct {
	secrets   *credentials.Secrets
	epochs    *invalidation.Epochs
	clock     *testkit.Clock
	following atomic.Bool
	asked     []config.Secret
	screens   atomic.Int32
	answer    credentialsapi.VerifyResponse
	err       error
	during    func()
}

func (b *bundle) Verify(_ context.Context, request credentialsapi.VerifyRequest) (credentialsapi.VerifyResponse, error) {
	b.asked = append(b.asked, request.Secret)
	if b.during != nil {
		b.during()
	}
	if request.Secret != good {
		return credentialsapi.VerifyResponse{Reason: credentialsapi.ReasonInvalidSecret}, b.err
	}
	return b.answer, b.err
}

func (b *bundle) Screen(_ context.Context, secrets []credentialsapi.VerifyRequest) ([]bool, error) {
	b.screens.Add(1)
	plausible := make([]bool, len(secrets))
	for i, s := range secrets {
		plausible[i] = s.Secret == good
	}
	if b.during != nil {
		b.during()
	}
	if b.err != nil {
		return nil, b.err
	}
	return plausible, nil
}

// hold keeps answers back until release. It is for the bubble that it is called in, if it is in one.
func (b *bundle) hold() (release func()) {
	held := make(chan struct{})
	b.during = func() { <-held }
	return func() { close(held) }
}

func setup(t *testing.T) *bundle {
	t.Helper()
	id := uuid.Must(uuid.NewV7())
	b := &bundle{
		clock:  testkit.NewClock(time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)),
		answer: credentialsapi.VerifyResponse{Valid: true, CredentialID: &id, Previous: true},
	}
	b.following.Store(true)
	b.epochs = invalidation.New(b.following.Load)
	b.secrets = credentials.New(credentials.Config{
		Client: b, Epochs: b.epochs, Clock: b.clock.Now, CacheRequests: telemetry.NewMetrics().CacheRequests,
	})
	return b
}

func (b *bundle) known(clientID uuid.UUID) bool {
	_, ok := b.secrets.Known(clientID, good)
	return ok
}

func TestAGoodSecretIsRememberedUntilItMayHaveChanged(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		happens func(*bundle, uuid.UUID)
		known   bool
	}{
		"nothing":                    {func(*bundle, uuid.UUID) {}, true},
		"almost 5 minutes":           {func(b *bundle, _ uuid.UUID) { b.clock.Advance(5*time.Minute - 1) }, true},
		"more than 5 minutes":        {func(b *bundle, _ uuid.UUID) { b.clock.Advance(5*time.Minute + 1) }, false},
		"6 seconds without changes":  {func(b *bundle, _ uuid.UUID) { b.following.Store(false); b.clock.Advance(6 * time.Second) }, false},
		"a change of its agent":      {func(b *bundle, id uuid.UUID) { b.epochs.Changed(id) }, false},
		"changes may have been lost": {func(b *bundle, _ uuid.UUID) { b.epochs.Missed() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, client := setup(t), uuid.Must(uuid.NewV7())
			require.False(t, b.known(client))
			got, err := b.secrets.Verify(t.Context(), client, good)
			require.NoError(t, err)
			require.Equal(t, issue.Verification{Valid: true, CredentialID: *b.answer.CredentialID, Previous: true}, got)
			row.happens(b, client)
			require.Equal(t, row.known, b.known(client))
			_, ok := b.secrets.Known(uuid.Must(uuid.NewV7()), good)
			require.False(t, ok, "another client's")
		})
	}
}

func TestAGoodSecretStaysFamiliarForLongerThanATokenLives(t *testing.T) {
	t.Parallel()
	const week = 7 * 24 * time.Hour
	b, client := setup(t), uuid.Must(uuid.NewV7())
	require.False(t, b.secrets.Familiar(client, good))
	_, err := b.secrets.Verify(t.Context(), client, good)
	require.NoError(t, err)
	require.True(t, b.secrets.Familiar(client, good))
	require.False(t, b.secrets.Familiar(client, "sk_live_wrong"))
	b.epochs.Changed(client)
	b.clock.Advance(week)
	require.False(t, b.known(client), "that is not believed")
	require.True(t, b.secrets.Familiar(client, good), "it is no sign of guessing")
	b.clock.Advance(1)
	require.False(t, b.secrets.Familiar(client, good))

	_, err = b.secrets.Verify(t.Context(), client, good)
	require.NoError(t, err)
	require.True(t, b.secrets.Familiar(client, good), "each time it is good counts anew")
	b.answer = credentialsapi.VerifyResponse{Reason: credentialsapi.ReasonInvalidSecret}
	_, err = b.secrets.Verify(t.Context(), client, good)
	require.NoError(t, err)
	require.False(t, b.secrets.Familiar(client, good), "it was revoked")
}

func TestASecretIsNeverBelievedPastItsEnd(t *testing.T) {
	t.Parallel()
	b, client := setup(t), uuid.Must(uuid.NewV7())
	end := b.clock.Now().Add(10 * time.Second)
	b.answer.ValidUntil = &end
	_, err := b.secrets.Verify(t.Context(), client, good)
	require.NoError(t, err)
	b.clock.Advance(10*time.Second - 1)
	require.True(t, b.known(client))
	b.clock.Advance(1)
	require.False(t, b.known(client))
}

func TestAWrongSecretIsNeverRemembered(t *testing.T) {
	t.Parallel()
	b, client := setup(t), uuid.Must(uuid.NewV7())
	for range 2 {
		got, err := b.secrets.Verify(t.Context(), client, "sk_live_wrong")
		require.NoError(t, err)
		require.Equal(t, issue.Verification{Reason: credentialsapi.ReasonInvalidSecret}, got)
		_, ok := b.secrets.Known(client, "sk_live_wrong")
		require.False(t, ok)
	}
	require.Len(t, b.asked, 2)
	b.answer = credentialsapi.VerifyResponse{Reason: credentialsapi.ReasonCredentialExpired}
	got, err := b.secrets.Verify(t.Context(), client, good)
	require.NoError(t, err)
	require.Equal(t, credentialsapi.ReasonCredentialExpired, got.Reason)
	require.False(t, b.known(client))
}

func TestWhatCannotBeASecretIsAskedAboutAllTheSame(t *testing.T) {
	t.Parallel()
	b, client := setup(t), uuid.Must(uuid.NewV7())
	for _, hopeless := range []config.Secret{"", "with space", "n\x00l", "ünicode", config.Secret(strings.Repeat("x", 200))} {
		got, err := b.secrets.Verify(t.Context(), client, hopeless)
		require.NoError(t, err)
		require.False(t, got.Valid)
	}
	require.Len(t, b.asked, 5)
	for _, asked := range b.asked {
		require.Len(t, asked.Reveal(), 72)
	}
}

func TestAnOutageIsAnErrorAndAChangeSpoilsAnAnswer(t *testing.T) {
	t.Parallel()
	b, client := setup(t), uuid.Must(uuid.NewV7())
	b.err = apperr.Unavailable(errors.New("away"))
	_, err := b.secrets.Verify(t.Context(), client, good)
	require.ErrorIs(t, err, b.err)
	b.err, b.during = nil, func() { b.epochs.Changed(client) }
	_, err = b.secrets.Verify(t.Context(), client, good)
	require.NoError(t, err)
	require.False(t, b.known(client))

	defer b.hold()()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = b.secrets.Verify(ctx, client, good)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
}

func TestWhoAsksAfterAChangeIsGivenNoAnswerFromBeforeIt(t *testing.T) {
	t.Parallel()
	b, client := setup(t), uuid.Must(uuid.NewV7()) // outside of the bubble, as the cache has a goroutine that never ends
	synctest.Test(t, func(t *testing.T) {
		release := b.hold()
		var all sync.WaitGroup
		verify := func() {
			all.Go(func() {
				if _, err := b.secrets.Verify(t.Context(), client, good); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		verify()
		verify()
		b.epochs.Changed(client)
		verify()
		release()
		all.Wait()
	})
	require.Len(t, b.asked, 2, "the first two shared one call")
}

func TestSecretsAreScreenedTogetherAndEachHasItsOwnAnswer(t *testing.T) {
	t.Parallel()
	b, client := setup(t), uuid.Must(uuid.NewV7()) // outside of the bubble, as the cache has a goroutine that never ends
	synctest.Test(t, func(t *testing.T) {
		release := b.hold()
		var all sync.WaitGroup
		ask := func(secret config.Secret, want bool) {
			all.Go(func() {
				if plausible, err := b.secrets.Screen(t.Context(), client, secret); err != nil || plausible != want {
					t.Errorf("%v: %v, %v", want, plausible, err)
				}
			})
			synctest.Wait()
		}
		ask("sk_live_first", false)
		for range 100 {
			ask("sk_live_wrong", false)
			ask(good, true)
			ask("not a secret", false)
		}
		release()
		all.Wait()
		require.EqualValues(t, 2, b.screens.Load(), "who came while the first was under way went together")
	})
}

func TestWhoCannotBeScreenedIsNotCalledWrong(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.err = apperr.Unavailable(errors.New("away"))
	_, err := b.secrets.Screen(t.Context(), uuid.Must(uuid.NewV7()), good)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
}
