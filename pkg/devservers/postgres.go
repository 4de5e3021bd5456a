package devservers

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// maxConnections leaves room for many tests in parallel, each with a pool of its own.
const maxConnections = "400"

// PostgresConfig says how a Postgres server runs.
type PostgresConfig struct {
	Dir      string // the data directory; made and initialised if it is not there
	Port     int    // of 127.0.0.1; 0 takes a free one
	Password string // of the role Superuser; set when the data directory is initialised
	Fsync    bool   // false only for data that nobody misses after a crash of the machine
	// SharedBuffers is how many bytes the server keeps of its data in memory; 0 is 64 MiB, which does for tests.
	SharedBuffers int64
	Log           io.Writer // what the server says; nil for nowhere
}

// Postgres is a running server: TCP on 127.0.0.1 only, no unix socket, scram-sha-256 passwords.
type Postgres struct {
	proc     *process
	port     int
	password string
	dir      string
	stop     sync.Once
}

// StartPostgres starts the server on its data directory and returns when it takes connections. A
// server that an earlier run left on the same directory is stopped first. For root, the server runs
// as another user (see Dir for where its data is then). ErrNotFound when the programs are missing.
func StartPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	if cfg.Password == "" {
		return nil, errors.New("postgres needs a password")
	}
	cluster, err := prepareCluster(ctx, cfg)
	if err != nil {
		return nil, err
	}
	attempts := 1
	if cfg.Port == 0 {
		attempts = 3 // the free port may be taken before the server has it
	}
	for ; ; attempts-- {
		p, err := cluster.start(ctx, cfg)
		if err == nil || attempts == 1 || ctx.Err() != nil {
			return p, err
		}
	}
}

// URL connects to a database as a user; password "" takes that of the superuser.
func (p *Postgres) URL(user, password, database string) string {
	if password == "" {
		password = p.password
	}
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(user, password),
		Host:     net.JoinHostPort(loopback, strconv.Itoa(p.port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// AdminURL is the URL of the superuser and the database "postgres".
func (p *Postgres) AdminURL() string { return p.URL(Superuser, p.password, "postgres") }

// Dir is where the data is: the directory that was asked for, unless the server's user cannot reach
// it in any way; then one in the system's directory for temporary files.
func (p *Postgres) Dir() string { return p.dir }

// Done is closed when the server has ended.
func (p *Postgres) Done() <-chan struct{} { return p.proc.done }

// Stop ends the server (a fast shutdown: open transactions are rolled back) and waits for it.
func (p *Postgres) Stop() { p.stop.Do(func() { p.proc.stop(syscall.SIGINT) }) }

// cluster is an initialised data directory and how to run a server on it.
type cluster struct {
	bin  string
	dir  string
	who  account
	caps []uintptr
}

func prepareCluster(ctx context.Context, cfg PostgresConfig) (*cluster, error) {
	wanted, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("data directory of postgres: %w", err)
	}
	who, err := postgresAccount()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(wanted), 0o700); err != nil {
		return nil, fmt.Errorf("data directory of postgres: %w", err)
	}
	c := &cluster{who: who}
	if c.dir, c.caps, err = who.place(wanted); err != nil {
		return nil, err
	}
	if c.dir != wanted && cfg.Log != nil {
		_, _ = fmt.Fprintf(cfg.Log, "postgres cannot reach %s as another user than root; its data is in %s\n", wanted, c.dir)
	}
	major, err := majorOf(c.dir)
	if err != nil {
		return nil, err
	}
	if c.bin, err = findPostgres(ctx, major); err != nil {
		return nil, err
	}
	if err := stopLeftover(filepath.Join(c.dir, "postmaster.pid"), c.dir, "postgres", syscall.SIGINT); err != nil {
		return nil, err
	}
	if major == "" {
		if err := c.initialise(ctx, cfg); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// initialise runs initdb beside the data directory and renames the result, so that a run that is
// killed half-way leaves nothing that looks complete.
func (c *cluster) initialise(ctx context.Context, cfg PostgresConfig) error {
	building := c.dir + ".new"
	if err := os.RemoveAll(building); err != nil {
		return fmt.Errorf("remove a half-made %s: %w", building, err)
	}
	if err := c.who.own(building); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(building) }()
	err := c.initdb(ctx, building, cfg, "C.UTF-8")
	if err != nil && ctx.Err() == nil { // systems without that locale
		err = c.initdb(ctx, building, cfg, "C")
	}
	if err != nil {
		return err
	}
	if err := os.Rename(building, c.dir); err != nil {
		return fmt.Errorf("put the new cluster in place: %w", err)
	}
	return nil
}

func (c *cluster) initdb(ctx context.Context, dir string, cfg PostgresConfig, locale string) error {
	secret, err := c.passwordFile(cfg.Password)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(secret) }()
	args := []string{
		"--pgdata=" + dir, "--username=" + Superuser, "--pwfile=" + secret,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=" + locale,
	}
	if !cfg.Fsync {
		args = append(args, "--no-sync")
	}
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "initdb"), args...) // #nosec G204 -- found by findPostgres
	cmd.Dir, cmd.Env = "/", serverEnviron()
	cmd.SysProcAttr = c.who.attributes(syscall.SIGKILL, c.caps)
	proc, err := startProcess("initdb", cmd, nil)
	if err != nil {
		return err
	}
	<-proc.done
	if !cmd.ProcessState.Success() {
		return fmt.Errorf("initdb failed (%s):\n%s", cmd.ProcessState, proc.tail.String())
	}
	return nil
}

