package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/jwk"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

func inPEM(kind string, der []byte, err error) string {
	if err != nil {
		return err.Error()
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func pkcs8(key any) string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return inPEM("PRIVATE KEY", der, err)
}

func sec1(key *ecdsa.PrivateKey) string {
	der, err := x509.MarshalECPrivateKey(key)
	return inPEM("EC PRIVATE KEY", der, err)
}

func rsaKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	require.NoError(t, err)
	return key
}

func ecKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	require.NoError(t, err)
	return key
}

func TestAKeyIsReadInEveryFormItComesIn(t *testing.T) {
	t.Parallel()
	large, ec := rsaKey(t, 3072), ecKey(t, elliptic.P256())
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	parameters := inPEM("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}, nil)
	for name, test := range map[string]struct {
		text string
		want PrivateKey
	}{
		"RSA in PKCS #8":                        {pkcs8(large), PrivateKey{RS256, large}},
		"RSA in PKCS #1":                        {inPEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(large), nil), PrivateKey{RS256, large}},
		"EC in PKCS #8":                         {pkcs8(ec), PrivateKey{ES256, ec}},
		"EC in SEC 1":                           {sec1(ec), PrivateKey{ES256, ec}},
		"EC in SEC 1 behind openssl's heading":  {parameters + sec1(ec), PrivateKey{ES256, ec}},
		"Ed25519 in PKCS #8":                    {pkcs8(ed), PrivateKey{EdDSA, ed}},
		"line breaks written as in a .env file": {strings.ReplaceAll(pkcs8(ed), "\n", `\n`), PrivateKey{EdDSA, ed}},
		"a text before it":                      {"Bag Attributes\n" + pkcs8(ed), PrivateKey{EdDSA, ed}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParsePrivateKey(test.text)
			require.NoError(t, err)
			require.Equal(t, test.want.Algorithm, got.Algorithm)
			require.True(t, test.want.signer.(interface{ Equal(crypto.PrivateKey) bool }).Equal(got.signer), "what a key computes ahead may differ in length")
		})
	}
}

