package postgres_test

import (
	"encoding/binary"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/paging"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit/internal/postgres"
	"github.com/sentryagent/agentidp/services/audit/internal/trail"
)

// now is noon of today: the database makes no partitions far ahead of its own clock.
var now = trail.Day(time.Now()).Add(12 * time.Hour)

// published is the delivery of a good event; change edits its published form.
func published(t *testing.T, sequence uint64, change func(fields map[string]any)) trail.Delivery {
	t.Helper()
	fields := map[string]any{
		"schemaVersion": 1,
		"timestamp":     now.Add(time.Duration(sequence) * time.Second),
		"agentId":       nil,
		"actorId":       nil,
		"action":        "agent.created",
		"outcome":       "success",
		"ipAddress":     "203.0.113.7",
		"userAgent":     "test",
		"service":       "registry",
		"requestId":     "r",
		"metadata":      map[string]any{"n": sequence},
	}
	if change != nil {
		change(fields)
	}
	if fields["eventId"] == nil {
		fields["eventId"] = idAt(fields["timestamp"].(time.Time))
	}
	payload, err := json.Marshal(fields)
	require.NoError(t, err)
	delivery := trail.Receive(origin(sequence), payload)
	require.Empty(t, delivery.Reject)
	return delivery
}

// idAt is an id of version 7 that was made at another time.
func idAt(moment time.Time) uuid.UUID {
	id := uuid.Must(uuid.NewV7())
	var millis [8]byte
	binary.BigEndian.PutUint64(millis[:], uint64(moment.UnixMilli())<<16)
	copy(id[:6], millis[:6])
	return id
}

// log is both sides of what is stored, with a key of its own.
type log struct {
	*postgres.Store
	*postgres.Sequencer
	key testkit.LogKey
}

func open(t *testing.T, db *pgdb.DB) *log {
	t.Helper()
	key := testkit.AuditLogKey(t)
	return &log{Store: postgres.New(db), Sequencer: postgres.NewSequencer(sequencing(db, key)), key: key}
}

// with is another replica of the log that has the key.
func (l *log) with(key testkit.LogKey) *log {
	return &log{Store: l.Store, Sequencer: postgres.NewSequencer(sequencing(l.DB, key)), key: key}
}

func sequencing(db *pgdb.DB, key testkit.LogKey) postgres.Sequencing {
	return postgres.Sequencing{
		DB: db, Signer: key.Signer, PublicKey: key.Public,
		Window: trail.NewWindow(90), Clock: func() time.Time { return now },
	}
}

func origin(sequence uint64) trail.Origin {
	return trail.Origin{Sequence: sequence, PublishedAt: now, Subject: "audit.registry.agent.created"}
}

// record stores deliveries and returns the events, newest first.
func record(t *testing.T, store *log, deliveries ...trail.Delivery) []trail.Event {
	t.Helper()
	verdicts, err := store.Record(t.Context(), deliveries)
	require.NoError(t, err)
	events := make([]trail.Event, len(deliveries))
	for i, d := range deliveries {
		require.Equal(t, trail.Stored, verdicts[i])
		events[i] = d.Event
	}
	slices.Reverse(events)
	return events
}

func TestGetReturnsTheEventAsPublished(t *testing.T) {
	t.Parallel()
	store := open(t, testkit.DB(t, "audit"))
	agent, actor := uuid.New(), uuid.New()
	want := published(t, 1, func(fields map[string]any) {
		fields["agentId"], fields["actorId"] = agent, actor
		fields["futureField"] = map[string]any{"kept": true}
		fields["userAgent"] = "nul \x00 and \u2028 and <b>"
		fields["metadata"] = map[string]any{"nul": "a\x00b", "exponent": json.Number("1E+2")}
	})
	record(t, store, want)

	got, err := store.Get(t.Context(), want.Event.ID)

	require.NoError(t, err)
	require.Equal(t, want.Event, got, "byte for byte, what jsonb could not hold included")
	_, err = store.Get(t.Context(), uuid.New())
	require.ErrorIs(t, err, trail.ErrNotFound)
}

