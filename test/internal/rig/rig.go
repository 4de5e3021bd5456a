package rig

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"github.com/sentryagent/agentidp/pkg/auditlog"
	"github.com/sentryagent/agentidp/pkg/devservers"
)

const (
	loopback     = "127.0.0.1"
	databaseName = "agentidp"
	startTimeout = 60 * time.Second
	// Ports are taken below the range from which outgoing connections are served, as no client's connection can be in
	// the way there.
	lowestPort, highestPort = 20000, 32000
)

// Rig is the system under test.
type Rig struct {
	dir, bin string
	out      io.Writer
	password string // of every role and of the superuser; the servers listen on 127.0.0.1 only, and end with the run
	secret   string // INTERNAL_API_TOKEN
	key      string // KEY_ENCRYPTION_KEY
	logKey   string // AUDIT_LOG_KEY

	// LogPublicKey checks what the audit log signs.
	LogPublicKey string

	postgres *devservers.Postgres
	redis    *devservers.Redis
	nats     *child
	natsURL  string
	services map[string]*service

	db     *pgx.Conn // as the superuser: what it does counts for no service
	cache  *redis.Client
	broker *nats.Conn
	stream jetstream.JetStream

	operator Client
	taken    tokensTaken
}

// service is one of the four.
type service struct {
	*child

	public, internal string // host:port
}

// Client is an agent that can get tokens.
type Client struct{ ID, Secret string }

// Config says where a rig is built.
type Config struct {
	Root string    // of the source tree
	Dir  string    // for programs and data
	Out  io.Writer // told what is done
}

// Start builds and starts everything. The rig must be stopped, also when Start failed.
func Start(ctx context.Context, cfg Config) (*Rig, error) {
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	logKey, public, err := auditlog.GenerateKey(rand.Reader, "agentidp-rig/audit")
	if err != nil {
		return nil, err
	}
	r := &Rig{
		logKey: logKey, LogPublicKey: public,
		dir: cfg.Dir, bin: filepath.Join(cfg.Dir, "bin"), out: cfg.Out,
		password: rand.Text(), secret: rand.Text(), key: base64.StdEncoding.EncodeToString(key),
		services: map[string]*service{},
	}
	steps := []struct {
		says string
		do   func(context.Context) error
	}{
		{"building the services and the NATS server", func(ctx context.Context) error { return build(ctx, cfg.Root, r.bin) }},
		{"starting Postgres", r.startPostgres},
		{"starting Redis", r.startRedis},
		{"starting NATS", r.startNATS},
		{"bringing the schemas up to date", r.migrate},
		{"starting the services", r.startServices},
		{"making the operator", r.makeOperator},
	}
	for _, step := range steps {
		r.say("%s", step.says)
		if err := step.do(ctx); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (r *Rig) say(format string, args ...any) { _, _ = fmt.Fprintf(r.out, format+"\n", args...) }

// Stop ends everything that runs, the services first.
func (r *Rig) Stop() error {
	failures := make([]error, 0, len(Services()))
	for _, name := range []string{"registry", "credentials", "token", "audit"} {
		failures = append(failures, r.StopService(name))
	}
	if r.db != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = r.db.Close(ctx)
	}
	if r.cache != nil {
		_ = r.cache.Close()
	}
	if r.broker != nil {
		r.broker.Close()
	}
	if r.nats != nil {
		_ = r.nats.stop() // it exits 1 on SIGTERM by design
	}
	if r.redis != nil {
		r.redis.Stop()
	}
	if r.postgres != nil {
		r.postgres.Stop()
		_ = os.RemoveAll(r.postgres.Dir()) // it may be outside of our directory
	}
	return errors.Join(failures...)
}

// startPostgres starts it twice: what counts the statements has to be loaded when the server starts, and the setting is
// one of the data directory. It writes to disk as in production.
func (r *Rig) startPostgres(ctx context.Context) error {
	cfg := devservers.PostgresConfig{Dir: filepath.Join(r.dir, "postgres"), Password: r.password, Fsync: true}
	for range 2 {
		server, err := devservers.StartPostgres(ctx, cfg)
		if err != nil {
			return err
		}
		r.postgres = server
		if err := devservers.CreateDatabase(ctx, server.AdminURL(), databaseName); err != nil {
			return err
		}
		url := server.URL(devservers.Superuser, "", databaseName)
		if r.db, err = pgx.Connect(ctx, url); err != nil {
			return fmt.Errorf("connect to postgres: %w", err)
		}
		var loaded string
		if err := r.db.QueryRow(ctx, "SHOW shared_preload_libraries").Scan(&loaded); err != nil {
			return fmt.Errorf("ask postgres: %w", err)
		}
		if loaded != "" {
			break
		}
		if _, err := r.db.Exec(ctx, "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'"); err != nil {
			return fmt.Errorf("have statements counted: %w", err)
		}
		_ = r.db.Close(ctx)
		server.Stop()
	}
	if _, err := r.db.Exec(ctx, "CREATE EXTENSION pg_stat_statements"); err != nil {
		return fmt.Errorf("have statements counted (the package postgresql-contrib is needed): %w", err)
	}
	url := r.postgres.URL(devservers.Superuser, "", databaseName)
	return devservers.Provision(ctx, url, Services(), func(string) string { return r.password })
}

func (r *Rig) startRedis(ctx context.Context) error {
	server, err := devservers.StartRedis(ctx, devservers.RedisConfig{Dir: filepath.Join(r.dir, "redis"), Persist: true})
	if err != nil {
		return err
	}
	r.redis = server
	options, err := redis.ParseURL(server.URL())
	if err != nil {
		return fmt.Errorf("url of redis: %w", err)
	}
	r.cache = redis.NewClient(options)
	return nil
}

// startNATS starts the NATS server with JetStream on disk.
func (r *Rig) startNATS(ctx context.Context) error {
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(r.bin, "nats-server"), //nolint:gosec,noctx // built by us; outlives ctx
		"-a", loopback, "-p", port, "-js", "-sd", filepath.Join(r.dir, "nats"))
	if r.nats, err = startChild("nats-server", filepath.Join(r.dir, "nats.log"), cmd); err != nil {
		return err
	}
	r.natsURL = "nats://" + net.JoinHostPort(loopback, port)
	err = r.until(ctx, r.nats, func() (err error) {
		r.broker, err = nats.Connect(r.natsURL, nats.MaxReconnects(-1))
		return err
	})
	if err != nil {
		return err
	}
	if r.stream, err = jetstream.New(r.broker); err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	return nil
}

