package jwk_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"math/big"
	"strings"
	"sync"
	"testing"

	"github.com/MicahParks/jwkset"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/jwk"
)

// signers are made once: RSA keys take long.
var signers = sync.OnceValue(func() map[string]crypto.Signer {
	rsaKey, errRSA := rsa.GenerateKey(rand.Reader, jwk.MinRSABits)
	ec, errEC := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, errP384 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, errEd := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(errRSA, errEC, errP384, errEd); err != nil {
		panic(err)
	}
	return map[string]crypto.Signer{"rsa": rsaKey, "ec": ec, "p384": p384, "ed": ed}
})

func public(kind string) crypto.PublicKey { return signers()[kind].Public() }

func set() []jwk.Key {
	return []jwk.Key{
		{ID: "rsa", Algorithm: jwk.PS256, Public: public("rsa")},
		{ID: "ec", Algorithm: jwk.ES256, Public: public("ec")},
		{ID: "ed", Algorithm: jwk.EdDSA, Public: public("ed")},
		{ID: "ed by its new name", Algorithm: jwk.Ed25519, Public: public("ed")},
		{Public: public("ec")},
		{Public: public("rsa")},
	}
}

// fields are the parameters of one JWK, for tests to change.
type fields map[string]any

// keyOf is the key of that kind with nothing but its kty and public parameters.
func keyOf(t *testing.T, kind string) fields {
	t.Helper()
	raw, err := jwk.MarshalSet([]jwk.Key{{Public: public(kind)}})
	require.NoError(t, err)
	var doc struct{ Keys []fields }
	require.NoError(t, json.Unmarshal(raw, &doc))
	delete(doc.Keys[0], "use")
	return doc.Keys[0]
}

func setOf(t *testing.T, keys ...fields) []byte {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"keys": keys})
	require.NoError(t, err)
	return raw
}

func TestASetComesBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	raw, err := jwk.MarshalSet(set())
	require.NoError(t, err)
	for name, read := range map[string]func([]byte) ([]jwk.Key, error){
		"ParseClientSet": jwk.ParseClientSet, "ReadClientSet": jwk.ReadClientSet, "ReadSet": jwk.ReadSet,
	} {
		keys, err := read(raw)
		require.NoError(t, err, name)
		require.Equal(t, set(), keys, name)
	}
}

func TestASetIsReadByAnotherLibrary(t *testing.T) {
	t.Parallel()
	raw, err := jwk.MarshalSet(set())
	require.NoError(t, err)
	var other jwkset.JWKSMarshal
	require.NoError(t, json.Unmarshal(raw, &other))
	theirs, err := other.JWKSlice()
	require.NoError(t, err)
	require.Len(t, theirs, len(set()))
	for i, ours := range set() {
		require.Equal(t, ours.ID, theirs[i].Marshal().KID)
		require.Equal(t, "sig", theirs[i].Marshal().USE.String())
		equal, ok := theirs[i].Key().(interface{ Equal(crypto.PublicKey) bool })
		require.True(t, ok)
		require.True(t, equal.Equal(ours.Public))
	}
}

func TestKeysThatAnotherLibraryWritesAreRead(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"rsa", "ec", "ed"} {
		theirs, err := jwkset.NewJWKFromKey(public(kind), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kind}})
		require.NoError(t, err)
		raw, err := json.Marshal(jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{theirs.Marshal()}})
		require.NoError(t, err)
		keys, err := jwk.ParseClientSet(raw)
		require.NoError(t, err, kind)
		require.Equal(t, kind, keys[0].ID)
		require.Equal(t, public(kind), keys[0].Public)
	}
}

