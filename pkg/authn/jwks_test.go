package authn_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/MicahParks/jwkset"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/authn"
)

func TestJWKSComesBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	set, err := authn.MarshalJWKS(keySet())
	require.NoError(t, err)
	keys, err := authn.ParseJWKS(set)
	require.NoError(t, err)
	require.Equal(t, []authn.Key(keySet()), keys)
}

func TestJWKSIsReadByAnotherLibrary(t *testing.T) {
	t.Parallel()
	set, err := authn.MarshalJWKS(keySet())
	require.NoError(t, err)
	var other jwkset.JWKSMarshal
	require.NoError(t, json.Unmarshal(set, &other))
	theirs, err := other.JWKSlice()
	require.NoError(t, err)
	require.Len(t, theirs, 3)
	for i, ours := range keySet() {
		require.Equal(t, ours.ID, theirs[i].Marshal().KID)
		require.Equal(t, ours.Algorithm, theirs[i].Marshal().ALG.String())
		require.Equal(t, "sig", theirs[i].Marshal().USE.String())
		equal, ok := theirs[i].Key().(interface{ Equal(crypto.PublicKey) bool })
		require.True(t, ok)
		require.True(t, equal.Equal(ours.Public))
	}
}

func TestMarshalJWKSRefusesWhatNobodyCouldUse(t *testing.T) {
	t.Parallel()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	public := signers()["rsa"].Public()
	for name, key := range map[string]authn.Key{
		"a curve of another size":          {ID: "k", Algorithm: authn.ES256, Public: p384.Public()},
		"an algorithm of another kind":     {ID: "k", Algorithm: authn.ES256, Public: public},
		"a key without an id":              {Algorithm: authn.RS256, Public: public},
		"a private key":                    {ID: "k", Algorithm: authn.RS256, Public: signers()["rsa"]},
		"no key":                           {ID: "k", Algorithm: authn.RS256},
		"an RSA key of less than 2048 bit": {ID: "k", Algorithm: authn.RS256, Public: &rsa.PublicKey{N: p384.X, E: 65537}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := authn.MarshalJWKS([]authn.Key{key})
			require.Error(t, err)
		})
	}
}

// jwkOf is the good RSA key as JSON members, for tests to change.
func jwkOf(t *testing.T, i int) map[string]any {
	t.Helper()
	set, err := authn.MarshalJWKS(keySet()[i : i+1])
	require.NoError(t, err)
	var doc struct{ Keys []map[string]any }
	require.NoError(t, json.Unmarshal(set, &doc))
	return doc.Keys[0]
}

func parseOne(t *testing.T, member map[string]any) ([]authn.Key, error) {
	t.Helper()
	data, err := json.Marshal(map[string]any{"keys": []any{member}})
	require.NoError(t, err)
	return authn.ParseJWKS(data)
}

func TestParseJWKSLeavesOutWhatIsNoSigningKey(t *testing.T) {
	t.Parallel()
	encode := base64.RawURLEncoding.EncodeToString
	const rsaKey, ecKey, edKey = 0, 1, 2
	for name, row := range map[string]struct {
		key    int
		change func(map[string]any)
	}{
		"no kid":                        {rsaKey, func(k map[string]any) { delete(k, "kid") }},
		"a key for encryption":          {rsaKey, func(k map[string]any) { k["use"] = "enc" }},
		"a symmetric key":               {rsaKey, func(k map[string]any) { k["kty"] = "oct" }},
		"another algorithm":             {rsaKey, func(k map[string]any) { k["alg"] = "PS256" }},
		"HS256 for an RSA key":          {rsaKey, func(k map[string]any) { k["alg"] = "HS256" }},
		"a modulus of 1024 bit":         {rsaKey, func(k map[string]any) { k["n"] = encode(append([]byte{0x80}, make([]byte, 127)...)) }},
		"a modulus that is not base64":  {rsaKey, func(k map[string]any) { k["n"] = "!" }},
		"an exponent of 1":              {rsaKey, func(k map[string]any) { k["e"] = "AQ" }},
		"an even exponent":              {rsaKey, func(k map[string]any) { k["e"] = "BA" }},
		"an exponent of 5 bytes":        {rsaKey, func(k map[string]any) { k["e"] = encode([]byte{1, 0, 0, 0, 1}) }},
		"no exponent":                   {rsaKey, func(k map[string]any) { delete(k, "e") }},
		"a point off the curve":         {ecKey, func(k map[string]any) { k["x"] = encode(make([]byte, 32)) }},
		"a coordinate that is short":    {ecKey, func(k map[string]any) { k["x"] = encode(make([]byte, 31)) }},
		"another curve":                 {ecKey, func(k map[string]any) { k["crv"] = "P-384" }},
		"secp256k1":                     {ecKey, func(k map[string]any) { k["crv"] = "secp256k1" }},
		"an Ed25519 key that is short":  {edKey, func(k map[string]any) { k["x"] = encode(make([]byte, 31)) }},
		"an X25519 key, for encryption": {edKey, func(k map[string]any) { k["crv"] = "X25519" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := jwkOf(t, row.key)
			row.change(k)
			_, err := parseOne(t, k)
			require.ErrorContains(t, err, "no usable signing key")
		})
	}
}

func TestParseJWKSTakesAKeyWithoutUseAndAlg(t *testing.T) {
	t.Parallel()
	k := jwkOf(t, 0)
	delete(k, "use")
	delete(k, "alg")
	k["x5t"] = "an extension"
	keys, err := parseOne(t, k)
	require.NoError(t, err)
	require.Equal(t, authn.RS256, keys[0].Algorithm)
}

func TestParseJWKSRefusesTwoKeysOfOneID(t *testing.T) {
	t.Parallel()
	set, err := authn.MarshalJWKS(append(keySet(), keySet()[0]))
	require.NoError(t, err)
	_, err = authn.ParseJWKS(set)
	require.ErrorContains(t, err, `more than one key "rsa"`)
}

func TestParseJWKSRefusesWhatIsNoSet(t *testing.T) {
	t.Parallel()
	for _, data := range []string{"", "{", "[]", "null", "{}", `{"keys":[]}`, `{"keys":7}`, `{"keys":[null]}`, "<html>"} {
		_, err := authn.ParseJWKS([]byte(data))
		require.Error(t, err, data)
	}
}

func FuzzParseJWKS(f *testing.F) {
	set, err := authn.MarshalJWKS(keySet())
	require.NoError(f, err)
	f.Add(set)
	f.Add([]byte(strings.Repeat("[", 100)))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := authn.ParseJWKS(data)
		if err != nil {
			return
		}
		again, err := authn.MarshalJWKS(keys)
		require.NoError(t, err)
		same, err := authn.ParseJWKS(again)
		require.NoError(t, err)
		require.Equal(t, keys, same)
	})
}
