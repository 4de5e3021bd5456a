package devservers

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const natsReadyTimeout = 20 * time.Second

// NATSConfig says how the embedded NATS server runs.
type NATSConfig struct {
	Dir      string // where JetStream keeps its streams
	Port     int    // of 127.0.0.1; 0 takes a free one
	Password string // of the user "agentidp"; "" lets everybody of this machine in
}

// NATS is a NATS server inside of this process, with JetStream on disk.
type NATS struct {
	cfg  NATSConfig
	port int

	mu     sync.Mutex
	server *server.Server // nil while stopped
}

// StartNATS starts the server and returns when it takes connections.
func StartNATS(cfg NATSConfig) (*NATS, error) {
	if cfg.Dir == "" {
		return nil, errors.New("nats needs a directory")
	}
	n := &NATS{cfg: cfg, port: cfg.Port}
	if err := n.start(); err != nil {
		return nil, err
	}
	return n, nil
}

// URL connects to the server.
func (n *NATS) URL() string {
	u := url.URL{Scheme: "nats", Host: net.JoinHostPort(loopback, strconv.Itoa(n.port))}
	if n.cfg.Password != "" {
		u.User = url.UserPassword(natsUser, n.cfg.Password)
	}
	return u.String()
}

// Stop ends the server and waits for it; what it acknowledged stays on disk.
func (n *NATS) Stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.server == nil {
		return
	}
	n.server.Shutdown()
	n.server.WaitForShutdown()
	n.server = nil
}

// Restart stops the server if it runs and starts it on the same port and directory.
func (n *NATS) Restart() error {
	n.Stop()
	return n.start()
}

const natsUser = "agentidp"

func (n *NATS) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.port == 0 {
		port, err := freePort()
		if err != nil {
			return fmt.Errorf("nats: %w", err)
		}
		n.port = port
	}
	opts := &server.Options{
		ServerName: "agentidp-embedded",
		Host:       loopback,
		Port:       n.port,
		JetStream:  true,
		StoreDir:   n.cfg.Dir,
		NoSigs:     true,
		NoLog:      true,
	}
	if n.cfg.Password != "" {
		opts.Username, opts.Password = natsUser, n.cfg.Password
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("nats: %w", err)
	}
	s.Start()
	if !s.ReadyForConnections(natsReadyTimeout) {
		s.Shutdown()
		s.WaitForShutdown()
		return fmt.Errorf("nats took no connection on port %d within %s; the port may be in use", n.port, natsReadyTimeout)
	}
	if !s.JetStreamEnabled() {
		s.Shutdown()
		s.WaitForShutdown()
		return fmt.Errorf("nats cannot keep streams in %s", n.cfg.Dir)
	}
	n.server = s
	return nil
}
