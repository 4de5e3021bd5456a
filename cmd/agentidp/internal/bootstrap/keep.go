package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/pkg/peer"
)

const (
	// saveTimeout bounds keeping a credential, and revokeTimeout taking it back, also after the run's own time is up. Kubernetes
	// gives a pod 30 s to end.
	saveTimeout   = 15 * time.Second
	revokeTimeout = 10 * time.Second
)

// errKept is what a Store says whose place was taken by another run in the meantime.
var errKept = errors.New("a credential is kept there already")

// Handover is what an operator needs: where the system is, and a credential for it.
type Handover struct {
	URL          string // base URL of the public routes, without a trailing slash
	ClientID     uuid.UUID
	ClientSecret config.Secret
}

// Variables are a Handover as the environment of whoever uses it, in the order in which people read them.
func (h Handover) Variables() [][2]string {
	return [][2]string{
		{"AGENTIDP_URL", h.URL},
		{"AGENTIDP_CLIENT_ID", h.ClientID.String()},
		{"AGENTIDP_CLIENT_SECRET", h.ClientSecret.Reveal()},
	}
}

// Store is a place that keeps the credential of an operator, one at most.
type Store interface {
	// Exists says whether there is one. What it fails of must be what Save would fail of, where that can be known.
	Exists(ctx context.Context) (bool, error)
	// Save keeps all of it or nothing, and is errKept where another run was faster: it replaces none. Where nobody knows what
	// came of it, it is apperr.ServiceUnavailable and may be repeated: what is there already of the same handover is kept.
	Save(ctx context.Context, handover Handover) error
	// String names the place for people.
	String() string
}

// Keep makes the operator and a credential for it, and hands that to store; kept is false, and nothing was asked of anybody,
// where store holds one already. A credential that store refuses is revoked, and one that it may hold is not. What an earlier
// run issued and lost, in a crash just before it was kept, nobody knows; it shows as one that was never used in the list of
// the operator's credentials.
func (c Clients) Keep(ctx context.Context, req Request, store Store, url string) (result Result, kept bool, err error) {
	found, err := store.Exists(ctx)
	if err != nil || found {
		return Result{}, false, err
	}
	req.NewSecret = true
	if result, err = c.Run(ctx, req); err != nil {
		return Result{}, false, err
	}
	doubt, err := save(context.WithoutCancel(ctx), store, Handover{URL: url, ClientID: result.Agent.AgentID, ClientSecret: result.ClientSecret})
	switch {
	case err == nil:
		return result, true, nil
	case doubt:
		return Result{}, false, fmt.Errorf("nobody knows whether %s holds the operator's credential %s, so it was not revoked; "+
			"look there: if there is none, run this again and revoke that one, which is of client %s: %w",
			store, result.CredentialID, result.Agent.AgentID, err)
	}
	_, failed := c.takeBack(context.WithoutCancel(ctx), result.Agent.AgentID, result.CredentialID)
	if errors.Is(err, errKept) && failed == nil {
		return Result{}, false, nil
	}
	return Result{}, false, errors.Join(fmt.Errorf("keep the operator's credential: %w", err), failed)
}

// save repeats what may have come to nothing. With doubt the store may hold the credential, although err is all that came of it.
func save(ctx context.Context, store Store, handover Handover) (doubt bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	err = whileUnavailable(ctx, func() error {
		failed := store.Save(ctx, handover)
		doubt = doubt || apperr.CodeOf(failed) == apperr.ServiceUnavailable && !peer.NotSent(failed)
		return failed
	})
	return doubt && !errors.Is(err, errKept), err
}

// takeBack revokes a credential of this run, for nobody has its secret; there was false where there is none of that id.
func (c Clients) takeBack(ctx context.Context, agentID, credentialID uuid.UUID) (there bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	err = whileUnavailable(ctx, func() error {
		return c.Credentials.RevokeOperatorCredential(ctx, credentialsapi.OperatorRevocation{AgentID: agentID, CredentialID: credentialID})
	})
	switch {
	case err == nil, apperr.CodeOf(err) == apperr.CredentialAlreadyRevoked: // an attempt whose answer was lost did it
		return true, nil
	case apperr.CodeOf(err) == apperr.CredentialNotFound:
		return false, nil
	default:
		return false, fmt.Errorf("credential %s may be good, and nobody knows its secret: it has to be revoked: %w", credentialID, err)
	}
}