func TestAKeyFitsTheAlgorithmsOfItsKind(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		key  jwk.Key
		fits []string
	}{
		"RSA":                        {jwk.Key{Public: public("rsa")}, []string{"RS256", "PS256"}},
		"RSA for PS256 only":         {jwk.Key{Algorithm: "PS256", Public: public("rsa")}, []string{"PS256"}},
		"P-256":                      {jwk.Key{Public: public("ec")}, []string{"ES256"}},
		"Ed25519":                    {jwk.Key{Public: public("ed")}, []string{"EdDSA", "Ed25519"}},
		"Ed25519 for EdDSA":          {jwk.Key{Algorithm: "EdDSA", Public: public("ed")}, []string{"EdDSA", "Ed25519"}},
		"Ed25519 for Ed25519":        {jwk.Key{Algorithm: "Ed25519", Public: public("ed")}, []string{"EdDSA", "Ed25519"}},
		"Ed25519 said to be Ed448":   {jwk.Key{Algorithm: "Ed448", Public: public("ed")}, nil},
		"P-256 said to be for EdDSA": {jwk.Key{Algorithm: "EdDSA", Public: public("ec")}, nil},
		"P-256 said to be Ed25519":   {jwk.Key{Algorithm: "Ed25519", Public: public("ec")}, nil},
		"P-384":                      {jwk.Key{Public: public("p384")}, nil},
		"a private key":              {jwk.Key{Public: signers()["rsa"]}, nil},
		"an RSA key without modulus": {jwk.Key{Public: &rsa.PublicKey{E: 65537}}, nil},
		"an Ed25519 key that is cut": {jwk.Key{Public: ed25519.PublicKey{1}}, nil},
		"no key":                     {jwk.Key{}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var fits []string
			for _, algorithm := range []string{"", "none", "HS256", "RS256", "RS512", "PS256", "ES256", "ES384", "EdDSA", "Ed25519", "Ed448", "ed25519"} {
				if tt.key.Fits(algorithm) {
					fits = append(fits, algorithm)
				}
			}
			require.Equal(t, tt.fits, fits)
		})
	}
}

