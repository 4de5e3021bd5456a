package dev

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/devservers"
)

// given are the settings that dev computes for a service unless somebody set them. It reads them the way
// the service itself does, so that SERVICE_NAME, NAME and NAME_FILE all count.
type given struct {
	PublicAddr     string        `env:"PUBLIC_ADDR"`
	InternalAddr   string        `env:"INTERNAL_ADDR"`
	DatabaseURL    config.Secret `env:"DATABASE_URL"`
	MigrateURL     config.Secret `env:"MIGRATE_DATABASE_URL"`
	RedisURL       config.Secret `env:"REDIS_URL"`
	NATSURL        config.Secret `env:"NATS_URL"`
	EncryptionKey  config.Secret `env:"KEY_ENCRYPTION_KEY"`
	LogKey         config.Secret `env:"AUDIT_LOG_KEY"`
	InternalToken  config.Secret `env:"INTERNAL_API_TOKEN"`
	Issuer         string        `env:"ISSUER"`
	RegistryURL    string        `env:"REGISTRY_INTERNAL_URL"`
	CredentialsURL string        `env:"CREDENTIALS_INTERNAL_URL"`
	TokenURL       string        `env:"TOKEN_INTERNAL_URL"`
	DrainDelay     string        `env:"DRAIN_DELAY"`
	CertFile       string        `env:"TLS_CERT_FILE"`
}

// layout says where everything of one run listens and what every service is told. It is made before
// anything starts.
type layout struct {
	baseURL       string
	postgresPort  int
	redisPort     int
	natsPort      int
	needsPostgres bool // some service has no DATABASE_URL of its own
	needsRedis    bool
	needsNATS     bool

	internalToken config.Secret
	trusted       []netip.Prefix // peers whose X-Forwarded-For the ingress believes
	services      map[string]serviceLayout
	notes         []string
}

// serviceLayout is what one service is told.
type serviceLayout struct {
	publicURL   string
	internalURL string
	migrateURL  config.Secret
	values      map[string]string // for config.Values
	given       given
}

// layoutInput is what a layout is made of.
type layoutInput struct {
	programs []program
	environ  func(string) (string, bool)
	baseURL  string
	keys     keys
	ports    []int // portsNeeded(len(programs)) free ones
}

// portsNeeded counts two listeners for each service and one for each server.
func portsNeeded(services int) int { return 2*services + 3 }

// makeLayout computes every setting that was not given and refuses those that cannot be used here.
func makeLayout(in layoutInput) (layout, error) {
	l := layout{
		baseURL: in.baseURL, postgresPort: in.ports[0], redisPort: in.ports[1], natsPort: in.ports[2],
		internalToken: in.keys.internal, services: make(map[string]serviceLayout, len(in.programs)),
	}
	l.noteUnused(in.environ)
	if err := l.readTrusted(in.environ); err != nil {
		return layout{}, err
	}
	var failures []error
	for i, prog := range in.programs {
		service, err := l.place(prog.name, in, in.ports[3+2*i], in.ports[4+2*i])
		if err != nil {
			failures = append(failures, err)
		}
		l.services[prog.name] = service
	}
	if err := errors.Join(failures...); err != nil {
		return layout{}, err
	}
	for name, service := range l.services {
		l.fill(name, &service, in)
		l.services[name] = service
	}
	return l, l.agreeOnToken(in.programs)
}

// noteUnused tells about the two settings that four services in one process cannot share, and about those that options hides.
func (l *layout) noteUnused(environ func(string) (string, bool)) {
	for _, name := range []string{"PUBLIC_ADDR", "INTERNAL_ADDR"} {
		if value, set := environ(name); set && value != "" {
			l.notes = append(l.notes, fmt.Sprintf("%s is not used: the services cannot share one address; set REGISTRY_%s and so on", name, name))
		}
	}
	if value, set := environ("VAULT_ADDR"); set && value != "" {
		l.notes = append(l.notes, "VAULT_ADDR is not used, nor the others of Vault's own commands; set CREDENTIALS_VAULT_ADDR and so on")
	}
}

// place reads what was given for a service and fixes its two addresses.
func (l *layout) place(name string, in layoutInput, publicPort, internalPort int) (serviceLayout, error) {
	var s serviceLayout
	addresses := map[string]string{
		"PUBLIC_ADDR":   net.JoinHostPort(loopback, strconv.Itoa(publicPort)),
		"INTERNAL_ADDR": net.JoinHostPort(loopback, strconv.Itoa(internalPort)),
	}
	if err := config.Load(&s.given, config.Prefix(name), config.Environ(in.environ), config.Values(addresses)); err != nil {
		return s, err
	}
	s.values = addresses
	if s.given.CertFile != "" {
		return s, errors.New("TLS_CERT_FILE must not be set: here the services are one process, with no TLS between them")
	}
	var err error
	if s.publicURL, err = reachable(s.given.PublicAddr); err != nil {
		return s, fmt.Errorf("%s_PUBLIC_ADDR: %w", strings.ToUpper(name), err)
	}
	if s.internalURL, err = reachable(s.given.InternalAddr); err != nil {
		return s, fmt.Errorf("%s_INTERNAL_ADDR: %w", strings.ToUpper(name), err)
	}
	return s, nil
}

