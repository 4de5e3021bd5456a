package auditor_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/oauth2"

	"github.com/sentryagent/agentidp/cmd/agentidp/internal/auditor"
	"github.com/sentryagent/agentidp/cmd/agentidp/internal/witness"
	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/testkit"
	auditservice "github.com/sentryagent/agentidp/services/audit"
)

const patience = time.Minute

// running is the real audit service, and a superuser's connection to its database.
type running struct {
	t      *testing.T
	key    testkit.LogKey
	admin  *pgx.Conn
	conn   *natsx.Conn
	base   string
	client *auditor.Client
	size   int64
	sent   int
	dir    string // of the auditor
}

func run(t *testing.T, settings map[string]string) *running {
	t.Helper()
	r := &running{t: t, key: testkit.AuditLogKey(t), dir: t.TempDir()}
	database, nats := testkit.Postgres(t, "audit"), testkit.NATSServer(t)
	r.conn = testkit.ConnectNATS(t, nats.URL())
	var err error
	r.admin, err = pgx.Connect(t.Context(), database.AdminURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.admin.Close(context.Background()) })
	tokens := testkit.StartTokenService(t, issuer)
	values := map[string]string{
		"PUBLIC_ADDR": "127.0.0.1:0", "INTERNAL_ADDR": "127.0.0.1:0", "INTERNAL_API_TOKEN": "internal-token-of-a-test", "DRAIN_DELAY": "0s",
		"DATABASE_URL": database.AppURL, "NATS_URL": nats.URL(), "REDIS_URL": "redis://" + miniredis.RunT(t).Addr(), "RATE_LIMIT_PER_MINUTE": "0",
		"REDIS_KEY_PREFIX": uuid.NewString() + ":", "ISSUER": issuer, "TOKEN_INTERNAL_URL": tokens.URL, "AUDIT_LOG_KEY": r.key.Secret,
	}
	maps.Copy(values, settings)
	cfg, err := auditservice.LoadConfig(testkit.Environment(values))
	require.NoError(t, err)
	r.base = testkit.Serve(t, auditservice.New, cfg, io.Discard).Public
	source := oauth2.StaticTokenSource(&oauth2.Token{AccessToken: tokens.Sign(t, uuid.New(), "audit:read")})
	r.client, err = auditor.NewClient(r.base, oauth2.NewClient(context.Background(), source))
	require.NoError(t, err)
	return r
}

const issuer = "https://idp.example.com"

// publish has so many events stored, ten a day from three days ago on, and waits until they are leaves.
func (r *running) publish(events int) {
	r.t.Helper()
	for range events {
		agent := uuid.New()
		at := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, min(r.sent/10, 3)-3)
		event := auditevent.New(uuid.New(), at, "registry", auditevent.AgentCreated, &agent,
			auditevent.Origin{IPAddress: "203.0.113.7"}, map[string]any{"n": r.sent, "text": "<\u2028>"})
		message, err := event.Message()
		require.NoError(r.t, err)
		require.Eventually(r.t, func() bool { // the service declares the stream when it can
			_, err := r.conn.JS().Publish(r.t.Context(), message.Subject, message.Payload)
			return err == nil
		}, patience, 20*time.Millisecond)
		r.sent++
	}
	require.Eventually(r.t, func() bool { return r.treeSize() == r.size+int64(events) }, patience, 20*time.Millisecond)
	r.size += int64(events)
}

func (r *running) treeSize() (size int64) {
	r.t.Helper()
	require.NoError(r.t, r.admin.QueryRow(r.t.Context(), "SELECT size FROM audit.tree").Scan(&size))
	return size
}

// do is what a superuser does.
func (r *running) do(statements ...string) {
	r.t.Helper()
	for _, statement := range statements {
		_, err := r.admin.Exec(r.t.Context(), statement)
		require.NoError(r.t, err, statement)
	}
}

const tables = "events tiles tree dropped_partitions"

