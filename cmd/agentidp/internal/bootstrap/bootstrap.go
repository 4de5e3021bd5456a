// Package bootstrap creates the first operator of a deployment: the one agent that nobody registered,
// with every system scope, and its credential. It only asks the services, over their internal APIs; it
// must not decide what an operator is, and it keeps the secret nowhere but in the one Store it is given.
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/credentialsapi"
	"github.com/sentryagent/agentidp/pkg/peer"
	"github.com/sentryagent/agentidp/pkg/registryapi"
)

// What an operator is called when nobody says otherwise.
const (
	DefaultEmail = "operator@agentidp.local"
	DefaultOwner = "operators"
)

// retryEvery is the pause between two attempts while a service is away.
const retryEvery = 250 * time.Millisecond

// Registry is the part of the registry's internal API that makes the agent.
type Registry interface {
	Bootstrap(ctx context.Context, req registryapi.BootstrapRequest) (agent registryapi.Agent, created bool, err error)
}

// Credentials is the part of the credentials service's internal API that makes the secret.
type Credentials interface {
	OperatorCredential(ctx context.Context, req credentialsapi.OperatorCredentialRequest) (credentialsapi.OperatorCredential, error)
	RevokeOperatorCredential(ctx context.Context, req credentialsapi.OperatorRevocation) error
	Verify(ctx context.Context, req credentialsapi.VerifyRequest) (credentialsapi.VerifyResponse, error)
}

var (
	_ Registry    = (*registryapi.Client)(nil)
	_ Credentials = (*credentialsapi.Client)(nil)
)

// Request says what operator is wanted. Address, owner and environment count only where one is made.
type Request struct {
	Email         string
	Owner         string
	DeploymentEnv string // empty leaves the choice to the registry
	// NewSecret issues a further credential even if the operator has one, for a secret that was lost.
	NewSecret bool
	// NewOperator makes another operator if the one there is was suspended or decommissioned.
	NewOperator bool
}

// Result is the operator and, if one was issued, its new credential.
type Result struct {
	Agent        registryapi.Agent
	AgentCreated bool
	// CredentialID and ClientSecret are those of the credential this call issued; the secret cannot be
	// had again. Both are empty when the operator had a credential already.
	CredentialID uuid.UUID
	ClientSecret config.Secret
}

// Issued says whether this call made a credential.
func (r Result) Issued() bool { return r.ClientSecret != "" }

// Clients are the internal APIs that a bootstrap needs.
type Clients struct {
	Registry    Registry
	Credentials Credentials
}

// Run makes the operator and its credential where they are missing, and changes nothing where they are
// not. A service that is away is asked again until ctx ends. It may be repeated after any failure.
func (c Clients) Run(ctx context.Context, req Request) (Result, error) {
	agent, created, err := c.Agent(ctx, req)
	if err != nil {
		return Result{}, err
	}
	result := Result{Agent: agent, AgentCreated: created}
	issued, err := c.credential(ctx, agent.AgentID, !req.NewSecret)
	if apperr.CodeOf(err) == apperr.AgentNotActive {
		err = fmt.Errorf("the operator %s (%s) is %s, and --new-operator makes another one (whose address --email gives): %w",
			agent.AgentID, agent.Email, agent.Status, err)
	}
	if err != nil {
		return result, err
	}
	if !issued.Exists {
		result.CredentialID, result.ClientSecret = issued.CredentialID, issued.ClientSecret
	}
	return result, nil
}

// Agent makes the operator unless there is one; created tells which.
func (c Clients) Agent(ctx context.Context, req Request) (agent registryapi.Agent, created bool, err error) {
	err = whileUnavailable(ctx, func() error {
		var failed error
		agent, created, failed = c.Registry.Bootstrap(ctx, registryapi.BootstrapRequest{
			Email: req.Email, Owner: req.Owner, DeploymentEnv: req.DeploymentEnv, NewOperator: req.NewOperator,
		})
		return failed
	})
	if apperr.CodeOf(err) == apperr.AgentAlreadyExists {
		err = fmt.Errorf("%s is taken, and an address is never free again, so choose another with --email: %w", req.Email, err)
	}
	if err != nil {
		return registryapi.Agent{}, false, fmt.Errorf("create the operator at the registry: %w", err)
	}
	return agent, created, nil
}

