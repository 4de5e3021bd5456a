package monitoring

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/util/teststorage"
	"github.com/stretchr/testify/require"
)

// history is what Prometheus has scraped, a sample a minute, from the time 0 on. A series is in promtool's notation.
type history struct {
	after  time.Duration // when it is asked
	series []string
}

// story is a bad history of an alert and one that looks much like it and is good.
type story struct{ bad, good history }

func minutes(n int) time.Duration { return time.Duration(n) * time.Minute }

func at(n int, series ...string) history { return history{after: minutes(n), series: series} }

// tokens counts requests for tokens: so many a minute succeed, so many fail, for n minutes.
func tokens(success, failed, n int) []string {
	return []string{
		fmt.Sprintf(`agentidp_tokens_issued_total{job="token",outcome="success"} 0+%dx%d`, success, n),
		fmt.Sprintf(`agentidp_tokens_issued_total{job="token",outcome="temporarily_unavailable"} 0+%dx%d`, failed, n),
		fmt.Sprintf(`agentidp_tokens_issued_total{job="token",outcome="error"} 0x%d`, n),
		// A flood of wrong secrets changes nothing about how well the others are served.
		fmt.Sprintf(`agentidp_tokens_issued_total{job="token",outcome="invalid_client"} 0+100000x%d`, n),
	}
}

// times has so many tokens a minute within 250 ms, and so many that take longer.
func times(quick, slow, n int) []string {
	return []string{
		fmt.Sprintf(`agentidp_token_issue_duration_seconds_bucket{job="token",le="0.25"} 0+%dx%d`, quick, n),
		fmt.Sprintf(`agentidp_token_issue_duration_seconds_count{job="token"} 0+%dx%d`, quick+slow, n),
	}
}

// then is a history that goes on in another way after n minutes: the second value of each series per minute.
func then(name string, first, n, second, m int) string {
	return fmt.Sprintf("%s 0+%dx%d %d+%dx%d", name, first, n, first*n+second, second, m-1)
}

