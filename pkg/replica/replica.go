// Package replica is what one running copy of any service is made of: settings, telemetry, connections to Postgres, Redis
// and NATS, the order in which all of it starts and stops, and what its program can be told. It must not know a route, a table or a rule of any service.
package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sentryagent/agentidp/migrations"
	"github.com/sentryagent/agentidp/pkg/config"
	"github.com/sentryagent/agentidp/pkg/guard"
	"github.com/sentryagent/agentidp/pkg/httpx"
	"github.com/sentryagent/agentidp/pkg/idle"
	"github.com/sentryagent/agentidp/pkg/mtls"
	"github.com/sentryagent/agentidp/pkg/natsx"
	"github.com/sentryagent/agentidp/pkg/peer"
	"github.com/sentryagent/agentidp/pkg/pgdb"
	"github.com/sentryagent/agentidp/pkg/redisx"
	"github.com/sentryagent/agentidp/pkg/telemetry"
)

// flushTimeout bounds what a stopping replica spends on its last traces.
const flushTimeout = 2 * time.Second

// gcPercent is how much garbage there is, by what lives, before it is collected, unless the environment says GOGC. What lives
// are a few MiB: with Go's own 100, half as much as here, a service under load collects many times a second.
const gcPercent = 200

// Config holds the settings that every service has; the services embed it.
type Config struct {
	HTTP      httpx.Config
	Telemetry telemetry.Config
	Database  pgdb.Config
	Redis     redisx.Config
	NATS      natsx.Config
	Guard     guard.Config
	TLS       mtls.Config
}

// Load reads the settings of a service from the environment into cfg; SERVICE_KEY beats KEY. Its error names every setting
// that is missing or wrong.
func Load(service string, cfg any, opts ...config.Option) error {
	return config.Load(cfg, append([]config.Option{config.Prefix(service)}, opts...)...)
}

// migration is all that Migrate needs: a job that runs it is given no other secret.
type migration struct {
	Telemetry telemetry.Config
	OwnerURL  config.Secret `env:"MIGRATE_DATABASE_URL" required:"true"`
}

// Migrate brings the schema of a service up to date, contractions included, as the role that owns it. Any number of replicas may
// do so at once, and replicas of the release before may serve meanwhile.
func Migrate(ctx context.Context, service string, opts ...config.Option) error {
	var cfg migration
	if err := Load(service, &cfg, opts...); err != nil {
		return err
	}
	log := telemetry.NewLogger(os.Stderr, service, cfg.Telemetry.LogLevel)
	if err := migrations.Apply(ctx, service, cfg.OwnerURL.Reveal(), log); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// Replica holds the telemetry and the connections of one copy of a service.
type Replica struct {
	Telemetry *telemetry.Telemetry
	DB        *pgdb.DB
	Redis     *redisx.Client
	NATS      *natsx.Conn

	service string
	http    httpx.Config
	schema  *schema
	tls     *mtls.Identity // nil without TLS between services
	plain   []error        // peers that are not asked over TLS though it is on
	flush   func()

	dependencies map[string]func(context.Context) error // what is watched
}

// Work is what a replica does beside its requests. Each part goes on until its context ends and then returns nil; one that
// fails stops the replica.
type Work struct {
	// AtOnce is what touches no table.
	AtOnce []func(context.Context) error
	// OnceMigrated begins when the schema is the one that this release needs: what is done to an older one could fail, or
	// be done in a way that it does not know.
	OnceMigrated []func(context.Context) error
}

// Open makes a replica of a service. It connects to nothing yet: what a service depends on may come later. Close lets go of
// what Open made, also where Open failed half-way.
func Open(ctx context.Context, service string, cfg Config) (*Replica, error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	r := &Replica{service: service, http: cfg.HTTP, flush: func() {}}
	if err := r.open(ctx, cfg); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Replica) open(ctx context.Context, cfg Config) error {
	tel, flush, err := telemetry.New(ctx, cfg.Telemetry, r.service)
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	r.Telemetry = tel
	r.flush = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		_ = flush(ctx) // the last traces are lost where the collector is away
	}
	if r.tls, err = mtls.Open(cfg.TLS, tel); err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	if r.DB, err = pgdb.Open(ctx, cfg.Database, tel); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	if r.schema, err = newSchema(r.service, r.DB, tel); err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	if r.Redis, err = redisx.Open(cfg.Redis, tel); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	if r.NATS, err = natsx.Connect(cfg.NATS, r.service, tel); err != nil {
		return fmt.Errorf("nats: %w", err)
	}
	r.dependencies = map[string]func(context.Context) error{"postgres": r.DB.Ready, "redis": r.Redis.Ready, "nats": r.NATS.Ready}
	return nil
}

// Peer makes a client of another service's internal API. With TLS on, Run fails where the URL of a peer is not https: the
// token of the internal API would go there for everybody to read.
func (r *Replica) Peer(name string, baseURL config.URL) *peer.Client {
	if r.tls != nil && baseURL.Plain() {
		r.plain = append(r.plain, fmt.Errorf("%s_INTERNAL_URL: must be an https URL, as TLS_CERT_FILE is set", strings.ToUpper(name)))
	}
	return peer.New(peer.Config{
		BaseURL: string(baseURL), Token: r.http.InternalAPIToken, Name: name, TLS: r.tls, Telemetry: r.Telemetry,
	})
}

// Server makes the replica's two listeners, which do not listen yet. The replica is ready once its schema is what it needs
// and ready says so too, which is asked only then.
func (r *Replica) Server(openAPI []byte, ready func(context.Context) error) (*httpx.Server, error) {
	server, err := httpx.NewServer(r.http, httpx.Options{
		Service: r.service, Telemetry: r.Telemetry, TLS: r.tls, OpenAPI: openAPI,
		Ready: func(ctx context.Context) error {
			if err := r.schema.Ready(ctx); err != nil {
				return err
			}
			return ready(ctx)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("http: %w", err)
	}
	return server, nil
}

// Run serves until ctx ends, finishes the requests that are under way, closes the replica and returns nil. The work goes
// on until the last request has been answered, so that its events still leave. A schema that is older than needed is waited
// for, however long that takes.
func (r *Replica) Run(ctx context.Context, server *httpx.Server, does Work) error {
	defer r.Close()
	if err := errors.Join(r.plain...); err != nil {
		return err
	}
	serve, stopServing := context.WithCancel(ctx)
	defer stopServing()
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()

	var group errgroup.Group
	group.Go(func() error {
		defer stopWork()
		return server.Run(serve)
	})
	if r.tls != nil {
		does.AtOnce = append(slices.Clone(does.AtOnce), r.tls.Run)
	}
	for _, worker := range does.AtOnce {
		group.Go(func() error {
			defer stopServing()
			return worker(work)
		})
	}
	group.Go(func() error { return r.schema.wait(work) })
	for _, worker := range does.OnceMigrated {
		group.Go(func() error {
			defer stopServing()
			select {
			case <-r.schema.there:
				return worker(work)
			case <-work.Done():
				return nil
			}
		})
	}
	group.Go(func() error {
		idle.Every(work, watchEvery, watch{telemetry: r.Telemetry, ready: server.Ready, dependencies: r.dependencies}.look)
		return nil
	})
	return group.Wait()
}

// Close lets go of the connections, the last opened first, and of the telemetry. Run does it.
func (r *Replica) Close() {
	if r.NATS != nil {
		r.NATS.Close()
	}
	if r.Redis != nil {
		_ = r.Redis.Close()
	}
	if r.DB != nil {
		r.DB.Close()
	}
	r.flush()
}
