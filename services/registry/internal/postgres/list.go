package postgres

import (
	"context"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

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
func (s *Store) List(ctx context.Context, filter agent.Filter, page agent.Page) (agent.Listing, error) {
	var cond conditions
	cond.filter(filter)
	listing := agent.Listing{Total: page.Total}
	if page.After == nil {
		if err := s.db.QueryRow(ctx, sqlCount+cond.where(), cond.args...).Scan(&listing.Total); err != nil {
			return agent.Listing{}, pgdb.Fault(err)
		}
	} else {
		cond.terms = append(cond.terms,
			"(created_at, agent_id) < ("+cond.arg(page.After.CreatedAt)+", "+cond.arg(page.After.ID)+")")
	}
	// One more than asked for tells whether a further page follows.
	sql := sqlList + cond.where() + " ORDER BY created_at DESC, agent_id DESC LIMIT " + cond.arg(page.Limit+1)
	if page.After == nil {
		sql += " OFFSET " + cond.arg(page.Offset)
	}
	rows, err := s.db.Query(ctx, sql, cond.args...)
	if err != nil {
		return agent.Listing{}, pgdb.Fault(err)
	}
	if listing.Agents, err = pgx.CollectRows(rows, scan); err != nil {
		return agent.Listing{}, pgdb.Fault(err)
	}
	if len(listing.Agents) > page.Limit {
		listing.Agents = listing.Agents[:page.Limit]
		last := listing.Agents[page.Limit-1]
		listing.Next = &agent.Position{CreatedAt: last.CreatedAt, ID: last.ID}
	}
	return listing, nil
}

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