func stories() map[string]story {
	const day = 24 * 60
	const schema = `agentidp_schema_version_needed{job="token",instance="a"} 4x60`
	up := func(value string) []string {
		return []string{`up{job="registry"} 1x60`, `up{job="credentials"} 1x60`, `up{job="audit"} 1x60`, `up{job="token",instance="a"} ` + value}
	}
	requests := func(code, path string, each int) string {
		return fmt.Sprintf(`agentidp_http_requests_total{job="registry",path=%q,status_code=%q} 0+%dx60`, path, code, each)
	}
	witness := func(result string, each int) string {
		return fmt.Sprintf(`agentidp_audit_witness_answers_total{witness="w",result=%q} 0+%dx120`, result, each)
	}
	return map[string]story{
		// 2 % of the requests fail for an hour: twenty times what 0.1 % allows.
		"AgentIDPTokenErrorsBurnFast": {at(70, tokens(98, 2, 70)...), at(70, tokens(9995, 5, 70)...)},
		// 0.4 % for a day.
		"AgentIDPTokenErrorsBurnSlow": {at(day+60, tokens(996, 4, day+60)...), at(day+60, tokens(9995, 5, day+60)...)},
		// 20 % for an hour, of 1 %.
		"AgentIDPTokenLatencyBurnFast": {at(70, times(80, 20, 70)...), at(70, times(995, 5, 70)...)},
		"AgentIDPTokenLatencyBurnSlow": {at(day+60, times(96, 4, day+60)...), at(day+60, times(995, 5, day+60)...)},

		"AgentIDPServiceDown": {at(30, up("0x60")...), at(30, up("1x60")...)},
		"AgentIDPServiceGone": {at(30, up("0x60")...), at(30, append(up("0x60"), `up{job="token",instance="b"} 1x60`)...)},
		"AgentIDPNotReady":    {at(30, `agentidp_ready{job="token",instance="a"} 0x60`), at(30, `agentidp_ready{job="token",instance="a"} 1x27 0 1x9`)},
		"AgentIDPNoneReady": {
			at(30, `agentidp_ready{job="token",instance="a"} 0x60`),
			at(30, `agentidp_ready{job="token",instance="a"} 0x60`, `agentidp_ready{job="token",instance="b"} 1x60`),
		},
		"AgentIDPSchemaOld": {
			at(30, schema, `agentidp_schema_version{job="token",instance="a"} 3x60`, `agentidp_dependency_up{job="token",instance="a",dependency="postgres"} 1x60`),
			at(30, schema, `agentidp_schema_version{job="token",instance="a"} 0x60`, `agentidp_dependency_up{job="token",instance="a",dependency="postgres"} 0x60`),
		},
		"AgentIDPRestarts": {
			at(30, `process_start_time_seconds{job="token",instance="a"} 0x20 1 1 1 2 2 2 3 3 3 4x60`),
			at(30, `process_start_time_seconds{job="token",instance="a"} 0x20 1x60`),
		},
		"AgentIDPServerErrors": {
			at(30, requests("503", "/api/v1/agents", 5), requests("200", "/api/v1/agents", 95)),
			at(30, requests("503", "/readyz", 50), requests("200", "/api/v1/agents", 95)),
		},
		"AgentIDPInternalTokenRefused": {at(30, requests("401", "/internal/v1/agents", 1)), at(30, requests("401", "/api/v1/agents", 1))},

		"AgentIDPCertificateExpires": {
			at(30, `agentidp_tls_certificate_expiry_seconds{job="token",certificate="own"} 86400x60`),
			at(30, `agentidp_tls_certificate_expiry_seconds{job="token",certificate="own"} 864000x60`, `agentidp_tls_certificate_expiry_seconds{job="audit",certificate="own"} 0x60`),
		},
		"AgentIDPPostgresAway":          {at(30, `agentidp_dependency_up{job="token",dependency="postgres"} 0x60`), at(30, `agentidp_dependency_up{job="token",dependency="redis"} 0x60`)},
		"AgentIDPRedisAway":             {at(30, `agentidp_dependency_up{job="token",dependency="redis"} 0x60`), at(30, `agentidp_dependency_up{job="token",dependency="nats"} 0x60`)},
		"AgentIDPNATSAway":              {at(30, `agentidp_dependency_up{job="token",dependency="nats"} 0x60`), at(30, `agentidp_dependency_up{job="token",dependency="postgres"} 0x60`)},
		"AgentIDPVaultAway":             {at(30, `agentidp_dependency_up{job="credentials",dependency="vault"} 0x60`), at(30, `agentidp_dependency_up{job="credentials",dependency="vault"} 1x60`)},
		"AgentIDPVaultDeletionsOverdue": {at(40, `agentidp_vault_deletions_overdue{job="credentials"} 3x60`), at(40, `agentidp_vault_deletions_overdue{job="credentials"} 3x20 0x40`)},
		"AgentIDPRateLimitsOpen":        {at(30, `agentidp_rate_limit_open_total{job="token"} 0+3x60`), at(30, `agentidp_rate_limit_open_total{job="token"} 7x60`)},

		"AgentIDPOutboxWaits":     {at(30, `agentidp_outbox_oldest_seconds{job="token"} 61x60`), at(30, `agentidp_outbox_oldest_seconds{job="token"} 5x60`)},
		"AgentIDPOutboxWaitsLong": {at(30, `agentidp_outbox_oldest_seconds{job="token"} 901x60`), at(30, `agentidp_outbox_oldest_seconds{job="token"} 61x60`)},
		"AgentIDPOutboxFull":      {at(30, `agentidp_outbox_pending{job="token"} 50001x60`), at(30, `agentidp_outbox_pending{job="token"} 500x60`)},
		"AgentIDPAuditLag":        {at(30, `agentidp_audit_lag_seconds{job="audit"} 31x60`), at(30, `agentidp_audit_lag_seconds{job="audit"} 1x60`)},
		"AgentIDPAuditLagLong":    {at(30, `agentidp_audit_lag_seconds{job="audit"} 901x60`), at(30, `agentidp_audit_lag_seconds{job="audit"} 31x60`)},
		"AgentIDPAuditLogStands": {
			at(30, append(tokens(9, 0, 60), `agentidp_audit_checkpoint_timestamp_seconds 60x60`)...),
			at(30, append(tokens(0, 0, 60), `agentidp_audit_checkpoint_timestamp_seconds 60x60`)...), // nothing happens
		},
		"AgentIDPDeadLetters":   {at(30, `agentidp_audit_dead_letters 1x60`), at(30, `agentidp_audit_dead_letters 0x60`)},
		"AgentIDPAuditLogFault": {at(30, `agentidp_audit_log_faults_total{fault="torn"} 0+1x60`), at(30, `agentidp_audit_log_faults_total{fault="torn"} 4x60`)},
		"AgentIDPWitnessForked": {at(30, witness("forked", 1)), at(30, witness("forked", 0))},
		"AgentIDPWitnessAway": {
			at(100, witness("away", 1), witness("signed", 0)),
			at(100, witness("away", 1), witness("signed", 30)), // now and then
		},
		"AgentIDPRetentionBehind": {at(30*60, `agentidp_audit_expired_days 1x1800`), at(30*60, `agentidp_audit_expired_days 0x300 1x1400 0x90`)},

		"AgentIDPAgentLimitNear": {at(30, `agentidp_agents 91x60`, `agentidp_agents_limit 100x60`), at(30, `agentidp_agents 5000x60`, `agentidp_agents_limit 0x60`)},
		"AgentIDPAgentsRefused":  {at(30, `agentidp_agents_registered_total{outcome="limit_exceeded"} 0+1x60`), at(30, `agentidp_agents_registered_total{outcome="already_exists"} 0+1x60`)},
		"AgentIDPQuotaRefusals":  {at(60, `agentidp_tokens_issued_total{outcome="quota_exceeded"} 0+1x60`), at(60, `agentidp_tokens_issued_total{outcome="unauthorized_client"} 0+1x60`)},
		"AgentIDPAuthenticationFailures": {
			at(60, `agentidp_tokens_issued_total{outcome="invalid_client"} 0+400x60`),
			at(60, then(`agentidp_tokens_issued_total{outcome="invalid_client"}`, 2, 40, 400, 5)), // for a few minutes
		},
		"AgentIDPTokensRefused": {
			at(40, requests("401", "/api/v1/agents", 90), requests("200", "/api/v1/agents", 90)),
			at(40, requests("401", "/api/v1/agents", 90), requests("200", "/api/v1/agents", 9000)),
		},

		"AgentIDPSigningKeyOverdue": {at(30, `agentidp_signing_key_rotation_seconds -61x60`), at(30, `agentidp_signing_key_rotation_seconds 5x60`)},
		"AgentIDPSigningKeyOld":     {at(90, `agentidp_signing_key_age_seconds 7776001x90`), at(90, `agentidp_signing_key_age_seconds 2592000x90`)},
		"AgentIDPSigningKeysDiffer": {at(30, `agentidp_signing_keys{state="retired",instance="a"} 1x60`, `agentidp_signing_keys{state="retired",instance="b"} 0x60`), at(30, `agentidp_signing_keys{state="retired",instance="a"} 1x60`, `agentidp_signing_keys{state="retired",instance="b"} 1x60`)},
		"AgentIDPSigningKeysStale":  {at(30, `agentidp_signing_keys_fetched_timestamp_seconds{job="audit",instance="a"} 300x60`), at(30, `agentidp_signing_keys_fetched_timestamp_seconds{job="audit"} 0+60x60`)},
	}
}