// backUp copies the tables, restore brings the copy back, as from an old backup.
func (r *running) backUp(name string) {
	r.t.Helper()
	r.do("CREATE SCHEMA " + name)
	for table := range strings.FieldsSeq(tables) {
		r.do(fmt.Sprintf("CREATE TABLE %s.%s AS TABLE audit.%s", name, table, table))
	}
}

func (r *running) restore(name string) {
	r.t.Helper()
	for table := range strings.FieldsSeq(tables) {
		r.do(fmt.Sprintf("DELETE FROM audit.%s", table), fmt.Sprintf("INSERT INTO audit.%s SELECT * FROM %s.%s", table, name, table))
	}
	r.size = r.treeSize()
}

// verify is what an auditor does every day.
func (r *running) verify(witnesses ...note.Verifier) *auditor.Report {
	r.t.Helper()
	state := filepath.Join(r.dir, "checkpoint")
	trail := auditor.NewTrail(r.key.Verifier, witnesses...)
	kept, ok, err := auditor.LoadCheckpoint(state, r.key.Verifier)
	require.NoError(r.t, err)
	if ok {
		trail.Keep(kept)
	}
	known, err := auditor.OpenHashes(filepath.Join(r.dir, "hashes"))
	require.NoError(r.t, err)
	defer func() { require.NoError(r.t, known.Close()) }()
	trail.Compare(known)
	require.NoError(r.t, auditor.Online(r.t.Context(), r.client, trail, 0, false))
	report := trail.Report()
	if believed := trail.Believed(); believed != nil && !report.Tampered() {
		require.NoError(r.t, known.Save(trail.Solid()))
		require.NoError(r.t, auditor.SaveCheckpoint(state, believed))
	}
	return report
}

func TestASuperuserOfTheDatabaseIsFoundOut(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	r.publish(40)
	report := r.verify()
	require.True(t, report.Proven(), "%v", report.Findings)
	require.EqualValues(t, 40, report.Events)

	for table := range strings.FieldsSeq(tables) {
		r.do("ALTER TABLE audit." + table + " DISABLE TRIGGER ALL")
	}
	r.backUp("good")
	const change = `UPDATE audit.events SET payload = replace(payload::text, '203.0.113.7', '198.51.100.1')::json WHERE leaf_index = 7`
	const copyRow = `INSERT INTO audit.events (event_id, timestamp, leaf_index, action, outcome, service, payload)
		SELECT '0199aa10-7000-73a1-82c4-9d1c5e0b7a41', timestamp, %d, action, outcome, service,
		replace(payload::text, event_id::text, '0199aa10-7000-73a1-82c4-9d1c5e0b7a41')::json FROM audit.events WHERE leaf_index = 7`
	type found = map[auditor.Kind][]int64
	for _, test := range []struct {
		name string
		do   func()
		want found
	}{
		{"a field is changed", func() { r.do(change) }, found{auditor.Changed: {7}}},
		{"a field is changed, and its hash with it", func() {
			r.do(change)
			r.rehash(7)
		}, found{auditor.Broken: {-1}, auditor.Changed: {7}}},
		{"a row is deleted", func() { r.do("DELETE FROM audit.events WHERE leaf_index = 7") }, found{auditor.Missing: {7}}},
		{"two rows change places", func() {
			r.do("UPDATE audit.events SET leaf_index = 27 - leaf_index WHERE leaf_index IN (7, 20)")
		}, found{auditor.Moved: {7, 20}}},
		{"a row is added behind the last", func() { r.do(fmt.Sprintf(copyRow, 40)) }, found{auditor.Added: {40}}},
		{"a row is added beside another", func() { r.do(fmt.Sprintf(copyRow, 9)) }, found{auditor.Added: {9}}},
		{"a day is deleted, and retention blamed", func() {
			r.do("DELETE FROM audit.events WHERE leaf_index BETWEEN 10 AND 19",
				"INSERT INTO audit.dropped_partitions SELECT (now() AT TIME ZONE 'UTC')::date - 2, 10, 10, 19")
		}, found{auditor.Missing: {10}}},
	} {
		test.do()
		report := r.verify()
		require.Equal(t, test.want, kinds(report), "%s: %v", test.name, report.Findings)
		r.restore("good")
	}
	require.True(t, r.verify().Proven(), "all is as it was")

	r.publish(20)
	require.True(t, r.verify().Proven())
	r.restore("good")
	require.Equal(t, found{auditor.Rollback: {-1}}, kinds(r.verify()), "an old backup")
	r.publish(30)
	report = r.verify()
	require.Contains(t, kinds(report), auditor.Forked, "an old backup that was gone on with")
	require.Contains(t, kinds(report)[auditor.Changed], int64(40), "from here on it is another past")
	require.NotContains(t, kinds(report)[auditor.Changed], int64(39))
}

