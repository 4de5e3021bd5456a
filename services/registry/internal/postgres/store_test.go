package postgres_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/outbox"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
	"github.com/sentryagent/agentidp/services/registry/internal/postgres"
)

var (
	t0     = time.Date(2026, 11, 22, 9, 30, 0, 123456000, time.UTC)
	caller = uuid.MustParse("019aa9bf-10aa-7d11-8a53-0c3b1f6f2e90")
)

func ref[T any](value T) *T { return &value }

// newAgent is an agent of its own address, made at that time.
func newAgent(at time.Time) agent.Agent {
	id := uuid.Must(uuid.NewV7())
	return agent.Agent{
		ID: id, Email: id.String() + "@example.com", Type: "screener", Version: "1.4.0",
		Capabilities: []string{"resume:read", "calendar:*", "alpha:beta"}, Owner: "talent-team", DeploymentEnv: "production",
		AllowedScopes:    []string{"tokens:read", "agents:read"},
		AllowedResources: []string{"urn:example:b", "https://a.example/"}, Status: agent.Active, RegisteredBy: ref(caller),
		CreatedAt: at, UpdatedAt: at, Revision: 1,
	}
}

func message() outbox.Message {
	return outbox.Message{ID: uuid.New(), Subject: "audit.registry.agent.created", Payload: []byte(`{}`)}
}

func entryOf(a agent.Agent) agent.Entry {
	return agent.Entry{Agent: a, Messages: []outbox.Message{message()}}
}

type bundle struct {
	store *postgres.Store
	db    *pgdb.DB
}

func setup(t *testing.T) bundle {
	t.Helper()
	db := testkit.DB(t, "registry")
	return bundle{store: postgres.NewStore(db, outbox.New("registry")), db: db}
}

func (b bundle) add(t *testing.T, a agent.Agent) agent.Agent {
	t.Helper()
	stored, err := b.store.Register(t.Context(), entryOf(a))
	require.NoError(t, err)
	return stored
}

// count reads one number.
func (b bundle) count(t *testing.T, sql string, args ...any) int {
	t.Helper()
	var n int
	require.NoError(t, b.db.QueryRow(t.Context(), sql, args...).Scan(&n))
	return n
}

func (b bundle) living(t *testing.T) int {
	t.Helper()
	counted := b.count(t, "SELECT living FROM registry.fleet")
	require.Equal(t, b.count(t, "SELECT count(*) FROM registry.agents WHERE status <> 'decommissioned'"), counted,
		"the counter is what there is")
	told, err := b.store.Living(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, counted, told)
	return counted
}

func decommission(a agent.Agent, _ time.Time) (agent.Revision, error) {
	a.Status, a.Revision = agent.Decommissioned, a.Revision+1
	a.TokensValidAfter = t0.Add(time.Hour).Truncate(time.Millisecond)
	return agent.Revision{Agent: a, Messages: []outbox.Message{message()}}, nil
}

func TestAnAgentIsReadAsItWasStored(t *testing.T) {
	t.Parallel()
	b := setup(t)
	want := newAgent(t0)
	require.Equal(t, want, b.add(t, want))

	found, err := b.store.Agent(t.Context(), want.ID)
	require.NoError(t, err)
	require.Equal(t, want, found)
	require.Equal(t, 1, b.count(t, "SELECT count(*) FROM registry.outbox"))
	require.Equal(t, 1, b.living(t))
}

func TestAnAgentWithoutScopesHasAnEmptyListOfThem(t *testing.T) {
	t.Parallel()
	b := setup(t)
	want := newAgent(t0)
	want.AllowedScopes, want.AllowedResources = []string{}, []string{}
	b.add(t, want)
	found, err := b.store.Agent(t.Context(), want.ID)
	require.NoError(t, err)
	require.NotNil(t, found.AllowedScopes)
	require.Empty(t, found.AllowedScopes)
	require.NotNil(t, found.AllowedResources)
	require.Empty(t, found.AllowedResources)
}