func TestEveryAlertFiresForABadHistoryAndNotForAGoodOne(t *testing.T) {
	t.Parallel()
	recorded, alerts := rules(t)
	told := stories()
	require.Len(t, told, len(alerts))
	for _, alert := range alerts {
		t.Run(alert.Alert, func(t *testing.T) {
			t.Parallel()
			require.Contains(t, told, alert.Alert)
			expr := inline(t, recorded, alert.Expr)
			require.True(t, fires(t, alert, expr, told[alert.Alert].bad), "it should fire")
			for _, sample := range asked(t, expr, told[alert.Alert].bad) {
				requireReadable(t, alert, sample)
			}
			require.False(t, fires(t, alert, expr, told[alert.Alert].good), "it should not")
		})
	}
}

// Each pair of windows is there for a burn that the other one does not see.
func TestEachPairOfWindowsFiresByItself(t *testing.T) {
	t.Parallel()
	const hour, day = 60, 24 * 60
	recorded, alerts := rules(t)
	for name, burn := range map[string]struct {
		speed             string
		before, busy      int // minutes without a failure, and thousands of requests in each
		lasts, thousandth int // minutes of the burn, with a thousand requests in each, and how many of them fail at a budget of 0.1 %
		fires             bool
	}{
		"14.4 times over an hour":          {"Fast", 6 * hour, 5, hour, 16, true},
		"a little less":                    {"Fast", 6 * hour, 5, hour, 13, false},
		"6 times over six hours":           {"Fast", hour, 1, 6 * hour, 7, true},
		"a little less over six hours":     {"Fast", hour, 1, 6 * hour, 5, false},
		"3 times over a day":               {"Slow", 3 * day, 10, day, 4, true},
		"a little less over a day":         {"Slow", 3 * day, 10, day, 2, false},
		"more than the budget over 3 days": {"Slow", hour, 1, 3 * day, 2, true},
		"within the budget over 3 days":    {"Slow", hour, 1, 3 * day, 0, false},
	} {
		for alert, series := range map[string][]string{
			"AgentIDPTokenErrorsBurn": {
				then(`agentidp_tokens_issued_total{outcome="success"}`, 1000*burn.busy, burn.before, 1000-burn.thousandth, burn.lasts),
				then(`agentidp_tokens_issued_total{outcome="error"}`, 0, burn.before, burn.thousandth, burn.lasts),
			},
			"AgentIDPTokenLatencyBurn": {
				then(`agentidp_token_issue_duration_seconds_bucket{le="0.25"}`, 1000*burn.busy, burn.before, 1000-10*burn.thousandth, burn.lasts),
				then(`agentidp_token_issue_duration_seconds_count`, 1000*burn.busy, burn.before, 1000, burn.lasts),
			},
		} {
			t.Run(alert+burn.speed+", "+name, func(t *testing.T) {
				t.Parallel()
				which := slices.IndexFunc(alerts, func(rule rulefmt.Rule) bool { return rule.Alert == alert+burn.speed })
				past := at(burn.before+burn.lasts, series...)
				require.Equal(t, burn.fires, fires(t, alerts[which], inline(t, recorded, alerts[which].Expr), past))
			})
		}
	}
}