func TestAKeyThatCannotBeImportedIsRefusedWithItsReason(t *testing.T) {
	t.Parallel()
	ec := ecKey(t, elliptic.P256())
	public, err := x509.MarshalPKIXPublicKey(ec.Public())
	agreement, errAgreement := ecdh.X25519().GenerateKey(rand.Reader)
	require.NoError(t, errAgreement)
	good := pkcs8(ec)
	for name, test := range map[string]struct{ text, want string }{
		"nothing":                {"", "holds no private key"},
		"no PEM":                 {"hunter2", "holds no private key"},
		"a short RSA key":        {pkcs8(rsaKey(t, 1024)), "1024 bits"},
		"another curve":          {sec1(ecKey(t, elliptic.P384())), "P-384"},
		"a key for agreement":    {pkcs8(agreement), "does not sign"},
		"a public key":           {inPEM("PUBLIC KEY", public, err), "PUBLIC KEY"},
		"a certificate":          {inPEM("CERTIFICATE", []byte{1}, nil), "CERTIFICATE"},
		"an OpenSSH key":         {inPEM("OPENSSH PRIVATE KEY", []byte{1}, nil), "OPENSSH"},
		"an encrypted key":       {inPEM("ENCRYPTED PRIVATE KEY", []byte{1}, nil), "encrypted"},
		"an old encrypted key":   {"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n", "encrypted"},
		"two keys":               {good + pkcs8(ecKey(t, elliptic.P256())), "more than one"},
		"a damaged key":          {inPEM("PRIVATE KEY", []byte("hunter2"), nil), "cannot be read as PRIVATE KEY"},
		"a key that is cut off":  {good[:len(good)/2], "holds no private key"},
		"a second that is cut":   {good + good[:len(good)/2], "more than one"},
		"the wrong name for one": {inPEM("RSA PRIVATE KEY", []byte{1}, nil), "cannot be read as RSA PRIVATE KEY"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ParsePrivateKey(test.text)
			require.ErrorContains(t, err, test.want)
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}

// importing makes a ring whose operator brought a key, and answers the id of the key.
func importing(t *testing.T, store Store, clock *testkit.Clock, private *ecdsa.PrivateKey, change ...func(*RingConfig)) (*Ring, string) {
	t.Helper()
	kid, err := jwk.Key{Public: private.Public()}.Thumbprint()
	require.NoError(t, err)
	bring := func(cfg *RingConfig) { cfg.Import = &PrivateKey{ES256, private} }
	return ring(t, store, clock, ES256, append(change, bring)...), kid
}

func TestAnImportedKeySignsAtOnceWhereNoneDidBefore(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	r, kid := importing(t, store, clock, ecKey(t, elliptic.P256()))
	pass(t, r, r)
	require.Equal(t, kid, signs(t, r))
	require.Equal(t, map[State]int{Active: 1}, store.states())

	again := ring(t, store, clock, ES256)
	pass(t, again)
	require.Equal(t, kid, signs(t, again), "a replica without the setting uses it as well")
}

func TestAnImportedKeyThatAnotherReplicaBringsMeanwhileComesInOnce(t *testing.T) {
	t.Parallel()
	at := start
	brought := []Record{{ID: "theirs", State: Active, ActivatedAt: &at}}
	require.True(t, policy{}.decide(brought, &Record{ID: "theirs"}, occasion{importing: true}, start).empty())
}

func TestAnImportedKeyIsPublishedFirstWhereAnotherSigns(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	for _, old := range []Algorithm{ES256, RS256} { // the second one changes SIGNING_ALG with the import
		store.records = nil
		pass(t, ring(t, store, clock, old))
		r, kid := importing(t, store, clock, ecKey(t, elliptic.P256()))
		pass(t, r)
		require.Equal(t, kid, store.one(t, Next).ID)
		require.NotEqual(t, kid, signs(t, r))
		require.Contains(t, kidsOf(t, r), kid)
		clock.Advance(10 * time.Minute)
		pass(t, r)
		require.Equal(t, kid, signs(t, r))
		pass(t, r, r)
		require.Equal(t, map[State]int{Active: 1, Retired: 1}, store.states(), "and is not imported again")
	}
}

func TestAnImportedKeyWaitsForTheOneThatWaits(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	pass(t, ring(t, store, clock, ES256))
	waiting, err := custodianOf(t, store).Rotate(t.Context())
	require.NoError(t, err)
	r, kid := importing(t, store, clock, ecKey(t, elliptic.P256()))
	pass(t, r)
	require.Equal(t, waiting.ID, store.one(t, Next).ID)
	clock.Advance(10 * time.Minute)
	pass(t, r)
	require.Equal(t, waiting.ID, signs(t, r))
	pass(t, r)
	require.Equal(t, kid, store.one(t, Next).ID)
}

func TestAnImportedKeyThatIsGoneStaysGone(t *testing.T) {
	t.Parallel()
	private := ecKey(t, elliptic.P256())
	for name, end := range map[string]func(*testing.T, *memory, *testkit.Clock, string){
		"after its time": func(t *testing.T, store *memory, clock *testkit.Clock, _ string) {
			t.Helper()
			_, err := custodianOf(t, store).Rotate(t.Context())
			require.NoError(t, err)
			r := ring(t, store, clock, ES256)
			clock.Advance(10 * time.Minute)
			pass(t, r)
			clock.Advance(time.Hour + retirementMargin)
			pass(t, r)
		},
		"by command": func(t *testing.T, store *memory, clock *testkit.Clock, kid string) {
			t.Helper()
			_, err := custodianOf(t, store).Retire(t.Context(), kid)
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, clock := newMemory()
			running, kid := importing(t, store, clock, private)
			pass(t, running)
			end(t, store, clock, kid)
			require.Equal(t, kid, store.one(t, Gone).ID)

			var log bytes.Buffer
			restarted, _ := importing(t, store, clock, private, func(cfg *RingConfig) { cfg.Log = slog.New(slog.NewTextHandler(&log, nil)) })
			pass(t, restarted, running, restarted)
			require.Equal(t, map[State]int{Active: 1, Gone: 1}, store.states())
			require.NotEqual(t, kid, signs(t, restarted))
			require.Equal(t, 1, strings.Count(log.String(), "not imported again"))
			require.Contains(t, log.String(), kid)
		})
	}
}

func TestAnImportedKeyIsRotatedLikeAnyOther(t *testing.T) {
	t.Parallel()
	store, clock := newMemory()
	r, kid := importing(t, store, clock, ecKey(t, elliptic.P256()), rotating)
	pass(t, r)
	clock.Advance(rotation - 10*time.Minute)
	pass(t, r)
	clock.Advance(10 * time.Minute)
	pass(t, r)
	require.Equal(t, kid, store.one(t, Retired).ID)
	require.NotEqual(t, kid, signs(t, r))
}