func TestAnUnknownAgentIsNotFound(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, err := b.store.Agent(t.Context(), uuid.New())
	require.Equal(t, apperr.AgentNotFound, apperr.CodeOf(err))
	_, err = b.store.Revise(t.Context(), uuid.New(), decommission)
	require.Equal(t, apperr.AgentNotFound, apperr.CodeOf(err))
}

func TestAnAddressIsTakenInEveryCaseAndForGood(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := newAgent(t0)
	first.Email = "Screener@Example.com"
	b.add(t, first)
	_, err := b.store.Revise(t.Context(), first.ID, decommission)
	require.NoError(t, err)

	for _, email := range []string{"Screener@Example.com", "screener@example.com", "SCREENER@EXAMPLE.COM"} {
		second := newAgent(t0)
		second.Email = email
		_, err := b.store.Register(t.Context(), entryOf(second))
		require.Equal(t, apperr.AgentAlreadyExists, apperr.CodeOf(err))
	}
	require.Equal(t, 0, b.living(t))
	require.Equal(t, 2, b.count(t, "SELECT count(*) FROM registry.outbox"), "what was refused leaves no message")
}

func TestTheLimitIsExactUnderConcurrency(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const limit, before, attempts = 100, 3, 200
	// What is decommissioned does not count.
	for range before {
		gone := b.add(t, newAgent(t0))
		_, err := b.store.Revise(t.Context(), gone.ID, decommission)
		require.NoError(t, err)
	}
	errs := make([]error, attempts)
	var group sync.WaitGroup
	for i := range attempts {
		group.Go(func() {
			entry := entryOf(newAgent(t0))
			entry.Limit = limit
			_, errs[i] = b.store.Register(t.Context(), entry)
		})
	}
	group.Wait()

	registered := 0
	for _, err := range errs {
		if err == nil {
			registered++
			continue
		}
		refused := apperr.From(err)
		require.Equal(t, apperr.FreeTierLimitExceeded, refused.Code)
		require.EqualValues(t, limit, refused.Details["limit"])
	}
	require.Equal(t, limit, registered)
	require.Equal(t, limit, b.living(t))
	require.Equal(t, 2*before+limit, b.count(t, "SELECT count(*) FROM registry.outbox"), "one message each")
}

func TestADecommissionedAgentMakesRoomForOne(t *testing.T) {
	t.Parallel()
	b := setup(t)
	register := func() (agent.Agent, error) {
		entry := entryOf(newAgent(t0))
		entry.Limit = 1
		return b.store.Register(t.Context(), entry)
	}
	first, err := register()
	require.NoError(t, err)
	_, err = register()
	require.Equal(t, agent.LimitExceeded(1), err)

	_, err = b.store.Revise(t.Context(), first.ID, decommission)
	require.NoError(t, err)
	require.Equal(t, 0, b.living(t))
	_, err = register()
	require.NoError(t, err)
	_, err = register()
	require.Equal(t, agent.LimitExceeded(1), err)
}

func TestALimitThatWasLoweredRefusesUntilThereIsRoom(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for range 3 {
		b.add(t, newAgent(t0))
	}
	entry := entryOf(newAgent(t0))
	entry.Limit = 2
	_, err := b.store.Register(t.Context(), entry)
	require.Equal(t, agent.LimitExceeded(2), err)
	require.Equal(t, 3, b.living(t))
}

func TestParallelChangesOfOneAgentAreAllKept(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.add(t, newAgent(t0))
	const changes = 30
	var group sync.WaitGroup
	for i := range changes {
		group.Go(func() {
			_, err := b.store.Revise(t.Context(), first.ID, func(current agent.Agent, _ time.Time) (agent.Revision, error) {
				current.Revision++
				current.Capabilities = append(current.Capabilities, fmt.Sprintf("added:c%d", i))
				return agent.Revision{Agent: current, Messages: []outbox.Message{message()}}, nil
			})
			assert.NoError(t, err)
		})
	}
	group.Wait()
	found, err := b.store.Agent(t.Context(), first.ID)
	require.NoError(t, err)
	require.Equal(t, int64(1+changes), found.Revision)
	require.Len(t, found.Capabilities, len(first.Capabilities)+changes)
	require.Equal(t, 1+changes, b.count(t, "SELECT count(*) FROM registry.outbox"))
}

func TestParallelDecommissionsCountOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.add(t, newAgent(t0))
	b.add(t, newAgent(t0))
	var group sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		group.Go(func() {
			_, errs[i] = b.store.Revise(t.Context(), first.ID, func(current agent.Agent, now time.Time) (agent.Revision, error) {
				if current.Status == agent.Decommissioned {
					return agent.Revision{}, agent.ErrDecommissioned
				}
				return decommission(current, now)
			})
		})
	}
	group.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		require.Equal(t, apperr.AgentAlreadyDecommissioned, apperr.CodeOf(err))
	}
	require.Equal(t, 1, won)
	require.Equal(t, 1, b.living(t))
}

func TestAChangeStoresEveryMutableField(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.add(t, newAgent(t0))
	want := first
	want.Type, want.Version, want.Capabilities = "custom", "2.0.0-rc.1+b", []string{"z:z", "a:a"}
	want.Owner, want.DeploymentEnv, want.AllowedScopes = "Büro 7", "staging", []string{}
	want.AllowedResources = []string{"https://c.example/"}
	want.Status, want.UpdatedAt, want.Revision = agent.Suspended, t0.Add(time.Second), 2
	want.TokensValidAfter = t0.Add(time.Second).Truncate(time.Millisecond)

	changed, err := b.store.Revise(t.Context(), first.ID, func(current agent.Agent, _ time.Time) (agent.Revision, error) {
		require.Equal(t, first, current)
		return agent.Revision{Agent: want, Messages: []outbox.Message{message(), message()}}, nil
	})
	require.NoError(t, err)
	require.Equal(t, want, changed)
	found, err := b.store.Agent(t.Context(), first.ID)
	require.NoError(t, err)
	require.Equal(t, want, found)
	require.Equal(t, 3, b.count(t, "SELECT count(*) FROM registry.outbox"))
	require.Equal(t, 1, b.living(t), "a suspended agent still counts")
}

func TestAChangeThatIsRefusedStoresNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.add(t, newAgent(t0))
	_, err := b.store.Revise(t.Context(), first.ID, func(current agent.Agent, _ time.Time) (agent.Revision, error) {
		return agent.Revision{Agent: current}, agent.ErrPreconditionFailed
	})
	require.Equal(t, apperr.PreconditionFailed, apperr.CodeOf(err))
	found, err := b.store.Agent(t.Context(), first.ID)
	require.NoError(t, err)
	require.Equal(t, first, found)
}

func TestTheTimeOfAChangeIsReadOnceTheAgentIsLocked(t *testing.T) {
	t.Parallel()
	var at time.Time
	for name, revise := range map[string]func(context.Context, *postgres.Store, uuid.UUID) error{
		"of the agent": func(ctx context.Context, store *postgres.Store, id uuid.UUID) error {
			_, err := store.Revise(ctx, id, func(current agent.Agent, now time.Time) (agent.Revision, error) {
				at = now
				return agent.Revision{Agent: current}, nil
			})
			return err
		},
		"of its keys": func(ctx context.Context, store *postgres.Store, id uuid.UUID) error {
			_, err := store.ReviseKeys(ctx, id, func(current agent.Agent, _ *agent.Keys, now time.Time) (agent.Revision, *agent.Keys, error) {
				at = now
				return agent.Revision{Agent: current}, nil, nil
			})
			return err
		},
	} {
		b := setup(t)
		first := b.add(t, newAgent(t0))
		var released time.Time
		var group sync.WaitGroup
		require.NoError(t, b.db.WithTx(t.Context(), func(tx pgx.Tx) error {
			// It is locked and not updated: what finds it updated has its columns computed anew.
			_, err := tx.Exec(t.Context(), "SELECT FROM registry.agents FOR UPDATE")
			require.NoError(t, err)
			group.Go(func() { assert.NoError(t, revise(t.Context(), b.store, first.ID), name) })
			testkit.AwaitLock(t, b.db)
			return tx.QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&released)
		}))
		group.Wait()
		require.True(t, at.After(released), "%s: %v is not after %v", name, at, released)
		require.Equal(t, time.UTC, at.Location())
	}
}

