package dev

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/config"
)

func lookup(values map[string]string) func(string) (string, bool) {
	return func(key string) (string, bool) {
		value, set := values[key]
		return value, set
	}
}

// serviceSettings are enough of a service's settings to see what it is told.
type serviceSettings struct {
	PublicAddr     string        `env:"PUBLIC_ADDR"`
	InternalAddr   string        `env:"INTERNAL_ADDR"`
	DatabaseURL    config.Secret `env:"DATABASE_URL"`
	MigrateURL     config.Secret `env:"MIGRATE_DATABASE_URL"`
	RedisURL       config.Secret `env:"REDIS_URL"`
	NATSURL        config.Secret `env:"NATS_URL"`
	Encryption     config.Secret `env:"KEY_ENCRYPTION_KEY"`
	LogKey         config.Secret `env:"AUDIT_LOG_KEY"`
	Token          config.Secret `env:"INTERNAL_API_TOKEN"`
	Issuer         string        `env:"ISSUER"`
	TrustedProxies string        `env:"TRUSTED_PROXIES"`
	RegistryURL    string        `env:"REGISTRY_INTERNAL_URL"`
	TokenURL       string        `env:"TOKEN_INTERNAL_URL"`
	DrainDelay     string        `env:"DRAIN_DELAY"`
	LogLevel       string        `env:"LOG_LEVEL" default:"info"`
}

func fakePrograms() []program {
	var programs []program
	for _, name := range []string{"registry", "credentials", "token", "audit"} {
		programs = append(programs, program{name: name})
	}
	return programs
}

func layoutFor(t *testing.T, env map[string]string) (layout, error) {
	t.Helper()
	ports := make([]int, portsNeeded(4))
	for i := range ports {
		ports[i] = 20001 + i
	}
	return makeLayout(layoutInput{
		programs: fakePrograms(), environ: lookup(env), baseURL: "http://127.0.0.1:8080", ports: ports,
		keys: keys{encryption: "kek", auditLog: "log-key", internal: "token", database: "db", redis: "redis-pw"},
	})
}

func toldTo(t *testing.T, l layout, service string, env map[string]string) serviceSettings {
	t.Helper()
	var s serviceSettings
	require.NoError(t, config.Load(&s, l.options(service, lookup(env))...))
	return s
}

func TestWithoutAnySettingEverythingIsComputed(t *testing.T) {
	t.Parallel()
	l, err := layoutFor(t, nil)
	require.NoError(t, err)
	require.True(t, l.needsPostgres && l.needsRedis && l.needsNATS)
	require.Equal(t, config.Secret("token"), l.internalToken)
	require.Empty(t, l.trusted)
	require.Empty(t, l.notes)

	addresses := make(map[string]bool)
	for _, name := range []string{"registry", "credentials", "token", "audit"} {
		s := toldTo(t, l, name, nil)
		addresses[s.PublicAddr], addresses[s.InternalAddr] = true, true
		require.Equal(t, "http://"+s.PublicAddr, l.services[name].publicURL)
		require.Equal(t, "http://"+s.InternalAddr, l.services[name].internalURL)
		require.Contains(t, s.DatabaseURL.Reveal(), "postgres://"+name+"_app:")
		require.Contains(t, s.MigrateURL.Reveal(), "postgres://"+name+"_owner:")
		require.Equal(t, "redis://:redis-pw@127.0.0.1:20002/0", s.RedisURL.Reveal())
		require.Equal(t, "nats://127.0.0.1:20003", s.NATSURL.Reveal())
		require.Equal(t, "kek", s.Encryption.Reveal())
		require.Equal(t, "log-key", s.LogKey.Reveal())
		require.Equal(t, "token", s.Token.Reveal())
		require.Equal(t, "http://127.0.0.1:8080", s.Issuer)
		require.Equal(t, "127.0.0.1/32", s.TrustedProxies)
		require.Equal(t, l.services["registry"].internalURL, s.RegistryURL)
		require.Equal(t, l.services["token"].internalURL, s.TokenURL)
		require.Equal(t, "0s", s.DrainDelay)
	}
	require.Len(t, addresses, 8)
}