// passwordFile is how initdb takes the password, as its arguments can be read by every user.
func (c *cluster) passwordFile(password string) (string, error) {
	name := c.dir + ".pw"
	_ = os.Remove(name)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // #nosec G304 -- beside our data directory
	if err != nil {
		return "", fmt.Errorf("password file for initdb: %w", err)
	}
	_, errWrite := f.WriteString(password + "\n")
	if err := errors.Join(errWrite, c.who.give(f), f.Close()); err != nil {
		_ = os.Remove(name)
		return "", fmt.Errorf("password file for initdb: %w", err)
	}
	return name, nil
}

func (c *cluster) start(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	port := cfg.Port
	if port == 0 {
		free, err := freePort()
		if err != nil {
			return nil, err
		}
		port = free
	}
	if err := requireFree(port); err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	cmd := exec.Command(filepath.Join(c.bin, "postgres"), c.arguments(port, cfg)...) //nolint:gosec,noctx // found by findPostgres; outlives ctx
	cmd.Dir, cmd.Env = "/", serverEnviron()
	cmd.SysProcAttr = c.who.attributes(syscall.SIGINT, c.caps)
	proc, err := startProcess("postgres", cmd, cfg.Log)
	if err != nil {
		return nil, err
	}
	p := &Postgres{proc: proc, port: port, password: cfg.Password, dir: c.dir}
	if err := proc.waitReady(ctx.Done(), func() error { return p.answers(ctx) }); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func (c *cluster) arguments(port int, cfg PostgresConfig) []string {
	buffers := cmp.Or(cfg.SharedBuffers, 64<<20)
	settings := []string{
		"listen_addresses=" + loopback, "port=" + strconv.Itoa(port), "unix_socket_directories=",
		"max_connections=" + maxConnections, "shared_buffers=" + strconv.FormatInt(buffers>>10, 10) + "kB", "timezone=UTC", "log_timezone=UTC",
		"password_encryption=scram-sha-256", "logging_collector=off", "jit=off",
	}
	if !cfg.Fsync {
		settings = append(settings, "fsync=off", "synchronous_commit=off", "full_page_writes=off",
			"wal_level=minimal", "max_wal_senders=0")
	}
	args := append(make([]string, 0, 2+2*len(settings)), "-D", c.dir)
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	return args
}

// answers connects once. A refused password does not get better by waiting.
func (p *Postgres) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.AdminURL())
	if err != nil {
		var refused *pgconn.PgError
		if errors.As(err, &refused) && strings.HasPrefix(refused.Code, "28") {
			return permanentError{fmt.Errorf("%s was initialised with another password", p.dir)}
		}
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	var dir string
	if err := conn.QueryRow(ctx, "SHOW data_directory").Scan(&dir); err != nil {
		return err
	}
	if dir != p.dir {
		return errors.New("another server holds the port")
	}
	return nil
}

// majorOf is the major version of the data in dir, "" when there is none.
func majorOf(dir string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "PG_VERSION")) // #nosec G304 -- our data directory
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("data directory of postgres: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// findPostgres finds the folder with the server programs: that of PATH, else the newest that is
// installed; with major, the first of that version, as other ones cannot read its data.
func findPostgres(ctx context.Context, major string) (string, error) {
	found := postgresFolders()
	if len(found) == 0 {
		return "", fmt.Errorf("postgres: %w", ErrNotFound)
	}
	if major == "" {
		return found[0], nil
	}
	for _, bin := range found {
		if postgresMajor(ctx, bin) == major {
			return bin, nil
		}
	}
	return "", fmt.Errorf("the data was made by postgres %s, which is not installed: %w", major, ErrNotFound)
}

func postgresFolders() []string {
	var candidates []string
	if path, err := exec.LookPath("initdb"); err == nil {
		if program, err := filepath.EvalSymlinks(path); err == nil {
			candidates = append(candidates, filepath.Dir(program))
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin",
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin",
	} {
		matches, _ := filepath.Glob(pattern)
		slices.SortFunc(matches, func(a, b string) int { return versionIn(b) - versionIn(a) })
		candidates = append(candidates, matches...)
	}
	return slices.DeleteFunc(candidates, func(bin string) bool {
		_, errServer := exec.LookPath(filepath.Join(bin, "postgres"))
		_, errInit := exec.LookPath(filepath.Join(bin, "initdb"))
		return errors.Join(errServer, errInit) != nil
	})
}

// versionIn reads the number in a path such as /usr/lib/postgresql/17/bin.
func versionIn(path string) int {
	digits := strings.TrimFunc(strings.TrimPrefix(path, "/"), func(r rune) bool { return r < '0' || r > '9' })
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return n
}

// postgresMajor asks a server program for its major version ("postgres (PostgreSQL) 15.13 ...").
func postgresMajor(ctx context.Context, bin string) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output() // #nosec G204 -- found on this machine
	if err != nil {
		return ""
	}
	_, version, _ := strings.Cut(string(out), ") ")
	end := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		return version
	}
	return version[:end]
}

// serverEnviron is what the programs need of our environment, without the PG* variables that
// would change what they do.
func serverEnviron() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
}

// fallbackName is the same for the same wanted directory, so that a second run finds its data.
func fallbackName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return "agentidp-postgres-" + hex.EncodeToString(sum[:8])
}
