package dev

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/bootstrap"
	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/registryapi"
)

// fakeOperator stands for the internal APIs.
type fakeOperator struct {
	agent   registryapi.Agent
	created bool
	good    config.Secret
	issued  int
	refuse  error
}

func (f *fakeOperator) Agent(context.Context, bootstrap.Request) (registryapi.Agent, bool, error) {
	return f.agent, f.created, nil
}

func (f *fakeOperator) Run(_ context.Context, req bootstrap.Request) (bootstrap.Result, error) {
	if f.refuse != nil {
		return bootstrap.Result{}, f.refuse
	}
	if !req.NewSecret {
		return bootstrap.Result{}, errors.New("dev always asks for a new secret")
	}
	f.issued++
	f.good = config.Secret("sk_live_" + uuid.NewString())
	return bootstrap.Result{Agent: f.agent, CredentialID: uuid.New(), ClientSecret: f.good}, nil
}

func (f *fakeOperator) Valid(_ context.Context, _ uuid.UUID, secret config.Secret) (bool, error) {
	return secret == f.good, nil
}

func TestTheOperatorsCredentialIsKeptAsLongAsItWorks(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "operator.json")
	fake := &fakeOperator{agent: registryapi.Agent{AgentID: uuid.New(), Status: registryapi.StatusActive}, created: true}

	first, said, err := ensureOperator(t.Context(), fake, path)
	require.NoError(t, err)
	require.Empty(t, said)
	require.Equal(t, operator{clientID: fake.agent.AgentID, secret: fake.good}, first)

	fake.created = false
	second, said, err := ensureOperator(t.Context(), fake, path)
	require.NoError(t, err)
	require.Empty(t, said)
	require.Equal(t, first, second)
	require.Equal(t, 1, fake.issued)

	fake.good = "rotated by somebody"
	third, said, err := ensureOperator(t.Context(), fake, path)
	require.NoError(t, err)
	require.Contains(t, said, "new credential")
	require.NotEqual(t, first.secret, third.secret)
	kept, found, err := loadOperator(path)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, third, kept)
}

func TestACredentialThatWasLostIsReplacedAndSaid(t *testing.T) {
	t.Parallel()
	fake := &fakeOperator{agent: registryapi.Agent{AgentID: uuid.New(), Status: registryapi.StatusActive}}
	op, said, err := ensureOperator(t.Context(), fake, filepath.Join(t.TempDir(), "operator.json"))
	require.NoError(t, err)
	require.Contains(t, said, "new credential")
	require.Equal(t, fake.good, op.secret)
}

func TestAnotherDatabasesOperatorIsNotTaken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "operator.json")
	fake := &fakeOperator{agent: registryapi.Agent{AgentID: uuid.New(), Status: registryapi.StatusActive}, good: "s"}
	require.NoError(t, storeOperator(path, operator{clientID: uuid.New(), secret: "s"}))
	op, _, err := ensureOperator(t.Context(), fake, path)
	require.NoError(t, err)
	require.Equal(t, fake.agent.AgentID, op.clientID)
	require.Equal(t, 1, fake.issued)
}

func TestAnOperatorThatIsNotActiveKeepsWhatItHas(t *testing.T) {
	t.Parallel()
	notActive := apperr.New(apperr.AgentNotActive, "no")
	agent := registryapi.Agent{AgentID: uuid.New(), Status: registryapi.StatusSuspended}

	path := filepath.Join(t.TempDir(), "operator.json")
	require.NoError(t, storeOperator(path, operator{clientID: agent.AgentID, secret: "s"}))
	op, said, err := ensureOperator(t.Context(), &fakeOperator{agent: agent, good: "s", refuse: notActive}, path)
	require.NoError(t, err)
	require.Equal(t, config.Secret("s"), op.secret)
	require.Contains(t, said, "suspended")

	agent.Status = registryapi.StatusDecommissioned
	op, said, err = ensureOperator(t.Context(), &fakeOperator{agent: agent, refuse: notActive}, path)
	require.NoError(t, err, "other operators still work with these data")
	require.Equal(t, config.Secret("s"), op.secret)
	require.Contains(t, said, "decommissioned")

	_, _, err = ensureOperator(t.Context(), &fakeOperator{agent: agent, refuse: notActive}, filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, notActive)
}
