package secret_test

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

func TestBcryptTellsTheRightSecretFromOneThatDiffersInTheLastCharacter(t *testing.T) {
	t.Parallel()
	b := secret.NewBcrypt()
	s := secret.Generate()
	hash, err := b.Hash(t.Context(), s)
	require.NoError(t, err)

	cost, err := bcrypt.Cost(hash)
	require.NoError(t, err)
	require.Equal(t, 10, cost)

	ok, err := b.Matches(t.Context(), hash, s)
	require.NoError(t, err)
	require.True(t, ok)

	last := byte('0')
	if s.Reveal()[71] == last {
		last = '1'
	}
	ok, err = b.Matches(t.Context(), hash, config.Secret(s.Reveal()[:71]+string(last)))
	require.NoError(t, err)
	require.False(t, ok, "bcrypt did not read the last of the 72 bytes")
}

func TestBcryptRefusesWhatItCannotReadInFull(t *testing.T) {
	t.Parallel()
	_, err := secret.NewBcrypt().Hash(t.Context(), secret.Generate()+"0")
	require.ErrorIs(t, err, bcrypt.ErrPasswordTooLong)
	_, err = secret.NewBcrypt().Matches(t.Context(), []byte("no hash"), secret.Generate())
	require.ErrorIs(t, err, bcrypt.ErrHashTooShort)
}

func TestWhoeverWaitsTooLongForACoreIsToldToComeAgain(t *testing.T) {
	t.Parallel()
	b := secret.NewBcrypt()
	// More work than the deadline leaves room for: what finds no core in time must
	// give up without computing.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, 4*runtime.GOMAXPROCS(0))
	for i := range errs {
		wg.Go(func() { _, errs[i] = b.Hash(ctx, secret.Generate()) })
	}
	wg.Wait()
	refused := 0
	for _, err := range errs {
		if err != nil {
			require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
			refused++
		}
	}
	require.Positive(t, refused)

	_, err := b.Matches(ctx, nil, secret.Generate())
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	_, err = b.Hash(t.Context(), secret.Generate())
	require.NoError(t, err, "the cores were not given back")
}
