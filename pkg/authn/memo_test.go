package authn_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

// changingKeys are keys that a test replaces.
type changingKeys struct {
	keys testkit.StaticKeys
	err  error
}

func (c *changingKeys) Key(ctx context.Context, kid string) (authn.Key, error) {
	if c.err != nil {
		return authn.Key{}, c.err
	}
	return c.keys.Key(ctx, kid)
}

func TestAGoodTokenIsVerifiedOnce(t *testing.T) {
	raw := goodToken().sign(t)
	unused := []*authn.Verifier{verifierAt(now), verifierAt(now)} // AllocsPerRun runs once more, to warm up
	first := testing.AllocsPerRun(1, func() {
		_, err := unused[0].Verify(t.Context(), raw)
		require.NoError(t, err)
		unused = unused[1:]
	})
	v := verifierAt(now)
	once, err := v.Verify(t.Context(), raw)
	require.NoError(t, err)
	again := testing.AllocsPerRun(10, func() {
		if known, err := v.Verify(t.Context(), raw); err != nil || known.TokenID != once.TokenID {
			t.Error(known, err)
		}
	})
	require.Greater(t, first, 50.0, "decoding and verifying allocate")
	require.Zero(t, again, "neither is done again")
}

func TestWhatIsRememberedOfATokenIsHeldAgainstTheClockAndTheKeys(t *testing.T) {
	t.Parallel()
	otherKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	for name, row := range map[string]struct {
		change func(keys *changingKeys, clock *time.Time)
		want   apperr.Code // "" for still good
	}{
		"nothing changed": {func(*changingKeys, *time.Time) {}, ""},
		"a moment before its leeway ends": {
			func(_ *changingKeys, clock *time.Time) {
				*clock = now.Add(time.Hour + authn.Leeway - time.Nanosecond)
			}, "",
		},
		"it has expired":                      {func(_ *changingKeys, clock *time.Time) { *clock = now.Add(time.Hour + authn.Leeway) }, apperr.Unauthorized},
		"the clock was set back before it":    {func(_ *changingKeys, clock *time.Time) { *clock = now.Add(-time.Minute) }, apperr.Unauthorized},
		"its key is published no more":        {func(keys *changingKeys, _ *time.Time) { keys.keys = nil }, apperr.Unauthorized},
		"its key's id names another key":      {func(keys *changingKeys, _ *time.Time) { keys.keys[0].Public = otherKey.Public() }, apperr.Unauthorized},
		"its key is for another algorithm":    {func(keys *changingKeys, _ *time.Time) { keys.keys[0].Algorithm = authn.ES256 }, apperr.Unauthorized},
		"the keys cannot be asked":            {func(keys *changingKeys, _ *time.Time) { keys.err = errors.New("connection refused") }, apperr.ServiceUnavailable},
		"its key was read again and is equal": {func(keys *changingKeys, _ *time.Time) { keys.keys = keySet() }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			keys, clock := &changingKeys{keys: keySet()}, now
			v := authn.NewVerifier(authn.VerifierConfig{
				Issuer: issuer, Audience: issuer, Keys: keys, Clock: func() time.Time { return clock },
			})
			raw := goodToken().sign(t)
			first, err := v.Verify(t.Context(), raw)
			require.NoError(t, err)

			row.change(keys, &clock)
			again, err := v.Verify(t.Context(), raw)
			if row.want != "" {
				require.Equal(t, row.want, apperr.CodeOf(err))
				return
			}
			require.NoError(t, err)
			require.Equal(t, first, again)
		})
	}
}

func TestAVerifierMayAllowForClocksThatDifferMore(t *testing.T) {
	raw := goodToken().sign(t) // of an hour
	for at, good := range map[time.Duration]bool{
		-10*time.Minute - time.Second: false,
		-10 * time.Minute:             true,
		70*time.Minute - time.Second:  true,
		70 * time.Minute:              false,
	} {
		clock := now.Add(at)
		v := authn.NewVerifier(authn.VerifierConfig{
			Issuer: issuer, Audience: issuer, Keys: keySet(), Clock: func() time.Time { return clock }, Leeway: 10 * time.Minute,
		})
		_, err := v.Verify(t.Context(), raw)
		require.Equal(t, good, err == nil, at)
		if good {
			require.Zero(t, testing.AllocsPerRun(10, func() { _, _ = v.Verify(t.Context(), raw) }), "it is remembered for as long")
		}
	}
}

func TestATokenThatDiffersInItsSignatureAloneIsNotTheOneRemembered(t *testing.T) {
	t.Parallel()
	v := verifierAt(now)
	raw := goodToken().sign(t)
	_, err := v.Verify(t.Context(), raw)
	require.NoError(t, err)
	last := len(raw) - 10
	other := "A"
	if raw[last] == 'A' {
		other = "B"
	}
	_, err = v.Verify(t.Context(), raw[:last]+other+raw[last+1:])
	requireInvalidToken(t, err)
}