func TestWhatIsWrongWithAKeyIsSaidByItsParameter(t *testing.T) {
	t.Parallel()
	encode := base64.RawURLEncoding.EncodeToString
	tests := map[string]struct {
		kind   string
		change fields
		wrong  []string
	}{
		"a key for encryption":                {"rsa", fields{"use": "enc"}, []string{"use"}},
		"a use that is no string":             {"rsa", fields{"use": 7}, []string{"use"}},
		"operations without verify":           {"rsa", fields{"key_ops": []string{"sign"}}, []string{"key_ops"}},
		"operations that are no list":         {"rsa", fields{"key_ops": "verify"}, []string{"key_ops"}},
		"an algorithm of another kind":        {"rsa", fields{"alg": "ES256"}, []string{"alg"}},
		"an algorithm of another hash":        {"rsa", fields{"alg": "RS512"}, []string{"alg"}},
		"none":                                {"rsa", fields{"alg": "none"}, []string{"alg"}},
		"HS256 for an RSA key":                {"rsa", fields{"alg": "HS256"}, []string{"alg"}},
		"an empty algorithm":                  {"rsa", fields{"alg": ""}, []string{"alg"}},
		"an empty kid":                        {"rsa", fields{"kid": ""}, []string{"kid"}},
		"a kid with a line end":               {"rsa", fields{"kid": "a\nb"}, []string{"kid"}},
		"a kid that is too long":              {"rsa", fields{"kid": strings.Repeat("a", 257)}, []string{"kid"}},
		"a kid that is null":                  {"rsa", fields{"kid": nil}, []string{"kid"}},
		"a modulus of 1024 bit":               {"rsa", fields{"n": encode(bits(1024))}, []string{"n"}},
		"a modulus of 2047 bit":               {"rsa", fields{"n": encode(bits(2047))}, []string{"n"}},
		"a modulus of 8193 bit":               {"rsa", fields{"n": encode(bits(8193))}, []string{"n"}},
		"an even modulus":                     {"rsa", fields{"n": encode(new(big.Int).Lsh(big.NewInt(1), 2047).Bytes())}, []string{"n"}},
		"a modulus that is not base64":        {"rsa", fields{"n": "!"}, []string{"n"}},
		"a modulus with padding":              {"rsa", fields{"n": encode(bits(2048)) + "=="}, []string{"n"}},
		"an exponent of 1":                    {"rsa", fields{"e": "AQ"}, []string{"e"}},
		"an even exponent":                    {"rsa", fields{"e": "BA"}, []string{"e"}},
		"an exponent of 5 bytes":              {"rsa", fields{"e": encode([]byte{1, 0, 0, 0, 1})}, []string{"e"}},
		"an exponent with a line end":         {"rsa", fields{"e": "AQ\nAB"}, []string{"e"}},
		"an exponent with bits left over":     {"rsa", fields{"e": "AQAC" + "Bx"}, []string{"e"}},
		"neither modulus nor exponent":        {"rsa", fields{"n": nil, "e": nil}, []string{"n", "e"}},
		"a point off the curve":               {"ec", fields{"x": encode(make([]byte, 32))}, []string{"x"}},
		"a coordinate that is short":          {"ec", fields{"x": encode(make([]byte, 31))}, []string{"x"}},
		"no y":                                {"ec", fields{"y": 7}, []string{"y"}},
		"another curve":                       {"ec", fields{"crv": "P-384"}, []string{"crv"}},
		"secp256k1":                           {"ec", fields{"crv": "secp256k1"}, []string{"crv"}},
		"an Ed25519 key that is short":        {"ed", fields{"x": encode(make([]byte, 31))}, []string{"x"}},
		"an Ed25519 key that is no point":     {"ed", fields{"x": point(2)}, []string{"x"}},
		"the neutral element":                 {"ed", fields{"x": point(1)}, []string{"x"}},
		"a point of order 2":                  {"ed", fields{"x": encode(append([]byte{0xec}, append(bytes.Repeat([]byte{0xff}, 30), 0x7f)...))}, []string{"x"}},
		"a point of order 4":                  {"ed", fields{"x": point(0)}, []string{"x"}},
		"a point of order 8":                  {"ed", fields{"x": "xxdqcD1N2E-6PAt2DRBnDyogU_osOczGTsf9d5KsA3o"}, []string{"x"}},
		"a point that is spelled in two ways": {"ed", fields{"x": encode(append([]byte{0xf0}, append(bytes.Repeat([]byte{0xff}, 30), 0x7f)...))}, []string{"x"}},
		"Ed448 for an Ed25519 key":            {"ed", fields{"alg": "Ed448"}, []string{"alg"}},
		"Ed25519 for a P-256 key":             {"ec", fields{"alg": "Ed25519"}, []string{"alg"}},
		"an Ed448 key":                        {"ed", fields{"alg": "Ed25519", "crv": "Ed448"}, []string{"crv"}},
		"an X25519 key":                       {"ed", fields{"crv": "X25519"}, []string{"crv"}},
		"a symmetric key":                     {"ed", fields{"kty": "oct", "k": "c2VjcmV0"}, []string{"k", "kty"}},
		"a kty in lower case":                 {"rsa", fields{"kty": "rsa"}, []string{"kty"}},
		"no kty":                              {"rsa", fields{"kty": nil}, []string{"kty"}},
		"a private Ed25519 key":               {"ed", fields{"d": "c2VjcmV0"}, []string{"d"}},
		"a private parameter that is null":    {"ec", fields{"d": nil}, []string{"d"}},
		"all private parameters there are":    {"rsa", fields{"d": "", "p": "", "q": "", "dp": "", "dq": "", "qi": "", "oth": []any{}, "k": ""}, []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}},
		"a private key with another mistake":  {"ed", fields{"d": "c2VjcmV0", "use": "enc"}, []string{"d", "use"}},
		"a private key of an unknown curve":   {"ec", fields{"d": "c2VjcmV0", "crv": "P-521"}, []string{"d", "crv"}},
		"a private key of an unknown kind":    {"ec", fields{"d": "c2VjcmV0", "kty": "AKP"}, []string{"d", "kty"}},
		"one private parameter in two places": {"ec", fields{"d": "c2VjcmV0", "more": fields{"D": "c2VjcmV0"}}, []string{"d"}},
		"everything that could hold a secret": {"ec", fields{"kid": "", "d": "c2VjcmV0", "use": "c2VjcmV0", "alg": "c2VjcmV0"}, []string{"d", "kid", "use", "alg"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw := behindRSA(t, tt.kind, tt.change)
			require.Equal(t, tt.wrong, refusedOf(t, raw))

			lenient, err := jwk.ReadClientSet(raw)
			require.NoError(t, err)
			require.Equal(t, []jwk.Key{{Public: public("rsa")}}, lenient, "a fetched set goes on without it")
		})
	}
}

// behindRSA is a set of a good RSA key and a second one that was changed.
func behindRSA(t *testing.T, kind string, change fields) []byte {
	t.Helper()
	key := keyOf(t, kind)
	maps.Copy(key, change)
	return setOf(t, keyOf(t, "rsa"), key)
}

