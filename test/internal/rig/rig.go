package rig

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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
	buffers  int64
	redis    *devservers.Redis
	nats     *child
	natsURL  string
	services map[string]*service // by the name of the replica
	names    []string            // of all replicas there are
	made     map[string]int      // how many replicas of each service there have been
	proxy    *proxy              // nil for none
	ports    map[string]bool     // that were given away
	common   map[string]string   // settings of all services
	tls      *tls.Config         // how the internal ports are called; nil: without TLS

	db     *pgxpool.Pool // as the superuser: what it does counts for no service
	cache  *redis.Client
	broker *nats.Conn
	stream jetstream.JetStream

	operator Client
	taken    tokensTaken
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
	// Proxy puts one before the services; through it the world reaches them, and they each other.
	Proxy bool
	// Programs is where they are built, unless an earlier rig did so; "" is a folder in Dir.
	Programs string
	// TLS is how the rig itself calls the internal ports where Settings turn TLS on there; nil where they do not.
	TLS *tls.Config
	// PostgresBuffers is how many bytes Postgres keeps of its data in memory; 0 is few.
	PostgresBuffers int64
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
		dir: cfg.Dir, bin: cmp.Or(cfg.Programs, filepath.Join(cfg.Dir, "bin")), out: cfg.Out,
		password: rand.Text(), secret: rand.Text(), key: base64.StdEncoding.EncodeToString(key),
		services: map[string]*service{}, names: Names(max(cfg.Replicas, 1)), made: map[string]int{},
		ports: map[string]bool{}, common: cfg.Settings, tls: cfg.TLS,
	}
	type step struct {
		says string
		do   func(context.Context) error
	}
	steps := []step{
		{"building the services and the NATS server", func(ctx context.Context) error { return build(ctx, cfg.Root, r.bin) }},
		{"starting Postgres", func(ctx context.Context) error { return r.startPostgres(ctx, cfg) }},
		{"starting Redis", r.startRedis},
		{"starting NATS", r.startNATS},
		{"bringing the schemas up to date", r.migrate},
		{"starting the services", r.startServices},
		{"making the operator", r.makeOperator},
	}
	if cfg.Proxy { // the services are told of it
		steps = slices.Insert(steps, 1, step{"starting the proxy", r.startProxy})
	}
	for _, step := range steps {
		r.say("%s", step.says)
		if err := step.do(ctx); err != nil {
			return r, err
		}
	}
	return r, nil
}

// Run starts a rig in a directory of its own, does something with it, stops it and removes what it left.
func Run(ctx context.Context, cfg Config, do func(*Rig) error) error {
	var err error
	if cfg.Dir, err = os.MkdirTemp("", "agentidp-rig-"); err != nil {
		return fmt.Errorf("directory for the rig: %w", err)
	}
	defer func() { _ = os.RemoveAll(cfg.Dir) }()
	r, err := Start(ctx, cfg)
	if err == nil {
		err = do(r)
	}
	if r == nil {
		return err
	}
	return errors.Join(err, r.Stop())
}

func (r *Rig) say(format string, args ...any) { _, _ = fmt.Fprintf(r.out, format+"\n", args...) }

// Stop ends everything that runs, the services first.
func (r *Rig) Stop() error {
	failures := make([]error, 0, len(r.services))
	for _, name := range r.Instances("registry", "credentials", "token", "audit") {
		failures = append(failures, r.StopService(name))
	}
	if r.proxy != nil && r.proxy.child != nil {
		_ = r.proxy.stop() // it does not exit 0 on SIGTERM
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