func TestListFilters(t *testing.T) {
	t.Parallel()
	store := open(t, testkit.DB(t, "audit"))
	agents, actors := []uuid.UUID{uuid.New(), uuid.New()}, []uuid.UUID{uuid.New(), uuid.New()}
	actions, outcomes := []string{"token.issued", "auth.failed"}, []string{"success", "failure"}
	var deliveries []trail.Delivery
	for i := range uint64(32) {
		deliveries = append(deliveries, published(t, i, func(fields map[string]any) {
			fields["agentId"], fields["actorId"] = agents[i&1], actors[i>>1&1]
			fields["action"], fields["outcome"] = actions[i>>2&1], outcomes[i>>3&1]
		}))
	}
	deliveries = append(deliveries, published(t, 32, nil)) // about no agent, by nobody
	all := record(t, store, deliveries...)

	from, to := now.Add(5*time.Second), now.Add(25*time.Second)
	// Every combination of the six filters: from is always given by the reader.
	for mask := range 1 << 6 {
		filter := trail.Filter{From: &now}
		meets := []func(trail.Event) bool{}
		restrict := func(bit int, set func(), meet func(trail.Event) bool) {
			if mask&(1<<bit) != 0 {
				set()
				meets = append(meets, meet)
			}
		}
		restrict(0, func() { filter.AgentID = &agents[1] }, func(e trail.Event) bool { return e.AgentID != nil && *e.AgentID == agents[1] })
		restrict(1, func() { filter.ActorID = &actors[0] }, func(e trail.Event) bool { return e.ActorID != nil && *e.ActorID == actors[0] })
		restrict(2, func() { filter.Action = &actions[1] }, func(e trail.Event) bool { return e.Action == actions[1] })
		restrict(3, func() { filter.Outcome = &outcomes[0] }, func(e trail.Event) bool { return e.Outcome == outcomes[0] })
		restrict(4, func() { filter.From = &from }, func(e trail.Event) bool { return !e.Timestamp.Before(from) })
		restrict(5, func() { filter.To = &to }, func(e trail.Event) bool { return !e.Timestamp.After(to) })
		want := slices.DeleteFunc(slices.Clone(all), func(e trail.Event) bool {
			return slices.ContainsFunc(meets, func(meet func(trail.Event) bool) bool { return !meet(e) })
		})

		got, err := store.List(t.Context(), filter, paging.Page{Limit: 100})

		require.NoError(t, err)
		require.Equal(t, ids(want), ids(got.Items), "filters %06b", mask)
		require.Equal(t, paging.Total{Items: int64(len(want))}, got.Total, "filters %06b", mask)
	}
}

func TestListPagesNeitherSkipNorRepeat(t *testing.T) {
	t.Parallel()
	store := open(t, testkit.DB(t, "audit"))
	var deliveries []trail.Delivery
	for i := range uint64(25) { // five instants with five events each
		deliveries = append(deliveries, published(t, i, func(fields map[string]any) {
			fields["timestamp"] = now.Add(time.Duration(i/5) * time.Microsecond)
		}))
	}
	all := record(t, store, deliveries...)
	slices.SortFunc(all, func(a, b trail.Event) int {
		if order := b.Timestamp.Compare(a.Timestamp); order != 0 {
			return order
		}
		return slices.Compare(b.ID[:], a.ID[:])
	})

	for _, limit := range []int{1, 3, 7, 25} {
		var byOffset, byCursor []trail.Event
		var after *paging.Position
		begun := paging.Total{Items: 99, Estimate: true}
		for offset := 0; offset < len(all); offset += limit {
			found, err := store.List(t.Context(), trail.Filter{From: &now}, paging.Page{Offset: int64(offset), Limit: limit})
			require.NoError(t, err)
			require.Equal(t, paging.Total{Items: 25}, found.Total)
			byOffset = append(byOffset, found.Items...)

			found, err = store.List(t.Context(), trail.Filter{From: &now}, paging.Page{After: after, Total: begun, Limit: limit})
			require.NoError(t, err)
			if after != nil {
				require.Equal(t, begun, found.Total, "the total of the walk, not counted again")
			}
			byCursor = append(byCursor, found.Items...)
			after = found.Next
			require.Equal(t, offset+limit < len(all), after != nil)
		}
		require.Equal(t, ids(all), ids(byOffset), "limit %d", limit)
		require.Equal(t, ids(all), ids(byCursor), "limit %d", limit)
	}
}

func TestListPastTheEndIsEmpty(t *testing.T) {
	t.Parallel()
	store := open(t, testkit.DB(t, "audit"))
	record(t, store, published(t, 1, nil))
	found, err := store.List(t.Context(), trail.Filter{From: &now}, paging.Page{Offset: 100_000_000_000, Limit: 100})
	require.NoError(t, err)
	require.Empty(t, found.Items)
	require.Equal(t, paging.Total{Items: 1}, found.Total)
}

func TestStoreSaysWhenPostgresIsAway(t *testing.T) {
	t.Parallel()
	db, err := pgdb.Open(t.Context(), pgdb.Config{URL: config.Secret("postgres://x:y@127.0.0.1:1/none"), MaxConns: 1}, telemetry.Discard("audit"))
	require.NoError(t, err)
	t.Cleanup(db.Close)
	store := open(t, db)

	_, err = store.Get(t.Context(), uuid.New())
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	_, err = store.List(t.Context(), trail.Filter{From: &now}, paging.Page{Limit: 1})
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
	_, err = store.Record(t.Context(), []trail.Delivery{published(t, 1, nil)})
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(err))
}

func ids(events []trail.Event) []uuid.UUID {
	out := make([]uuid.UUID, len(events))
	for i, e := range events {
		out[i] = e.ID
	}
	return out
}
