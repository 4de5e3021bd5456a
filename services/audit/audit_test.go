package audit_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/auditevent"
	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/testkit"
	"github.com/sentryagent/agentidp/services/audit"
)

const (
	issuer        = "https://idp.example.com"
	internalToken = "internal-token-of-a-test"
	patience      = 30 * time.Second
)

type bundle struct {
	*testkit.Replica

	tokens *testkit.TokenService
	key    testkit.LogKey
	conn   *natsx.Conn
}

func setup(t *testing.T) *bundle {
	t.Helper()
	return setupWith(t, testkit.Postgres(t, "audit"), nil)
}

// setupWith is setup on a database, with more settings.
func setupWith(t *testing.T, database testkit.Database, more map[string]string) *bundle {
	t.Helper()
	b := &bundle{tokens: testkit.StartTokenService(t, issuer), key: testkit.AuditLogKey(t)}
	nats := testkit.NATSServer(t)
	b.conn = testkit.ConnectNATS(t, nats.URL())
	settings := map[string]string{
		"PUBLIC_ADDR": "127.0.0.1:0", "INTERNAL_ADDR": "127.0.0.1:0", "INTERNAL_API_TOKEN": internalToken, "DRAIN_DELAY": "0s",
		"DATABASE_URL": database.AppURL, "NATS_URL": nats.URL(), "REDIS_URL": "redis://" + miniredis.RunT(t).Addr(),
		"REDIS_KEY_PREFIX": uuid.NewString() + ":", "ISSUER": issuer, "TOKEN_INTERNAL_URL": b.tokens.URL,
		"AUDIT_LOG_KEY": b.key.Secret,
	}
	maps.Copy(settings, more)
	cfg, err := audit.LoadConfig(testkit.Environment(settings))
	require.NoError(t, err)
	b.Replica = testkit.Serve(t, audit.New, cfg, io.Discard)
	b.AwaitReady(t)
	return b
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (b *bundle) get(t *testing.T, url, token string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return answer{response.StatusCode, response.Header, body}
}

func TestAPublishedEventIsReadByWhoMayReadIt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	agent, id := uuid.New(), uuid.Must(uuid.NewV7())
	event := auditevent.New(id, time.Now(), "registry", auditevent.AgentCreated, &agent, auditevent.Origin{IPAddress: "203.0.113.7"}, nil)
	message, err := event.Message()
	require.NoError(t, err)
	require.Eventually(t, func() bool { // the service declares the stream when it can
		_, err := b.conn.JS().Publish(t.Context(), message.Subject, message.Payload)
		return err == nil
	}, patience, 50*time.Millisecond)

	reader := b.tokens.Sign(t, uuid.New(), "audit:read")
	one := b.Public + "/api/v1/audit/" + id.String()
	require.Eventually(t, func() bool { return b.get(t, one, reader).status == http.StatusOK }, patience, 50*time.Millisecond)

	list := b.get(t, b.Public+"/api/v1/audit?agentId="+agent.String(), reader)
	require.Equal(t, http.StatusOK, list.status, string(list.body))
	require.Equal(t, "100", list.header.Get("X-RateLimit-Limit"))
	var body struct {
		Data  []map[string]any `json:"data"`
		Total int              `json:"total"`
	}
	require.NoError(t, json.Unmarshal(list.body, &body))
	require.Equal(t, 1, body.Total)
	require.Equal(t, id.String(), body.Data[0]["eventId"])
	require.Equal(t, "203.0.113.7", body.Data[0]["ipAddress"])

	for _, url := range []string{one, b.Public + "/api/v1/audit"} {
		refused := b.get(t, url, "")
		require.Equal(t, http.StatusUnauthorized, refused.status)
		require.Contains(t, refused.header.Get("WWW-Authenticate"), "Bearer")
		refused = b.get(t, url, b.tokens.Sign(t, uuid.New(), "agents:read agents:write tokens:read"))
		require.Equal(t, http.StatusForbidden, refused.status)
		require.Contains(t, refused.header.Get("WWW-Authenticate"), `scope="audit:read"`)
		require.Equal(t, http.StatusOK, b.get(t, url, b.tokens.Sign(t, uuid.New(), "agents:admin")).status)
	}
}

// An event that the replica has just stored is published onward from memory; only what another one stored is read again.
func TestWhatIsPublishedOnwardIsNotReadAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	onward := func() uint64 {
		stream, err := b.conn.JS().Stream(t.Context(), natsx.OnwardStream)
		if err != nil {
			return 0 // the service declares it when it can
		}
		return stream.CachedInfo().State.LastSeq
	}
	reads := func() string { return readsOfLeaves.FindString(string(b.get(t, b.Internal+"/metrics", "").body)) }
	publish := func() {
		event := auditevent.New(uuid.Must(uuid.NewV7()), time.Now(), "registry", auditevent.AgentCreated, nil, auditevent.Origin{}, nil)
		message, err := event.Message()
		require.NoError(t, err)
		published := onward()
		require.Eventually(t, func() bool { // the service declares the streams when it can
			_, err := b.conn.JS().Publish(t.Context(), message.Subject, message.Payload)
			return err == nil
		}, patience, 50*time.Millisecond)
		require.Eventually(t, func() bool { return onward() > published }, patience, 10*time.Millisecond)
	}
	publish()
	reader := b.tokens.Sign(t, uuid.New(), "audit:read")
	require.Equal(t, http.StatusOK, b.get(t, b.Public+"/api/v1/audit/export", reader).status)
	require.NotEmpty(t, reads(), "an export does read")

	// One may be read: a look between its commit and the word of it finds it in the database alone.
	for deadline, before := time.Now().Add(patience), ""; before != reads(); {
		require.True(t, time.Now().Before(deadline), "each was read")
		before = reads()
		publish()
	}
}