// refusedOf are the parameters of the second key for which a set cannot be registered.
func refusedOf(t *testing.T, raw []byte) (wrong []string) {
	t.Helper()
	_, err := jwk.ParseClientSet(raw)
	var faults jwk.SetErrors
	require.ErrorAs(t, err, &faults)
	for _, fault := range faults {
		require.NotEmpty(t, fault.Reason)
		wrong = append(wrong, strings.TrimPrefix(fault.Field, "keys[1]."))
	}
	require.NotContains(t, err.Error(), "c2VjcmV0", "nothing of the key is repeated")
	return wrong
}

func TestAPrivateKeyIsNotRegisteredHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		kind   string
		change fields
		wrong  []string
	}{
		"a private parameter in upper case": {"ed", fields{"D": "c2VjcmV0"}, []string{"d"}},
		"all of them, however written":      {"rsa", fields{"D": "", "P": "", "Q": "", "dP": "", "DQ": "", "Qi": "", "OTH": 1, "K": ""}, []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}},
		"a private key in a wrapper":        {"ec", fields{"private": fields{"c2VjcmV0": []any{7, fields{"d": "c2VjcmV0"}}}}, []string{"d"}},
		"a private key in PEM":              {"ec", fields{"pem": pemText}, []string{"keys[1]"}},
		"a private key in PEM, nested":      {"ec", fields{"more": fields{"a": []string{"b", pemText}}}, []string{"keys[1]"}},
		"a private key in PEM as a name":    {"ec", fields{"more": fields{pemText: 1}}, []string{"keys[1]"}},
		"a private key in PEM as kid":       {"ec", fields{"kid": "-----BEGIN PRIVATE KEY-----c2VjcmV0"}, []string{"keys[1]"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw := behindRSA(t, tt.kind, tt.change)
			require.Equal(t, tt.wrong, refusedOf(t, raw))

			lenient, err := jwk.ReadClientSet(raw)
			require.NoError(t, err)
			require.Len(t, lenient, 2, "what else a published key has is its publisher's")
		})
	}
}

// point is the spelling of the point of Ed25519 with this y, if there is one.
func point(y byte) string {
	spelled := make([]byte, ed25519.PublicKeySize)
	spelled[0] = y
	return base64.RawURLEncoding.EncodeToString(spelled)
}

// pemText is one that was put on a single line, as a script may do it.
const pemText = `-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----\n`

// bits is the largest odd number of that many bits.
func bits(n uint) []byte {
	number := new(big.Int).Lsh(big.NewInt(1), n)
	return number.Sub(number, big.NewInt(1)).Bytes()
}

func TestAKeyMayHaveWhatNobodyHereKnows(t *testing.T) {
	t.Parallel()
	key := keyOf(t, "rsa")
	maps.Copy(key, fields{
		"kid": "k", "use": "sig", "key_ops": []string{"verify"}, "alg": "RS256", "x5t": "a thumbprint", "x5c": []string{"AA=="},
		"iat": 7, "E": "no parameter of a JWK", "note": fields{"e": "", "n": "", "keys": []any{nil}, "PRIVATE": "a key"},
	})
	keys, err := jwk.ParseClientSet(setOf(t, key))
	require.NoError(t, err)
	require.Equal(t, []jwk.Key{{ID: "k", Algorithm: "RS256", Public: public("rsa")}}, keys)
}

func TestASetThatIsNone(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"", "{", "[]", "null", "7", "{}", `{"keys":null}`, `{"keys":7}`, `{"Keys":[]}`, `{"keys":[]}x`, "<html>"} {
		_, err := jwk.ParseClientSet([]byte(raw))
		var faults jwk.SetErrors
		require.ErrorAs(t, err, &faults, raw)
		require.Len(t, faults, 1)
		_, err = jwk.ReadClientSet([]byte(raw))
		require.Error(t, err, raw)
	}
}