// A burn that is over does not keep anybody awake: the short window ends the alert.
func TestAnAlertEndsSoonAfterTheErrorsDo(t *testing.T) {
	t.Parallel()
	recorded, alerts := rules(t)
	const name = `agentidp_tokens_issued_total{outcome="temporarily_unavailable"}`
	for _, alert := range alerts {
		if alert.Alert != "AgentIDPTokenErrorsBurnFast" {
			continue
		}
		past := history{series: []string{`agentidp_tokens_issued_total{outcome="success"} 0+98x200`, then(name, 5, 65, 0, 60)}}
		expr := inline(t, recorded, alert.Expr)
		past.after = minutes(65)
		require.True(t, fires(t, alert, expr, past))
		past.after = minutes(100)
		require.False(t, fires(t, alert, expr, past))
	}
}

// One failure among few requests is nobody's emergency.
func TestASingleFailureOnAQuietNightDoesNotPage(t *testing.T) {
	t.Parallel()
	recorded, alerts := rules(t)
	for _, alert := range alerts {
		if strings.HasPrefix(alert.Alert, "AgentIDPTokenErrors") {
			require.False(t, fires(t, alert, inline(t, recorded, alert.Expr), at(70,
				`agentidp_tokens_issued_total{outcome="success"} 0+1x70`, `agentidp_tokens_issued_total{outcome="error"} 0x66 1x10`)), alert.Alert)
		}
	}
}

// inline puts the expression of each recording rule where its name stands.
func inline(t *testing.T, recorded map[string]parser.Expr, text string) string {
	t.Helper()
	for name, expr := range recorded {
		text = strings.ReplaceAll(text, name+" ", "("+expr.String()+") ")
	}
	require.NotContains(t, text, "agentidp:")
	_, err := parser.ParseExpr(text)
	require.NoError(t, err, text)
	return text
}

// fires tells whether the expression held for as long as the alert waits, at every minute of it.
func fires(t *testing.T, alert rulefmt.Rule, expr string, past history) bool {
	t.Helper()
	storage := load(t, past)
	engine := newEngine()
	for moment := past.after - time.Duration(alert.For); moment <= past.after; moment += time.Minute {
		if len(ask(t, engine, storage, expr, moment)) == 0 {
			return false
		}
	}
	return true
}

// asked is what the expression finds at the end of a history: an alert for each sample.
func asked(t *testing.T, expr string, past history) promql.Vector {
	t.Helper()
	return ask(t, newEngine(), load(t, past), expr, past.after)
}

func newEngine() *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{MaxSamples: 1_000_000, Timeout: time.Minute})
}

func load(t *testing.T, past history) *teststorage.TestStorage {
	t.Helper()
	storage := promqltest.LoadedStorage(t, "load 1m\n  "+strings.Join(past.series, "\n  ")+"\n")
	t.Cleanup(func() { require.NoError(t, storage.Close()) })
	return storage
}

func ask(t *testing.T, engine *promql.Engine, storage *teststorage.TestStorage, expr string, moment time.Duration) promql.Vector {
	t.Helper()
	query, err := engine.NewInstantQuery(t.Context(), storage, nil, expr, time.Unix(0, 0).Add(moment))
	require.NoError(t, err)
	defer query.Close()
	result := query.Exec(t.Context())
	require.NoError(t, result.Err)
	found, err := result.Vector()
	require.NoError(t, err)
	return slices.Clone(found) // closing the query takes the slice back
}
