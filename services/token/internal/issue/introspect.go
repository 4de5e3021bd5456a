package issue

import (
	"context"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/authn"
	"github.com/sentryagent/agentidp/pkg/revocation"
)

// Verifier verifies access tokens of this issuer; *authn.Verifier is one.
type Verifier interface {
	// Verify answers apperr.Unauthorized for what is no current token of ours, and
	// another error when that could not be found out.
	Verify(ctx context.Context, token string) (authn.Principal, error)
}

// Revocations knows which tokens are refused before they expire; *revocation.Checker is one.
type Revocations interface {
	// Revoked answers from a cache that is known to be whole, else from the truth.
	Revoked(ctx context.Context, query revocation.Query) (bool, error)
	// Resolve is Revoked where it is known what the cache says.
	Resolve(ctx context.Context, query revocation.Query, verdict revocation.Verdict) (bool, error)
}

// IntrospectorConfig is what an Introspector needs.
type IntrospectorConfig struct {
	Verifier    Verifier
	Revocations Revocations
	Journal     Journal
	Events      Events
}

// Introspector says whether tokens are live (RFC 7662).
type Introspector struct{ IntrospectorConfig }

// NewIntrospector makes an Introspector.
func NewIntrospector(cfg IntrospectorConfig) *Introspector { return &Introspector{cfg} }

// Introspection is the answer about a token. If it is active, Claims are the JSON object of its claims, as it has them.
type Introspection struct {
	Active bool
	Claims []byte
}

// Inquiry is a token that somebody asks about.
type Inquiry struct {
	token     string
	principal authn.Principal
	genuine   bool // it is a token of ours and has not expired; whether it was revoked is another question
}

// Inquire verifies a token. An error means that it is not known whether it is one of ours.
func (i *Introspector) Inquire(ctx context.Context, token string) (Inquiry, error) {
	principal, genuine, err := verified(ctx, i.Verifier, token)
	// Who verifies a token allows for another machine's clock; here its issuer answers, by its own (RFC 7662 §4).
	genuine = genuine && i.Events.Clock().Before(principal.ExpiresAt)
	return Inquiry{token: token, principal: principal, genuine: genuine}, err
}

// Queries are what has to be looked up for the answer.
func (q Inquiry) Queries() []revocation.Query {
	if !q.genuine {
		return nil
	}
	return []revocation.Query{queryOf(q.principal)}
}

// Introspect answers whether the token is a live one of ours. Its event is durable
// before the answer. Verdicts are on the Queries of the inquiry, none where nobody has
// looked them up yet. An error means that it is not known.
func (i *Introspector) Introspect(
	ctx context.Context, asked Inquiry, verdicts []revocation.Verdict, origin auditevent.Origin,
) (Introspection, error) {
	var about *uuid.UUID
	answer := Introspection{}
	metadata := map[string]any{"active": false}
	if asked.genuine {
		about = &asked.principal.AgentID
		metadata["jti"] = asked.principal.TokenID
		var err error
		if answer, err = i.look(ctx, asked, verdicts); err != nil {
			return Introspection{}, err
		}
		metadata["active"] = answer.Active
	}
	event := i.Events.New(auditevent.TokenIntrospected, about, origin, metadata)
	if err := i.Journal.Publish(ctx, event)(); err != nil {
		return Introspection{}, unavailable(err)
	}
	return answer, nil
}

func (i *Introspector) look(ctx context.Context, asked Inquiry, verdicts []revocation.Verdict) (Introspection, error) {
	revoked, err := i.revoked(ctx, queryOf(asked.principal), verdicts)
	if err != nil {
		return Introspection{}, unavailable(err)
	}
	if revoked {
		return Introspection{}, nil
	}
	claims, err := claimsOf(asked.token)
	if err != nil {
		return Introspection{}, apperr.Internal(err)
	}
	return Introspection{Active: true, Claims: claims}, nil
}

func (i *Introspector) revoked(ctx context.Context, query revocation.Query, verdicts []revocation.Verdict) (bool, error) {
	if len(verdicts) == 0 {
		return i.Revocations.Revoked(ctx, query)
	}
	return i.Revocations.Resolve(ctx, query, verdicts[0])
}

// verified answers whose token it is; genuine is false for what is no current token of ours.
func verified(ctx context.Context, verifier Verifier, token string) (principal authn.Principal, genuine bool, err error) {
	principal, err = verifier.Verify(ctx, token)
	if err == nil {
		return principal, true, nil
	}
	if apperr.CodeOf(err) == apperr.Unauthorized {
		return authn.Principal{}, false, nil
	}
	return authn.Principal{}, false, unavailable(err)
}

func queryOf(principal authn.Principal) revocation.Query {
	return revocation.Query{TokenID: principal.TokenID, AgentID: principal.AgentID, IssuedAt: principal.IssuedAt}
}
