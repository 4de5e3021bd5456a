package devservers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// RedisConfig says how a Redis server runs.
type RedisConfig struct {
	Dir      string    // its working directory; made if it is not there
	Port     int       // of 127.0.0.1; 0 takes a free one
	Password string    // "" for none
	Persist  bool      // keep an append-only file, so that a second start has the same data
	Log      io.Writer // what the server says; nil for nowhere
}

// Redis is a running server on 127.0.0.1.
type Redis struct {
	cfg  RedisConfig
	bin  string
	port int

	mu   sync.Mutex
	proc *process
}

// StartRedis starts redis-server and returns when it takes commands. A server that an earlier run
// left on the same directory is stopped first. ErrNotFound when the program is not installed.
func StartRedis(ctx context.Context, cfg RedisConfig) (*Redis, error) {
	bin, err := findRedis()
	if err != nil {
		return nil, err
	}
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, fmt.Errorf("directory of redis: %w", err)
	}
	if strings.ContainsAny(cfg.Dir+cfg.Password, "\"\\\n") {
		return nil, errors.New("redis takes no quotes, backslashes or line ends in its directory and password")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of redis: %w", err)
	}
	r := &Redis{cfg: cfg, bin: bin, port: cfg.Port}
	if r.port == 0 {
		if r.port, err = freePort(); err != nil {
			return nil, err
		}
	}
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// URL connects to database 0.
func (r *Redis) URL() string { return redisURL(r.port, r.cfg.Password) }

// Done is closed when the server that runs now has ended.
func (r *Redis) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.proc.done
}

// Stop ends the server and waits for it; what was to persist is written.
func (r *Redis) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.proc.stop(syscall.SIGTERM)
}

// Freeze has the server take connections and answer nothing, as one whose machine hangs, until Thaw. It outlives a
// program that ends meanwhile.
func (r *Redis) Freeze() error { return r.signal(syscall.SIGSTOP) }

// Thaw ends Freeze. A frozen server has to be thawed before it can be stopped.
func (r *Redis) Thaw() error { return r.signal(syscall.SIGCONT) }

func (r *Redis) signal(sig syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.proc.cmd.Process.Signal(sig)
}

// Restart stops the server if it runs and starts it on the same port and directory.
func (r *Redis) Restart(ctx context.Context) error {
	r.Stop()
	return r.start(ctx)
}

func (r *Redis) start(ctx context.Context) error {
	pidFile := filepath.Join(r.cfg.Dir, "redis.pid")
	if err := stopLeftover(pidFile, r.cfg.Dir, "redis-server", syscall.SIGTERM); err != nil {
		return err
	}
	if err := requireFree(r.port); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	cmd := exec.Command(r.bin, "-") //nolint:gosec,noctx // found by findRedis; outlives ctx
	cmd.Stdin = strings.NewReader(r.settings(pidFile))
	cmd.Dir, cmd.Env = r.cfg.Dir, serverEnviron()
	cmd.SysProcAttr = account{}.attributes(syscall.SIGTERM, nil)
	proc, err := startProcess("redis-server", cmd, r.cfg.Log)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.proc = proc
	r.mu.Unlock()
	if err := proc.waitReady(ctx.Done(), func() error { return r.answers(ctx, cmd.Process.Pid) }); err != nil {
		r.Stop()
		return err
	}
	return nil
}

// settings go to standard input, as arguments can be read by every user of the machine.
func (r *Redis) settings(pidFile string) string {
	appendOnly := "no"
	if r.cfg.Persist {
		appendOnly = "yes"
	}
	lines := []string{
		"bind " + loopback, "port " + strconv.Itoa(r.port), "protected-mode yes", "daemonize no",
		`dir "` + r.cfg.Dir + `"`, `pidfile "` + pidFile + `"`,
		`save ""`, "appendonly " + appendOnly, "appendfsync everysec",
	}
	if r.cfg.Password != "" {
		lines = append(lines, `requirepass "`+r.cfg.Password+`"`)
	}
	return strings.Join(lines, "\n") + "\n"
}

// answers asks once, and makes sure that it is the server with that process id that answers and not
// another one that took the port.
func (r *Redis) answers(ctx context.Context, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	opts, err := redis.ParseURL(r.URL())
	if err != nil {
		return permanentError{err}
	}
	opts.MaxRetries = -1
	client := redis.NewClient(opts)
	defer func() { _ = client.Close() }()
	info, err := client.Info(ctx, "server").Result()
	if err != nil {
		return err
	}
	if !strings.Contains(info, "process_id:"+strconv.Itoa(pid)+"\r\n") {
		return errors.New("another server holds the port")
	}
	return nil
}

func findRedis() (string, error) {
	for _, name := range []string{"redis-server", "valkey-server"} {
		for _, candidate := range []string{name, "/usr/bin/" + name, "/usr/local/bin/" + name, "/opt/homebrew/bin/" + name} {
			if path, err := exec.LookPath(candidate); err == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("redis-server: %w", ErrNotFound)
}

func redisURL(port int, password string) string {
	u := url.URL{Scheme: "redis", Host: net.JoinHostPort(loopback, strconv.Itoa(port)), Path: "/0"}
	if password != "" {
		u.User = url.UserPassword("default", password)
	}
	return u.String()
}

// Miniredis is an embedded stand-in for machines without a Redis program: it keeps nothing.
type Miniredis struct {
	server   *miniredis.Miniredis
	port     int
	password string
	end      chan struct{}
	stopped  sync.Once
	ticking  sync.WaitGroup
}

// StartMiniredis starts it on a port of 127.0.0.1; port 0 takes a free one, password "" means none.
func StartMiniredis(port int, password string) (*Miniredis, error) {
	server := miniredis.NewMiniRedis()
	if password != "" {
		server.RequireAuth(password)
	}
	if err := server.StartAddr(net.JoinHostPort(loopback, strconv.Itoa(port))); err != nil {
		return nil, fmt.Errorf("start the embedded redis: %w", err)
	}
	actual, err := strconv.Atoi(server.Port())
	if err != nil {
		server.Close()
		return nil, fmt.Errorf("port of the embedded redis: %w", err)
	}
	m := &Miniredis{server: server, port: actual, password: password, end: make(chan struct{})}
	m.ticking.Go(m.expireKeys)
	return m, nil
}

// expireKeys lets time pass: miniredis, made for tests, does not do so itself.
func (m *Miniredis) expireKeys() {
	const step = 100 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-m.end:
			return
		case now := <-tick.C:
			m.server.FastForward(now.Sub(last))
			last = now
		}
	}
}

// URL connects to database 0.
func (m *Miniredis) URL() string { return redisURL(m.port, m.password) }

// Stop ends it; its data is gone.
func (m *Miniredis) Stop() {
	m.stopped.Do(func() {
		close(m.end)
		m.ticking.Wait()
		m.server.Close()
	})
}