// rehash puts the hash that a row has now into the log.
func (r *running) rehash(index int64) {
	r.t.Helper()
	var payload string
	require.NoError(r.t, r.admin.QueryRow(r.t.Context(), "SELECT payload::text FROM audit.events WHERE leaf_index = $1", index).Scan(&payload))
	leaf, err := auditlog.Leaf([]byte(payload))
	require.NoError(r.t, err)
	hash := auditlog.HashLeaf(leaf)
	_, err = r.admin.Exec(r.t.Context(), "UPDATE audit.tiles SET data = overlay(data PLACING $1 FROM $2) WHERE level = 0 AND index = 0", hash[:], index*tlog.HashSize+1)
	require.NoError(r.t, err)
}

// watched is the real service with a real witness, which answers while it is awake.
func watched(t *testing.T) (r *running, verifier note.Verifier, awake *atomic.Bool) {
	t.Helper()
	secret, public, err := auditlog.GenerateWitnessKey(rand.Reader, "witness.example")
	require.NoError(t, err)
	cosigner, err := auditlog.NewCosigner(secret, time.Now)
	require.NoError(t, err)
	verifier, err = auditlog.NewCosignatureVerifier(public)
	require.NoError(t, err)
	key := testkit.AuditLogKey(t)
	dir, logs := t.TempDir(), []note.Verifier{key.Verifier}
	require.NoError(t, witness.Init(dir, logs))
	w, err := witness.New(dir, cosigner, logs, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	awake = &atomic.Bool{}
	awake.Store(true)
	server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, request *http.Request) {
		if !awake.Load() {
			out.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.ServeHTTP(out, request)
	}))
	t.Cleanup(server.Close)
	r = run(t, map[string]string{"AUDIT_LOG_KEY": key.Secret, "AUDIT_WITNESSES": public + "@" + server.URL})
	r.key = key
	return r, verifier, awake
}

func TestAWitnessSeesWhatTheServiceSigns(t *testing.T) {
	t.Parallel()
	r, verifier, _ := watched(t)
	for _, events := range []int{5, 300} {
		r.publish(events)
		var seen []auditor.Witnessed
		require.Eventually(t, func() bool {
			report := r.verify(verifier)
			require.False(t, report.Tampered(), "%v", report.Findings)
			seen = report.Witnesses
			return report.Proven() && seen[0].TreeSize == r.size
		}, patience, 50*time.Millisecond)
		require.Equal(t, "witness.example", seen[0].Name)
	}
}

// overHTTP reads tiles as a client of the Go checksum database does: whole tiles where there are some, and
// each hash held against the signed root before it is used.
type overHTTP struct {
	t    *testing.T
	base string
	read int
}

func (o *overHTTP) Height() int { return auditlog.TileHeight }

func (o *overHTTP) SaveTiles([]tlog.Tile, [][]byte) {}

func (o *overHTTP) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		answer, err := http.Get(o.base + "/api/v1/audit/" + auditlog.TilePath(tile))
		require.NoError(o.t, err)
		data[i], err = io.ReadAll(answer.Body)
		require.NoError(o.t, err)
		_ = answer.Body.Close()
		require.Equal(o.t, http.StatusOK, answer.StatusCode, auditlog.TilePath(tile))
		o.read++
	}
	return data, nil
}

