package assertion_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/jwk"
	"github.com/sentryagent/agentidp/services/token/internal/assertion"
)

func by(method jwt.SigningMethod, name string) func(*draft) {
	return func(d *draft) { d.method, d.key = method, signers()[name] }
}

// byEd25519 signs by EdDSA under the name of RFC 9864, of which the library has no method.
func byEd25519(d *draft) {
	by(jwt.SigningMethodEdDSA, "ed")(d)
	d.header["alg"] = "Ed25519"
}

func claim(name string, value any) func(*draft) { return func(d *draft) { d.claims[name] = value } }

func without(name string) func(*draft) { return func(d *draft) { delete(d.claims, name) } }

func header(name string, value any) func(*draft) { return func(d *draft) { d.header[name] = value } }

func TestAnAssertionProvesWhoTheClientIs(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*draft){
		"ES256":                         func(*draft) {},
		"RS256":                         by(jwt.SigningMethodRS256, "rsa"),
		"PS256":                         by(jwt.SigningMethodPS256, "rsa"),
		"EdDSA":                         by(jwt.SigningMethodEdDSA, "ed"),
		"EdDSA by its new name":         byEd25519,
		"the new name and a kid":        func(d *draft) { byEd25519(d); d.header["kid"] = "ed" },
		"with the id of its key":        header("kid", "ec"),
		"typ JWT":                       header("typ", "JWT"),
		"typ in small letters":          header("typ", "jwt"),
		"the typ of client assertions":  header("typ", "client-authentication+jwt"),
		"the typ in its long form":      header("typ", "application/client-authentication+jwt"),
		"headers that nobody knows":     header("x5t", "whatever"),
		"claims that nobody knows":      claim("scope", "agents:read"),
		"the issuer as a list":          claim("aud", []string{issuer}),
		"without iat":                   without("iat"),
		"five minutes to live":          claim("exp", now.Add(5*time.Minute).Unix()),
		"five minutes by a clock ahead": func(d *draft) { d.claims["iat"], d.claims["exp"] = now.Unix()+5, now.Unix()+305 },
		"expired less than 5 s ago": func(d *draft) {
			d.claims["iat"], d.claims["exp"] = now.Unix()-60, now.Unix()-4
		},
		"issued 5 s in the future":     claim("iat", now.Unix()+5),
		"valid in 5 s":                 claim("nbf", now.Unix()+5),
		"times with fractions":         claim("exp", float64(now.Unix())+59.5),
		"a jti of 255 characters":      claim("jti", strings.Repeat("é", 255)),
		"a jti with whatever is in it": claim("jti", "a\u0000\n\"b"),
		"iat long ago, little left":    func(d *draft) { d.claims["iat"], d.claims["exp"] = now.Unix()-299, now.Unix()+1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := good()
			change(&d)
			raw := d.sign(t)
			require.NoError(t, judge(verifier(t), raw, set()))
			a := assertion.Read(raw)
			require.Equal(t, client, a.ClientID)
			require.Equal(t, d.claims["jti"], a.ID)
			require.WithinDuration(t, now, a.ExpiresAt, 6*time.Minute)
			require.True(t, a.Fits(set()))
		})
	}
}