func TestASetThatOnlyAFetchedOneMayBe(t *testing.T) {
	t.Parallel()
	key := string(setOf(t, keyOf(t, "ed")))
	key = key[len(`{"keys":[`) : len(key)-len(`]}`)]
	const repeated = "JWK set: must not repeat a name within an object"
	for raw, want := range map[string]string{
		`{"keys":[` + key + `],"d":"c2VjcmV0"}`: "JWK set: d is private key material: register the public key only",
		`{"keys":[],"k":"c2VjcmV0"}`: "JWK set: k is private key material: register the public key only; " +
			"keys must have 1 to 16 items",
		`{"keys":[` + key + `],"private":[{"D":"c2VjcmV0"}]}`:                 "JWK set: d is private key material: register the public key only",
		`{"keys":[` + key + `],"Keys":[{"d":"c2VjcmV0"}]}`:                    "JWK set: d is private key material: register the public key only",
		`{"keys":[` + key + `],"private_pem":"-----BEGIN PRIVATE KEY"}`:       "JWK set: has the text of a private key in it: register the public key only",
		`{"keys":[{"kty":"OKP","d":"c2VjcmV0"}],"keys":[` + key + `]}`:        repeated,
		`{"keys":[{"kid":"c2VjcmV0",` + key[1:len(key)-1] + `,"kid":"1"}]}`:   repeated,
		`{"keys":[{` + key[1:len(key)-1] + `,"x5t":[{"a":1,"\u0061":[2]}]}]}`: repeated,
	} {
		_, err := jwk.ParseClientSet([]byte(raw))
		require.EqualError(t, err, want)
		_, err = jwk.ReadClientSet([]byte(raw))
		require.NoError(t, err)
	}
	_, err := jwk.ParseClientSet([]byte(`{"x":[{"a":1},{"a":1,"b":{"a":2}}],"keys":[` + key + `]}`))
	require.NoError(t, err, "a name may stand in several objects")
}

func TestHowManyKeysASetMayHave(t *testing.T) {
	t.Parallel()
	many := make([]fields, jwk.MaxSetKeys+1)
	for i := range many {
		many[i] = keyOf(t, "ed")
	}
	_, err := jwk.ParseClientSet(setOf(t, many[1:]...))
	require.NoError(t, err)
	for _, keys := range [][]fields{many, {}} {
		_, err = jwk.ParseClientSet(setOf(t, keys...))
		require.EqualError(t, err, "JWK set: keys must have 1 to 16 items")
	}
	none, err := jwk.ReadClientSet([]byte(`{"keys":[]}`))
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestASetOfMoreThan64KiBIsNotRead(t *testing.T) {
	t.Parallel()
	raw := append(setOf(t, keyOf(t, "ed")), []byte(strings.Repeat(" ", jwk.MaxSetBytes))...)
	_, err := jwk.ParseClientSet(raw)
	require.EqualError(t, err, "JWK set: must be at most 65536 bytes")
	_, err = jwk.ReadClientSet(raw)
	require.Error(t, err)
	_, err = jwk.ReadClientSet(raw[:jwk.MaxSetBytes])
	require.NoError(t, err)
}

func TestKidsOfARegisteredSetAreDistinct(t *testing.T) {
	t.Parallel()
	first, second, third := keyOf(t, "rsa"), keyOf(t, "ec"), keyOf(t, "ed")
	first["kid"], third["kid"] = "k", "k"
	raw := setOf(t, first, second, second, third, nil)
	_, err := jwk.ParseClientSet(raw)
	require.EqualError(t, err, "JWK set: keys[3].kid repeats an earlier one; keys[4] must be an object")
	keys, err := jwk.ReadClientSet(raw)
	require.NoError(t, err)
	require.Len(t, keys, 4, "of a fetched set all are kept")
}

func TestMarshalSetRefusesWhatNobodyCouldUse(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]jwk.Key{
		"a curve of another size":      {Public: public("p384")},
		"an algorithm of another kind": {Algorithm: jwk.ES256, Public: public("rsa")},
		"a private key":                {Public: signers()["rsa"]},
		"a point of small order":       {Public: ed25519.PublicKey(make([]byte, ed25519.PublicKeySize))},
		"no key":                       {},
	} {
		_, err := jwk.MarshalSet([]jwk.Key{key})
		require.Error(t, err, name)
	}
}

func FuzzParseClientSet(f *testing.F) {
	raw, err := jwk.MarshalSet(set())
	require.NoError(f, err)
	f.Add(raw)
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"","d":null},7,null]}`))
	f.Add([]byte(strings.Repeat("[", 100)))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := jwk.ParseClientSet(data)
		if err != nil {
			return
		}
		lenient, err := jwk.ReadClientSet(data)
		require.NoError(t, err)
		require.Equal(t, keys, lenient, "what may be registered can be read")
		written, err := jwk.MarshalSet(keys)
		require.NoError(t, err)
		again, err := jwk.ParseClientSet(written)
		require.NoError(t, err)
		require.Equal(t, keys, again)
	})
}