func TestAStrangersClientReadsTheTilesAsTheyAre(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	r.publish(5)
	signed, err := r.client.Checkpoint(t.Context())
	require.NoError(t, err)
	before, _, err := auditlog.Open(signed, r.key.Verifier)
	require.NoError(t, err)
	r.publish(600)
	signed, err = r.client.Checkpoint(t.Context())
	require.NoError(t, err)
	head, _, err := auditlog.Open(signed, r.key.Verifier)
	require.NoError(t, err)
	require.EqualValues(t, 605, head.Size)

	tiles := &overHTTP{t: t, base: r.base}
	reader := tlog.TileHashReader(tlog.Tree{N: head.Size, Hash: head.Root}, tiles)
	ours, err := tlog.ProveTree(head.Size, before.Size, reader)
	require.NoError(t, err)
	require.NoError(t, tlog.CheckTree(ours, head.Size, head.Root, before.Size, before.Root))
	theirs, err := r.client.Consistency(t.Context(), before.Size, head.Size)
	require.NoError(t, err)
	require.EqualValues(t, ours, theirs.Hashes, "the proof that is served is the one that the tiles give")

	for _, index := range []int64{0, 4, 255, 256, 604} {
		var id uuid.UUID
		require.NoError(t, r.admin.QueryRow(t.Context(), "SELECT event_id FROM audit.events WHERE leaf_index = $1", index).Scan(&id))
		proof, err := r.client.Proof(t.Context(), id)
		require.NoError(t, err)
		path, err := tlog.ProveRecord(head.Size, index, reader)
		require.NoError(t, err)
		require.EqualValues(t, path, proof.Hashes)
		require.NoError(t, tlog.CheckRecord(path, head.Size, head.Root, index, auditlog.HashLeaf([]byte(proof.Leaf))))
	}
	require.Positive(t, tiles.read)
}

func TestAnHonestLogIsBelievedWhileItsWitnessComesAndGoes(t *testing.T) {
	t.Parallel()
	r, verifier, awake := watched(t)
	size := int64(0)
	// caughtUp asks again and again, with one state, until all that was published is there.
	caughtUp := func(witnesses ...note.Verifier) {
		t.Helper()
		require.Eventually(t, func() bool {
			report := r.verify(witnesses...)
			require.False(t, report.Tampered(), "%v", report.Findings)
			require.GreaterOrEqual(t, report.TreeSize, size)
			size = report.TreeSize
			return report.Proven() && size == r.size
		}, patience, 20*time.Millisecond)
	}
	for range 2 {
		awake.Store(true)
		r.publish(3)
		caughtUp(verifier)
		awake.Store(false)
		r.publish(3)
		r.requireNewestProof()
		caughtUp()
		r.publish(3) // nobody is waited for any more
		r.requireNewestProof()
		caughtUp()
	}
}

// requireNewestProof has the newest event proven at once, which leaves the state as it is.
func (r *running) requireNewestProof() {
	r.t.Helper()
	var id uuid.UUID
	require.NoError(r.t, r.admin.QueryRow(r.t.Context(), "SELECT event_id FROM audit.events ORDER BY leaf_index DESC LIMIT 1").Scan(&id))
	trail := auditor.NewTrail(r.key.Verifier)
	kept, ok, err := auditor.LoadCheckpoint(filepath.Join(r.dir, "checkpoint"), r.key.Verifier)
	require.NoError(r.t, err)
	require.True(r.t, ok)
	trail.Keep(kept)
	require.NoError(r.t, auditor.OnlineProof(r.t.Context(), r.client, trail, id))
	report := trail.Report()
	require.True(r.t, report.Proven(), "%v", report.Findings)
	require.Equal(r.t, r.size, report.TreeSize)
	require.Nil(r.t, trail.Believed(), "the log may give out an older checkpoint for a while")
}
