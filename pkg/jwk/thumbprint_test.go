package jwk_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/jwk"
)

func TestTheThumbprintIsThatOfTheRFCs(t *testing.T) {
	t.Parallel()
	// RFC 7638 §3.1.
	modulus, err := base64.RawURLEncoding.DecodeString("0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw")
	require.NoError(t, err)
	thumbprint, err := jwk.Key{ID: "a", Algorithm: jwk.PS256, Public: &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537}}.Thumbprint()
	require.NoError(t, err)
	require.Equal(t, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", thumbprint)

	// RFC 8037 appendix A.3.
	x, err := base64.RawURLEncoding.DecodeString("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
	require.NoError(t, err)
	thumbprint, err = jwk.Key{Public: ed25519.PublicKey(x)}.Thumbprint()
	require.NoError(t, err)
	require.Equal(t, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", thumbprint)

	// RFC 9449 §6.1, of the key of its §4.1.
	keys, err := jwk.ReadSet([]byte(`{"keys":[{"kty":"EC","crv":"P-256",
		"x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs","y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"}]}`))
	require.NoError(t, err)
	thumbprint, err = keys[0].Thumbprint()
	require.NoError(t, err)
	require.Equal(t, "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", thumbprint)

	for _, key := range []crypto.PublicKey{nil, "no key", public("p384"), signers()["ed"]} {
		_, err = jwk.Key{Public: key}.Thumbprint()
		require.Error(t, err)
	}
}
