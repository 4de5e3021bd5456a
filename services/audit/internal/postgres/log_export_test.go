package postgres_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/export"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

type page struct{ bytes.Buffer }

func (*page) Flush() error { return nil }

// exported is an export as its lines.
func exported(t *testing.T, db *pgdb.DB, store *log, request export.Request) []string {
	t.Helper()
	x, err := export.New(store.Store, asked(db, store.key), time.Now).Begin(t.Context(), request)
	require.NoError(t, err)
	var out page
	complete, err := x.Write(t.Context(), &out)
	require.NoError(t, err)
	require.True(t, complete)
	return strings.Split(strings.TrimSpace(out.String()), "\n")
}

func TestAnExportOfWhatIsStoredGivesTheSignedRoot(t *testing.T) {
	t.Parallel()
	admin := testkit.Postgres(t, "audit")
	db := testkit.Open(t, admin.AppURL)
	store, agent := open(t, db), uuid.New()
	for batch := range uint64(3) {
		var deliveries []trail.Delivery
		for i := range uint64(200) { // of ten days, the newest first
			deliveries = append(deliveries, published(t, i, func(fields map[string]any) {
				fields["timestamp"] = now.AddDate(0, 0, -int(i%10))
				if i == 77 {
					fields["agentId"] = agent
				}
				fields["metadata"] = map[string]any{"batch": batch}
			}))
		}
		record(t, store, deliveries...)
	}

	lines := exported(t, db, store, export.Request{Format: export.FormatLog})
	require.Len(t, lines, 602)
	var header auditlog.ExportHeader
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &header))
	c, _, err := auditlog.Open([]byte(header.Checkpoint), store.key.Verifier)
	require.NoError(t, err)
	frontier := &auditlog.Frontier{}
	for i, text := range lines[1:601] {
		var line auditlog.ExportLine
		require.NoError(t, json.Unmarshal([]byte(text), &line))
		require.EqualValues(t, i, line.LeafIndex)
		frontier.Add(auditlog.HashLeaf(line.Event))
	}
	require.Equal(t, c.Root, frontier.Root())
	require.JSONEq(t, `{"cursor":"600","complete":true,"dropped":[]}`, lines[601])

	lines = exported(t, db, store, export.Request{First: 78, Filter: &trail.Filter{AgentID: &agent}, Format: export.FormatLog, Proofs: true})
	require.Len(t, lines, 4)
	require.Contains(t, lines[1], `{"leafIndex":277,`)
	require.Contains(t, lines[2], `{"leafIndex":477,`)

	// Somebody with the rights of the owner adds an event behind the log's back.
	owner := testkit.Open(t, admin.OwnerURL)
	_, err = owner.Exec(t.Context(), fmt.Sprintf(`INSERT INTO audit.events (event_id, timestamp, leaf_index, action, outcome, service, payload)
		VALUES ('%s', '%s', 4711, 'agent.created', 'success', 'registry', '{"b":1,"a":2}')`, uuid.New(), now.Format("2006-01-02T15:04:05Z")))
	require.NoError(t, err)
	_, err = owner.Exec(t.Context(), `INSERT INTO audit.dropped_partitions (day, events, first_leaf, last_leaf) VALUES ('2026-01-31', 2, 3, 5), ('2026-02-01', 0, NULL, NULL)`)
	require.NoError(t, err)
	lines = exported(t, db, store, export.Request{First: 599, Format: export.FormatLog})
	require.Contains(t, lines[2], `"leafIndex":4711`)
	require.Contains(t, lines[2], `"event":{"a":2,"b":1}`)
	lines = exported(t, db, store, export.Request{First: 1, Format: export.FormatLog})
	require.Contains(t, lines[len(lines)-1], `"dropped":[{"day":"2026-01-31","events":2,"firstLeaf":3,"lastLeaf":5}]`)
}
