package dev

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/bootstrap"
	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/registryapi"
)

// bootstrapper is what dev needs of the internal APIs to have an operator.
type bootstrapper interface {
	Agent(ctx context.Context, req bootstrap.Request) (agent registryapi.Agent, created bool, err error)
	Run(ctx context.Context, req bootstrap.Request) (bootstrap.Result, error)
	Valid(ctx context.Context, agentID uuid.UUID, secret config.Secret) (bool, error)
}

var _ bootstrapper = bootstrap.Clients{}

// operatorRequest is the operator of a data directory.
func operatorRequest() bootstrap.Request {
	return bootstrap.Request{
		Email: bootstrap.DefaultEmail, Owner: bootstrap.DefaultOwner, DeploymentEnv: "development",
		NewSecret: true,
	}
}

// ensureOperator gives the operator and a credential of it that works, and stores that in path. The one
// that is stored is kept as long as it is good. said is for the console; it is empty when all is as it was.
func ensureOperator(ctx context.Context, services bootstrapper, path string) (op operator, said string, err error) {
	agent, created, err := services.Agent(ctx, operatorRequest())
	if err != nil {
		return operator{}, "", err
	}
	stored, found, err := loadOperator(path)
	if err != nil {
		return operator{}, "", err
	}
	found = found && stored.clientID == agent.AgentID
	if found {
		valid, err := services.Valid(ctx, agent.AgentID, stored.secret)
		if err != nil {
			return operator{}, "", err
		}
		if valid {
			return stored, inactiveWarning(agent), nil
		}
	}
	result, err := services.Run(ctx, operatorRequest())
	if apperr.CodeOf(err) == apperr.AgentNotActive && found {
		return stored, inactiveWarning(agent), nil
	}
	if err != nil {
		return operator{}, "", err
	}
	if !result.Issued() {
		return operator{}, "", errors.New("the credentials service issued no credential to the operator")
	}
	op = operator{clientID: agent.AgentID, secret: result.ClientSecret}
	if err := storeOperator(path, op); err != nil {
		return operator{}, "", err
	}
	if created {
		return op, "", nil
	}
	return op, "the operator existed, but its secret was lost or is no longer good: a new credential was issued to it", nil
}

// inactiveWarning is empty for an operator that can get tokens.
func inactiveWarning(agent registryapi.Agent) string {
	if agent.Status == registryapi.StatusActive {
		return ""
	}
	return fmt.Sprintf("the operator is %s and gets no tokens", agent.Status)
}
