package secret_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/services/credentials/internal/secret"
)

func TestASecretIsThePrefixAndSixtyFourHexCharacters(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^sk_live_[0-9a-f]{64}$`)
	seen := map[string]bool{}
	for range 1000 {
		s := secret.Generate()
		require.Regexp(t, form, s.Reveal())
		require.Len(t, s.Reveal(), 72, "bcrypt reads 72 bytes")
		require.True(t, secret.WellFormed(s))
		require.False(t, seen[s.Reveal()], "a secret came twice")
		seen[s.Reveal()] = true
	}
}

func TestWhatIsNoSecretOfOursIsToldByItsForm(t *testing.T) {
	t.Parallel()
	hex := strings.Repeat("0a", 32)
	for name, text := range map[string]string{
		"empty":                 "",
		"no prefix":             hex,
		"another prefix":        "sk_test_" + hex,
		"one character short":   "sk_live_" + hex[1:],
		"one character long":    "sk_live_" + hex + "0",
		"upper-case hex":        "sk_live_" + strings.ToUpper(hex),
		"not hex":               "sk_live_" + hex[:63] + "g",
		"NUL inside":            "sk_live_" + hex[:63] + "\x00",
		"a backtick, before a":  "sk_live_" + hex[:63] + "`",
		"invalid UTF-8":         "sk_live_" + hex[:63] + "\xff",
		"colon, just past nine": "sk_live_" + hex[:63] + ":",
	} {
		require.False(t, secret.WellFormed(config.Secret(text)), name)
	}
}

func TestFingerprintsAreTheStartOfTheHash(t *testing.T) {
	t.Parallel()
	// sha256("abc") = ba7816bf 8f01cfea ...
	require.Equal(t, secret.Fingerprint{0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea}, secret.FingerprintOf("abc"))
}

func TestAnIssuedSecretCannotBePrinted(t *testing.T) {
	t.Parallel()
	issued := secret.Issued{Secret: secret.Generate()}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("issued", "credential", issued, "secret", issued.Secret)
	body, err := json.Marshal(issued)
	require.NoError(t, err)

	hex := issued.Secret.Reveal()[len(secret.Prefix):]
	for _, printed := range []string{
		log.String(), string(body),
		fmt.Sprint(issued), fmt.Sprintf("%v %+v %#v %s %q %x", issued, issued, issued, issued.Secret, issued.Secret, issued.Secret),
	} {
		require.NotContains(t, printed, hex)
		require.NotContains(t, printed, hex[:16])
	}
}