// until asks again and again until the answer is nil, the program has ended or the time is up.
func (r *Rig) until(ctx context.Context, program *child, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if ended := program.ended(); ended != nil {
			return ended
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w: %s", program.name, err, program.lastWords())
		case <-tick.C:
		}
	}
}

// settings are the environment of a service, as an operator would give it; where nothing is said, its defaults hold.
func (r *Rig) settings(name string, extra map[string]string) []string {
	s := r.services[name]
	values := map[string]string{
		"PATH":                     os.Getenv("PATH"),
		"PUBLIC_ADDR":              s.public,
		"INTERNAL_ADDR":            s.internal,
		"INTERNAL_API_TOKEN":       r.secret,
		"DATABASE_URL":             r.postgres.URL(name+"_app", r.password, databaseName),
		"MIGRATE_DATABASE_URL":     r.postgres.URL(name+"_owner", r.password, databaseName),
		"REDIS_URL":                r.redis.URL(),
		"NATS_URL":                 r.natsURL,
		"ISSUER":                   r.Issuer(),
		"REGISTRY_INTERNAL_URL":    "http://" + r.services["registry"].internal,
		"CREDENTIALS_INTERNAL_URL": "http://" + r.services["credentials"].internal,
		"TOKEN_INTERNAL_URL":       "http://" + r.services["token"].internal,
		"KEY_ENCRYPTION_KEY":       r.key,
		"AUDIT_LOG_KEY":            r.logKey,
		"DRAIN_DELAY":              "0s",
		"TRUSTED_PROXIES":          loopback + "/32",
		"PPROF_ENABLED":            "true",
	}
	for name, value := range LimitsOff() {
		values[name] = value
	}
	for name, value := range extra {
		values[name] = value
	}
	environ := make([]string, 0, len(values))
	for name, value := range values {
		environ = append(environ, name+"="+value)
	}
	return environ
}

// LimitsOff are the settings without any limit of a rate, a quota or a number.
func LimitsOff() map[string]string {
	return map[string]string{
		"RATE_LIMIT_PER_MINUTE": "0", "FREE_TIER_MAX_MONTHLY_TOKENS": "0", "FREE_TIER_MAX_AGENTS": "0",
	}
}

// LimitsOn are the settings with every limit counted, and none of them reached.
func LimitsOn() map[string]string {
	return map[string]string{"RATE_LIMIT_PER_MINUTE": "100000000", "FREE_TIER_MAX_MONTHLY_TOKENS": "1000000000"}
}

// Issuer of the tokens.
func (r *Rig) Issuer() string { return "http://" + r.services["token"].public }

