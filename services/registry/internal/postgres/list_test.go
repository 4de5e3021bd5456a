package postgres_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

func TestListsAreNewestFirstWithTheIDAsTieBreak(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var all []agent.Agent
	for i := range 7 {
		// Three at one moment, then two at the next, and so on.
		all = append(all, b.add(t, newAgent(t0.Add(time.Duration(i/3)*time.Microsecond))))
	}
	slices.SortFunc(all, func(x, y agent.Agent) int {
		if c := y.CreatedAt.Compare(x.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(y.ID.String(), x.ID.String())
	})

	var byPage, byCursor []agent.Agent
	for page := range 4 {
		listing, err := b.store.List(t.Context(), agent.Filter{}, paging.Page{Limit: 2, Offset: int64(page) * 2})
		require.NoError(t, err)
		require.Equal(t, paging.Total{Items: 7}, listing.Total)
		require.Equal(t, page == 3, listing.Next == nil, "page %d", page)
		byPage = append(byPage, listing.Items...)
	}
	require.Equal(t, all, byPage)

	page := paging.Page{Limit: 2}
	for {
		listing, err := b.store.List(t.Context(), agent.Filter{}, page)
		require.NoError(t, err)
		byCursor = append(byCursor, listing.Items...)
		if listing.Next == nil {
			break
		}
		page.After = listing.Next
		// Agents registered meanwhile are newer, and do not move what is still to come.
		b.add(t, newAgent(t0.Add(time.Hour)))
	}
	require.Equal(t, all, byCursor)
}

func TestAFullLastPageHasNoNext(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.add(t, newAgent(t0))
	b.add(t, newAgent(t0))
	listing, err := b.store.List(t.Context(), agent.Filter{}, paging.Page{Limit: 2})
	require.NoError(t, err)
	require.Len(t, listing.Items, 2)
	require.Nil(t, listing.Next)

	far, err := b.store.List(t.Context(), agent.Filter{}, paging.Page{Limit: 100, Offset: 1e11})
	require.NoError(t, err)
	require.Empty(t, far.Items)
	require.Equal(t, paging.Total{Items: 2}, far.Total)
}

func TestFilters(t *testing.T) {
	t.Parallel()
	b := setup(t)
	plain := b.add(t, newAgent(t0))
	special := newAgent(t0.Add(time.Second))
	special.Email, special.Type, special.Owner = "Special@Example.com", "monitor", "O'Brien; --"
	special.DeploymentEnv, special.Status, special.Capabilities = "staging", agent.Suspended, []string{"logs:read", "resume:*"}
	special = b.add(t, special)

	tests := map[string]struct {
		filter agent.Filter
		want   []uuid.UUID
	}{
		"none":                              {agent.Filter{}, []uuid.UUID{special.ID, plain.ID}},
		"owner":                             {agent.Filter{Owner: ref("O'Brien; --")}, []uuid.UUID{special.ID}},
		"owner, exactly":                    {agent.Filter{Owner: ref("o'brien; --")}, nil},
		"type":                              {agent.Filter{Type: ref("monitor")}, []uuid.UUID{special.ID}},
		"status":                            {agent.Filter{Status: ref("active")}, []uuid.UUID{plain.ID}},
		"environment":                       {agent.Filter{DeploymentEnv: ref("staging")}, []uuid.UUID{special.ID}},
		"capability":                        {agent.Filter{Capability: ref("resume:read")}, []uuid.UUID{plain.ID}},
		"capability with any action":        {agent.Filter{Capability: ref("resume:*")}, []uuid.UUID{special.ID}},
		"capability as SQL":                 {agent.Filter{Capability: ref("{resume:read}")}, nil},
		"address in another case":           {agent.Filter{Email: ref("sPECIAL@example.COM")}, []uuid.UUID{special.ID}},
		"address that is a pattern":         {agent.Filter{Email: ref("%")}, nil},
		"all of them together":              {filterOf(special), []uuid.UUID{special.ID}},
		"all of them, one of them not met ": {withStatus(filterOf(special), "active"), nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listing, err := b.store.List(t.Context(), tt.filter, paging.Page{Limit: 100})
			require.NoError(t, err)
			var ids []uuid.UUID
			for _, found := range listing.Items {
				ids = append(ids, found.ID)
			}
			require.Equal(t, tt.want, ids)
			require.Equal(t, paging.Total{Items: int64(len(tt.want))}, listing.Total)
		})
	}
}

func filterOf(a agent.Agent) agent.Filter {
	return agent.Filter{
		Owner: &a.Owner, Type: &a.Type, Status: ref(string(a.Status)), DeploymentEnv: &a.DeploymentEnv,
		Capability: &a.Capabilities[0], Email: &a.Email,
	}
}

func withStatus(f agent.Filter, status string) agent.Filter {
	f.Status = &status
	return f
}

func TestACursorWalksBehindAFilter(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var want []uuid.UUID
	for i := range 6 {
		a := newAgent(t0.Add(time.Duration(-i) * time.Second))
		if i%2 == 0 {
			a.Owner = "other"
		} else {
			want = append(want, a.ID)
		}
		b.add(t, a)
	}
	var got []uuid.UUID
	page := paging.Page{Limit: 1}
	for {
		listing, err := b.store.List(t.Context(), agent.Filter{Owner: ref("talent-team")}, page)
		require.NoError(t, err)
		require.Equal(t, paging.Total{Items: 3}, listing.Total)
		for _, found := range listing.Items {
			got = append(got, found.ID)
		}
		page.After, page.Total = listing.Next, listing.Total
		if page.After == nil {
			break
		}
	}
	require.Equal(t, want, got)
}

func TestAPageBehindACursorIsReadFromTheIndex(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for range 50 {
		b.add(t, newAgent(t0))
	}
	err := b.db.WithTx(t.Context(), func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "SET LOCAL enable_seqscan = off"); err != nil {
			return err
		}
		rows, err := tx.Query(t.Context(), `EXPLAIN SELECT agent_id FROM registry.agents
			WHERE (created_at, agent_id) < ($1, $2) ORDER BY created_at DESC, agent_id DESC LIMIT 2`, t0, uuid.New())
		if err != nil {
			return err
		}
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.Contains(t, strings.Join(plan, "\n"), "agents_newest_first")
		require.NotContains(t, strings.Join(plan, "\n"), "Sort")
		return err
	})
	require.NoError(t, err)
}