func TestAnAssertionThatProvesNothingIsRefused(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change func(*draft)
		reason string
	}{
		"iss of another":             {claim("iss", "somebody"), "iss and sub"},
		"sub of another":             {claim("sub", "somebody"), "iss and sub"},
		"no iss":                     {without("iss"), "iss and sub"},
		"no sub":                     {without("sub"), "iss and sub"},
		"neither":                    {func(d *draft) { d.claims["iss"], d.claims["sub"] = "", "" }, "iss and sub"},
		"iss a list":                 {claim("iss", []string{client}), "iss and sub"},
		"sub a number":               {func(d *draft) { d.claims["iss"], d.claims["sub"] = 7, 7 }, "iss and sub"},
		"no aud":                     {without("aud"), "aud"},
		"aud null":                   {claim("aud", nil), "aud"},
		"aud empty":                  {claim("aud", ""), "aud"},
		"aud an empty list":          {claim("aud", []string{}), "aud"},
		"the token endpoint":         {claim("aud", issuer+"/api/v1/token"), "aud"},
		"the issuer with a slash":    {claim("aud", issuer+"/"), "aud"},
		"the issuer among others":    {claim("aud", []string{issuer, "https://other.example"}), "aud"},
		"the issuer twice":           {claim("aud", []string{issuer, issuer}), "aud"},
		"a list in the list":         {claim("aud", [][]string{{issuer}}), "aud"},
		"an object for aud":          {claim("aud", map[string]string{"a": issuer}), "aud"},
		"no exp":                     {without("exp"), "expired"},
		"exp null":                   {claim("exp", nil), "expired"},
		"exp a string":               {claim("exp", "1795339860"), "expired"},
		"exp negative":               {claim("exp", -1), "expired"},
		"exp beyond all clocks":      {claim("exp", 1e300), "expired"},
		"expired 5 s ago":            {func(d *draft) { d.claims["iat"], d.claims["exp"] = now.Unix()-60, now.Unix()-5 }, "expired"},
		"5 minutes and 6 s ahead":    {func(d *draft) { delete(d.claims, "iat"); d.claims["exp"] = now.Unix() + 306 }, "5 minutes"},
		"more than 5 minutes in all": {func(d *draft) { d.claims["iat"], d.claims["exp"] = now.Unix()-300, now.Unix()+1 }, "5 minutes"},
		"expired when it was issued": {func(d *draft) { d.claims["iat"], d.claims["exp"] = now.Unix(), now.Unix() }, "does not expire after"},
		"expired before it was":      {func(d *draft) { d.claims["iat"], d.claims["exp"] = now.Unix()+2, now.Unix()+1 }, "does not expire after"},
		"made an hour ago":           {claim("iat", now.Unix()-3600), "5 minutes"},
		"issued 6 s in the future":   {claim("iat", now.Unix()+6), "not valid yet"},
		"iat a string":               {claim("iat", "now"), "not valid yet"},
		"iat null":                   {claim("iat", nil), "not valid yet"},
		"valid in 6 s":               {claim("nbf", now.Unix()+6), "not valid yet"},
		"nbf a list":                 {claim("nbf", []int{1}), "not valid yet"},
		"no jti":                     {without("jti"), "jti"},
		"an empty jti":               {claim("jti", ""), "jti"},
		"jti a number":               {claim("jti", 7), "jti"},
		"a jti of 256 characters":    {claim("jti", strings.Repeat("x", 256)), "jti"},
		"the typ of an access token": {header("typ", "at+jwt"), "header"},
		"another typ":                {header("typ", "dpop+jwt"), "header"},
		"an empty typ":               {header("typ", ""), "header"},
		"typ a number":               {header("typ", 7), "header"},
		"typ null":                   {header("typ", nil), "header"},
		"a crit header":              {header("crit", []string{"exp"}), "header"},
		"an empty crit header":       {header("crit", []string{}), "header"},
		"kid a number":               {header("kid", 7), "header"},
		"an empty kid":               {header("kid", ""), "header"},
		"kid null":                   {header("kid", nil), "header"},
		"another kid":                {header("kid", "else"), "no key"},
		"the kid of another kind":    {header("kid", "rsa"), "no key"},
		"a foreign key":              {by(jwt.SigningMethodRS256, "foreign"), "signature"},
		"alg none":                   {func(d *draft) { d.method, d.key = jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType }, "alg"},
		"HS256":                      {func(d *draft) { d.method, d.key = jwt.SigningMethodHS256, []byte("k") }, "alg"},
		"RS384":                      {by(jwt.SigningMethodRS384, "rsa"), "alg"},
		"RS256 under the name PS256": {func(d *draft) { by(jwt.SigningMethodRS256, "rsa")(d); d.header["alg"] = "PS256" }, "signature"},
		"another alg than it is":     {header("alg", "EdDSA"), "signature"},
		"its new name for another":   {header("alg", "Ed25519"), "signature"},
		"a kid of no Ed25519 key":    {func(d *draft) { byEd25519(d); d.header["kid"] = "ec" }, "no key"},
		"Ed448":                      {func(d *draft) { byEd25519(d); d.header["alg"] = "Ed448" }, "alg is not one of RS256, PS256, ES256, EdDSA, Ed25519"},
		"that name in small letters": {func(d *draft) { byEd25519(d); d.header["alg"] = "ed25519" }, "alg"},
		"alg in small letters":       {header("alg", "es256"), "alg"},
		"alg null":                   {header("alg", nil), "alg"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := good()
			row.change(&d)
			require.ErrorContains(t, judge(verifier(t), d.sign(t), set()), row.reason)
		})
	}
}

func TestThereIsOneWayToWriteAnAssertion(t *testing.T) {
	t.Parallel()
	raw, claims := good().sign(t), claimsText(t)
	parts := strings.Split(raw, ".")
	const es256 = `{"alg":"ES256"}`
	require.NoError(t, judge(verifier(t), signText(t, es256, claims), set()), "the texts are good as such")
	for name, bad := range map[string]string{
		"nothing":                       "",
		"no dots":                       "abc",
		"two parts":                     parts[0] + "." + parts[1],
		"four parts":                    raw + ".",
		"padding":                       raw + "=",
		"a line end":                    raw + "\n",
		"a line end inside":             parts[0] + ".\n" + parts[1] + "." + parts[2],
		"a space":                       raw + " ",
		"the other alphabet":            parts[0] + "." + parts[1] + "." + strings.Repeat("+/", 43),
		"no signature":                  parts[0] + "." + parts[1] + ".",
		"too long":                      raw + strings.Repeat("A", assertion.MaxBytes),
		"leftover bits":                 parts[0] + "." + parts[1] + "." + parts[2][:len(parts[2])-1] + leftover(parts[2]),
		"a claim twice":                 signText(t, es256, `{"sub":"somebody",`+claims[1:]),
		"a claim twice, spelled anew":   signText(t, es256, `{"s\u0075b":"somebody",`+claims[1:]),
		"a member twice inside a claim": signText(t, es256, `{"x":[{"a":1,"a":2}],`+claims[1:]),
		"a header twice":                signText(t, `{"alg":"ES256","alg":"ES256"}`, claims),
		"claims that are a list":        signText(t, es256, "["+claims+"]"),
		"claims that are null":          signText(t, es256, "null"),
		"trailing data":                 signText(t, es256, claims+"{}"),
		"a header that is not JSON":     signText(t, "alg", claims),
		"no UTF-8":                      signText(t, es256, `{"x":"`+"\xff"+`",`+claims[1:]),
		"claims by another case":        signText(t, es256, strings.Replace(claims, `"sub"`, `"Sub"`, 1)),
		"a header by another case":      signText(t, `{"Alg":"ES256"}`, claims),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Error(t, judge(verifier(t), bad, set()))
		})
	}
}