func TestWhatIsSetInTheEnvironmentCounts(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "kek")
	require.NoError(t, os.WriteFile(file, []byte("from-file\n"), 0o600))
	env := map[string]string{
		"ISSUER": "https://idp.example.com", "INTERNAL_API_TOKEN": "mine", "KEY_ENCRYPTION_KEY_FILE": file,
		"TRUSTED_PROXIES": "10.0.0.0/8", "LOG_LEVEL": "warn", "AUDIT_LOG_LEVEL": "debug",
		"NATS_URL": "nats://elsewhere", "TOKEN_REDIS_URL": "redis://token-only", "DRAIN_DELAY": "2s",
		"REGISTRY_INTERNAL_ADDR": "0.0.0.0:7777", "AUDIT_PUBLIC_ADDR": "[::1]:7778",
		"PUBLIC_ADDR": ":8080",
	}
	l, err := layoutFor(t, env)
	require.NoError(t, err)

	require.True(t, l.needsPostgres)
	require.True(t, l.needsRedis, "three services still need one")
	require.False(t, l.needsNATS)
	require.Equal(t, config.Secret("mine"), l.internalToken)
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, l.trusted)
	require.Equal(t, "http://127.0.0.1:7777", l.services["registry"].internalURL)
	require.Equal(t, "http://[::1]:7778", l.services["audit"].publicURL)
	require.Len(t, l.notes, 1)
	require.Contains(t, l.notes[0], "PUBLIC_ADDR")

	s := toldTo(t, l, "token", env)
	require.Equal(t, "https://idp.example.com", s.Issuer)
	require.Equal(t, "mine", s.Token.Reveal())
	require.Equal(t, "from-file", s.Encryption.Reveal())
	require.Equal(t, "127.0.0.1/32,10.0.0.0/8", s.TrustedProxies)
	require.Equal(t, "warn", s.LogLevel)
	require.Equal(t, "nats://elsewhere", s.NATSURL.Reveal())
	require.Equal(t, "redis://token-only", s.RedisURL.Reveal())
	require.Equal(t, "2s", s.DrainDelay)
	require.Equal(t, "http://127.0.0.1:7777", s.RegistryURL)
	require.Equal(t, "debug", toldTo(t, l, "audit", env).LogLevel)
	require.NotEqual(t, ":8080", toldTo(t, l, "audit", env).PublicAddr)
}

func TestAVaultOfTheShellIsNotUsedUnlessItIsMeant(t *testing.T) {
	t.Parallel()
	var told struct {
		Addr  string        `env:"VAULT_ADDR"`
		Token config.Secret `env:"VAULT_TOKEN"`
	}
	env := map[string]string{"VAULT_ADDR": "https://vault.example", "VAULT_TOKEN": "mine"}
	l, err := layoutFor(t, env)
	require.NoError(t, err)
	require.Len(t, l.notes, 1)
	require.Contains(t, l.notes[0], "CREDENTIALS_VAULT_ADDR")
	require.NoError(t, config.Load(&told, l.options("credentials", lookup(env))...))
	require.Empty(t, told)

	env = map[string]string{"CREDENTIALS_VAULT_ADDR": "http://127.0.0.1:8200", "CREDENTIALS_VAULT_TOKEN": "meant"}
	require.NoError(t, config.Load(&told, l.options("credentials", lookup(env))...))
	require.Equal(t, "http://127.0.0.1:8200", told.Addr)
	require.Equal(t, "meant", told.Token.Reveal())
}

func TestADatabaseThatWasGivenIsMigratedAsItsOwnRole(t *testing.T) {
	t.Parallel()
	l, err := layoutFor(t, map[string]string{"DATABASE_URL": "postgres://me@there/db", "AUDIT_MIGRATE_DATABASE_URL": "postgres://owner@there/db"})
	require.NoError(t, err)
	require.False(t, l.needsPostgres)
	require.Equal(t, "postgres://me@there/db", l.services["token"].migrateURL.Reveal())
	require.Equal(t, "postgres://owner@there/db", l.services["audit"].migrateURL.Reveal())
}

func TestSettingsThatCannotBeUsedAreNamed(t *testing.T) {
	t.Parallel()
	for name, env := range map[string]map[string]string{
		"REGISTRY_INTERNAL_ADDR":   {"REGISTRY_INTERNAL_ADDR": "nonsense"},
		"AUDIT_PUBLIC_ADDR":        {"AUDIT_PUBLIC_ADDR": "127.0.0.1:0"},
		"TOKEN_INTERNAL_ADDR":      {"TOKEN_INTERNAL_ADDR": "127.0.0.1:http"},
		"TRUSTED_PROXIES":          {"TRUSTED_PROXIES": "everybody"},
		"TOKEN_INTERNAL_API_TOKEN": {"TOKEN_INTERNAL_API_TOKEN": "another"},
		"TLS_CERT_FILE":            {"TLS_CERT_FILE": "/etc/tls/tls.crt"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := layoutFor(t, env)
			require.ErrorContains(t, err, name)
		})
	}
}

func TestAProgramChecksAndBuildsFromTheSameSettings(t *testing.T) {
	t.Parallel()
	load := func(opts ...config.Option) (serviceSettings, error) {
		var s serviceSettings
		return s, config.Load(&s, opts...)
	}
	var built serviceSettings
	prog := define("x", load, func(_ context.Context, s serviceSettings) (*fakeService, error) {
		built = s
		return nil, os.ErrInvalid
	})
	values := config.Values(map[string]string{"ISSUER": "http://x"})
	require.NoError(t, prog.check(values, config.Environ(lookup(nil))))
	_, err := prog.build(t.Context(), values, config.Environ(lookup(nil)))
	require.ErrorIs(t, err, os.ErrInvalid)
	require.ErrorContains(t, err, "build x")
	require.Equal(t, "http://x", built.Issuer)
}
