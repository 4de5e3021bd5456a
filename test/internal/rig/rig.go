package rig

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
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
	services map[string]*service // by the name of the replica
	replicas int
	ports    map[string]bool   // that were given away
	common   map[string]string // settings of all services

	db     *pgxpool.Pool // as the superuser: what it does counts for no service
	cache  *redis.Client
	broker *nats.Conn
	stream jetstream.JetStream

	operator Client
	taken    tokensTaken
}

// service is one replica of one of the four.
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
	// Replicas of each service; 0 is one.
	Replicas int
	// Settings of all services beyond the usual ones.
	Settings map[string]string
	// CountStatements has Postgres count them, for Counters and Statements.
	CountStatements bool
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
		services: map[string]*service{}, replicas: max(cfg.Replicas, 1), ports: map[string]bool{}, common: cfg.Settings,
	}
	steps := []struct {
		says string
		do   func(context.Context) error
	}{
		{"building the services and the NATS server", func(ctx context.Context) error { return build(ctx, cfg.Root, r.bin) }},
		{"starting Postgres", func(ctx context.Context) error { return r.startPostgres(ctx, cfg.CountStatements) }},
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
	failures := make([]error, 0, len(r.services))
	for _, name := range r.Instances("registry", "credentials", "token", "audit") {
		failures = append(failures, r.StopService(name))
	}
	if r.db != nil {
		r.db.Close()
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

// startPostgres starts it with an empty database. It writes to disk as in production.
func (r *Rig) startPostgres(ctx context.Context, count bool) error {
	if err := r.openPostgres(ctx, 0); err != nil {
		return err
	}
	if err := devservers.CreateDatabase(ctx, r.postgres.AdminURL(), databaseName); err != nil {
		return err
	}
	if count {
		if err := r.countStatements(ctx); err != nil {
			return err
		}
	}
	url := r.postgres.URL(devservers.Superuser, "", databaseName)
	return devservers.Provision(ctx, url, Services(), func(string) string { return r.password })
}

// openPostgres starts the server on the data there is, on a port of its choice for 0.
func (r *Rig) openPostgres(ctx context.Context, port int) error {
	cfg := devservers.PostgresConfig{Dir: filepath.Join(r.dir, "postgres"), Port: port, Password: r.password, Fsync: true}
	server, err := devservers.StartPostgres(ctx, cfg)
	if err != nil {
		return err
	}
	r.postgres = server
	if port != 0 && r.db != nil {
		return nil
	}
	if r.db, err = pgxpool.New(ctx, server.URL(devservers.Superuser, "", databaseName)); err != nil {
		return fmt.Errorf("connect to postgres: %w", err)
	}
	return nil
}

// countStatements restarts the server: what counts the statements has to be loaded when it starts.
func (r *Rig) countStatements(ctx context.Context) error {
	if _, err := r.db.Exec(ctx, "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'"); err != nil {
		return fmt.Errorf("have statements counted: %w", err)
	}
	r.db.Close()
	r.postgres.Stop()
	if err := r.openPostgres(ctx, 0); err != nil {
		return err
	}
	if _, err := r.db.Exec(ctx, "CREATE EXTENSION pg_stat_statements"); err != nil {
		return fmt.Errorf("have statements counted (the package postgresql-contrib is needed): %w", err)
	}
	return nil
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
	port, err := r.freePort(ctx)
	if err != nil {
		return err
	}
	r.natsURL = "nats://" + net.JoinHostPort(loopback, port)
	if err := r.openNATS(port); err != nil {
		return err
	}
	err = r.until(ctx, r.nats, func() (err error) {
		r.broker, err = nats.Connect(r.natsURL, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
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

// openNATS starts the server on the data there is.
func (r *Rig) openNATS(port string) (err error) {
	cmd := exec.Command(filepath.Join(r.bin, "nats-server"), //nolint:gosec,noctx // built by us; outlives ctx
		"-a", loopback, "-p", port, "-js", "-sd", filepath.Join(r.dir, "nats"))
	r.nats, err = startChild("nats-server", filepath.Join(r.dir, "nats.log"), cmd)
	return err
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
	program, replica := split(name)
	peer := func(program string) string { return "http://" + r.services[program+replica].internal }
	values := map[string]string{
		"PATH":                     os.Getenv("PATH"),
		"PUBLIC_ADDR":              s.public,
		"INTERNAL_ADDR":            s.internal,
		"INTERNAL_API_TOKEN":       r.secret,
		"DATABASE_URL":             r.postgres.URL(program+"_app", r.password, databaseName),
		"MIGRATE_DATABASE_URL":     r.postgres.URL(program+"_owner", r.password, databaseName),
		"REDIS_URL":                r.redis.URL(),
		"NATS_URL":                 r.natsURL,
		"ISSUER":                   r.Issuer(),
		"REGISTRY_INTERNAL_URL":    peer("registry"),
		"CREDENTIALS_INTERNAL_URL": peer("credentials"),
		"TOKEN_INTERNAL_URL":       peer("token"),
		"KEY_ENCRYPTION_KEY":       r.key,
		"AUDIT_LOG_KEY":            r.logKey,
		"DRAIN_DELAY":              "0s",
		"TRUSTED_PROXIES":          loopback + "/32",
		"PPROF_ENABLED":            "true",
	}
	for _, more := range []map[string]string{LimitsOff(), r.common, extra} {
		maps.Copy(values, more)
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

// Instances are the names of the replicas of these services, of all for none.
func (r *Rig) Instances(services ...string) []string { return Names(r.replicas, services...) }

// Names of so many replicas of each of these services, of all for none. The first is called as the service is.
func Names(replicas int, services ...string) []string {
	if len(services) == 0 {
		services = Services()
	}
	names := make([]string, 0, len(services)*replicas)
	for number := 1; number <= replicas; number++ {
		for _, name := range services {
			if number > 1 {
				name += "-" + strconv.Itoa(number)
			}
			names = append(names, name)
		}
	}
	return names
}

// Program is the service that a replica is one of.
func Program(instance string) string {
	program, _ := split(instance)
	return program
}

// split tells the program of a replica, and what its name has behind that; it calls those of its peers with the same.
func split(instance string) (program, replica string) {
	program, number, found := strings.Cut(instance, "-")
	if found {
		replica = "-" + number
	}
	return program, replica
}

func (r *Rig) migrate(ctx context.Context) error {
	for _, name := range r.Instances() {
		var ports [2]string
		for i := range ports {
			port, err := r.freePort(ctx)
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
	for _, name := range r.Instances() {
		if _, err := r.StartService(ctx, name, nil); err != nil {
			return err
		}
	}
	return nil
}

// StartService starts one and answers how long it took from the start of the process until it was ready.
func (r *Rig) StartService(ctx context.Context, name string, extra map[string]string) (time.Duration, error) {
	begin := time.Now()
	if err := r.launch(name, extra); err != nil {
		return 0, err
	}
	s := r.services[name]
	err := r.until(ctx, s.child, func() error { return r.ready(ctx, s.internal) })
	return time.Since(begin), err
}

// launch starts a service and waits for nothing.
func (r *Rig) launch(name string, extra map[string]string) (err error) {
	cmd := exec.Command(filepath.Join(r.bin, Program(name)), "serve") //nolint:gosec,noctx // built by us; outlives ctx
	cmd.Env = r.settings(name, extra)
	r.services[name].child, err = startChild(name, filepath.Join(r.dir, name+".log"), cmd)
	return err
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

// freePort is one that nobody listens on, and that was not given away before: what has it may not listen yet.
func (r *Rig) freePort(ctx context.Context) (string, error) {
	var config net.ListenConfig
	for range 200 {
		port := strconv.Itoa(lowestPort + mathrand.IntN(highestPort-lowestPort)) // #nosec G404 -- no secret, only spread
		if r.ports[port] {
			continue
		}
		l, err := config.Listen(ctx, "tcp", net.JoinHostPort(loopback, port))
		if err == nil {
			r.ports[port] = true
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
	for _, name := range []string{postgresName, redisName} {
		pid, err := r.serverPID(name)
		if err != nil {
			return nil, err
		}
		pids[name] = pid
	}
	return pids, nil
}

// serverPID is the process of Postgres (its first one) or Redis.
func (r *Rig) serverPID(name string) (int, error) {
	file := filepath.Join(r.dir, "redis", "redis.pid")
	if name == postgresName {
		file = filepath.Join(r.postgres.Dir(), "postmaster.pid")
	}
	content, err := os.ReadFile(file) // #nosec G304 -- of servers that we started
	if err != nil {
		return 0, fmt.Errorf("process id of %s: %w", name, err)
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return 0, fmt.Errorf("process id of %s: %w", name, err)
	}
	return pid, nil
}
