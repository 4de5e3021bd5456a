package pgdb_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/apperr"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/devservers"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/telemetry"
	"github.com/sentryagent/agentidp/pkg/testkit"
)

const patient = 30 * time.Second

// setup gives a pool of its schema's owner, with a table to work on.
func setup(t *testing.T) (context.Context, *pgdb.DB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patient)
	t.Cleanup(cancel)
	db := testkit.Open(t, testkit.Postgres(t, "registry").OwnerURL)
	_, err := db.Exec(ctx, "CREATE TABLE registry.things (id int CONSTRAINT things_pkey PRIMARY KEY, n int CONSTRAINT things_small CHECK (n < 10))")
	require.NoError(t, err)
	return ctx, db
}

func count(ctx context.Context, t *testing.T, db *pgdb.DB) int {
	t.Helper()
	var n int
	require.NoError(t, db.QueryRow(ctx, "SELECT count(*) FROM registry.things").Scan(&n))
	return n
}

func insert(ctx context.Context, q pgdb.Querier, id, n int) error {
	_, err := q.Exec(ctx, "-- name: thing_insert\nINSERT INTO registry.things VALUES ($1, $2)", id, n)
	return err
}

func TestOpenNeedsNoServer(t *testing.T) {
	t.Parallel()
	db, err := pgdb.Open(context.Background(), pgdb.Config{URL: "postgres://u:p@127.0.0.1:1/db", MaxConns: 2}, telemetry.Discard("test"))
	require.NoError(t, err)
	defer db.Close()
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(db.Ready(context.Background())))
}

func TestOpenRefusesABadURLWithoutRepeatingIt(t *testing.T) {
	t.Parallel()
	_, err := pgdb.Open(context.Background(), pgdb.Config{URL: "postgres://user:hunter2@host:port/db"}, nil)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
	require.Error(t, pgdb.Config{MaxConns: 0}.Validate())
	require.NoError(t, pgdb.Config{MaxConns: 1}.Validate())
	require.NoError(t, pgdb.Config{MaxConns: 1, URL: "postgres://user:hunter2@host/db"}.Validate())
	err = pgdb.Config{MaxConns: 1, URL: "postgres://user:hunter2@host:port/db", MigrateURL: "hunter2"}.Validate()
	require.ErrorContains(t, err, "DATABASE_URL is not")
	require.ErrorContains(t, err, "MIGRATE_DATABASE_URL is not")
	require.NotContains(t, err.Error(), "hunter2")
}

func TestWithTxCommitsAndRollsBack(t *testing.T) {
	t.Parallel()
	ctx, db := setup(t)
	require.NoError(t, db.Ready(ctx))
	require.NoError(t, db.WithTx(ctx, func(tx pgx.Tx) error { return insert(ctx, tx, 1, 1) }))
	require.Equal(t, 1, count(ctx, t, db))

	mine := errors.New("mine")
	err := db.WithTx(ctx, func(tx pgx.Tx) error {
		require.NoError(t, insert(ctx, tx, 2, 1))
		return mine
	})
	require.Equal(t, mine, err, "the error of the func comes back as it is")
	require.Panics(t, func() {
		_ = db.WithTx(ctx, func(tx pgx.Tx) error {
			require.NoError(t, insert(ctx, tx, 3, 1))
			panic("bug")
		})
	})
	require.Equal(t, 1, count(ctx, t, db))
}

func TestTheRollbackSurvivesACancelledContextAndGivesTheConnectionBack(t *testing.T) {
	t.Parallel()
	ctx, owner := setup(t)
	db, err := pgdb.Open(ctx, pgdb.Config{URL: config.Secret(owner.Config().ConnString()), MaxConns: 1}, telemetry.Discard("test"))
	require.NoError(t, err)
	defer db.Close()
	var before, after uint32
	require.NoError(t, db.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&before))

	request, cancel := context.WithCancel(ctx)
	err = db.WithTx(request, func(tx pgx.Tx) error {
		require.NoError(t, insert(ctx, tx, 1, 1))
		cancel()
		return request.Err()
	})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, db.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&after))
	require.Equal(t, before, after, "the connection was thrown away")
	require.Zero(t, count(ctx, t, db))
}