func TestThereIsOneOperatorHoweverManyBootstrapsRun(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.add(t, newAgent(t0))
	results := make([]agent.Agent, 16)
	var group sync.WaitGroup
	for i := range results {
		group.Go(func() {
			fresh := newAgent(t0)
			fresh.RegisteredBy, fresh.Email = nil, "operator@example.com"
			if i%2 == 0 {
				fresh.Email = fmt.Sprintf("operator-%d@example.com", i)
			}
			stored, err := b.store.Bootstrap(t.Context(), entryOf(fresh))
			assert.NoError(t, err)
			results[i] = stored
		})
	}
	group.Wait()
	for _, result := range results {
		require.Equal(t, results[0].ID, result.ID)
	}
	require.Equal(t, 2, b.living(t))
	require.Equal(t, 2, b.count(t, "SELECT count(*) FROM registry.outbox"))
}

func TestAnOperatorDoesNotTakeOverAnAddress(t *testing.T) {
	t.Parallel()
	b := setup(t)
	other := b.add(t, newAgent(t0))
	fresh := newAgent(t0)
	fresh.RegisteredBy, fresh.Email = nil, strings.ToUpper(other.Email)
	_, err := b.store.Bootstrap(t.Context(), entryOf(fresh))
	require.Equal(t, apperr.AgentAlreadyExists, apperr.CodeOf(err))
}

func TestAnOperatorHasOneSuccessorHoweverManyBootstrapsRun(t *testing.T) {
	t.Parallel()
	b := setup(t)
	operator := func(email string, another bool) agent.Entry {
		fresh := newAgent(t0)
		fresh.RegisteredBy, fresh.Email = nil, email
		entry := entryOf(fresh)
		entry.Another = another
		return entry
	}
	first, err := b.store.Bootstrap(t.Context(), operator("first@example.com", true))
	require.NoError(t, err)
	same, err := b.store.Bootstrap(t.Context(), operator("second@example.com", true))
	require.NoError(t, err)
	require.Equal(t, first, same, "it lives")
	ended, err := b.store.Revise(t.Context(), first.ID, func(current agent.Agent, _ time.Time) (agent.Revision, error) {
		current.Status, current.Revision = agent.Decommissioned, current.Revision+1
		return agent.Revision{Agent: current}, nil
	})
	require.NoError(t, err)
	same, err = b.store.Bootstrap(t.Context(), operator("second@example.com", false))
	require.NoError(t, err)
	require.Equal(t, ended, same, "nobody asked for another")
	_, err = b.store.Bootstrap(t.Context(), operator("First@example.com", true))
	require.Equal(t, apperr.AgentAlreadyExists, apperr.CodeOf(err), "its address stays taken")

	results := make([]agent.Agent, 16)
	var group sync.WaitGroup
	for i := range results {
		group.Go(func() {
			stored, err := b.store.Bootstrap(t.Context(), operator(fmt.Sprintf("operator-%d@example.com", i/2), true))
			assert.NoError(t, err)
			results[i] = stored
		})
	}
	group.Wait()
	for _, result := range results {
		require.Equal(t, results[0].ID, result.ID)
	}
	require.NotEqual(t, first.ID, results[0].ID)
	require.Equal(t, 1, b.living(t))
	same, err = b.store.Bootstrap(t.Context(), operator("third@example.com", false))
	require.NoError(t, err)
	require.Equal(t, results[0].ID, same.ID, "the living one is the operator")
}