var readsOfLeaves = regexp.MustCompile(`agentidp_db_query_duration_seconds_count\{[a-z]+="leaf_rows"\} \d+`)

func TestTheInternalListenerHasTheMetricsAndThePublicOneHasNot(t *testing.T) {
	t.Parallel()
	b := setup(t)
	metrics := b.get(t, b.Internal+"/metrics", "")
	require.Equal(t, http.StatusOK, metrics.status)
	require.Contains(t, string(metrics.body), "agentidp_audit_lag_seconds 0")
	require.Equal(t, http.StatusNotFound, b.get(t, b.Public+"/metrics", "").status)
	require.Equal(t, http.StatusOK, b.get(t, b.Public+"/healthz", "").status)
	b.Stop()
}

func TestTheServiceStartsBeforeWhatItNeeds(t *testing.T) {
	t.Parallel()
	cfg, err := audit.LoadConfig(testkit.Environment(map[string]string{
		"PUBLIC_ADDR": "127.0.0.1:0", "INTERNAL_ADDR": "127.0.0.1:0", "INTERNAL_API_TOKEN": internalToken, "DRAIN_DELAY": "0s",
		"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none", "NATS_URL": "nats://127.0.0.1:1", "REDIS_URL": "redis://127.0.0.1:1",
		"ISSUER": issuer, "TOKEN_INTERNAL_URL": "http://127.0.0.1:1", "AUDIT_LOG_KEY": testkit.AuditLogKey(t).Secret,
	}))
	require.NoError(t, err)
	b := &bundle{Replica: testkit.Serve(t, audit.New, cfg, io.Discard)}
	require.Equal(t, http.StatusOK, b.get(t, b.Public+"/healthz", "").status)
	require.Equal(t, http.StatusServiceUnavailable, b.get(t, b.Internal+"/readyz", "").status)
	b.Stop()
}

func TestAReplicaThatLosesPostgresIsNotReady(t *testing.T) {
	t.Parallel()
	database := testkit.Postgres(t, "audit")
	b := setupWith(t, database, nil)
	database.Stop(t)
	require.Equal(t, http.StatusServiceUnavailable, b.get(t, b.Internal+"/readyz", "").status)
}

func TestConfigNamesEverythingThatIsMissingOrWrong(t *testing.T) {
	t.Parallel()
	_, err := audit.LoadConfig(testkit.Environment(nil))
	for _, name := range []string{"DATABASE_URL", "NATS_URL", "REDIS_URL", "ISSUER", "INTERNAL_API_TOKEN", "TOKEN_INTERNAL_URL", "AUDIT_LOG_KEY"} {
		require.ErrorContains(t, err, name)
	}
	good := map[string]string{
		"DATABASE_URL": "postgres://x", "NATS_URL": "nats://x", "REDIS_URL": "redis://x", "ISSUER": issuer,
		"INTERNAL_API_TOKEN": internalToken, "TOKEN_INTERNAL_URL": "http://token:9090", "AUDIT_LOG_KEY": testkit.AuditLogKey(t).Secret,
	}
	cfg, err := audit.LoadConfig(testkit.Environment(good))
	require.NoError(t, err)
	require.Equal(t, 90, cfg.RetentionDays)
	secret, plain, err := auditlog.GenerateKey(rand.Reader, "witness.example")
	require.NoError(t, err)
	cosigner, err := auditlog.NewCosigner(secret, time.Now)
	require.NoError(t, err)
	public := cosigner.PublicKey()
	peer, same := public+"@https://witness.example", plain+"@https://witness.example"
	good["AUDIT_WITNESSES"] = peer
	_, err = audit.LoadConfig(testkit.Environment(good))
	require.NoError(t, err)
	for name, values := range map[string][]string{
		"AUDIT_WITNESSES":              {"witness.example", public, peer + "," + peer, peer + "," + same},
		"AUDIT_WITNESS_QUORUM":         {"0", "2", "most"},
		"AUDIT_RETENTION_DAYS":         {"0", "-1", "36501", "many"},
		"TOKEN_INTERNAL_URL":           {"token:9090", "http://", "ftp://token"},
		"AUDIT_RETENTION_DATABASE_URL": {"postgres://user:hunter2@host:port/db"},
		"AUDIT_LOG_KEY":                {"no-such-form", testkit.AuditLogKey(t).Public},
	} {
		for _, value := range values {
			wrong := map[string]string{name: value}
			for other, good := range good {
				if other != name {
					wrong[other] = good
				}
			}
			_, err := audit.LoadConfig(testkit.Environment(wrong))
			require.ErrorContains(t, err, name, fmt.Sprint(value))
			if name == "AUDIT_LOG_KEY" || name == "AUDIT_RETENTION_DATABASE_URL" {
				require.NotContains(t, err.Error(), value)
			}
		}
	}
}

func TestMigrateNeedsTheOwnersURLAndNothingElse(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, audit.Migrate(t.Context(), testkit.Environment(nil)), "MIGRATE_DATABASE_URL")
	owner := testkit.Postgres(t, "audit").OwnerURL
	require.NoError(t, audit.Migrate(t.Context(), testkit.Environment(map[string]string{"MIGRATE_DATABASE_URL": owner})), "again changes nothing")
}