// leftover is the last letter of a base64url text with another bit set that no octet uses.
func leftover(text string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, text[len(text)-1])|1])
}

func TestTheKeyIsTheOneThatFits(t *testing.T) {
	t.Parallel()
	named := func(id, algorithm, name string) jwk.Key {
		return jwk.Key{ID: id, Algorithm: algorithm, Public: signers()[name].Public()}
	}
	for name, row := range map[string]struct {
		keys   []jwk.Key
		kid    string
		reason string
	}{
		"without kid, one fits":                     {keys: set()},
		"without kid, the key has none either":      {keys: []jwk.Key{named("", "", "rsa")}},
		"without kid, two fit":                      {keys: []jwk.Key{key("rsa"), key("foreign")}, reason: "more than one"},
		"without kid, the other is for another alg": {keys: []jwk.Key{key("rsa"), named("f", "PS256", "foreign")}},
		"with kid, two fit":                         {keys: []jwk.Key{key("foreign"), key("rsa")}, kid: "rsa"},
		"with kid, it stands for a foreign one":     {keys: []jwk.Key{key("foreign"), key("rsa")}, kid: "foreign", reason: "signature"},
		"with kid, the key has none":                {keys: []jwk.Key{named("", "", "rsa")}, kid: "rsa", reason: "no key"},
		"with kid, two kinds have the same":         {keys: []jwk.Key{named("k", "", "ec"), named("k", "", "rsa")}, kid: "k"},
		"with kid, two keys have the same":          {keys: []jwk.Key{named("k", "", "foreign"), named("k", "", "rsa")}, kid: "k", reason: "more than one"},
		"the key names the alg":                     {keys: []jwk.Key{named("", "RS256", "rsa")}},
		"the key names another alg":                 {keys: []jwk.Key{named("", "PS256", "rsa")}, reason: "no key"},
		"no key at all":                             {reason: "no key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := good()
			by(jwt.SigningMethodRS256, "rsa")(&d)
			if row.kid != "" {
				d.header["kid"] = row.kid
			}
			raw := d.sign(t)
			err := judge(verifier(t), raw, row.keys)
			if row.reason != "" {
				require.ErrorContains(t, err, row.reason)
				require.Equal(t, row.reason == "signature", assertion.Read(raw).Fits(row.keys))
				return
			}
			require.NoError(t, err)
		})
	}
}

func TestTheNamesOfEdDSAStandForEachOther(t *testing.T) {
	t.Parallel()
	public := signers()["ed"].Public()
	for _, registered := range []string{"", "EdDSA", "Ed25519"} {
		for _, said := range []string{"EdDSA", "Ed25519"} {
			t.Run(registered+" says "+said, func(t *testing.T) {
				t.Parallel()
				d := good()
				by(jwt.SigningMethodEdDSA, "ed")(&d)
				d.header["alg"] = said
				raw, one := d.sign(t), jwk.Key{Algorithm: registered, Public: public}
				require.NoError(t, judge(verifier(t), raw, []jwk.Key{key("rsa"), one, key("ec")}))
				other := jwk.Key{Algorithm: "EdDSA", Public: public}
				require.ErrorContains(t, judge(verifier(t), raw, []jwk.Key{one, other}), "more than one")
			})
		}
	}
}

// FuzzRead holds the reader against whatever comes: nobody but the holder of the key
// makes an assertion that is accepted, and there is no second spelling of one. (It
// is by EdDSA: ECDSA has two signatures for each.)
func FuzzRead(f *testing.F) {
	original := good()
	by(jwt.SigningMethodEdDSA, "ed")(&original)
	accepted := original.sign(f)
	v := verifier(f)
	f.Add(accepted)
	f.Add(accepted + "=")
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add(signText(f, `{"alg":"ES256","alg":"RS256"}`, claimsText(f)))
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":[[[[{}]]]],"a":{"a":1}}`)) + ".e30.AAAA")
	f.Fuzz(func(t *testing.T, raw string) {
		if raw == accepted {
			require.NoError(t, judge(v, raw, set()))
			return
		}
		require.Error(t, judge(v, raw, []jwk.Key{key("ed"), key("foreign")}))
		require.Error(t, judge(v, raw, nil))
	})
}
