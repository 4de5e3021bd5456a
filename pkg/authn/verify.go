package authn

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/timeid"
)

// VerifierConfig says what tokens must say: none of the strings may be empty. Leeway defaults to Leeway.
type VerifierConfig struct {
	Issuer string
	// Audience must be the only one of a token: whoever else it was for could pass it on to us.
	Audience string
	// AnyAudience, with an empty Audience, takes tokens of the issuer for whatever audience. It is for who answers about
	// tokens and not for who is called with them: a token for another resource opens nothing here (RFC 9068 §4).
	AnyAudience bool
	Keys        KeySet
	Clock       func() time.Time
	Leeway      time.Duration // by how much clocks may differ
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	keys   KeySet
	parser *jwt.Parser
	sole   bool // a token must have one audience
	clock  func() time.Time
	leeway time.Duration
	memo   memo
	// refuses is set when there is nothing to hold tokens against: the parser would skip an empty issuer.
	refuses error
}

// NewVerifier gives a verifier.
func NewVerifier(cfg VerifierConfig) *Verifier {
	if cfg.Leeway == 0 {
		cfg.Leeway = Leeway
	}
	var refuses error
	if cfg.Issuer == "" || (cfg.Audience == "") != cfg.AnyAudience {
		refuses = errors.New("verifier has no issuer or audience")
	}
	rules := []jwt.ParserOption{
		jwt.WithValidMethods([]string{RS256, ES256, EdDSA}),
		jwt.WithIssuer(cfg.Issuer),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(cfg.Leeway),
		jwt.WithStrictDecoding(),
		jwt.WithTimeFunc(cfg.Clock),
	}
	if !cfg.AnyAudience {
		rules = append(rules, jwt.WithAudience(cfg.Audience))
	}
	return &Verifier{
		refuses: refuses, keys: cfg.Keys, clock: cfg.Clock, leeway: cfg.Leeway, memo: newMemo(),
		sole: !cfg.AnyAudience, parser: jwt.NewParser(rules...),
	}
}

// claims are the claims of RFC 9068 §2.2 and those of this issuer that a resource server acts on.
type claims struct {
	jwt.RegisteredClaims

	ClientID string `json:"client_id"`
	Scope    string `json:"scope"`
	Owner    string `json:"owner"`
}

var (
	errHeader = errors.New("header not of an access token")
	errClaims = errors.New("claims not of an access token")
)

// Validate is called by the parser after it has checked iss, exp, nbf and iat, and aud where that matters.
func (c claims) Validate() error {
	id, ok := canonicalUUID(c.Subject)
	if !ok || id == uuid.Nil || c.ClientID != c.Subject || c.IssuedAt == nil || len(c.Audience) == 0 {
		return errClaims
	}
	if jti, ok := canonicalUUID(c.ID); !ok || jti.Version() != 7 {
		return errClaims
	}
	return nil
}

// canonicalUUID parses the 36 character lower-case form only, so that one id has one spelling in every key and comparison.
func canonicalUUID(s string) (uuid.UUID, bool) {
	id, err := uuid.Parse(s)
	return id, err == nil && id.String() == s
}

// Verify checks a token as RFC 9068 §4 says and gives its principal, whose scopes must not be changed. The algorithm is the
// key's, not the token's choice. The signature of a token that was good is not computed again while its key is published.
// Errors are *apperr.Error: UNAUTHORIZED with the challenge of RFC 6750 §3, or SERVICE_UNAVAILABLE when the keys could not be
// asked.
func (v *Verifier) Verify(ctx context.Context, raw string) (Principal, error) {
	if v.refuses != nil {
		return Principal{}, apperr.Internal(v.refuses)
	}
	if len(raw) > MaxTokenBytes {
		return Principal{}, refuse("the bearer token is too long")
	}
	sum := digestOf(raw)
	if known, ok := v.remembered(ctx, sum); ok {
		return known, nil
	}
	// Go's base64 decoder skips line ends, so a token could otherwise be spelled in many ways.
	if !isB64Token(raw) {
		return Principal{}, refuse("the bearer token is malformed")
	}
	var (
		c      claims
		key    Key
		keyErr error
	)
	_, err := v.parser.ParseWithClaims(raw, &c, func(t *jwt.Token) (any, error) {
		key, keyErr = v.key(ctx, t)
		return key.Public, keyErr
	})
	if err == nil && v.sole && len(c.Audience) != 1 {
		err = jwt.ErrTokenInvalidAudience
	}
	if err != nil {
		return Principal{}, fault(err, keyErr)
	}
	v.memo.keep(sum, key, c, v.leeway)
	return c.principal(), nil
}

// usualTokenBytes is how long most tokens are at most.
const usualTokenBytes = 2 << 10

// digestOf is the SHA-256 of a token. It allocates nothing for one of usual length: this runs on every request.
func digestOf(raw string) digest {
	if len(raw) > usualTokenBytes {
		return sha256.Sum256([]byte(raw))
	}
	var text [usualTokenBytes]byte
	return sha256.Sum256(text[:copy(text[:], raw)])
}

// fault is what is said of a token that the parser refused. keyErr is why there was no key, if so.
func fault(err, keyErr error) error {
	switch {
	case keyErr != nil && !errors.Is(keyErr, ErrUnknownKey) && !errors.Is(keyErr, errHeader):
		return apperr.Unavailable(keyErr)
	case errors.Is(err, jwt.ErrTokenExpired):
		return refuse("the token has expired").Because(err)
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return refuse("the token is not valid yet").Because(err)
	case errors.Is(err, jwt.ErrTokenInvalidIssuer), errors.Is(err, jwt.ErrTokenInvalidAudience):
		return refuse("the token is of another issuer or for another audience").Because(err)
	default:
		return refuse("the token is not a valid access token").Because(err)
	}
}

// remembered answers from the memory, where what was found of the token still holds.
func (v *Verifier) remembered(ctx context.Context, sum digest) (Principal, bool) {
	known, ok := v.memo.verdicts.GetIfPresent(sum)
	if !ok {
		return Principal{}, false
	}
	key, err := v.keys.Key(ctx, known.key.ID)
	if err != nil || !known.holds(v.clock(), key) {
		return Principal{}, false
	}
	return known.principal, true
}

// key finds the key that the header names and holds the header against it. It runs before the signature is checked.
func (v *Verifier) key(ctx context.Context, t *jwt.Token) (Key, error) {
	typ, _ := t.Header["typ"].(string)
	typ = strings.TrimPrefix(strings.ToLower(typ), "application/")
	kid, _ := t.Header["kid"].(string)
	// A crit header names extensions that must be understood (RFC 7515 §4.1.11), and none is.
	_, critical := t.Header["crit"]
	if typ != "at+jwt" || kid == "" || critical {
		return Key{}, errHeader
	}
	key, err := v.keys.Key(ctx, kid)
	if err != nil {
		return Key{}, err
	}
	if alg, _ := t.Header["alg"].(string); alg != key.Algorithm {
		return Key{}, errHeader
	}
	return key, nil
}

func (c claims) principal() Principal {
	jti := uuid.MustParse(c.ID) // Validate has parsed it
	issued, _ := timeid.Of(jti)
	return Principal{
		AgentID:   uuid.MustParse(c.Subject),
		Scopes:    strings.Fields(c.Scope),
		TokenID:   c.ID,
		IssuedAt:  issued,
		ExpiresAt: c.ExpiresAt.UTC(),
		Owner:     c.Owner,
	}
}