// reachable is the URL under which this process reaches a listen address.
func reachable(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("%q is not host:port", address)
	}
	if number, err := strconv.Atoi(port); err != nil || number < 1 || number > 65535 {
		return "", fmt.Errorf("%q does not name a port", address)
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = loopback
	}
	return "http://" + net.JoinHostPort(host, port), nil
}

// fill computes what was not given. All services are placed by now, so that they can be told of each other.
func (l *layout) fill(name string, s *serviceLayout, in layoutInput) {
	set := func(key string, isGiven bool, value string) {
		if !isGiven {
			s.values[key] = value
		}
	}
	g := s.given
	l.needsPostgres = l.needsPostgres || g.DatabaseURL == ""
	l.needsRedis = l.needsRedis || g.RedisURL == ""
	l.needsNATS = l.needsNATS || g.NATSURL == ""
	s.migrateURL = l.migrateURL(name, g, in.keys)

	set("DATABASE_URL", g.DatabaseURL != "", l.databaseURL(name+"_app", in.keys))
	set("MIGRATE_DATABASE_URL", g.MigrateURL != "", s.migrateURL.Reveal())
	set("REDIS_URL", g.RedisURL != "", fmt.Sprintf("redis://:%s@%s:%d/0", in.keys.redis.Reveal(), loopback, l.redisPort))
	set("NATS_URL", g.NATSURL != "", fmt.Sprintf("nats://%s:%d", loopback, l.natsPort))
	set("KEY_ENCRYPTION_KEY", g.EncryptionKey != "", in.keys.encryption.Reveal())
	set("AUDIT_LOG_KEY", g.LogKey != "", in.keys.auditLog.Reveal())
	set("INTERNAL_API_TOKEN", g.InternalToken != "", in.keys.internal.Reveal())
	set("ISSUER", g.Issuer != "", l.baseURL)
	set("REGISTRY_INTERNAL_URL", g.RegistryURL != "", l.services["registry"].internalURL)
	set("CREDENTIALS_INTERNAL_URL", g.CredentialsURL != "", l.services["credentials"].internalURL)
	set("TOKEN_INTERNAL_URL", g.TokenURL != "", l.services["token"].internalURL)
	// Nothing stands in front of the services but the ingress, which drains first.
	set("DRAIN_DELAY", g.DrainDelay != "", "0s")
	s.values["TRUSTED_PROXIES"] = l.believed()
}

// readTrusted reads whom the ingress believes about a client's address.
func (l *layout) readTrusted(environ func(string) (string, bool)) error {
	var shared struct {
		TrustedProxies []netip.Prefix `env:"TRUSTED_PROXIES"`
	}
	if err := config.Load(&shared, config.Environ(environ)); err != nil {
		return err
	}
	l.trusted = shared.TrustedProxies
	return nil
}

// believed is TRUSTED_PROXIES of every service: the ingress, and whom the ingress believes.
func (l *layout) believed() string {
	peers := append(make([]string, 0, 1+len(l.trusted)), loopback+"/32")
	for _, prefix := range l.trusted {
		peers = append(peers, prefix.String())
	}
	return strings.Join(peers, ",")
}

// databaseURL is how a role reaches the Postgres that dev starts.
func (l *layout) databaseURL(role string, k keys) string {
	return fmt.Sprintf("postgres://%s:%s@%s:%d/%s?sslmode=disable", role, k.rolePassword(role), loopback, l.postgresPort, databaseName)
}

// issuerPath is the path of the issuer that the token service was given. An issuer that is no URL the service refuses itself.
func (l *layout) issuerPath() string {
	issuer, err := url.Parse(l.services["token"].given.Issuer)
	if err != nil {
		return ""
	}
	return issuer.Path
}

// migrateURL is the URL to migrate with. A database that was given without one is migrated as the role
// that was given.
func (l *layout) migrateURL(name string, g given, k keys) config.Secret {
	switch {
	case g.MigrateURL != "":
		return g.MigrateURL
	case g.DatabaseURL != "":
		return g.DatabaseURL
	default:
		return config.Secret(l.databaseURL(name+"_owner", k))
	}
}

// logKey is what the audit log is signed with.
func (l *layout) logKey(k keys) config.Secret {
	if given := l.services["audit"].given.LogKey; given != "" {
		return given
	}
	return k.auditLog
}

// agreeOnToken refuses services that would refuse each other.
func (l *layout) agreeOnToken(programs []program) error {
	for i, prog := range programs {
		token := l.services[prog.name].given.InternalToken
		if token == "" {
			token = l.internalToken
		}
		if i == 0 {
			l.internalToken = token
		} else if token != l.internalToken {
			return fmt.Errorf("%s_INTERNAL_API_TOKEN: must be the same for all services", strings.ToUpper(prog.name))
		}
	}
	return nil
}

// options are those for the LoadConfig of a service.
func (l *layout) options(name string, environ func(string) (string, bool)) []config.Option {
	return []config.Option{
		config.Prefix(name), config.Values(l.services[name].values), config.Environ(withoutVault(environ)),
	}
}

// withoutVault hides what a shell has for Vault's own commands: it must not decide where the secrets of this installation go.
func withoutVault(environ func(string) (string, bool)) func(string) (string, bool) {
	return func(name string) (string, bool) {
		if strings.HasPrefix(name, "VAULT_") {
			return "", false
		}
		return environ(name)
	}
}

// adminPassword is that of the superuser of the Postgres that dev starts.
func adminPassword(k keys) string { return k.rolePassword(devservers.Superuser) }
