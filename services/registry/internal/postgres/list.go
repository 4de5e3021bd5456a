package postgres

import (
	"context"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/services/registry/internal/agent"
)

const (
	sqlList = `-- name: agent_list
SELECT ` + columns + ` FROM registry.agents`
	sqlCount = `-- name: agent_count
SELECT count(*) FROM registry.agents`
)

// List reads one page and, unless the page continues a walk, the number of all agents that pass the filter.
func (s *Store) List(ctx context.Context, filter agent.Filter, page paging.Page) (paging.Listing[agent.Agent], error) {
	var cond conditions
	cond.filter(filter)
	total := page.Total
	if page.After == nil {
		if err := s.db.QueryRow(ctx, sqlCount+cond.where(), cond.args...).Scan(&total.Items); err != nil {
			return paging.Listing[agent.Agent]{}, pgdb.Fault(err)
		}
	} else {
		cond.terms = append(cond.terms, "(created_at, agent_id) < ("+cond.arg(page.After.Time)+", "+cond.arg(page.After.ID)+")")
	}
	sql := sqlList + cond.where() + " ORDER BY created_at DESC, agent_id DESC LIMIT " + cond.arg(page.Limit+1)
	if page.After == nil {
		sql += " OFFSET " + cond.arg(page.Offset)
	}
	rows, err := s.db.Query(ctx, sql, cond.args...)
	if err != nil {
		return paging.Listing[agent.Agent]{}, pgdb.Fault(err)
	}
	agents, err := pgx.CollectRows(rows, scan)
	return paging.Cut(agents, page.Limit, total, place), pgdb.Fault(err)
}

func place(a agent.Agent) paging.Position { return paging.Position{Time: a.CreatedAt, ID: a.ID} }

// conditions builds a WHERE clause of constant text and numbered arguments. Only the conditions that were asked for
// appear in it, so that the planner sees which index serves them.
type conditions struct {
	terms []string
	args  []any
}

func (c *conditions) arg(value any) string {
	c.args = append(c.args, value)
	return "$" + strconv.Itoa(len(c.args))
}

func (c *conditions) where() string {
	if len(c.terms) == 0 {
		return ""
	}
	return "\nWHERE " + strings.Join(c.terms, " AND ")
}

func (c *conditions) filter(f agent.Filter) {
	equal := func(column string, value *string) {
		if value != nil {
			c.terms = append(c.terms, column+" = "+c.arg(*value))
		}
	}
	equal("owner", f.Owner)
	equal("agent_type", f.Type)
	equal("status", f.Status)
	equal("deployment_env", f.DeploymentEnv)
	if f.Capability != nil {
		c.terms = append(c.terms, "capabilities @> "+c.arg([]string{*f.Capability}))
	}
	if f.Email != nil {
		c.terms = append(c.terms, `lower(email COLLATE "C") = lower(`+c.arg(*f.Email)+`::text COLLATE "C")`)
	}
}