func TestADatabaseThatIsAwayIsUnavailable(t *testing.T) {
	t.Parallel()
	db, err := pgdb.Open(t.Context(), pgdb.Config{
		URL: config.Secret("postgres://nobody@127.0.0.1:1/none?sslmode=disable"), MaxConns: 1,
	}, telemetry.Discard("registry"))
	require.NoError(t, err)
	t.Cleanup(db.Close)
	store := postgres.NewStore(db, outbox.New("registry"))
	calls := map[string]func(context.Context) error{
		"get":       func(ctx context.Context) error { _, err := store.Agent(ctx, uuid.New()); return err },
		"register":  func(ctx context.Context) error { _, err := store.Register(ctx, entryOf(newAgent(t0))); return err },
		"bootstrap": func(ctx context.Context) error { _, err := store.Bootstrap(ctx, entryOf(newAgent(t0))); return err },
		"with keys": func(ctx context.Context) error { _, err := store.Agents(ctx, []uuid.UUID{uuid.New()}); return err },
		"set keys": func(ctx context.Context) error {
			_, err := store.ReviseKeys(ctx, uuid.New(), set(agent.Keys{}))
			return err
		},
		"revise": func(ctx context.Context) error { _, err := store.Revise(ctx, uuid.New(), decommission); return err },
		"purge":  func(ctx context.Context) error { _, err := store.PurgeIdempotencyKeys(ctx, t0, 1); return err },
		"list": func(ctx context.Context) error {
			_, err := store.List(ctx, agent.Filter{}, paging.Page{Limit: 1})
			return err
		},
	}
	for name, call := range calls {
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(call(t.Context())), name)
	}
}

func TestTheServicesRoleMayDoNoMoreThanItNeeds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.add(t, newAgent(t0))
	forbidden := []string{
		"DELETE FROM registry.agents",
		"TRUNCATE registry.agents",
		"UPDATE registry.agents SET email = 'x@example.com'",
		"UPDATE registry.agents SET agent_id = gen_random_uuid()",
		"UPDATE registry.agents SET registered_by = NULL",
		"UPDATE registry.agents SET created_at = now()",
		"UPDATE registry.agent_keys SET agent_id = gen_random_uuid()",
		"TRUNCATE registry.agent_keys",
		"DELETE FROM registry.fleet",
		"INSERT INTO registry.fleet (living) VALUES (0)",
		"CREATE TABLE registry.mine ()",
		"DROP TABLE registry.outbox",
	}
	for _, sql := range forbidden {
		_, err := b.db.Exec(t.Context(), sql)
		var refused *pgconn.PgError
		require.ErrorAs(t, err, &refused, sql)
		require.Equal(t, "42501", refused.Code, sql)
	}
	found, err := b.store.Agent(t.Context(), first.ID)
	require.NoError(t, err)
	require.Equal(t, first, found)
}

func TestAgentsWhoseTokensAreRefusedAreReadInPages(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.add(t, newAgent(t0)) // its status never changed
	var want []agent.Agent
	for range 5 { // in the order of their ids
		gone, err := b.store.Revise(t.Context(), b.add(t, newAgent(t0)).ID, decommission)
		require.NoError(t, err)
		want = append(want, gone)
	}
	since := want[0].TokensValidAfter.Add(-time.Millisecond)
	var got []agent.Agent
	for after := uuid.Nil; ; after = got[len(got)-1].ID {
		page, err := b.store.CutOff(t.Context(), since, after, 2)
		require.NoError(t, err)
		got = append(got, page...)
		if len(page) < 2 {
			break
		}
	}
	require.Equal(t, want, got)
	page, err := b.store.CutOff(t.Context(), want[0].TokensValidAfter, uuid.Nil, 2)
	require.NoError(t, err)
	require.Empty(t, page)
}