// Public is where a service answers the world, host:port.
func (r *Rig) Public(name string) string { return r.services[name].public }

func (r *Rig) migrate(ctx context.Context) error {
	for _, name := range Services() {
		var ports [2]string
		for i := range ports {
			port, err := freePort(ctx)
			if err != nil {
				return err
			}
			ports[i] = net.JoinHostPort(loopback, port)
		}
		r.services[name] = &service{public: ports[0], internal: ports[1]}
	}
	for _, name := range Services() {
		cmd := exec.CommandContext(ctx, filepath.Join(r.bin, name), "migrate") // #nosec G204 -- built by us
		cmd.Env = r.settings(name, nil)
		if output, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s migrate: %w\n%s", name, err, output)
		}
	}
	return nil
}

func (r *Rig) startServices(ctx context.Context) error {
	for _, name := range Services() {
		if _, err := r.StartService(ctx, name, nil); err != nil {
			return err
		}
	}
	return nil
}

// StartService starts one and answers how long it took from the start of the process until it was ready.
func (r *Rig) StartService(ctx context.Context, name string, extra map[string]string) (time.Duration, error) {
	s := r.services[name]
	cmd := exec.Command(filepath.Join(r.bin, name), "serve") //nolint:gosec,noctx // built by us; outlives ctx
	cmd.Env = r.settings(name, extra)
	begin := time.Now()
	var err error
	if s.child, err = startChild(name, filepath.Join(r.dir, name+".log"), cmd); err != nil {
		return 0, err
	}
	err = r.until(ctx, s.child, func() error { return r.ready(ctx, s.internal) })
	return time.Since(begin), err
}

// StopService ends one as Kubernetes does, and says when it did not end well.
func (r *Rig) StopService(name string) error {
	s := r.services[name]
	if s == nil || s.child == nil {
		return nil
	}
	c := s.child
	s.child = nil
	return c.stop()
}

// Restart replaces a service by one with other settings.
func (r *Rig) Restart(ctx context.Context, name string, extra map[string]string) error {
	if err := r.StopService(name); err != nil {
		return err
	}
	_, err := r.StartService(ctx, name, extra)
	return err
}

// SignWith restarts the token service with another algorithm and no other keys than its own new one, so that it signs
// with it from the first token on.
func (r *Rig) SignWith(ctx context.Context, algorithm string, extra map[string]string) error {
	if err := r.StopService("token"); err != nil {
		return err
	}
	if _, err := r.db.Exec(ctx, "TRUNCATE token.signing_keys"); err != nil {
		return fmt.Errorf("drop the signing keys: %w", err)
	}
	settings := map[string]string{"SIGNING_ALG": algorithm}
	for name, value := range extra {
		settings[name] = value
	}
	_, err := r.StartService(ctx, "token", settings)
	return err
}

// Alive is an error when a service has ended.
func (r *Rig) Alive() error {
	var failures []error
	for name, s := range r.services {
		if s.child == nil {
			failures = append(failures, fmt.Errorf("%s does not run", name))
			continue
		}
		failures = append(failures, s.ended(), trimLog(s.log))
	}
	return errors.Join(failures...)
}

func freePort(ctx context.Context) (string, error) {
	var config net.ListenConfig
	for range 200 {
		port := strconv.Itoa(lowestPort + mathrand.IntN(highestPort-lowestPort)) // #nosec G404 -- no secret, only spread
		l, err := config.Listen(ctx, "tcp", net.JoinHostPort(loopback, port))
		if err == nil {
			return port, l.Close()
		}
	}
	return "", errors.New("no free port was found")
}

// pids are the processes by the name they have in the results.
func (r *Rig) pids() (map[string]int, error) {
	pids := map[string]int{"bench": os.Getpid(), "nats": r.nats.pid()}
	for name, s := range r.services {
		if s.child != nil {
			pids[name] = s.pid()
		}
	}
	for name, file := range map[string]string{
		"postgres": filepath.Join(r.postgres.Dir(), "postmaster.pid"),
		"redis":    filepath.Join(r.dir, "redis", "redis.pid"),
	} {
		content, err := os.ReadFile(file) // #nosec G304 -- of servers that we started
		if err != nil {
			return nil, fmt.Errorf("process id of %s: %w", name, err)
		}
		first, _, _ := strings.Cut(string(content), "\n")
		if pids[name], err = strconv.Atoi(strings.TrimSpace(first)); err != nil {
			return nil, fmt.Errorf("process id of %s: %w", name, err)
		}
	}
	return pids, nil
}
