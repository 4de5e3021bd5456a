package rig

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// DB connects as the superuser.
func (r *Rig) DB() *pgxpool.Pool { return r.db }

// Stream is one of JetStream's.
func (r *Rig) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	return r.stream.Stream(ctx, name)
}

// Publish brings a message into the stream of its subject. After an error nobody knows whether it is there.
func (r *Rig) Publish(ctx context.Context, subject string, payload []byte, id string) error {
	_, err := r.stream.Publish(ctx, subject, payload, jetstream.WithMsgID(id))
	return err
}

// Watch hears what is published under a subject from now on, except while NATS is away and the moment after.
func (r *Rig) Watch(subject string, heard func(*nats.Msg)) error {
	subscription, err := r.broker.Subscribe(subject, heard)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	if err := subscription.SetPendingLimits(-1, -1); err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	return r.broker.Flush()
}

// WaitReady waits until every replica is ready.
func (r *Rig) WaitReady(ctx context.Context, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for _, name := range r.Instances() {
		s := r.services[name]
		if err := r.until(ctx, s.child, func() error { return r.ready(ctx, name) }); err != nil {
			return err
		}
	}
	return nil
}

// LogLines are up to so many lines of the logs of all replicas there ever were, and of the proxy, that contain the text,
// each after the name of who wrote it.
func (r *Rig) LogLines(text string, most int) []string {
	var lines []string
	for _, name := range r.writers() {
		content, err := os.ReadFile(filepath.Join(r.dir, name+".log")) // #nosec G304 -- of a program that we started
		if err != nil {
			continue
		}
		scanner := bufio.NewScanner(bytes.NewReader(content))
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() && len(lines) < most {
			if bytes.Contains(scanner.Bytes(), []byte(text)) {
				lines = append(lines, name+": "+scanner.Text())
			}
		}
	}
	return lines
}

// writers of logs.
func (r *Rig) writers() []string {
	var names []string
	for _, service := range Services() {
		for number := range r.made[service] {
			names = append(names, numbered(service, number+1))
		}
	}
	return append(names, proxyName)
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
