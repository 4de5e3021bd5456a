package testkit_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/migrations"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

func TestPostgresGivesEveryTestADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	for range 4 {
		t.Run("one of several at once", func(t *testing.T) {
			t.Parallel()
			db := testkit.DB(t, "registry")
			_, err := db.Exec(context.Background(), "INSERT INTO registry.outbox (event_id, subject, payload) VALUES (gen_random_uuid(), 'audit.test', '')")
			require.NoError(t, err)
			var rows int
			require.NoError(t, db.QueryRow(context.Background(), "SELECT count(*) FROM registry.outbox").Scan(&rows))
			require.Equal(t, 1, rows, "a row of another test is visible")
		})
	}
}

func TestPostgresHasTheSchemasOfAllServicesWhenNoneIsNamed(t *testing.T) {
	t.Parallel()
	all := testkit.Postgres(t, "")
	for _, service := range migrations.Services() {
		db := testkit.Open(t, all.For(service).OwnerURL)
		_, err := db.Exec(context.Background(), "SELECT 1 FROM "+service+".goose_db_version")
		require.NoError(t, err, service)
	}
}

func TestNoRoleReachesTheSchemaOfAnotherService(t *testing.T) {
	t.Parallel()
	all := testkit.Postgres(t, "")
	for _, service := range migrations.Services() {
		own := all.For(service)
		for _, other := range migrations.Services() {
			if other == service {
				continue
			}
			for role, url := range map[string]string{"app": own.AppURL, "owner": own.OwnerURL} {
				_, err := testkit.Open(t, url).Exec(context.Background(), "SELECT 1 FROM "+other+".goose_db_version")
				require.ErrorContains(t, err, "42501", "%s_%s reads %s", service, role, other)
			}
		}
		_, err := testkit.Open(t, own.AppURL).Exec(context.Background(), "CREATE TABLE "+service+".mine (id int)")
		require.ErrorContains(t, err, "42501", "%s_app creates tables", service)
		_, err = testkit.Open(t, own.AppURL).Exec(context.Background(), "SELECT 1 FROM "+service+".goose_db_version")
		require.ErrorContains(t, err, "42501", "%s_app sees the migrations", service)
	}
}

func TestClockStandsUntilItIsMoved(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock := testkit.NewClock(start)
	require.Equal(t, start, clock.Now())
	require.Equal(t, start.Add(time.Minute), clock.Advance(time.Minute))
	require.Equal(t, start.Add(time.Minute), clock.Now())
}