// credential issues one, or finds that there is one already. A request whose answer is lost may have made a credential that
// nobody knows the secret of. So the run chooses its id: asked for again, it is not made twice, and it can be revoked.
func (c Clients) credential(ctx context.Context, agentID uuid.UUID, onlyIfNone bool) (credentialsapi.OperatorCredential, error) {
	for {
		req := credentialsapi.OperatorCredentialRequest{AgentID: agentID, CredentialID: uuid.Must(uuid.NewV7()), OnlyIfNone: onlyIfNone}
		issued, doubt, err := c.issue(ctx, req)
		if err != nil {
			err = fmt.Errorf("issue the operator's credential: %w", err)
			if doubt {
				_, failed := c.takeBack(context.WithoutCancel(ctx), agentID, req.CredentialID)
				err = errors.Join(err, failed)
			}
			return credentialsapi.OperatorCredential{}, err
		}
		if !issued.Exists {
			return issued, nil
		}
		if doubt {
			ours, err := c.takeBack(ctx, agentID, req.CredentialID)
			if err != nil {
				return credentialsapi.OperatorCredential{}, err
			}
			if ours {
				continue
			}
		}
		if !onlyIfNone {
			return credentialsapi.OperatorCredential{}, errors.New("issue the operator's credential: none was made, although it was asked for")
		}
		return issued, nil
	}
}

// issue asks for one credential until there is an answer. With doubt it may have been made without our having it.
func (c Clients) issue(ctx context.Context, req credentialsapi.OperatorCredentialRequest) (issued credentialsapi.OperatorCredential, doubt bool, err error) {
	err = whileUnavailable(ctx, func() error {
		var failed error
		issued, failed = c.Credentials.OperatorCredential(ctx, req)
		if failed == nil && !issued.Exists &&
			(issued.ClientSecret == "" || issued.ClientID != req.AgentID || issued.CredentialID != req.CredentialID) {
			failed = apperr.Internal(errors.New("the answer holds no credential of the operator"))
		}
		doubt = doubt || mayHaveWorked(failed)
		return failed
	})
	return issued, doubt, err
}

// mayHaveWorked says whether the peer may have done what it was asked for, although err is all that came of it: it was
// reached, and did not refuse.
func mayHaveWorked(err error) bool {
	if err == nil || errors.Is(err, peer.ErrTokenRefused) || peer.NotSent(err) {
		return false
	}
	return apperr.CodeOf(err).Status() >= http.StatusInternalServerError // as it is without a code
}

// Valid says whether secret is a good secret of the agent.
func (c Clients) Valid(ctx context.Context, agentID uuid.UUID, secret config.Secret) (valid bool, err error) {
	err = whileUnavailable(ctx, func() error {
		answer, failed := c.Credentials.Verify(ctx, credentialsapi.VerifyRequest{ClientID: agentID, Secret: secret})
		valid = answer.Valid
		return failed
	})
	if err != nil {
		return false, fmt.Errorf("check the operator's credential: %w", err)
	}
	return valid, nil
}

// whileUnavailable repeats call as long as it fails with SERVICE_UNAVAILABLE and ctx lasts. A token that
// is refused will be refused again.
func whileUnavailable(ctx context.Context, call func() error) error {
	ticker := time.NewTicker(retryEvery)
	defer ticker.Stop()
	for {
		err := call()
		if errors.Is(err, peer.ErrTokenRefused) {
			return fmt.Errorf("INTERNAL_API_TOKEN is not the one that the services know, or they want a certificate (TLS_CERT_FILE): %w", err)
		}
		if apperr.CodeOf(err) != apperr.ServiceUnavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}