func TestConstraintNamesWhatWasViolated(t *testing.T) {
	t.Parallel()
	ctx, db := setup(t)
	require.NoError(t, insert(ctx, db, 1, 1))
	require.Equal(t, "things_pkey", pgdb.Constraint(insert(ctx, db, 1, 1)))
	require.Equal(t, "things_small", pgdb.Constraint(fmt.Errorf("store: %w", insert(ctx, db, 2, 10))))
	_, err := db.Exec(ctx, "SELECT nonsense")
	require.Error(t, err)
	require.Empty(t, pgdb.Constraint(err))
	require.Empty(t, pgdb.Constraint(nil))
}

func TestFaultTellsAServerThatIsAwayFromAWrongStatement(t *testing.T) {
	t.Parallel()
	state := func(code string) error { return &pgconn.PgError{Code: code} }
	for name, err := range map[string]error{
		"no connection":                     &pgconn.ConnectError{},
		"too many connections":              state("53300"),
		"the server shuts down":             state("57P01"),
		"the server starts":                 state("57P03"),
		"the statement was cancelled":       state("57014"),
		"a connection exception":            state("08006"),
		"a failover":                        state("25006"),
		"a deadlock":                        state("40P01"),
		"a transaction that lay idle":       state("25P03"),
		"a timeout":                         fmt.Errorf("query: %w", context.DeadlineExceeded),
		"a caller that went away":           context.Canceled,
		"a connection that broke":           fmt.Errorf("read: %w", io.ErrUnexpectedEOF),
		"a connection that is closed":       pgconn.ErrConnClosed,
		"unavailable as somebody else said": apperr.Unavailable(errors.New("x")),
	} {
		require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(pgdb.Fault(err)), name)
	}
	for name, err := range map[string]error{
		"a syntax error":     state("42601"),
		"a missing right":    state("42501"),
		"a violated unique":  state("23505"),
		"a state that is no": state("x"),
		"another error":      errors.New("bug"),
	} {
		fault := pgdb.Fault(err)
		require.ErrorIs(t, fault, err, name)
		require.Empty(t, apperr.CodeOf(fault), name)
	}
	require.NoError(t, pgdb.Fault(nil))
	require.Equal(t, pgx.ErrNoRows, pgdb.Fault(pgx.ErrNoRows))
	typed := apperr.New(apperr.AgentNotFound, "no such agent")
	require.Equal(t, error(typed), pgdb.Fault(typed))
}

func TestAStoppedServerIsUnavailableAndComesBack(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patient)
	defer cancel()
	cfg := devservers.PostgresConfig{Dir: filepath.Join(t.TempDir(), "pg"), Password: "x"}
	server, err := devservers.StartPostgres(ctx, cfg)
	if errors.Is(err, devservers.ErrNotFound) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { server.Stop() })
	db := testkit.Open(t, server.AdminURL())
	require.NoError(t, db.Ready(ctx))
	server.Stop()
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(db.Ready(ctx)))

	cfg.Port = int(db.Config().ConnConfig.Port)
	server, err = devservers.StartPostgres(ctx, cfg)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return db.Ready(ctx) == nil }, patient, 10*time.Millisecond)
}

// hanging is the URL of a server that greets who comes, says that it takes writes, and answers nothing else.
func hanging(t *testing.T) config.Secret {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var conns []net.Conn
	ended := make(chan struct{})
	t.Cleanup(func() {
		_ = listener.Close()
		<-ended
		for _, conn := range conns {
			_ = conn.Close()
		}
	})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
			server := pgproto3.NewBackend(conn, conn)
			if message, err := server.ReceiveStartupMessage(); err == nil {
				if _, greeted := message.(*pgproto3.StartupMessage); greeted {
					server.Send(&pgproto3.AuthenticationOk{})
					server.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
					_ = server.Flush()
					_, _ = server.Receive() // whether it takes writes
					server.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("transaction_read_only")}}})
					server.Send(&pgproto3.DataRow{Values: [][]byte{[]byte("off")}})
					server.Send(&pgproto3.CommandComplete{CommandTag: []byte("SHOW")})
					server.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
					_ = server.Flush()
				}
			}
		}
	}()
	return config.Secret("postgres://nobody@" + listener.Addr().String() + "/none?sslmode=disable")
}

func TestAServerThatHangsDoesNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	db, err := pgdb.Open(t.Context(), pgdb.Config{URL: hanging(t), MaxConns: 2}, telemetry.Discard("test"))
	require.NoError(t, err)
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		require.ErrorIs(t, db.Ready(ctx), context.DeadlineExceeded)
		cancel()
	}
	require.EqualValues(t, 2, db.Stat().TotalConns(), "the test is about statements that were given up")
	begun := time.Now()
	db.Close()
	require.Less(t, time.Since(begun), 8*time.Second)
}

func TestAServerThatTakesNoWritesIsUnavailableUntilItDoes(t *testing.T) {
	t.Parallel()
	urls := testkit.Postgres(t, "registry")
	admin := testkit.Open(t, urls.AdminURL)
	alter := func(setting string) {
		_, err := admin.Exec(t.Context(), "ALTER DATABASE "+pgx.Identifier{admin.Config().ConnConfig.Database}.Sanitize()+" "+setting)
		require.NoError(t, err)
	}
	alter("SET default_transaction_read_only = on")
	db := testkit.Open(t, urls.OwnerURL)
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(db.Ready(t.Context())))
	asked, err := url.Parse(urls.OwnerURL)
	require.NoError(t, err)
	query := asked.Query()
	query.Set("target_session_attrs", "read-only")
	asked.RawQuery = query.Encode()
	require.NoError(t, testkit.Open(t, asked.String()).Ready(t.Context()), "what the URL asks for")

	alter("RESET default_transaction_read_only")
	_, err = db.Exec(t.Context(), "CREATE TABLE registry.things ()")
	require.NoError(t, err)
}

func TestAConnectionThatTakesNoWritesAnyMoreIsThrownAway(t *testing.T) {
	t.Parallel()
	ctx, owner := setup(t)
	db, err := pgdb.Open(ctx, pgdb.Config{URL: config.Secret(owner.Config().ConnString()), MaxConns: 1}, telemetry.Discard("test"))
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec(ctx, "SET default_transaction_read_only = on")
	require.NoError(t, err)
	err = db.WithTx(ctx, func(tx pgx.Tx) error { return insert(ctx, tx, 1, 1) })
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(pgdb.Fault(err)))
	require.NoError(t, insert(ctx, db, 1, 1))
}

func TestAServerThatTakesNoConnectionIsUnavailable(t *testing.T) {
	t.Parallel()
	ctx, owner := setup(t)
	config := owner.Config().ConnConfig.Copy()
	config.Database = "there_is_no_such_database"
	_, err := pgx.ConnectConfig(ctx, config)
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused, "the server itself says no")
	require.Equal(t, apperr.ServiceUnavailable, apperr.CodeOf(pgdb.Fault(err)))
}

func TestStatementsAreTimedUnderTheirNames(t *testing.T) {
	t.Parallel()
	ctx, owner := setup(t)
	tel := telemetry.Discard("test")
	db, err := pgdb.Open(ctx, pgdb.Config{URL: config.Secret(owner.Config().ConnString()), MaxConns: 2}, tel)
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.WithTx(ctx, func(tx pgx.Tx) error { return insert(ctx, tx, 1, 1) }))
	require.Error(t, insert(ctx, db, 1, 1))
	_, err = db.Exec(ctx, "SELECT 'a secret in a statement without a name'")
	require.NoError(t, err)
	_, err = db.Exec(ctx, "-- name: \nSELECT 1")
	require.NoError(t, err)
	batch := &pgx.Batch{}
	batch.Queue("-- name: thing_none\nSELECT 1 WHERE false").Query(func(rows pgx.Rows) error { rows.Close(); return rows.Err() })
	batch.Queue("-- name: thing_one\nSELECT 1").QueryRow(func(row pgx.Row) error { return row.Scan(new(int)) })
	batch.Queue("-- name: thing_wrong\nSELECT 1 / (SELECT 0)")
	batch.Queue("-- name: thing_never\nSELECT 1")
	require.Error(t, db.SendBatch(ctx, batch).Close())

	seen := map[string]uint64{}
	families, err := tel.Metrics.Registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() == "agentidp_db_query_duration_seconds" {
			for _, m := range family.GetMetric() {
				seen[m.GetLabel()[0].GetValue()] = m.GetHistogram().GetSampleCount()
			}
		}
	}
	require.Equal(t, map[string]uint64{"begin": 1, "commit": 1, "thing_insert": 2, "unnamed": 2, "thing_none": 1, "thing_one": 1, "thing_wrong": 1}, seen)
}
